"""The store: images as a standard OCI image layout, their layers unpacked beside it.

    <data root>/
        images/     oci-layout, index.json, blobs/sha256/…    what skopeo and umoci read, and can write
        layers/     <chain id>/…                              each layer once, in overlayfs's form
        ingest/     <session>/…, *.partial, *.lock            what is just arriving; nothing here is believed

`index.json` names the manifests; everything else follows from these by digest. It changes by atomic rename, and only
by the holder of `ingest/lock`. A blob or a layer gets its place by a rename too, after its digest has been verified,
so what has its place is whole, whenever anybody was killed. Readers need no lock.

A collection (`remove`) deletes what no manifest leads to. So that it takes nothing away from a pull that is still
under way in another process, a session writes down what it `needs`; the session's own lock tells whether it lives.

Docker's manifests are kept verbatim, as the registry knows them by that digest; skopeo and umoci refuse their types
in a layout, so an OCI twin carries the name (`Manifest.twin`).
(OCI image-spec, image-layout.md)
"""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import contextmanager

from minicontainer import state
from minicontainer.errors import ConflictError, HostError, ImageError, NotFoundError
from minicontainer.images.manifest import MAX_DOCUMENT, OCI_INDEX, Descriptor, parse_document
from minicontainer.images.platforms import Platform
from minicontainer.images.reference import Reference

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from minicontainer.images.session import Session

NAME = "org.opencontainers.image.ref.name"
DIGEST_KEY, VERBATIM_KEY, LAYERS_KEY = "minicontainer.digest", "minicontainer.verbatim", "minicontainer.layers"
"""Our annotations in `index.json`: see `Entry`."""


class Entry:
    """One line of `index.json`: a manifest and one name for it ("" when its name has gone to another).

    `digest` is what a registry knows the image by (its index's, where it came through one), `verbatim` the digest of
    Docker's manifest where `manifest` is only its twin, `layers` the chain ids from the base up once it is unpacked.
    """

    __slots__ = ("digest", "layers", "manifest", "name", "platform", "verbatim")

    def __init__(
        self,
        manifest: Descriptor,
        name: str,
        *,
        digest: str = "",
        verbatim: str = "",
        layers: Iterable[str] = (),
        platform: Platform | None = None,
    ) -> None:
        self.manifest, self.name, self.platform = manifest, name, platform
        self.digest, self.verbatim, self.layers = digest or manifest.digest, verbatim, tuple(layers)

    @classmethod
    def parse(cls, value: dict[str, Any]) -> Entry:
        notes = value.get("annotations") or {}
        given = value.get("platform")
        return cls(
            Descriptor.parse(value, "a manifest of the store"),
            notes.get(NAME, ""),
            digest=notes.get(DIGEST_KEY, ""),
            verbatim=notes.get(VERBATIM_KEY, ""),
            layers=notes.get(LAYERS_KEY, "").split(),
            platform=Platform(given["os"], given["architecture"], given.get("variant", "")) if given else None,
        )

    def json(self) -> dict[str, Any]:
        notes = {NAME: self.name, DIGEST_KEY: self.digest, VERBATIM_KEY: self.verbatim}
        notes[LAYERS_KEY] = " ".join(self.layers)
        value = self.manifest.json()
        if self.platform:
            value["platform"] = {"os": self.platform.os, "architecture": self.platform.architecture}
            if self.platform.variant:
                value["platform"]["variant"] = self.platform.variant
        return value | {"annotations": {key: text for key, text in notes.items() if text}}

    def named(self, name: str) -> Entry:
        """The same image under another name."""
        return Entry(
            self.manifest, name, digest=self.digest, verbatim=self.verbatim, layers=self.layers, platform=self.platform
        )


