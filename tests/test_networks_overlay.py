"""One network on several hosts. Each host is a network namespace with an instance of its own; between them a switch."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from joins import eventually, six

from minicontainer.errors import UsageError
from minicontainer.network import networks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from networks import Machine, Place

pytest_plugins = ["networks"]

# One host: it makes the network and a container in it, says where that is, and undoes both when told.
HOST = """
import json, os, sys
number, peers, root, local, six = int(sys.argv[1]), *sys.argv[2:]
os.environ["MINICONTAINER_DATA_ROOT"] = f"{root}/data{number}"
os.environ["MINICONTAINER_EXEC_ROOT"] = f"{root}/exec{number}"
from minicontainer.container import Container
from minicontainer.network import Join, networks
if not os.path.exists(networks.path("wide")):
    both = {"subnet6": "fd00:50::/48", "range6": f"fd00:50:0:{number}::/64"} if six else {}
    networks.create("wide", driver="overlay", subnet="10.50.0.0/16", range=f"10.50.{number}.0/24",
                    options={"vni": "42", "local": local, "peers": peers}, **both)
container = Container(["/bin/sleep", "1000"], join := Join("wide"), name=f"on{number}").start()
link, addresses = networks.get("wide").link, join.addresses["wide"]
print(json.dumps({"pid": container.pid, "addresses": addresses, "link": link}), flush=True)
sys.stdin.read()
container.kill()
container.wait()
"""


class Hosts:
    """A switch, and hosts on it: `places[n]` is host n's namespace, `containers[n]` its container's. `six`: the network
    has IPv6; `under`: what the hosts' own addresses begin with."""

    def __init__(self, machine: Machine, root: Path) -> None:
        self.six, self.under = False, "192.0.2."
        self.machine, self.root, self.peers = machine, root, root / "peers"
        self.places: dict[int, Place] = {}
        self.containers: dict[int, Place] = {}
        self.agents: dict[int, subprocess.Popen[str]] = {}
        self.links: dict[int, str] = {}
        machine.run("ip", "link", "add", "switch", "type", "bridge")
        machine.run("ip", "link", "set", "switch", "up")
        self.peers.write_text("# host, its part\n")

    def plug(self, number: int) -> None:
        """A machine with an address on the switch, and a line in the file of peers."""
        from networks import Place

        script = "ip link set lo up; echo 0 > /proc/sys/net/ipv4/ip_forward; echo ready; exec sleep 1000"
        process = self.machine.keep(["unshare", "-n", "sh", "-c", script])
        local = f"{self.under}{number}"
        place = self.places[number] = Place(self.machine, process.pid, local)
        self.machine.run(
            *f"ip link add port{number} type veth peer name eth0 netns {process.pid}".split(),
        )
        self.machine.run(*f"ip link set port{number} master switch up".split())
        place.run(
            *f"ip addr add {local}/{'64' if ':' in local else '24'} dev eth0".split(), *["nodad"] * (":" in local)
        )
        place.run(*["ip", "link", "set", "eth0", "up"])
        with self.peers.open("a") as file:
            file.write(f"{local} 10.50.{number}.0/24{f' fd00:50:0:{number}::/64' if self.six else ''}\n")

    def start(self, number: int) -> None:
        from networks import Place

        words = [str(number), str(self.peers), str(self.root), self.places[number].address, "6" * self.six]
        command = self.places[number].argv(sys.executable, "-c", HOST, *words)
        agent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.agents[number] = agent
        assert agent.stdout is not None
        said = json.loads(agent.stdout.readline())
        self.containers[number] = Place(self.machine, said["pid"], said["addresses"][0])
        self.links[number] = said["link"]

    def end(self, number: int) -> None:
        self.agents.pop(number).communicate("")

    def close(self) -> None:
        for number in list(self.agents):
            self.end(number)


@pytest.fixture
def hosts(machine: Machine, tmp_path: Path) -> Iterator[Hosts]:
    hosts = Hosts(machine, tmp_path)
    yield hosts
    hosts.close()


@contextmanager
def tap(place: Place, capture: Path) -> Iterator[Callable[[], str]]:
    """What passes a host's card during the block, as tcpdump shows it."""
    argv = place.argv("tcpdump", "-i", "eth0", "-w", str(capture), "-U", "--immediate-mode")
    watcher = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)
    assert watcher.stderr is not None
    assert "listening" in watcher.stderr.readline()
    try:
        yield lambda: place.machine.run("tcpdump", "-nn", "-r", str(capture))
    finally:
        watcher.terminate()
        watcher.communicate()


def ping(place: Place, address: str) -> bool:
    return "1 received" in place.run("sh", "-c", f"ping -c 1 -W 1 {address} || true")


