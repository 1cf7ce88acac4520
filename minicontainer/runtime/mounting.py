"""One entry of config.json's mounts that is no bind, made: a filesystem of its own, with its options and its label.

What is bound is copied on the host's side (`rootfs`); this happens within the container's mount namespace, at a place
that is found inside of its root (chapter 2's `within`).
"""

from __future__ import annotations

import os
import stat

from minicontainer import linux
from minicontainer.chroot import within
from minicontainer.errors import HostError, UsageError
from minicontainer.runtime import copying

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minicontainer.runtime.mounts import Mount

_OWNED = {"sysfs": "network", "proc": "pid", "mqueue": "ipc"}  # what they show, and may be mounted by who owns it
_UNLABELLED = ("proc", "sysfs", "mqueue")  # by an option of the mount, that is: the kernel has none for the first two


def labelled(data: str, label: str) -> str:
    """The options of a mount, and the one that labels what is in it (linux.mountLabel)."""
    if not label:
        return data
    from minicontainer.security import labels

    return ",".join(filter(None, (data, labels.mount_option(label))))


def mount_one(root: int, mount: Mount, rootfs: str, label: str) -> None:
    """Mount a filesystem of its own at its place below `root` (a descriptor of the directory `rootfs`)."""
    flags = mount.flags
    late = mount.type == "tmpfs" and mount.read_only  # others are mounted on it: read-only at the very end
    if mount.type in ("proc", "sysfs"):
        _check_ordinary(root, mount.destination)
    data = _as_open_as_before(root, mount) if mount.type == "tmpfs" else mount.data
    if mount.type not in _UNLABELLED and not flags & linux.MS_REMOUNT:
        data = labelled(data, label)
    with within.place(root, mount.destination) as target:
        try:
            linux.mount(
                mount.source,
                within.path_of(target),
                None if flags & linux.MS_REMOUNT else mount.type,
                flags & ~linux.MS_RDONLY if late else flags,
                data or None,
            )
        except PermissionError as error:
            if mount.type not in _OWNED:
                raise
            raise HostError(
                f"mounts: {mount.type} cannot be mounted on {mount.destination}: {error}",
                hint=f"in a user namespace it takes a {_OWNED[mount.type]} namespace of its own",
            ) from None
        if mount.copy_up:
            hidden = linux.open(within.path_of(target), os.O_RDONLY | os.O_DIRECTORY)
            shown = _open_mounted(root, mount, rootfs, os.O_RDONLY | os.O_DIRECTORY)
            copying.copy_directory(hidden, shown)
            os.close(hidden)
            os.close(shown)
    if label and mount.type == "mqueue":  # whose queues have the label of their directory
        from minicontainer.security import labels

        fd = linux.openat2(root, mount.destination.lstrip("/"), os.O_PATH)
        labels.label_file(within.path_of(fd), label)
        os.close(fd)
    if mount.propagation or mount.everywhere:
        fd = _open_mounted(root, mount, rootfs, os.O_PATH)
        for kind, below in mount.propagation:
            linux.mount(None, within.path_of(fd), flags=kind | (linux.MS_REC if below else 0))
        if mount.everywhere:
            linux.mount_setattr(
                fd,
                "",
                linux.AT_EMPTY_PATH | linux.AT_RECURSIVE,
                set_attributes=mount.everywhere.set,
                clear_attributes=mount.everywhere.clear,
            )
        os.close(fd)


def _open_mounted(root: int, mount: Mount, rootfs: str, flags: int) -> int:
    """What has just been mounted; on / it lies on top of our descriptor of the root, which still means the old one."""
    if mount.destination == "/":
        return linux.open(rootfs, flags)
    return linux.openat2(root, mount.destination.lstrip("/"), flags)


def _as_open_as_before(root: int, mount: Mount) -> str:
    """The options of a tmpfs, which has the mode of the directory that it hides, unless they say another.

    The kernel's own default is 1777: an image's private directory would be open to everybody. As runc has it.
    """
    try:
        fd = linux.openat2(root, mount.destination.lstrip("/") or ".", os.O_PATH)
    except FileNotFoundError:
        return mount.data
    mode = stat.S_IMODE(os.fstat(fd).st_mode)
    os.close(fd)
    return ",".join(filter(None, (f"mode={mode:o}", mount.data)))


def _check_ordinary(root: int, destination: str) -> None:
    """/proc and /sys through a link would be where nobody masks what is in them (CVE-2019-19921)."""
    try:
        fd = linux.openat2(root, destination.lstrip("/"), os.O_PATH | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            raise UsageError(f"filesystem {destination!r} must be mounted on ordinary directory")
    finally:
        os.close(fd)


def make_link(root: int, path: str, target: str) -> None:
    """A symbolic link inside the root. Raises KernelError (EEXIST) where something else is."""
    parent, _, name = path.rpartition("/")
    within.make(root, parent)
    directory = linux.openat2(root, parent.lstrip("/") or ".", os.O_PATH | os.O_DIRECTORY)
    try:
        linux.symlink(target, name, dir_fd=directory)
    except FileExistsError:
        if not _leads_to(directory, name, target):
            raise
    finally:
        os.close(directory)


def _leads_to(directory: int, name: str, target: str) -> bool:
    try:
        return os.readlink(name, dir_fd=directory) == target
    except OSError:
        return False  # it is no link
