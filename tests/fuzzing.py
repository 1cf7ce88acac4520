"""What is fuzzed: functions of bytes that anybody may send us, each with what must hold whatever they are.

The tests feed them with what hypothesis thinks of, and with every file of `corpus/`; `make fuzz` does it for longer,
and has atheris (libFuzzer) look for bytes that reach new lines. What it finds goes into `corpus/`, and so into the
tests.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from minicontainer.errors import ContainerError, ImageError
from minicontainer.images import challenge
from minicontainer.images.manifest import OCI_MANIFEST, Config, Manifest, chain_ids, entries_of
from minicontainer.images.platforms import Platform
from minicontainer.images.reference import Reference
from minicontainer.images.registry import origin

if TYPE_CHECKING:
    from collections.abc import Callable

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


TARGETS: dict[str, Callable[[bytes], None]] = {
    "reference": reference,
    "challenge": wwwauthenticate,
    "manifest": manifest,
    "index": index,
    "config": config,
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
