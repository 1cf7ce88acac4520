"""The benchmark runs, compares like with like, and leaves nothing. What it measures is nobody's business here."""

from __future__ import annotations

import glob
import os
import re
import shutil
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from bench import measure, network, peers

if TYPE_CHECKING:
    from pathlib import Path

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


@pytest.mark.usefixtures("shared_root")
def test_what_peers_get_in_place_of_run_and_of_their_stores_is_not_the_hosts(tmp_path: Path) -> None:
    with peers.Place(str(tmp_path)) as place:
        assert " /run tmpfs" in place.output(["cut", "-d ", "-f2,3", "/proc/self/mounts"]).replace("\n", " ")


def test_benchmark_unpacks_as_gnu_tar_does_and_compares_libraries() -> None:
    argv = [sys.executable, "-m", "bench", "--only", "unpack", "--rounds", "1"]
    done = subprocess.run(argv, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    # the row itself compares the trees of all contestants, and the hash of each layer
    assert len(re.findall(rf"^   minicontainer +{NUMBER} +{NUMBER} +{NUMBER}$", done.stdout, re.M)) == 3, done.stdout
    assert re.search(r"^   isal +[1-9]\d*$", done.stdout, re.M)
    assert len(re.findall(rf"goal: .*times GNU tar's at most 1\.3: {NUMBER}, (?:met|NOT MET)", done.stdout)) == 3


def test_benchmark_tells_when_iperf3_fails_whose_status_is_0() -> None:
    if shutil.which("iperf3") is None:
        pytest.skip("iperf3 is not installed (apt-get install iperf3)")
    with socket.socket() as bound:  # and nobody listens
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(measure.Failed, match="unable to connect to server"):
            network._iperf(None, "127.0.0.1", bound.getsockname()[1], "-u")


def test_benchmark_sends_through_our_networks_and_joins_them() -> None:
    """Without the peers, whose daemons take their time, and two of the four ways."""
    if shutil.which("iperf3") is None:
        pytest.skip("iperf3 is not installed (apt-get install iperf3)")
    before = set(glob.glob("/var/tmp/minicontainer-bench-*"))
    code = (
        "from bench import ground, measure, network, peers\n"
        "from minicontainer import leaks\n"
        "network.WAYS = ('container', '127.0.0.1')\n"
        "peers.there = lambda program: program == 'iperf3'\n"
        "ground.isolate()\n"
        "with ground.scratch() as directory:\n"
        "    there = leaks.snapshot()\n"
        "    network.row(directory, measure.Rounds(cold=2, blocks=1, block=2))\n"
        "    print('left:', leaks.left_since(there))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    heads = "TCP Gbit/s|UDP Gbit/s|request µs|names|ms until the command runs"
    tables = re.split(rf"^   ({heads}) .*$", done.stdout, flags=re.M)
    found = {
        head: {
            row[1]: [float(number) for number in re.findall(NUMBER, row[2])]
            for row in re.finditer(rf"^   (\S.*?)((?:  +{NUMBER})+)$", body, re.M)
        }
        for head, body in zip(tables[1::2], tables[2::2], strict=True)
    }
    for head in ("TCP Gbit/s", "UDP Gbit/s", "request µs"):
        assert set(found[head]) == {"minicontainer", "minicontainer, own network"}, done.stdout
        assert all(len(row) == 2 and min(row) > 0 for row in found[head].values()), done.stdout
    assert found["names"]["minicontainer"][0] > 0
    joins = ["none", "bridge", "bridge, a port", "own", "own, a port", "two of one's own"]
    assert list(found["ms until the command runs"]) == joins
    assert re.search(rf"goal: joining own, cold at most 15 ms: -?{NUMBER} ms, (met|NOT MET)", done.stdout)
    assert "left: []" in done.stdout
    assert set(glob.glob("/var/tmp/minicontainer-bench-*")) == before
