"""What is fuzzed: functions of bytes that anybody may send us, each with what must hold whatever they are.

The tests feed them with what hypothesis thinks of, and with every file of `corpus/`; `make fuzz` does it for longer,
and has atheris (libFuzzer) look for bytes that reach new lines. What it finds goes into `corpus/`, and so into the
tests.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from minicontainer import state
from minicontainer.errors import ContainerError, ImageError
from minicontainer.images import challenge
from minicontainer.images.loading import load
from minicontainer.images.manifest import OCI_MANIFEST, Config, Manifest, chain_ids, entries_of
from minicontainer.images.platforms import Platform
from minicontainer.images.reference import Reference
from minicontainer.images.registry import origin
from minicontainer.images.store import Store
from minicontainer.images.tar import BLOCK, REGULAR, ZEROS, Limits, Reader
from minicontainer.images.unpack import unpack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")
CORPUS = f"{os.path.dirname(os.path.abspath(__file__))}/corpus"


def reference(data: bytes) -> None:
    """A name is refused, or means one address, and is written in a way that means the same again."""
    try:
        found = Reference.parse(data.decode("utf-8", "surrogateescape"))
    except ImageError:
        return
    assert Reference.parse(found.name) == found
    assert Reference.parse(found.familiar) == found
    url = f"{origin(found.registry)}/v2/{found.repository}/manifests/{found.target}"
    parts = urlsplit(url)
    assert url.isascii()
    assert url.isprintable()
    assert not parts.query
    assert not parts.fragment
    assert parts.username is None
    assert parts.hostname
    assert parts.port is None or 0 < parts.port < 65536
    assert ".." not in parts.path.split("/")
    assert parts.path == f"/v2/{found.repository}/manifests/{found.target}"


def wwwauthenticate(data: bytes) -> None:
    """A challenge is read or passed over; nothing is invented."""
    text = data.decode("latin-1")
    for one in challenge.parse([text, text]):
        assert one.scheme == one.scheme.lower()
        assert one.scheme in text.lower()
        for key in one.parameters:
            assert key in text.lower()


def manifest(data: bytes) -> None:
    """A manifest is refused, or can be written down again in OCI's words."""
    found = _refused(lambda: Manifest.parse(data, OCI_MANIFEST))
    if found is None:
        return
    twin = found.twin()
    if twin is not None:
        again = Manifest.parse(twin)
        assert again.media_type == OCI_MANIFEST
        assert [layer.digest for layer in again.layers] == [layer.digest for layer in found.layers]
        assert again.twin() is None
    json.dumps([layer.json() for layer in found.layers])


def index(data: bytes) -> None:
    """Of an index's entries each suits a platform or does not."""
    for descriptor, platform in _refused(lambda: entries_of(data)) or []:
        assert descriptor.size >= 0
        assert platform is None or Platform.host().rank(platform) >= -1


def config(data: bytes) -> None:
    """What a config says can be given to a process."""
    layers = 0
    try:
        layers = len(json.loads(data)["rootfs"]["diff_ids"])
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    found = _refused(lambda: Config.parse(data, layers))
    if found is None:
        return
    for word in (*found.entrypoint, *found.cmd, *found.env, *found.env.values(), found.user, found.working_dir):
        assert b"\0" not in os.fsencode(word)
    assert all(len(chain_id) == 64 for chain_id in chain_ids(found.diff_ids))


LIMITS = Limits(size=4 << 20, file_size=1 << 20, entries=200, depth=50)


def tar(data: bytes) -> None:
    """What a tar says is within the limits and within the tar, however it is written."""
    for form in (data, checksummed(data)):
        _refused(lambda form=form: _read(form))  # type: ignore[misc]


def _read(data: bytes) -> None:
    with Reader(io.BytesIO(data), LIMITS) as reader:
        while entry := reader.next():
            assert 0 <= entry.size <= LIMITS.file_size
            assert 0 <= entry.mode <= 0o7777
            assert min(entry.uid, entry.gid, entry.major, entry.minor) >= 0
            length = entry.size
            if entry.extents is not None:
                assert all(0 <= offset <= offset + size <= entry.size for offset, size in entry.extents)
                length = sum(size for _, size in entry.extents)
            if entry.kind == REGULAR:
                assert sum(map(len, reader.pieces(length))) == length
        assert reader.entries <= LIMITS.entries
        assert reader.end().startswith("sha256:")
        assert reader.size == len(data)


