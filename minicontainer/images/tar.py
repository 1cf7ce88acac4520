"""Reading a tar archive: a chain of 512-byte blocks, and forty years of ways to write a long name.

Each file is a header block, its bytes, and zeros up to the next full block; two blocks of zeros end the archive. The
header's fields have a fixed width, so whatever does not fit comes in an entry of its own before: PAX records (type
`x`, "length key=value" lines) or GNU's long names (types `L` and `K`). A file with holes brings a map of its data.

The reader takes any stream, holds few pieces of it, and hashes it on the way: the hash of a layer's tar is its diff_id.
It says what the archive says and judges only the archive itself; what an entry may do is `unpack`'s to decide.
Sources: pax(1) "ustar interchange format", tar(5), GNU tar's manual "Basic Tar Format", and, where they leave a
choice, Go's archive/tar, with which other engines read the same bytes. Left out: multi-volume archives, incremental
dumps, names or sizes in a global PAX header (refused).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

from minicontainer.errors import ImageError
from minicontainer.images.hashing import Sha256

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK = 512
CHUNK = 128 << 10
"""Bytes of a file at a time: few enough that they are still in the processor's cache when the kernel copies them."""
ZEROS = bytes(BLOCK)
MAX_SPECIAL = 1 << 20
"""Bytes of PAX records, of a long name, or of a map of holes: as in Go's archive/tar."""

REGULAR, HARD_LINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
_LIKE_REGULAR = (b"0", b"\0", b"7", b"S")
_KNOWN = b"0123456"
_XATTR = b"SCHILY.xattr."
_SPARSE = b"GNU.sparse."


class Source(Protocol):
    """Where the bytes come from: a file, a pipe, a decompressor."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; none at the end."""


class Limits:
    """What a layer may cost, so that a small download cannot fill the disk.

    `size`: bytes of the tar, and of all files together with their holes; `file_size`: bytes of one file, with holes;
    `entries`: their number; `depth`: directories below one another; `devices`: whether device nodes are allowed.
    """

    def __init__(
        self,
        *,
        size: int = 64 << 30,
        file_size: int = 32 << 30,
        entries: int = 4_000_000,
        depth: int = 500,
        devices: bool = True,
    ) -> None:
        self.size, self.file_size, self.entries, self.depth, self.devices = size, file_size, entries, depth, devices


def printable(name: bytes) -> str:
    """A name for a message: printable, and not a page long."""
    text = name.decode(errors="backslashreplace")
    return repr(text if len(text) <= 120 else text[:117] + "…")[1:-1]


class Entry:
    """One entry: times in nanoseconds, `extents` the (offset, length) of the data in a file with holes, or None."""

    __slots__ = ("extents", "gid", "kind", "link", "major", "minor", "mode", "mtime", "name", "size", "uid", "xattrs")

    name: bytes
    kind: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    link: bytes
    major: int
    minor: int
    xattrs: dict[bytes, bytes]
    extents: list[tuple[int, int]] | None


