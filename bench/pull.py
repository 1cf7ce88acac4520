"""Row `pull`: fetch and unpack an image of many files from a registry on this machine."""

from __future__ import annotations

import os
import random
import shlex
import shutil
import statistics
import subprocess
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple

from bench import ground, measure, peers, registry, report
from bench.measure import Failed

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.measure import Rounds
    from bench.peers import Engine

TITLE = "pull: fetch and unpack an image of many files from a local registry"
LOOK = "find /data -type f | wc -l; find /data -type f -exec cat {} + | wc -c"
NEEDED = ("docker-registry",)


class Puller(NamedTuple):
    """`pull` is timed; `look` says what it has unpacked as (files, bytes), `forget` removes it."""

    name: str
    pull: Callable[[], float]
    look: Callable[[], tuple[int, int]]
    forget: Callable[[], object]


def row(directory: str, rounds: Rounds) -> None:
    """Measure and print."""
    report.title(TITLE)
    absent, packages = peers.missing(*NEEDED)
    if absent:
        report.skipped(absent, packages)
        return
    times: dict[str, list[float]] = {}
    with ExitStack() as stack:
        host = stack.enter_context(registry.registry(f"{directory}/registry"))
        report.say("making the image")
        os.makedirs(f"{directory}/made")
        made = registry.make(f"{directory}/made", host, 1 if rounds.blocks > 1 else 0.05)
        print(f"   {len(made.layers)} layers, {made.files} files, {_mib(made.compressed)} compressed, ", end="")
        print(f"{_mib(made.content)} unpacked")
        place = stack.enter_context(peers.Place(directory))
        engines = stack.enter_context(peers.engines(directory, place, "docker", "podman"))
        pullers = [_ours(made), *(_engine(engine, made) for engine in engines)]
        if peers.there("skopeo") and peers.there("umoci"):
            pullers.append(_umoci(f"{directory}/umoci", made))
        if peers.there("curl"):
            pullers.append(_pipeline(f"{directory}/pipeline", made))
        for _ in range(rounds.blocks):
            for puller in random.sample(pullers, len(pullers)):
                os.sync()  # what others have written must not be paid by this one
                times.setdefault(puller.name, []).append(puller.pull())
                if puller.look() != (made.files, made.content):
                    raise Failed(f"{puller.name} unpacked {puller.look()}, not {(made.files, made.content)}")
                puller.forget()
        peak = _peak([*ground.command(), "pull", "--quiet", made.reference])
    medians = {name: statistics.median(found) for name, found in times.items()}
    ours = medians["minicontainer"]
    lines = [
        [name, f"{took:.2f}", f"{min(times[name]):.2f}", f"{max(times[name]):.2f}", f"{took / ours:.2f}"]
        for name, took in medians.items()
    ]
    report.table(["seconds", "median", "least", "most", "times ours"], lines)
    print(f"   our memory at its peak, all processes together (PSS): {_mib(peak)}")
    goals = [
        report.Goal(f"times {name}'s{aim}", ours / medians[name], 1)
        for name, aim in (("docker", " (aiming at 0.6)"), ("podman", ""), (PIPELINE, ""))
        if name in medians
    ]
    report.goals([*goals, report.Goal("peak memory", peak / 2**20, 150, " MiB")])
    report.skipped(*peers.missing("dockerd", "podman", "skopeo", "umoci", "curl"))


PIPELINE = "curl | gzip -d | tar"


def _ours(made: registry.Made) -> Puller:
    command = ground.command()

    def look() -> tuple[int, int]:
        argv = [*command, "run", "--rm", "--network", "none", made.reference, "/bin/sh", "-c", LOOK]
        return _numbers(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)

    return Puller(
        "minicontainer",
        lambda: _timed([*command, "pull", "--quiet", made.reference]),
        look,
        lambda: _timed([*command, "rmi", made.reference]),
    )


def _engine(engine: Engine, made: registry.Made) -> Puller:
    insecure = ["--tls-verify=false"] if engine.name == "podman" else []
    return Puller(
        engine.name,
        lambda: engine.once("pull", "--quiet", *insecure, made.reference),
        lambda: _numbers(engine.ask("run", "--rm", "--network", "none", made.reference, "/bin/sh", "-c", LOOK)),
        lambda: engine.ask("rmi", made.reference),
    )


def _umoci(directory: str, made: registry.Made) -> Puller:
    copy = [
        "skopeo",
        "copy",
        "--quiet",
        "--src-tls-verify=false",
        f"docker://{made.reference}",
        f"oci:{directory}/oci:it",
    ]
    unpack = ["umoci", "--log", "error", "unpack", "--image", f"{directory}/oci:it", f"{directory}/bundle"]
    return Puller(
        "skopeo, then umoci",
        lambda: _made(directory) + _timed(copy) + _timed(unpack),
        lambda: _count(f"{directory}/bundle/rootfs/data"),
        lambda: shutil.rmtree(directory),
    )


def _pipeline(directory: str, made: registry.Made) -> Puller:
    steps = [
        f"curl --silent --fail {shlex.quote(url)} | gzip -d | tar -x -C {shlex.quote(directory)}" for url in made.layers
    ]
    return Puller(
        PIPELINE,
        lambda: _made(directory) + _timed(["/bin/bash", "-c", "set -e -o pipefail; " + "; ".join(steps)]),
        lambda: _count(f"{directory}/data"),
        lambda: shutil.rmtree(directory),
    )


def _made(directory: str) -> float:
    os.makedirs(directory)
    return 0


def _timed(argv: list[str]) -> float:
    with open(os.devnull, "wb") as null:
        return measure.command(argv, output=null.fileno())


def _numbers(text: str) -> tuple[int, int]:
    files, content = (int(word) for word in text.split())
    return files, content


def _count(directory: str) -> tuple[int, int]:
    files = content = 0
    for inner, _, names in os.walk(directory):
        paths = [f"{inner}/{name}" for name in names if not os.path.islink(f"{inner}/{name}")]
        files += len(paths)
        content += sum(os.path.getsize(path) for path in paths)
    return files, content


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
        raise Failed(f"{' '.join(argv)}: status {process.returncode}")
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
