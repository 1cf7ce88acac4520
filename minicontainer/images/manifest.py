"""What an image is made of, as documents: an index, a manifest, a config.

    index ──► manifest ──► config   who runs, in which environment, and the layers' diff_ids
    (one      (one
    for all)  platform)    └──► layers   tar archives, gzip, zstd or plain, from the base up

An arrow is a descriptor: media type, digest and size of another document. Digests make it a Merkle tree: who trusts
the first digest can check all the rest. Docker's types and OCI's differ in names only, so both become the same
objects here. Everything that arrives is checked before it is believed: what these classes hold has the right types.
(OCI image-spec: descriptor.md, image-index.md, manifest.md, config.md)
"""

from __future__ import annotations

from minicontainer.errors import ImageError
from minicontainer.images.platforms import Platform
from minicontainer.images.reference import DIGEST
from minicontainer.lean import dumps, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Self

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
OCI_FOREIGN = "application/vnd.oci.image.layer.nondistributable.v1.tar"
OCI_FOREIGN_GZIP = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
OCI_FOREIGN_ZSTD = "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"
DOCKER_LAYER_ZSTD = "application/vnd.docker.image.rootfs.diff.tar.zstd"
DOCKER_FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar"
DOCKER_FOREIGN_GZIP = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"

INDEXES = (OCI_INDEX, DOCKER_LIST)
MANIFESTS = (OCI_MANIFEST, DOCKER_MANIFEST)
OCI_NAMES = {
    DOCKER_CONFIG: OCI_CONFIG,
    DOCKER_LAYER: OCI_LAYER,
    DOCKER_LAYER_GZIP: OCI_LAYER_GZIP,
    DOCKER_LAYER_ZSTD: OCI_LAYER_ZSTD,
    DOCKER_FOREIGN: OCI_FOREIGN,
    DOCKER_FOREIGN_GZIP: OCI_FOREIGN_GZIP,
}
"""Docker's names of things that OCI calls otherwise."""

FOREIGN = (OCI_FOREIGN, OCI_FOREIGN_GZIP, OCI_FOREIGN_ZSTD, DOCKER_FOREIGN, DOCKER_FOREIGN_GZIP)
"""Layers that a licence forbids to hand on: they come from the addresses in their descriptor, and are never pushed."""

LAYERS = (OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, OCI_FOREIGN, OCI_FOREIGN_GZIP, OCI_FOREIGN_ZSTD)

ARTIFACTS = {
    "application/vnd.cncf.helm.config.v1+json": "a Helm chart",
    "application/vnd.dev.cosign.artifact.sig.v1+json": "a signature",
    "application/vnd.dev.sigstore.bundle.v0.3+json": "a signature",
    "application/vnd.in-toto+json": "a builder's statement about an image",
    "application/spdx+json": "a list of what is in an image (SBOM)",
    "application/vnd.cyclonedx+json": "a list of what is in an image (SBOM)",
    "application/vnd.wasm.config.v0+json": "a WebAssembly module",
    "application/vnd.docker.plugin.v1+json": "a plugin for Docker's daemon",
    "application/vnd.docker.compose.project": "a Compose project",
}
"""What else registries keep that looks like an image. (OCI image-spec, artifacts-guidance.md)"""

MAX_DOCUMENT = 4 << 20
"""Bytes that a manifest, an index or a config may have (what the distribution specification asks registries for)."""


class Descriptor:
    """A pointer to content: `media_type`, `digest` and `size` in bytes; `urls` where else it may be had."""

    __slots__ = ("digest", "media_type", "size", "urls")

    def __init__(self, media_type: str, digest: str, size: int, urls: Sequence[str] = ()) -> None:
        self.media_type, self.digest, self.size, self.urls = media_type, digest, size, tuple(urls)

    @classmethod
    def parse(cls, value: Any, what: str) -> Self:
        """Check one descriptor of a document that arrived; `what` names it in the error."""
        found = _object(value, what)
        media_type, digest, size = found.get("mediaType"), found.get("digest"), found.get("size")
        if not isinstance(media_type, str):
            raise _bad(f"{what} has no media type")
        if not isinstance(digest, str) or not DIGEST.fullmatch(digest):
            raise _bad(f"{what} has no sha256 digest, but {digest!r:.80}")
        if type(size) is not int or size < 0:
            raise _bad(f"{what} has no size, but {size!r:.80}")
        return cls(media_type, digest, size, _strings(found, "urls", what))

    def json(self) -> dict[str, Any]:
        """As a document says it."""
        found = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        return found | ({"urls": list(self.urls)} if self.urls else {})


