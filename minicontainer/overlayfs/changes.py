"""What a container has changed, read off its upper directory.

The upper directory is the answer already: whatever is in it was added or changed, a whiteout was deleted. Only "added
or changed?" needs a look at the layers below, merged name by name as the kernel does it: the uppermost layer that
has the name decides, a whiteout ends the search, directories are merged until one is opaque.

A directory that was renamed with redirect_dir=on holds in `upper` only what is new in it. Its content is read from a
view of the whole that the kernel makes for us, as if it had been copied.
"""

from __future__ import annotations

import errno
import os
import stat

from minicontainer import linux
from minicontainer.errors import ImageError
from minicontainer.overlayfs.mounts import Options, detached
from minicontainer.overlayfs.whiteouts import METACOPY, REDIRECT, attribute, is_opaque, is_whiteout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_DEPTH = 500
"""Directories below one another that are followed: each of them holds a descriptor."""

_BELOW = linux.RESOLVE_BENEATH | linux.RESOLVE_NO_SYMLINKS
_LISTABLE = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Change:
    """One difference: `path` (absolute, as the container sees it) was "added", "changed" or "deleted"."""

    __slots__ = ("kind", "path")

    def __init__(self, path: str, kind: str) -> None:
        self.path, self.kind = path, kind

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Change) and (self.path, self.kind) == (other.path, other.kind)

    def __hash__(self) -> int:
        return hash((self.path, self.kind))

    def __repr__(self) -> str:
        return f"Change({self.path!r}, {self.kind!r})"


def diff(upper: str, layers: Sequence[str] = ()) -> list[Change]:
    """The changes in the directory `upper` (an `Overlay.upperdir`, or a layer) over `layers`, the base first.

    A directory comes before what is in it, names in the order of their bytes. Everything that `upper` holds is a
    change, so a directory counts as changed when something in it did (as for `docker diff`). A deleted directory is
    one change. Raises ImageError when it is deeper than 500 directories.
    """
    changes: list[Change] = []
    with Upper(upper, layers) as tree:
        _compare(tree, tree.fd, "", list(reversed(layers)), False, changes)
    return changes


class Upper:
    """An upper directory, opened to be read: by descriptors, since a container may be changing it meanwhile."""

    def __init__(self, upper: str, layers: Sequence[str]) -> None:
        self.path, self.layers = upper, layers
        self.fd = os.open(upper, _LISTABLE)
        self._merged = -1

    def __enter__(self) -> Upper:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)
        if self._merged >= 0:
            os.close(self._merged)

    def directory(self, name: str, dir_fd: int, path: str) -> tuple[int, bool]:
        """A descriptor of a directory's content, and whether it hides what the layers below have at its place."""
        if path.count("/") > MAX_DEPTH:
            raise ImageError(f"{path[:80]}… is deeper than {MAX_DEPTH} directories", hint="remove that tree first")
        fd = os.open(name, _LISTABLE, dir_fd=dir_fd)
        if attribute(fd, REDIRECT) is None:
            return fd, is_opaque(fd)
        os.close(fd)
        return self.merged(path, _LISTABLE), True

    def content(self, name: str, dir_fd: int, path: str) -> int:
        """A descriptor of a file's content, which for a metadata-only copy is still below."""
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=dir_fd)
        if attribute(fd, METACOPY) is None:
            return fd
        os.close(fd)
        return self.merged(path, os.O_RDONLY | os.O_NONBLOCK)

    def merged(self, path: str, flags: int) -> int:
        """Open `path` in a read-only view of the layers with `upper` as their last."""
        if not self.layers:
            raise ImageError(f"{path} refers to the layers below", hint="give the layers that upper was mounted over")
        if self._merged < 0:
            self._merged = detached([*self.layers, self.path], None, Options(metacopy=True, redirect_dir="on"))
        return linux.openat2(self._merged, path.lstrip("/"), flags, _BELOW)


def names(fd: int) -> list[str]:
    """The names in a directory, in the order of their bytes."""
    return sorted(os.listdir(fd), key=os.fsencode)


def _compare(tree: Upper, fd: int, path: str, lowers: list[str], hides: bool, changes: list[Change]) -> None:
    """`lowers`: the directories below that are merged here, the uppermost first. `hides`: none of them is seen."""
    here = set(os.listdir(fd))
    gone = _merged_names(lowers) - here if hides else set()
    for name in sorted(here | gone, key=os.fsencode):
        child = f"{path}/{name}"
        exists, below = _look_up(lowers, name)
        if name in gone:
            changes.append(Change(child, "deleted"))
            continue
        entry = os.stat(name, dir_fd=fd, follow_symlinks=False)
        if is_whiteout(entry):
            if exists:
                changes.append(Change(child, "deleted"))
            continue
        changes.append(Change(child, "changed" if exists else "added"))
        if stat.S_ISDIR(entry.st_mode):
            sub, opaque = tree.directory(name, fd, child)
            try:
                _compare(tree, sub, child, below, hides or opaque, changes)
            finally:
                os.close(sub)


def _look_up(lowers: list[str], name: str) -> tuple[bool, list[str]]:
    """Whether the merged layers have `name`, and the directories of that name that are merged, uppermost first."""
    directories: list[str] = []
    for lower in lowers:
        path = f"{lower}/{name}"
        try:
            entry = os.lstat(path)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENAMETOOLONG):
                raise
            continue
        if not stat.S_ISDIR(entry.st_mode):
            return bool(directories) or not is_whiteout(entry), directories
        directories.append(path)
        if is_opaque(path):
            break
    return bool(directories), directories


def _merged_names(lowers: list[str]) -> set[str]:
    return {name for lower in lowers for name in os.listdir(lower) if _look_up(lowers, name)[0]}
