"""The tree that a container of an image sees, put together from its layers; and what is in them that nobody sees.

Overlayfs does this with every look-up; here it is done once for all names, so that it can be shown: which layer a
file comes from, and which bytes travel and lie on the disk for nothing. A file that a later layer replaces or deletes
stays in the layer below: deleting makes no image smaller.

Each layer is walked once, through directory descriptors (a name in a layer may be longer than a path can be). Several
names of one file in a layer (hard links) count their bytes once.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from minicontainer.overlayfs.whiteouts import is_opaque, is_whiteout

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "link",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
    stat.S_IFIFO: "fifo",
}


class File:
    """One name in a layer: `layer` counts from the base, 0; `size` is in bytes, a link's that of its target's name."""

    __slots__ = ("_inode", "children", "gid", "kind", "layer", "mode", "path", "size", "uid")

    def __init__(self, path: str, entry: os.stat_result, layer: int) -> None:
        self.path, self.layer = path, layer
        self.kind = _KINDS.get(stat.S_IFMT(entry.st_mode), "socket")
        self.size = 0 if self.kind == "directory" else entry.st_size
        self.mode, self.uid, self.gid = stat.S_IMODE(entry.st_mode), entry.st_uid, entry.st_gid
        self._inode = (layer, entry.st_ino)
        self.children: dict[str, File] = {}

    @property
    def inode(self) -> tuple[int, int]:
        """Names with the same one are the same file."""
        return self._inode

    def all(self) -> Iterator[File]:
        """This one and all below it."""
        yield self
        for child in self.children.values():
            yield from child.all()

    def __repr__(self) -> str:
        return f"<{self.kind} /{self.path} {self.size} in layer {self.layer}>"


class Hidden:
    """A file of a layer that no container sees, because the later layer `by` has `replaced` or `deleted` it.

    `size` is what it costs; 0 for a further name of a file that is counted already, or that is still seen.
    """

    __slots__ = ("by", "how", "layer", "path", "size")

    def __init__(self, file: File, by: int, how: str) -> None:
        self.path, self.layer, self.size, self.by, self.how = file.path, file.layer, file.size, by, how

    def __repr__(self) -> str:
        return f"<{self.how} /{self.path} {self.size} of layer {self.layer} by {self.by}>"


class Tree:
    """What the layers make together: `files` by path ("etc/passwd"), `hidden` the largest first, and `content`, the
    bytes of the files in each layer."""

    def __init__(self, layers: Sequence[str]) -> None:
        self._gone: list[tuple[File, int, str]] = []
        self.content: list[int] = []
        self.counts: list[int] = []
        """The number of files in each layer that are no directories."""
        top: File | None = None
        for number, path in enumerate(layers):
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                layer = File("", os.fstat(fd), number)
                self._inodes: set[int] = set()
                self.content.append(0)
                self.counts.append(0)
                top = self._walk(fd, top or layer, layer)
            finally:
                os.close(fd)
        self.files = {file.path: file for file in top.all() if file.path} if top else {}
        self.hidden = self._count()

    def _walk(self, fd: int, below: File, here: File) -> File:
        """Lay the directory `here`, open as `fd`, over what is `below`."""
        here.children = below.children if below.kind == "directory" else {}
        for name in sorted(os.listdir(fd)):
            entry = os.stat(name, dir_fd=fd, follow_symlinks=False)
            path = f"{here.path}/{name}" if here.path else name
            was = here.children.get(name)
            if is_whiteout(entry):
                if was:
                    self._hide(was, here.layer, "deleted")
                    del here.children[name]
                continue
            file = File(path, entry, here.layer)
            if file.kind == "directory":
                inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
                try:
                    if was and (was.kind != "directory" or is_opaque(inner)):
                        self._hide(was, here.layer, "replaced" if was.kind != "directory" else "deleted")
                        was = None
                    self._walk(inner, was or file, file)
                finally:
                    os.close(inner)
            else:
                self._weigh(entry)
                if was:
                    self._hide(was, here.layer, "replaced")
            here.children[name] = file
        return here

    def _weigh(self, entry: os.stat_result) -> None:
        self.counts[-1] += 1
        if entry.st_ino not in self._inodes:
            self._inodes.add(entry.st_ino)
            self.content[-1] += entry.st_size

    def _hide(self, file: File, by: int, how: str) -> None:
        self._gone += [(one, by, how) for one in file.all() if one.kind != "directory"]

    def _count(self) -> list[Hidden]:
        counted = {file.inode for file in self.files.values()}
        found = []
        for file, by, how in self._gone:
            hidden = Hidden(file, by, how)
            if file.inode in counted:
                hidden.size = 0
            counted.add(file.inode)
            found.append(hidden)
        return sorted(found, key=lambda hidden: (-hidden.size, hidden.path, hidden.layer))

    @property
    def wasted(self) -> int:
        """Bytes of files that nobody sees."""
        return sum(hidden.size for hidden in self.hidden)

    @property
    def efficiency(self) -> float:
        """The part of all bytes that somebody can see, from 0 to 1."""
        total = sum(self.content)
        return 1 - self.wasted / total if total else 1.0


def content(layer: str) -> int:
    """Bytes of the files in one layer, as Docker counts a layer's size."""
    return Tree([layer]).content[0]


def allocated(directory: str) -> int:
    """Bytes that a tree takes up on the disk: its blocks, each file once. 0 for one that is not there."""
    try:
        top = os.stat(directory, follow_symlinks=False)
    except FileNotFoundError:
        return 0
    seen: set[int] = {top.st_ino}
    total = top.st_blocks
    for _, directories, files, fd in os.fwalk(directory):
        for name in (*directories, *files):
            entry = os.stat(name, dir_fd=fd, follow_symlinks=False)
            if entry.st_ino not in seen:
                seen.add(entry.st_ino)
                total += entry.st_blocks
    return total * 512
