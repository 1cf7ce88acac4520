"""The checks of lab 06: a cable, an address, a plan, the way out and in, who is who, a tunnel, and one for the engine.

Each attempt has a network namespace of its own, which plays the host; a box and an internet are two more, each kept by
a process that ends with the attempt. Nothing reaches the real host's network.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import socket
import struct
import subprocess
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from labs.checks import wire
from labs.checks.engine import module_tests
from labs.checks.frame import Lab, attempt, expect
from minicontainer import Container, Namespaces, linux
from minicontainer.errors import ContainerError
from minicontainer.network import interfaces, links
from minicontainer.network.addresses import Subnet
from minicontainer.network.netlink import NLM_F_CREATE, Netlink, attribute, attributes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

lab = Lab("06-network")

NETWORK = "172.29.0.0/16"
GATEWAY, BOX, OTHER = "172.29.0.1", "172.29.0.2", "172.29.0.3"
HOST, INTERNET = "203.0.113.1", "203.0.113.9"
SILENCE = "no answer"


@lab.exercise("a cable")
def cable(answer: Callable[[str, str, int, str], object]) -> str:
    """The links on both sides are looked at, and then a packet is sent through."""

    def ask() -> dict[str, Any]:
        with Netlink() as netlink:
            links.create_bridge(netlink, "br7", b"\x02\x6d\0\0\0\1")
            links.set_up(netlink, "br7")
        box = _machine()
        answer("port7", "eth7", box, "br7")
        seen = {"here": _links(), "there": _at(box, _links)}
        if "eth7" in seen["there"]:
            _address("br7", GATEWAY)
            _at(box, lambda: _address("eth7", BOX))
            seen["answer"] = _patiently(lambda: _at(box, lambda: _udp(GATEWAY)))
        return seen

    seen = _tried(ask, answer)
    here, there = seen["here"], seen["there"]
    expect("port7" in here, saw=f"on this side {_named(here)}", wanted="a link called port7")
    expect(here["port7"]["kind"] == "veth", saw=f"port7 is a {here['port7']['kind']}", wanted="a veth")
    where = "on this side" if "eth7" in here else "in neither namespace"
    expect("eth7" in there, saw=f"eth7 is {where}", wanted="eth7 in the network namespace of the process")
    expect(
        here["port7"]["master"] == "br7",
        saw=f"the master of port7 is {here['port7']['master'] or 'nobody'}",
        wanted="br7: it is plugged into the bridge",
    )
    expect(here["port7"]["up"], saw="port7 is down", wanted="port7 up")
    expect(seen["answer"] == "arrived", saw="no packet comes from the box to the bridge", wanted="that it does")
    return "a veth with one end at the bridge, up, and the other in the box; a packet comes through"


@lab.exercise("an address and a way")
def set_up(answer: Callable[[str, int, str], object]) -> str:
    """It is called in a box whose eth0 leads to a bridge; what the kernel has then is read, and used."""

    def ask() -> dict[str, Any]:
        box = _bridged("box")
        _at(box, lambda: answer(BOX, 16, GATEWAY))
        return {
            "links": _at(box, _links),
            "addresses": _at(box, _addresses),
            "routes": _at(box, _routes),
            "loopback": _at(box, lambda: _udp("127.0.0.1")),
            "gateway": _patiently(lambda: _at(box, lambda: _udp(GATEWAY))),
        }

    seen = _tried(ask, answer)
    for name in ("eth0", "lo"):
        expect(seen["links"][name]["up"], saw=f"{name} is down", wanted=f"{name} up")
    got = seen["addresses"].get("eth0", [])
    expect(
        f"{BOX}/16" in got,
        saw=f"eth0 has {', '.join(got) or 'no address'}",
        wanted=f"{BOX}/16, for the call set_up('{BOX}', 16, '{GATEWAY}')",
    )
    expect(len(got) == 1, saw=f"eth0 has {', '.join(got)}", wanted="one address")
    expect(seen["loopback"] == "arrived", saw="a packet to 127.0.0.1 does not arrive", wanted="that it does")
    expect(seen["gateway"] == "arrived", saw="a packet to the gateway does not arrive", wanted="that it does")
    default = [route for route in seen["routes"] if route.startswith("0.0.0.0/0")]
    expect(
        default == [f"0.0.0.0/0 via {GATEWAY}"],
        saw=f"the default route is {', '.join(default) or 'missing'}",
        wanted=f"0.0.0.0/0 via {GATEWAY}",
    )
    return "lo and eth0 are up, the address is there with its network, and the rest goes to the gateway"


@lab.exercise("a plan of addresses")
def reserve(answer: Callable[[str, str], str]) -> str:
    """Many processes at once, then gaps, then a full network."""
    with tempfile.TemporaryDirectory(prefix="minicontainer-lab-") as folder:
        path = f"{folder}/plan.json"

        def ask() -> dict[str, Any]:
            first = answer(path, "first")  # before the crowd: an answer with an error says so once
            crowd = _crowd(lambda name: answer(path, name), processes=20, each=6)
            plan = _read(path)
            left = {name: address for name, address in plan.items() if int(address.rpartition(".")[2]) % 3}
            _write(path, left)
            again = [answer(path, f"again {number}") for number in range(20)]
            gaps = {"given": again, "taken": sorted(left.values())}
            hosts = {f"c{last}": f"172.29.0.{last}" for last in range(2, 255) if last != 77}
            _write(path, hosts)
            full = [answer(path, "the last")]
            try:
                full.append(answer(path, "one too many"))
            except NotImplementedError:
                raise
            except Exception as error:
                full.append(f"raised {type(error).__name__}")
            return {"first": first, "crowd": crowd, "plan": plan, "gaps": gaps, "full": full}

        seen = _tried(ask, answer)
    got = list(seen["crowd"].values())
    inside = [address for address in [seen["first"], *got] if address not in _USABLE]
    expect(not inside, saw=f"{inside[:1]} was given out", wanted="one of 172.29.0.2 to 172.29.0.254, as text")
    everybody = [seen["first"], *got]
    twice = sorted({address for address in everybody if everybody.count(address) > 1})
    expect(
        not twice,
        saw=f"of {len(everybody)} containers that 20 processes asked for, several have the same address: {twice[:3]}",
        wanted="as many addresses as containers",
    )
    lost = [name for name, address in seen["crowd"].items() if seen["plan"].get(name) != address]
    expect(
        not lost,
        saw=f"the file does not have {len(lost)} of the {len(everybody)} addresses that were given out",
        wanted="each container with its address in the file",
    )
    clash = sorted(set(seen["gaps"]["given"]) & set(seen["gaps"]["taken"]))
    expect(
        not clash and len(set(seen["gaps"]["given"])) == 20,
        saw=f"after some were given back, {(clash or seen['gaps']['given'])[0]} was given out a second time",
        wanted="only addresses that nobody has",
    )
    last, more = seen["full"]
    expect(last == "172.29.0.77", saw=f"with one address left, {last}", wanted="172.29.0.77, the one that was left")
    expect(more.startswith("raised"), saw=f"with no address left, {more}", wanted="an exception")
    return "120 containers of 20 processes have 120 addresses; gaps are filled, and a full network says so"


@lab.exercise("the way out")
def way_out(answer: Callable[[str, str], object]) -> str:
    """Packets are sent out of the box and into it, and the Internet says from whom."""

    def ask() -> dict[str, Any]:
        box, other, internet = _bridged("box"), _bridged("other"), _outside()
        for machine, address in ((box, BOX), (other, OTHER)):
            _at(machine, functools.partial(_reachable, address))
        _at(internet, lambda: _route(NETWORK, HOST))
        linux.write("/proc/sys/net/ipv4/ip_forward", "0")
        _nft("table ip somebodys { chain input { type filter hook input priority 0; counter\n }\n }")
        _settle()
        answer(NETWORK, "br0")
        return {
            "forward": _word("/proc/sys/net/ipv4/ip_forward"),
            "somebodys": "somebodys" in _ruleset(),
            "out": _call(box, internet, INTERNET, 9),
            "in": _call(internet, box, BOX, 9),
            "neighbour": _call(other, box, BOX, 9),
            "host": _call(None, box, BOX, 9),
        }

    seen = _tried(ask, answer)
    expect(seen["somebodys"], saw="a firewall table of somebody else is gone", wanted="that it stays as it was")
    expect(seen["forward"] == "1", saw=f"ip_forward is {seen['forward']}", wanted="1")
    expect(seen["out"] != SILENCE, saw="no connection from the box to the Internet", wanted="that there is one")
    expect(seen["out"] == HOST, saw=f"the Internet sees {seen['out']}", wanted=f"{HOST}, the address of the host")
    expect(
        seen["in"] == SILENCE,
        saw="the Internet has sent a packet to the box's own address through the host, and has reached it",
        wanted="that from outside nobody gets in uninvited",
    )
    expect(
        seen["neighbour"] == OTHER,
        saw=f"the neighbour's connection to the box comes from {seen['neighbour']}",
        wanted=f"{OTHER}: who stays on the bridge keeps the address",
    )
    expect(seen["host"] == GATEWAY, saw=f"the host's connection: {seen['host']}", wanted=f"from {GATEWAY}, as before")
    return "out with the host's address, in only with an answer, and the neighbours are not disturbed"


@lab.exercise("the way in")
def publish(answer: Callable[[str, str, int, str, int], object]) -> str:
    """Four callers of the published port, and two who want something else."""

    def ask() -> dict[str, Any]:
        box, internet = _bridged("box"), _outside()
        _at(box, lambda: _reachable(BOX))
        linux.write("/proc/sys/net/ipv4/ip_forward", "1")
        _nft(_WAY_OUT)
        _settle()
        answer(NETWORK, "br0", 8080, BOX, 80)
        return {
            "from the Internet, to the host's address": _call(internet, box, HOST, 8080, 80),
            "from the host, to its own address": _call(None, box, HOST, 8080, 80),
            "from the host, to 127.0.0.1": _call(None, box, "127.0.0.1", 8080, 80),
            "from the box itself, to the host's address": _call(box, box, HOST, 8080, 80),
            "out": _call(box, internet, INTERNET, 8080),
            "closed": _call(internet, box, HOST, 8081, 80),
        }

    seen = _tried(ask, answer)
    wanted = {
        "from the Internet, to the host's address": (INTERNET,),
        "from the host, to its own address": (HOST, GATEWAY),
        "from the host, to 127.0.0.1": (GATEWAY,),
        "from the box itself, to the host's address": (GATEWAY, HOST),
    }
    for who, callers in wanted.items():
        caller = seen[who]
        expect(caller != SILENCE, saw=f"{who}, port 8080: {SILENCE}", wanted="the server in the box")
        expect(caller in callers, saw=f"{who}: the server sees {caller}", wanted=callers[0])
    expect(
        seen["out"] == HOST,
        saw=f"the box's connection to port 8080 of a server on the Internet: {seen['out']}",
        wanted="that it gets there: this is not a packet for the host",
    )
    expect(seen["closed"] == SILENCE, saw="port 8081 leads to the box too", wanted="that only 8080 does")
    return "from the Internet, from the host, from 127.0.0.1 and from the box itself; and no other port"


@lab.exercise("who is who")
def guard(answer: Callable[[str, str, str], object]) -> str:
    """A box sends frames, honest and forged ones; its neighbour says which of them arrive."""

    def ask() -> dict[str, Any]:
        box, other = _bridged("box"), _bridged("other")
        _at(box, lambda: _reachable(BOX))
        _at(other, lambda: _reachable(OTHER))
        mac, others_mac = _hardware("box"), _hardware("other")
        _nft("table bridge somebodys { chain input { type filter hook input priority 0; counter\n }\n }")
        _settle()
        answer("port-box", mac.hex(":"), BOX)
        frames = {
            "an ARP question of its own": wire.arp(mac, mac, BOX, OTHER),
            "an ARP answer of its own": wire.arp(mac, mac, BOX, OTHER, answer=True),
            "a packet of its own": wire.packet(mac, BOX, OTHER),
            "an ARP answer that claims the gateway's address": wire.arp(mac, mac, GATEWAY, OTHER, answer=True),
            "an ARP answer that gives its address to a foreign hardware address": wire.arp(mac, b"\2m9999", BOX, OTHER),
            "a packet from its neighbour's IP address": wire.packet(mac, OTHER, GATEWAY),
            "a packet from a foreign hardware address": wire.packet(b"\2m9999", BOX, OTHER),
        }
        neighbours = {
            "an ARP question of the neighbour": wire.arp(others_mac, others_mac, OTHER, BOX),
            "a packet of the neighbour": wire.packet(others_mac, OTHER, BOX),
        }
        return {
            "somebodys": "somebodys" in _ruleset(),
            "sent": list(frames),
            "arrived": wire.arrived(_at, box, other, frames),
            "neighbours": list(neighbours),
            "neighbours arrived": wire.arrived(_at, other, box, neighbours),
        }

    seen = _tried(ask, answer)
    expect(seen["somebodys"], saw="a firewall table of somebody else is gone", wanted="that it stays as it was")
    for frame in [*seen["sent"][:3], *seen["neighbours"]]:
        came = frame in seen["arrived"] + seen["neighbours arrived"]
        expect(came, saw=f"{frame} does not arrive", wanted="that what is honest passes, at every port")
    for frame in seen["sent"][3:]:
        expect(frame not in seen["arrived"], saw=f"{frame} arrives", wanted="that it is dropped on the bridge")
    return "honest frames pass at either port, and four kinds of lies do not get into the bridge"


@lab.exercise("a tunnel")
def tunnel(answer: Callable[[str, int, str, str], object]) -> str:
    """Two hosts, a box on each; what the one sends to the other is read on the cable between the hosts."""

    def ask() -> dict[str, Any]:
        box, far = _bridged("box"), _outside()
        _at(box, lambda: _reachable(BOX))
        with _inside(far):
            far_box = _bridged("far-box", b"\x02\x6d\0\0\0\3")  # (a hardware address is there once in an Ethernet)
            _at(far_box, lambda: _reachable(OTHER))
        answer("tun7", 4711, HOST, INTERNET)
        _at(far, lambda: answer("tun7", 4711, INTERNET, HOST))
        seen: dict[str, Any] = {"links": _links()}
        if "tun7" in seen["links"]:
            for host in (None, far):
                _at(host, functools.partial(_plug, "tun7", "br0"))
            _settle()
            with wire.tap("port-out") as between:
                seen["answer"] = _patiently(lambda: _at(box, lambda: _udp(OTHER)))
                seen["wire"] = wire.tunnelled(wire.heard(between))
        return seen

    seen = _tried(ask, answer)
    expect("tun7" in seen["links"], saw=f"the links {_named(seen['links'])}", wanted="a link called tun7")
    link = seen["links"]["tun7"]
    expect(link["kind"] == "vxlan", saw=f"tun7 is a {link['kind']}", wanted="a vxlan")
    expect(link["up"], saw="tun7 is down", wanted="tun7 up")
    sent = [it for it in seen["wire"] if (it["from"], it["to"]) == (HOST, INTERNET)]
    expect(
        bool(sent),
        saw=f"while the box sends, no datagram leaves {HOST} for {INTERNET}",
        wanted="one for each frame: that host is where frames go for which there is no other entry",
    )
    expect(sent[0]["port"] == 4789, saw=f"the datagrams go to UDP port {sent[0]['port']}", wanted="4789")
    expect(sent[0]["vni"] == 4711, saw=f"the datagrams have the VNI {sent[0]['vni']}", wanted="4711")
    expect(seen["answer"] == "arrived", saw="the box there gives no answer", wanted="that it does")
    expect(
        link["mtu"] == 1450,
        saw=f"the MTU of tun7 is {link['mtu']}",
        wanted="1450: fifty bytes less than the hosts' 1500",
    )
    return "frames of the box leave in UDP to port 4789 of the other host, with the VNI, and the answer comes back"


@lab.exercise("your network, in the engine")
def network(answer: Callable[[], Any]) -> str:
    """First two containers with it; then it takes the place of `Bridge`, and the tests of that run."""
    with tempfile.TemporaryDirectory(prefix="minicontainer-lab-") as folder:
        os.chmod(folder, 0o755)

        def ask() -> dict[str, Any]:
            os.environ["MINICONTAINER_DATA_ROOT"], os.environ["MINICONTAINER_EXEC_ROOT"] = f"{folder}/1", f"{folder}/2"
            before, seen = sorted(_links()), []
            ours = os.readlink("/proc/self/ns/net")
            try:
                with (
                    Container(["sleep", "60"], answer()).start() as one,
                    Container(["sleep", "60"], answer()).start() as two,
                ):
                    for pid in (one.pid, two.pid):
                        own = os.readlink(f"/proc/{pid}/ns/net") != ours
                        seen.append([own, _at(pid, _addresses).get("eth0", [])])
            except ContainerError as error:
                if "NotImplementedError" in str(error):
                    raise NotImplementedError from None
                raise
            return {"seen": seen, "before": before, "after": sorted(_links())}

        tried = _tried(ask, answer)
    for own, addresses in tried["seen"]:
        expect(own, saw="the container is in the host's network namespace", wanted="one of its own (`namespaces`)")
        expect(len(addresses) == 1, saw=f"its eth0 has {addresses or 'no address'}", wanted="one address")
    one, two = (addresses[0] for _, addresses in tried["seen"])
    expect(one != two, saw=f"two containers that run at the same time both have {one}", wanted="an address for each")
    left = ", ".join(sorted(set(tried["after"]) - set(tried["before"])))
    expect(not left, saw=f"after the last container has ended there is still {left}", wanted="the links as before")
    return module_tests(answer, "minicontainer.network.bridge:Bridge", "test_network.py")


# -------------------------------------------------------------------------------------------------------- machines

_WAY_OUT = f"""
table ip prepared {{
  chain postrouting {{
    type nat hook postrouting priority 100;
    oifname != "br0" ip saddr {NETWORK} masquerade
  }}
}}
"""
_USABLE = {f"172.29.0.{last}" for last in range(2, 255)}


def _tried(ask: Callable[[], dict[str, Any]], answer: Callable[..., object]) -> dict[str, Any]:
    """What was seen of an attempt in a network namespace of its own."""

    def host() -> dict[str, Any]:
        with Netlink() as netlink:
            links.set_up(netlink, "lo")
        if os.path.exists("/proc/sys/net/bridge"):  # frames that stay in a bridge stay out of the firewall
            linux.write("/proc/sys/net/bridge/bridge-nf-call-iptables", "0")
        return ask()

    seen: dict[str, Any] = attempt(host, answer, Namespaces("network")).value
    return seen


def _machine() -> int:
    """The pid of a process that keeps a new network namespace, and ends with us."""
    pid, _ = linux.clone3(linux.CLONE_NEWNET)
    if pid == 0:
        linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
        while True:
            signal.pause()
    return pid


@contextmanager
def _inside(pid: int | None) -> Iterator[None]:
    """In the network namespace of a machine; None: where we are."""
    if pid is None:
        yield
        return
    home = linux.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = linux.pidfd_open(pid)
    try:
        linux.setns(there, linux.CLONE_NEWNET)
        yield
    finally:
        linux.setns(home, linux.CLONE_NEWNET)
        os.close(home)
        os.close(there)


def _at(pid: int | None, function: Callable[[], Any]) -> Any:
    with _inside(pid):
        return function()


def _hardware(name: str) -> bytes:
    """The hardware address of the machine that `_bridged` makes under this name."""
    return bytes([2, 0x6D, 1, 0, 0, len(name)])


def _bridged(name: str, bridges: bytes = b"\x02\x6d\0\0\0\1") -> int:
    """A machine whose eth0 leads to our bridge br0, which has the gateway's address (and this hardware address)."""
    pid = _machine()
    with Netlink() as netlink:
        links.create_bridge(netlink, "br0", bridges)
        links.add_address(netlink, "br0", GATEWAY, Subnet.parse(NETWORK))
        links.set_up(netlink, "br0")
        bridge = links.find_link(netlink, "br0")
        assert bridge is not None
        links.create_veth(netlink, f"port-{name}", bridge, pid, "eth0", _hardware(name))
    return pid


