"""Explain: what an image is made of, as data to print and to plot.

    explain("web")            the documents as a tree, each layer with its step, its sizes and what of it is wasted
    explain("web").tree       every file that a container sees, with the layer it comes from
    shared("web", "busybox")  what two images have in common

The first look costs a few small files; the tree is put together when it is first asked for.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from minicontainer.errors import ImageError
from minicontainer.images.image import Image
from minicontainer.images.manifest import MANIFESTS, Descriptor, entries_of
from minicontainer.images.steps import Step, steps
from minicontainer.images.store import Store
from minicontainer.images.trees import Tree, content

if TYPE_CHECKING:
    from collections.abc import Iterator


class Document(NamedTuple):
    """One thing that a digest names: `kind` is index, manifest, config or layer; `size` in bytes as it travels; `note`
    what else is known of it (a platform, a step). `here` is whether the store has it."""

    kind: str
    digest: str
    media_type: str
    size: int
    note: str
    here: bool
    parts: list[Document]

    def lines(self, indent: str = "") -> Iterator[str]:
        """As a drawing, one line each."""
        size = f"{self.size} bytes" if self.here or self.size else "not here"
        yield f"{indent}{self.kind:<8} {self.digest.removeprefix('sha256:')[:12]}  {size:>15}  {self.note}".rstrip()
        for part in self.parts:
            yield from part.lines(indent + "    ")


class Layer(NamedTuple):
    """One layer, `number` 0 the base: `size` bytes as it travels, `content` bytes of its files, which are so many
    `files`, `wasted` how many of these bytes no container sees; `step` is what made it."""

    number: int
    digest: str
    diff_id: str
    chain_id: str
    media_type: str
    size: int
    content: int
    files: int
    wasted: int
    step: str
    created: str


class Explanation:
    """An image taken apart: `image`, its `documents` as a tree, its `steps`; and what is counted when asked for."""

    def __init__(self, image: Image) -> None:
        self.image = image
        self.steps: list[Step] = steps(image)
        self.documents = _documents(image, self.steps)

    @cached_property
    def tree(self) -> Tree:
        """All files as a container sees them, and those that it does not."""
        return Tree(self.image.layers)

    @cached_property
    def layers(self) -> list[Layer]:
        """The layers from the base up."""
        made = {step.number: step for step in self.steps if step.number is not None}
        wasted = [0] * len(self.image.manifest.layers)
        for hidden in self.tree.hidden:
            wasted[hidden.layer] += hidden.size
        return [
            Layer(
                number,
                blob.digest,
                self.image.config.diff_ids[number],
                self.image.entry.layers[number],
                blob.media_type,
                blob.size,
                self.tree.content[number],
                self.tree.counts[number],
                wasted[number],
                made[number].instruction,
                made[number].created,
            )
            for number, blob in enumerate(self.image.manifest.layers)
        ]

    def json(self, *, files: bool = False) -> dict[str, Any]:
        """All of it as JSON can have it; the files only if they are asked for."""
        found: dict[str, Any] = {
            "name": self.image.name,
            "id": self.image.id,
            "digest": self.image.digest,
            "documents": _json(self.documents),
            "layers": [layer._asdict() for layer in self.layers],
            "wasted": self.tree.wasted,
            "efficiency": self.tree.efficiency,
            "hidden": [
                {"path": _text(one.path), "size": one.size, "layer": one.layer, "by": one.by, "how": one.how}
                for one in self.tree.hidden
            ],
        }
        if files:
            found["files"] = [
                {"path": _text(one.path), "kind": one.kind, "size": one.size, "layer": one.layer, "mode": one.mode}
                for one in self.tree.files.values()
            ]
        return found

    def __str__(self) -> str:
        return "\n".join(self.documents.lines())


def explain(name: str) -> Explanation:
    """Take an image of the store apart. Raises NotFoundError."""
    store = Store()
    return Explanation(Image(store, store.find(name)))


class Shared(NamedTuple):
    """What two images have in common, as layers of the first.

    `stored`: layers that lie on the disk once for both, because all below them is the same too. `travelled`: layers
    with the same blob, which a registry sends once. `alike`: with the same content, however they are compressed or
    what they stand upon.
    """

    stored: list[Descriptor]
    travelled: list[Descriptor]
    alike: list[Descriptor]
    content: int
    """Bytes of the files in the layers that are stored once."""


def shared(first: str, second: str) -> Shared:
    """Compare two images of the store. Raises NotFoundError."""
    store = Store()
    one, other = (Image(store, store.find(name)) for name in (first, second))
    paths, chain = one.layers, set(other.layers)
    digests, diff_ids = {layer.digest for layer in other.manifest.layers}, set(other.config.diff_ids)
    layers = one.manifest.layers
    stored = [number for number, path in enumerate(paths) if path in chain]
    return Shared(
        [layers[number] for number in stored],
        [layer for layer in layers if layer.digest in digests],
        [layer for layer, diff_id in zip(layers, one.config.diff_ids, strict=True) if diff_id in diff_ids],
        sum(content(paths[number]) for number in stored),
    )


def _documents(image: Image, made: list[Step]) -> Document:
    store, entry = image.store, image.entry
    by_layer = {step.number: step.instruction for step in made if step.number is not None}
    config = image.manifest.config
    command = " ".join([*image.config.entrypoint, *image.config.cmd])
    parts = [Document("config", config.digest, config.media_type, config.size, command, store.has(config), [])]
    parts += [
        Document("layer", blob.digest, blob.media_type, blob.size, by_layer[number], store.has(blob), [])
        for number, blob in enumerate(image.manifest.layers)
    ]
    digest = entry.verbatim or entry.manifest.digest
    document = store.document(digest)
    platform = str(image.config.platform) if image.config.platform.os else ""
    manifest = Document("manifest", digest, image.manifest.media_type, len(document), platform, True, parts)
    if entry.digest in (digest, entry.manifest.digest):
        return manifest
    try:
        index = store.document(entry.digest)
        found = entries_of(index)
    except ImageError:  # pulled before indexes were kept, or tidied away by another tool
        return Document("index", entry.digest, "", 0, "", False, [manifest])
    kinds = [("manifest" if one.media_type in MANIFESTS else "index", one, other) for one, other in found]
    listed = [
        manifest
        if one.digest == digest
        else Document(kind, one.digest, one.media_type, one.size, str(other or ""), False, [])
        for kind, one, other in kinds
    ]
    if manifest not in listed:  # it is in an index within this one
        listed.append(manifest)
    return Document("index", entry.digest, "", len(index), "", True, listed)


def _json(document: Document) -> dict[str, Any]:
    return document._asdict() | {"parts": [_json(part) for part in document.parts]}


def _text(path: str) -> str:
    return path.encode(errors="backslashreplace").decode()
