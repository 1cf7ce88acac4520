"""How much of the disk images take, and which part of that they share: what `docker system df` tells.

An image costs twice here: as the blobs that came, and as the layers that are unpacked. Two images on one base have the
base's blobs and layers once. So the sizes of all images add up to more than is there; `unique` is what would be free
if that image went, and only that one.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from minicontainer.images.reference import Reference
from minicontainer.images.store import Entry, Store, layers_of_containers
from minicontainer.images.trees import allocated

if TYPE_CHECKING:
    from collections.abc import Iterable


class ImageUsage:
    """One image, in bytes on the disk: `size` is `shared` (others have it too) and `unique`. So many `containers` need
    it."""

    __slots__ = ("containers", "id", "names", "shared", "unique")

    def __init__(self, id: str, names: list[str], shared: int, unique: int, containers: int) -> None:
        self.id, self.names, self.shared, self.unique, self.containers = id, names, shared, unique, containers

    @property
    def size(self) -> int:
        return self.shared + self.unique

    def __repr__(self) -> str:
        return f"<{', '.join(self.names) or '<none>'} {self.size}: {self.shared} shared, {self.unique} unique>"


class Usage:
    """All of a data root, in bytes on the disk.

    `images` one by one; `total` for all of them together and `reclaimable` of it, were all those removed that no
    container needs; `leftovers` what no image leads to, and what is just arriving; `containers` by id what each has
    written.
    """

    __slots__ = ("containers", "images", "leftovers", "reclaimable", "total")

    def __init__(
        self, images: list[ImageUsage], total: int, reclaimable: int, leftovers: int, containers: dict[str, int]
    ) -> None:
        self.images, self.total, self.reclaimable = images, total, reclaimable
        self.leftovers, self.containers = leftovers, containers


def disk_usage() -> Usage:
    """Measure. It reads no file, but asks for the size of each."""
    store = Store()
    scale = _Scale()
    groups: dict[str, list[Entry]] = {}
    for entry in store.entries():
        groups.setdefault(entry.manifest.digest, []).append(entry)
    things = {digest: things_of(store, group) for digest, group in groups.items()}
    owners: dict[str, int] = {}
    for paths in things.values():
        for path in paths:
            owners[path] = owners.get(path, 0) + 1
    users = layers_of_containers()
    images, active = [], set()
    for digest, group in groups.items():
        paths = things[digest]
        running = sum(used == set(group[0].layers) for used in users)
        if running:
            active |= paths
        names = [Reference.parse(entry.name).familiar for entry in group if entry.name]
        images.append(
            ImageUsage(
                store.id(group[0]),
                names,
                scale.weigh(path for path in paths if owners[path] > 1),
                scale.weigh(path for path in paths if owners[path] == 1),
                running,
            )
        )
    total, here = scale.weigh(owners), scale.weigh(_everything(store))
    containers = f"{store.root}/containers"
    written = {name: allocated(f"{containers}/{name}/upper") for name in _names(containers)}
    leftovers = max(here - total, 0) + scale.weigh(_arriving(store))
    return Usage(images, total, total - scale.weigh(active), leftovers, written)


def things_of(store: Store, entries: Iterable[Entry]) -> set[str]:
    """The paths of all blobs and layers that images have."""
    found = set()
    for entry in entries:
        found |= {store.blob(digest) for digest in store.walk(entry)}
        found |= {store.layer(chain_id) for chain_id in entry.layers}
    return found


def store_size(store: Store) -> int:
    """Bytes on the disk of all blobs and layers, whoever has them, and of what has begun to arrive."""
    return _Scale().weigh([*_everything(store), *_arriving(store)])


def _everything(store: Store) -> list[str]:
    return [f"{place}/{name}" for place in (store.blobs, store.layers) for name in _names(place)]


def _arriving(store: Store) -> list[str]:
    return [f"{store.ingest}/{name}" for name in _names(store.ingest)]


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []


class _Scale:
    """Weighs each path once."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}

    def weigh(self, paths: Iterable[str]) -> int:
        total = 0
        for path in paths:
            if path not in self._known:
                self._known[path] = _blocks(path)
            total += self._known[path]
        return total


def _blocks(path: str) -> int:
    if os.path.isdir(path):
        return allocated(path)
    try:
        return os.stat(path).st_blocks * 512
    except FileNotFoundError:  # collected meanwhile
        return 0
