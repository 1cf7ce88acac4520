"""The benchmark runs, compares like with like, and leaves nothing. What it measures is nobody's business here."""

from __future__ import annotations

import glob
import os
import re
import subprocess
import sys

REPOSITORY = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
NUMBER = r"\d+(?:\.\d+)?"


def test_benchmark_measures_our_start_beside_a_floor_whose_container_is_the_same() -> None:
    before = set(glob.glob("/var/tmp/minicontainer-bench-*"))
    argv = [sys.executable, "-m", "bench", "--only", "start", "--rounds", "2"]
    done = subprocess.run(argv, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    # the row compares mounts, devices, namespaces and groups of both before the clock runs
    assert "verified" in done.stderr
    measured = {
        match[1]: [float(match[number]) for number in (2, 3, 4, 5)]
        for match in re.finditer(rf"^   (\S.*?) +({NUMBER}) +({NUMBER}) +({NUMBER}) +({NUMBER})$", done.stdout, re.M)
    }
    for name in ("C floor", "minicontainer", "C floor, no cgroup", "minicontainer, no cgroup"):
        assert min(measured[name]) > 0, done.stdout
    assert measured["C floor"][2:] == [1, 1]
    assert re.search(rf"goal: .*times the C floor at most 1\.5: {NUMBER}, (met|NOT MET)", done.stdout)
    assert set(glob.glob("/var/tmp/minicontainer-bench-*")) == before


def test_benchmark_notices_a_floor_that_is_not_the_same() -> None:
    """Without one of the masks in the floor, the row refuses to measure."""
    code = (
        "from bench import floor, ground, measure, start\n"
        "ground.isolate()\n"
        "floor.MASKED = floor.MASKED[:-1]\n"
        "with ground.scratch() as directory:\n"
        "    layer = ground.busybox(f'{directory}/layer')\n"
        "    try:\n"
        "        start.verify(directory, floor.build(directory), layer)\n"
        "    except measure.Failed as error:\n"
        "        print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "-/ /sys/firmware ro" in done.stdout


def test_benchmark_unpacks_as_gnu_tar_does_and_compares_libraries() -> None:
    argv = [sys.executable, "-m", "bench", "--only", "unpack", "--rounds", "1"]
    done = subprocess.run(argv, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    # the row itself compares the trees of all contestants, and the hash of each layer
    assert len(re.findall(rf"^   minicontainer +{NUMBER} +{NUMBER} +{NUMBER}$", done.stdout, re.M)) == 3, done.stdout
    assert re.search(r"^   isal +[1-9]\d*$", done.stdout, re.M)
    assert len(re.findall(rf"goal: .*times GNU tar's at most 1\.3: {NUMBER}, (?:met|NOT MET)", done.stdout)) == 3
