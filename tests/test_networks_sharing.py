"""What the members of a network have together: who gets how much of it, in bytes that have arrived."""

from __future__ import annotations

import json
import re
import sys
from typing import TYPE_CHECKING

import pytest
from joins import eventually, fail_at_every_step, fail_in_release, hold, kill_at_every_step, start

from minicontainer import linux
from minicontainer.errors import HostError, UsageError
from minicontainer.network import Endpoint, Join, networks, sharing

if TYPE_CHECKING:
    from pathlib import Path

    from networks import Machine, Place

pytest_plugins = ["networks"]

# Sends to each of the addresses as much as to the others, and more than the limit, for a second and a half.
FLOOD = """
import socket, sys, time
sending = []
for address, port in zip(sys.argv[1::2], sys.argv[2::2]):
    one = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    one.connect((address, int(port)))
    one.setblocking(False)
    sending.append(one)
end = time.monotonic() + 1.5
while time.monotonic() < end:
    for _ in range(4):
        for one in sending:
            try:
                one.send(bytes(1200))
            except OSError:
                pass
    time.sleep(0.002)
"""
# Counts what arrives at two ports, and writes it down once nothing has come for a while.
SINK = """
import select, socket, sys, time
ports = {}
for port in (7001, 7002):
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    one.bind(("0.0.0.0", port))
    ports[one] = 0
print("ready", flush=True)
while True:
    ready = select.select(list(ports), [], [], 0.5)[0]
    for one in ready:
        ports[one] += len(one.recv(2000))
    if not ready and any(ports.values()):
        with open(sys.argv[1], "w") as file:
            print(*ports.values(), file=file)
        break
time.sleep(1000)
"""


def flood(place: Place, *to: str) -> None:
    place.run(sys.executable, "-c", FLOOD, *to)


def received(*members: Place) -> list[int]:
    """How many bytes the containers' interfaces have received."""
    return [member.ip("-s", "link", "show", "eth0")[0]["stats64"]["rx"]["bytes"] for member in members]


def classes(machine: Machine, link: str) -> dict[str, tuple[str, str]]:
    """What tc shows: rate and ceil of each class."""
    shown = machine.run("tc", "class", "show", "dev", link)
    return {it[0]: (it[1], it[2]) for it in re.findall(r"class htb (\S+) .*rate (\S+) ceil (\S+)", shown)}


@pytest.mark.parametrize("version", [4, 6])
def test_two_members_share_as_was_said_and_one_alone_has_all(machine: Machine, version: int) -> None:
    networks.create("shop", ipv6=True, download="8M")
    joins = [Join(Endpoint("shop", share=2)), Join("shop")]
    two, one = (start(machine, join) for join in joins)
    to = [join.addresses["shop"][version == 6] for join in joins]
    before = received(two, one)
    flood(machine, to[0], "9", to[1], "9")
    both = [after - then for after, then in zip(received(two, one), before, strict=True)]
    before = received(two, one)
    flood(machine, to[1], "9")
    alone = [after - then for after, then in zip(received(two, one), before, strict=True)]
    assert 1.5 < both[0] / both[1] < 2.7, both
    assert alone[1] > 1.8 * both[1], "what the other one leaves is lent"
    assert sum(both) < 1.4 * alone[1], "together they have no more than one alone"


def test_what_members_send_to_the_outside_is_shared_too(machine: Machine, tmp_path: Path) -> None:
    outside = machine.neighbour()
    networks.create("shop", upload="8M")
    one, three = start(machine, Join("shop")), start(machine, Join(Endpoint("shop", share=3)))
    counted = tmp_path / "counted"
    machine.keep(outside.argv(sys.executable, "-c", SINK, str(counted)))
    sending = [
        machine.keep(place.argv("sh", "-c", f"echo ready; exec {sys.executable} -c '{FLOOD}' {outside.address} {port}"))
        for place, port in ((one, 7001), (three, 7002))
    ]
    for process in sending:
        process.wait()
    assert eventually(lambda: counted.exists() and counted.read_text().endswith("\n"), 20)
    first, second = map(int, counted.read_text().split())
    assert 2 < second / first < 4.5, (first, second)


def test_connections_are_known_on_both_sides_of_the_limits(machine: Machine) -> None:
    """Also where bridges call the IP rules, and with what that does to a packet that takes a way round."""
    outside = machine.neighbour()
    networks.create("shop", ipv6=True, download="8M", upload="8M")
    one, two = start(machine, Join("shop", publish={8080: 80})), start(machine, Join("shop"))
    one.serve("tcp", 80, "one")
    outside.serve("tcp", 7, "outside")
    for called in ("0", "1"):
        try:
            linux.write("/proc/sys/net/bridge/bridge-nf-call-iptables", called)
        except FileNotFoundError:
            pass  # no br_netfilter: then nobody calls them
        gateway = networks.get("shop").gateway
        assert machine.call("tcp", one.address, 80) == f"one sees {gateway}"
        assert machine.call("tcp", "127.0.0.1", 8080) == f"one sees {gateway}"
        assert outside.call("tcp", "198.51.100.1", 8080) == f"one sees {outside.address}"
        assert one.call("tcp", outside.address, 7) == "outside sees 198.51.100.1"
        assert two.call("tcp", one.address, 80) == f"one sees {two.address}"


