"""Chapter 07: images, its own world.

A container needs files to live in, and somebody has packed them for us: an image is a stack of tar archives and a
JSON document, named by their digests and handed out by a registry over HTTP.

>>> from minicontainer.images import pull                                     # doctest: +SKIP
>>> pull("alpine").container(["cat", "/etc/os-release"]).run()                # doctest: +SKIP

Read it in this order: `reference` (names), `manifest`, `platforms` and `choosing` (the documents), `settings`, `tls`,
`proxies` and `transport` (the wire), `challenge`, `credentials`, `auth`, `login` (who we are), `registry` and `blobs`,
`hashing`, `tar` and `unpack` (a layer becomes a directory), `store` and `session` (what is on disk, and what is
arriving), `compression`, `partial`, `fetching` and `workers` (layers arrive),
`pulling`, `pushing`, `importing`, `exporting`, `saving`, `loading`, `copying` (the verbs), `image` (how it becomes a
container), `progress`. Then what one learns from it: `trees`, `steps`, `explaining`, `inspecting`; and housekeeping:
`usage`, `pruning`, `checking`.
"""

from __future__ import annotations

from minicontainer.images.image import Image
from minicontainer.images.store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minicontainer.images.checking import check as check
    from minicontainer.images.copying import copy as copy
    from minicontainer.images.explaining import explain as explain
    from minicontainer.images.explaining import shared as shared
    from minicontainer.images.exporting import export as export
    from minicontainer.images.importing import import_ as import_
    from minicontainer.images.inspecting import inspect as inspect
    from minicontainer.images.loading import load as load
    from minicontainer.images.pruning import prune as prune
    from minicontainer.images.pulling import pull as pull
    from minicontainer.images.pulling import pull_all as pull_all
    from minicontainer.images.pushing import push as push
    from minicontainer.images.saving import save as save
    from minicontainer.images.steps import history as history
    from minicontainer.images.usage import disk_usage as disk_usage

__all__ = [
    "Image",
    "Store",
    "check",
    "copy",
    "disk_usage",
    "explain",
    "export",
    "get",
    "history",
    "images",
    "import_",
    "inspect",
    "load",
    "prune",
    "pull",
    "pull_all",
    "push",
    "remove",
    "save",
    "shared",
    "tag",
]

_HOMES = {
    "check": "checking",
    "copy": "copying",
    "disk_usage": "usage",
    "explain": "explaining",
    "export": "exporting",
    "history": "steps",
    "import_": "importing",
    "inspect": "inspecting",
    "load": "loading",
    "prune": "pruning",
    "pull": "pulling",
    "pull_all": "pulling",
    "push": "pushing",
    "save": "saving",
    "shared": "explaining",
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


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = __import__(f"{__name__}.{_HOMES[name]}", fromlist=[name])
    return getattr(module, name)
