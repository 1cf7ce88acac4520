"""From what a name stands for to the one manifest for our platform: down an index, and the indexes in it.

    index ──► manifest  linux/amd64
         ├──► manifest  linux/arm64/v8
         ├──► index     (its own manifests, each with a platform)
         └──► manifest  unknown/unknown       no image: what a builder says about one of the others

Whoever made the index says for which platform each entry is. An entry of which nothing is said is looked at only when
no other suits. (OCI image-spec, image-index.md)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from minicontainer.errors import ImageError
from minicontainer.images.manifest import (
    INDEXES,
    MANIFESTS,
    Config,
    Descriptor,
    Manifest,
    entries_of,
    media_type_of,
    parse_document,
)

if TYPE_CHECKING:
    from minicontainer.images.platforms import Platform
    from minicontainer.images.registry import Registry

MOST = 16
"""Documents that are asked for before we take an index for a joke."""

DEEPEST = 4
"""Indexes within one another."""


class Resolved:
    """What a name stands for: `digest`, which is its index's if there is one, and the manifest for our platform.

    `index` is that index as it came, empty where there is none.
    """

    def __init__(self, digest: str, document: bytes, media_type: str, index: bytes = b"") -> None:
        self.digest, self.document, self.media_type, self.index = digest, document, media_type, index


def resolve(registry: Registry, target: str, wanted: Platform) -> Resolved:
    """Ask a registry for the manifest that a tag or digest means for a platform. Raises NotFoundError, ImageError."""
    document, media_type, digest = registry.manifest(target)
    media_type = media_type_of(parse_document(document, "manifest"), media_type)
    if media_type not in INDEXES:
        return Resolved(digest, document, media_type)
    search = _Search(registry, wanted)
    found = search.down(document, 1)
    if found is None:
        known = sorted(search.offered - {"unknown/unknown"})
        hint = f"there is {', '.join(known)}" if known else "the index names no platform at all"
        raise ImageError(f"{registry.reference.familiar}: no image for the platform {wanted}", hint=hint)
    return Resolved(digest, *found, index=document)


class _Search:
    def __init__(self, registry: Registry, wanted: Platform) -> None:
        self._registry, self._wanted = registry, wanted
        self._left = MOST
        self.offered: set[str] = set()

    def down(self, index: bytes, depth: int) -> tuple[bytes, str] | None:
        """The best manifest below an index, with its media type."""
        if depth > DEEPEST:
            raise self._joke("an index of an index of an index")
        suiting: list[tuple[int, Descriptor]] = []
        unsaid: list[Descriptor] = []
        for descriptor, platform in entries_of(index):
            if platform is not None:
                self.offered.add(str(platform))
                if self._wanted.accepts(platform):
                    suiting.append((self._wanted.rank(platform), descriptor))
            elif descriptor.media_type in (*INDEXES, *MANIFESTS):
                unsaid.append(descriptor)
        suiting.sort(key=lambda pair: -pair[0])  # of equals the first in the list stays the first
        for _, descriptor in suiting:
            document, media_type = self._document(descriptor)
            if media_type not in INDEXES:
                return document, media_type
            if found := self.down(document, depth + 1):
                return found
        for descriptor in unsaid:
            document, media_type = self._document(descriptor)
            if media_type in INDEXES:
                if found := self.down(document, depth + 1):
                    return found
            elif self._suits(document, media_type):
                return document, media_type
        return None

    def _document(self, descriptor: Descriptor) -> tuple[bytes, str]:
        if self._left == 0:
            raise self._joke(f"more than {MOST} documents, and no image among them")
        self._left -= 1
        document, media_type, _ = self._registry.manifest(descriptor.digest)
        if len(document) != descriptor.size:
            raise ImageError(
                f"the manifest {descriptor.digest} has {len(document)} bytes, its index says {descriptor.size}",
                hint="whoever made the image must mend it",
            )
        return document, media_type_of(parse_document(document, "manifest"), media_type)

    def _suits(self, document: bytes, media_type: str) -> bool:
        """Whether a manifest is an image for us: only its config can tell."""
        if parse_document(document, "manifest").get("artifactType"):
            return False
        manifest = Manifest.parse(document, media_type)
        platform = Config.parse(self._registry.document(manifest.config), len(manifest.layers)).platform
        self.offered.add(str(platform))
        return self._wanted.accepts(platform)

    def _joke(self, what: str) -> ImageError:
        return ImageError(f"{self._registry.reference.familiar}: {what}", hint="this is no honest image")
