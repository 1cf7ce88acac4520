"""Inspect: all that is known of an image, in Docker's words.

Whoever has a script for `docker image inspect` can read it. `GraphDriver` names the unpacked layers as overlayfs's
options want them; `Size` is that of their files, `Layers` and `Descriptor` tell what travels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from minicontainer.images.image import Image
from minicontainer.images.reference import Reference
from minicontainer.images.store import Store
from minicontainer.images.trees import content

if TYPE_CHECKING:
    from collections.abc import Iterable


def inspect(name: str) -> dict[str, Any]:
    """An image as Docker's API describes one, and its `Descriptor` and `Layers` as the manifest has them.

    Raises NotFoundError.
    """
    store = Store()
    image = Image(store, store.find(name))
    same = [entry for entry in store.entries() if entry.manifest.digest == image.entry.manifest.digest]
    references = [(Reference.parse(entry.name), entry.digest) for entry in same if entry.name]
    raw = image.config.raw
    layers = image.layers
    described: dict[str, Any] = {
        "Id": image.id,
        "RepoTags": _each(reference.familiar for reference, _ in references if not reference.digest),
        "RepoDigests": _each(f"{_repository(reference)}@{digest}" for reference, digest in references),
        "Parent": "",
        "Comment": _last_comment(raw),
        "Created": raw.get("created") or "",
        "DockerVersion": raw.get("docker_version") or "",
        "Author": raw.get("author") or "",
        "Config": raw.get("config") or {},
        "Architecture": raw.get("architecture") or "",
        "Os": raw.get("os") or "",
        "Size": sum(content(path) for path in layers),
        "GraphDriver": {
            "Name": "overlayfs",
            "Data": {"LowerDir": ":".join(reversed(layers[:-1])), "UpperDir": layers[-1] if layers else ""},
        },
        "RootFS": {"Type": "layers", "Layers": image.config.diff_ids},
        "Descriptor": image.entry.manifest.json() | {"digest": image.digest},
        "Layers": [layer.json() for layer in image.manifest.layers],
    }
    if raw.get("variant"):
        described["Variant"] = raw["variant"]
    return described


def _repository(reference: Reference) -> str:
    return reference.familiar.partition("@")[0].removesuffix(f":{reference.tag}")


def _each(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(texts))


def _last_comment(raw: dict[str, Any]) -> str:
    """Docker takes it from the last step."""
    told = raw.get("history")
    last = told[-1] if isinstance(told, list) and told else {}
    return str(last.get("comment") or "") if isinstance(last, dict) else ""
