"""Two ways to give a process its own root: the naive one, and the one that holds."""

from __future__ import annotations

import os
import stat

from minicontainer import linux
from minicontainer.chroot import filesystems, within
from minicontainer.container.part import Host, Inside, Part
from minicontainer.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


class Chroot(Part):
    """chroot(2) and nothing else: `/` begins at `rootfs`.

    It changes one pointer of the process. The host's files are still mounted, and a root that holds on to a directory
    outside (or calls chroot once more) walks out: the escape in this chapter's tests does. /proc, /sys and /dev are
    whatever the directory has there.
    """

    def __init__(self, rootfs: str) -> None:
        self.rootfs = os.path.abspath(rootfs)

    def prepare(self, host: Host) -> None:
        _check_directory(self.rootfs)

    def enter(self, inside: Inside) -> None:
        inside.rootfs = self.rootfs
        linux.chroot(self.rootfs)
        linux.chdir("/")

    def second(self, host: Host) -> Part:
        return _SameRoot(host.pid)


class PivotRoot(Part):
    """A root that cannot be left: the process gets a mount namespace in which nothing else is mounted.

    `rootfs` is the directory; None takes the one that an earlier part brings (`Overlay`, chapter 05). /proc, /sys and
    /dev are mounted in it, `masked` and `read_only_paths` are closed off, and with `read_only` so is the rest. Then
    pivot_root(2) makes it the root *mount*, and the old one is taken out of the namespace: there is nothing outside
    to escape to.
    """

    namespaces = linux.CLONE_NEWNS

    def __init__(
        self,
        rootfs: str | None = None,
        *,
        read_only: bool = False,
        masked: Sequence[str] = filesystems.MASKED,
        read_only_paths: Sequence[str] = filesystems.READ_ONLY,
    ) -> None:
        self.rootfs = None if rootfs is None else os.path.abspath(rootfs)
        self.read_only = read_only
        self.masked = tuple(masked)
        self.read_only_paths = tuple(read_only_paths)

    def prepare(self, host: Host) -> None:
        if self.rootfs is not None:
            _check_directory(self.rootfs)

    def join(self, inside: Inside) -> None:
        # The new namespace is a copy, and a copied mount still hears of what happens to the original: on a host where
        # systemd made / shared, our mounts would appear there, and pivot_root would refuse. mount_namespaces(7)
        linux.mount(None, "/", flags=linux.MS_REC | linux.MS_PRIVATE)

    def mount(self, inside: Inside) -> None:
        if self.rootfs is not None:
            # pivot_root wants a mount point, so the directory is bound onto itself
            linux.mount(self.rootfs, self.rootfs, flags=linux.MS_BIND | linux.MS_REC)
            inside.rootfs = self.rootfs
        if inside.rootfs is None:
            raise UsageError(
                "there is no root to pivot to",
                hint="give PivotRoot a directory, or put the part that brings one (Overlay) before it",
            )
        with within.root(inside.rootfs) as root:
            filesystems.proc(root)
            filesystems.sys(root)
            filesystems.dev(root)

    def enter(self, inside: Inside) -> None:
        assert inside.rootfs is not None
        with within.root(inside.rootfs) as root:
            if self.masked:
                filesystems.mask(root, self.masked)
            for path in self.read_only_paths:
                filesystems.make_read_only(root, path)
            if self.read_only:
                linux.mount_setattr(root, "", linux.AT_EMPTY_PATH, set_attributes=linux.MOUNT_ATTR_RDONLY)
            linux.fchdir(root)
        # new and old root are the same directory for a moment: the old one is then on top, and is detached
        linux.pivot_root(".", ".")
        linux.umount2(".", linux.MNT_DETACH)
        linux.chdir("/")

    def second(self, host: Host) -> Part:
        return _SameMounts(host.pid)


class _SameRoot(Part):
    """For exec into a chroot: the root of the first process, found behind /proc/PID/root."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def prepare(self, host: Host) -> None:
        host.give("root", linux.open(f"/proc/{self.pid}/root", os.O_PATH))

    def enter(self, inside: Inside) -> None:
        linux.fchdir(inside.fds["root"])
        linux.chroot(".")


class _SameMounts(Part):
    """For exec after pivot_root: the mount namespace of the first process, and with it its root. setns(2)"""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def prepare(self, host: Host) -> None:
        host.give("mount namespace", linux.open(f"/proc/{self.pid}/ns/mnt", os.O_RDONLY))

    def enter(self, inside: Inside) -> None:
        linux.setns(inside.fds["mount namespace"], linux.CLONE_NEWNS)


def _check_directory(rootfs: str) -> None:
    try:
        mode = os.stat(rootfs).st_mode
    except OSError as error:
        raise UsageError(
            f"the root {rootfs} cannot be used: {linux.errno_name(error.errno or 0)} ({error.strerror})",
            hint="it has to be a directory with the container's files in it",
        ) from None
    if not stat.S_ISDIR(mode):
        raise UsageError(f"the root {rootfs} is not a directory", hint="unpack an archive or an image first")
