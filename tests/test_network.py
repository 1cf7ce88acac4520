"""A container with an address of its own: who reaches whom, and what of it is left."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from joins import start

from minicontainer import linux, state
from minicontainer.container import Container
from minicontainer.errors import ConflictError, HostError, UsageError
from minicontainer.network import Bridge, Join, Port, bridge_name, firewall, networks, reset, ruleset

if TYPE_CHECKING:
    from pathlib import Path

    from networks import Machine

pytest_plugins = ["networks"]


def test_container_has_address_route_and_nothing_else(machine: Machine) -> None:
    bridge = Bridge()
    container = machine.start(bridge)
    links = {link["ifname"]: link for link in container.ip("addr")}
    assert sorted(links) == ["eth0", "lo"]
    assert {"UP", "LOWER_UP"} <= set(links["lo"]["flags"])
    assert [it["local"] for it in links["lo"]["addr_info"] if it["family"] == "inet"] == ["127.0.0.1"]
    eth0 = next(it for it in links["eth0"]["addr_info"] if it["family"] == "inet")
    assert (eth0["local"], eth0["prefixlen"], eth0["broadcast"]) == (bridge.address, 16, "172.29.255.255")
    default = next(route for route in container.ip("route") if route["dst"] == "default")
    assert (default["gateway"], default["dev"]) == (bridge.gateway, "eth0")
    ours = {link["ifname"]: link for link in machine.ip("addr")}
    assert ours[bridge_name()]["addr_info"][0]["local"] == bridge.gateway
    assert all(link["ifname"] in ("lo", bridge_name()) or link["master"] == bridge_name() for link in ours.values())


@pytest.mark.lab
def test_container_reaches_gateway_and_another_container(machine: Machine) -> None:
    one, two = machine.start(Bridge()), machine.start(Bridge())
    assert one.address != two.address
    machine.serve("tcp", 7, "the host")
    two.serve("tcp", 7, "two")
    assert one.call("tcp", "172.29.0.1", 7) == f"the host sees {one.address}"
    assert one.call("tcp", two.address, 7) == f"two sees {one.address}"
    assert machine.call("tcp", two.address, 7) == "two sees 172.29.0.1"


@pytest.mark.lab
def test_outside_sees_the_hosts_address(machine: Machine) -> None:
    near, far = machine.neighbour("198.51.100", "eth0"), machine.neighbour("203.0.113", "eth1")
    container = machine.start(Bridge())
    for protocol in ("tcp", "udp"):
        near.serve(protocol, 7, "near")
        far.serve(protocol, 7, "far")
        assert container.call(protocol, near.address, 7) == "near sees 198.51.100.1"
        assert container.call(protocol, far.address, 7) == "far sees 203.0.113.1"


@pytest.mark.lab
def test_packets_on_the_wire_carry_no_container_address(machine: Machine) -> None:
    near = machine.neighbour()
    container = machine.start(Bridge())
    near.serve("tcp", 7, "near")
    near.run("nft", "add table ip wire; add chain ip wire seen { type filter hook prerouting priority 0; }")
    near.run("nft", "add rule ip wire seen ip saddr 172.16.0.0/12 counter; add rule ip wire seen tcp dport 7 counter")
    assert container.call("tcp", near.address, 7) == "near sees 198.51.100.1"
    leaked, arrived = (
        int(line.split("packets ")[1].split()[0])
        for line in near.run("nft", "list", "ruleset").splitlines()
        if "packets" in line
    )
    assert leaked == 0
    assert arrived > 0


@pytest.mark.parametrize("rp_filter", ["0", "1"])
def test_published_ports_from_everywhere(machine: Machine, rp_filter: str) -> None:
    linux.write("/proc/sys/net/ipv4/conf/all/rp_filter", rp_filter)  # as strict as ip-sysctl.rst recommends, or not
    near = machine.neighbour()
    inside = machine.start(Bridge(publish=["8080:80", "5353:53/udp"]))
    other = machine.start(Bridge())
    inside.serve("tcp", 80, "it")
    inside.serve("udp", 53, "it")
    for protocol, port in (("tcp", 8080), ("udp", 5353)):
        assert near.call(protocol, "198.51.100.1", port) == "it sees 198.51.100.2", "the client's own address is kept"
        assert machine.call(protocol, "127.0.0.1", port) == "it sees 172.29.0.1"
        assert machine.call(protocol, "198.51.100.1", port) == "it sees 198.51.100.1"
        assert other.call(protocol, "198.51.100.1", port) == "it sees 172.29.0.1"
        assert other.call(protocol, "172.29.0.1", port) == "it sees 172.29.0.1"
        assert inside.call(protocol, "198.51.100.1", port) == "it sees 172.29.0.1", "and it reaches itself"


def test_published_ports_where_bridged_frames_do_not_pass_the_ip_rules(machine: Machine) -> None:
    if not os.path.exists("/proc/sys/net/bridge"):
        pytest.skip("this kernel has no br_netfilter to switch off")
    linux.write("/proc/sys/net/bridge/bridge-nf-call-iptables", "0")
    inside, other = machine.start(Bridge(publish={8080: 80})), machine.start(Bridge())
    inside.serve("tcp", 80, "it")
    assert other.call("tcp", "172.29.0.1", 8080) == "it sees 172.29.0.1"
    assert inside.call("tcp", "172.29.0.1", 8080) == "it sees 172.29.0.1"
    assert machine.call("tcp", "127.0.0.1", 8080) == "it sees 172.29.0.1"


def test_port_on_a_chosen_address_is_closed_on_the_others(machine: Machine) -> None:
    near, far = machine.neighbour("198.51.100", "eth0"), machine.neighbour("203.0.113", "eth1")
    inside = machine.start(Bridge(publish=["198.51.100.1:8080:80", "127.0.0.1:8081:80"]))
    inside.serve("tcp", 80, "it")
    assert near.call("tcp", "198.51.100.1", 8080) == "it sees 198.51.100.2"
    assert machine.call("tcp", "198.51.100.1", 8080) == "it sees 198.51.100.1"
    assert far.call("tcp", "203.0.113.1", 8080) == "ConnectionRefusedError"
    assert machine.call("tcp", "127.0.0.1", 8080) == "ConnectionRefusedError"
    assert machine.call("tcp", "127.0.0.1", 8081) == "it sees 172.29.0.1"
    assert near.call("tcp", "198.51.100.1", 8081) == "ConnectionRefusedError"
    # A neighbour may put any address on its cable: what is published on 127.0.0.1 must not answer there.
    near.run("ip", "addr", "flush", "dev", "lo")
    near.run("ip", "route", "add", "127.0.0.1/32", "via", "198.51.100.1")
    near.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet")
    assert near.call("tcp", "127.0.0.1", 8081, timeout=0.5) == "TimeoutError"


def test_the_same_port_on_two_addresses_leads_to_two_containers(machine: Machine) -> None:
    near, far = machine.neighbour("198.51.100", "eth0"), machine.neighbour("203.0.113", "eth1")
    machine.start(Bridge(publish=["198.51.100.1:8080:80"])).serve("tcp", 80, "one")
    machine.start(Bridge(publish=["203.0.113.1:8080:80"])).serve("tcp", 80, "two")
    assert near.call("tcp", "198.51.100.1", 8080).startswith("one")
    assert far.call("tcp", "203.0.113.1", 8080).startswith("two")


def test_what_is_not_published_is_closed_to_the_outside(machine: Machine) -> None:
    near = machine.neighbour()
    inside = machine.start(Bridge(publish={8080: 80}))
    inside.serve("tcp", 81, "it")
    near.run("ip", "route", "add", "172.29.0.0/16", "via", "198.51.100.1")
    assert near.call("tcp", inside.address, 81, timeout=0.5) == "TimeoutError"
    assert machine.call("tcp", inside.address, 81) == "it sees 172.29.0.1", "but not to the host"


def test_container_does_not_reach_the_hosts_loopback(machine: Machine) -> None:
    machine.serve("tcp", 7, "the host's secret", address="127.0.0.1")
    inside = machine.start(Bridge(publish={8080: 80}))
    inside.run("ip", "addr", "del", "127.0.0.1/8", "dev", "lo")
    inside.run("ip", "route", "add", "127.0.0.1/32", "via", "172.29.0.1")
    inside.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet")
    assert "secret" not in inside.call("tcp", "127.0.0.1", 7, timeout=0.5)


def test_container_cannot_pretend_to_be_the_hosts_loopback(machine: Machine) -> None:
    inside = machine.start(Bridge())
    inside.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet")
    program = "import socket, sys; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind((sys.argv[1], 0)); "
    program += "s.sendto(sys.argv[1].encode(), ('172.29.0.1', 7))"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("0.0.0.0", 7))
        server.settimeout(5)
        for source in ("127.0.0.1", inside.address):
            inside.run(sys.executable, "-c", program, source)
        assert server.recvfrom(100)[0].decode() == inside.address, "the first to arrive is the honest one"


def test_port_zero_takes_a_free_one(machine: Machine) -> None:
    bridge = Bridge(publish=["80", "127.0.0.1::81"])
    inside = machine.start(bridge)
    inside.serve("tcp", 80, "it")
    assert [port.container_port for port in bridge.ports] == [80, 81]
    assert bridge.ports[0].host_port != bridge.ports[1].host_port
    assert all(port.host_port > 1023 for port in bridge.ports)
    assert machine.call("tcp", "127.0.0.1", bridge.ports[0].host_port) == "it sees 172.29.0.1"


@pytest.mark.parametrize(
    ("first", "second", "clash"),
    [
        ("8080:80", "8080:80", True),
        ("8080:80", "127.0.0.1:8080:80", True),
        ("127.0.0.1:8080:80", "8080:80", True),
        ("8080:80", "8080:80/udp", False),
        ("127.0.0.1:8080:80", "127.0.0.2:8080:80", False),
        ("8080:80", "8081:80", False),
    ],
)
def test_port_that_another_container_has_is_a_conflict(machine: Machine, first: str, second: str, clash: bool) -> None:
    holder = machine.start(Bridge(publish=[first]))
    before = machine.view()
    if not clash:
        machine.start(Bridge(publish=[second]))
        return
    with pytest.raises(ConflictError, match=rf"port 8080/tcp .* {holder.container.id[:12]}"):  # type: ignore[attr-defined]
        machine.start(Bridge(publish=[second]))
    assert machine.view() == before
    machine.end(holder)
    machine.start(Bridge(publish=[second]))


def test_port_of_another_instance_is_a_conflict(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.start(Bridge(publish={8080: 80}))
    other = state.instance()
    with monkeypatch.context() as patch:
        patch.setenv("MINICONTAINER_DATA_ROOT", state.data_root() + "2")
        with pytest.raises(ConflictError, match=f"port 8080/tcp .*{other}"):
            machine.start(Bridge(publish={8080: 80}))


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_port_of_a_program_is_a_conflict_that_names_it(machine: Machine, protocol: str) -> None:
    server = machine.serve(protocol, 8080, "program", address="127.0.0.1")
    before = machine.view()
    with pytest.raises(ConflictError, match=rf"port 8080/{protocol} .* in use by python\S* \(process {server.pid}\)"):
        machine.start(Bridge(publish=[f"8080:80/{protocol}"]))
    assert machine.view() == before


def test_address_that_the_host_lacks_cannot_be_published_on(machine: Machine) -> None:
    with pytest.raises(UsageError, match=r"192\.0\.2\.9 is not an address of this host"):
        machine.start(Bridge(publish=["192.0.2.9:8080:80"]))
    assert machine.view()["links"] == ["lo"]


@pytest.mark.parametrize(
    ("text", "port"),
    [
        ("80", Port(80)),
        ("8080:80", Port(80, 8080)),
        ("8080:80/tcp", Port(80, 8080)),
        ("53:5353/udp", Port(5353, 53, protocol="udp")),
        ("127.0.0.1:8080:80", Port(80, 8080, "127.0.0.1")),
        ("127.0.0.1::80/udp", Port(80, 0, "127.0.0.1", "udp")),
    ],
)
def test_port_in_dockers_form(text: str, port: Port) -> None:
    assert Port.parse(text) == port


@pytest.mark.parametrize(
    "text",
    ["", "x", "80:", ":", "0", "65536", "-1", "8080:80/icmp", "80-90:80-91", "1.2.3:1:2", "a.b:1:2", "[::1]:1:2", "٣"],
)
def test_port_that_makes_no_sense_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="hint: "):
        Bridge(publish=[text])


def test_port_published_twice_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="twice"):
        Bridge(publish=["8080:80", "127.0.0.1:8080:81"])


def test_last_container_takes_everything_with_it(machine: Machine) -> None:
    before = machine.view()
    assert before["ip_forward"] == "0\n"
    one, two = machine.start(Bridge(publish={8080: 80})), machine.start(Bridge(publish={8081: 80}))
    assert machine.view()["ip_forward"] == "1\n"
    machine.end(one)
    assert bridge_name() in machine.view()["links"]
    assert "8081" in machine.ruleset()
    assert "8080" not in machine.ruleset()
    machine.end(two)
    assert machine.view() == before


@pytest.mark.lab
def test_nobody_gets_in_uninvited(machine: Machine) -> None:
    near, inside = machine.neighbour(), machine.start(Bridge())
    inside.serve("tcp", 81, "it")
    near.run("ip", "route", "add", f"{inside.address}/32", "via", "198.51.100.1")
    assert near.call("tcp", inside.address, 81, timeout=0.5) == "TimeoutError"
    assert machine.call("tcp", inside.address, 81).startswith("it sees"), "but the host does"


@pytest.mark.lab
def test_every_container_takes_its_own_with_it_and_the_last_one_the_rest(machine: Machine) -> None:
    before = machine.view()
    one, two = machine.start(Bridge()), machine.start(Bridge())
    both = machine.view()
    assert len(both["links"]) == len(before["links"]) + 3
    machine.end(one)
    assert len(machine.view()["links"]) == len(both["links"]) - 1
    two.serve("tcp", 7, "two")
    assert machine.call("tcp", two.address, 7).startswith("two sees"), "the other one is not disturbed"
    machine.end(two)
    assert machine.view() == before


def test_forwarding_that_was_on_stays_on(machine: Machine) -> None:
    linux.write("/proc/sys/net/ipv4/ip_forward", "1")
    machine.end(machine.start(Bridge()))
    assert machine.view()["ip_forward"] == "1\n"


@pytest.mark.parametrize("first_ends_first", [True, False])
def test_two_instances_share_the_machine(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, first_ends_first: bool
) -> None:
    before = machine.view()
    roots = [state.data_root(), state.data_root() + "2"]
    near = machine.neighbour()
    with_neighbour = machine.view()
    near.serve("tcp", 7, "near")
    places = []
    for root in roots:
        monkeypatch.setenv("MINICONTAINER_DATA_ROOT", root)
        places.append((root, machine.start(Bridge(publish=["80"]))))
    one, two = (place for _, place in places)
    assert one.address.split(".")[:2] != two.address.split(".")[:2], "they have subnets of their own"
    two.serve("tcp", 7, "two")
    assert one.call("tcp", two.address, 7, timeout=0.5) == "TimeoutError", "and do not reach each other"
    if not first_ends_first:
        places.reverse()
    monkeypatch.setenv("MINICONTAINER_DATA_ROOT", places[0][0])
    machine.end(places[0][1])
    assert machine.view()["ip_forward"] == "1\n", "the other still needs it"
    assert places[1][1].call("tcp", near.address, 7) == "near sees 198.51.100.1"
    monkeypatch.setenv("MINICONTAINER_DATA_ROOT", places[1][0])
    machine.end(places[1][1])
    monkeypatch.setenv("MINICONTAINER_DATA_ROOT", roots[0])
    assert machine.view() == with_neighbour
    assert before["ip_forward"] == "0\n"


OTHER_ROOTS = """
import os, sys
from minicontainer.container import Container
from minicontainer.network import Bridge
os.environ["MINICONTAINER_EXEC_ROOT"], os.environ["MINICONTAINER_DATA_ROOT"], other = sys.argv[1:]
for _ in range(2):  # from its second container on, a program has a spawner
    assert Container(["/bin/true"], Bridge()).run() == 0
