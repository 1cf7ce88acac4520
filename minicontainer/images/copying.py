"""Copy: an image from one registry into another, past our store.

    index ──► each manifest ──► its config and layers        first what is pointed to, last what points: the tag

Documents go over byte for byte, so the digest stays, and with it all platforms and whatever else is below the name: an
artifact can be copied though it cannot be pulled. A blob flows through memory piece by piece, hashed on its way, and
never touches the disk. Within one registry nothing flows at all: it takes the blobs from its other repository.

Left out: signatures and other things that point *to* an image (the referrers API), and Docker's foreign layers, which
stay at the addresses in their descriptors.
"""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Self, cast

from minicontainer.errors import ImageError
from minicontainer.images import progress as bars
from minicontainer.images.choosing import DEEPEST, resolve
from minicontainer.images.manifest import FOREIGN, INDEXES, Descriptor, entries_of, media_type_of, parse_document
from minicontainer.images.platforms import Platform
from minicontainer.images.pushing import AT_ONCE, deliver
from minicontainer.images.reference import Reference
from minicontainer.images.registry import Registry

if TYPE_CHECKING:
    from io import FileIO

    from minicontainer.images.credentials import Credentials
    from minicontainer.images.progress import Progress
    from minicontainer.images.transport import Answer

MOST = 1000
"""Documents below one name."""


def copy(
    source: str,
    destination: str,
    *,
    platform: str = "",
    credentials: Credentials | None = None,
    destination_credentials: Credentials | None = None,
    progress: Progress | None = None,
) -> str:
    """Copy what the name `source` stands for to the name `destination`; the digest that it has there.

    With all its platforms and so with the same digest; or `platform` alone. The credentials are for the two registries
    where `~/.docker/config.json` has none. Raises NotFoundError and ImageError; then `destination` is what it was.
    """
    origin, target = Reference.parse(source), Reference.parse(destination)
    show, end = bars.begin(progress)
    try:
        with (
            Registry(origin, credentials=credentials) as giver,
            Registry(target, actions="pull,push", credentials=destination_credentials) as taker,
        ):
            mover = _Mover(giver, taker, show)
            if platform:
                found = resolve(giver, origin.target, Platform.parse(platform))
                document, media_type = found.document, found.media_type
                digest = f"sha256:{hashlib.sha256(document).hexdigest()}"
            else:
                document, media_type, digest = giver.manifest(origin.target)
            if target.digest and target.digest != digest:
                raise ImageError(f"{source} is {digest}, not {target.digest}", hint="leave the digest away")
            mover.below(document, media_type, 0)
            taker.put_manifest(target.target, document, media_type_of(parse_document(document, "manifest"), media_type))
            return digest
    finally:
        end()


class _Mover:
    def __init__(self, giver: Registry, taker: Registry, show: Progress) -> None:
        self.giver, self.taker, self.show = giver, taker, show
        same = giver.reference.registry == taker.reference.registry
        self.origin = giver.reference.repository if same else ""
        self.done: set[str] = set()

    def below(self, document: bytes, announced: str, depth: int) -> None:
        """Copy all that a document points to."""
        parsed = parse_document(document, "manifest")
        if media_type_of(parsed, announced) not in INDEXES:
            self.blobs(parsed)
            return
        if depth == DEEPEST:
            raise ImageError(f"{self.giver.reference.familiar}: an index of an index of an index", hint=_JOKE)
        for descriptor, _ in entries_of(document):
            if descriptor.digest in self.done:
                continue
            self.done.add(descriptor.digest)
            if len(self.done) > MOST:
                raise ImageError(f"{self.giver.reference.familiar}: more than {MOST} documents", hint=_JOKE)
            inner, media_type, digest = self.giver.manifest(descriptor.digest)
            self.below(inner, media_type, depth + 1)
            self.taker.put_manifest(digest, inner, media_type_of(parse_document(inner, "manifest"), media_type))

    def blobs(self, manifest: dict[str, Any]) -> None:
        """Copy what a manifest points to, several blobs at a time."""
        pointers = [manifest.get("config"), *(manifest.get("layers") or [])]
        found = [Descriptor.parse(pointer, "a descriptor of the manifest") for pointer in pointers]
        blobs = {blob.digest: blob for blob in found if blob.media_type not in FOREIGN}
        pool = ThreadPoolExecutor(AT_ONCE)
        try:
            for done in [pool.submit(self.move, blob) for blob in blobs.values()]:
                done.result()
        finally:
            pool.shutdown(cancel_futures=True)

    def move(self, blob: Descriptor) -> None:
        passing = _Passing(self.giver, blob, self.show)
        sent = deliver(self.taker, blob, lambda at, size: cast("FileIO", passing.part(at, size)), self.origin)
        self.show(bars.Event(blob.digest, "done" if sent else "exists", blob.size, blob.size))


class _Passing:
    """A blob on its way: hashed over all its parts, and held back at its last byte if it is not the right one."""

    def __init__(self, giver: Registry, blob: Descriptor, show: Progress) -> None:
        self.giver, self.blob, self.show = giver, blob, show
        self.sha256, self.hashed = hashlib.sha256(), 0

    def part(self, at: int, size: int) -> _Part:
        """The bytes from `at` on."""
        if at != self.hashed:  # it begins again; a later part of one that broke is left to the other registry's check
            self.sha256, self.hashed = hashlib.sha256(), 0
        return _Part(self, at, size)

    def seen(self, data: memoryview, at: int) -> None:
        if at == self.hashed:
            self.sha256.update(data)
            self.hashed += len(data)
        if self.hashed == self.blob.size and f"sha256:{self.sha256.hexdigest()}" != self.blob.digest:
            raise ImageError(
                f"the blob {self.blob.digest} that {self.giver.name} sends is sha256:{self.sha256.hexdigest()}",
                hint="something between the registry and here changes content, or its storage is damaged",
            )
        self.show(bars.Event(self.blob.digest, "uploading", at + len(data), self.blob.size))


class _Part:
    """Some of its bytes, read from the one registry while they are sent to the other."""

    def __init__(self, passing: _Passing, at: int, size: int) -> None:
        self._passing, self._at, self._end = passing, at, at + size
        self._answer: Answer = passing.giver.blob(passing.blob, at)
        if at and self._answer.status == 200:  # it cannot begin in the middle
            self._skip(at)

    def _skip(self, count: int) -> None:
        buffer = memoryview(bytearray(1 << 16))
        while count:
            count -= self._answer.readinto(buffer[: min(count, len(buffer))]) or count

    def read(self, size: int) -> memoryview:
        buffer = memoryview(bytearray(min(size, self._end - self._at)))
        data = buffer[: self._answer.readinto(buffer) if buffer else 0]
        self._passing.seen(data, self._at)
        self._at += len(data)
        return data

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._answer.close()


_JOKE = "this is no honest image"
