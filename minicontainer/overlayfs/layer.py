"""From an upper directory to a layer: the tar archive that a registry, and every other engine, understands.

Reproducible: the same tree gives the same bytes, whoever packs it, wherever, whenever. So the order is fixed (each
directory before what is in it, names by their bytes), owners are numbers, and nothing is written that the tree does
not hold (times of access, device numbers, link counts). tarfile(3) encodes the headers: the POSIX (PAX) form, with
records for what the old one cannot hold (long names, fractions of a second, extended attributes, as GNU tar and Go
write them).

Left out: sockets (tar has none; nobody can use one after its server has gone), and holes (written as zeros).
"""

from __future__ import annotations

import os
import stat

from minicontainer.errors import ContainerError
from minicontainer.overlayfs.changes import Upper, names
from minicontainer.overlayfs.whiteouts import OCI_OPAQUE, OCI_PREFIX, PRIVATE, is_whiteout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import IO

CHUNK = 1 << 20
_NANOSECONDS = 1_000_000_000


class Layer:
    """What `commit` has written: `diff_id` ("sha256:…", of the tar as it is, not compressed) and `size` in bytes."""

    __slots__ = ("diff_id", "size")

    def __init__(self, diff_id: str, size: int) -> None:
        self.diff_id, self.size = diff_id, size


def commit(upper: str, stream: IO[bytes], layers: Sequence[str] = (), *, source_date_epoch: int | None = None) -> Layer:
    """Write the directory `upper` (an `Overlay.upperdir`, or any directory) to `stream` as an OCI layer.

    `layers`, the base first, are needed only where the overlay had metacopy or redirect_dir on: what `upper` only
    refers to is read through them and written in full. `source_date_epoch`, in seconds, is the latest time of change
    that is written (<https://reproducible-builds.org/specs/source-date-epoch/>); None keeps all, to the nanosecond.
    What disappears while it is read is left out. Raises ImageError, and ContainerError when a file becomes shorter
    while it is read. OCI image-spec, layer.md
    """
    writer = _Writer(stream, source_date_epoch)
    with Upper(upper, layers) as tree:
        _directory(writer, tree, tree.fd, "")
    return writer.end()


def _directory(writer: _Writer, tree: Upper, fd: int, path: str) -> None:
    for name in names(fd):
        try:
            _name(writer, tree, fd, path, name)
        except FileNotFoundError:  # its container has removed it since the directory was listed
            continue


def _name(writer: _Writer, tree: Upper, fd: int, path: str, name: str) -> None:
    entry = os.stat(name, dir_fd=fd, follow_symlinks=False)
    child, kind = f"{path}{name}", stat.S_IFMT(entry.st_mode)
    if is_whiteout(entry):
        writer.whiteout(f"{path}{OCI_PREFIX}{name}")
    elif kind == stat.S_IFDIR:
        content, opaque = tree.directory(name, fd, f"/{child}")
        try:
            writer.entry(child + "/", entry, _place(fd, name))
            if opaque:
                writer.whiteout(f"{child}/{OCI_OPAQUE}")
            _directory(writer, tree, content, child + "/")
        finally:
            os.close(content)
    elif kind == stat.S_IFREG and not writer.has(entry):
        content = tree.content(name, fd, f"/{child}")
        try:
            writer.entry(child, entry, _place(fd, name), content=content)
        finally:
            os.close(content)
    elif kind != stat.S_IFSOCK:
        target = os.readlink(name, dir_fd=fd) if kind == stat.S_IFLNK else ""
        writer.entry(child, entry, _place(fd, name), target=target)


def _place(dir_fd: int, name: str) -> str:
    """A path for the calls that take no directory descriptor; only its last name is looked up, and not followed."""
    return f"/proc/self/fd/{dir_fd}/{name}"


class _Writer:
    """Writes entries, and counts and hashes what it writes."""

    def __init__(self, stream: IO[bytes], latest: int | None) -> None:
        import hashlib

        self.stream, self.latest = stream, latest
        self.sha256, self.size = hashlib.sha256(), 0
        self.seen: dict[tuple[int, int], str] = {}

    def has(self, entry: os.stat_result) -> bool:
        """Whether this file has been written under another name."""
        return entry.st_nlink > 1 and (entry.st_dev, entry.st_ino) in self.seen

    def whiteout(self, path: str) -> None:
        """An empty file, the same wherever and whenever it is written."""
        self._header(path, b"0", {})

    def entry(self, path: str, entry: os.stat_result, place: str, *, target: str = "", content: int = -1) -> None:
        kinds = {stat.S_IFDIR: b"5", stat.S_IFLNK: b"2", stat.S_IFIFO: b"6", stat.S_IFCHR: b"3", stat.S_IFBLK: b"4"}
        kind = kinds.get(stat.S_IFMT(entry.st_mode), b"0")
        if kind in b"02346" and self.has(entry):
            self._header(path, b"1", {}, entry, target=self.seen[entry.st_dev, entry.st_ino])
            return
        records = {}
        for name in sorted(os.listxattr(place, follow_symlinks=False)):
            if not name.startswith(PRIVATE):
                key = name.replace("%", "%25").replace("=", "%3D")  # as GNU tar does: a "=" would end the key
                value = os.getxattr(place, name, follow_symlinks=False)
                records[f"SCHILY.xattr.{key}"] = value.decode(errors="surrogateescape")
        size = os.fstat(content).st_size if content >= 0 else 0
        if kind != b"5" and entry.st_nlink > 1:
            self.seen[entry.st_dev, entry.st_ino] = path
        self._header(path, kind, records, entry, target=target, size=size)
        if content >= 0:
            self._content(path, content, size)

    def _header(
        self,
        path: str,
        kind: bytes,
        records: dict[str, str],
        entry: os.stat_result | None = None,
        *,
        target: str = "",
        size: int = 0,
    ) -> None:
        import tarfile

        info = tarfile.TarInfo(path)
        info.type, info.linkname, info.size, info.mode = kind, target, size, 0
        if entry is not None:
            info.mode, info.uid, info.gid = stat.S_IMODE(entry.st_mode), entry.st_uid, entry.st_gid
            if kind in b"34":
                info.devmajor, info.devminor = os.major(entry.st_rdev), os.minor(entry.st_rdev)
            seconds, fraction = divmod(entry.st_mtime_ns, _NANOSECONDS)
            if self.latest is not None and seconds >= self.latest:
                seconds, fraction = self.latest, 0
            info.mtime = seconds
            if fraction:
                records["mtime"] = _time(entry.st_mtime_ns)
        info.pax_headers = records
        self._write(info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))

    def _content(self, path: str, fd: int, size: int) -> None:
        left = size
        while left:
            data = os.read(fd, min(left, CHUNK))
            if not data:
                raise ContainerError(f"{path} became shorter while it was read", hint="stop the container, try again")
            self._write(data)
            left -= len(data)
        self._write(bytes(-size % 512))

    def _write(self, data: bytes) -> None:
        self.stream.write(data)
        self.sha256.update(data)
        self.size += len(data)

    def end(self) -> Layer:
        self._write(bytes(1024))
        return Layer(f"sha256:{self.sha256.hexdigest()}", self.size)


def _time(nanoseconds: int) -> str:
    """Seconds with a fraction, exactly: a float has no room for nanoseconds since 1970."""
    sign, (seconds, fraction) = "-" if nanoseconds < 0 else "", divmod(abs(nanoseconds), _NANOSECONDS)
    return f"{sign}{seconds}.{fraction:09}".rstrip("0")
