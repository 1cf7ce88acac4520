"""Check: is what the store has still what it was when it came?

A pull verifies everything once and nothing ever again: that is why a container starts in milliseconds. Disks lose
bits, though, and root changes files. This reads it all again when somebody wants to know, piece by piece: each blob
must have its digest, and each unpacked layer must be what unpacking its blob makes now. What is damaged is put right
alone: a blob comes again from the registry in the image's name, a layer is unpacked again from its blob.

The findings come one by one, each when it is asked for. Left out: an image that was made here and pushed nowhere; its
blobs are nowhere else.
"""

from __future__ import annotations

import hashlib
import os
import time
from typing import TYPE_CHECKING

from minicontainer.errors import ContainerError, ImageError
from minicontainer.images.comparing import differs
from minicontainer.images.compression import CHUNK, Ahead, decompress
from minicontainer.images.manifest import Config, Descriptor, Manifest
from minicontainer.images.reference import Reference
from minicontainer.images.registry import Registry
from minicontainer.images.store import Entry, Store, host_error, used_layers
from minicontainer.images.unpack import unpack
from minicontainer.overlayfs.upper import remove_tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from minicontainer.images.session import Session


_TICK = 20_000_000
"""Nanoseconds that a file's time may be behind the clock: the kernel takes it from its last tick."""


class Finding:
    """One blob or layer: `kind` ("blob" or "layer"), `digest` (a layer's chain id), `size` in bytes of a blob.

    `status` is "good", "damaged" (and could not be put right: `reason` says why), or "mended"; `reason` is then what
    was wrong.
    """

    __slots__ = ("digest", "image", "kind", "reason", "size", "status")

    def __init__(
        self, kind: str, digest: str, image: str, size: int = 0, status: str = "good", reason: str = ""
    ) -> None:
        self.kind, self.digest, self.image, self.size = kind, digest, image, size
        self.status, self.reason = status, reason

    def __repr__(self) -> str:
        short = self.digest.removeprefix("sha256:")[:12]
        return f"<{self.kind} {short} {self.status}{f': {self.reason}' if self.reason else ''}>"


def check(*names: str, repair: bool = True) -> Iterator[Finding]:
    """Verify the images, all if none is named: what was found, blob by blob, layer by layer, each once.

    Raises NotFoundError.
    """
    store = Store()
    entries = [store.find(name) for name in names] if names else store.entries()
    return _check(store, entries, repair=repair)


def _check(store: Store, entries: list[Entry], *, repair: bool) -> Iterator[Finding]:
    seen: set[str] = set()
    for entry in entries:
        with store.session() as session:
            yield from _Checker(store, session, entry, repair, seen).findings()


