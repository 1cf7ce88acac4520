"""Networks of the user's own: what they are, who is in them, and what is left when nobody is."""

from __future__ import annotations

import ipaddress
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from joins import defaults, eventually, fifty, inet, start

from minicontainer import linux, state
from minicontainer.container import Container, Part
from minicontainer.errors import ConflictError, HostError, NotFoundError, UsageError
from minicontainer.network import Bridge, Endpoint, HostNetwork, Join, NoNetwork, connecting, networks

if TYPE_CHECKING:
    from networks import Machine

pytest_plugins = ["networks"]


def test_network_is_data_until_its_first_member_comes(machine: Machine) -> None:
    before = machine.view()
    network = networks.create("shop", subnet="10.9.0.0/24", gateway="10.9.0.9", range="10.9.0.64/26", mtu=1400)
    with open(networks.path("shop")) as file:
        written = json.load(file)
    assert (written["subnet"], written["gateway"], written["range"]) == ("10.9.0.0/24", "10.9.0.9", "10.9.0.64/26")
    planned = machine.view()
    assert planned["links"] == before["links"]
    one = start(machine, Join("shop"))
    assert [ipaddress.ip_interface(it) for it in inet(one)] == [ipaddress.ip_interface("10.9.0.64/24")]
    assert defaults(one) == [("10.9.0.9", "eth0")]
    assert one.ip("link", "show", "eth0")[0]["mtu"] == 1400
    (bridge,) = machine.ip("addr", "show", "dev", network.link)
    assert [it["local"] for it in bridge["addr_info"] if it["family"] == "inet"] == ["10.9.0.9"]
    assert bridge["mtu"] == 1400
    machine.end(one)
    assert machine.view() == planned
    networks.remove("shop")
    assert machine.view() == before


def test_dual_stack_members_reach_each_other_and_the_outside_over_both(machine: Machine) -> None:
    near = machine.neighbour()
    machine.run("ip", "addr", "add", "2001:db8::1/64", "dev", "eth0", "nodad")
    near.run("ip", "addr", "add", "2001:db8::2/64", "dev", "eth0", "nodad")
    network = networks.create("shop", ipv6=True)
    assert network.subnet6 is not None
    assert network.subnet6.subnet_of(ipaddress.IPv6Network("fd00::/8"))
    one, two = start(machine, Join("shop")), start(machine, Join("shop"))
    (six,) = (it.partition("/")[0] for it in inet(two, family="inet6"))
    for there in (two.address, six, "198.51.100.2", "2001:db8::2"):
        assert "1 received" in one.run("ping", "-c", "1", "-W", "3", there)
    near.run("nft", "add table inet wire; add chain inet wire seen { type filter hook prerouting priority 0; }")
    near.run("nft", f"add rule inet wire seen ip6 saddr {network.subnet6} counter drop")
    assert "1 received" in one.run("ping", "-c", "1", "-W", "3", "2001:db8::2"), "its own address stays at home"


def test_forwarding_of_both_families_is_as_before_when_the_last_network_goes(machine: Machine) -> None:
    switches = ["/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"]

    def values() -> list[str]:
        return [Path(path).read_text().strip() for path in switches]

    linux.write(switches[1], "0")
    networks.create("four")
    networks.create("six", ipv6=True)
    networks.create("inside", internal=True)
    inside = start(machine, Join("inside"))
    assert values() == ["0", "0"], "an internal network needs no router"
    four = start(machine, Join("four"))
    assert values() == ["1", "0"]
    six, default = start(machine, Join("six")), machine.start(Bridge())
    assert values() == ["1", "1"]
    machine.end(six)
    assert values() == ["1", "0"]
    machine.end(four)
    assert values() == ["1", "0"], "the default bridge still needs it"
    machine.end(default)
    assert values() == ["0", "0"]
    machine.end(inside)