def _reachable(address: str) -> None:
    """What a container's own process would do: its address, up, the way out."""
    with Netlink() as netlink:
        links.set_up(netlink, "lo")
        links.add_address(netlink, "eth0", address, Subnet.parse(NETWORK))
        links.set_up(netlink, "eth0")
        links.add_default_route(netlink, GATEWAY)


def _outside() -> int:
    """A machine at our other link, out0."""
    pid = _machine()
    subnet = Subnet.parse("203.0.113.0/24")
    with Netlink() as netlink:
        links.create_bridge(netlink, "out0", b"\x02\x6d\0\0\0\2")
        bridge = links.find_link(netlink, "out0")
        assert bridge is not None
        links.create_veth(netlink, "port-out", bridge, pid, "eth0", b"\x02\x6d\2\0\0\1")
        links.add_address(netlink, "out0", HOST, subnet)
        links.set_up(netlink, "out0")
    with _inside(pid), Netlink() as netlink:
        links.set_up(netlink, "lo")
        links.add_address(netlink, "eth0", INTERNET, subnet)
        links.set_up(netlink, "eth0")
    return pid


def _route(network: str, gateway: str) -> None:
    subnet = Subnet.parse(network)
    header = links._rtmsg.pack(socket.AF_INET, subnet.length, 0, 0, links.RT_TABLE_MAIN, links.RTPROT_BOOT, 0, 1, 0)
    target = attribute(links.RTA_DST, subnet.first.to_bytes(4, "big"))
    via = attribute(links.RTA_GATEWAY, socket.inet_aton(gateway))
    with Netlink() as netlink:
        netlink.change("RTM_NEWROUTE", network, links.RTM_NEWROUTE, NLM_F_CREATE, header + target + via)


