"""Bandwidth, counters and macvlan: what the kernel's own tools show of them."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from joins import inet, start

from minicontainer.errors import HostError, NotFoundError, UsageError
from minicontainer.network import Endpoint, Join, connecting, counters, networks, shaping

if TYPE_CHECKING:
    from networks import Machine, Place

pytest_plugins = ["networks"]

# Sends for two seconds; the other side says how many bytes have come.
SINK = """
import socket, sys, time
server = socket.create_server(("0.0.0.0", 7))
print("ready", flush=True)
while True:
    client, _ = server.accept()
    count, begun = 0, time.monotonic()
    while data := client.recv(1 << 16):
        count += len(data)
    with open(sys.argv[1], "w") as file:
        file.write(f"{count * 8 / (time.monotonic() - begun)}")
    client.close()
"""
SOURCE = """
import socket, sys, time
with socket.create_connection((sys.argv[1], 7)) as client:
    end = time.monotonic() + 2
    while time.monotonic() < end:
        client.send(bytes(1 << 14))
"""


def measured(machine: Machine, sender: Place, receiver: Place, path: str) -> float:
    """Bits per second from one to the other."""
    from joins import eventually

    machine.keep(receiver.argv(sys.executable, "-c", SINK, path))
    sender.run(sys.executable, "-c", SOURCE, receiver.address)

    def arrived() -> bool:
        try:
            with open(path) as file:
                return bool(file.read())
        except FileNotFoundError:
            return False

    assert eventually(arrived, 20)
    with open(path) as file:
        return float(file.read())


def test_rates_hold_in_either_direction(machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> None:
    networks.create("shop")
    slow = start(machine, Join(Endpoint("shop", download="20M", upload="4M")))
    fast = start(machine, Join("shop"))
    cable = networks.get("shop").members[slow.container.id].link  # type: ignore[attr-defined]
    (bucket,) = [it for it in json.loads(machine.run("tc", "-j", "qdisc", "show", "dev", cable)) if it["kind"] == "tbf"]
    assert bucket["options"]["rate"] == 20_000_000 // 8
    (bucket,) = json.loads(machine.run("tc", "-j", "qdisc", "show", "dev", shaping.ifb(cable)))
    assert (bucket["kind"], bucket["options"]["rate"]) == ("tbf", 4_000_000 // 8)
    filters = machine.run("tc", "filter", "show", "dev", cable, "ingress")
    assert f"Egress Redirect to device {shaping.ifb(cable)}" in filters
    place = tmp_path_factory.mktemp("rates")
    down = measured(machine, fast, slow, str(place / "down"))
    up = measured(machine, slow, fast, str(place / "up"))
    assert 0.3 * 20e6 < down < 1.3 * 20e6, down
    assert 0.3 * 4e6 < up < 1.5 * 4e6, up
    machine.end(slow)
    assert not re.search(r"mc\w+-i", machine.run("ip", "-br", "link"))


@pytest.mark.parametrize(
    ("wish", "bits"),
    [("500k", 500_000), ("10M", 10**7), ("10mbit", 10**7), ("1G", 10**9), (64000, 64000), ("1.5m", 1_500_000)],
)
def test_rates_are_read(wish: str | int, bits: int) -> None:
    assert shaping.rate(wish) == bits


def test_delays_and_losses_are_read() -> None:
    assert [shaping.duration(wish) for wish in ("20ms", "0.5s", "300us", 7, "7", 0)] == [20, 500, 0.3, 7, 7, 0]
    assert [shaping.part(wish) for wish in ("1%", 0.01, "0.01", "100%", 0)] == [0.01, 0.01, 0.01, 1, 0]
    for wish in ("-1ms", "soon", "61s", "nan", "inf", "", "ms"):
        with pytest.raises(UsageError, match="not a delay"):
            shaping.duration(wish)
    for wish in ("101%", "-1%", "nan", "%", "2"):
        with pytest.raises(UsageError, match="not a part"):
            shaping.part(wish)


@pytest.mark.parametrize("wish", ["fast", "-1", "10x", "1", "999999G", "nan", ""])
def test_rate_that_makes_no_sense(wish: str) -> None:
    with pytest.raises(UsageError, match="is not a rate"):
        Endpoint("shop", download=wish)


def test_delay_works_or_says_that_this_kernel_cannot(machine: Machine) -> None:
    networks.create("shop")
    one, two = start(machine, Join("shop")), start(machine, Join("shop"))
    cable = networks.get("shop").members[two.container.id].link  # type: ignore[attr-defined]
    from minicontainer.network.netlink import Netlink

    with Netlink() as netlink:
        probe = subprocess.run(["tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms"], check=False)
        if probe.returncode != 0:  # a peer says so, too
            with pytest.raises(HostError, match="this kernel has no netem"):
                shaping.delay(netlink, cable, 200)
            assert "netem" not in machine.run("tc", "qdisc", "show", "dev", cable)
            return
        shaping.delay(netlink, cable, 200)
    heard = one.run("ping", "-c", "2", "-W", "5", two.address)
    assert min(float(ms) for ms in re.findall(r"time=([\d.]+) ms", heard)) >= 150


def test_counters_are_the_containers_view(machine: Machine) -> None:
    networks.create("shop")
    one, two = start(machine, Join("shop")), start(machine, Join("shop"))
    before = counters.read(one.container.id)["shop"]  # type: ignore[attr-defined]
    one.run("ping", "-c", "5", "-i", "0.02", "-s", "1000", two.address)
    after = counters.read(one.container.id)["shop"]  # type: ignore[attr-defined]
    seen = one.ip("-s", "link", "show", "eth0")[0]["stats64"]
    assert after.sent_bytes - before.sent_bytes >= 5 * 1000
    assert after.received_packets - before.received_packets >= 5
    assert seen["tx"]["packets"] >= after.sent_packets > before.sent_packets
    assert seen["rx"]["packets"] >= after.received_packets


def test_counters_as_a_time_series_end_with_the_membership(machine: Machine) -> None:
    networks.create("shop")
    networks.create("else")
    one, two = start(machine, Join("shop", "else")), start(machine, Join("shop"))
    series = counters.watch(one.container.id, "shop", every=0.05)  # type: ignore[attr-defined]
    first = next(series)
    one.run("ping", "-c", "20", "-i", "0.002", "-s", "1000", two.address)
    second = next(series)
    assert second[0] > first[0]
    assert min(second[1:]) > 0
    connecting.disconnect(one.container.id, "shop")  # type: ignore[attr-defined]
    assert list(itertools.islice(series, 5)) == []


def test_macvlan_member_stands_in_the_hosts_network(machine: Machine) -> None:
    near = machine.neighbour()
    network = networks.create(
        "lan",
        driver="macvlan",
        subnet="198.51.100.0/24",
        gateway="198.51.100.2",
        range="198.51.100.64/26",
        options={"parent": "eth0"},
    )
    before = machine.view()
    one, two = start(machine, Join("lan")), start(machine, Join("lan"))
    assert inet(one) == ["198.51.100.64/24"]
    near.serve("tcp", 7, "near")
    one.serve("tcp", 7, "one")
    assert one.call("tcp", near.address, 7) == f"near sees {one.address}", "nothing is translated"
    assert near.call("tcp", one.address, 7) == f"one sees {near.address}"
    assert two.call("tcp", one.address, 7) == f"one sees {two.address}"
    (link,) = one.ip("-d", "link", "show", "eth0")
    assert link["linkinfo"] == {"info_kind": "macvlan", "info_data": {"mode": "bridge"}} | link["linkinfo"]
    assert network.server is None
    for place in (one, two):
        machine.end(place)
    assert {**machine.view(), "files": []} == {**before, "files": []}


def test_macvlan_and_a_bridge_for_one_container(machine: Machine) -> None:
    near, far = machine.neighbour("198.51.100", "eth0"), machine.neighbour("203.0.113", "eth1")
    networks.create("lan", driver="macvlan", subnet="198.51.100.0/24", options={"parent": "eth0", "mode": "private"})
    networks.create("shop")
    one = start(machine, Join("shop", Endpoint("lan", "198.51.100.77"), publish={8080: 80}))
    one.serve("tcp", 80, "one")
    assert near.call("tcp", "198.51.100.77", 80) == "one sees 198.51.100.2"
    assert far.call("tcp", "203.0.113.1", 8080) == "one sees 203.0.113.2", "and through the bridge"
    connecting.disconnect(one.container.id, "lan")  # type: ignore[attr-defined]
    assert [link["ifname"] for link in one.ip("link")] == ["lo", "eth0"]


def test_macvlan_that_makes_no_sense(machine: Machine) -> None:
    subnet = "198.51.100.0/24"
    with pytest.raises(NotFoundError, match="no link eth7"):
        networks.create("lan", driver="macvlan", subnet=subnet, options={"parent": "eth7"})
    with pytest.raises(UsageError, match="needs a link of the host"):
        networks.create("lan", driver="macvlan", subnet=subnet)
    with pytest.raises(UsageError, match="no mode 'magic'"):
        networks.create("lan", driver="macvlan", subnet=subnet, options={"parent": "lo", "mode": "magic"})
    with pytest.raises(UsageError, match="needs the subnet"):
        networks.create("lan", driver="macvlan", options={"parent": "lo"})
    machine.neighbour()
    networks.create("lan", driver="macvlan", subnet=subnet, options={"parent": "eth0"})
    with pytest.raises(UsageError, match="ports cannot be published into lan"):
        start(machine, Join("lan", publish={8080: 80}))
    with pytest.raises(UsageError, match="bandwidth cannot be limited"):
        start(machine, Join(Endpoint("lan", download="1M")))
    assert networks.get("lan").members == {}
