"""Row `unpack`: from the bytes of layers to directories, no network; and the libraries that inflate them."""

from __future__ import annotations

import hashlib
import importlib
import os
import random
import shutil
import statistics
import sys
import urllib.request
import zlib
from typing import TYPE_CHECKING, Any

from bench import ground, measure, movers, peers, pull, registry, report
from minicontainer.images import workers

if TYPE_CHECKING:
    from bench.measure import Rounds
    from bench.registry import Made

TITLE = "unpack: layers into directories, from files in memory"
OURS = f"""
import sys
sys.path.insert(0, {ground.REPOSITORY!r})
from minicontainer.images.compression import Ahead, decompress
from minicontainer.images.unpack import unpack

def pieces(file):
    buffer = memoryview(bytearray(256 << 10))
    while count := file.readinto(buffer):
        yield buffer[:count]

for number, path in enumerate(sys.argv[2:]):
    with open(path, "rb", buffering=0) as file:
        if path.endswith(".tar"):
            unpack(file, f"{{sys.argv[1]}}/{{number}}")
        else:
            with Ahead(decompress(pieces(file))) as stream:
                unpack(stream, f"{{sys.argv[1]}}/{{number}}")
"""
"""What a worker of a pull does, as a program: one layer after the other, each verified by its diff_id's hash."""

UMOCI = "umoci, into one tree"

LIBRARIES = {"zlib": "zlib", "zlib-ng": "zlib_ng.zlib_ng", "isal": "isal.isal_zlib"}


def row(directory: str, rounds: Rounds) -> None:
    """Measure and print."""
    report.title(TITLE)
    if not pull.possible():
        return
    goals = []
    with registry.registry(f"{directory}/registry") as host:
        for made in pull.images(directory, host, rounds):
            paths = _layers(directory, made)
            goals.append(
                report.Goal(f"{made.shape.text}, times GNU tar's", _contest(directory, made, paths, rounds), 1.3)
            )
            if made.shape.name == "few":
                _inflate([path for path in paths if path.endswith(".gz")])
            for path in paths:
                os.unlink(path)
    report.goals(goals)
    report.skipped(*peers.missing("skopeo", "umoci"))


def _layers(directory: str, made: Made) -> list[str]:
    """Each layer as it travels and as a tar, the base first."""
    paths = []
    for number, url in enumerate(made.layers):
        path = f"{directory}/{made.shape.name}-{number:02}"
        with urllib.request.urlopen(url) as answer, open(f"{path}.gz", "wb") as file:
            shutil.copyfileobj(answer, file, 1 << 20)
        sha256 = hashlib.sha256()
        with open(f"{path}.gz", "rb") as source, open(f"{path}.tar", "wb") as target:
            inflating = zlib.decompressobj(wbits=31)
            while chunk := source.read(1 << 20):
                data = inflating.decompress(chunk)
                sha256.update(data)
                target.write(data)
        if f"sha256:{sha256.hexdigest()}" != made.diff_ids[number]:
            raise measure.Failed(f"layer {number} of {made.reference} came wrong")
        paths += [f"{path}.gz", f"{path}.tar"]
    return paths


def _contest(directory: str, made: Made, paths: list[str], rounds: Rounds) -> float:
    """Print the median seconds of each, and of processor time; ours as a multiple of GNU tar's, who hashes nothing."""
    tars, gzips = (sorted(path for path in paths if path.endswith(end)) for end in (".tar", ".gz"))
    to = f"{directory}/to"
    path = next(path for path in sys.path if path.endswith("site-packages"))
    memory = [f"{name}={value}" for name, value in workers.MEMORY.items()]
    code = f"import sys; sys.path.append({path!r})\n" + OURS
    python = ["env", *memory, sys.executable, "-I", "-S", "-c", code, to]
    contestants = {
        "minicontainer": [*python, *tars],
        "GNU tar": _shell("tar -x -f {path} -C {to}/{number}", tars, to),
        "minicontainer, gzip": [*python, *gzips],
        "sha256sum and GNU tar": _shell("tee >(sha256sum > {to}.sum) < {path} | tar -x -C {to}/{number}", tars, to),
        "gzip -d | tar": _shell("gzip -d < {path} | tar -x -C {to}/{number}", gzips, to),
    }
    if peers.there("skopeo") and peers.there("umoci"):
        layout = f"{directory}/{made.shape.name}-layout"
        copy = ["skopeo", "copy", "--quiet", "--src-tls-verify=false", f"docker://{made.reference}"]
        movers.timed([*copy, f"oci:{layout}:it"])
        contestants[UMOCI] = ["umoci", "--log", "error", "unpack", "--image", f"{layout}:it", f"{to}/bundle"]
    wall: dict[str, list[float]] = {}
    busy: dict[str, list[float]] = {}
    trees = {}
    for _ in range(min(rounds.blocks, pull.MOST)):
        for name in random.sample(list(contestants), len(contestants)):
            os.makedirs(to)
            os.sync()
            took, used = measure.cost(contestants[name])
            wall.setdefault(name, []).append(took)
            busy.setdefault(name, []).append(used)
            trees[name] = movers.count(f"{to}/bundle/rootfs/data" if name == UMOCI else to)
            shutil.rmtree(to)
    if trees.pop(UMOCI, (made.files, made.content)) != (made.files, made.content) or len(set(trees.values())) != 1:
        raise measure.Failed(f"not the same trees: {trees}")
    medians = [{name: statistics.median(found[name]) for name in contestants} for found in (wall, busy)]
    lines = [
        [name, *(f"{found[name]:.2f}" for found in medians), f"{medians[1][name] / medians[1]['GNU tar']:.2f}"]
        for name in contestants
    ]
    report.table(["seconds, median", "wall", "processor", "processor / GNU tar"], lines)
    return medians[0]["minicontainer"] / medians[0]["GNU tar"]


def _shell(step: str, paths: list[str], to: str) -> list[str]:
    steps = [
        f"mkdir {to}/{number}; " + step.format(path=path, to=to, number=number) for number, path in enumerate(paths)
    ]
    return ["/bin/bash", "-c", "set -e -o pipefail; " + "; ".join(steps)]


def _inflate(paths: list[str]) -> None:
    """Megabytes a second out of each library that is installed, in the steps in which a pull takes them."""
    blobs = []
    for path in paths:
        with open(path, "rb") as file:
            blobs.append(file.read())
    lines, absent = [], []
    for name, module in LIBRARIES.items():
        try:
            library: Any = importlib.import_module(module)
        except ModuleNotFoundError:
            absent.append(name)
            continue
        rates = [_rate(library, blobs) for _ in range(3)]
        lines.append([name, f"{statistics.median(rates):.0f}"])
    report.table(["gzip, 1 MiB steps", "MB/s"], lines)
    if absent:
        print(f"   skipped, not installed: {', '.join(absent)} (pip install {' '.join(absent)})")


def _rate(library: Any, blobs: list[bytes]) -> float:
    made, before = 0, os.times()
    for blob in blobs:
        member, data = library.decompressobj(wbits=31), memoryview(blob)
        for start in range(0, len(data), 256 << 10):
            piece: Any = data[start : start + (256 << 10)]
            while len(piece):
                made += len(member.decompress(piece, 1 << 20))
                piece = member.unconsumed_tail
    after = os.times()
    return made / 1e6 / (after.user + after.system - before.user - before.system)
