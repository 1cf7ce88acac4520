"""Delay and loss, on a kernel that has netem. Few small kernels do; that of `make test-v2` does, and this file is run
there, too: so it needs nothing but Python, pytest and tc."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

# In a network namespace of its own, on lo: every packet passes that queue, so there and back is twice the delay.
PROGRAM = """
import json, os, socket, statistics, sys, time
sys.path.insert(0, sys.argv[1])
from minicontainer import linux
from minicontainer.network import links, shaping
from minicontainer.network.definition import Member
from minicontainer.network.netlink import Netlink

def pair():
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 0))
    server.settimeout(2)
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.settimeout(2)
    client.connect(server.getsockname())
    return server, client

def there_and_back(rounds):
    times = []
    server, client = pair()
    for _ in range(rounds):
        begun = time.monotonic()
        client.send(b"hello")
        _, address = server.recvfrom(100)
        server.sendto(b"hello", address)
        client.recv(100)
        times.append((time.monotonic() - begun) * 1000)
    return statistics.median(times)

def arrived(sent):
    server, client = pair()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    for count in range(sent):
        client.send(b"hello")
        if count % 50 == 49:
            time.sleep(0.05)
    found = 0
    try:
        while True:
            server.recv(100)
            found += 1
    except TimeoutError:
        return found

linux.unshare(linux.CLONE_NEWNET)
with Netlink() as netlink:
    links.set_up(netlink, "lo")
    found = {"before": there_and_back(9)}
    shaping.delay(netlink, "lo", 60)
    found["delayed"] = there_and_back(9)
    shaping.limit(netlink, Member("127.0.0.1", link="lo", delay=1, loss=0.25, download=50_000_000))
    found["arrived"] = arrived(600) / 600
    found["queues"] = json.loads(os.popen("tc -j qdisc show dev lo").read())
print(json.dumps(found))
"""


def test_packets_wait_and_get_lost_as_was_asked() -> None:
    program = [sys.executable, "-c", PROGRAM, __file__.rpartition("/tests/")[0]]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    if "this kernel has no netem" in done.stderr:
        pytest.skip("this kernel has no sch_netem; `make test-v2` runs it on one that has")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert 110 < found["delayed"] - found["before"] < 250, found
    assert 0.65 < found["arrived"] < 0.85, found
    netem, bucket = sorted(found["queues"], key=lambda it: "parent" in it)
    assert (netem["kind"], netem["options"]["delay"]["delay"]) == ("netem", 0.001)
    assert netem["options"]["loss-random"]["loss"] == pytest.approx(0.25, abs=0.001)
    assert (bucket["kind"], bucket["parent"], bucket["options"]["rate"]) == ("tbf", "2:1", 50_000_000 // 8)
