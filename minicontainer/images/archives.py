"""An archive of images that somebody gives us, taken apart: every file in it with its digest, nothing believed.

A tar can be read once, from front to end, and what a manifest at its end refers to may be at its beginning (or the
other way round). So all files go into the session first, hashed on the way, under numbers: no name of the archive
ever becomes a path. What they are is seen afterwards. A directory is treated alike; only what is asked for is copied.
"""

from __future__ import annotations

import errno
import hashlib
import os
import posixpath
from typing import IO, TYPE_CHECKING, Protocol

from minicontainer import linux
from minicontainer.errors import ImageError, UsageError
from minicontainer.images.compression import Ahead, chunks_of, decompress
from minicontainer.images.manifest import MAX_DOCUMENT
from minicontainer.images.tar import DIRECTORY, HARD_LINK, REGULAR, SYMLINK, Limits, Reader, printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from minicontainer.images.session import Session

MOST_FILES = 100_000
"""Files in one archive. An image has two, and one for each layer."""

_FOLLOWED = 8
"""Links after one another."""


class Member:
    """One file: where it lies now, its digest and its size in bytes."""

    __slots__ = ("digest", "path", "size")

    def __init__(self, path: str, digest: str, size: int) -> None:
        self.path, self.digest, self.size = path, digest, size

    def document(self) -> bytes:
        """All of it. Raises ImageError when it is too large for a document."""
        if self.size > MAX_DOCUMENT:
            raise ImageError(f"a document of {self.size} bytes: at most {MAX_DOCUMENT} are read", hint=_NO_ARCHIVE)
        with open(self.path, "rb") as file:
            return file.read()


class Members(Protocol):
    """The files of an archive by name."""

    def get(self, name: str) -> Member | None:
        """The file of that name, or None."""


class Tar:
    """A tar archive, compressed or not, unpacked into the session."""

    def __init__(self, stream: IO[bytes], session: Session, limits: Limits) -> None:
        self._files: dict[str, Member] = {}
        self._links: dict[str, str] = {}
        bounds = Limits(size=limits.size, file_size=limits.size, entries=MOST_FILES)
        with Ahead(decompress(chunks_of(stream))) as source, Reader(source, bounds) as reader:
            while entry := reader.next():
                name = _clean(entry.name)
                if entry.kind == REGULAR:
                    if entry.extents is not None:
                        raise ImageError(f"{printable(entry.name)} of the archive has holes", hint=_NO_ARCHIVE)
                    path = f"{session.path}/{reader.entries}.member"
                    self._files[name] = _take(path, reader.pieces(entry.size))
                    self._links.pop(name, None)
                elif entry.kind == SYMLINK:
                    self._links[name] = _clean(os.fsencode(posixpath.join(posixpath.dirname(name), "")) + entry.link)
                elif entry.kind == HARD_LINK:
                    self._links[name] = _clean(entry.link)
                elif entry.kind != DIRECTORY:
                    raise ImageError(f"{printable(entry.name)} of the archive is no file", hint=_NO_ARCHIVE)
            reader.end()
            if not reader.size:
                raise ImageError("the archive is empty", hint="whatever was to write it has failed")

    def get(self, name: str) -> Member | None:
        for _ in range(_FOLLOWED):
            if name in self._files:
                return self._files[name]
            name = self._links.get(name, name)
        return None


class Directory:
    """A directory with an OCI image layout."""

    def __init__(self, path: str, session: Session) -> None:
        self._session = session
        self._root = path
        self._found: dict[str, Member] = {}

    def get(self, name: str) -> Member | None:
        if name not in self._found:
            root = os.open(self._root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                # Some tools link blobs to one another; out of the directory nothing is read.
                fd = linux.openat2(root, name, os.O_RDONLY | os.O_NONBLOCK, linux.RESOLVE_BENEATH)
            except OSError as error:
                if error.errno == errno.ENOENT:
                    return None
                raise ImageError(f"{self._root}/{name}: {linux.errno_name(error.errno or 0)}") from error
            finally:
                os.close(root)
            with open(fd, "rb", buffering=0) as file:
                self._found[name] = _take(f"{self._session.path}/{len(self._found)}.member", chunks_of(file))
        return self._found[name]


def taken_apart(source: str | IO[bytes], session: Session, limits: Limits) -> Members:
    """The files of `source`: a path of an archive or of an image layout, or an open file. Raises UsageError when there
    is none, ImageError for an archive that is damaged."""
    if not isinstance(source, str):
        return Tar(source, session, limits)
    if os.path.isdir(source):
        return Directory(source, session)
    try:
        file = open(source, "rb", buffering=0)  # noqa: SIM115  (it is the next statement's)
    except OSError as error:
        raise UsageError(
            f"{source} cannot be loaded: {error.strerror}", hint="name an archive of `save`, or an image layout"
        ) from None
    with file:
        return Tar(file, session, limits)


def _take(path: str, pieces: Iterator[memoryview]) -> Member:
    sha256, size = hashlib.sha256(), 0
    with open(path, "wb") as file:
        for piece in pieces:
            sha256.update(piece)
            size += file.write(piece)
    return Member(path, f"sha256:{sha256.hexdigest()}", size)


def _clean(name: bytes) -> str:
    """A name to look up, nothing else."""
    return posixpath.normpath(os.fsdecode(name)).lstrip("/")


_NO_ARCHIVE = "this is none that `save` of any engine has made"