def layer(data: bytes) -> None:
    """A layer is unpacked into its directory or is not there at all; beside it nothing changes."""
    for form in (data, checksummed(data)):
        with _scratch() as place:
            inside = f"{place}/above/inside"
            os.makedirs(os.path.dirname(inside))
            for name in ("file", "above/file"):
                with open(f"{place}/{name}", "w") as file:
                    file.write("outside")
            before = _seen(place)
            done = _refused(lambda form=form, inside=inside: unpack(io.BytesIO(form), inside, limits=LIMITS))  # type: ignore[misc]
            assert os.path.isdir(inside) == (done is not None)
            if done:
                assert done.size == len(form)
                shutil.rmtree(inside)
            assert _seen(place) == before


def archive(data: bytes) -> None:
    """An archive of images brings images or nothing, and what the store then has is what its name says."""
    for form in (data, checksummed(data)):
        with _scratch() as place:
            os.environ["MINICONTAINER_DATA_ROOT"] = f"{place}/data"
            found = _refused(lambda form=form: load(io.BytesIO(form), limits=LIMITS, progress=lambda event: None))  # type: ignore[misc]
            store = Store()
            blobs = set(os.listdir(store.blobs))
            assert bool(store.entries()) == bool(found)
            assert bool(blobs) == bool(found)
            for name in blobs:
                with open(f"{store.blobs}/{name}", "rb") as file:
                    assert hashlib.file_digest(file, "sha256").hexdigest() == name
            assert os.listdir(store.ingest) in ([], ["lock"])
            assert os.listdir(place) == ["data"]


def checksummed(data: bytes) -> bytes:
    """A tar with right checksums: what is behind them would hardly ever be reached by chance."""
    blocks, at = bytearray(data), 0
    while at + BLOCK <= len(blocks):
        block = blocks[at : at + BLOCK]
        if block != ZEROS:
            block[148:156] = b" " * 8
            blocks[at + 148 : at + 156] = b"%06o\0 " % sum(block)
        size = bytes(block[124:136]).strip(b" \0")
        known = size.isdigit() and not set(size) & set(b"89")
        at += BLOCK + (-(-int(size, 8) // BLOCK) * BLOCK if known else 0)
    return bytes(blocks)


@contextmanager
def _scratch() -> Iterator[str]:
    """A directory in memory, where it is quick; and the data root as it was."""
    before = state.data_root()
    place = tempfile.mkdtemp(prefix="minicontainer-fuzz-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
    try:
        yield place
    finally:
        os.environ["MINICONTAINER_DATA_ROOT"] = before
        shutil.rmtree(place)


def _seen(place: str) -> list[tuple[str, int, int, int, int]]:
    """Names with mode, owner, links, size and time of change of all that is there."""
    found = []
    for inner, _, names in os.walk(place):
        for path in (inner, *(f"{inner}/{name}" for name in names)):
            entry = os.lstat(path)
            size = entry.st_size if path != f"{place}/above" else 0
            found.append((path, entry.st_mode, entry.st_uid, entry.st_nlink, size))
    return sorted(found)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "reference": reference,
    "challenge": wwwauthenticate,
    "manifest": manifest,
    "index": index,
    "config": config,
    "tar": tar,
    "layer": layer,
    "archive": archive,
}


def _refused(make: Callable[[], T]) -> T | None:
    """What was made, or None if our own error says why not; any other error is what we look for."""
    try:
        return make()
    except ContainerError:
        return None


def corpus(name: str) -> list[bytes]:
    """What is kept for a target."""
    found = []
    for file in sorted(os.listdir(f"{CORPUS}/{name}")):
        with open(f"{CORPUS}/{name}/{file}", "rb") as seed:
            found.append(seed.read())
    return found