class _Checker:
    def __init__(self, store: Store, session: Session, entry: Entry, repair: bool, seen: set[str]) -> None:
        self.store, self.session, self.entry, self.repair, self.seen = store, session, entry, repair, seen
        self.name = Reference.parse(entry.name).familiar if entry.name else entry.manifest.digest

    def findings(self) -> Iterator[Finding]:
        entry = self.entry
        if entry.verbatim:
            yield from self.blob(Descriptor("manifest", entry.verbatim, -1))
        yield from self.blob(Descriptor("manifest", entry.manifest.digest, entry.manifest.size))
        try:
            manifest = Manifest.parse(self.store.document(entry.manifest.digest), entry.manifest.media_type)
        except ImageError:
            return  # damaged beyond repair, and said: where it leads nobody knows
        self.session.needs(
            [entry.manifest.digest, manifest.config.digest, *(layer.digest for layer in manifest.layers)]
        )
        self.session.needs(entry.layers)
        for blob in (manifest.config, *manifest.layers):
            yield from self.blob(blob)
        try:
            diff_ids = Config.parse(self.store.document(manifest.config.digest), len(manifest.layers)).diff_ids
        except ImageError:
            return
        for layer, diff_id, chain_id in zip(manifest.layers, diff_ids, entry.layers, strict=False):
            yield from self.layer(layer, diff_id, chain_id)  # no chain ids: not unpacked yet

    # --- blobs ---------------------------------------------------------------------------------------------------

    def blob(self, blob: Descriptor) -> Iterator[Finding]:
        if blob.digest in self.seen:
            return
        self.seen.add(blob.digest)
        finding = Finding("blob", blob.digest, self.name, max(blob.size, 0))
        if wrong := self.wrong(blob):
            self.mend(finding, wrong, lambda: self.fetch(blob))
        yield finding

    def wrong(self, blob: Descriptor) -> str:
        """What is wrong with a blob; "" when nothing is."""
        try:
            with open(self.store.blob(blob.digest), "rb", buffering=0) as file:
                size = os.fstat(file.fileno()).st_size
                if blob.size not in (size, -1):
                    return f"it has {size} bytes, not {blob.size}"
                digest = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
        except FileNotFoundError:
            return "it is gone"
        except OSError as error:
            return f"it cannot be read ({os.strerror(error.errno or 0)})"
        return "" if digest == blob.digest else f"its content has the digest {digest}"

    def fetch(self, blob: Descriptor) -> None:
        """Bring a blob again, from where its image came; or make it of what else is here."""
        if blob.digest == self.entry.manifest.digest and self.entry.verbatim:  # a twin is made of its original
            twin = Manifest.parse(self.store.document(self.entry.verbatim)).twin() or b""
            self.place(blob, iter([memoryview(twin)]))
            return
        names = self.names(blob)
        if not names:
            raise ImageError("its image has no name, and so no registry to ask", hint="pull it again by name")
        for name in names:
            try:
                self.fetch_from(Reference.parse(name), blob)
                return
            except ContainerError:
                if name == names[-1]:
                    raise

    def names(self, blob: Descriptor) -> list[str]:
        """The names of all images that have this blob, this one's first: each may be in another registry."""
        found = [self.entry.name]
        for other in self.store.entries():
            try:
                if blob.digest in self.store.walk(other):
                    found.append(other.name)
            except ImageError:  # its manifest is damaged, which is another finding
                continue
        return list(dict.fromkeys(filter(None, found)))

    def fetch_from(self, reference: Reference, blob: Descriptor) -> None:
        with Registry(reference) as registry:
            if blob.media_type == "manifest" or blob.digest == self.entry.manifest.digest:
                document, _, _ = registry.manifest(blob.digest)
                self.place(blob, iter([memoryview(document)]))
                return
            with registry.blob(blob) as answer:
                self.place(blob, _pieces(answer.readinto))

    def place(self, blob: Descriptor, pieces: Iterator[memoryview]) -> None:
        path, sha256 = f"{self.session.path}/{blob.digest}", hashlib.sha256()
        with open(path, "wb") as file:
            for piece in pieces:
                sha256.update(piece)
                file.write(piece)
        if f"sha256:{sha256.hexdigest()}" != blob.digest:
            raise ImageError(
                f"what comes instead is sha256:{sha256.hexdigest()}", hint="the registry has no better one"
            )
        os.rename(path, self.store.blob(blob.digest))

    # --- layers --------------------------------------------------------------------------------------------------

    def layer(self, blob: Descriptor, diff_id: str, chain_id: str) -> Iterator[Finding]:
        if chain_id in self.seen:
            return
        self.seen.add(chain_id)
        finding = Finding("layer", chain_id, self.name)
        place, fresh = self.store.layer(chain_id), f"{self.session.path}/{chain_id}.fresh"
        began = time.time_ns() - _TICK
        try:
            with (
                open(self.store.blob(blob.digest), "rb", buffering=0) as file,
                Ahead(decompress(_pieces(lambda buffer: file.readinto(buffer) or 0))) as stream,
            ):
                if unpack(stream, fresh).diff_id != diff_id:
                    raise ImageError("it has another content")
        except (ContainerError, OSError) as error:
            finding.status = "damaged"
            finding.reason = f"there is no sound blob to compare it with: {str(error).splitlines()[0]}"
            yield finding
            return
        difference = "it is gone" if not os.path.isdir(place) else differs(place, fresh, began)
        if difference:
            self.mend(finding, difference, lambda: self.swap(place, fresh, chain_id))
        if os.path.isdir(fresh):
            parent = os.open(self.session.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                remove_tree(os.path.basename(fresh), parent)
            finally:
                os.close(parent)
        yield finding

    def swap(self, place: str, fresh: str, chain_id: str) -> None:
        if chain_id in used_layers(ended=False):
            raise ImageError("a container uses it, and would lose its files", hint="stop the container first")
        if os.path.isdir(place):
            os.rename(place, f"{self.session.path}/{chain_id}.damaged")
        os.rename(fresh, place)

    def mend(self, finding: Finding, wrong: str, how: Callable[[], None]) -> None:
        finding.status, finding.reason = "damaged", wrong
        if not self.repair:
            return
        try:
            how()
        except ContainerError as error:
            finding.reason = f"{wrong}; {error.message}"
        except OSError as error:
            finding.reason = f"{wrong}; {host_error(error, self.store.root).message}"
        else:
            finding.status = "mended"


def _pieces(readinto: Callable[[memoryview], int]) -> Iterator[memoryview]:
    buffer = memoryview(bytearray(CHUNK))
    while count := readinto(buffer):
        yield buffer[:count]