def test_several_networks_are_several_interfaces_and_the_first_way_out_is_the_default(machine: Machine) -> None:
    networks.create("inside", internal=True, subnet="10.9.1.0/24")
    networks.create("front", subnet="10.9.2.0/24")
    networks.create("back", subnet="10.9.3.0/24")
    one = start(machine, Join("inside", "front", "back"))
    assert [inet(one, f"eth{n}")[0].rpartition(".")[0] for n in range(3)] == ["10.9.1", "10.9.2", "10.9.3"]
    assert defaults(one) == [("10.9.2.1", "eth1"), ("10.9.3.1", "eth2")]
    (taken,) = one.ip("route", "get", "198.51.100.2")
    assert taken["gateway"] == "10.9.2.1"
    connecting.disconnect(one.container.id, "front")  # type: ignore[attr-defined]
    (taken,) = one.ip("route", "get", "198.51.100.2")
    assert taken["gateway"] == "10.9.3.1", "the next one takes over"


def test_running_container_is_connected_and_disconnected(machine: Machine) -> None:
    networks.create("front")
    networks.create("back", ipv6=True)
    one, two = start(machine, Join("front")), start(machine, Join("back"))
    two.serve("tcp", 7, "two")
    before = machine.view()
    assert one.call("tcp", two.address, 7, timeout=0.5) == "TimeoutError"
    connecting.connect(one.container.id, Endpoint("back", address6=""))  # type: ignore[attr-defined]
    assert len(inet(one, "eth1", "inet6")) == 1
    (mine,) = inet(one, "eth1")
    assert one.call("tcp", two.address, 7) == f"two sees {mine.partition('/')[0]}"
    with pytest.raises(ConflictError, match="in network back already"):
        connecting.connect(one.container.id, "back")  # type: ignore[attr-defined]
    connecting.disconnect(one.container.id, "back")  # type: ignore[attr-defined]
    assert [link["ifname"] for link in one.ip("link")] == ["lo", "eth0"]
    assert machine.view()["links"] == before["links"]
    with pytest.raises(NotFoundError, match="not in network back"):
        connecting.disconnect(one.container.id, "back")  # type: ignore[attr-defined]
    connecting.connect(one.container.id, "back")  # type: ignore[attr-defined]
    machine.end(one)
    assert one.container.id not in networks.get("back").members, "what was connected later is released, too"  # type: ignore[attr-defined]


def test_container_of_the_default_bridge_is_connected_and_disconnected(machine: Machine) -> None:
    near = machine.neighbour()
    near.serve("tcp", 7, "near")
    networks.create("back")
    before = machine.view()
    one, two = machine.start(Bridge(publish={8080: 80})), start(machine, Join("back"))
    one.serve("tcp", 80, "one")
    two.serve("tcp", 7, "two")
    connecting.connect(one.container.id, Endpoint("back", aliases=["web"]))  # type: ignore[attr-defined]
    assert [link["ifname"] for link in one.ip("link")] == ["lo", "eth0", "eth1"]
    (mine,) = inet(one, "eth1")
    assert one.call("tcp", two.address, 7) == f"two sees {mine.partition('/')[0]}"
    assert near.call("tcp", "198.51.100.1", 8080) == "one sees 198.51.100.2"
    assert [dev for _, dev in defaults(one)] == ["eth0", "eth1"]
    with pytest.raises(UsageError, match="cannot be brought onto the default bridge"):
        connecting.connect(two.container.id, "bridge")  # type: ignore[attr-defined]
    connecting.disconnect(one.container.id, "bridge")  # type: ignore[attr-defined]
    assert [link["ifname"] for link in one.ip("link")] == ["lo", "eth1"]
    assert near.call("tcp", "198.51.100.1", 8080) == "ConnectionRefusedError"
    assert one.call("tcp", near.address, 7) == "near sees 198.51.100.1"
    with pytest.raises(NotFoundError, match="not on the default bridge"):
        connecting.disconnect(one.container.id, "bridge")  # type: ignore[attr-defined]
    machine.end(one)
    assert list(networks.get("back").members) == [two.container.id]  # type: ignore[attr-defined]
    machine.end(two)
    assert machine.view() == before