class Reader:
    """The entries of a tar, one after the other: `next()`, then `copy()` for a regular file's bytes."""

    def __init__(self, source: Source, limits: Limits) -> None:
        self.source, self.limits = source, limits
        self.size = 0
        self.entries = 0
        self.expanded = 0
        self.broken: OSError | None = None
        """The source's own error, which must not be taken for one of what is done with its bytes."""
        self._chunk, self._at = b"", 0
        self._left = 0
        """Bytes of the present entry's data that nobody has asked for yet, and its padding."""
        self._padding = 0
        self._sha256 = Sha256()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._sha256.stop()

    def next(self) -> Entry | None:
        """The next entry; None at the end of the archive. Raises ImageError."""
        self._skip(self._left + self._padding)
        self._left = self._padding = 0
        records: dict[bytes, bytes] = {}
        long: dict[bytes, bytes] = {}
        while True:
            block = self._header()
            if block is None:
                if records or long:
                    raise ImageError("the tar ends after the records of an entry, before the entry")
                return None
            kind, size = block[156:157], _number(block[124:136], "size")
            if kind == b"x":
                records = _pax(self._special(size))
            elif kind == b"g":
                if unknown := [key for key in _pax(self._special(size)) if key != b"comment"]:
                    raise ImageError(f"a global PAX header with {printable(unknown[0])}: it would change every entry")
            elif kind in (b"L", b"K"):
                long[kind] = self._special(size).split(b"\0", 1)[0]
            else:
                return self._entry(block, kind, size, records, long)

    def copy(self, fd: int, offset: int | None, size: int) -> None:
        """Write the next `size` bytes of the present entry to the file `fd`, at `offset` or where it stands."""
        for piece in self.pieces(size):
            while piece:
                written = os.write(fd, piece) if offset is None else os.pwrite(fd, piece, offset)
                piece = piece[written:]
                if offset is not None:
                    offset += written

    def pieces(self, size: int) -> Iterator[memoryview]:
        """The next `size` bytes of the present entry, for whoever does not want them in a file."""
        self._left -= size
        while size:
            if self._at == len(self._chunk):
                self._fill()
            piece = memoryview(self._chunk)[self._at : self._at + size]
            self._at += len(piece)
            size -= len(piece)
            yield piece

    def end(self) -> str:
        """Read what follows the archive (it counts for the hash) and return the diff_id: "sha256:…"."""
        while self._read():
            pass
        return f"sha256:{self._sha256.hexdigest()}"

    # --- bytes ---------------------------------------------------------------------------------------------------

    def _read(self) -> bytes:
        try:
            chunk = self.source.read(CHUNK)
        except OSError as error:
            self.broken = error
            raise
        if chunk:
            self.size += len(chunk)
            if self.size > self.limits.size:
                raise ImageError(
                    f"the layer is larger than {self.limits.size} bytes", hint="raise the limit, or do not"
                )
            self._sha256.update(chunk)
        return chunk

    def _fill(self) -> None:
        self._chunk, self._at = self._read(), 0
        if not self._chunk:
            if self.size < BLOCK:
                raise ImageError(
                    f"this is no tar: {self.size} bytes, and a header alone has {BLOCK}", hint="look at what is in it"
                )
            raise ImageError("the tar is cut off in the middle", hint="download it again")

    def _take(self, size: int) -> bytes:
        start, self._at = self._at, self._at + size
        if self._at <= len(self._chunk):
            return self._chunk[start : self._at]
        pieces, missing = [self._chunk[start:]], self._at - len(self._chunk)
        while missing:
            self._fill()
            pieces.append(self._chunk[:missing])
            self._at = len(pieces[-1])
            missing -= self._at
        return b"".join(pieces)

    def _skip(self, size: int) -> None:
        while size > len(self._chunk) - self._at:
            size -= len(self._chunk) - self._at
            self._fill()
        self._at += size

    def _special(self, size: int) -> bytes:
        if size > MAX_SPECIAL:
            raise ImageError(f"{size} bytes of records before an entry: {MAX_SPECIAL} at most")
        data = self._take(size)
        self._skip(-size % BLOCK)
        return data

    def _header(self) -> bytes | None:
        if self._at == len(self._chunk):
            # Go and GNU tar take an end without blocks of zeros for an end; that nothing is missing, the digest says.
            self._chunk, self._at = self._read(), 0
            if not self._chunk:
                return None
        block = self._take(BLOCK)
        if block == ZEROS:
            if self._at < len(self._chunk) and self._take(BLOCK) != ZEROS:
                raise ImageError("a block of zeros in the middle of the tar")
            return None
        said = _octal(block[148:156])
        rest = block[:148] + 8 * b" " + block[156:]
        if said != (total := sum(rest)) and said != total - 256 * sum(byte > 127 for byte in rest):  # signed, once
            raise ImageError("this is no tar: a header's checksum is wrong", hint="is it compressed, or encrypted?")
        return block

    # --- entries -------------------------------------------------------------------------------------------------

    def _entry(
        self, block: bytes, kind: bytes, size: int, records: dict[bytes, bytes], long: dict[bytes, bytes]
    ) -> Entry:
        self.entries += 1
        if self.entries > self.limits.entries:
            raise ImageError(f"the layer has more than {self.limits.entries} entries")
        entry = Entry()
        entry.name, entry.link = long.get(b"L") or _name(block), long.get(b"K") or _string(block[157:257])
        entry.mode = _number(block[100:108], "mode") & 0o7777
        entry.uid, entry.gid = _number(block[108:116], "uid"), _number(block[116:124], "gid")
        entry.mtime = _number(block[136:148], "mtime", signed=True) * 1_000_000_000
        entry.major = entry.minor = 0
        entry.xattrs = {}
        entry.extents = None
        entry.kind = REGULAR if kind in _LIKE_REGULAR else kind
        if kind == b"\0" and entry.name.endswith(b"/"):
            entry.kind = DIRECTORY  # before 1988 a directory had no type of its own
        if entry.kind not in _KNOWN or not entry.kind:
            raise ImageError(f"{printable(entry.name)}: unknown type {printable(kind)!r}")
        if entry.kind in (CHARACTER, BLOCK_DEVICE):
            entry.major = _number(block[329:337], "device number")
            entry.minor = _number(block[337:345], "device number")
        if records:
            size = self._apply(entry, records, size)
        if not (0 <= entry.uid < 0xFFFFFFFF and 0 <= entry.gid < 0xFFFFFFFF):
            raise ImageError(f"{printable(entry.name)}: owner {entry.uid}:{entry.gid} is out of range")
        entry.size = 0
        if entry.kind == REGULAR:
            entry.size = self._left = size
            self._padding = -size % BLOCK
            if kind == b"S":
                self._old_sparse(entry, block)
            elif any(key.startswith(_SPARSE) for key in records):
                self._pax_sparse(entry, records)
            self._count(entry)
        return entry

    def _apply(self, entry: Entry, records: dict[bytes, bytes], size: int) -> int:
        """Let PAX records override the header. Returns the size of the data."""
        for key, value in records.items():
            if key == b"path":
                entry.name = _no_nul(value)
            elif key == b"linkpath":
                entry.link = _no_nul(value)
            elif key == b"size":
                size = _decimal(value, "size")
            elif key == b"uid":
                entry.uid = _decimal(value, "uid")
            elif key == b"gid":
                entry.gid = _decimal(value, "gid")
            elif key == b"mtime":
                entry.mtime = _seconds(value)
            elif key.startswith(_XATTR):
                entry.xattrs[key[len(_XATTR) :].replace(b"%3D", b"=").replace(b"%25", b"%")] = value
        return size

    def _count(self, entry: Entry) -> None:
        if entry.size > self.limits.file_size:
            raise ImageError(f"{printable(entry.name)} has {entry.size} bytes: {self.limits.file_size} at most")
        self.expanded += entry.size
        if self.expanded > self.limits.size:
            raise ImageError(f"the layer's files have more than {self.limits.size} bytes")

    def _old_sparse(self, entry: Entry, block: bytes) -> None:
        """GNU's own type S: four extents in the header, the rest in blocks that follow it."""
        fields, more = block[386:482], block[482]
        while more:
            if len(fields) > MAX_SPECIAL:
                raise ImageError(f"{printable(entry.name)}: its map of holes is too long")
            extra = self._take(BLOCK)
            fields, more = fields + extra[:504], extra[504]
        numbers = [_number(fields[at : at + 12], "sparse map") for at in range(0, len(fields), 12) if fields[at]]
        entry.size = _number(block[483:495], "size")
        self._extents(entry, numbers)

    def _pax_sparse(self, entry: Entry, records: dict[bytes, bytes]) -> None:
        """The map in the records (GNU.sparse 0.1) or at the beginning of the data (1.0)."""
        entry.name = records.get(b"GNU.sparse.name", entry.name)
        size = records.get(b"GNU.sparse.realsize", records.get(b"GNU.sparse.size"))
        if size is None:
            raise ImageError(f"{printable(entry.name)}: a file with holes, of no size")
        entry.size = _decimal(size, "size")
        if records.get(b"GNU.sparse.major") == b"1":
            numbers: list[int] = []
            text, used = b"", 0
            wanted = 1
            while len(numbers) < wanted:
                while text.count(b"\n") < min(wanted - len(numbers), BLOCK):
                    used += BLOCK
                    if used > min(self._left, MAX_SPECIAL):
                        raise ImageError(f"{printable(entry.name)}: its map of holes does not end")
                    text += self._take(BLOCK)
                *lines, text = text.split(b"\n")
                if wanted == 1:
                    wanted += 2 * _decimal(lines[0], "sparse map")
                numbers += [_decimal(line, "sparse map") for line in lines[: wanted - len(numbers)]]
                text = b"" if len(numbers) == wanted else text
            self._left -= used
            self._extents(entry, numbers[1:])
        else:
            text = records.get(b"GNU.sparse.map", b"")
            self._extents(entry, [_decimal(number, "sparse map") for number in text.split(b",") if text])

    def _extents(self, entry: Entry, numbers: list[int]) -> None:
        entry.extents = list(zip(numbers[::2], numbers[1::2], strict=len(numbers) % 2 == 0))
        end = 0
        for offset, length in entry.extents:
            if offset < end or offset + length > entry.size:
                raise ImageError(f"{printable(entry.name)}: its map of holes contradicts itself")
            end = offset + length
        if sum(length for _, length in entry.extents) != self._left:
            raise ImageError(f"{printable(entry.name)}: its map of holes does not fit its data")


