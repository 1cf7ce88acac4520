"""Who reaches whom: between networks, to the host, within a network; and who may say who he is."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from joins import eventually, inet, six, start

from minicontainer import state
from minicontainer.errors import ConflictError, UsageError
from minicontainer.network import Bridge, Endpoint, Join, networks, rules
from minicontainer.network.ports import Port, read

if TYPE_CHECKING:
    from networks import Machine, Place

pytest_plugins = ["networks"]


def ping(place: Place, address: str) -> bool:
    """Whether it answers."""
    return "1 received" in place.run("sh", "-c", f"ping -c 1 -W 1 {address} || true")


SERVER6 = """
import socket, sys
kind = socket.SOCK_STREAM if sys.argv[1] == "tcp" else socket.SOCK_DGRAM
server = socket.socket(socket.AF_INET6, kind)
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.bind(("::", int(sys.argv[2])))
if sys.argv[1] == "tcp":
    server.listen()
print("ready", flush=True)
while True:
    if sys.argv[1] == "tcp":
        client, address = server.accept()
        client.sendall(f"{sys.argv[3]} sees {address[0]}".encode())
        client.close()
    else:
        _, address = server.recvfrom(100)
        server.sendto(f"{sys.argv[3]} sees {address[0]}".encode(), address)
"""


def serve6(place: Place, protocol: str, port: int, name: str) -> None:
    place.machine.keep(place.argv(sys.executable, "-c", SERVER6, protocol, str(port), name))


def call6(place: Place, protocol: str, address: str, port: int, timeout: float = 3) -> str:
    from networks import CALL

    program = CALL.replace("AF_INET,", "AF_INET6,")
    return place.run(sys.executable, "-c", program, protocol, address, str(port), str(timeout)).strip()


def test_two_networks_do_not_reach_each_other(machine: Machine) -> None:
    networks.create("red", ipv6=True)
    networks.create("blue", ipv6=True)
    red, blue, default = start(machine, Join("red")), start(machine, Join("blue")), machine.start(Bridge())
    for place, name in ((red, "red"), (blue, "blue"), (default, "default")):
        place.serve("tcp", 7, name)
    assert red.call("tcp", red.address, 7) == f"red sees {red.address}"
    for one, other in ((red, blue), (blue, red), (red, default), (default, red)):
        assert one.call("tcp", other.address, 7, timeout=0.5) == "TimeoutError"
        assert not ping(one, other.address)
    assert not ping(red, six(blue))
    # nor by way of the other network's gateway as a next hop, or by an address of the host in there
    red.run("ip", "route", "add", f"{blue.address}/32", "via", networks.get("red").gateway)
    assert not ping(red, blue.address)


def test_container_does_not_reach_what_the_host_listens_on(machine: Machine) -> None:
    machine.neighbour("198.51.100")
    networks.create("shop", ipv6=True)
    networks.create("admin", host_access=True)
    inside, admin = start(machine, Join("shop")), start(machine, Join("admin"))
    machine.serve("tcp", 7, "the host")
    serve6(machine, "tcp", 8, "the host")
    for address in (networks.get("shop").gateway, "198.51.100.1", networks.get("admin").gateway):
        assert inside.call("tcp", address, 7, timeout=0.5) == "TimeoutError"
    assert call6(inside, "tcp", networks.get("shop").gateway6, 8, timeout=0.5) == "TimeoutError"
    assert admin.call("tcp", "198.51.100.1", 7) == f"the host sees {admin.address}"
    assert ping(inside, networks.get("shop").gateway), "a ping is let through, or nobody finds a fault"
    for server, answered in ((networks.get("shop").gateway, True), (networks.get("admin").gateway, False)):
        heard = inside.run("sh", "-c", f"dig @{server} +tries=1 +time=1 nobody || true")
        assert ("status:" in heard) is answered, "nor another network's name server"
    inside.serve("tcp", 9, "inside")
    assert machine.call("tcp", inside.address, 9).startswith("inside sees"), "and the host calls whom it likes"


def test_internal_network_has_no_way_out_and_none_in(machine: Machine) -> None:
    near = machine.neighbour()
    networks.create("inside", internal=True, ipv6=True)
    one, two = start(machine, Join("inside")), start(machine, Join("inside"))
    for place in (near, two):
        place.serve("tcp", 7, "it")
    assert one.call("tcp", two.address, 7) == f"it sees {one.address}"
    assert one.ip("route", "show", "default") == []
    assert one.call("tcp", near.address, 7, timeout=0.5) == "OSError", "there is no route"
    one.run("ip", "route", "add", "default", "via", networks.get("inside").gateway)
    assert one.call("tcp", near.address, 7, timeout=0.5) == "TimeoutError", "nor does one of its own help"
    near.run("ip", "route", "add", f"{two.address}/32", "via", "198.51.100.1")
    assert near.call("tcp", two.address, 7, timeout=0.5) == "TimeoutError"
    with pytest.raises(UsageError, match="an internal network has no way in"):
        start(machine, Join("inside", publish={8080: 80}))


def test_members_do_not_reach_each_other_where_icc_is_off(machine: Machine) -> None:
    near = machine.neighbour()
    networks.create("cells", icc=False, ipv6=True)
    one, two = start(machine, Join("cells")), start(machine, Join("cells", publish={8080: 80}))
    two.serve("tcp", 80, "two")
    near.serve("tcp", 7, "near")
    assert not ping(one, two.address)
    assert not ping(one, six(two))
    one.run("ip", "route", "add", f"{two.address}/32", "via", networks.get("cells").gateway)
    assert not ping(one, two.address), "nor by way of the gateway"
    assert one.call("tcp", near.address, 7) == "near sees 198.51.100.1", "but the outside"
    assert near.call("tcp", "198.51.100.1", 8080) == "two sees 198.51.100.2", "and from there what is published"
    (port,) = json.loads(machine.run("bridge", "-d", "-j", "link", "show", "dev", _cables(machine)[0]))
    assert port["isolated"] is True


def _cables(machine: Machine) -> list[str]:
    return [link["ifname"] for link in machine.ip("link") if re.fullmatch(r"mc.{8}-v.*", link["ifname"])]


# ------------------------------------------------------------------------------------------------------- spoofing

ARP = """
import socket, struct, sys
us, claimed, mac, victim, victims_mac = sys.argv[1:]
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
raw.bind(("eth0", 0x0806))
hardware, target = bytes.fromhex(mac.replace(":", "")), bytes.fromhex(victims_mac.replace(":", ""))
ours, theirs = socket.inet_aton(claimed), socket.inet_aton(victim)
body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 2) + hardware + ours + target + theirs
for _ in range(3):
    raw.send(target + hardware + b"\\x08\\x06" + body)
