"""Row `hundred`: a hundred containers, asked for by eight callers at once and one after the other."""

from __future__ import annotations

import random
import statistics
import subprocess
import sys
from typing import TYPE_CHECKING

from bench import ground, peers, report

if TYPE_CHECKING:
    from bench.measure import Rounds

TITLE = "hundred: a hundred containers of row `start`, by eight callers and one at a time"
NUMBER = 100
CALLERS = 8
WAYS = {
    "one": "one at a time",
    "one-beside-threads": "one at a time, from a program with threads",
    "processes": "eight processes",
    "threads": "eight threads of one process",
}


def row(directory: str, rounds: Rounds) -> None:
    """Measure and print."""
    report.title(TITLE)
    layer = ground.busybox(f"{directory}/layer")
    times: dict[str, list[float]] = {}
    with peers.Place(directory) as place:
        for _ in range(rounds.blocks):
            for way in random.sample(list(WAYS), len(WAYS)):
                times.setdefault(f"minicontainer, {WAYS[way]}", []).append(_ask(way, layer))
            if peers.there("crun"):
                for way in ("one", "threads"):
                    with place.inside():
                        times.setdefault(f"crun run, {WAYS[way]}", []).append(_ask(f"crun-{way}", layer, directory))
    medians = {name: statistics.median(found) / NUMBER for name, found in times.items()}
    base = medians[f"minicontainer, {WAYS['one']}"]
    order = [name for name in [*(f"minicontainer, {words}" for words in WAYS.values()), *medians] if name in medians]
    lines = []
    for name in dict.fromkeys(order):
        each = medians[name]
        lines.append([name, report.milliseconds(each), report.milliseconds(each * NUMBER), f"{each / base:.2f}"])
    report.table(["ms, median", "each", "all hundred", "each / one at a time"], lines)
    goals = [
        report.Goal(f"{WAYS[way]}, each, times one at a time", medians[f"minicontainer, {WAYS[way]}"] / base, 1)
        for way in ("processes", "threads")
    ]
    report.goals(goals)
    print(f"   failures: none of {rounds.blocks * NUMBER * len(WAYS)}")
    report.skipped(*peers.missing("crun"))


def _ask(way: str, layer: str, directory: str = "") -> float:
    """Seconds that a program of its own (callers.py) takes for all of them. It ends with an error if any failed."""
    argv = [sys.executable, "-m", "bench.callers", way, str(NUMBER), str(CALLERS), layer, directory]
    done = subprocess.run(argv, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"bench: {way} failed, see above")
    return float(done.stdout)