def _address(name: str, address: str) -> None:
    with Netlink() as netlink:
        links.add_address(netlink, name, address, Subnet.parse(NETWORK))
        links.set_up(netlink, name)


def _plug(name: str, bridge: str) -> None:
    with Netlink() as netlink:
        interfaces.set_master(netlink, bridge, [name])


def _settle() -> None:
    """Until both ends of each cable know that it is plugged in."""
    _patiently(lambda: "waiting", 3)


def _nft(rules: str) -> None:
    subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True, env=_PATH)


def _ruleset() -> str:
    return subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True, env=_PATH).stdout


_PATH = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}


# ------------------------------------------------------------------------------------------------ what the kernel says


def _links() -> dict[str, dict[str, Any]]:
    """Each link's kind, whether it is up, its master, and its MTU (bytes)."""
    with Netlink() as netlink:
        answers = netlink.dump("RTM_GETLINK", "all", links.RTM_GETLINK, links._ifinfomsg.pack(0, 0, 0, 0, 0))
    found, names = {}, {}
    for answer in answers:
        link, (_, _, index, flags, _) = links.Link(answer), links._ifinfomsg.unpack_from(answer)
        attrs = attributes(answer[links._ifinfomsg.size :])
        kind = attributes(attrs.get(links.IFLA_LINKINFO, b"")).get(links.IFLA_INFO_KIND, b"").rstrip(b"\0").decode()
        master = struct.unpack("=I", attrs[links.IFLA_MASTER])[0] if links.IFLA_MASTER in attrs else 0
        names[index] = link.name
        mtu = struct.unpack("=I", attrs[interfaces.IFLA_MTU])[0]
        found[link.name] = {"kind": kind or "device", "up": bool(flags & links.IFF_UP), "master": master, "mtu": mtu}
    for link_found in found.values():
        link_found["master"] = names.get(link_found["master"], "")
    return found


