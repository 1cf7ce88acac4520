"""Row `command`: the whole of `minicontainer run --rm IMAGE true`, from an empty process to its exit."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

from bench import ground, measure, peers, report
from bench.measure import Contestant, Rounds

if TYPE_CHECKING:
    from bench.peers import Engine

TITLE = (
    "command: run --rm IMAGE true, the whole command with its interpreter; on the bridge with its set-up and removal"
)
IMAGE = "bench/busybox"
NETWORKS = ("none", "bridge")


def row(directory: str, rounds: Rounds) -> None:
    """Measure and print."""
    report.title(TITLE)
    rounds = Rounds(max(1, rounds.cold // 2), rounds.blocks, max(1, rounds.block // 2))
    root = ground.busybox(f"{directory}/root")
    archive = f"{directory}/root.tar"
    subprocess.run(["tar", "-c", "-f", archive, "-C", root, "."], check=True)
    ours = ground.command()
    subprocess.run([*ours, "import", archive, IMAGE], check=True, stdout=subprocess.DEVNULL)
    with ExitStack() as stack:
        place = stack.enter_context(peers.Place(directory))
        engines = stack.enter_context(peers.engines(directory, place, "docker", "podman"))
        contestants = [Contestant("Python alone", lambda: measure.command([sys.executable, "-c", "pass"]))]
        for network in NETWORKS:
            argv = [*ours, "run", "--rm", "--network", network, IMAGE, "true"]
            contestants.append(Contestant(f"minicontainer, {network}", lambda argv=argv: measure.command(argv)))  # type: ignore[misc]
        for engine in engines:
            engine.ask("import", archive, IMAGE)
            contestants += [_peer(engine, network) for network in NETWORKS]
        usable = []
        for contestant in contestants:
            try:
                contestant.once()
                usable.append(contestant)
            except measure.Failed as error:
                if contestant.name.startswith("minicontainer"):
                    raise
                print(f"   {contestant.name} is left out: {error}")
        report.say(f"{rounds.cold} cold rounds, {rounds.hot} hot starts of {len(usable)}")
        cold = measure.cold(usable, rounds.cold)
        hot = measure.hot(usable, rounds)
    report.versus(cold, hot, "minicontainer, none")
    goals = []
    for network, limit, aim in (("none", 0.25, ""), ("bridge", 0.5, " (aiming at 0.25)")):
        if f"docker, {network}" in hot:
            for kind, times in (("cold", cold), ("hot", hot)):
                value = times[f"minicontainer, {network}"] / times[f"docker, {network}"]
                goals.append(report.Goal(f"--network {network}, {kind}, times docker's{aim}", value, limit))
    report.goals(goals)
    report.skipped(*peers.missing("dockerd", "podman"))


def _peer(engine: Engine, network: str) -> Contestant:
    words = ("run", "--rm", "--network", network, IMAGE, "true")
    return Contestant(f"{engine.name}, {network}", lambda: engine.once(*words))
