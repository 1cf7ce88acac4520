"""Load: images out of an archive or a directory, whoever has made it.

    what is in there              how images are found
    index.json and oci-layout     an OCI image layout: podman, skopeo, buildx, containerd, Docker since 25, our `save`
    manifest.json                 Docker's own form: configs and layers by file name, and names to give them

Where both are, the layout counts: it has digests. An archive is a stranger's word like a registry's. Every blob is
hashed before it gets its place in the store, every layer is unpacked as a pulled one is and must have its diff_id, and
a name is given last; whoever is killed before that leaves a session behind, which the next one removes.

Docker's older archives have their layers plain: these are compressed here, always to the same bytes.
"""

from __future__ import annotations

import os
from typing import IO, TYPE_CHECKING, Any, cast

from minicontainer.errors import ImageError, UsageError
from minicontainer.images.archives import Directory, Member, Members, taken_apart
from minicontainer.images.choosing import resolve
from minicontainer.images.compression import CHUNK, Gzip
from minicontainer.images.image import Image
from minicontainer.images.manifest import (
    OCI_CONFIG,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    OCI_MANIFEST,
    Config,
    Descriptor,
    Manifest,
    chain_ids,
    entries_of,
    manifest_document,
    parse_document,
)
from minicontainer.images.platforms import Platform
from minicontainer.images.pulling import fetch_layers
from minicontainer.images.reference import Reference
from minicontainer.images.saving import CONTAINERD_NAME
from minicontainer.images.store import NAME, VERBATIM_KEY, Entry, Store, host_error
from minicontainer.images.tar import Limits

if TYPE_CHECKING:
    from minicontainer.images.progress import Progress
    from minicontainer.images.registry import Registry
    from minicontainer.images.session import Session

_WRONG = "whoever made the archive must make it again"


def load(
    source: str | IO[bytes],
    *,
    name: str = "",
    platform: str = "",
    limits: Limits | None = None,
    progress: Progress | None = None,
) -> list[Image]:
    """Bring all images of `source` into the store: the path of an archive or of an OCI image layout, or an open file.

    They get the names that the archive has for them; `name` is for the only image of an archive. Of an index the
    manifest for `platform` is taken, this machine's unless given. `limits` is what a layer may cost, `limits.size`
    the whole archive too. Raises UsageError, ImageError and HostError; then no image has come.
    """
    store = Store()
    reference = Reference.parse(name) if name else None
    wanted = Platform.parse(platform) if platform else Platform.host()
    limits = limits or Limits()
    try:
        with store.session() as session:
            members = taken_apart(source, session, limits)
            loader = _Loader(store, session, members, wanted)
            found = loader.found()
            if reference and len(found) != 1:
                raise UsageError(f"{len(found)} images are in there, and one name is given", hint="leave the name away")
            entries = []
            for one in found:
                entry = loader.keep(one, limits, progress)
                names = [reference.name] if reference else list(dict.fromkeys(filter(None, one.names)))
                entries += [entry.named(text) for text in names or [""]]
            for entry in entries:
                held = any(other.manifest.digest == entry.manifest.digest for other in store.entries())
                if entry.name or not held:
                    store.put(entry)
            return [Image(store, entry) for entry in entries]
    except OSError as error:
        raise host_error(error, store.root) from error
    except ImageError as error:
        store.collect()  # blobs that turned out to be no image's
        place = source if isinstance(source, str) else "the archive"
        raise ImageError(f"{place} cannot be loaded: {error.message}", hint=error.hint) from None


class _Found:
    """An image in an archive: its manifest, the descriptors' contents, and its names."""

    def __init__(self, document: bytes, manifest: Manifest, blobs: dict[str, Member], names: list[str]) -> None:
        self.document, self.manifest, self.blobs, self.names = document, manifest, blobs, names