def _addresses() -> dict[str, list[str]]:
    with Netlink() as netlink:
        every = {link.name: links.subnets_of(netlink, link.index) for link in links.all_links(netlink)}
    return {name: [f"{address}/{subnet.length}" for address, subnet in own] for name, own in every.items()}


def _routes() -> list[str]:
    found = []
    with open("/proc/thread-self/net/route") as file:
        for line in file.readlines()[1:]:
            _, destination, gateway, *_, mask = line.split()[:8]
            target, via = (socket.inet_ntoa(int(it, 16).to_bytes(4, "little")) for it in (destination, gateway))
            found.append(f"{target}/{int(mask, 16).bit_count()} via {via}")
    return found


def _named(found: dict[str, Any]) -> str:
    return ", ".join(sorted(found))


def _word(path: str) -> str:
    with open(path) as file:
        return file.read().strip()


# -------------------------------------------------------------------------------------------------------- packets


def _udp(address: str) -> str:
    """Whether a datagram to a port where nobody listens gets there: then the kernel there says so."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(0.3)
        try:
            client.connect((address, 9))
            client.send(b"?")
            client.recv(1)
        except ConnectionRefusedError:
            return "arrived"
        except OSError:
            return SILENCE
    return "arrived"


def _patiently(ask: Callable[[], str], times: int = 5) -> str:
    """Ask until it has arrived: a cable that was just plugged in needs a moment."""
    import time

    said = ask()
    while said != "arrived" and times:
        time.sleep(0.1)
        times -= 1
        said = ask()
    return said


def _call(caller: int | None, server: int | None, address: str, port: int, listen: int = 0) -> str:
    """Connect to a server (which listens on `listen`, or on `port`): whom the server sees, or that nothing came of it.

    No process answers: the kernel itself completes a connection to a socket that listens.
    """
    with _inside(server):
        listening = socket.create_server(("", listen or port))
    with listening:
        listening.settimeout(1)
        try:
            with _inside(caller), socket.create_connection((address, port), timeout=1):
                client, (seen, _) = listening.accept()
                client.close()
                return str(seen)
        except OSError:
            return SILENCE


# ------------------------------------------------------------------------------------------------------- the plan


def _read(path: str) -> dict[str, str]:
    if not os.path.exists(path):
        return {}
    with open(path) as file:
        plan: dict[str, str] = json.load(file)
    return plan


def _write(path: str, plan: dict[str, str]) -> None:
    with open(path, "w") as file:
        json.dump(plan, file)


def _crowd(reserve: Callable[[str], str], processes: int, each: int) -> dict[str, str]:
    """What many processes get that start at the same moment, by the container's name."""
    waits, go = os.pipe()
    reads, writes = os.pipe()
    for number in range(processes):
        pid, _ = linux.clone3()
        if pid == 0:
            os.close(go)
            os.read(waits, 1)
            try:
                for name in (f"{number}.{count}" for count in range(each)):
                    os.write(writes, f"{name} {reserve(name)}\n".encode())
            finally:
                os._exit(0)
    os.close(waits)
    os.close(writes)
    os.close(go)
    with open(reads) as file:
        lines = [line.split(maxsplit=1) for line in file.read().splitlines()]
    for _ in range(processes):
        os.wait()
    return dict(lines)
