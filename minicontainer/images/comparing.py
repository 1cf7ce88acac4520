"""Whether two directories hold the same: names, kinds, owners, modes, times, attributes, links, content.

For `check`, which holds an unpacked layer against one that was unpacked just now. Both are read through directory
descriptors, piece by piece.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

CHUNK = 1 << 20


def differs(mine: str, fresh: str, began: int) -> str:
    """The first difference in words, or "". `fresh` was made after `began` (nanoseconds since 1970): what has a time
    of then in it, an archive has given none."""
    return next(_Comparison(began).directory(mine, fresh), "").encode(errors="backslashreplace").decode()


class _Comparison:
    def __init__(self, began: int) -> None:
        self._began = began
        self._same: dict[tuple[int, int], tuple[int, int]] = {}

    def directory(self, mine: str | int, fresh: str | int, path: str = "") -> Iterator[str]:
        with _Opened(mine) as ours, _Opened(fresh) as theirs:
            if path == "":
                yield from self.entry(os.fstat(ours), os.fstat(theirs), "/")
            yield from self.attributes(f"/proc/self/fd/{ours}", f"/proc/self/fd/{theirs}", path or "/")
            names, wanted = set(os.listdir(ours)), set(os.listdir(theirs))
            for name in sorted(names ^ wanted):
                yield f"{path}/{name} is {'missing' if name in wanted else 'not of the image'}"
            for name in sorted(names & wanted):
                yield from self.name(ours, theirs, name, f"{path}/{name}")

    def name(self, ours: int, theirs: int, name: str, path: str) -> Iterator[str]:
        mine, fresh = (os.stat(name, dir_fd=fd, follow_symlinks=False) for fd in (ours, theirs))
        yield from self.entry(mine, fresh, path)
        if stat.S_ISDIR(mine.st_mode):
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            yield from self.directory(os.open(name, flags, dir_fd=ours), os.open(name, flags, dir_fd=theirs), path)
            return
        yield from self.attributes(f"/proc/self/fd/{ours}/{name}", f"/proc/self/fd/{theirs}/{name}", path)
        if stat.S_ISLNK(mine.st_mode):
            if os.readlink(name, dir_fd=ours) != os.readlink(name, dir_fd=theirs):
                yield f"{path} leads elsewhere"
        elif stat.S_ISREG(mine.st_mode):
            with _file(name, ours) as one, _file(name, theirs) as other:
                while data := one.read(CHUNK):
                    if data != other.read(CHUNK):
                        yield f"{path} has another content"

    def entry(self, mine: os.stat_result, fresh: os.stat_result, path: str) -> Iterator[str]:
        if mine.st_mode != fresh.st_mode:
            yield f"{path} has the mode {mine.st_mode:o}, not {fresh.st_mode:o}"
        if (mine.st_uid, mine.st_gid) != (fresh.st_uid, fresh.st_gid):
            yield f"{path} is {mine.st_uid}:{mine.st_gid}'s, not {fresh.st_uid}:{fresh.st_gid}'s"
        if mine.st_rdev != fresh.st_rdev:
            yield f"{path} is another device"
        if stat.S_ISREG(mine.st_mode) and mine.st_size != fresh.st_size:
            yield f"{path} has {mine.st_size} bytes, not {fresh.st_size}"
        if mine.st_mtime_ns != fresh.st_mtime_ns and fresh.st_mtime_ns < self._began:
            yield f"{path} has another time of change"
        if not stat.S_ISDIR(mine.st_mode):
            known = self._same.setdefault((mine.st_dev, mine.st_ino), (fresh.st_dev, fresh.st_ino))
            if mine.st_nlink != fresh.st_nlink or known != (fresh.st_dev, fresh.st_ino):
                yield f"{path} is linked otherwise"

    def attributes(self, mine: str, fresh: str, path: str) -> Iterator[str]:
        follow = "/" not in mine.removeprefix("/proc/self/fd/")  # the descriptor itself is a link there
        ours, theirs = (
            {
                key: os.getxattr(place, key, follow_symlinks=follow)
                for key in os.listxattr(place, follow_symlinks=follow)
            }
            for place in (mine, fresh)
        )
        if ours != theirs:
            keys = sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))
            yield f"{path} has another {keys[0]}"


class _Opened:
    """A directory by its path, or by a descriptor that is closed afterwards."""

    def __init__(self, place: str | int) -> None:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        self._fd = os.open(place, flags) if isinstance(place, str) else place

    def __enter__(self) -> int:
        return self._fd

    def __exit__(self, *error: object) -> None:
        os.close(self._fd)


def _file(name: str, fd: int) -> BinaryIO:
    return os.fdopen(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd), "rb")
