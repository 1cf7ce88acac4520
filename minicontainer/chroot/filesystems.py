"""What a root needs besides files: /proc, /sys and /dev.

A root from an image is only files. Programs also expect the kernel's own filesystems: /proc (without it not even `ps`
works), /sys, and a /dev with a few harmless devices, a terminal multiplexer of its own, shared memory and message
queues. What of them tells or controls too much of the host is masked or made read-only: the lists are Docker's
defaults (runtime-spec, config-linux.md, "Masked Paths" and "Readonly Paths").
"""

from __future__ import annotations

import os
import stat

from minicontainer import linux
from minicontainer.chroot import within
from minicontainer.errors import HostError
from minicontainer.state import read_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

MASKED = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

# name: (major, minor), admin-guide/devices.txt
DEVICES = {
    "null": (1, 3),
    "zero": (1, 5),
    "full": (1, 7),
    "random": (1, 8),
    "urandom": (1, 9),
    "tty": (5, 0),
}
LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "ptmx": "pts/ptmx",
}
_QUIET = linux.MS_NOSUID | linux.MS_NOEXEC | linux.MS_NODEV


def proc(root: int) -> None:
    """/proc, of the PID namespace that this process is in. proc(5)"""
    with within.place(root, "/proc") as target:
        linux.mount("proc", within.path_of(target), "proc", _QUIET)


def sys(root: int) -> None:
    """/sys, read-only: it shows the network namespace that this process is in, and much of the host. sysfs(5)

    In a user namespace without a network namespace of its own the kernel refuses a new one; then it is the host's.
    """
    with within.place(root, "/sys") as target:
        try:
            linux.mount("sysfs", within.path_of(target), "sysfs", _QUIET | linux.MS_RDONLY)
        except PermissionError:
            tree = linux.open_tree(
                linux.AT_FDCWD, "/sys", linux.OPEN_TREE_CLONE | linux.OPEN_TREE_CLOEXEC | linux.AT_RECURSIVE
            )
            everywhere = linux.AT_EMPTY_PATH | linux.AT_RECURSIVE
            linux.mount_setattr(tree, "", everywhere, set_attributes=linux.MOUNT_ATTR_RDONLY)
            within.hang(tree, target)


def dev(root: int) -> None:
    """/dev: a tmpfs with the standard devices and links, /dev/pts, /dev/shm and /dev/mqueue."""
    with within.place(root, "/dev") as target:
        flags = linux.MS_NOSUID | linux.MS_STRICTATIME
        linux.mount("tmpfs", within.path_of(target), "tmpfs", flags, "mode=755,size=65536k")
    directory = linux.openat2(root, "dev", os.O_PATH | os.O_DIRECTORY)
    before = linux.umask(0)
    try:
        for name, (major, minor) in DEVICES.items():
            _device(directory, name, os.makedev(major, minor))
        for name, points_to in LINKS.items():
            linux.symlink(points_to, name, dir_fd=directory)
        for name in ("pts", "shm", "mqueue"):
            linux.mkdir(name, 0o755, dir_fd=directory)
    finally:
        linux.umask(before)
        os.close(directory)
    no_exec = linux.MS_NOSUID | linux.MS_NOEXEC
    with within.place(root, "/dev/pts") as target:
        options = "newinstance,ptmxmode=0666,mode=0620"
        linux.mount(
            "devpts", within.path_of(target), "devpts", no_exec, options + (",gid=5" if _is_mapped_group(5) else "")
        )
    with within.place(root, "/dev/shm") as target:
        linux.mount("shm", within.path_of(target), "tmpfs", _QUIET, "mode=1777,size=65536k")
    with within.place(root, "/dev/mqueue") as target:
        linux.mount("mqueue", within.path_of(target), "mqueue", _QUIET)


def _device(directory: int, name: str, number: int) -> None:
    """A device node; in a user namespace, where making one is forbidden, the host's own is bound in its place."""
    try:
        linux.mknod(name, stat.S_IFCHR | 0o666, number, dir_fd=directory)
    except PermissionError:
        os.close(linux.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666, dir_fd=directory))
        with within.place(directory, name) as target:
            linux.mount(f"/dev/{name}", within.path_of(target), flags=linux.MS_BIND)


def _is_mapped_group(gid: int) -> bool:
    """Whether the group exists in this user namespace. user_namespaces(7)"""
    ranges = [line.split() for line in read_file("/proc/self/gid_map").splitlines()]
    return any(int(first) <= gid < int(first) + int(count) for first, _, count in ranges)


def mask(root: int, paths: Iterable[str], options: str = "") -> None:
    """Hide each path that exists: an empty directory over a directory, /dev/null over anything else.

    `options`: more of those that the empty directories, tmpfs, are mounted with.

    The root's own /dev/null, for what may be done to it (chmod) must not be done to the host's. It is looked at first:
    were it something else, masking would show that in place of what is masked (CVE-2025-31133).
    """
    null = linux.openat2(root, "dev/null", os.O_PATH)
    options = ",".join(filter(None, ("size=0k,nr_inodes=2", options)))
    try:
        status = os.fstat(null)
        if not stat.S_ISCHR(status.st_mode) or status.st_rdev != os.makedev(*DEVICES["null"]):
            raise HostError("the root's /dev/null is not the null device", hint="what is mounted over /dev?")
        for path in paths:
            try:
                fd = linux.openat2(root, path.lstrip("/"), os.O_PATH)
            except (FileNotFoundError, NotADirectoryError):
                continue
            try:
                target = within.path_of(fd)
                if stat.S_ISDIR(os.fstat(fd).st_mode):
                    linux.mount("tmpfs", target, "tmpfs", linux.MS_RDONLY | _QUIET, options)
                else:
                    linux.mount(within.path_of(null), target, flags=linux.MS_BIND)
            finally:
                os.close(fd)
    finally:
        os.close(null)


def make_read_only(root: int, path: str) -> None:
    """Make `path` read-only, if it exists, with all that is mounted below it."""
    try:
        fd = linux.openat2(root, path.lstrip("/"), os.O_PATH)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        tree = linux.open_tree(
            fd,
            "",
            linux.OPEN_TREE_CLONE | linux.OPEN_TREE_CLOEXEC | linux.AT_RECURSIVE | linux.AT_EMPTY_PATH,
        )
        everywhere = linux.AT_EMPTY_PATH | linux.AT_RECURSIVE
        linux.mount_setattr(tree, "", everywhere, set_attributes=linux.MOUNT_ATTR_RDONLY)
        within.hang(tree, fd)
    finally:
        os.close(fd)
