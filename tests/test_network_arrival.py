"""The first packet of a container gets through: its command does not begin before its cable carries anything."""

from __future__ import annotations

import socket
import subprocess
from typing import TYPE_CHECKING

import pytest
from joins import start

from minicontainer import linux
from minicontainer.container import Container
from minicontainer.network import Bridge, Join, JoinNetwork, arrival, networks

if TYPE_CHECKING:
    from networks import Machine

pytest_plugins = ["networks"]


def one_question() -> None:
    """Ask once for the gateway's hardware address, at once, by a frame written by hand: nobody asks again."""
    with open("/proc/self/net/route") as file:
        (route,) = [line.split() for line in file if line.split()[1] == "00000000"]
    gateway = bytes.fromhex(route[2])[::-1]
    asking = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0806))
    asking.bind(("eth0", 0x0806))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as looking:
        looking.connect((socket.inet_ntoa(gateway), 9))
        own = socket.inet_aton(looking.getsockname()[0])
    asking.sendto(arrival.request(asking.getsockname()[4], own, gateway), ("eth0", 0x0806, 0, 0, b"\xff" * 6))
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


@pytest.mark.parametrize("kind", ["bridge", "own"])
def test_what_is_lost_while_the_cable_comes_up_is_none_of_the_commands(machine: Machine, kind: str) -> None:
    """Here a rule loses the first frames for certain; whether the kernel does is a matter of microseconds."""
    networks.create("own")
    loses = "add rule bridge slow first ether type arp quota until 100 bytes drop"
    machine.nft("add table bridge slow; add chain bridge slow first { type filter hook prerouting priority -400; }")
    for _ in range(2):
        machine.nft(f"flush chain bridge slow first; {loses}")
        assert Container(one_question, Bridge() if kind == "bridge" else Join("own")).output().strip() == "answered"


def ask() -> None:
    print(arrival.wait("eth0", "198.51.100.2", "198.51.100.1"))


def ask_patiently() -> None:
    arrival.PATIENCE = 20
    ask()


def test_wait_asks_until_the_other_end_is_up(machine: Machine) -> None:
    there = JoinNetwork(machine.neighbour().pid or 0)
    assert Container(ask, there).output().strip() == "True"
    machine.run("ip", "link", "set", "eth0", "down")
    assert Container(ask, there).output().strip() == "False"
    with subprocess.Popen(["sh", "-c", "sleep 0.1; ip link set eth0 up"]):
        assert Container(ask_patiently, there).output().strip() == "True"


def test_every_gateway_that_is_the_hosts_is_asked_for_and_no_other(machine: Machine) -> None:
    machine.neighbour()  # its cable's end here, eth0, is the macvlan's parent
    networks.create("own")
    networks.create("closed", internal=True)
    networks.create("street", driver="macvlan", subnet="198.51.100.0/24", options={"parent": "eth0"})
    calls: list[linux.Call] = []
    with linux.trace(calls.append):
        start(machine, Join("street", "own", "closed"))
    asked = [call.arguments for call in calls if call.name == "ARP"]
    gateways = [networks.get(name).gateway for name in ("own", "closed")]
    assert [words.split("? ")[0] for words in asked] == [f"who has {gateway}" for gateway in gateways]