class _Loader:
    def __init__(self, store: Store, session: Session, members: Members, wanted: Platform) -> None:
        self.store, self.session, self.members, self.wanted = store, session, members, wanted
        self._packed: dict[str, Member] = {}

    def found(self) -> list[_Found]:
        index, listed = self.members.get("index.json"), self.members.get("manifest.json")
        if index and self.members.get("oci-layout"):
            found = self._layout(index.document())
        elif listed and not isinstance(self.members, Directory):
            found = self._docker(listed.document())
        else:
            raise ImageError(
                "neither an OCI image layout nor an archive of `docker save`",
                hint="a root filesystem without a config is for `minicontainer import`",
            )
        if not found:
            raise ImageError("no image is in there", hint=_WRONG)
        return found

    # --- an OCI image layout -------------------------------------------------------------------------------------

    def _layout(self, index: bytes) -> list[_Found]:
        layout = _Layout(self.members)
        found: dict[str, _Found] = {}
        refused: ImageError | None = None
        for (descriptor, given), line in zip(
            entries_of(index), parse_document(index, "index")["manifests"], strict=True
        ):
            if given and not self.wanted.accepts(given):
                refused = ImageError(f"no image for the platform {self.wanted}", hint=f"there is {given}")
                continue
            try:
                resolved = resolve(cast("Registry", layout), descriptor.digest, self.wanted)
                manifest = Manifest.parse(resolved.document, resolved.media_type)
            except ImageError as error:
                refused = error  # an artifact beside the images, say
                continue
            names = _names(line)
            if resolved.digest in found:
                found[resolved.digest].names += names
                continue
            blobs = {blob.digest: layout.member(blob) for blob in (manifest.config, *manifest.layers)}
            document = self._verbatim(line, resolved.document) or resolved.document
            found[resolved.digest] = _Found(document, Manifest.parse(document), blobs, names)
        if not found and refused:
            raise refused
        return list(found.values())

    def _verbatim(self, line: dict[str, Any], document: bytes) -> bytes | None:
        """Docker's manifest where `document` is the twin that our `save` has put in its place."""
        digest = (line.get("annotations") or {}).get(VERBATIM_KEY)
        member = self.members.get(f"blobs/sha256/{digest.removeprefix('sha256:')}") if isinstance(digest, str) else None
        if not member or member.digest != digest:
            return None
        original = member.document()
        return original if Manifest.parse(original).twin() == document else None

    # --- Docker's archive ----------------------------------------------------------------------------------------

    def _docker(self, listed: bytes) -> list[_Found]:
        images = parse_document(b'{"images":' + listed + b"}", "manifest.json").get("images")
        if not isinstance(images, list):
            raise ImageError("the archive's manifest.json is no list", hint=_WRONG)
        return [self._described(image) for image in images]

    def _described(self, image: Any) -> _Found:
        try:
            place, places, tags = image["Config"], image["Layers"], image.get("RepoTags") or []
            sound = isinstance(places, list) and isinstance(tags, list)
            sound = sound and all(isinstance(text, str) for text in (place, *places, *tags))
        except (KeyError, TypeError, AttributeError):
            sound = False
        if not sound:
            raise ImageError(f"the archive's manifest.json has {image!r:.120}", hint=_WRONG)
        config = self._member(place)
        diff_ids = Config.parse(config.document(), len(places)).diff_ids
        pairs = [self._layer(self._member(path), diff_id) for path, diff_id in zip(places, diff_ids, strict=True)]
        described = Descriptor(OCI_CONFIG, config.digest, config.size)
        document = manifest_document(described, [descriptor for descriptor, _ in pairs])
        blobs = {descriptor.digest: member for descriptor, member in pairs} | {config.digest: config}
        return _Found(document, Manifest.parse(document), blobs, [Reference.parse(tag).name for tag in tags])

    def _member(self, name: str) -> Member:
        found = self.members.get(os.path.normpath(name))
        if found is None:
            raise ImageError(f"the archive has no {name!r:.120}, which its manifest.json names", hint=_WRONG)
        return found

    def _layer(self, member: Member, diff_id: str) -> tuple[Descriptor, Member]:
        with open(member.path, "rb") as file:
            magic = file.read(4)
        if magic.startswith(b"\x1f\x8b"):
            return Descriptor(OCI_LAYER_GZIP, member.digest, member.size), member
        if magic == b"\x28\xb5\x2f\xfd":
            return Descriptor(OCI_LAYER_ZSTD, member.digest, member.size), member
        if member.digest != diff_id:
            raise ImageError(
                f"a layer of the archive has the digest {member.digest}, its config says {diff_id}", hint=_WRONG
            )
        if member.path not in self._packed:  # two images may share it
            path = f"{member.path}.gz"
            with open(member.path, "rb") as plain, open(path, "wb") as file:
                writer = Gzip(file)
                while data := plain.read(CHUNK):
                    writer.write(data)
                writer.end()
            self._packed[member.path] = Member(path, f"sha256:{writer.compressed.hexdigest()}", writer.size)
        packed = self._packed[member.path]
        return Descriptor(OCI_LAYER_GZIP, packed.digest, packed.size), packed

    # --- into the store ------------------------------------------------------------------------------------------

    def keep(self, found: _Found, limits: Limits, progress: Progress | None) -> Entry:
        """Give blobs and layers their places in the store; the entry, which has no name yet."""
        manifest = found.manifest
        config_document = found.blobs[manifest.config.digest].document()
        config = Config.parse(config_document, len(manifest.layers))
        chain = chain_ids(config.diff_ids)
        self.session.needs([*found.blobs, *chain])
        for digest, member in found.blobs.items():
            os.rename(member.path, self.store.blob(digest))  # also over one that is there: this one is verified
            member.path = self.store.blob(digest)
        fetch_layers(self.store, self.session, manifest, config, chain, limits=limits, progress=progress)
        verbatim = self.store.keep_document(found.document, self.session)
        twin = manifest.twin()
        digest = self.store.keep_document(twin, self.session) if twin else verbatim
        return Entry(
            Descriptor(OCI_MANIFEST, digest, len(twin or found.document)),
            "",
            digest=verbatim,
            verbatim=verbatim if twin else "",
            layers=chain,
            platform=config.platform if config.platform.architecture else None,
        )


