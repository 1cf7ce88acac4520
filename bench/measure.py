"""Taking times: contestants, cold and hot."""

from __future__ import annotations

import os
import random
import statistics
import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

IDLE = 0.05
"""Seconds of idleness before a cold start."""


class Failed(Exception):
    """A contestant that did not do what it was asked to do."""


class Contestant(NamedTuple):
    """`once` does the thing one time, checks the result, and returns the seconds that it took."""

    name: str
    once: Callable[[], float]


class Rounds(NamedTuple):
    """How often: rounds of cold starts, and hot ones in so many blocks of so many."""

    cold: int
    blocks: int
    block: int

    @property
    def hot(self) -> int:
        return self.blocks * self.block


def cold(contestants: Sequence[Contestant], rounds: int) -> dict[str, float]:
    """Median seconds of each, idle before every start, in shuffled rounds."""
    times: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
    for _ in range(rounds):
        for contestant in random.sample(contestants, len(contestants)):
            time.sleep(IDLE)
            times[contestant.name].append(contestant.once())
    return {name: statistics.median(found) for name, found in times.items()}


def hot(contestants: Sequence[Contestant], rounds: Rounds) -> dict[str, float]:
    """Median seconds of each, many in a row; one before each block is not counted."""
    times: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
    for _ in range(rounds.blocks):
        for contestant in random.sample(contestants, len(contestants)):
            contestant.once()
            times[contestant.name] += [contestant.once() for _ in range(rounds.block)]
    return {name: statistics.median(found) for name, found in times.items()}


def command(argv: Sequence[str], *, output: int | None = None) -> float:
    """Seconds from the start of a program to its end. Raises Failed unless it ends with status 0."""
    actions: list[tuple[int | str, ...]] = [(os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0)]
    if output is not None:
        actions.append((os.POSIX_SPAWN_DUP2, output, 1))
    return cost(argv, actions)[0]


def cost(argv: Sequence[str], actions: Sequence[tuple[int | str, ...]] = ()) -> tuple[float, float]:
    """The same, and the seconds of processor time of the program and all that it has waited for."""
    before = time.perf_counter()
    pid = os.posix_spawnp(argv[0], list(argv), os.environ, file_actions=actions)
    _, status, used = os.wait4(pid, 0)
    took = time.perf_counter() - before
    if status:
        raise Failed(f"{' '.join(argv)}: status {os.waitstatus_to_exitcode(status)}")
    return took, used.ru_utime + used.ru_stime
