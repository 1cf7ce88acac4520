"""Paths inside a root that we have not entered yet.

Before pivot_root, the container's `/etc/hosts` is the host's `/some/where/rootfs/etc/hosts`, and every symbolic link
on the way was made by whoever made the image. If `etc` there is a link to `/etc`, a mount on the joined path lands on
the *host's* /etc. openat2 with RESOLVE_IN_ROOT treats the directory we give it as `/` for links and for `..`, so it
cannot leave; and what it returns is a descriptor, so nobody can exchange the path between the look and the mount.
openat2(2)
"""

from __future__ import annotations

import os
from contextlib import contextmanager

from minicontainer import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


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
    """Make `path` inside the root, with the directories on its way (mode 0755); existing ones are left alone."""
    names = [name for name in path.split("/") if name not in ("", ".")]
    here = os.dup(root_fd)
    reached = ""
    try:
        for name in names[: None if directory else -1]:
            reached = f"{reached}/{name}".lstrip("/")
            try:
                below = linux.openat2(root_fd, reached, os.O_PATH | os.O_DIRECTORY)
            except FileNotFoundError:
                linux.mkdir(name, 0o755, dir_fd=here)
                below = linux.openat2(root_fd, reached, os.O_PATH | os.O_DIRECTORY)
            os.close(here)
            here = below
        if not directory:
            os.close(linux.open(names[-1], os.O_CREAT | os.O_NOFOLLOW | os.O_WRONLY, 0o644, dir_fd=here))
    finally:
        os.close(here)
