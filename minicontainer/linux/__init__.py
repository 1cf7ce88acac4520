"""The floor below chapter 1: Linux's system calls as plain Python functions.

Each takes and returns Python values, raises `KernelError` (an OSError that names the call, its arguments and its
errno), and is seen by `trace()`. Nothing here knows what a container is. Flags keep the kernel's names, so that a
line of Python can be held against the man page.

>>> from minicontainer import linux
>>> with linux.trace() as calls:
...     linux.close(linux.open("/etc/hostname", 0))
>>> [call.name for call in calls]
['openat', 'close']
"""

from minicontainer.linux.credentials import capget, capset, setgroups, setresgid, setresuid, setrlimit
from minicontainer.linux.door import (
    CALL_FIELDS,
    Call,
    KernelError,
    Watch,
    announce,
    errno_name,
    kernel_error,
    labelled,
    syscall,
    trace,
    watch,
    watching,
)
from minicontainer.linux.files import (
    RESOLVE_BENEATH,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
    chdir,
    chmod,
    chown,
    chroot,
    close,
    fchdir,
    mkdir,
    mknod,
    open,
    openat2,
    rmdir,
    symlink,
    umask,
    unlink,
    write,
)
from minicontainer.linux.mounts import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_RECURSIVE,
    FSCONFIG_CMD_CREATE,
    FSCONFIG_SET_FD,
    FSCONFIG_SET_FLAG,
    FSCONFIG_SET_STRING,
    MNT_DETACH,
    MOUNT_ATTR_IDMAP,
    MOUNT_ATTR_NOATIME,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    MOVE_MOUNT_F_EMPTY_PATH,
    MOVE_MOUNT_T_EMPTY_PATH,
    MS_BIND,
    MS_MOVE,
    MS_NOATIME,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
    MS_RELATIME,
    MS_REMOUNT,
    MS_SHARED,
    MS_SLAVE,
    MS_STRICTATIME,
    OPEN_TREE_CLOEXEC,
    OPEN_TREE_CLONE,
    fsconfig,
    fsmount,
    fsopen,
    mount,
    mount_setattr,
    move_mount,
    open_tree,
    pivot_root,
    umount2,
)
from minicontainer.linux.namespaces import setdomainname, sethostname, setns, unshare
from minicontainer.linux.process import (
    CLONE_INTO_CGROUP,
    CLONE_NEWCGROUP,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWTIME,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    CLOSE_RANGE_CLOEXEC,
    PR_SET_CHILD_SUBREAPER,
    PR_SET_DUMPABLE,
    PR_SET_NAME,
    PR_SET_NO_NEW_PRIVS,
    PR_SET_PDEATHSIG,
    clone3,
    clone_flags,
    close_range,
    dup2,
    execve,
    kill,
    pidfd_open,
    pidfd_send_signal,
    prctl,
    setsid,
    waitid,
)

__all__ = [name for name in dir() if not name.startswith("_")]
