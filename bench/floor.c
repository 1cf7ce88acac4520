/* The floor: what a container costs when nothing but the kernel works for it.
 *
 * This is the container of row `start` written straight down: the same namespaces, the same groups with the same
 * limits, the same overlay, mounts, masks and pivot_root, and the removal of everything at the end. It checks no
 * input, explains no error, writes no record of itself and can do only this. What an engine needs on top of it is the
 * price of being an engine. floor.py starts it, and holds what its container sees against what ours sees.
 *
 *     floor LAYER DIRECTORY ROOTFS HOSTNAME WORD… -- ARGV…
 *
 *     mkdir=PATH        a cgroup to make, and to remove at the end (in reverse order)
 *     PATH:=VALUE       a limit to write
 *     born=PATH         the v2 group that the process is born in, clone3(2)
 *     join=PATH         a v1 group that it is moved to while it is held
 *     mask=PATH         what the container shall not see
 *     read-only=PATH    what it shall not change
 *
 * DIRECTORY, which must not exist, gets the overlay's upper and work directories. The process stays, so that it is as
 * warm as the Python it is compared with: for each byte on descriptor 3 it runs one container and answers with a line
 * on descriptor 4, the nanoseconds that it took from before the first call until after the last, and the exit status.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MAX 64

struct list { int count; char *at[MAX]; };

static char *layer, *directory, *rootfs, *hostname, *born, **command;
static struct list groups, limits, joins, masks, read_only;

static void die(const char *what)
{
    fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
    _exit(70);
}

static void must(long result, const char *what)
{
    if (result < 0)
        die(what);
}

static char *path(const char *one, const char *two)
{
    static char texts[4][4096];
    static int turn;
    char *text = texts[turn++ % 4];
    snprintf(text, 4096, "%s%s", one, two);
    return text;
}

static void put(const char *file, const char *text)
{
    int fd = open(file, O_WRONLY | O_CLOEXEC);
    must(fd, file);
    must(write(fd, text, strlen(text)), file);
    close(fd);
}

static void remove_tree(int parent, const char *name)
{
    if (unlinkat(parent, name, AT_REMOVEDIR) == 0)
        return;
    if (errno == ENOTDIR) {
        must(unlinkat(parent, name, 0), name);
        return;
    }
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    must(fd, name);
    DIR *entries = fdopendir(fd);
    for (struct dirent *entry; (entry = readdir(entries));)
        if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
            remove_tree(fd, entry->d_name);
    closedir(entries);
    must(unlinkat(parent, name, AT_REMOVEDIR), name);
}

static int make_overlay(void)
{
    int fd = syscall(SYS_fsopen, "overlay", FSOPEN_CLOEXEC);
    must(fd, "fsopen");
    must(syscall(SYS_fsconfig, fd, FSCONFIG_SET_STRING, "source", "overlay", 0), "source");
    must(syscall(SYS_fsconfig, fd, FSCONFIG_SET_STRING, "lowerdir", layer, 0), "lowerdir");
    must(syscall(SYS_fsconfig, fd, FSCONFIG_SET_STRING, "upperdir", path(directory, "/upper"), 0), "upperdir");
    must(syscall(SYS_fsconfig, fd, FSCONFIG_SET_STRING, "workdir", path(directory, "/work"), 0), "workdir");
    must(syscall(SYS_fsconfig, fd, FSCONFIG_SET_FLAG, "volatile", NULL, 0), "volatile");
    must(syscall(SYS_fsconfig, fd, FSCONFIG_CMD_CREATE, NULL, NULL, 0), "overlay");
    int mount = syscall(SYS_fsmount, fd, FSMOUNT_CLOEXEC, 0);
    must(mount, "fsmount");
    close(fd);
    return mount;
}

static void make_dev(void)
{
    static const struct { const char *name; int major, minor; } devices[] = {
        {"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0},
    };
    static const char *links[][2] = {
        {"fd", "/proc/self/fd"}, {"stdin", "/proc/self/fd/0"}, {"stdout", "/proc/self/fd/1"},
        {"stderr", "/proc/self/fd/2"}, {"ptmx", "pts/ptmx"},
    };
    const unsigned long quiet = MS_NOSUID | MS_NOEXEC | MS_NODEV;
    must(mount("tmpfs", "dev", "tmpfs", MS_NOSUID | MS_STRICTATIME, "mode=755,size=65536k"), "dev");
    mode_t before = umask(0);
    for (size_t i = 0; i < sizeof devices / sizeof *devices; i++)
        must(mknod(path("dev/", devices[i].name), S_IFCHR | 0666, makedev(devices[i].major, devices[i].minor)), "mknod");
    for (size_t i = 0; i < sizeof links / sizeof *links; i++)
        must(symlink(links[i][1], path("dev/", links[i][0])), "symlink");
    must(mkdir("dev/pts", 0755), "pts");
    must(mkdir("dev/shm", 0755), "shm");
    must(mkdir("dev/mqueue", 0755), "mqueue");
    umask(before);
    must(mount("devpts", "dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5"), "devpts");
    must(mount("shm", "dev/shm", "tmpfs", quiet, "mode=1777,size=65536k"), "shm");
    must(mount("mqueue", "dev/mqueue", "mqueue", quiet, NULL), "mqueue");
}

static void hide(const char *what)
{
    struct stat found;
    if (lstat(what, &found) < 0)
        return;
    if (S_ISDIR(found.st_mode))
        must(mount("tmpfs", what, "tmpfs", MS_RDONLY | MS_NOSUID | MS_NOEXEC | MS_NODEV, "size=0k,nr_inodes=2"), what);
    else
        must(mount("dev/null", what, NULL, MS_BIND, NULL), what);
}

static void protect(const char *what)
{
    struct mount_attr attributes = {.attr_set = MOUNT_ATTR_RDONLY};
    int tree = syscall(SYS_open_tree, AT_FDCWD, what, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);
    if (tree < 0 && errno == ENOENT)
        return;
    must(tree, what);
    must(syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH | AT_RECURSIVE, &attributes, sizeof attributes), what);
    must(syscall(SYS_move_mount, tree, "", AT_FDCWD, what, MOVE_MOUNT_F_EMPTY_PATH), what);
    close(tree);
}

static void inside(int overlay, int go)
{
    static char *environment[] = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", NULL};
    const unsigned long quiet = MS_NOSUID | MS_NOEXEC | MS_NODEV;
    char byte;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    setsid();
    if (read(go, &byte, 1) != 1)
        _exit(70);
    must(unshare(CLONE_NEWCGROUP), "unshare");
    must(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), "private");
    must(syscall(SYS_move_mount, overlay, "", AT_FDCWD, rootfs, MOVE_MOUNT_F_EMPTY_PATH), "move_mount");
    must(chdir(rootfs), rootfs);
    must(mount("proc", "proc", "proc", quiet, NULL), "proc");
    must(mount("sysfs", "sys", "sysfs", quiet | MS_RDONLY, NULL), "sys");
    make_dev();
    must(sethostname(hostname, strlen(hostname)), "sethostname");
    for (int i = 0; i < masks.count; i++)
        hide(masks.at[i] + 1);
    for (int i = 0; i < read_only.count; i++)
        protect(read_only.at[i] + 1);
    must(syscall(SYS_pivot_root, ".", "."), "pivot_root");
    must(umount2(".", MNT_DETACH), "umount");
    must(chdir("/"), "/");
    syscall(SYS_close_range, 3, ~0U, CLOSE_RANGE_CLOEXEC);
    execve(command[0], command, environment);
    die(command[0]);
}

static int run(void)
{
    struct stat like;
    int go[2];
    must(mkdir(directory, 0755), directory);
    must(mkdir(path(directory, "/work"), 0700), "work");
    must(mkdir(path(directory, "/upper"), 0755), "upper");
    must(stat(layer, &like), layer);
    must(chown(path(directory, "/upper"), like.st_uid, like.st_gid), "chown");
    must(chmod(path(directory, "/upper"), like.st_mode & 07777), "chmod");
    for (int i = 0; i < groups.count; i++)
        must(mkdir(groups.at[i], 0755), groups.at[i]);
    for (int i = 0; i < limits.count; i++) {
        char *value = strstr(limits.at[i], ":=");
        *value = 0;
        put(limits.at[i], value + 2);
        *value = ':';
    }
    must(pipe2(go, O_CLOEXEC), "pipe");
    int overlay = make_overlay(), pidfd = -1;
    struct clone_args clone = {
        .flags = CLONE_PIDFD | CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET,
        .pidfd = (uintptr_t)&pidfd,
        .exit_signal = SIGCHLD,
    };
    if (born) {
        clone.flags |= CLONE_INTO_CGROUP;
        must(clone.cgroup = open(born, O_RDONLY | O_DIRECTORY | O_CLOEXEC), born);
    }
    long pid = syscall(SYS_clone3, &clone, sizeof clone);
    must(pid, "clone3");
    if (pid == 0)
        inside(overlay, go[0]);
    if (born)
        close(clone.cgroup);
    close(overlay);
    close(go[0]);
    char number[32];
    snprintf(number, sizeof number, "%ld", pid);
    for (int i = 0; i < joins.count; i++)
        put(path(joins.at[i], "/cgroup.procs"), number);
    must(write(go[1], "g", 1), "go");
    close(go[1]);

    siginfo_t ended;
    must(waitid(P_PIDFD, pidfd, &ended, WEXITED), "waitid");
    close(pidfd);
    remove_tree(AT_FDCWD, directory);
    for (int i = groups.count; i-- > 0;)
        must(rmdir(groups.at[i]), groups.at[i]);
    return ended.si_code == CLD_EXITED ? ended.si_status : 128 + ended.si_status;
}

int main(int count, char **words)
{
    static const struct { const char *name; struct list *list; } lists[] = {
        {"mkdir=", &groups}, {"join=", &joins}, {"mask=", &masks}, {"read-only=", &read_only},
    };
    int at = 1;
    layer = words[at++], directory = words[at++], rootfs = words[at++], hostname = words[at++];
    for (; at < count && strcmp(words[at], "--"); at++) {
        struct list *list = NULL;
        char *rest = words[at];
        for (size_t i = 0; i < sizeof lists / sizeof *lists; i++)
            if (!strncmp(words[at], lists[i].name, strlen(lists[i].name)))
                list = lists[i].list, rest = words[at] + strlen(lists[i].name);
        if (!strncmp(words[at], "born=", 5)) {
            born = words[at] + 5;
            continue;
        }
        if (!list && strstr(words[at], ":="))
            list = &limits;
        if (!list || list->count == MAX) {
            errno = EINVAL;
            die(words[at]);
        }
        list->at[list->count++] = rest;
    }
    command = words + at + 1;
    fcntl(3, F_SETFD, FD_CLOEXEC);
    fcntl(4, F_SETFD, FD_CLOEXEC);
    for (char byte; read(3, &byte, 1) == 1;) {
        struct timespec from, to;
        clock_gettime(CLOCK_MONOTONIC, &from);
        int status = run();
        clock_gettime(CLOCK_MONOTONIC, &to);
        dprintf(4, "%lld %d\n", (to.tv_sec - from.tv_sec) * 1000000000LL + to.tv_nsec - from.tv_nsec, status);
    }
    return 0;
}
