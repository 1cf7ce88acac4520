"""Paths inside a root that we have not entered yet.

Before pivot_root, the container's `/etc/hosts` is the host's `/some/where/rootfs/etc/hosts`, and every symbolic link
on the way was made by whoever made the image. If `etc` there is a link to `/etc`, a mount on the joined path lands on
the *host's* /etc. openat2 with RESOLVE_IN_ROOT treats the directory we give it as `/` for links and for `..`, so it
cannot leave; and what it returns is a descriptor, so nobody can exchange the path between the look and the mount.
openat2(2)
"""

from __future__ import annotations

import errno
import os
import stat

from minicontainer import linux
from minicontainer.lean import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_LINKS = 40  # as many as the kernel follows, path_resolution(7)
_AS_IT_IS = linux.RESOLVE_IN_ROOT | linux.RESOLVE_NO_SYMLINKS


@contextmanager
def root(path: str) -> Iterator[int]:
    """A descriptor of the directory that will be the root."""
    fd = linux.open(path, os.O_PATH | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def place(root_fd: int, path: str, *, directory: bool = True) -> Iterator[int]:
    """A descriptor that means exactly `path` inside the root: something to mount on, made if it is not there.

    What is missing is made as a directory, or as an empty file when `directory` is False. Raises KernelError, for
    instance ENOTDIR when a file is in the way.
    """
    try:
        fd = linux.openat2(root_fd, path.lstrip("/") or ".", os.O_PATH)
    except FileNotFoundError:
        make(root_fd, path, directory=directory)
        fd = linux.openat2(root_fd, path.lstrip("/"), os.O_PATH)
    try:
        yield fd
    finally:
        os.close(fd)


def path_of(fd: int) -> str:
    """A path for calls that take only paths, such as mount(2). The link is the kernel's: it leads to this very file."""
    return f"/proc/self/fd/{fd}"


def hang(tree: int, target: int) -> None:
    """Hang the detached mount `tree` onto the place behind `target`, and close it."""
    linux.move_mount(tree, "", target, "", linux.MOVE_MOUNT_F_EMPTY_PATH | linux.MOVE_MOUNT_T_EMPTY_PATH)
    os.close(tree)


def make(root_fd: int, path: str, *, directory: bool = True) -> None:
    """Make `path` inside the root, with the directories on its way (mode 0755); existing ones are left alone.

    A link counts as what it leads to, inside the root, also if that is not there yet: in an image made on a systemd
    host, /etc/resolv.conf leads into a /run that is empty.
    """
    ahead, reached, links = _names(path), list[str](), 0
    while ahead:
        name = ahead.pop(0)
        if name == "..":
            del reached[-1:]
            continue
        try:
            fd = linux.openat2(root_fd, "/".join([*reached, name]), os.O_PATH | os.O_NOFOLLOW, _AS_IT_IS)
        except FileNotFoundError:
            _make_one(root_fd, "/".join(reached), name, directory=directory or bool(ahead))
            reached.append(name)
            continue
        try:
            if not stat.S_ISLNK(os.fstat(fd).st_mode):
                reached.append(name)
                continue
            target = os.readlink("", dir_fd=fd)
        finally:
            os.close(fd)
        links += 1
        if links > MAX_LINKS:
            raise linux.kernel_error(errno.ELOOP, "readlinkat", repr(path))
        if target.startswith("/"):
            reached.clear()
        ahead = _names(target) + ahead


def _make_one(root_fd: int, parent: str, name: str, *, directory: bool) -> None:
    here = linux.openat2(root_fd, parent or ".", os.O_PATH | os.O_DIRECTORY, _AS_IT_IS)
    try:
        if directory:
            linux.mkdir(name, 0o755, dir_fd=here)
        else:
            os.close(linux.open(name, os.O_CREAT | os.O_NOFOLLOW | os.O_WRONLY, 0o644, dir_fd=here))
    finally:
        os.close(here)


def _names(path: str) -> list[str]:
    return [name for name in path.split("/") if name not in ("", ".")]
