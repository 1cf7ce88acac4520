"""Bytes in bulk: decompressed in bounded steps and ahead of time, and gzip that is the same everywhere.

gzip is most of the work of a pull, so it is done by igzip (the `isal` library), which is two to three times as fast as
zlib on the same format. zstd is faster still, and newer: a module of Python's from 3.14 on, for which `backports.zstd`
stands in. bzip2 and xz are in no image that anybody makes today, but root filesystems come so.
(RFC 1952, RFC 8878)
"""

from __future__ import annotations

import hashlib
import itertools
import queue
import sys
import threading
from typing import IO, TYPE_CHECKING, Protocol, Self

from isal import igzip_lib, isal_zlib

from minicontainer.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CHUNK = 256 << 10
"""Bytes that are read from a registry or a file at a time."""

OUTPUT = 1 << 20
"""Bytes that one step of decompressing may make: a bomb of gzip becomes a thousand times as large as it came."""

AHEAD = 4
"""Such steps that may be done before anybody has used the first."""

LEVEL = 3
"""igzip's best: about as small as gzip -3, several times faster."""

XZ_MEMORY = 128 << 20
"""Bytes that an xz archive may make us keep: twice what `xz -9` needs."""


def decompress(chunks: Iterator[memoryview]) -> Iterator[bytes] | Iterator[memoryview]:
    """The archive in a layer, however it is compressed: its first bytes tell.

    The media type tells too, and is wrong in some images that everybody else can run. Nothing depends on it: whatever
    comes out must have the diff_id that the config says. Raises ImageError where it goes wrong.
    """
    begin = bytearray()
    for chunk in chunks:
        begin += chunk
        if len(begin) >= 6:
            break
    whole = itertools.chain([memoryview(begin)], chunks)
    kind = kind_of(begin)
    return _streams(kind, whole) if kind else whole


def chunks_of(stream: IO[bytes]) -> Iterator[memoryview]:
    """What is left of a file, piece by piece."""
    while data := stream.read(CHUNK):
        yield memoryview(data)


def kind_of(begin: bytes | bytearray) -> str:
    """How a file is compressed that begins so: gzip, zstd, bzip2, xz; "" when it is in none of these ways."""
    if begin.startswith(b"\x1f\x8b"):
        return "gzip"
    if begin.startswith(b"\x28\xb5\x2f\xfd") or (begin[1:4] == b"\x2a\x4d\x18" and begin[0] >> 4 == 5):
        return "zstd"  # the second is a frame to be skipped. RFC 8878, 3.1.2
    if begin.startswith(b"BZh"):
        return "bzip2"
    return "xz" if begin.startswith(b"\xfd7zXZ\0") else ""


def _streams(kind: str, chunks: Iterator[memoryview]) -> Iterator[bytes]:
    """Decompress, in bounded steps. A file may have several streams after one another (members, frames), and zeros
    after the last. RFC 1952, 2.2; RFC 8878, 3.1"""
    begin, errors = _library(kind)
    stream, streams = None, 0
    for chunk in chunks:
        data: memoryview | bytes = chunk
        while data or (stream and not stream.needs_input):
            if stream is None:
                if streams and not bytes(data).strip(b"\0"):
                    break
                stream, streams = begin(), streams + 1
            try:
                made = stream.decompress(data, OUTPUT)
            except errors as error:
                raise ImageError(f"not {kind}, as it begins ({error})", hint=_MADE_WRONG) from None
            yield made
            data = stream.unused_data if stream.eof else b""
            stream = None if stream.eof else stream
    if stream is not None:
        raise ImageError(f"its {kind} data ends in the middle", hint="it was cut off: fetch it again, or make it again")


class _Stream(Protocol):
    """One stream of a compressed file, as the modules of Python's library have it, and igzip too."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: memoryview | bytes, max_length: int, /) -> bytes: ...


def _library(kind: str) -> tuple[Callable[[], _Stream], type[Exception]]:
    """What begins a stream, and what that raises. Each is loaded when there is something for it."""
    if kind == "gzip":
        error: type[Exception] = igzip_lib.IsalError  # type: ignore[assignment]  # the stub has it as a variable
        return lambda: igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP), error
    if kind == "bzip2":
        import bz2

        return bz2.BZ2Decompressor, OSError
    if kind == "xz":
        import lzma

        return lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY), lzma.LZMAError
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        import backports.zstd as zstd

    return zstd.ZstdDecompressor, zstd.ZstdError


_MADE_WRONG = "whoever made the archive must make it again"


class Ahead:
    """A stream whose source works ahead in a thread of its own: there the bytes are received, hashed and inflated
    (all outside Python's lock), while the caller makes files of the last ones."""

    def __init__(self, chunks: Iterator[bytes] | Iterator[memoryview]) -> None:
        self._queue: queue.Queue[bytes | BaseException] = queue.Queue(maxsize=AHEAD)
        self._rest = memoryview(b"")
        self._ended: BaseException | None = None
        self._stopped = False
        self._thread = threading.Thread(target=self._work, args=(chunks,), daemon=True)
        self._thread.start()

    def _work(self, chunks: Iterator[bytes] | Iterator[memoryview]) -> None:
        try:
            for chunk in chunks:
                if self._stopped:
                    return
                if chunk:
                    self._queue.put(bytes(chunk))
            self._queue.put(EOFError())
        except BaseException as error:
            self._queue.put(error)

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; none at the end. Raises what went wrong in the thread."""
        if not self._rest:
            if self._ended is None:
                chunk = self._queue.get()
                if isinstance(chunk, BaseException):
                    self._ended = chunk
                elif len(chunk) <= size:
                    return chunk
                else:
                    self._rest = memoryview(chunk)
            if isinstance(self._ended, EOFError):
                return b""
            if self._ended is not None:
                raise self._ended
        piece, self._rest = self._rest[:size], self._rest[size:]
        return bytes(piece)

    def stop(self) -> None:
        """End the thread; what it has read ahead is dropped."""
        self._stopped = True
        while self._thread.is_alive():
            try:
                self._queue.get(timeout=0.01)
            except queue.Empty:
                continue

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()


class Gzip:
    """What is written here goes into `file` compressed, and is hashed in both forms. Neither name nor time is noted."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._deflate = isal_zlib.compressobj(LEVEL, wbits=31)
        self._buffer = bytearray()
        self.plain, self.compressed, self.size = hashlib.sha256(), hashlib.sha256(), 0

    def write(self, data: bytes | memoryview) -> int:
        self._buffer += data  # a tar is written in blocks of 512 bytes
        if len(self._buffer) >= CHUNK:
            self._flush()
        return len(data)

    def _flush(self) -> None:
        self.plain.update(self._buffer)
        self._emit(self._deflate.compress(self._buffer))
        self._buffer = bytearray()

    def _emit(self, data: bytes) -> None:
        self.compressed.update(data)
        self.size += len(data)
        write_all(self._file, data)

    def end(self) -> None:
        """Write what is left."""
        self._flush()
        self._emit(self._deflate.flush())


def write_all(file: IO[bytes], data: bytes | memoryview) -> None:
    """Write to a file without a buffer: a disk that fills up takes a part only, and the next write says so."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]