def test_containers_on_two_hosts_reach_each_other_in_udp(hosts: Hosts, tmp_path: Path) -> None:
    for number in (1, 2):
        hosts.plug(number)
    for number in (1, 2):
        hosts.start(number)
    one, two = hosts.containers[1], hosts.containers[2]
    assert (one.address, two.address) == ("10.50.1.2", "10.50.2.2")
    two.serve("tcp", 7, "two")
    with tap(hosts.places[1], tmp_path / "wire") as seen:
        assert one.call("tcp", two.address, 7) == f"two sees {one.address}", "and nothing has translated its address"
        assert eventually(lambda: "10.50.2.2.7 > 10.50.1.2" in seen())
    for line in seen().splitlines():
        if "10.50." in line and "ARP" not in line:
            assert "VXLAN, flags [I] (0x08), vni 42" in seen()
    outer = re.findall(r"IP (192\.0\.2\.\d+)\.\d+ > (192\.0\.2\.\d+)\.4789: VXLAN", seen())
    assert {("192.0.2.1", "192.0.2.2"), ("192.0.2.2", "192.0.2.1")} == set(outer)
    assert one.ip("link", "show", "eth0")[0]["mtu"] == 1450
    assert "1 received" in one.run("ping", "-c", "1", "-M", "do", "-s", str(1450 - 28), two.address), (
        "a full frame fits"
    )
    assert ping(hosts.places[1], two.address), "the host itself gets there, too"


def dig(place: Place, *words: str) -> list[str]:
    """What its own host's name server answers."""
    gateway = place.address.rpartition(".")[0] + ".1"
    return place.run("dig", "+short", "+tries=1", "+time=3", f"@{gateway}", *words).split()


def test_names_are_known_on_all_hosts(hosts: Hosts) -> None:
    for number in (1, 2, 3):
        hosts.plug(number)
        hosts.start(number)
    one, two = hosts.containers[1], hosts.containers[2]
    assert eventually(lambda: ping(one, two.address) and ping(one, hosts.containers[3].address))
    assert dig(one, "on2") == [two.address]
    assert dig(one, "on3.wide") == [hosts.containers[3].address]
    assert dig(two, "on1") == [one.address]
    assert dig(one, "-x", two.address) == ["on2.wide."]
    assert dig(one, "on2", "AAAA") == []
    # who is unreachable holds up nobody who is not
    hosts.machine.run("ip", "link", "set", "port2", "down")
    assert dig(one, "on3") == [hosts.containers[3].address]
    assert dig(one, "on2") == []
    hosts.machine.run("ip", "link", "set", "port2", "up")
    assert eventually(lambda: dig(one, "on2") == [two.address], 20)
    # and who has ended has no name, at once
    hosts.end(3)
    assert dig(one, "on3") == []
    # another host's name server hears its own kind only, no container past its own
    assert "status: REFUSED" in one.run("dig", "+tries=1", "+time=3", "@10.50.2.1", "on2")


@pytest.mark.parametrize("under", ["192.0.2.", "2001:db8::"])
def test_both_families_inside_the_tunnel_and_around_it(hosts: Hosts, tmp_path: Path, under: str) -> None:
    hosts.six, hosts.under = True, under
    for number in (1, 2, 3):
        hosts.plug(number)
    for number in (1, 2, 3):
        hosts.places[number].run("sysctl", "-qw", "net.ipv6.conf.all.forwarding=0")
        hosts.start(number)
    one, two, three = (hosts.containers[number] for number in (1, 2, 3))
    assert [six(it) for it in (one, two)] == ["fd00:50:0:1::2", "fd00:50:0:2::2"]
    two.serve("tcp", 7, "two")
    assert one.call("tcp", two.address, 7) == f"two sees {one.address}"
    with tap(hosts.places[1], tmp_path / "wire") as seen:
        assert ping(one, six(three))
        assert eventually(lambda: "ICMP6, echo reply" in seen())
    kind = "IP6" if ":" in under else "IP"
    assert f"{kind} {under}1." in seen(), "the outer packet"
    assert "VXLAN, flags [I] (0x08), vni 42" in seen()
    mtu = one.ip("link", "show", "eth0")[0]["mtu"]
    assert mtu == (1430 if ":" in under else 1450)
    assert "1 received" in one.run("ping", "-c", "1", "-M", "do", "-s", str(mtu - 48), six(two)), "a full frame fits"
    assert ping(hosts.places[1], six(two)), "the host itself gets there, too"
    assert one.ip("-6", "route", "get", six(two))[0]["gateway"] == "fd00:50:0:1::1"
    # names of both families, forward and reverse
    assert dig(one, "on2", "AAAA") == [six(two)]
    assert dig(one, "on3.wide", "AAAA") == [six(three)]
    assert dig(two, "on1", "A") == [one.address]
    assert dig(one, "-x", six(two)) == ["on2.wide."]
    # what the kernel was told: a router's link-local address for each other host
    tunnel = hosts.links[1].replace("-n", "-x")
    routes = [it for it in hosts.places[1].ip("-6", "route", "show", "dev", tunnel) if it["dst"].startswith("fd00:50:")]
    assert {it["dst"] for it in routes} == {"fd00:50:0:2::/64", "fd00:50:0:3::/64"}
    assert {it["gateway"][:6] for it in routes} == {"fe80::"}
    # and is told anew when a host is gone from the file
    hosts.end(3)
    hosts.peers.write_text(re.sub(r"(?m)^\S+ 10\.50\.3\..*\n", "", hosts.peers.read_text()))
    shown = lambda: hosts.places[1].run("ip", "-6", "route", "show", "dev", tunnel)  # noqa: E731
    assert eventually(lambda: "fd00:50:0:3::" not in shown())
    assert len(hosts.places[1].ip("-6", "neigh", "show", "dev", tunnel, "nud", "permanent")) == 1
    assert ping(one, six(two))


