"""Row `runtime`: `minicontainer-runtime` beside crun and runc, on bundles that differ in nothing: run, exec, state."""

from __future__ import annotations

import json
import os
import re
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from bench import ground, measure, peers, report
from bench.measure import Contestant, Rounds

if TYPE_CHECKING:
    from collections.abc import Callable

TITLE = "runtime: an OCI runtime's verbs on one busybox bundle, from an empty process to its exit"
OURS = "minicontainer-runtime"
SCRIPT = Path(sys.executable).with_name(OURS)
"""As engines call it."""
VERBS = ("run", "exec", "state")
MEGABYTES = 12
"""What a created container may take while it waits."""


def row(directory: str, rounds: Rounds) -> None:
    """Measure and print."""
    report.title(TITLE)
    root = ground.busybox(f"{directory}/root")
    commands = {OURS: [os.fspath(SCRIPT)]}
    commands |= {name: [name] for name in ("crun", "runc") if peers.there(name)}
    waiting = {}
    with peers.Place(directory) as place:
        alone = [sys.executable, "-I", "-S", "-c", "pass"]
        contestants = [Contestant("Python alone", lambda: measure.command(alone))]
        commands_of = {"Python alone": alone}
        running: list[tuple[list[str], str]] = []
        try:
            for name, command in commands.items():
                bundle = peers.bundle(f"{directory}/{name}", root, cgroup=True)
                base = [*command, "--root", f"{directory}/state-{name}"]
                waiting[name] = _memory(place, base, bundle, f"{name}-waiting")
                # its groups must not be those of the one that runs
                second = peers.bundle(f"{directory}/{name}-second", root, cgroup=True)
                _sleep(second)
                place.command([*base, "run", "--detach", "--bundle", second, f"{name}-second"], output=_silent())
                running.append((base, f"{name}-second"))
                for verb in VERBS:
                    words = commands_of[f"{name} {verb}"] = _words(base, bundle, name, verb)
                    contestants.append(Contestant(f"{name} {verb}", _once(place, words)))
            report.say(f"{rounds.cold} cold rounds, {rounds.hot} hot ones of {len(contestants)}")
            cold, hot = measure.cold(contestants, rounds.cold), measure.hot(contestants, rounds)
            processor = _processor(place, commands_of, rounds.cold)
        finally:
            for base, name in running:
                place.output([*base, "delete", "--force", name])
    report.versus(cold, hot, f"{OURS} run")
    lines = [[name, report.milliseconds(time)] for name, time in processor.items()]
    report.table(["ms of processor time, median", "user + system"], lines)
    goals = []
    for kind, times in (("cold", cold), ("hot", hot)):
        for verb in VERBS[:2]:
            if f"runc {verb}" in times:
                value = times[f"{OURS} {verb}"] / times[f"runc {verb}"]
                goals.append(report.Goal(f"{verb}, {kind}, times runc's", value, 1))
        value = times[f"{OURS} state"] / times["Python alone"]
        goals.append(report.Goal(f"state, {kind}, times Python's own start", value, 2))
    goals.append(report.Goal("a created container that waits, MB", waiting[OURS], MEGABYTES))
    report.goals(goals)
    report.skipped(*peers.missing("crun", "runc"))


def _words(base: list[str], bundle: str, name: str, verb: str) -> list[str]:
    return {
        "run": [*base, "run", "--bundle", bundle, f"{name}-run"],
        "exec": [*base, "exec", f"{name}-second", "/bin/true"],
        "state": [*base, "state", f"{name}-second"],
    }[verb]


def _once(place: peers.Place, words: list[str]) -> Callable[[], float]:
    silent = _silent()
    return lambda: place.command(words, output=silent)


def _processor(place: peers.Place, commands: dict[str, list[str]], rounds: int) -> dict[str, float]:
    """Seconds of processor time of each command and what it waited for: the one figure that load does not change."""
    actions = [(os.POSIX_SPAWN_OPEN, fd, "/dev/null", os.O_RDWR, 0) for fd in (0, 1)]
    found: dict[str, list[float]] = {name: [] for name in commands}
    with place.inside():
        for _ in range(rounds):
            for name, words in commands.items():
                found[name].append(measure.cost(words, actions)[1])
    return {name: statistics.median(times) for name, times in found.items()}


def _silent() -> int:
    return os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)


def _sleep(bundle: str) -> None:
    path = Path(bundle, "config.json")
    config = json.loads(path.read_text())
    config["process"]["args"] = ["/bin/busybox", "sleep", "100000"]
    path.write_text(json.dumps(config))


def _memory(place: peers.Place, base: list[str], bundle: str, name: str) -> float:
    """The megabytes (PSS) of a container that waits for its start."""
    # not through a pipe: the process that waits would hold its end
    place.command([*base, "create", "--bundle", bundle, "--pid-file", f"{bundle}/pid", name], output=_silent())
    try:
        rollup = Path(f"/proc/{Path(bundle, 'pid').read_text()}/smaps_rollup").read_text()
        found = re.search(r"^Pss: +(\d+) kB", rollup, re.MULTILINE)
        assert found is not None
        return int(found[1]) / 1024
    finally:
        place.output([*base, "delete", "--force", name])
