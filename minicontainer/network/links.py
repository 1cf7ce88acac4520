"""Links, addresses and routes: the rtnetlink requests that a bridge network is made of.

A *link* is what others call an interface. Three kinds are used here:

* a **bridge** is a switch, made of software: what one of its ports hears for another, it passes on;
* a **veth** is a cable with two ends: what enters one comes out of the other. Each end may be in a network namespace
  of its own, and that is all the magic of container networking: one end in the container, the other at the bridge;
* **lo**, which every network namespace is born with, and which is down until somebody sets it up.

A veth pair is made by one request, which also names the namespace of the far end, its name there and its hardware
address, plugs the near end into the bridge and sets it up. No step of it can be seen half done.

Sources: rtnetlink(7), veth(4), <linux/if_link.h>.
"""

from __future__ import annotations

import _socket
import errno
import struct

from minicontainer import linux
from minicontainer.network.addresses import Subnet, number, text
from minicontainer.network.netlink import NLM_F_CREATE, NLM_F_EXCL, Netlink, attribute, attributes, nested

RTM_NEWLINK = 16
RTM_DELLINK = 17
RTM_GETLINK = 18
RTM_NEWADDR = 20
RTM_GETADDR = 22
RTM_NEWROUTE = 24
RTM_GETROUTE = 26

IFLA_ADDRESS = 1
IFLA_IFNAME = 3
IFLA_MASTER = 10
IFLA_LINKINFO = 18
IFLA_NET_NS_PID = 19
IFLA_IFALIAS = 20
IFLA_INFO_KIND = 1
IFLA_INFO_DATA = 2
IFLA_INFO_SLAVE_KIND = 4
IFLA_INFO_SLAVE_DATA = 5
IFLA_BRPORT_MODE = 4
VETH_INFO_PEER = 1

IFA_ADDRESS = 1
IFA_LOCAL = 2
IFA_BROADCAST = 4
RTA_DST = 1
RTA_GATEWAY = 5

IFF_UP = 1
RT_TABLE_MAIN = 254
RTPROT_BOOT = 3
RT_SCOPE_UNIVERSE = 0
RTN_UNICAST = 1

_ifinfomsg = struct.Struct("=BxHiII")  # family, device type, index, flags, which flags to change
_ifaddrmsg = struct.Struct("=BBBBi")  # family, prefix length, flags, scope, index
_rtmsg = struct.Struct("=BBBBBBBBI")  # family, two prefix lengths, tos, table, protocol, scope, type, flags


class Link:
    """A link as the kernel describes it."""

    __slots__ = ("alias", "index", "name")

    def __init__(self, message: bytes) -> None:
        found = attributes(message[_ifinfomsg.size :])
        self.index: int = _ifinfomsg.unpack_from(message)[2]
        self.name = found[IFLA_IFNAME].rstrip(b"\0").decode(errors="surrogateescape")
        self.alias = found.get(IFLA_IFALIAS, b"").rstrip(b"\0").decode(errors="replace")


def find_link(netlink: Netlink, name: str) -> Link | None:
    """The link called `name` in this network namespace."""
    try:
        return Link(netlink.get("RTM_GETLINK", name, RTM_GETLINK, link_by_name(name)))
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise
        return None


def index_of(name: str) -> int:
    """The number of the link called `name`. Raises KernelError (ENODEV)."""
    try:
        return _socket.if_nametoindex(name)
    except OSError as error:
        raise linux.kernel_error(error.errno or errno.ENODEV, "if_nametoindex", name) from None


def all_links(netlink: Netlink) -> list[Link]:
    """Every link of this network namespace."""
    return [Link(answer) for answer in netlink.dump("RTM_GETLINK", "all", RTM_GETLINK, _ifinfomsg.pack(0, 0, 0, 0, 0))]


def create_bridge(netlink: Netlink, name: str, mac: bytes) -> None:
    """Make a bridge, unless it is there.

    Its hardware address is given: a bridge without one takes the lowest of its ports', and changes it under the
    containers' feet (their neighbour caches) as ports come and go.
    """
    try:
        netlink.change(
            "RTM_NEWLINK", f"bridge {name}", RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, bridge_request(name, mac)
        )
    except FileExistsError:
        pass


def create_veth(netlink: Netlink, name: str, bridge: Link, pid: int, peer: str, mac: bytes) -> None:
    """Make a cable from `bridge` (the end called `name`) into the network namespace of process `pid` (`peer`)."""
    words = f"veth {name} at {bridge.name}, peer {peer} in the netns of {pid}"
    netlink.change(
        "RTM_NEWLINK", words, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, veth_request(name, bridge.index, pid, peer, mac)
    )


def let_hairpin(netlink: Netlink, name: str) -> None:
    """Let the bridge send a frame back out of the port it came from: a container that calls its own published port.

    Only where the kernel lets bridged frames through the IP rules (br_netfilter) does such a frame stay in the
    bridge; hence only ports of containers that publish need it.
    """
    netlink.change("RTM_NEWLINK", f"{name} hairpin on", RTM_NEWLINK, 0, hairpin_request(name))


def delete_link(netlink: Netlink, name: str) -> None:
    """Remove a link, and with a veth its other end. That it is gone already is no error."""
    try:
        netlink.change("RTM_DELLINK", name, RTM_DELLINK, 0, link_by_name(name))
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise


