"""One network on several hosts: an overlay of VXLAN tunnels.

    host A, 192.0.2.1                                       host B, 192.0.2.2
    10.50.1.0/24 ── bridge ── routing ── vxlan 42           vxlan 42 ── routing ── bridge ── 10.50.2.0/24
                                           └── UDP 4789: [192.0.2.1 → 192.0.2.2 [a whole Ethernet frame]] ──┘

The network between the hosts knows nothing of containers: it carries UDP between hosts. Each datagram holds an
Ethernet frame of ours, and a number (the VNI) that says which network it belongs to. That costs fifty bytes a frame,
so the overlay's frames are fifty bytes shorter (seventy, where the hosts themselves talk IPv6).

Who is where is in a file that every host has, one line each: `192.0.2.2 10.50.2.0/24`, a host and its part of the
subnet. From each line come three entries in the kernel, and they are all there is (the kernel learns nothing here,
and nobody floods): a route (that part is reached by a router called 10.50.2.0), a neighbour (that router's hardware
address) and a forwarding entry (the tunnel's other end for that hardware address is 192.0.2.2). A network with IPv6 has
a third word in each line, the host's part of that: `192.0.2.2 10.50.2.0/24 fd00:50:0:2::/64`. It costs a route and a
neighbour more: the same router, called by its link-local address. The file is read again whenever a container comes,
and every second by the network's name server.

**How it grows.** With h hosts and c containers on each, a host here has 3·(h−1) entries, whatever c is; a start
changes none on any other host. The other way, one Ethernet over all hosts as Docker's overlay has it, needs a
forwarding and a neighbour entry for each of the h·c containers on every host, and a message to all hosts for every
start, or floods. At a thousand hosts and fifty containers that is 3 thousand entries against 100 thousand, and a
start is local against a thousand messages. Still, every host must hear of every other: large clusters let routers
tell each other the same ranges by BGP (Calico), without any tunnel where the network between the hosts plays along; or
they look the address up in a hash table of eBPF before the packet is ever routed (Cilium), because the tables of the
firewall, not the tunnels, grow with the containers.

Left out: encryption (whoever sees the network between the hosts reads along; what comes from no peer is dropped),
tokens to join with: the file of peers is all there is, and who may write it decides who belongs.

Sources: RFC 7348 (VXLAN), <linux/if_link.h>, <linux/neighbour.h>, bridge(8).
"""

from __future__ import annotations

import errno
import ipaddress
import struct

from minicontainer.errors import ConflictError, HostError, UsageError
from minicontainer.network import drivers, interfaces, links
from minicontainer.network.addresses import hardware_address
from minicontainer.network.interfaces import NLM_F_REPLACE, RTM_DELNEIGH, RTM_NEWNEIGH, family, packed
from minicontainer.network.links import (
    IFF_UP,
    IFLA_ADDRESS,
    IFLA_IFNAME,
    IFLA_INFO_DATA,
    IFLA_INFO_KIND,
    IFLA_LINKINFO,
    RTM_NEWLINK,
    _ifinfomsg,
)
from minicontainer.network.netlink import NLM_F_CREATE, NLM_F_EXCL, Netlink, attribute, nested
from minicontainer.network.rules import link_local

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from minicontainer.network.definition import Network

PORT = 4789
"""The UDP port that IANA has given VXLAN."""
OVERHEAD = {4: 50, 6: 70}
"""Outer Ethernet, IP and UDP headers, and VXLAN's own; by the version of IP that the hosts talk."""

IFLA_MTU = 4
IFLA_VXLAN_ID = 1
IFLA_VXLAN_LOCAL = 4
IFLA_VXLAN_LEARNING = 7
IFLA_VXLAN_PORT = 15
IFLA_VXLAN_LOCAL6 = 17
NDA_DST = 1
NDA_LLADDR = 2
NUD_NOARP = 0x40
NUD_PERMANENT = 0x80
NTF_SELF = 0x02
AF_BRIDGE = 7

