"""Prune: remove the images that nobody would miss.

A pull or an import that gives a name to a newer image leaves the older one without any: those go. With `all`, also
every image that no container needs, neither a running one nor one that has ended and is kept. What another image has
too stays. What interrupted pulls have kept of blobs goes as well.
"""

from __future__ import annotations

from typing import NamedTuple

from minicontainer.images.reference import Reference
from minicontainer.images.store import Entry, Store
from minicontainer.images.usage import store_size


class Pruned(NamedTuple):
    """What has gone: `lines` as `remove` says it, and how many bytes of the disk are `freed`."""

    lines: list[str]
    freed: int


def prune(*, all: bool = False) -> Pruned:
    """Remove the images without a name, or with `all` those that no container needs; and what nothing leads to."""
    store = Store()
    before = store_size(store)
    ids: dict[str, str] = {}

    def unwanted(entry: Entry) -> bool:
        ids[entry.manifest.digest] = store.id(entry)
        return all or not entry.name

    gone = store.forget(unwanted)
    left = {entry.manifest.digest for entry in store.entries()}
    lines = [f"Untagged: {Reference.parse(entry.name).familiar}" for entry in gone if entry.name]
    deleted = dict.fromkeys(entry.manifest.digest for entry in gone)
    lines += [f"Deleted: {ids[digest]}" for digest in deleted if digest not in left]
    return Pruned(lines, max(before - store_size(store), 0))