def set_up(netlink: Netlink, name: str, alias: str = "") -> None:
    """Set a link up (IFF_UP) and, if one is given, write its alias: a line of text that `ip link` shows."""
    words = f"{name} up" + (f", alias {alias!r}" if alias else "")
    netlink.change("RTM_NEWLINK", words, RTM_NEWLINK, 0, up_request(name, alias))


def add_address(netlink: Netlink, name: str, address: str, subnet: Subnet) -> None:
    """Give a link of this network namespace an address, unless it has it."""
    try:
        netlink.change(
            "RTM_NEWADDR",
            f"{address}/{subnet.length} on {name}",
            RTM_NEWADDR,
            NLM_F_CREATE | NLM_F_EXCL,
            address_request(index_of(name), address, subnet),
        )
    except FileExistsError:
        pass


def open_low_ports() -> None:
    """Let every user of this process's network namespace listen on the ports below 1024.

    They are root's so that nobody else of a shared machine can pose as its web server; here the whole network belongs
    to one container, which need not be root for that. Docker does the same. ip(7), ip_unprivileged_port_start
    """
    linux.write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0")


def add_default_route(netlink: Netlink, gateway: str) -> None:
    """Send everything that no other route takes to `gateway`."""
    netlink.change(
        "RTM_NEWROUTE", f"default via {gateway}", RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, route_request(gateway)
    )


def routed_subnets(netlink: Netlink) -> list[Subnet]:
    """All IPv4 destinations that this network namespace has a route to, but for the default route."""
    found = []
    for answer in netlink.dump("RTM_GETROUTE", "IPv4", RTM_GETROUTE, _rtmsg.pack(_socket.AF_INET, *[0] * 8)):
        family, length = answer[0], answer[1]
        destination = attributes(answer[_rtmsg.size :]).get(RTA_DST)
        if family == _socket.AF_INET and destination is not None and length:
            found.append(Subnet(int.from_bytes(destination, "big"), length))
    return found


def subnets_of(netlink: Netlink, index: int) -> list[tuple[str, Subnet]]:
    """The IPv4 addresses of a link, each with its subnet."""
    found = []
    query = _ifaddrmsg.pack(_socket.AF_INET, 0, 0, 0, 0)
    for answer in netlink.dump("RTM_GETADDR", "IPv4", RTM_GETADDR, query):
        family, length, _flags, _scope, owner = _ifaddrmsg.unpack_from(answer)
        local = attributes(answer[_ifaddrmsg.size :]).get(IFA_LOCAL)
        if family == _socket.AF_INET and owner == index and local is not None:
            found.append((text(int.from_bytes(local, "big")), Subnet(int.from_bytes(local, "big"), length)))
    return found


# What each request looks like on the wire; the tests hold these against pyroute2's.


def link_by_name(name: str) -> bytes:
    return _ifinfomsg.pack(0, 0, 0, 0, 0) + attribute(IFLA_IFNAME, name)


def up_request(name: str, alias: str) -> bytes:
    request = _ifinfomsg.pack(0, 0, 0, IFF_UP, IFF_UP) + attribute(IFLA_IFNAME, name)
    return request + (attribute(IFLA_IFALIAS, alias) if alias else b"")


def bridge_request(name: str, mac: bytes) -> bytes:
    return (
        _ifinfomsg.pack(0, 0, 0, 0, 0)
        + attribute(IFLA_IFNAME, name)
        + attribute(IFLA_ADDRESS, mac)
        + nested(IFLA_LINKINFO, attribute(IFLA_INFO_KIND, "bridge"))
    )


def veth_request(name: str, bridge: int, pid: int, peer: str, mac: bytes) -> bytes:
    far_end = (
        _ifinfomsg.pack(0, 0, 0, 0, 0)
        + attribute(IFLA_IFNAME, peer)
        + attribute(IFLA_ADDRESS, mac)
        + attribute(IFLA_NET_NS_PID, pid)
    )
    return (
        _ifinfomsg.pack(0, 0, 0, IFF_UP, IFF_UP)
        + attribute(IFLA_IFNAME, name)
        + attribute(IFLA_MASTER, bridge)
        + nested(
            IFLA_LINKINFO,
            attribute(IFLA_INFO_KIND, "veth"),
            nested(IFLA_INFO_DATA, attribute(VETH_INFO_PEER, far_end)),
        )
    )


def hairpin_request(name: str) -> bytes:
    return (
        _ifinfomsg.pack(0, 0, 0, 0, 0)
        + attribute(IFLA_IFNAME, name)
        + nested(
            IFLA_LINKINFO,
            attribute(IFLA_INFO_SLAVE_KIND, "bridge"),
            nested(IFLA_INFO_SLAVE_DATA, attribute(IFLA_BRPORT_MODE, b"\1")),
        )
    )


def address_request(index: int, address: str, subnet: Subnet) -> bytes:
    packed = number(address).to_bytes(4, "big")
    return (
        _ifaddrmsg.pack(_socket.AF_INET, subnet.length, 0, RT_SCOPE_UNIVERSE, index)
        + attribute(IFA_LOCAL, packed)
        + attribute(IFA_ADDRESS, packed)
        + attribute(IFA_BROADCAST, subnet.last.to_bytes(4, "big"))
    )


def route_request(gateway: str) -> bytes:
    header = _rtmsg.pack(_socket.AF_INET, 0, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, RT_SCOPE_UNIVERSE, RTN_UNICAST, 0)
    return header + attribute(RTA_GATEWAY, number(gateway).to_bytes(4, "big"))