def _string(field: bytes) -> bytes:
    return field.split(b"\0", 1)[0]


def _name(block: bytes) -> bytes:
    name = _string(block[:100])
    if block[257:263] == b"ustar\0":  # GNU's "ustar  " has other things in the prefix's place
        prefix = _string(block[345:476] if block[508:512] == b"tar\0" else block[345:500])
        if prefix:
            return prefix + b"/" + name
    return name


def _number(field: bytes, what: str, signed: bool = False) -> int:
    """Octal digits; or, with the highest bit set, two's complement in the rest (GNU, star)."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big", signed=True) if field[0] & 0x40 else int.from_bytes(field, "big")
        if not field[0] & 0x40:
            value -= 1 << (8 * len(field) - 1)
    else:
        found = _octal(field)
        if found is None:
            raise ImageError(f"a header's {what} is no octal number: {printable(field)}")
        return found
    if (value < 0 and not signed) or abs(value) >> 63:
        raise ImageError(f"a header's {what} is out of range: {value}")
    return value


def _octal(field: bytes) -> int | None:
    digits = field.strip(b" \0")
    try:
        return int(digits, 8) if digits.isdigit() else None if digits else 0
    except ValueError:  # 8 or 9
        return None


def _decimal(text: bytes, what: str) -> int:
    if not text.isdigit() or len(text) > 19 or int(text) >> 63:
        raise ImageError(f"a PAX record's {what} is no number in range: {printable(text)}")
    return int(text)


def _seconds(text: bytes) -> int:
    """ "-1.5" as nanoseconds, exactly."""
    sign, digits = (-1, text[1:]) if text[:1] == b"-" else (1, text)
    whole, _, fraction = digits.partition(b".")
    if fraction and not fraction.isdigit():
        raise ImageError(f"a PAX record's mtime is no number: {printable(text)}")
    return sign * (_decimal(whole, "mtime") * 1_000_000_000 + int(fraction[:9].ljust(9, b"0")))


def _no_nul(value: bytes) -> bytes:
    if b"\0" in value:
        raise ImageError(f"a NUL in the name {printable(value)}")
    return value


def _pax(data: bytes) -> dict[bytes, bytes]:
    """The records "length key=value\\n"; the length counts the whole record in bytes. pax(1)"""
    records: dict[bytes, bytes] = {}
    pieces: list[bytes] = []
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 20)
        length = data[at:space] if space > at else b""
        end = at + int(length) if length.isdigit() else 0
        key, equals, value = data[space + 1 : max(end - 1, 0)].partition(b"=")
        if not space < end <= len(data) or data[end - 1 : end] != b"\n" or not equals or not key:
            raise ImageError("a PAX header's records are malformed")
        if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):  # GNU.sparse 0.0 repeats them for each extent
            pieces.append(value)
        elif value:
            records[key] = value
        else:
            records.pop(key, None)
        at = end
    if pieces:
        records[b"GNU.sparse.map"] = b",".join(pieces)
    return records
