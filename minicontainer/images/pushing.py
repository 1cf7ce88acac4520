"""Push: an image of the store into a registry, the manifest last.

A registry refuses a manifest of which it has not all the blobs, so these come first, several at a time. Those it has
already are not sent, neither those that another of its repositories has: the registry takes them from there (it
"mounts" them) when we know of one. What came from a registry goes back with the same digest: where the store keeps
Docker's manifest beside its OCI twin, Docker's is sent.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from typing import TYPE_CHECKING

from minicontainer.errors import ImageError
from minicontainer.images import progress as bars
from minicontainer.images.failures import RegistryError
from minicontainer.images.image import Image
from minicontainer.images.manifest import FOREIGN, Descriptor, Manifest
from minicontainer.images.reference import Reference
from minicontainer.images.registry import Registry
from minicontainer.images.store import Store
from minicontainer.images.transport import ATTEMPTS, pause

if TYPE_CHECKING:
    from collections.abc import Callable

    from minicontainer.images.credentials import Credentials
    from minicontainer.images.progress import Progress

AT_ONCE = 3
"""Blobs that travel at a time."""


def push(name: str, *, credentials: Credentials | None = None, progress: Progress | None = None) -> str:
    """Send the image `name` to the registry and repository in its name; the digest it has there.

    `tag` gives an image the name it should have there. Raises NotFoundError, ImageError.
    """
    store = Store()
    image = Image(store, store.find(name))
    reference = Reference.parse(name)
    if reference.digest:
        raise ImageError(f"{name} names a digest, but a push gives a tag", hint="minicontainer tag gives it one")
    document = store.document(image.entry.verbatim or image.entry.manifest.digest)
    manifest = Manifest.parse(document)
    show, end = bars.begin(progress)
    blobs = {blob.digest: blob for blob in (*manifest.layers, manifest.config) if blob.media_type not in FOREIGN}
    elsewhere = origins(store, reference)
    with Registry(reference, actions="pull,push", credentials=credentials) as registry:
        pool = ThreadPoolExecutor(AT_ONCE)
        try:
            jobs = [pool.submit(_send, store, registry, blob, elsewhere, show) for blob in blobs.values()]
            for done in jobs:
                done.result()
            registry.put_manifest(reference.target, document, manifest.media_type)
        finally:
            pool.shutdown(cancel_futures=True)
            end()
    return image.entry.verbatim or image.entry.manifest.digest


def origins(store: Store, reference: Reference) -> dict[str, str]:
    """Which other repository of the same registry may have a blob, by digest: what images of the store tell by name.

    It may be wrong (a name that was never pushed); then the registry says so, and the blob is sent.
    """
    found: dict[str, str] = {}
    for entry in store.entries():
        other = Reference.parse(entry.name) if entry.name else reference
        if other.registry == reference.registry and other.repository != reference.repository:
            manifest = Manifest.parse(store.document(entry.manifest.digest))
            for blob in (*manifest.layers, manifest.config):
                found.setdefault(blob.digest, other.repository)
    return found


def _send(store: Store, registry: Registry, blob: Descriptor, elsewhere: dict[str, str], show: Progress) -> None:
    if not store.has(blob):
        raise ImageError(f"the store has lost {blob.digest}", hint="pull or import the image again")
    path = store.blob(blob.digest)
    origin = elsewhere.get(blob.digest, "")
    sent = deliver(registry, blob, lambda at, size: _Watched(path, at, size, blob, show), origin)
    show(bars.Event(blob.digest, "done" if sent else "exists", blob.size, blob.size))


def deliver(registry: Registry, blob: Descriptor, opener: Callable[[int, int], FileIO], origin: str = "") -> bool:
    """See to it that the registry has a blob; False when nothing had to be sent. Repeats what may pass."""
    if registry.has_blob(blob.digest):
        return False
    for attempt in range(1, ATTEMPTS):
        try:
            return registry.upload(blob, opener, origin=origin)
        except RegistryError as error:
            if 0 < error.status < 500:
                raise
            time.sleep(pause(attempt))
    return registry.upload(blob, opener, origin=origin)


class _Watched(FileIO):
    """A part of a blob's file that tells how much of the blob has been read."""

    def __init__(self, path: str, at: int, size: int, blob: Descriptor, show: Progress) -> None:
        super().__init__(path)
        self.seek(at)
        self._end, self._blob, self._show = at + size, blob, show

    def read(self, size: int | None = -1) -> bytes:
        left = self._end - self.tell()
        data = super().read(left if size is None or size < 0 else min(size, left))
        self._show(bars.Event(self._blob.digest, "uploading", self.tell(), self._blob.size))
        return data or b""
