"""Files as the kernel's interface: openat2 that cannot leave a directory, and the calls that build a root.

The plain ones (mkdir, symlink, mknod, …) are Python's own, passed through the door so that a trace shows them.
Paths may be relative to `dir_fd`, an open directory.
"""

from __future__ import annotations

import errno
import os

from minicontainer.linux import c
from minicontainer.linux.door import syscall
from minicontainer.linux.libc import by_number, c_char_p, c_int, c_size_t, c_void_p

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

Path = str | bytes


class _OpenHow(c.Structure):
    _fields_ = tuple((name, c.c_uint64) for name in ("flags", "mode", "resolve"))


_openat2 = by_number("openat2", c_int, c_char_p, c_void_p, c_size_t)


@syscall(show={"resolve": "RESOLVE_", "flags": "O_"})
def openat2(dirfd: int, path: Path, flags: int, resolve: int = RESOLVE_IN_ROOT, mode: int = 0) -> int:
    """Open `path` below `dirfd`. RESOLVE_IN_ROOT: every symbolic link and every `..` ends inside it. openat2(2)"""
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    return _openat2(dirfd, os.fsencode(path), c.byref(how), c.sizeof(how))


@syscall(name="openat", man="open(2)", show={"flags": "O_"})
def open(path: Path, flags: int, mode: int = 0o666, dir_fd: int | None = None) -> int:
    """A close-on-exec descriptor. open(2)"""
    return os.open(path, flags | os.O_CLOEXEC, mode, dir_fd=dir_fd)


@syscall()
def close(fd: int) -> None:
    """close(2)"""
    os.close(fd)


@syscall(name="write")
def _write(fd: int, data: bytes, path: str) -> None:
    os.write(fd, data)


def write(path: Path, text: str, dir_fd: int | None = None) -> None:
    """Write one of the kernel's files (a cgroup's, a uid map, a sysctl) in a single write(2), as they want it."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        _write(fd, text.encode(), os.fsdecode(path))
    finally:
        os.close(fd)


@syscall(man="mkdir(2)")
def mkdir(path: Path, mode: int = 0o777, dir_fd: int | None = None) -> None:
    """mkdir(2)"""
    os.mkdir(path, mode, dir_fd=dir_fd)


@syscall()
def rmdir(path: Path, dir_fd: int | None = None) -> None:
    """rmdir(2)"""
    os.rmdir(path, dir_fd=dir_fd)


def rmdir_unless_used(path: Path) -> bool:
    """Remove a directory: True if it is gone, however it went; False if it is in use, as a group with processes is.

    cgroups(7)
    """
    try:
        rmdir(path)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
            raise
        return False
    return True


@syscall()
def unlink(path: Path, dir_fd: int | None = None) -> None:
    """unlink(2)"""
    os.unlink(path, dir_fd=dir_fd)


@syscall()
def rename(source: Path, target: Path, source_dir_fd: int | None = None, target_dir_fd: int | None = None) -> None:
    """rename(2)"""
    os.rename(source, target, src_dir_fd=source_dir_fd, dst_dir_fd=target_dir_fd)


@syscall()
def symlink(target: Path, path: Path, dir_fd: int | None = None) -> None:
    """symlink(2)"""
    os.symlink(target, path, dir_fd=dir_fd)


@syscall()
def mknod(path: Path, mode: int, device: int = 0, dir_fd: int | None = None) -> None:
    """mknod(2)"""
    os.mknod(path, mode, device, dir_fd=dir_fd)


@syscall()
def chmod(path: Path | int, mode: int) -> None:
    """chmod(2), fchmod(2)"""
    os.chmod(path, mode)


@syscall()
def chown(path: Path | int, uid: int, gid: int) -> None:
    """chown(2), fchown(2)"""
    os.chown(path, uid, gid)


@syscall()
def setxattr(path: Path, name: str, value: bytes) -> None:
    """setxattr(2)"""
    os.setxattr(path, name, value)


@syscall()
def chdir(path: Path) -> None:
    """chdir(2)"""
    os.chdir(path)


@syscall()
def fchdir(fd: int) -> None:
    """fchdir(2)"""
    os.fchdir(fd)


@syscall()
def chroot(path: Path) -> None:
    """Change where `/` begins for this process, and nothing else. chroot(2)"""
    os.chroot(path)


@syscall(man="umask(2)")
def umask(mask: int) -> int:
    """umask(2)"""
    return os.umask(mask)
