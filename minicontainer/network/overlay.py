"""One network on several hosts: an overlay of VXLAN tunnels.

    host A, 192.0.2.1                                       host B, 192.0.2.2
    10.50.1.0/24 ── bridge ── routing ── vxlan 42           vxlan 42 ── routing ── bridge ── 10.50.2.0/24
                                           └── UDP 4789: [192.0.2.1 → 192.0.2.2 [a whole Ethernet frame]] ──┘

The network between the hosts knows nothing of containers: it carries UDP between hosts. Each datagram holds an
Ethernet frame of ours, and a number (the VNI) that says which network it belongs to. That costs fifty bytes a frame,
so the overlay's frames are fifty bytes shorter.

Who is where is in a file that every host has, one line each: `192.0.2.2 10.50.2.0/24`, a host and its part of the
subnet. From each line come three entries in the kernel, and they are all there is (the kernel learns nothing here,
and nobody floods): a route (that part is reached by a router called 10.50.2.0), a neighbour (that router's hardware
address) and a forwarding entry (the tunnel's other end for that hardware address is 192.0.2.2). The file is read again
whenever a container comes, and every second by the network's name server.

**How it grows.** With h hosts and c containers on each, a host here has 3·(h−1) entries, whatever c is; a start
changes none on any other host. The other way, one Ethernet over all hosts as Docker's overlay has it, needs a
forwarding and a neighbour entry for each of the h·c containers on every host, and a message to all hosts for every
start, or floods. At a thousand hosts and fifty containers that is 3 thousand entries against 100 thousand, and a
start is local against a thousand messages. Still, every host must hear of every other: large clusters let routers
tell each other the same ranges by BGP (Calico), without any tunnel where the network between the hosts plays along; or
they look the address up in a hash table of eBPF before the packet is ever routed (Cilium), because the tables of the
firewall, not the tunnels, grow with the containers.

Left out: encryption (whoever sees the network between the hosts reads along; what comes from no peer is dropped),
IPv6, tokens to join with: the file of peers is all there is, and who may write it decides who belongs.

Sources: RFC 7348 (VXLAN), <linux/if_link.h>, <linux/neighbour.h>, bridge(8).
"""

from __future__ import annotations

import _socket
import errno
import ipaddress
import struct

from minicontainer.errors import ConflictError, HostError, UsageError
from minicontainer.network import drivers, interfaces, links
from minicontainer.network.addresses import hardware_address
from minicontainer.network.interfaces import NLM_F_REPLACE, RTM_DELNEIGH, RTM_NEWNEIGH, packed
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

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minicontainer.network.definition import Network

PORT = 4789
"""The UDP port that IANA has given VXLAN."""
OVERHEAD = 50
"""Outer Ethernet, IP and UDP headers, and VXLAN's own."""

IFLA_MTU = 4
IFLA_VXLAN_ID = 1
IFLA_VXLAN_LOCAL = 4
IFLA_VXLAN_LEARNING = 7
IFLA_VXLAN_PORT = 15
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
    mtu = 1500 - OVERHEAD

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
        if network.subnet6 is not None or network.internal:
            raise UsageError("an overlay network has no IPv6, and is not internal")
        options["cluster"], network.subnet = str(network.subnet), network.range
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
        interfaces.add_interface_address(netlink, name, _socket.if_nametoindex(name), router, 32)
        self.refresh(netlink, network)
        return index

    def standing(self, netlink: Netlink, network: Network) -> bool:
        return super().standing(netlink, network) and links.find_link(netlink, tunnel(network)) is not None

    def refresh(self, netlink: Netlink, network: Network) -> bool:
        """Make the kernel's entries those of the peers file. Whether the peers' addresses have changed."""
        index = _socket.if_nametoindex(tunnel(network))
        wanted = peers(network)
        there = {str(route) for route, by in interfaces.routes(netlink, 4) if by == index and route.prefixlen < 32}
        for gone in there - wanted.keys():
            first = gone.partition("/")[0]
            interfaces.delete_route(netlink, first, index, gone)
            _neighbour(netlink, RTM_DELNEIGH, index, first, "")
        for part, host in wanted.items():
            first = part.partition("/")[0]
            _neighbour(netlink, RTM_NEWNEIGH, index, first, host)
            if part not in there:
                interfaces.add_route(netlink, first, index, part, onlink=True)
        seen = " ".join(sorted(wanted.values()))
        changed = network.options.get("seen") != seen
        network.options["seen"] = seen
        return changed

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
        strangers = f"ip saddr != {{ {known} }} " if known else ""
        return [f"udp dport {PORT} @th,96,24 {network.options['vni']} {strangers}counter drop"]