_ndmsg = struct.Struct("=BxxxiHBB")  # family, index, state, flags, type


class Overlay(drivers.Bridge):
    """Options: `vni` (1 to 16777215), `local` (this host's address between the hosts), `peers` (the file)."""

    name = "overlay"
    gateway_in_range = True

    def frame(self, options: dict[str, str]) -> int:
        return 1500 - OVERHEAD[6 if ":" in options.get("local", "") else 4]

    def check(self, network: Network) -> None:
        options = network.options
        unknown = options.keys() - {"vni", "local", "peers"}
        missing = {"vni", "local", "peers"} - options.keys()
        for words, wrong in (("does not know", unknown), ("needs", missing)):
            if wrong:
                raise UsageError(
                    f"an overlay network {words} the option {', '.join(sorted(wrong))}",
                    hint="-o vni=42 -o local=192.0.2.1 -o peers=/etc/minicontainer/peers",
                )
        if not options["vni"].isdecimal() or not 0 < int(options["vni"]) < 1 << 24:
            raise UsageError(
                f"{options['vni']!r} is not a VNI", hint="a number from 1 to 16777215, the same on all hosts"
            )
        _host(options["local"], "-o local")
        if network.range == network.subnet:
            raise UsageError(
                "an overlay network needs this host's own part of the subnet", hint="--ip-range 10.50.1.0/24"
            )
        if network.subnet6 is not None and network.range6 == network.subnet6:
            raise UsageError(
                "an overlay network needs this host's own part of the IPv6 subnet, which is the same on all hosts",
                hint="--subnet fd00:50::/48 --ip-range fd00:50:0:1::/64",
            )
        if network.internal:
            raise UsageError("an overlay network cannot be internal")
        options["cluster"], network.subnet = str(network.subnet), network.range
        if network.subnet6 is not None:
            options["cluster6"], network.subnet6 = str(network.subnet6), network.range6
        peers(network)

    def up(self, netlink: Netlink, network: Network) -> int:
        index = super().up(netlink, network)
        name = tunnel(network)
        if links.find_link(netlink, name) is None:
            try:
                netlink.change(
                    "RTM_NEWLINK",
                    f"vxlan {name}, vni {network.options['vni']}, from {network.options['local']}",
                    RTM_NEWLINK,
                    NLM_F_CREATE | NLM_F_EXCL,
                    tunnel_request(name, network),
                )
            except FileExistsError:
                raise ConflictError(
                    f"VNI {network.options['vni']} is in use on this host already",
                    hint="choose another one, on all hosts",
                ) from None
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EADDRNOTAVAIL):
                    raise
                raise HostError(f"this kernel cannot make a VXLAN tunnel: {error}", hint="modprobe vxlan") from error
        router = str(network.range.network_address)
        interfaces.add_interface_address(netlink, name, links.index_of(name), router, 32)
        if network.subnet6 is not None:
            self._switch(name, "ipv6", "disable_ipv6", "0")
        self.refresh(netlink, network)
        return index

    def standing(self, netlink: Netlink, network: Network) -> bool:
        return super().standing(netlink, network) and links.find_link(netlink, tunnel(network)) is not None

    def refresh(self, netlink: Netlink, network: Network) -> bool:
        """Make the kernel's entries those of the peers file. Whether the peers' addresses have changed."""
        index = links.index_of(tunnel(network))
        wanted = {str(peer.part): peer for peer in peers(network)}
        there = {str(route) for route, by in interfaces.routes(netlink, 4) if by == index and route.prefixlen < 32}
        for gone in there - wanted.keys():
            interfaces.delete_route(netlink, index, gone)
            _neighbour(netlink, RTM_DELNEIGH, index, network, gone)
        for part, peer in wanted.items():
            _neighbour(netlink, RTM_NEWNEIGH, index, network, part, peer.host)
            if part not in there:
                interfaces.add_route(netlink, part.partition("/")[0], index, part, onlink=True)
        if network.subnet6 is not None:
            self._refresh6(netlink, network, index, list(wanted.values()))
        seen = " ".join(sorted(peer.host for peer in wanted.values()))
        changed = network.options.get("seen") != seen
        network.options["seen"] = seen
        return changed

    @staticmethod
    def _refresh6(netlink: Netlink, network: Network, index: int, wanted: list[Peer]) -> None:
        """The routes of the IPv6 parts: by the same routers, whose link-local addresses are all that is needed."""
        cluster = ipaddress.IPv6Network(network.options["cluster6"])
        there = {route for route, by in interfaces.routes(netlink, 6) if by == index and route.subnet_of(cluster)}
        for gone in there - {peer.part6 for peer in wanted}:
            interfaces.delete_route(netlink, index, str(gone))
        for peer in wanted:
            if peer.part6 is not None:
                interfaces.add_route(netlink, link_local(_mac(str(peer.part))), index, str(peer.part6))

    def down(self, netlink: Netlink, network: Network) -> None:
        links.delete_link(netlink, tunnel(network))
        super().down(netlink, network)

    def pairs(self, network: Network) -> list[tuple[str, str]]:
        there = tunnel(network)
        return [*super().pairs(network), (network.link, there), (there, network.link)]

    def doors(self, network: Network) -> list[str]:
        return [*super().doors(network), tunnel(network)]

    def guards(self, network: Network) -> list[str]:
        """What claims to be of this network but comes from no peer is dropped: the VNI is behind the UDP header, in
        the first three of its second four bytes."""
        known = ", ".join(sorted(set(network.options.get("seen", "").split())))
        ip = "ip6" if ":" in network.options["local"] else "ip"
        strangers = f"{ip} saddr != {{ {known} }} " if known else ""
        return [f"udp dport {PORT} @th,96,24 {network.options['vni']} {strangers}counter drop"]