def test_bridge_container_leaves_what_it_was_connected_to_also_when_its_record_is_all_there_is(
    machine: Machine,
) -> None:
    networks.create("back")
    before = machine.view()
    one = machine.start(Bridge())
    connecting.connect(one.container.id, "back")  # type: ignore[attr-defined]
    part = next(it for it in one.container.parts if isinstance(it, Bridge))  # type: ignore[attr-defined]
    record = {"network": "bridge", "container": part.container, "place": part.place}
    with linux.watch(linux.Watch(fail_at=3)), pytest.raises(OSError, match="EIO"):
        Bridge.recall(record).release()
    Bridge.recall(record).release()
    Bridge.recall(record).release()
    assert networks.get("back").members == {}
    machine.end(one)
    assert machine.view() == before


@pytest.mark.parametrize("network", [NoNetwork, HostNetwork])
def test_container_without_a_network_of_its_own_cannot_be_connected_and_is_told_why(
    machine: Machine, network: type[Part]
) -> None:
    networks.create("back")
    one = Container(["/bin/sleep", "1000"], network())
    one.start()
    machine.containers.append(one)
    before = machine.view()
    with pytest.raises(ConflictError, match="start it with --network NAME"):
        connecting.connect(one.id, "back")
    assert machine.view() == before


def test_address_can_be_chosen(machine: Machine) -> None:
    networks.create("shop", subnet="10.9.0.0/24", subnet6="fd00:9::/64", range="10.9.0.128/25")
    one = start(machine, Join(Endpoint("shop", "10.9.0.7", "fd00:9::7")))
    assert (inet(one), inet(one, family="inet6")) == (["10.9.0.7/24"], ["fd00:9::7/64"])
    with pytest.raises(ConflictError, match=r"10\.9\.0\.7 is taken in network shop: it is container [0-9a-f]{12}'s"):
        start(machine, Join(Endpoint("shop", "10.9.0.7")))
    with pytest.raises(ConflictError, match="fd00:9::7 is taken"):
        start(machine, Join(Endpoint("shop", address6="fd00:9::7")))
    for bad in ("10.9.1.7", "10.9.0.0", "10.9.0.255", "10.9", "fd00:9::8", "banana"):
        with pytest.raises(UsageError, match="hint: choose one of"):
            start(machine, Join(Endpoint("shop", bad)))
    with pytest.raises(ConflictError, match=r"10\.9\.0\.1 is taken in network shop: it is the gateway's"):
        start(machine, Join(Endpoint("shop", "10.9.0.1")))
    assert len(networks.get("shop").members) == 1


def test_range_that_is_used_up_is_an_error(machine: Machine) -> None:
    networks.create("tiny", subnet="10.9.0.0/24", range="10.9.0.4/31")
    one, _two = start(machine, Join("tiny")), start(machine, Join("tiny"))
    with pytest.raises(ConflictError, match=r"no address left: all of 10\.9\.0\.4/31"):
        start(machine, Join("tiny"))
    machine.end(one)
    assert start(machine, Join("tiny")).address == "10.9.0.4"


def test_networks_do_not_overlap_each_other_nor_what_the_host_routes(machine: Machine) -> None:
    machine.neighbour("198.51.100")
    machine.run("ip", "route", "add", "10.99.0.0/16", "via", "198.51.100.2")
    default = machine.start(Bridge())
    networks.create("one", subnet="10.9.0.0/16", subnet6="fd00:9::/48")
    before = sorted(os.listdir(os.path.dirname(networks.path("one"))))
    for wanted, owner in (
        ("10.9.5.0/24", "network one's"),
        ("10.8.0.0/15", "network one's"),
        ("198.51.100.0/25", "has a route to"),
        ("10.99.7.0/24", "has a route to"),
        (f"{default.address}/32", "no room"),
        ("172.29.128.0/17", "the default bridge's"),
    ):
        with pytest.raises((ConflictError, UsageError), match=owner):
            networks.create("two", subnet=wanted)
    with pytest.raises(ConflictError, match="network one's"):
        networks.create("two", subnet6="fd00:9:0:7::/64")
    assert sorted(os.listdir(os.path.dirname(networks.path("one")))) == before
    machine.run("ip", "route", "add", "10.9.3.0/24", "via", "198.51.100.2")
    with pytest.raises(ConflictError, match=r"10\.9\.0\.0/16 of network one overlaps 10\.9\.3\.0/24"):
        start(machine, Join("one"))


