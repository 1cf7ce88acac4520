"""The first packet of a container gets through: its command does not begin before its cable carries anything."""

from __future__ import annotations

import os
import socket
import struct
from typing import TYPE_CHECKING

import pytest
from joins import eventually, start

from minicontainer import linux
from minicontainer.container import Container, Inside, Part
from minicontainer.network import Bridge, Join, arrival, bridge_name, join, networks
from minicontainer.network.netlink import Netlink

if TYPE_CHECKING:
    from networks import Machine, Place

pytest_plugins = ["networks"]

ETH_P_ARP = 0x0806


def one_question() -> None:
    """Ask once for the gateway's hardware address, at once, by a frame written by hand: nobody asks again."""
    with open("/proc/self/net/route") as file:
        (route,) = [line.split() for line in file if line.split()[1] == "00000000"]
    gateway = bytes.fromhex(route[2])[::-1]
    asking = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ARP))
    asking.bind(("eth0", ETH_P_ARP))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as looking:
        looking.connect((socket.inet_ntoa(gateway), 9))
        own = socket.inet_aton(looking.getsockname()[0])
    who_has = struct.pack("!HHBBH6s4s6s4s", 1, 0x0800, 6, 4, 1, asking.getsockname()[4], own, bytes(6), gateway)
    asking.sendto(who_has, ("eth0", ETH_P_ARP, 0, 0, b"\xff" * 6))
    asking.settimeout(0.9)
    try:
        while (answer := asking.recv(64))[14:18] != gateway or answer[7] != 2:
            continue
        print("answered")
    except TimeoutError:
        print("lost")


@pytest.mark.parametrize("company", [False, True])
@pytest.mark.parametrize("kind", ["bridge", "own"])
def test_first_question_is_answered(machine: Machine, kind: str, company: bool) -> None:
    networks.create("own")

    def part() -> Bridge | Join:
        return Bridge() if kind == "bridge" else Join("own")

    if company:
        first = part()
        machine.start(first) if isinstance(first, Bridge) else start(machine, first)
    found = [Container(one_question, part()).output().strip() for _ in range(15)]
    assert found == ["answered"] * 15


class Look(Part):
    """Says, at the last moment before the command, what the waiting one has seen."""

    def __init__(self, of: Bridge | Join) -> None:
        self.of = of

    def seal(self, inside: Inside) -> None:
        link, bridge = (self.of.link, bridge_name()) if isinstance(self.of, Bridge) else join.cables(self.of.wishes)[0]
        with Netlink(fd=os.dup(inside.fds[arrival.GIFT])) as netlink:
            print(arrival.is_ready(netlink, link, bridge), flush=True)


@pytest.mark.parametrize("kind", ["bridge", "own"])
def test_command_begins_when_the_bridge_forwards(machine: Machine, kind: str) -> None:
    networks.create("own")
    for _ in range(5):
        part = Bridge() if kind == "bridge" else Join("own")
        assert Container(["true"], part, Look(part)).output() == "True\n"


def by_hand(machine: Machine) -> Place:
    """A bridge of the test's own, and a neighbour on it, whose end of the cable is down."""
    there = machine.neighbour()
    there.run("ip", "link", "set", "eth0", "down")
    for words in ("link add b0 type bridge forward_delay 200", "link set b0 up", "link set eth0 master b0"):
        machine.run("ip", *words.split())
    return there


def looked(machine: Machine) -> tuple[bool, bool]:
    """Whether it is ready in our eyes, and in those of iproute2."""
    (port,) = machine.ip("-d", "link", "show", "eth0")
    (bridge,) = machine.ip("link", "show", "b0")
    theirs = port["linkinfo"]["info_slave_data"]["state"] == "forwarding" and bridge["operstate"] == "UP"
    with Netlink() as netlink:
        return arrival.is_ready(netlink, "eth0", "b0"), theirs


def test_ready_is_what_iproute2_calls_forwarding_and_up(machine: Machine) -> None:
    there = by_hand(machine)
    assert looked(machine) == (False, False)
    there.run("ip", "link", "set", "eth0", "up")
    assert eventually(lambda: looked(machine) == (True, True))
    machine.run("ip", "link", "set", "b0", "type", "bridge", "stp_state", "1")
    machine.run("ip", "link", "set", "eth0", "nomaster")
    machine.run("ip", "link", "set", "eth0", "master", "b0")
    assert looked(machine) == (False, False), "spanning tree listens first"


def test_nobody_waits_for_ever(machine: Machine) -> None:
    by_hand(machine)
    inside = Inside(["true"], {}, "/", "host")
    with Netlink() as netlink, linux.trace() as calls:
        inside.fds[arrival.GIFT] = netlink.fileno()
        arrival.wait(inside, [("eth0", "b0")])
    assert 5 < len(calls) < 100
    assert {str(call.arguments) for call in calls} == {"eth0"}


def test_every_bridge_is_waited_for_and_nothing_else(machine: Machine) -> None:
    machine.neighbour()  # its cable's end here, eth0, is the macvlan's parent
    networks.create("own")
    networks.create("closed", internal=True)
    networks.create("street", driver="macvlan", subnet="198.51.100.0/24", options={"parent": "eth0"})
    with linux.trace() as calls:
        start(machine, Join("street", "own", "closed"))
    asked = {call.arguments for call in calls if call.label == "Join.enter"}
    bridges = {networks.get(name).link for name in ("own", "closed")}
    assert {name for name in asked if "-n" in name} == bridges
    assert len(asked) == 4
