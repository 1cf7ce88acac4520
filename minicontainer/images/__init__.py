"""Chapter 07: images, its own world.

A container needs files to live in, and somebody has packed them for us: an image is a stack of tar archives and a
JSON document, named by their digests and handed out by a registry over HTTP.

>>> from minicontainer.images import pull                                     # doctest: +SKIP
>>> pull("alpine").container(["cat", "/etc/os-release"]).run()                # doctest: +SKIP

Read it in this order: `reference` (names), `manifest`, `platforms` and `choosing` (the documents), `settings`, `tls`,
`proxies` and `transport` (the wire), `challenge`, `credentials`, `auth`, `login` (who we are), `registry` and `blobs`,
`tar` and `unpack` (a layer becomes a directory), `store` and `session` (what is on disk, and what is arriving),
`compression`, `fetching` and `workers` (layers arrive),
`pulling`, `pushing`, `importing` (the verbs), `image` (how it becomes a container), `progress`.
"""

from __future__ import annotations

from minicontainer.images.image import Image
from minicontainer.images.store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minicontainer.images.copying import copy as copy
    from minicontainer.images.importing import import_ as import_
    from minicontainer.images.loading import load as load
    from minicontainer.images.pulling import pull as pull
    from minicontainer.images.pulling import pull_all as pull_all
    from minicontainer.images.pushing import push as push
    from minicontainer.images.saving import save as save

__all__ = [
    "Image",
    "Store",
    "copy",
    "get",
    "images",
    "import_",
    "inspect",
    "load",
    "pull",
    "pull_all",
    "push",
    "remove",
    "save",
    "tag",
]

_HOMES = {
    "copy": "copying",
    "import_": "importing",
    "load": "loading",
    "pull": "pulling",
    "pull_all": "pulling",
    "push": "pushing",
    "save": "saving",
}
"""Verbs that load HTTP, TLS, compression or the like, which `run` has no use for."""


def get(name: str) -> Image:
    """The image of that name, or with an id that begins so. Raises NotFoundError."""
    store = Store()
    return Image(store, store.find(name))


def images() -> list[Image]:
    """All images of this machine."""
    store = Store()
    return [Image(store, entry) for entry in store.entries()]


def tag(image: str, name: str) -> None:
    """Give an image one more name."""
    Store().tag(image, name)


def remove(image: str) -> list[str]:
    """Take a name away, and with the last one the image: what was done, line by line. See `Store.remove`."""
    return Store().remove(image)


def inspect(name: str) -> dict[str, object]:
    """All that is known of an image: names, digests, the config, where its layers lie."""
    image = get(name)
    names = [other.entry.name for other in images() if other.entry.manifest.digest == image.entry.manifest.digest]
    return {
        "Id": image.id,
        "Names": [other for other in names if other],
        "Digest": image.digest,
        "Manifest": image.entry.manifest.json(),
        "Size": image.size,
        "Layers": [layer.json() for layer in image.manifest.layers],
        "Directories": image.layers,
        "Config": image.config.raw,
    }


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = __import__(f"{__name__}.{_HOMES[name]}", fromlist=[name])
    return getattr(module, name)