def test_published_port_of_an_overlay_is_reached_over_both_families(hosts: Hosts) -> None:
    """By a host that has no container of the network, from outside of the overlay."""
    hosts.six, hosts.under = True, "2001:db8::"
    hosts.plug(1)
    hosts.start(1)
    hosts.machine.run("ip", "addr", "add", "2001:db8::99/64", "dev", "switch", "nodad")
    one = hosts.containers[1]
    outside = hosts.machine.run("sh", "-c", f"ping -6 -c 1 -W 1 {six(one)} 2>&1 || true")
    assert "1 received" not in outside
    assert ping(one, "2001:db8::99"), "out it goes, by the host's address"


def test_eight_hosts_have_three_entries_for_each_other_one(hosts: Hosts) -> None:
    for number in range(1, 9):
        hosts.plug(number)
    for number in range(1, 9):
        hosts.start(number)
    for number in range(1, 9):
        for other in (number % 8 + 1, (number + 3) % 8 + 1):
            assert ping(hosts.containers[number], hosts.containers[other].address), (number, other)
    here, tunnel = hosts.places[3], hosts.links[3].replace("-n", "-x")
    routes = [route for route in here.ip("route", "show", "dev", tunnel) if route["dst"] != "10.50.3.0"]
    neighbours = here.ip("neigh", "show", "dev", tunnel, "nud", "permanent")
    entries = [it for it in json.loads(here.run("bridge", "-j", "fdb", "show", "dev", tunnel)) if "dst" in it]
    assert len(routes) == len(neighbours) == len(entries) == 7
    assert {entry["dst"] for entry in entries} == {f"192.0.2.{n}" for n in range(1, 9) if n != 3}


def test_unreachable_host_and_one_that_comes_back_elsewhere(hosts: Hosts) -> None:
    for number in (1, 2, 3):
        hosts.plug(number)
    for number in (1, 2, 3):
        hosts.start(number)
    one, two, three = (hosts.containers[number] for number in (1, 2, 3))
    assert ping(one, two.address)
    hosts.machine.run("ip", "link", "set", "port2", "down")
    assert not ping(one, two.address)
    assert ping(one, three.address), "the others do not suffer"
    # it comes back with another address between the hosts, and everybody's file says so
    hosts.machine.run("ip", "link", "set", "port2", "up")
    hosts.end(2)
    hosts.places[2].run("ip", "addr", "flush", "dev", "eth0")
    hosts.places[2].run("ip", "addr", "add", "192.0.2.22/24", "dev", "eth0")
    text = hosts.peers.read_text().replace("192.0.2.2 ", "192.0.2.22 ")
    hosts.peers.write_text(text)
    definition = hosts.root / "data2/networks/wide.json"
    definition.write_text(definition.read_text().replace('"192.0.2.2"', '"192.0.2.22"'))
    hosts.start(2)
    assert eventually(lambda: ping(one, hosts.containers[2].address)), "the name servers have looked at the file"
    assert eventually(lambda: ping(hosts.containers[2], three.address))


