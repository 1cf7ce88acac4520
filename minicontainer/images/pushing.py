"""Push: an image of the store into a registry, the manifest last.

A registry refuses a manifest of which it has not all the blobs, so these come first, several at a time, and those it
has already are not sent. What came from a registry goes back with the same digest: where the store keeps Docker's
manifest beside its OCI twin, Docker's is sent.
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
from minicontainer.images.manifest import Descriptor, Manifest
from minicontainer.images.reference import Reference
from minicontainer.images.registry import Registry
from minicontainer.images.store import Store
from minicontainer.images.transport import ATTEMPTS

if TYPE_CHECKING:
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
    blobs = {blob.digest: blob for blob in (*manifest.layers, manifest.config)}
    with Registry(reference, actions="pull,push", credentials=credentials) as registry:
        pool = ThreadPoolExecutor(AT_ONCE)
        try:
            for done in [pool.submit(_send, store, registry, blob, show) for blob in blobs.values()]:
                done.result()
            registry.put_manifest(reference.target, document, manifest.media_type)
        finally:
            pool.shutdown(cancel_futures=True)
            end()
    return image.entry.verbatim or image.entry.manifest.digest


def _send(store: Store, registry: Registry, blob: Descriptor, show: Progress) -> None:
    if not store.has(blob):
        raise ImageError(f"the store has lost {blob.digest}", hint="pull or import the image again")
    if registry.has_blob(blob.digest):
        show(bars.Event(blob.digest, "exists", blob.size, blob.size))
        return
    for attempt in range(1, ATTEMPTS + 1):
        try:
            registry.upload(blob, lambda: _Watched(store.blob(blob.digest), blob, show))
            break
        except RegistryError as error:
            if attempt == ATTEMPTS or 0 < error.status < 500:
                raise
            time.sleep(0.2 * attempt)
    show(bars.Event(blob.digest, "done", blob.size, blob.size))


class _Watched(FileIO):
    """A blob's file that tells how much of it has been read."""

    def __init__(self, path: str, blob: Descriptor, show: Progress) -> None:
        super().__init__(path)
        self._blob, self._show = blob, show

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(-1 if size is None else size)
        self._show(bars.Event(self._blob.digest, "uploading", self.tell(), self._blob.size))
        return data or b""