@pytest.mark.parametrize(
    ("wishes", "complaint"),
    [
        ({"name": ""}, "cannot be a network's name"),
        ({"name": "a.b"}, "cannot be a network's name"),
        ({"name": "-a"}, "cannot be a network's name"),
        ({"name": "a" * 64}, "cannot be a network's name"),
        ({"name": "../../etc/x"}, "cannot be a network's name"),
        ({"name": "host"}, "not a name for a network of your own"),
        ({"driver": "magic"}, "no driver 'magic'"),
        ({"subnet": "banana"}, "is not a subnet"),
        ({"subnet": "10.9.0.1/24"}, "is not a subnet"),
        ({"subnet": "10.9.0.0/33"}, "is not a subnet"),
        ({"subnet": "10.9.0.0/31"}, "no room"),
        ({"subnet": "224.1.0.0/16"}, "not for containers"),
        ({"subnet": "127.9.0.0/16"}, "not for containers"),
        ({"subnet": "fd00::/64"}, "is not a subnet"),
        ({"subnet6": "10.9.0.0/24"}, "is not a subnet"),
        ({"subnet": "10.9.0.0/24", "gateway": "10.8.0.1"}, "is not in subnet"),
        ({"subnet": "10.9.0.0/24", "gateway": "10.9.0.255"}, "broadcast"),
        ({"subnet": "10.9.0.0/24", "gateway": "x"}, "is not an address"),
        ({"subnet": "10.9.0.0/24", "range": "10.8.0.0/25"}, "is not a part of subnet"),
        ({"subnet": "10.9.0.0/24", "range": "x"}, "is not a range"),
        ({"mtu": 67}, "MTU"),
        ({"mtu": 70000}, "MTU"),
        ({"mtu": 1279, "ipv6": True}, "MTU"),
        ({"options": {"speed": "9"}}, "no option speed"),
    ],
)
def test_network_that_makes_no_sense_is_an_error_and_nothing_is_made(
    machine: Machine, wishes: dict[str, Any], complaint: str
) -> None:
    before = machine.view()
    with pytest.raises(UsageError, match=complaint):
        networks.create(**{"name": "shop", **wishes})
    assert machine.view() == before


def test_names_that_are_taken_or_unknown(machine: Machine) -> None:
    networks.create("shop")
    with pytest.raises(ConflictError, match="there is a network shop already"):
        networks.create("shop")
    with pytest.raises(NotFoundError, match="no network 'ship'"):
        start(machine, Join("shop", "ship"))
    with pytest.raises(NotFoundError, match="no network 'ship'"):
        networks.remove("ship")
    with pytest.raises(UsageError, match="named twice"):
        start(machine, Join("shop", "shop"))
    with pytest.raises(UsageError, match="without a network"):
        Join()
    for alias in ("a.b", "", "-x", "a b", "ä"):
        with pytest.raises(UsageError, match="cannot be an alias"):
            Join("shop", aliases=[alias])
    assert networks.get("shop").members == {}


def test_network_with_members_is_not_removed(machine: Machine) -> None:
    networks.create("used")
    networks.create("free")
    one = start(machine, Join("used"))
    with pytest.raises(ConflictError, match=one.container.id[:12]):  # type: ignore[attr-defined]
        networks.remove("used")
    assert networks.prune() == ["free"]
    assert [network.name for network in networks.everything()] == ["used"]
    assert "1 received" in one.run("ping", "-c", "1", "-W", "3", str(networks.get("used").gateway))
    machine.end(one)
    assert networks.prune() == ["used"]


def test_bridge_deleted_by_hand_comes_back_with_the_next_member(machine: Machine) -> None:
    network = networks.create("shop")
    one = start(machine, Join("shop"))
    machine.run("ip", "link", "del", network.link)
    two = start(machine, Join("shop"))
    two.serve("tcp", 7, "two")
    assert one.call("tcp", two.address, 7) == f"two sees {one.address}", "and who was there is plugged in again"
    machine.end(two)
    machine.end(one)
    assert machine.view()["links"] == ["lo"]