class Manifest:
    """One platform's image: a `config` and the `layers` from the base up, as descriptors."""

    __slots__ = ("config", "layers", "media_type")

    def __init__(self, media_type: str, config: Descriptor, layers: list[Descriptor]) -> None:
        self.media_type, self.config, self.layers = media_type, config, layers

    @classmethod
    def parse(cls, data: bytes, media_type: str = "") -> Self:
        """Check a manifest that arrived. Raises ImageError."""
        document = parse_document(data, "manifest")
        kind = media_type_of(document, media_type)
        if kind not in MANIFESTS:
            raise _bad(f"a manifest of media type {kind!r:.120}", "this reads Docker's version 2 schema 2 and OCI's")
        config = Descriptor.parse(document.get("config"), "the manifest's config")
        if config.media_type not in (OCI_CONFIG, DOCKER_CONFIG):
            kind = document.get("artifactType") or config.media_type
            known = f"{ARTIFACTS[kind]}, " if isinstance(kind, str) and kind in ARTIFACTS else ""
            raise _bad(f"{known}not an image: an artifact of type {kind!r:.120}", "pull it with the tool that made it")
        layers = document.get("layers")
        if not isinstance(layers, list):
            raise _bad("the manifest has no list of layers")
        parsed = [Descriptor.parse(layer, f"the manifest's layer {i}") for i, layer in enumerate(layers)]
        for layer in parsed:
            if OCI_NAMES.get(layer.media_type, layer.media_type) not in LAYERS:
                raise _bad(f"a layer of media type {layer.media_type!r:.120}", "this reads tar: plain, gzip and zstd")
        return cls(kind, config, parsed)

    def twin(self) -> bytes | None:
        """The same manifest in OCI's words; None when it has no others.

        skopeo and umoci refuse Docker's types in an OCI image layout.
        """
        parts = [self.config, *self.layers]
        if self.media_type == OCI_MANIFEST and not any(part.media_type in OCI_NAMES for part in parts):
            return None
        config, *layers = (
            Descriptor(OCI_NAMES.get(part.media_type, part.media_type), part.digest, part.size, part.urls)
            for part in parts
        )
        return manifest_document(config, layers)


class Config:
    """How an image wants to be run, and which layers it has. `raw` is the whole document."""

    __slots__ = ("cmd", "created", "diff_ids", "entrypoint", "env", "labels", "platform", "raw", "user", "working_dir")

    def __init__(self, raw: dict[str, Any]) -> None:
        self.raw = raw
        rootfs = _object(raw.get("rootfs"), "the config's rootfs")
        self.diff_ids = _strings(rootfs, "diff_ids", "the config's rootfs")
        for diff_id in self.diff_ids:
            if not DIGEST.fullmatch(diff_id):
                raise _bad(f"the config's diff_id {diff_id!r:.80} is no sha256 digest")
        self.platform = Platform(*(_text(raw, key, "the config") for key in ("os", "architecture", "variant")))
        self.created = _text(raw, "created", "the config")
        run = _object(_or_empty(raw.get("config")), "the config's config")
        self.entrypoint = _strings(run, "Entrypoint", "the config")
        self.cmd = _strings(run, "Cmd", "the config")
        self.user = _text(run, "User", "the config")
        self.working_dir = _text(run, "WorkingDir", "the config")
        pairs = _strings(run, "Env", "the config")
        for word in (*self.entrypoint, *self.cmd, *pairs, self.user, self.working_dir):
            if "\0" in word or any("\ud800" <= letter <= "\udfff" for letter in word):
                raise _bad(f"the config has {word!r:.80}, which no command, variable, user or path can be")
        if not all(pair.find("=") > 0 for pair in pairs):
            raise _bad("Env of the config has an entry that is not NAME=VALUE")
        self.env = dict(pair.split("=", 1) for pair in pairs)
        labels = _object(_or_empty(run.get("Labels")), "the config's Labels")
        self.labels = {key: _text(labels, key, "the config's Labels") for key in labels}

    @classmethod
    def parse(cls, data: bytes, layers: int) -> Self:
        """Check a config that arrived, for a manifest with so many `layers`. Raises ImageError."""
        config = cls(parse_document(data, "config"))
        if len(config.diff_ids) != layers:
            raise _bad(f"the config has {len(config.diff_ids)} diff_ids for {layers} layers")
        return config