def tunnel(network: Network) -> str:
    """The name of the network's VXLAN link."""
    return f"{network.link.rpartition('-')[0]}-x{network.number:x}"


def peers(network: Network) -> dict[str, str]:
    """The other hosts' parts of the subnet, and each's address. Raises UsageError for a file that makes no sense."""
    path, cluster = network.options["peers"], ipaddress.IPv4Network(network.options["cluster"])
    try:
        with open(path) as file:
            lines = file.readlines()
    except OSError as error:
        raise UsageError(f"cannot read the peers file {path}: {error.strerror}", hint="-o peers=FILE") from None
    found: dict[ipaddress.IPv4Network, str] = {}
    for count, line in enumerate(lines, 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        where = f"line {count} of {path}"
        if len(words) != 2:
            raise UsageError(f"{where} is not a host and its part of the subnet", hint="192.0.2.2 10.50.2.0/24")
        host = _host(words[0], where)
        try:
            part = ipaddress.IPv4Network(words[1])
        except ValueError as error:
            raise UsageError(f"{where}: {words[1]!r} is not a subnet: {error}", hint="192.0.2.2 10.50.2.0/24") from None
        if not part.subnet_of(cluster):
            raise UsageError(f"{where}: {part} is not a part of {cluster}")
        if part == network.range:
            continue  # this host's own line
        if part.overlaps(network.range) or any(part.overlaps(other) for other in found):
            raise UsageError(f"{where}: {part} overlaps another host's part")
        found[part] = host
    return {str(part): host for part, host in found.items()}


def _host(written: str, where: str) -> str:
    try:
        return str(ipaddress.IPv4Address(written))
    except ValueError:
        raise UsageError(f"{where}: {written!r} is not a host's IPv4 address", hint="as in 192.0.2.2") from None


def _neighbour(netlink: Netlink, kind: int, index: int, router: str, host: str) -> None:
    """Add or remove who the next router is, and behind which tunnel he is."""
    mac = hardware_address(router)
    add = kind == RTM_NEWNEIGH
    name, flags = ("RTM_NEWNEIGH", NLM_F_CREATE | NLM_F_REPLACE) if add else ("RTM_DELNEIGH", 0)
    words = f"{router} is {mac.hex(':')}"
    where = f"{mac.hex(':')} is behind {host or 'no host any more'}"
    for text, request in (
        (words, neighbour_request(index, router, mac)),
        (where, forwarding_request(index, mac, host)),
    ):
        try:
            netlink.change(name, text, kind, flags, request)
        except FileNotFoundError:
            if add:
                raise


# What each request looks like on the wire; the tests hold these against what ip(8) and bridge(8) show.


def tunnel_request(name: str, network: Network) -> bytes:
    data = nested(
        IFLA_INFO_DATA,
        attribute(IFLA_VXLAN_ID, int(network.options["vni"])),
        attribute(IFLA_VXLAN_LOCAL, packed(network.options["local"])),
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
    header = _ndmsg.pack(_socket.AF_INET, index, NUD_PERMANENT, 0, 0)
    return header + attribute(NDA_DST, packed(router)) + attribute(NDA_LLADDR, mac)


def forwarding_request(index: int, mac: bytes, host: str) -> bytes:
    header = _ndmsg.pack(AF_BRIDGE, index, NUD_PERMANENT | NUD_NOARP, NTF_SELF, 0)
    return header + attribute(NDA_LLADDR, mac) + (attribute(NDA_DST, packed(host)) if host else b"")


drivers.DRIVERS["overlay"] = Overlay()