class _Layout:
    """The blobs of a layout in the role of a registry, for `resolve`."""

    def __init__(self, members: Members) -> None:
        self._members = members
        self.reference = Reference("", "the archive")

    def manifest(self, digest: str) -> tuple[bytes, str, str]:
        member = self._members.get(f"blobs/sha256/{digest.removeprefix('sha256:')}")
        if member is None:
            raise ImageError(f"the archive lacks the manifest {digest}", hint=_WRONG)
        if member.digest != digest:
            raise ImageError(f"the archive's blob {digest} has the digest {member.digest}", hint=_WRONG)
        document = member.document()
        return document, str(parse_document(document, "manifest").get("mediaType") or OCI_MANIFEST), digest

    def document(self, descriptor: Descriptor) -> bytes:
        return self.member(descriptor).document()

    def member(self, blob: Descriptor) -> Member:
        found = self._members.get(f"blobs/sha256/{blob.digest.removeprefix('sha256:')}")
        if found is None:
            raise ImageError(f"the archive lacks the blob {blob.digest}", hint=_WRONG)
        if (found.digest, found.size) != (blob.digest, blob.size):
            raise ImageError(
                f"the archive's blob {blob.digest} ({blob.size} bytes) is {found.digest} ({found.size} bytes)",
                hint=_WRONG,
            )
        return found


def _names(line: dict[str, Any]) -> list[str]:
    """The name in an index's annotations. A mere tag, or no name at all, is none."""
    notes = line.get("annotations")
    notes = notes if isinstance(notes, dict) else {}
    for key in (CONTAINERD_NAME, NAME):
        text = notes.get(key)
        if isinstance(text, str) and ("/" in text or ":" in text):
            return [Reference.parse(text).name]
    return []