os.environ["MINICONTAINER_DATA_ROOT"] = other
assert Container(["/bin/true"], Bridge()).run() == 0
"""


def test_the_spawner_may_have_begun_with_other_roots(machine: Machine, tmp_path: Path) -> None:
    roots = [f"{tmp_path}/{name}" for name in ("exec", "data", "other")]
    machine.run(sys.executable, "-c", OTHER_ROOTS, *roots)


def test_missing_nft_is_an_error_that_names_the_package(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(firewall, "DIRECTORIES", ("/nowhere",))
    with pytest.raises(HostError, match="apt-get install nftables"):
        machine.start(Bridge())
    monkeypatch.undo()


def test_another_network_than_bridge_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="no network 'mine'"):
        Bridge("mine")


def test_reset_removes_what_no_record_tells_of(machine: Machine) -> None:
    before = machine.view()
    place = machine.start(Bridge(publish={8080: 80}))
    container = place.container  # type: ignore[attr-defined]
    removed = reset()
    assert bridge_name() in removed
    assert machine.view()["links"] == before["links"]
    assert machine.view()["rules"] == before["rules"]
    assert machine.view()["ip_forward"] == before["ip_forward"]
    assert reset() == []
    container.kill()
    container.wait()
    machine.containers.remove(container)
    assert machine.view() == before


def test_trace_shows_each_request_in_words(machine: Machine) -> None:
    with linux.trace() as calls:
        machine.end(machine.start(Bridge(publish={8080: 80})))
    shown = [(call.name, call.arguments) for call in calls]
    link = next(text for name, text in shown if name == "RTM_NEWLINK" and text.startswith("veth"))
    assert link.endswith("0002 at " + bridge_name() + ", peer eth0 in the netns of " + link.split()[-1])
    assert ("RTM_NEWADDR", "172.29.0.2/16 on eth0") in shown
    assert ("RTM_NEWROUTE", "default via 172.29.0.1") in shown
    assert any(name == "nft" and "masquerade" in text for name, text in shown)
    assert any(name == "RTM_DELLINK" and text == bridge_name() for name, text in shown)
    assert {call.man for call in calls if call.name.startswith("RTM_")} == {"rtnetlink(7)"}


@pytest.mark.parametrize("publish", [(), ["8080:80", "127.0.0.1:8081:80/udp"]])
def test_start_after_the_first_runs_no_nft(machine: Machine, publish: list[str]) -> None:
    machine.start(Bridge())
    with linux.trace() as calls:
        place = machine.start(Bridge(publish=publish))
        machine.end(place)
    assert "nft" not in [call.name for call in calls]
    assert "RTM_NEWLINK" in [call.name for call in calls]


def test_first_start_runs_nft_twice_only_where_somebody_else_filters(machine: Machine) -> None:
    for theirs, runs in (
        ("", 1),
        ("add table ip other; add chain ip other f { type filter hook forward priority 0; }", 2),
    ):
        machine.nft(theirs)
        with linux.trace() as calls:
            place = machine.start(Bridge(publish=["8080:80"]))
        assert [call.name for call in calls].count("nft") == runs
        machine.end(place)


def test_published_ports_are_read_from_the_kernel_as_nft_lists_them(machine: Machine) -> None:
    wanted = ["8080:80", "127.0.0.1:5353:53/udp"]
    inside = machine.start(Bridge(publish=wanted))
    networks.create("own", ipv6=True)
    here = start(machine, Join("own", publish=["8081:81", "[::]:8082:82", "127.0.0.1:8083:83"]))
    found = ruleset.RuleSet(state.instance())
    assert found.published == {
        ("0.0.0.0", "tcp", 8080): (inside.address, 80),
        ("127.0.0.1", "udp", 5353): (inside.address, 53),
    }
    others = {(str(port), table) for port, table in found.elsewhere}
    assert {table for _, table in others} == {f"{state.instance()}.networks"}
    assert {words for words, _ in others} == {
        "0.0.0.0:8081->81/tcp",
        ":::8081->81/tcp",
        ":::8082->82/tcp",
        "127.0.0.1:8083->83/tcp",
    }
    listed = machine.run("nft", "list", "map", "inet", f"{state.instance()}.networks", "published6")
    six = networks.get("own").members[here.container.id].address6  # type: ignore[attr-defined]
    assert f"tcp . 8082 : {six} . 82" in listed


def test_importing_the_chapter_imports_no_library() -> None:
    program = "import sys, minicontainer.network; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"pyroute2", "socket", "subprocess", "logging", "dataclasses", "typing", "ipaddress"}


def test_curl_fetches_a_page_through_a_published_port(machine: Machine, tmp_path: object) -> None:
    (index := os.path.join(str(tmp_path), "www")) and os.makedirs(index)
    with open(os.path.join(index, "index.html"), "w") as file:
        file.write("<h1>from inside</h1>\n")
    container = Container([sys.executable, "-m", "http.server", "-d", index, "80"], Bridge(publish={8080: 80}))
    container.start(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    machine.containers.append(container)
    argv = ["curl", "-s", "--retry", "20", "--retry-connrefused", "--retry-delay", "1", "http://127.0.0.1:8080/"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, env=machine.environment)
    assert done.stdout == "<h1>from inside</h1>\n"


def test_udp_client_that_never_pauses_follows_the_port_to_the_next_container(machine: Machine) -> None:
    """The kernel remembers where a flow goes for as long as packets come; what it remembers must not outlive us."""
    near = machine.neighbour()
    machine.start(Bridge())  # so that flows are tracked all the time
    program = (
        "import socket, sys; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('', 4000)); "
        "s.settimeout(1); s.sendto(b'x', ('198.51.100.1', 5353)); print(s.recv(100).decode())"
    )
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as early:  # before the port is published
        early.bind(("0.0.0.0", 5353))
        with pytest.raises(AssertionError, match="timed out"):
            near.run(sys.executable, "-c", program)
    for name in ("one", "two"):
        inside = machine.start(Bridge(publish=["5353:53/udp"]))
        inside.serve("udp", 53, name)
        for _ in range(2):
            assert near.run(sys.executable, "-c", program).strip() == f"{name} sees 198.51.100.2"
        machine.end(inside)


def test_listening_inside_needs_no_port_outside(machine: Machine) -> None:
    inside = machine.start(Bridge())
    inside.serve("tcp", 80, "it")
    with socket.socket() as probe:
        probe.bind(("0.0.0.0", 80))