def test_firewall_flushed_by_hand_comes_back_with_the_next_member(machine: Machine) -> None:
    networks.create("shop")
    one = start(machine, Join("shop", publish={8080: 80}))
    rules = machine.ruleset()
    machine.run("nft", "flush", "ruleset")
    machine.end(start(machine, Join("shop")))
    assert sorted(machine.ruleset().split()) == sorted(rules.split())
    one.serve("tcp", 80, "one")
    assert machine.call("tcp", "127.0.0.1", 8080).startswith("one sees")


def test_file_that_is_no_network_is_an_error_that_names_it(machine: Machine) -> None:
    networks.create("shop")
    for text, complaint in (("{", "not JSON"), ('{"driver": "bridge"}', "describes no network")):
        with open(networks.path("shop"), "w") as file:
            file.write(text)
        with pytest.raises(HostError, match=complaint):
            start(machine, Join("shop"))
    os.unlink(networks.path("shop"))


def test_fifty_joins_from_five_processes_get_fifty_addresses(machine: Machine) -> None:
    networks.create("shop", ipv6=True)
    before = machine.view()
    with fifty('Join("shop", publish=["80"] if n < 2 else [])', 'part.addresses["shop"]') as words:
        assert (len(words), len(set(words))) == (100, 100)
        bridge = networks.get("shop").link
        cables = {link["ifname"] for link in machine.ip("link") if link.get("master") == bridge}
        assert len(cables) == 50, "and the kernel has a cable for each"
        told = machine.run("nft", "list", "set", "bridge", f"{state.instance()}.networks", "sender4")
        assert cables == {word.strip('"') for word in told.split() if word.strip('"').startswith("mc")}
    after = machine.view()
    assert {key: value for key, value in after.items() if key != "files"} == {
        key: value for key, value in before.items() if key != "files"
    }
    assert networks.get("shop").members == {}


def test_name_server_ends_with_the_last_member_and_is_replaced_when_killed(machine: Machine) -> None:
    networks.create("shop")
    one = start(machine, Join("shop"))
    first = networks.get("shop").server
    assert first is not None
    os.kill(first["pid"], 9)
    assert eventually(lambda: state.start_time(first["pid"]) == 0)
    two = start(machine, Join("shop"))
    second = networks.get("shop").server
    assert second is not None
    assert state.start_time(second["pid"]) == second["start_time"]
    machine.end(one)
    assert state.start_time(second["pid"]) == second["start_time"]
    machine.end(two)
    assert eventually(lambda: state.start_time(second["pid"]) == 0)


def test_name_server_ends_by_itself_when_all_members_were_killed_with_their_owner(machine: Machine) -> None:
    networks.create("shop")
    program = """
import os, signal
from minicontainer.container import Container
from minicontainer.network import Join
Container(["/bin/sleep", "1000"], Join("shop")).start()
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", program], check=False)
    server = networks.get("shop").server
    assert server is not None
    assert eventually(lambda: state.start_time(server["pid"]) == 0, 15)
    assert eventually(lambda: networks.get("shop").members == {}, 15), "its spawner has undone what it left"
    machine.end(start(machine, Join("shop")))
    assert machine.view()["links"] == ["lo"]


def test_addresses_of_both_families_come_from_their_ranges(machine: Machine) -> None:
    subnets = {
        "subnet": "10.9.0.0/24",
        "range": "10.9.0.128/25",
        "subnet6": "fd00:9::/64",
        "range6": "fd00:9::8000/113",
    }
    networks.create("shop", **subnets)
    one, two = start(machine, Join("shop")), start(machine, Join(Endpoint("shop", "10.9.0.7", "fd00:9::7")))
    assert (inet(one), inet(one, family="inet6")) == (["10.9.0.128/24"], ["fd00:9::8080/64"])
    assert (inet(two), inet(two, family="inet6")) == (["10.9.0.7/24"], ["fd00:9::7/64"])
    networks.create("small", subnet="10.8.0.0/29", subnet6="fd00:8::/64", range6="fd00:8::4/127")
    for _ in range(2):
        start(machine, Join("small"))
    with pytest.raises(ConflictError, match="no IPv6 address left: all of fd00:8::4/127"):
        start(machine, Join("small"))