def test_host_that_is_in_no_file_is_not_believed(hosts: Hosts) -> None:
    for number in (1, 2, 3):
        hosts.plug(number)
    all_of_them = hosts.peers.read_text()
    hosts.peers.write_text(re.sub(r"(?m)^192\.0\.2\.3 .*\n", "", all_of_them))
    hosts.start(1)
    hosts.start(2)
    stranger = hosts.root / "strangers"
    stranger.write_text(all_of_them)
    hosts.peers, known = stranger, hosts.peers
    hosts.start(3)
    hosts.peers = known
    assert ping(hosts.containers[1], hosts.containers[2].address)
    before = _dropped(hosts.places[1])
    assert not ping(hosts.containers[3], hosts.containers[1].address)
    assert _dropped(hosts.places[1]) > before


def _dropped(place: Place) -> int:
    (line,) = [line for line in place.run("nft", "list", "ruleset").splitlines() if "dport 4789" in line]
    return int(re.findall(r"packets (\d+)", line)[0])


def test_everything_of_an_overlay_goes_with_its_last_container(hosts: Hosts) -> None:
    hosts.plug(1)
    place = hosts.places[1]
    before = (place.run("ip", "-br", "link"), place.run("nft", "list", "ruleset"), place.run("ip", "route"))
    hosts.plug(2)
    hosts.start(1)
    assert len(place.ip("link")) == 5
    hosts.end(1)
    assert (place.run("ip", "-br", "link"), place.run("nft", "list", "ruleset"), place.run("ip", "route")) == before


@pytest.mark.parametrize(
    ("peers", "complaint"),
    [
        ("192.0.2.2", "line 1 of .* is not a host and its part"),
        ("# me\nbanana 10.50.2.0/24", "line 2 of .*'banana' is not a host's address"),
        ("192.0.2.2 10.50.2.0/33", "line 1 of .* is not a subnet"),
        ("192.0.2.2 10.51.2.0/24", r"10\.51\.2\.0/24 is not a part of 10\.50\.0\.0/16"),
        ("192.0.2.2 10.50.0.0/20", "overlaps another host's part"),
        ("192.0.2.2 10.50.2.0/24\n192.0.2.3 10.50.2.128/25", "line 2 .* overlaps another host's part"),
        ("2001:db8::2 10.50.2.0/24", "2001:db8::2 is not of the same version of IP as this host's 192.0.2.1"),
        ("192.0.2.2 10.50.2.0/24 10.51.0.0/24", "'10.51.0.0/24' is not a subnet"),
        ("192.0.2.2 10.50.2.0/24 fd00:51:0:2::/64", "fd00:51:0:2::/64 is not a part of fd00:50::/48"),
        ("192.0.2.2 10.50.2.0/24 fd00:50:0:1::/65", "overlaps another host's part"),
        ("192.0.2.1 10.50.1.0/24 fd00:50:0:7::/64", "gives this host fd00:50:0:7::/64, but its own part is"),
        (None, "cannot read the peers file"),
    ],
)
def test_peers_file_that_makes_no_sense(machine: Machine, tmp_path: Path, peers: str | None, complaint: str) -> None:
    path = tmp_path / "peers"
    if peers is not None:
        path.write_text(peers + "\n")
    options = {"vni": "42", "local": "192.0.2.1", "peers": str(path)}
    parts = {"range": "10.50.1.0/24", "subnet6": "fd00:50::/48", "range6": "fd00:50:0:1::/64"}
    with pytest.raises(UsageError, match=complaint):
        networks.create("wide", driver="overlay", subnet="10.50.0.0/16", options=options, **parts)
    assert not os.path.exists(networks.path("wide"))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"vni": "0"}, "is not a VNI"),
        ({"vni": "16777216"}, "is not a VNI"),
        ({"local": "::1"}, "is not a host's address"),
        ({"color": "red"}, "does not know the option color"),
        ({"local": None}, "needs the option local"),
        ({"range": ""}, "this host's own part of the subnet"),
        ({"subnet6": "fd00:50::/48"}, "this host's own part of the IPv6 subnet"),
        ({"range6": "fd00:50::/64"}, "is to have no IPv6"),
        ({"subnet6": "fd00:50::/48", "range6": "fd00:51::/64"}, "is not a part of subnet fd00:50::/48"),
    ],
)
def test_overlay_options_that_make_no_sense(
    machine: Machine, tmp_path: Path, change: dict[str, str | None], complaint: str
) -> None:
    (tmp_path / "peers").touch()
    options = {"vni": "42", "local": "192.0.2.1", "peers": str(tmp_path / "peers"), "range": "10.50.1.0/24"} | change
    chosen = {key: value for key, value in options.items() if value is not None}
    parts = {name: chosen.pop(name) for name in ("range", "subnet6", "range6") if name in chosen}
    with pytest.raises(UsageError, match=complaint):
        networks.create("wide", driver="overlay", subnet="10.50.0.0/16", options=chosen, **parts)
    assert not os.path.exists(networks.path("wide"))