"""
ADVERTISE = """
import socket, struct, sys
claimed, source, mac, victim, victims_mac, kind = sys.argv[1:]
def packed(address):
    return socket.inet_pton(socket.AF_INET6, address)
hardware, target = bytes.fromhex(mac.replace(":", "")), bytes.fromhex(victims_mac.replace(":", ""))
if kind == "neighbour":
    message = struct.pack("!BBHI", 136, 0, 0, 0x60000000) + packed(claimed) + b"\\x02\\x01" + hardware
else:
    message = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0) + b"\\x01\\x01" + hardware
pseudo = packed(source) + packed(victim) + struct.pack("!II", len(message), 58)
total = sum(struct.unpack(f"!{len(pseudo + message) // 2}H", pseudo + message))
while total >> 16:
    total = (total & 0xFFFF) + (total >> 16)
message = message[:2] + struct.pack("!H", ~total & 0xFFFF) + message[4:]
packet = struct.pack("!IHBB", 0x60000000, len(message), 58, 255) + packed(source) + packed(victim) + message
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
raw.bind(("eth0", 0x86DD))
for _ in range(3):
    raw.send(target + hardware + b"\\x86\\xdd" + packet)
"""


def mac(place: Place) -> str:
    return str(place.ip("link", "show", "eth0")[0]["address"])


def known_mac(place: Place, address: str) -> str:
    """What hardware address a place believes belongs to `address`."""
    (entry,) = [it for it in place.ip("neigh") if it["dst"] == address]
    return str(entry.get("lladdr", ""))


def test_forged_arp_turns_a_neighbours_head_without_the_rule_and_not_with_it(machine: Machine) -> None:
    network = networks.create("shop")
    attacker, victim, server = (start(machine, Join("shop")) for _ in range(3))
    for place in (attacker, server):
        assert ping(victim, place.address)
    # whom a machine has just heard of it does not unlearn at once: arp(7), locktime
    victim.run("sh", "-c", "echo 0 > /proc/sys/net/ipv4/neigh/eth0/locktime")
    arguments = [attacker.address, server.address, mac(attacker), victim.address, mac(victim)]
    attack = [sys.executable, "-c", ARP, *arguments]
    attacker.run(*attack)
    assert eventually(lambda: rules.spoofed() == 3), "the rule has counted them"
    assert known_mac(victim, server.address) == mac(server)
    assert ping(victim, server.address)

    chain = f"bridge {state.instance()}.networks spoofing"
    kept = machine.ruleset()
    machine.run("nft", "flush", "chain", *chain.split())
    attacker.run(*attack)
    assert eventually(lambda: known_mac(victim, server.address) == mac(attacker)), "that is the attack"
    assert network.link in kept


def test_container_cannot_send_from_a_neighbours_address(machine: Machine) -> None:
    networks.create("shop", ipv6=True)
    attacker, victim, server = (start(machine, Join("shop")) for _ in range(3))
    for name in ("ip4", "ip6"):
        family = name.replace("ip4", "ip")
        server.run(
            "nft", f"add table {family} seen; add chain {family} seen in {{ type filter hook input priority 0; }}"
        )
        address = victim.address if name == "ip4" else six(victim)
        server.run("nft", f"add rule {family} seen in {family} saddr {address} counter")

    def arrived() -> int:
        return sum(map(int, re.findall(r"packets (\d+)", server.run("nft", "list", "ruleset"))))

    attacker.run("ip", "addr", "add", f"{victim.address}/32", "dev", "lo")
    attacker.run("ip", "addr", "add", f"{six(victim)}/128", "dev", "lo", "nodad")
    for address, source in ((server.address, victim.address), (six(server), six(victim))):
        attacker.run("sh", "-c", f"ping -c 2 -i 0.2 -W 1 -I {source} {address} || true")
    assert arrived() == 0
    assert rules.spoofed() >= 2
    # nor with his hardware address, on which the bridge would learn that he has moved
    attacker.run("ip", "link", "set", "eth0", "address", mac(victim))
    attacker.run("sh", "-c", f"ping -c 2 -i 0.2 -W 1 {server.address} || true")
    assert arrived() == 0
    victim.serve("tcp", 7, "the victim")
    assert server.call("tcp", victim.address, 7) == f"the victim sees {server.address}"


def test_container_cannot_pose_as_a_neighbour_nor_as_a_router_over_ipv6(machine: Machine) -> None:
    networks.create("shop", ipv6=True)
    attacker, victim, server = (start(machine, Join("shop")) for _ in range(3))
    for place in (attacker, server):
        assert ping(victim, six(place))
    for kind, source in (("neighbour", six(attacker)), ("router", _link_local(attacker))):
        arguments = [six(server), source, mac(attacker), six(victim), mac(victim), kind]
        before = rules.spoofed()
        attacker.run(sys.executable, "-c", ADVERTISE, *arguments)
        assert eventually(lambda before=before: rules.spoofed() >= before + 3), kind  # type: ignore[misc]
    assert known_mac(victim, six(server)) == mac(server)
    assert len(victim.ip("-6", "route", "show", "default")) == 1
    machine.run("nft", "flush", "chain", "bridge", f"{state.instance()}.networks", "spoofing")
    arguments = [six(server), six(attacker), mac(attacker), six(victim), mac(victim), "neighbour"]
    attacker.run(sys.executable, "-c", ADVERTISE, *arguments)
    assert eventually(lambda: known_mac(victim, six(server)) == mac(attacker)), "without the rule it works"


def _link_local(place: Place) -> str:
    (link,) = place.ip("addr", "show", "dev", "eth0")
    (found,) = [it["local"] for it in link["addr_info"] if it["family"] == "inet6" and it["scope"] == "link"]
    return str(found)


# ------------------------------------------------------------------------------------------------ published ports


def test_published_ports_over_both_families_keep_the_clients_address(machine: Machine) -> None:
    near = machine.neighbour()
    machine.run("ip", "addr", "add", "2001:db8::1/64", "dev", "eth0", "nodad")
    near.run("ip", "addr", "add", "2001:db8::2/64", "dev", "eth0", "nodad")
    networks.create("shop", ipv6=True)
    networks.create("else", ipv6=True)
    inside = start(machine, Join("shop", publish=["8080:80", "5353:53/udp"]))
    other, stranger = start(machine, Join("shop")), start(machine, Join("else"))
    for protocol, port in (("tcp", 80), ("udp", 53)):
        serve6(inside, protocol, port, "it")
    for protocol, port in (("tcp", 8080), ("udp", 5353)):
        assert call6(near, protocol, "2001:db8::1", port) == "it sees 2001:db8::2"
        assert near.call(protocol, "198.51.100.1", port) == "it sees ::ffff:198.51.100.2"
        assert machine.call(protocol, "127.0.0.1", port).startswith("it sees ::ffff:10.")
        assert call6(machine, protocol, "2001:db8::1", port) == "it sees 2001:db8::1"
        assert call6(machine, protocol, "::1", port) == "ConnectionRefusedError", "at once, so that 127.0.0.1 is tried"
        assert call6(stranger, protocol, "2001:db8::1", port) == f"it sees {six(stranger)}", "published is published"
        for caller in (other, inside):  # the second one calls itself: hairpin
            assert call6(caller, protocol, "2001:db8::1", port) == f"it sees {networks.get('shop').gateway6}"
            assert caller.call(protocol, "198.51.100.1", port) == f"it sees ::ffff:{networks.get('shop').gateway}"


def test_port_on_a_chosen_host_address_of_either_family(machine: Machine) -> None:
    near = machine.neighbour()
    for address in ("2001:db8::1/64", "2001:db8::11/64"):
        machine.run("ip", "addr", "add", address, "dev", "eth0", "nodad")
    near.run("ip", "addr", "add", "2001:db8::2/64", "dev", "eth0", "nodad")
    networks.create("shop", ipv6=True)
    inside = start(machine, Join("shop", publish=["[2001:db8::11]:8080:80", "127.0.0.1:8081:80", "[::]:8082:80"]))
    serve6(inside, "tcp", 80, "it")
    assert call6(near, "tcp", "2001:db8::11", 8080) == "it sees 2001:db8::2"
    assert call6(near, "tcp", "2001:db8::1", 8080) == "ConnectionRefusedError"
    assert near.call("tcp", "198.51.100.1", 8080) == "ConnectionRefusedError"
    assert machine.call("tcp", "127.0.0.1", 8081).startswith("it sees")
    assert near.call("tcp", "198.51.100.1", 8081) == "ConnectionRefusedError"
    assert call6(near, "tcp", "2001:db8::1", 8082) == "it sees 2001:db8::2"
    assert near.call("tcp", "198.51.100.1", 8082) == "ConnectionRefusedError"


def test_ports_of_networks_and_of_the_default_bridge_exclude_each_other(machine: Machine) -> None:
    networks.create("shop", ipv6=True)
    networks.create("plain")
    one, two = start(machine, Join("shop", publish={8080: 80})), machine.start(Bridge(publish={9090: 80}))
    with pytest.raises(ConflictError, match="port 8080/tcp"):
        machine.start(Bridge(publish={8080: 80}))
    for network in ("shop", "plain"):
        with pytest.raises(ConflictError, match="port 9090/tcp"):
            start(machine, Join(network, publish={9090: 80}))
        with pytest.raises(ConflictError, match=rf"port 8080/tcp .* {one.container.id[:12]}"):  # type: ignore[attr-defined]
            start(machine, Join(network, publish=["127.0.0.1:8080:80"]))
    with pytest.raises(UsageError, match="network plain has no IPv6"):
        start(machine, Join("plain", publish=["[::]:7070:80"]))
    with pytest.raises(UsageError, match="sent from ::1"):
        start(machine, Join("shop", publish=["[::1]:7070:80"]))
    with pytest.raises(UsageError, match="2001:db8::9 is not an address of this host"):
        start(machine, Join("shop", publish=["[2001:db8::9]:7070:80"]))
    assert len(networks.get("shop").members) == 1
    machine.end(one)
    machine.end(two)
    start(machine, Join("plain", publish={8080: 80, 9090: 80}))


def test_ranges_of_ports_are_one_port_each(machine: Machine) -> None:
    networks.create("shop")
    inside = start(machine, Join("shop", publish=["8000-8003:9000-9003", "127.0.0.1:7000-7001:70-71/udp"]))
    for port in range(9000, 9004):
        inside.serve("tcp", port, str(port))
        assert machine.call("tcp", "127.0.0.1", port - 1000).startswith(f"{port} sees")
    inside.serve("udp", 71, "71")
    assert machine.call("udp", "127.0.0.1", 7001).startswith("71 sees")
    assert machine.call("tcp", "127.0.0.1", 8004) == "ConnectionRefusedError"
    assert read(["80-82"]) == [Port(80), Port(81), Port(82)]
    for bad in ("8000-8003:9000-9002", "9-8:9-8", "8000-8001:80", "1-70000:1-70000", "a-b:1-2", "1-2-3:1-2-3"):
        with pytest.raises(UsageError, match="is no published port"):
            read([bad])


def test_ports_are_closed_again_and_flows_forgotten_when_the_container_ends(machine: Machine) -> None:
    networks.create("shop", ipv6=True)
    keeper = start(machine, Join("shop"))
    before = sorted(machine.ruleset().split())
    one = start(machine, Join(Endpoint("shop"), publish=["8080:80", "5353:53/udp"]))
    assert "8080" in machine.ruleset()
    machine.end(one)
    assert sorted(machine.ruleset().split()) == before
    assert inet(keeper) != []


def test_forward_policy_of_another_firewall_lets_our_networks_through(machine: Machine) -> None:
    near = machine.neighbour()
    machine.nft("table ip other {\n chain forward {\n type filter hook forward priority 0; policy drop;\n }\n}")
    before = machine.ruleset()
    networks.create("shop")
    inside = start(machine, Join("shop", publish={8080: 80}))
    inside.serve("tcp", 80, "it")
    near.serve("tcp", 7, "near")
    assert inside.call("tcp", near.address, 7) == "near sees 198.51.100.1"
    assert near.call("tcp", "198.51.100.1", 8080) == "it sees 198.51.100.2"
    machine.end(inside)
    assert machine.ruleset() == before


def test_no_packet_is_lost_while_other_networks_come_and_go(machine: Machine) -> None:
    for name in ("shop", "else"):
        networks.create(name, ipv6=True)
    one, two = start(machine, Join("shop")), start(machine, Join("shop"))
    command = one.argv("ping", "-q", "-i", "0.001", "-c", "1500", two.address)
    pings = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    for _ in range(8):
        machine.end(start(machine, Join("else")))
    said = pings.communicate()[0]
    assert "1500 packets transmitted, 1500 received" in said, said
