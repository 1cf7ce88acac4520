"""Row `moving`: send images to another registry, write them into an archive, read them back."""

from __future__ import annotations

import os
import shutil
from contextlib import ExitStack
from typing import TYPE_CHECKING

from bench import measure, movers, peers, pull, registry, report

if TYPE_CHECKING:
    from bench.measure import Rounds
    from bench.movers import Mover
    from bench.registry import Made

TITLE = "moving: push into an empty registry, save into an archive, load from it"


def row(directory: str, rounds: Rounds) -> None:
    """Measure and print."""
    report.title(TITLE)
    if not pull.possible():
        return
    with ExitStack() as stack:
        host = stack.enter_context(registry.registry(f"{directory}/registry"))
        place = stack.enter_context(peers.Place(directory))
        engines = stack.enter_context(peers.engines(directory, place, "docker", "podman"))
        everybody = [one for one in movers.movers(directory, engines) if not isinstance(one, movers.Pipeline)]
        for made in pull.images(directory, host, rounds):
            times = pull.shuffled(everybody, rounds, lambda mover, made=made: _all(directory, mover, made))  # type: ignore[misc]
            pull.table(["push", "save", "load"], times)
    report.skipped(*peers.missing("dockerd", "podman", "skopeo", "umoci"))


def _all(directory: str, mover: Mover, made: Made) -> list[float]:
    mover.pull(made)
    # A registry of its own for each push: one that has the blobs somewhere would take them from there.
    with registry.registry(f"{directory}/empty-registry") as other:
        target = f"{other}/{made.reference.partition('/')[2]}"
        push = movers.settled(lambda: mover.push(made, target))
    shutil.rmtree(f"{directory}/empty-registry")
    archive = f"{directory}/archive.tar"
    save = movers.settled(lambda: mover.save(made, archive))
    try:
        if os.path.getsize(archive) < made.compressed / 2:
            raise measure.Failed(f"{mover.name} saved {os.path.getsize(archive)} bytes only")
        mover.forget()
        load = movers.settled(lambda: mover.load(made, archive))
        movers.checked(mover, made)
    finally:
        os.unlink(archive)
    return [push, save, load]