def test_members_of_one_network_do_not_count_among_themselves(machine: Machine) -> None:
    networks.create("shop", download="1M", upload="1M")
    one, two = start(machine, Join("shop")), start(machine, Join("shop"))
    queue = networks.get("shop").link
    flood(one, two.address, "9")
    for link in (queue, queue.replace("-n", "-s")):
        sent = {it["kind"]: it for it in json.loads(machine.run("tc", "-s", "-j", "qdisc", "show", "dev", link))}
        assert sent["htb"]["bytes"] < 10_000
    assert received(two)[0] > 1e6 / 8 * 1.5 * 2


def test_parts_change_as_members_come_and_go(machine: Machine) -> None:
    networks.create("shop", download="20M", upload="4M")
    link = networks.get("shop").link
    other = link.replace("-n", "-s")
    two = start(machine, Join(Endpoint("shop", share=2)))
    assert classes(machine, link) == {"1:1": ("20Mbit", "20Mbit"), "1:2": ("20Mbit", "20Mbit")}
    ones = [start(machine, Join("shop")) for _ in range(2)]
    assert classes(machine, link) == {
        "1:1": ("20Mbit", "20Mbit"),
        "1:2": ("10Mbit", "20Mbit"),
        "1:3": ("5Mbit", "20Mbit"),
        "1:4": ("5Mbit", "20Mbit"),
    }
    assert classes(machine, other)["1:2"] == ("2Mbit", "4Mbit")
    cable = networks.get("shop").members[two.container.id].link  # type: ignore[attr-defined]
    assert f"Egress Redirect to device {other}" in machine.run("tc", "filter", "show", "dev", cable, "ingress")
    machine.end(ones[0])
    assert classes(machine, link)["1:2"] == ("13333Kbit", "20Mbit")
    assert "1:3" not in classes(machine, link)
    assert machine.run("tc", "filter", "show", "dev", link).count("flowid") == 2
    for place in (two, ones[1]):
        machine.end(place)
    assert machine.view()["links"] == ["lo"]


def test_queue_that_somebody_removed_is_back_with_the_next_member(machine: Machine) -> None:
    networks.create("shop", download="8M", upload="4M")
    link = networks.get("shop").link
    one = start(machine, Join("shop"))
    machine.run("ip", "link", "del", link.replace("-n", "-s"))
    start(machine, Join("shop"))
    expected = {"1:1": ("4Mbit", "4Mbit"), "1:2": ("2Mbit", "4Mbit"), "1:3": ("2Mbit", "4Mbit")}
    assert classes(machine, link.replace("-n", "-s")) == expected
    assert len(classes(machine, link)) == 3
    outside = machine.neighbour()
    outside.serve("tcp", 7, "outside")
    assert one.call("tcp", outside.address, 7) == "outside sees 198.51.100.1", "what it sends finds the new link"
    machine.run("ip", "link", "del", link.replace("-n", "-s"))
    machine.end(one)
    assert "1:2" not in classes(machine, link)


@pytest.mark.parametrize("company", [False, True])
def test_fault_or_kill_at_any_step_leaves_nothing(machine: Machine, company: bool) -> None:
    networks.create("shop", download="8M", upload="4M")
    link = networks.get("shop").link
    if company:
        start(machine, Join("shop"))

    def view() -> object:
        queues = [machine.run("tc", "class", "show", "dev", it) for it in (link, link.replace("-n", "-s")) if company]
        filters = machine.run("tc", "filter", "show", "dev", link).count("flowid") if company else 0
        return sorted(networks.get("shop").members), machine.view()["links"], queues, filters

    def wanted() -> Join:
        return Join(Endpoint("shop", share=3))

    held = hold(machine).pid
    assert fail_at_every_step(wanted, view, held) > 25
    if company:
        assert fail_in_release(wanted, view, held) > 3
        for moment in ("start", "release"):
            kill_at_every_step(wanted, view, held, moment)


@pytest.mark.parametrize("wish", ["0", "-1", "101", "half", "1.5", ""])
def test_share_that_makes_no_sense(wish: str) -> None:
    with pytest.raises(UsageError, match="is not a share"):
        Endpoint("shop", share=wish)


def test_limits_that_make_no_sense(machine: Machine) -> None:
    with pytest.raises(UsageError, match="'fast' is not a rate"):
        networks.create("shop", download="fast")
    machine.neighbour()
    with pytest.raises(UsageError, match="bandwidth cannot be limited in a macvlan network"):
        networks.create("lan", driver="macvlan", subnet="198.51.100.0/24", options={"parent": "eth0"}, upload="1M")
    assert networks.everything() == []
    networks.create("shop")
    with pytest.raises(UsageError, match="network shop has no limit that its members could share"):
        start(machine, Join(Endpoint("shop", share=2)))
    assert networks.get("shop").members == {}
    networks.create("slow", upload="8M")
    with pytest.raises(UsageError, match="network slow has a limit of upload for all its members together"):
        start(machine, Join(Endpoint("slow", upload="1M")))
    assert networks.get("slow").members == {}


def test_kernel_without_htb_says_so(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kind of queue that this kernel does not know, in place of htb, gets the kernel's own answer."""
    request = sharing.queue_request
    monkeypatch.setattr(sharing, "queue_request", lambda index: request(index).replace(b"htb\0", b"htx\0"))
    networks.create("shop", download="8M")
    before = machine.view()["links"]
    with pytest.raises(HostError, match=r"this kernel cannot share bandwidth: RTM_NEWQDISC\(htb on .*ENOENT") as caught:
        start(machine, Join("shop"))
    assert "sch_htb" in caught.value.hint
    assert machine.view()["links"] == before
