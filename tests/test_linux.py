"""The floor below chapter 1: what the kernel says, said by name; and what passes the door, seen by who watches."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import threading
import time
from pathlib import Path

import pytest

from minicontainer import linux
from minicontainer.container import Container, child
from minicontainer.namespaces import Namespaces

# ------------------------------------------------------------------------------------------------------------- errors


def test_an_error_names_call_arguments_and_errno_and_is_pythons_own_kind() -> None:
    with pytest.raises(FileNotFoundError) as caught:
        linux.open("/no/such/file", os.O_RDONLY | os.O_DIRECTORY)
    error = caught.value
    assert isinstance(error, linux.KernelError)
    assert (error.call, error.errno) == ("openat", errno.ENOENT)
    assert error.arguments == "'/no/such/file', O_DIRECTORY"
    assert str(error) == "openat('/no/such/file', O_DIRECTORY): ENOENT (No such file or directory)"


@pytest.mark.parametrize(
    ("call", "kind", "number"),
    [
        (lambda: linux.mount("x", "/", "no-such-filesystem"), OSError, errno.ENODEV),
        (lambda: linux.umount2("/proc/1"), OSError, errno.EINVAL),
        (lambda: linux.pidfd_open(0), OSError, errno.EINVAL),
        (lambda: linux.kill(2**22 - 1, 0), ProcessLookupError, errno.ESRCH),
        (lambda: linux.close(100_000), OSError, errno.EBADF),
        (lambda: linux.mkdir("/proc"), FileExistsError, errno.EEXIST),
        (lambda: linux.open("/etc/passwd/x", 0), NotADirectoryError, errno.ENOTDIR),
        (lambda: linux.setns(0, linux.CLONE_NEWNET), OSError, errno.EINVAL),
    ],
)
def test_an_error_is_of_the_class_for_its_errno(call: object, kind: type[OSError], number: int) -> None:
    assert callable(call)
    with pytest.raises(kind) as caught:
        call()
    assert isinstance(caught.value, linux.KernelError)
    assert caught.value.errno == number
    assert linux.errno_name(number) in str(caught.value)


def test_writing_a_kernel_file_names_the_file_in_the_error() -> None:
    with pytest.raises(linux.KernelError, match="/proc/self/oom_score_adj"):
        linux.write("/proc/self/oom_score_adj", "a banana")


# -------------------------------------------------------------------------------------------------------------- trace


def test_trace_sees_calls_in_order_with_results_durations_and_pages() -> None:
    with linux.trace() as calls:
        fd = linux.open("/etc/passwd", os.O_RDONLY)
        linux.close(fd)
        with pytest.raises(linux.KernelError):
            linux.chdir("/no/such/directory")
    assert [(call.name, call.result, call.errno) for call in calls] == [
        ("openat", str(fd), 0),
        ("close", "None", 0),
        ("chdir", "", errno.ENOENT),
    ]
    assert [call.man for call in calls] == ["open(2)", "close(2)", "chdir(2)"]
    assert all(call.pid == os.getpid() and call.duration > 0 for call in calls)
    assert calls[0].start + calls[0].duration <= calls[1].start


def test_trace_ends_with_its_block_and_an_inner_one_takes_over() -> None:
    with linux.trace() as outer:
        linux.umask(0o022)
        with linux.trace() as inner:
            linux.chdir(".")
    linux.chdir(".")
    assert [call.name for call in outer] == ["umask"]
    assert [call.name for call in inner] == ["chdir"]


def test_trace_measures_how_long_a_call_took() -> None:
    pid = os.posix_spawn("/bin/sleep", ["sleep", "0.2"], {})
    with linux.trace() as calls:
        pidfd = linux.pidfd_open(pid)
        linux.waitid(pidfd)
        linux.close(pidfd)
    assert calls[1].name == "waitid"
    assert calls[1].duration > 0.1e9


def test_trace_sees_the_calls_of_parent_and_of_child_with_part_and_moment() -> None:
    with linux.trace() as calls:
        assert Container(["true"], Namespaces("uts", "pid", hostname="traced")).run(stdout=1) == 0
    seen = [(call.name, call.label) for call in calls]
    assert ("clone3", "Container.clone") in seen
    assert ("sethostname", "Namespaces.enter") in seen
    assert ("execve", "Container.exec") in seen
    assert seen.index(("clone3", "Container.clone")) < seen.index(("sethostname", "Namespaces.enter"))
    hostname = next(call for call in calls if call.name == "sethostname")
    assert hostname.arguments == "'traced'"
    assert hostname.pid == 1  # as its own PID namespace numbers it
    assert next(call for call in calls if call.name == "clone3").pid == os.getpid()
    clone = next(call for call in calls if call.name == "clone3")
    assert clone.start < hostname.start < time.monotonic_ns()


def test_a_trace_sees_only_the_thread_that_opened_it() -> None:
    with linux.trace() as calls:
        thread = threading.Thread(target=lambda: linux.chdir("."))
        thread.start()
        thread.join()
    assert calls == []


def test_each_call_is_reported_as_it_happens() -> None:
    reported: list[str] = []
    with linux.trace(lambda call: reported.append(call.name)):
        linux.chdir(".")
        assert reported == ["chdir"]


# ------------------------------------------------------------------------------------------------------------- faults


def test_the_nth_call_fails_and_never_reaches_the_kernel(tmp_path: Path) -> None:
    watcher = linux.Watch(fail_at=2, fail_errno=errno.ENOSPC)
    with linux.watch(watcher):
        linux.mkdir(f"{tmp_path}/one")
        with pytest.raises(linux.KernelError) as caught:
            linux.mkdir(f"{tmp_path}/two")
        linux.mkdir(f"{tmp_path}/three")
    assert caught.value.errno == errno.ENOSPC
    assert sorted(os.listdir(tmp_path)) == ["one", "three"]
    assert watcher.seen == 3
    assert watcher.calls[1].errno == errno.ENOSPC


def test_an_announced_request_fails_like_a_call() -> None:
    done: list[int] = []
    watcher = linux.Watch(fail_at=1)
    with linux.watch(watcher), pytest.raises(linux.KernelError, match="a_request\\(with this\\): EIO"):
        linux.announce("a_request", "with this", "netlink(7)", lambda: done.append(1))
    assert done == []


# ----------------------------------------------------------------------------------------------------------- openat2


@pytest.fixture
def jail(tmp_path: Path) -> int:
    """A directory with links that lead out, and a file that is to be found inside by each of them."""
    (tmp_path / "jail/etc").mkdir(parents=True)
    (tmp_path / "jail/etc/passwd").write_text("inside")
    (tmp_path / "jail/absolute").symlink_to("/etc/passwd")
    (tmp_path / "jail/upwards").symlink_to("../../../../../../../../etc/passwd")
    (tmp_path / "jail/etc/outside").symlink_to("../../etc/passwd")
    (tmp_path / "jail/loop").symlink_to("/loop")
    fd = os.open(tmp_path / "jail", os.O_PATH | os.O_DIRECTORY)
    yield fd  # type: ignore[misc]
    os.close(fd)


@pytest.mark.parametrize("path", ["absolute", "upwards", "etc/outside", "../../etc/passwd", "/etc/passwd"])
def test_openat2_in_root_never_leaves_the_root(jail: int, path: str) -> None:
    fd = linux.openat2(jail, path, os.O_RDONLY, linux.RESOLVE_IN_ROOT)
    with open(fd) as file:
        assert file.read() == "inside"


def test_openat2_descriptors_are_close_on_exec(jail: int) -> None:
    fd = linux.openat2(jail, ".", os.O_PATH)
    try:
        assert not os.get_inheritable(fd)
    finally:
        os.close(fd)


def test_openat2_says_when_links_go_in_circles_or_are_forbidden(jail: int) -> None:
    with pytest.raises(OSError) as caught:
        linux.openat2(jail, "loop", os.O_RDONLY)
    assert caught.value.errno == errno.ELOOP
    with pytest.raises(OSError) as caught:
        linux.openat2(jail, "absolute", os.O_RDONLY, linux.RESOLVE_NO_SYMLINKS)
    assert caught.value.errno == errno.ELOOP
    with pytest.raises(OSError) as caught:
        linux.openat2(jail, "../x", os.O_RDONLY, linux.RESOLVE_BENEATH)
    assert caught.value.errno == errno.EXDEV


# ---------------------------------------------------------------------------------------------------------- processes


def test_clone3_gives_pid_and_pidfd_of_a_child_in_new_namespaces() -> None:
    def clone() -> list[object]:
        read, write = os.pipe()
        pid, pidfd = linux.clone3(linux.CLONE_NEWUTS | linux.CLONE_NEWPID)
        if pid == 0:
            os.write(write, f"{os.getpid()} {os.readlink('/proc/self/ns/uts')}".encode())
            os._exit(7)
        ended = linux.waitid(pidfd)
        assert ended is not None
        return [pid == ended.si_pid, ended.si_status, os.read(read, 100).decode(), os.readlink("/proc/self/ns/uts")]

    same, status, inside, outside = child(clone)
    assert same
    assert status == 7
    number, namespace = inside.split()
    assert number == "1"
    assert namespace != outside


def _v2_tree() -> str:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[fields.index("-") + 1] == "cgroup2":
            return fields[4]
    pytest.skip("no cgroup v2 tree is mounted here")


def test_clone3_bears_a_child_in_a_cgroup_of_the_v2_tree() -> None:
    group = f"{_v2_tree()}/minicontainer-test-clone3-{os.getpid()}"
    os.mkdir(group)
    try:
        directory = os.open(group, os.O_PATH | os.O_DIRECTORY)

        def clone() -> str:
            read, write = os.pipe()
            pid, pidfd = linux.clone3(cgroup=int(os.environ["GROUP"]))
            if pid == 0:
                os.write(write, Path("/proc/self/cgroup").read_bytes())
                os._exit(0)
            linux.waitid(pidfd)
            return os.read(read, 10000).decode()

        # a descriptor does not travel to child(): it opens the directory itself
        os.close(directory)

        def within() -> str:
            os.environ["GROUP"] = str(os.open(group, os.O_PATH | os.O_DIRECTORY))
            return clone()

        v2 = next(line for line in child(within).splitlines() if line.startswith("0::"))
        assert v2.endswith(f"/{os.path.basename(group)}")
    finally:
        os.rmdir(group)


def test_pidfd_send_signal_ends_the_very_process() -> None:
    process = subprocess.Popen(["sleep", "1000"])
    pidfd = linux.pidfd_open(process.pid)
    try:
        linux.pidfd_send_signal(pidfd, signal.SIGTERM)
        assert process.wait() == -signal.SIGTERM
        with pytest.raises(ProcessLookupError):
            linux.pidfd_send_signal(pidfd, signal.SIGTERM)
    finally:
        os.close(pidfd)


def test_waitid_tells_a_running_child_from_one_that_has_ended() -> None:
    process = subprocess.Popen(["sleep", "1000"])
    pidfd = linux.pidfd_open(process.pid)
    try:
        assert linux.waitid(pidfd, os.WEXITED | os.WNOHANG) is None
        process.kill()
        ended = linux.waitid(pidfd, os.WEXITED | os.WNOWAIT)
        assert ended is not None
        assert (ended.si_code, ended.si_status) == (os.CLD_KILLED, signal.SIGKILL)
    finally:
        process.wait()
        os.close(pidfd)


def test_close_range_closes_or_marks_what_it_is_told() -> None:
    def close() -> list[bool]:
        fds = [os.dup(0) for _ in range(3)]
        for fd in fds:
            os.set_inheritable(fd, True)
        linux.close_range(fds[0], fds[0])
        linux.close_range(fds[1], fds[1], linux.CLOSE_RANGE_CLOEXEC)
        return [os.path.exists(f"/proc/self/fd/{fds[0]}"), os.get_inheritable(fds[1]), os.get_inheritable(fds[2])]

    assert child(close) == [False, False, True]


def test_prctl_sets_what_proc_shows() -> None:
    def change() -> list[str]:
        linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
        status = Path("/proc/self/status").read_text()
        return [line for line in status.splitlines() if line.startswith("NoNewPrivs")]

    assert child(change) == ["NoNewPrivs:\t1"]


# --------------------------------------------------------------------------------------------------------- privileges


def _capabilities() -> dict[str, int]:
    lines = Path("/proc/self/status").read_text().splitlines()
    return {line[:6]: int(line.split()[1], 16) for line in lines if line.startswith("Cap")}


def test_capget_agrees_with_proc_and_capset_gives_up() -> None:
    def give_up() -> list[object]:
        status = _capabilities()
        before = linux.capget()
        agree = list(before) == [status["CapEff"], status["CapPrm"], status["CapInh"]]
        kept = before[1] & ~(1 << 13) & ~(1 << 38)  # CAP_NET_RAW, and one above 32: CAP_PERFMON
        linux.capset(kept, kept, 0)
        after = _capabilities()
        try:
            linux.capset(before[0], before[1], 0)
        except PermissionError as error:
            return [agree, after["CapEff"] == after["CapPrm"] == kept, error.errno]
        return [agree, "capabilities came back"]

    assert child(give_up) == [True, True, errno.EPERM]


def test_user_and_groups_change_together_with_what_proc_shows() -> None:
    def become() -> list[str]:
        linux.setgroups([7, 8])
        linux.setresgid(1001)
        linux.setresuid(1000)
        status = Path("/proc/self/status").read_text()
        return [line for line in status.splitlines() if line.startswith(("Uid", "Gid", "Groups"))]

    assert [line.split() for line in child(become)] == [
        ["Uid:", "1000", "1000", "1000", "1000"],
        ["Gid:", "1001", "1001", "1001", "1001"],
        ["Groups:", "7", "8"],
    ]


def test_a_resource_limit_holds() -> None:
    def limit() -> str:
        import resource

        linux.setrlimit(resource.RLIMIT_NOFILE, 50, 60)
        return next(line for line in Path("/proc/self/limits").read_text().splitlines() if "open files" in line)

    assert child(limit).split()[3:5] == ["50", "60"]


# ------------------------------------------------------------------------------------------------------------- mounts


def _mounts() -> dict[str, tuple[str, str]]:
    """Mount point → (options, propagation) of this process."""
    found = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        found[fields[4]] = (fields[5], " ".join(fields[6 : fields.index("-")]))
    return found


def test_the_new_mount_calls_make_change_and_hang_a_filesystem(tmp_path: Path) -> None:
    target = str(tmp_path)

    def mount() -> list[object]:
        linux.unshare(linux.CLONE_NEWNS)
        linux.mount(None, "/", flags=linux.MS_REC | linux.MS_PRIVATE)
        context = linux.fsopen("tmpfs")
        linux.fsconfig(context, linux.FSCONFIG_SET_STRING, "size", "1m")
        linux.fsconfig(context, linux.FSCONFIG_CMD_CREATE)
        tree = linux.fsmount(context, linux.MOUNT_ATTR_NOSUID)
        detached = target in _mounts()
        linux.move_mount(tree, "", linux.AT_FDCWD, target)
        os.mkdir(f"{target}/below")
        linux.mount("below", f"{target}/below", "tmpfs")
        first = _mounts()[target][0]
        attributes = linux.MOUNT_ATTR_RDONLY | linux.MOUNT_ATTR_NODEV
        linux.mount_setattr(linux.AT_FDCWD, target, linux.AT_RECURSIVE, attributes, linux.MOUNT_ATTR_NOSUID)
        second = [_mounts()[target][0], _mounts()[f"{target}/below"][0]]
        copy = linux.open_tree(linux.AT_FDCWD, target)
        linux.move_mount(copy, "", linux.AT_FDCWD, "/mnt")
        third = [os.listdir("/mnt"), f"{target}/below" in _mounts(), "/mnt/below" in _mounts()]
        linux.close(copy)
        linux.umount2("/mnt")
        linux.mount_setattr(linux.AT_FDCWD, target, propagation=linux.MS_SHARED)
        return [detached, first, second, third, "/mnt" in _mounts(), _mounts()[target][1].startswith("shared:")]

    detached, first, second, third, again, shared = child(mount)
    assert not detached
    assert first == "rw,nosuid,relatime"
    assert second == ["ro,nodev,relatime"] * 2
    assert third == [["below"], True, False]
    assert not again
    assert shared
    assert target not in _mounts()


def test_nodes_links_and_modes_are_made_as_asked(tmp_path: Path) -> None:
    directory = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    before = linux.umask(0)
    try:
        linux.mkdir("folder", 0o751, dir_fd=directory)
        linux.mknod("null", stat.S_IFCHR | 0o640, os.makedev(1, 3), dir_fd=directory)
        linux.symlink("folder", "link", dir_fd=directory)
        linux.rename("link", "renamed", directory, directory)
        linux.chmod(f"{tmp_path}/folder", 0o700)
        linux.chown(f"{tmp_path}/folder", 12, 34)
    finally:
        linux.umask(before)
        os.close(directory)
    folder, null = os.stat(tmp_path / "folder"), os.stat(tmp_path / "null")
    assert (stat.S_IMODE(folder.st_mode), folder.st_uid, folder.st_gid) == (0o700, 12, 34)
    assert (stat.S_IMODE(null.st_mode), null.st_rdev) == (0o640, os.makedev(1, 3))
    assert os.readlink(tmp_path / "renamed") == "folder"


def test_names_of_the_host_are_kept_when_a_namespace_gets_its_own() -> None:
    before = os.uname().nodename

    def rename() -> list[str]:
        linux.unshare(linux.CLONE_NEWUTS)
        linux.sethostname("höst")
        linux.setdomainname("domain")
        return [os.uname().nodename, Path("/proc/sys/kernel/domainname").read_text().strip()]

    assert child(rename) == ["höst", "domain"]
    assert os.uname().nodename == before
