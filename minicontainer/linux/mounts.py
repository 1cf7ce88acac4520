"""The old mount calls and the new ones.

mount(2) does six different things in one call and works on paths. Since Linux 5.2 the same is done in small steps on
file descriptors: fsopen → fsconfig → fsmount makes a filesystem that is mounted nowhere yet, open_tree copies a
mount, mount_setattr changes one, move_mount hangs it into the tree. A mount that was never hung anywhere disappears
with its last descriptor, so a killed process leaves nothing behind.
"""

from __future__ import annotations

import os

from minicontainer.linux import c
from minicontainer.linux.door import syscall
from minicontainer.linux.libc import by_number, c_char_p, c_int, c_size_t, c_uint, c_ulong, c_void_p, function

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_SYNCHRONOUS = 16
MS_REMOUNT = 32
MS_MANDLOCK = 64
MS_DIRSYNC = 128
MS_NOSYMFOLLOW = 256
MS_NOATIME = 1024
MS_NODIRATIME = 2048
MS_BIND = 4096
MS_MOVE = 8192
MS_REC = 16384
MS_SILENT = 32768
MS_UNBINDABLE = 1 << 17
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20
MS_RELATIME = 1 << 21
MS_I_VERSION = 1 << 23
MS_STRICTATIME = 1 << 24
MS_LAZYTIME = 1 << 25

MNT_DETACH = 2

OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC

MOVE_MOUNT_F_EMPTY_PATH = 0x04
MOVE_MOUNT_T_EMPTY_PATH = 0x40

FSOPEN_CLOEXEC = 1
FSMOUNT_CLOEXEC = 1
FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_SET_FD = 5
FSCONFIG_CMD_CREATE = 6

MOUNT_ATTR_RDONLY = 0x01
MOUNT_ATTR_NOSUID = 0x02
MOUNT_ATTR_NODEV = 0x04
MOUNT_ATTR_NOEXEC = 0x08
MOUNT_ATTR_NOATIME = 0x10
MOUNT_ATTR_STRICTATIME = 0x20
MOUNT_ATTR__ATIME = 0x70
MOUNT_ATTR_NODIRATIME = 0x80
MOUNT_ATTR_IDMAP = 0x00100000
MOUNT_ATTR_NOSYMFOLLOW = 0x00200000

_mount = function("mount", c_char_p, c_char_p, c_char_p, c_ulong, c_char_p)
_umount2 = function("umount2", c_char_p, c_int)
_pivot_root = by_number("pivot_root", c_char_p, c_char_p)
_open_tree = by_number("open_tree", c_int, c_char_p, c_uint)
_move_mount = by_number("move_mount", c_int, c_char_p, c_int, c_char_p, c_uint)
_fsopen = by_number("fsopen", c_char_p, c_uint)
_fsconfig = by_number("fsconfig", c_int, c_uint, c_char_p, c_char_p, c_int)
_fsmount = by_number("fsmount", c_int, c_uint, c_uint)
_mount_setattr = by_number("mount_setattr", c_int, c_char_p, c_uint, c_void_p, c_size_t)

Path = str | bytes


def _path(path: Path | None) -> bytes | None:
    return None if path is None else os.fsencode(path)


@syscall(show={"flags": "MS_"})
def mount(
    source: Path | None, target: Path, fstype: str | None = None, flags: int = 0, data: str | None = None
) -> None:
    """Mount, remount, bind, move, or change propagation, as `flags` say. mount(2)"""
    _mount(_path(source), _path(target), _path(fstype), flags, _path(data))


@syscall(show={"flags": "MNT_"})
def umount2(target: Path, flags: int = 0) -> None:
    """Unmount; with MNT_DETACH at once from the tree, and for good when nobody uses it any more. umount(2)"""
    _umount2(_path(target), flags)


@syscall()
def pivot_root(new_root: Path, put_old: Path) -> None:
    """Make `new_root` the root of this mount namespace and hang the old one at `put_old`. pivot_root(2)"""
    _pivot_root(_path(new_root), _path(put_old))


@syscall(show={"flags": "OPEN_TREE_CLONE OPEN_TREE_CLOEXEC AT_EMPTY_PATH AT_RECURSIVE"})
def open_tree(dirfd: int, path: Path, flags: int = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC) -> int:
    """A descriptor of a mount: with OPEN_TREE_CLONE of a detached copy (a bind mount that is nowhere yet)."""
    return _open_tree(dirfd, _path(path), flags)


@syscall(show={"flags": "MOVE_MOUNT_"})
def move_mount(from_fd: int, from_path: Path, to_fd: int, to_path: Path, flags: int = MOVE_MOUNT_F_EMPTY_PATH) -> None:
    """Hang a (detached) mount into the tree. move_mount(2)"""
    _move_mount(from_fd, _path(from_path), to_fd, _path(to_path), flags)


@syscall()
def fsopen(fstype: str, flags: int = FSOPEN_CLOEXEC) -> int:
    """A context in which a filesystem is configured. fsopen(2)"""
    return _fsopen(_path(fstype), flags)


@syscall(show={"command": "FSCONFIG_"})
def fsconfig(fd: int, command: int, key: str | None = None, value: Path | None = None, aux: int = 0) -> None:
    """Set one option of a filesystem context, or create the filesystem. fsconfig(2)"""
    _fsconfig(fd, command, _path(key), _path(value), aux)


@syscall(show={"attributes": "MOUNT_ATTR_"})
def fsmount(fd: int, attributes: int = 0, flags: int = FSMOUNT_CLOEXEC) -> int:
    """A detached mount of the filesystem that a context has created. fsmount(2)"""
    return _fsmount(fd, flags, attributes)


class _MountAttr(c.Structure):
    _fields_ = tuple((name, c.c_uint64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd"))


@syscall(
    show={
        "flags": "AT_EMPTY_PATH AT_RECURSIVE",
        "set_attributes": "MOUNT_ATTR_",
        "clear_attributes": "MOUNT_ATTR_",
        "propagation": "MS_",
    }
)
def mount_setattr(
    dirfd: int,
    path: Path,
    flags: int = 0,
    set_attributes: int = 0,
    clear_attributes: int = 0,
    propagation: int = 0,
    userns_fd: int = 0,
) -> None:
    """Change attributes of a mount, of all below it with AT_RECURSIVE; idmap a detached one. mount_setattr(2)"""
    attr = _MountAttr(set_attributes, clear_attributes, propagation, userns_fd)
    _mount_setattr(dirfd, _path(path), flags, c.byref(attr), c.sizeof(attr))