def tunnel(network: Network) -> str:
    """The name of the network's VXLAN link."""
    return f"{network.link.rpartition('-')[0]}-x{network.number:x}"


class Peer:
    """Another host: its address, and its parts of the subnets."""

    __slots__ = ("host", "part", "part6")

    def __init__(self, host: str, part: ipaddress.IPv4Network, part6: ipaddress.IPv6Network | None) -> None:
        self.host, self.part, self.part6 = host, part, part6


def peers(network: Network) -> list[Peer]:
    """The other hosts. Raises UsageError for a file that makes no sense."""
    path = network.options["peers"]
    try:
        with open(path) as file:
            lines = file.readlines()
    except OSError as error:
        raise UsageError(f"cannot read the peers file {path}: {error.strerror}", hint="-o peers=FILE") from None
    found: list[Peer] = []
    for count, line in enumerate(lines, 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        where = f"line {count} of {path}"
        if len(words) not in (2, 3):
            raise UsageError(f"{where} is not a host and its part of the subnet", hint=_LINE)
        host = _host(words[0], where)
        part = _part(words[1], 4, network.options["cluster"], where)
        part6 = _part(words[2], 6, network.options.get("cluster6"), where) if len(words) == 3 else None
        if part == network.range:
            if network.subnet6 is not None and part6 not in (None, network.range6):
                raise UsageError(f"{where} gives this host {part6}, but its own part is {network.range6}")
            continue  # this host's own line
        if (":" in host) != (":" in network.options["local"]):
            raise UsageError(
                f"{where}: {host} is not of the same version of IP as this host's {network.options['local']}",
                hint="one network of tunnels is either IPv4's or IPv6's",
            )
        parts = [(network.range, network.range6), *((peer.part, peer.part6) for peer in found)]
        for mine, others in ((part, [it for it, _ in parts]), (part6, [it for _, it in parts])):
            if mine is not None and any(other is not None and mine.overlaps(other) for other in others):
                raise UsageError(f"{where}: {mine} overlaps another host's part")
        found.append(Peer(host, part, part6 if network.subnet6 is not None else None))
    return found


_LINE = "192.0.2.2 10.50.2.0/24; with IPv6 192.0.2.2 10.50.2.0/24 fd00:50:0:2::/64"


def _part(written: str, version: int, cluster: str | None, where: str) -> Any:
    kind = ipaddress.IPv4Network if version == 4 else ipaddress.IPv6Network
    try:
        part = kind(written)
    except ValueError as error:
        raise UsageError(f"{where}: {written!r} is not a subnet: {error}", hint=_LINE) from None
    if cluster is not None and not part.subnet_of(kind(cluster)):  # type: ignore[arg-type]
        raise UsageError(f"{where}: {part} is not a part of {cluster}")
    return part


def _host(written: str, where: str) -> str:
    try:
        address = ipaddress.ip_address(written)
    except ValueError:
        address = None
    if address is None or address.is_loopback or address.is_unspecified or address.is_multicast:
        raise UsageError(f"{where}: {written!r} is not a host's address", hint="as in 192.0.2.2, or 2001:db8::2")
    return str(address)


def _neighbour(netlink: Netlink, kind: int, index: int, network: Network, part: str, host: str = "") -> None:
    """Add or remove who the next router is, and behind which tunnel he is."""
    router, mac = part.partition("/")[0], _mac(part)
    add = kind == RTM_NEWNEIGH
    name, flags = ("RTM_NEWNEIGH", NLM_F_CREATE | NLM_F_REPLACE) if add else ("RTM_DELNEIGH", 0)
    requests = [
        (f"{address} is {mac.hex(':')}", neighbour_request(index, address, mac))
        for address in (router, link_local(mac))
        if address == router or network.subnet6 is not None
    ]
    where = f"{mac.hex(':')} is behind {host or 'no host any more'}"
    for text, request in [*requests, (where, forwarding_request(index, mac, host))]:
        try:
            netlink.change(name, text, kind, flags, request)
        except FileNotFoundError:
            if add:
                raise


def _mac(part: str) -> bytes:
    """The hardware address of the router of a host's part of the subnet."""
    return hardware_address(part.partition("/")[0])


# What each request looks like on the wire; the tests hold these against what ip(8) and bridge(8) show.


def tunnel_request(name: str, network: Network) -> bytes:
    local = network.options["local"]
    data = nested(
        IFLA_INFO_DATA,
        attribute(IFLA_VXLAN_ID, int(network.options["vni"])),
        attribute(IFLA_VXLAN_LOCAL6 if ":" in local else IFLA_VXLAN_LOCAL, packed(local)),
        attribute(IFLA_VXLAN_LEARNING, b"\0"),
        attribute(IFLA_VXLAN_PORT, PORT.to_bytes(2, "big")),
    )
    return (
        _ifinfomsg.pack(0, 0, 0, IFF_UP, IFF_UP)
        + attribute(IFLA_IFNAME, name)
        + attribute(IFLA_ADDRESS, hardware_address(str(network.range.network_address)))
        + attribute(IFLA_MTU, network.mtu)
        + nested(IFLA_LINKINFO, attribute(IFLA_INFO_KIND, "vxlan"), data)
    )


def neighbour_request(index: int, router: str, mac: bytes) -> bytes:
    header = _ndmsg.pack(family(router), index, NUD_PERMANENT, 0, 0)
    return header + attribute(NDA_DST, packed(router)) + attribute(NDA_LLADDR, mac)


def forwarding_request(index: int, mac: bytes, host: str) -> bytes:
    header = _ndmsg.pack(AF_BRIDGE, index, NUD_PERMANENT | NUD_NOARP, NTF_SELF, 0)
    return header + attribute(NDA_LLADDR, mac) + (attribute(NDA_DST, packed(host)) if host else b"")


drivers.DRIVERS["overlay"] = Overlay()