def entries_of(index: bytes) -> list[tuple[Descriptor, Platform | None]]:
    """What an index leads to, each with the platform that it is said to be for. Raises ImageError."""
    entries = parse_document(index, "index").get("manifests")
    if not isinstance(entries, list):
        raise _bad("the index has no list of manifests")
    found: list[tuple[Descriptor, Platform | None]] = []
    for i, entry in enumerate(entries):
        descriptor = Descriptor.parse(entry, f"the index's manifest {i}")
        given = entry.get("platform")
        if given is None:
            found.append((descriptor, None))
            continue
        what = f"the platform of the index's manifest {i}"
        words = [_text(_object(given, what), key, what) for key in ("os", "architecture", "variant")]
        found.append((descriptor, Platform(*words)))
    return found


def chain_ids(diff_ids: Sequence[str]) -> list[str]:
    """The name of each layer together with all below it, as hex digits. OCI image-spec, config.md, "Layer ChainID"."""
    import hashlib

    chain: list[str] = []
    for diff_id in diff_ids:
        text = f"sha256:{chain[-1]} {diff_id}" if chain else ""
        chain.append(hashlib.sha256(text.encode()).hexdigest() if chain else diff_id.removeprefix("sha256:"))
    return chain


def parse_document(data: bytes, what: str) -> dict[str, Any]:
    """JSON that arrived, as an object. Raises ImageError."""
    try:
        return _object(loads(data), f"the {what}")
    except (ValueError, RecursionError) as error:
        raise _bad(f"the {what} is not JSON ({error!s:.80})") from None


def media_type_of(document: dict[str, Any], announced: str) -> str:
    """The media type of a manifest or index: what the document says, which must be what was announced."""
    own = document.get("mediaType", announced)
    if announced and own != announced:
        raise _bad(f"a document announced as {announced!r:.120} calls itself {own!r:.120}")
    if not isinstance(own, str) or own not in (*MANIFESTS, *INDEXES):
        hint = "Docker's schema 1 ended in 2019: push the image again" if "docker" in str(own) else ""
        raise _bad(f"a manifest of media type {own!r:.120}", hint)
    if document.get("schemaVersion") != 2:
        raise _bad(f"a manifest of schema version {document.get('schemaVersion')!r:.40}, not 2")
    return own


def manifest_document(config: Descriptor, layers: Sequence[Descriptor]) -> bytes:
    """An OCI manifest; the same parts always make the same bytes."""
    parts = {"config": config.json(), "layers": [layer.json() for layer in layers]}
    return encode({"schemaVersion": 2, "mediaType": OCI_MANIFEST, **parts})


def encode(document: dict[str, Any]) -> bytes:
    """A document of ours as bytes."""
    return dumps(document, compact=True).encode()


def _bad(message: str, hint: str = "") -> ImageError:
    return ImageError(message, hint=hint or "whoever made the image must mend it; a proxy in between can also do this")


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _bad(f"{what} is not a JSON object, but {value!r:.80}")
    return value


def _or_empty(value: Any) -> Any:
    return {} if value is None else value


def _text(parent: dict[str, Any], key: str, what: str) -> str:
    value = parent.get(key)
    if value is not None and not isinstance(value, str):
        raise _bad(f"{key} of {what} is not text, but {value!r:.80}")
    return value or ""


def _strings(parent: dict[str, Any], key: str, what: str) -> list[str]:
    value = parent.get(key)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise _bad(f"{key} of {what} is not a list of texts, but {value!r:.80}")
    return value
