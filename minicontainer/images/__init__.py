"""Chapter 07: images, its own world.

A container needs files to live in, and somebody has packed them for us: an image is a stack of tar archives and a
JSON document, named by their digests and handed out by a registry over HTTP.

>>> from minicontainer.images import pull                                     # doctest: +SKIP
>>> pull("alpine").container(["cat", "/etc/os-release"]).run()                # doctest: +SKIP

Read it in this order: `reference` (names), `manifest` (the documents), `transport`, `auth` and `registry` (the wire),
`tar` and `unpack` (a layer becomes a directory), `store` and `session` (what is on disk, and what is arriving),
`compression`, `fetching` and `workers` (layers arrive),
`pulling`, `pushing`, `importing` (the verbs), `image` (how it becomes a container), `progress`.
"""

from __future__ import annotations

from minicontainer.images.image import Image
from minicontainer.images.store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minicontainer.images.importing import import_ as import_
    from minicontainer.images.pulling import pull as pull
    from minicontainer.images.pushing import push as push

__all__ = ["Image", "Store", "get", "images", "import_", "inspect", "pull", "push", "remove", "tag"]


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
    # The three verbs load HTTP, TLS and compression, which `run` has no use for.
    modules = {"pull": "pulling", "push": "pushing", "import_": "importing"}
    if name not in modules:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = __import__(f"{__name__}.{modules[name]}", fromlist=[name])
    return getattr(module, name)