class Store:
    """The images of one data root."""

    def __init__(self, root: str = "") -> None:
        self.root = root or state.data_root()
        self.images = f"{self.root}/images"
        self.blobs = f"{self.images}/blobs/sha256"
        self.layers = f"{self.root}/layers"
        self.ingest = f"{self.root}/ingest"

    # Reading: no lock, nothing is hashed.

    def entries(self) -> list[Entry]:
        """All images, in the order of their arrival."""
        try:
            index = state.read_json(f"{self.images}/index.json")
            return [Entry.parse(value) for value in index["manifests"]]
        except FileNotFoundError:
            return []
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ImageError(
                f"{self.images}/index.json is no OCI index ({type(error).__name__}: {error})",
                hint="restore it, or remove the images directory and pull again",
            ) from None

    def find(self, text: str) -> Entry:
        """The image that `text` means: a name, or the beginning of an id. Raises NotFoundError and ImageError."""
        entries = self.entries()
        for entry in entries:
            if text and entry.name == text:
                return entry
        hex_digits = text.removeprefix("sha256:")
        if 4 <= len(hex_digits) <= 64 and not hex_digits.strip("0123456789abcdef"):
            found = {self.id(entry): entry for entry in reversed(entries)}
            matches = [id for id in found if id.startswith(f"sha256:{hex_digits}")]
            if len(matches) > 1:
                raise ConflictError(f"{len(matches)} images have an id that begins with {text}", hint="give more of it")
            if matches:
                return found[matches[0]]
            if text != hex_digits or len(text) == 64:
                raise NotFoundError(f"no image with the id {text}", hint="minicontainer images lists what is here")
        reference = Reference.parse(text)
        for entry in entries:
            if entry.name == reference.name:
                return entry
        if reference.digest:
            repository = f"{reference.registry}/{reference.repository}"
            for entry in entries:
                same = reference.digest in (entry.digest, entry.verbatim, entry.manifest.digest)
                if same and entry.name.startswith((f"{repository}:", f"{repository}@")):
                    return entry
        raise NotFoundError(
            f"no image {reference.familiar} here",
            hint="`minicontainer images` lists what is here, `minicontainer pull` brings it",
        )

    def id(self, entry: Entry) -> str:
        """The image's id as Docker's: the digest of its config."""
        document = parse_document(self.document(entry.manifest.digest), "manifest")
        return Descriptor.parse(document.get("config"), "the manifest's config").digest

    def blob(self, digest: str) -> str:
        """Where the blob's file is, or would be."""
        return f"{self.blobs}/{digest.removeprefix('sha256:')}"

    def partial(self, digest: str) -> str:
        """Where a blob arrives: see `partial`."""
        return f"{self.ingest}/{digest.removeprefix('sha256:')}.partial"

    def has(self, descriptor: Descriptor) -> bool:
        """Whether the blob is here. Its size is compared: a power failure can empty a file that nobody synced."""
        try:
            return os.stat(self.blob(descriptor.digest)).st_size == descriptor.size
        except FileNotFoundError:
            return False

    def document(self, digest: str) -> bytes:
        """A manifest or config of the store. Raises ImageError when it is gone."""
        try:
            with open(self.blob(digest), "rb") as file:
                return file.read(MAX_DOCUMENT + 1)
        except FileNotFoundError:
            raise ImageError(f"the store has lost {digest}", hint="pull the image again") from None

    def layer(self, chain_id: str) -> str:
        """Where the unpacked layer is, or would be."""
        return f"{self.layers}/{chain_id}"

    # Writing

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the store: for changes of `index.json`, and to begin and end sessions. Makes the layout if need be."""
        with state.locked(f"{self.ingest}/lock"):
            for directory in (self.blobs, self.layers):
                os.makedirs(directory, exist_ok=True)
            if not os.path.exists(f"{self.images}/oci-layout"):
                state.write_json(f"{self.images}/oci-layout", {"imageLayoutVersion": "1.0.0"})
            if not os.path.exists(f"{self.images}/index.json"):
                self._write([])
            yield

    @contextmanager
    def alone(self, digest: str, *, wait: bool = True) -> Iterator[None]:
        """Wait until no other process fetches the same blob; or raise BlockingIOError. The lock file goes with its last
        holder."""
        from minicontainer.images.session import is_same

        path = f"{self.ingest}/{digest.removeprefix('sha256:')}.lock"
        while True:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                raise
            if is_same(fd, path):  # else its holder removed it while we waited
                break
            os.close(fd)
        try:
            yield
        finally:
            os.unlink(path)
            os.close(fd)

    def forget_partials(self, wanted: Callable[[str], bool]) -> None:
        """Remove what has come of blobs that are not `wanted`, unless somebody is fetching them now."""
        for name in os.listdir(self.ingest):
            digest = f"sha256:{name.removesuffix('.partial')}"
            if not name.endswith(".partial") or wanted(digest):
                continue
            try:
                with self.alone(digest, wait=False):
                    os.unlink(self.partial(digest))
            except (BlockingIOError, FileNotFoundError):
                continue

    def session(self) -> Session:
        """Begin to bring something in: `with store.session() as session`."""
        from minicontainer.images.session import Session

        return Session(self)

    def keep_document(self, data: bytes, session: Session) -> str:
        """Make a blob of a manifest or config; its digest."""
        import hashlib

        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        session.needs([digest])
        if not os.path.exists(self.blob(digest)) or os.stat(self.blob(digest)).st_size != len(data):
            temporary = f"{session.path}/{digest}"
            with open(temporary, "wb") as file:
                file.write(data)
            os.rename(temporary, self.blob(digest))
        return digest

    def put(self, entry: Entry) -> None:
        """Give an image its name. One that had this name stays, nameless, if it has no other."""
        with self.locked():
            entries = self.entries()
            same = entry.manifest.digest
            kept = [other for other in entries if other.name not in (entry.name, "")]
            kept += [other for other in entries if not other.name and other.manifest.digest != same]
            for other in entries:
                digest = other.manifest.digest
                if other.name == entry.name and digest not in (same, *(more.manifest.digest for more in kept)):
                    kept.append(other.named(""))
            self._write([*kept, entry])

    def tag(self, text: str, name: str) -> None:
        """Give the image that `text` means another name as well."""
        reference = Reference.parse(name)
        if reference.digest:
            raise ImageError(f"{name} has a digest, which no tag can give", hint="use NAME:TAG")
        self.put(self.find(text).named(reference.name))

    def remove(self, text: str) -> list[str]:
        """Take a name away, and with its last name the image. What was done, as Docker says it, line by line.

        Blobs and layers that nothing leads to any more are deleted. Raises ConflictError while a container uses a
        layer that would go; then nothing has changed.
        """
        with self.locked():
            entry, entries = self.find(text), self.entries()
            same = [other.name for other in entries if other.manifest.digest == entry.manifest.digest]
            by_id = text.removeprefix("sha256:") == self.id(entry).removeprefix("sha256:")[: len(text)]
            if by_id and len(same) > 1:
                names = ", ".join(Reference.parse(name).familiar for name in same if name)
                raise ConflictError(f"image {text} has several names: {names}", hint="remove each name")
            rest = [
                other for other in entries if (other.name, other.manifest.digest) != (entry.name, entry.manifest.digest)
            ]
            wanted = {chain_id for other in rest for chain_id in other.layers}
            used = used_layers() & (set(entry.layers) - wanted)
            if used and len(same) == 1:
                raise ConflictError(
                    f"image {entry.name or text} is in use by a container",
                    hint="remove the container first: `minicontainer ps -a` lists those that have ended, too",
                )
            done = [f"Untagged: {Reference.parse(entry.name).familiar}"] if entry.name else []
            if len(same) == 1:
                done.append(f"Deleted: {self.id(entry)}")
            self._write(rest)
        self.collect()
        return done

    def forget(self, unwanted: Callable[[Entry], bool]) -> list[Entry]:
        """Take away all that `unwanted` says, but for images that a container needs; what has gone.

        What nothing leads to any more is deleted.
        """
        with self.locked():
            entries, users = self.entries(), layers_of_containers()
            gone = [entry for entry in entries if unwanted(entry) and set(entry.layers) not in users]
            self._write([entry for entry in entries if entry not in gone])
        self.collect()
        return gone

    def walk(self, entry: Entry) -> set[str]:
        """The digests of all blobs that an image has: index, manifests, config, layers."""
        found = {digest for digest in (entry.manifest.digest, entry.verbatim, entry.digest) if digest}
        self._walk(entry.manifest.digest, found)
        return found

    def collect(self) -> None:
        """Delete what no image, no session and no container needs."""
        with self.session() as session, self.locked():
            entries = self.entries()
            needed, layers = session.others(), used_layers()
            for entry in entries:
                layers.update(entry.layers)
                needed |= self.walk(entry)
            layers.update(digest.removeprefix("sha256:") for digest in needed)
            for name in os.listdir(self.blobs):
                if f"sha256:{name}" not in needed:
                    os.unlink(f"{self.blobs}/{name}")
            for name in os.listdir(self.layers):
                if name not in layers:
                    os.rename(f"{self.layers}/{name}", f"{session.path}/{name}")
            self.forget_partials(needed.__contains__)
            # A layer loses its place in one step; its files go when the session ends, the store unlocked.

    def _walk(self, digest: str, needed: set[str]) -> None:
        needed.add(digest)
        if not os.path.exists(self.blob(digest)):
            return
        document = parse_document(self.document(digest), "manifest")
        pointers = [*document.get("layers", []), *document.get("manifests", []), *document.get("blobs", [])]
        for pointer in [*pointers, document.get("config"), document.get("subject")]:
            if not pointer:
                continue
            found = Descriptor.parse(pointer, f"a descriptor of {digest}")
            if found.digest not in needed:
                needed.add(found.digest)
                if "manifest" in found.media_type or "index" in found.media_type:
                    self._walk(found.digest, needed)

    def _write(self, entries: list[Entry]) -> None:
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry.json() for entry in entries]}
        state.write_json(f"{self.images}/index.json", index, alone=True)


def host_error(error: OSError, root: str) -> HostError:
    """What it means when the data root cannot be written."""
    hints = {
        errno.ENOSPC: f"make room on the filesystem of {root}: nothing of what was arriving has been kept",
        errno.EDQUOT: f"your quota on the filesystem of {root} is used up",
        errno.EROFS: f"the filesystem of {root} is read-only",
        errno.EACCES: "images are root's: use sudo",
        errno.EPERM: "images are root's: use sudo",
    }
    name = errno.errorcode.get(error.errno or 0, str(error.errno))
    place = error.filename or root
    return HostError(f"{place}: {name} ({error.strerror})", hint=hints.get(error.errno or 0, f"look at {place}"))


def used_layers(*, ended: bool = True) -> set[str]:
    """The chain ids of all layers that a container needs; without `ended`, a running one."""
    return set().union(*layers_of_containers(ended=ended))


def layers_of_containers(*, ended: bool = True) -> list[set[str]]:
    """The same, for each container on its own: what a running one has in its record, whichever part named it, and what
    one that is kept had when it began, which its own files are only the changes of."""
    import re

    from minicontainer.container import records

    kept = f"{state.data_root()}/containers"
    paths = {}
    if ended and os.path.isdir(kept):
        paths = {name: f"{kept}/{name}/container.json" for name in os.listdir(kept)}
    paths |= {container: records.path(container) for container in records.all_containers()}
    found: list[set[str]] = []
    for path in paths.values():
        try:
            with open(path) as file:
                found.append(set(re.findall(r"/layers/([0-9a-f]{64})\b", file.read())))
        except FileNotFoundError:
            continue
    return found
