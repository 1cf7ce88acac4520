"""Row `pull`: fetch and unpack images of three shapes from a registry on this machine, all of it or the last layer."""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from bench import ground, measure, movers, peers, registry, report
from bench.movers import PIPELINE

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.measure import Rounds
    from bench.movers import Mover
    from bench.registry import Made

TITLE = "pull: fetch and unpack from a local registry, cold and with all but one layer there"
MOST = 3
"""Rounds at the most: each moves gigabytes."""


def row(directory: str, rounds: Rounds) -> None:
    """Measure and print."""
    report.title(TITLE)
    if not possible():
        return
    goals = []
    with ExitStack() as stack:
        host = stack.enter_context(registry.registry(f"{directory}/registry"))
        place = stack.enter_context(peers.Place(directory))
        engines = stack.enter_context(peers.engines(directory, place, "docker", "podman"))
        everybody = movers.movers(directory, engines)
        for made in images(directory, host, rounds):
            times = shuffled(everybody, rounds, lambda mover, made=made: _both(mover, made))  # type: ignore[misc]
            table(["cold", "all but one"], times)
            cold = {name: statistics.median(found[0] for found in taken) for name, taken in times.items()}
            goals += [
                report.Goal(f"{made.shape.text}, cold, times {name}'s", cold["minicontainer"] / cold[name], limit)
                for name, limit in (("docker", 0.6), ("podman", 1), (PIPELINE, 1))
                if name in cold
            ]
            peak = _peak([*ground.command(), "pull", "--quiet", made.reference])
            movers.Ours().forget()
            goals.append(
                report.Goal(
                    f"{made.shape.text}, memory at its peak, all our processes (PSS)", peak / 2**20, 150, " MiB"
                )
            )
    report.goals(goals)
    report.skipped(*peers.missing("dockerd", "podman", "skopeo", "umoci", "curl"))


def possible() -> bool:
    """Whether there is a registry to start; says so if not."""
    absent, packages = peers.missing("docker-registry")
    report.skipped(absent, packages)
    return not absent


def images(directory: str, host: str, rounds: Rounds) -> list[Made]:
    """Make the three images, smaller ones for a quick run, and say how large they are."""
    found = []
    for shape in registry.SHAPES:
        report.say(f"making the image of {shape.text}")
        scratch = f"{directory}/{shape.name}"
        os.makedirs(scratch)
        made = registry.make(scratch, host, shape if rounds.blocks > 1 else shape.scaled(0.05))
        print(f"   {shape.text}: {len(made.layers)} layers, {made.files} files, ", end="")
        print(f"{_mib(made.compressed)} compressed, {_mib(made.content)} unpacked")
        found.append(made)
    return found


def shuffled(
    everybody: list[Mover], rounds: Rounds, work: Callable[[Mover], list[float]]
) -> dict[str, list[list[float]]]:
    """What `work` returns for each, in rounds of changing order. A peer that fails is left out, and it is said."""
    times: dict[str, list[list[float]]] = {mover.name: [] for mover in everybody}
    for _ in range(min(rounds.blocks, MOST)):
        for mover in random.sample(everybody, len(everybody)):
            if mover.name not in times:
                continue
            try:
                times[mover.name].append(work(mover))
            except measure.Failed as error:
                if isinstance(mover, movers.Ours):
                    raise
                del times[mover.name]
                print(f"   {mover.name} is left out: {error}")
            finally:
                mover.forget()
    return times


def table(heads: list[str], times: dict[str, list[list[float]]]) -> None:
    """Seconds: for each thing measured the median, the least and the most, and as a multiple of ours."""
    head = ["seconds", *(word for name in heads for word in (f"{name}", "least", "most", "times ours"))]
    lines = []
    for name in sorted(times, key=lambda name: name != "minicontainer"):
        line = [name]
        for column in range(len(heads)):
            found = [taken[column] for taken in times[name]]
            ours = statistics.median(taken[column] for taken in times["minicontainer"])
            median = statistics.median(found)
            line += [f"{median:.2f}", f"{min(found):.2f}", f"{max(found):.2f}", f"{median / ours:.2f}"]
        lines.append(line)
    report.table(head, lines)


def _both(mover: Mover, made: Made) -> list[float]:
    cold = movers.settled(lambda: mover.pull(made))
    movers.checked(mover, made)
    mover.forget()
    mover.pull(made, base=True)
    rest = movers.settled(lambda: mover.pull(made))
    movers.checked(mover, made)
    return [cold, rest]


def _mib(size: int) -> str:
    return f"{size / 2**20:.0f} MiB"


def _peak(argv: list[str]) -> int:
    """Run a command and watch the memory of all its processes together; the most there ever was, in bytes."""
    peak = 0
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            peak = max(peak, sum(_pss(pid) for pid in _tree(process.pid)))
            time.sleep(0.01)
    if process.returncode:
        raise measure.Failed(f"{' '.join(argv)}: status {process.returncode}")
    return peak


def _tree(root: int) -> list[int]:
    found = [root]
    for pid in found:  # which grows as we go
        try:
            with open(f"/proc/{pid}/task/{pid}/children") as file:
                found += [int(word) for word in file.read().split()]
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def _pss(pid: int) -> int:
    """What of the memory is a process's own, shared pages divided among those who share them. proc_pid_smaps(5)"""
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            return next((int(line.split()[1]) * 1024 for line in file if line.startswith("Pss:")), 0)
    except (FileNotFoundError, ProcessLookupError):
        return 0
