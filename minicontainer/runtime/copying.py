"""`tmpcopyup`: a tmpfs that begins with what was there before. runc's own mount option, which Podman's --tmpfs uses."""

from __future__ import annotations

import os
import stat

CHUNK = 1 << 20  # bytes at a time


def copy_directory(source: int, target: int) -> None:
    """Copy what is in the directory behind one descriptor into the one behind the other, owners and modes included.

    Names are only ever looked up in a directory that is open, and no link is followed: the image made them. Devices
    and sockets stay behind, as in runc.
    """
    status = os.fstat(source)
    os.fchown(target, status.st_uid, status.st_gid)
    os.fchmod(target, stat.S_IMODE(status.st_mode))
    for name in os.listdir(source):
        kind = os.stat(name, dir_fd=source, follow_symlinks=False)
        if stat.S_ISLNK(kind.st_mode):
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
            os.chown(name, kind.st_uid, kind.st_gid, dir_fd=target, follow_symlinks=False)
        elif stat.S_ISDIR(kind.st_mode):
            os.mkdir(name, 0o700, dir_fd=target)
            inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
            outer = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=target)
            try:
                copy_directory(inner, outer)
            finally:
                os.close(inner)
                os.close(outer)
        elif stat.S_ISREG(kind.st_mode):
            _copy_file(source, target, name)


def _copy_file(source: int, target: int, name: str) -> None:
    inner = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
    try:
        outer = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=target)
        try:
            while _piece(inner, outer):
                pass
            status = os.fstat(inner)
            os.fchown(outer, status.st_uid, status.st_gid)
            os.fchmod(outer, stat.S_IMODE(status.st_mode))
        finally:
            os.close(outer)
    finally:
        os.close(inner)


def _piece(inner: int, outer: int) -> bool:
    data = os.read(inner, CHUNK)
    view = memoryview(data)
    while view:
        view = view[os.write(outer, view) :]
    return bool(data)
