"""More rtnetlink: cables with an MTU, addresses and routes of both families, and what they look like inside.

links.py has what one bridge of one family needs. Networks of the user's own need a little more of the same language:
a cable whose two ends know how long a frame may be, a port of the bridge that may not talk to its neighbours
(`isolated`), IPv6 addresses that are usable at once. An IPv6 address is normally *tentative* for a second while the
kernel asks whether somebody has it already (duplicate address detection, RFC 4862, 5.4); ours are handed out by a
plan that gives none twice, so the kernel is told not to ask.

Sources: rtnetlink(7), <linux/if_link.h>, <linux/if_addr.h>, <linux/neighbour.h>.
"""

from __future__ import annotations

import _socket
import errno
import struct

from minicontainer import linux
from minicontainer.network.links import (
    IFA_ADDRESS,
    IFA_BROADCAST,
    IFA_LOCAL,
    IFF_UP,
    IFLA_IFNAME,
    IFLA_INFO_SLAVE_DATA,
    IFLA_INFO_SLAVE_KIND,
    IFLA_LINKINFO,
    IFLA_MASTER,
    RT_SCOPE_UNIVERSE,
    RT_TABLE_MAIN,
    RTA_DST,
    RTA_GATEWAY,
    RTM_GETROUTE,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTM_NEWROUTE,
    RTN_UNICAST,
    RTPROT_BOOT,
    Link,
    _ifaddrmsg,
    _ifinfomsg,
    _rtmsg,
    index_of,
    veth_request,
)
from minicontainer.network.netlink import NLM_F_CREATE, NLM_F_EXCL, Netlink, attribute, attributes, nested

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ipaddress
    from typing import Any

RTM_DELROUTE = 25
RTM_NEWNEIGH = 28
RTM_DELNEIGH = 29

NLM_F_REPLACE = 0x100

IFLA_MTU = 4
IFLA_BRPORT_MODE = 4
IFLA_BRPORT_ISOLATED = 33
IFA_FLAGS = 8
IFA_F_NODAD = 0x02
RTA_OIF = 4
RTA_PRIORITY = 6
RTNH_F_ONLINK = 4


def family(address: str) -> int:
    """AF_INET or AF_INET6."""
    return _socket.AF_INET6 if ":" in address else _socket.AF_INET


def packed(address: str) -> bytes:
    """An address as it stands in a packet."""
    return _socket.inet_pton(family(address), address)


def create_cable(netlink: Netlink, name: str, bridge: Link, pid: int, peer: str, mac: bytes, mtu: int) -> None:
    """Make a cable from `bridge` into the network namespace of process `pid`; its near end for frames of `mtu` bytes
    (`configure` sets the far one's)."""
    words = f"veth {name} at {bridge.name}, peer {peer} in the netns of {pid}, mtu {mtu}"
    request = cable_request(name, bridge.index, pid, peer, mac, mtu)
    netlink.change("RTM_NEWLINK", words, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, request)


def set_port(netlink: Netlink, name: str, *, hairpin: bool, isolated: bool) -> None:
    """How the bridge treats this port of its: whether it may send a frame back where it came from (hairpin), and
    whether it keeps it from all other isolated ports."""
    words = f"{name} hairpin {'on' if hairpin else 'off'}, isolated {'on' if isolated else 'off'}"
    netlink.change("RTM_NEWLINK", words, RTM_NEWLINK, 0, port_request(name, hairpin, isolated))


def set_master(netlink: Netlink, bridge: str, names: list[str]) -> None:
    """Plug those of the links that exist into the bridge."""
    index = index_of(bridge)
    for name in names:
        request = _ifinfomsg.pack(0, 0, 0, 0, 0) + attribute(IFLA_IFNAME, name) + attribute(IFLA_MASTER, index)
        try:
            netlink.change("RTM_NEWLINK", f"{name} at {bridge}", RTM_NEWLINK, 0, request)
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise


def set_mtu(netlink: Netlink, name: str, mtu: int) -> None:
    """How many bytes a frame on this link may carry."""
    request = _ifinfomsg.pack(0, 0, 0, 0, 0) + attribute(IFLA_IFNAME, name) + attribute(IFLA_MTU, mtu)
    netlink.change("RTM_NEWLINK", f"{name} mtu {mtu}", RTM_NEWLINK, 0, request)


def rename(netlink: Netlink, name: str, to: str) -> None:
    """Call a link something else; it has to be down."""
    request = _ifinfomsg.pack(0, 0, index_of(name), 0, 0) + attribute(IFLA_IFNAME, to)
    netlink.change("RTM_NEWLINK", f"{name} is now {to}", RTM_NEWLINK, 0, request)


def add_interface_address(netlink: Netlink, name: str, index: int, address: str, length: int) -> None:
    """Give a link an address of either family, usable at once; unless it has it."""
    try:
        netlink.change(
            "RTM_NEWADDR",
            f"{address}/{length} on {name}",
            RTM_NEWADDR,
            NLM_F_CREATE | NLM_F_EXCL,
            interface_address_request(index, address, length),
        )
    except FileExistsError:
        pass


def add_route(
    netlink: Netlink, gateway: str, index: int, destination: str = "", *, metric: int = 0, onlink: bool = False
) -> None:
    """Send what is for `destination` (`10.9.0.0/24`; empty: everything) to `gateway` by the link `index`.

    `onlink`: the gateway's address is on that link although no subnet of the link's says so.
    """
    request = route_by_link_request(gateway, index, destination, metric, onlink)
    words = f"{destination or 'default'} via {gateway}"
    netlink.change("RTM_NEWROUTE", words, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, request)


def delete_route(netlink: Netlink, index: int, destination: str) -> None:
    """Take such a route back, whoever was its gateway; that it is gone already is no error."""
    request = route_by_link_request("", index, destination, 0, onlink=False)
    try:
        netlink.change("RTM_DELROUTE", destination, RTM_DELROUTE, 0, request)
    except ProcessLookupError:  # ESRCH is what the kernel says
        pass


def routes(netlink: Netlink, version: int) -> list[tuple[Any, int]]:
    """All destinations that this namespace has a route to, but for the default route and the link's own addresses;
    each with the ifindex of its link (0: none)."""
    import ipaddress

    found: list[tuple[Any, int]] = []
    kind = _socket.AF_INET if version == 4 else _socket.AF_INET6
    network: type[ipaddress.IPv4Network | ipaddress.IPv6Network]
    network = ipaddress.IPv4Network if version == 4 else ipaddress.IPv6Network
    for answer in netlink.dump("RTM_GETROUTE", f"IPv{version}", RTM_GETROUTE, _rtmsg.pack(kind, *[0] * 8)):
        length = answer[1]
        parts = attributes(answer[_rtmsg.size :])
        if answer[0] == kind and length and RTA_DST in parts:
            index = struct.unpack("=i", parts[RTA_OIF])[0] if RTA_OIF in parts else 0
            found.append((network((parts[RTA_DST], length), strict=False), index))
    return found


def configure(netlink: Netlink, wishes: list[dict[str, Any]]) -> None:
    """Set up a container's interfaces, from within its network namespace.

    Each wish has the interface's `name`, its `mtu`, its `addresses` (`10.9.0.2/24`), whether it has IPv6 (`ipv6`), and
    the `gateways` that lead on from there. The first interface with a gateway has the default route; those after it
    have one, too, with a larger metric: the kernel takes the next when the link of the first is gone. Without a
    `bridge` at which its `cable` would begin, the interface itself still has that name. (Both are for arrival.py, too:
    what there is of it on the host.)
    """
    for wish in wishes:
        name = wish["name"]
        if not wish["bridge"]:
            rename(netlink, wish["cable"], name)
        index = index_of(name)
        if not wish["ipv6"]:
            _switch_off_ipv6(name)
        for written in wish["addresses"]:
            address, _, length = written.partition("/")
            add_interface_address(netlink, name, index, address, int(length))
        words = f"{name} up, mtu {wish['mtu']}"
        netlink.change("RTM_NEWLINK", words, RTM_NEWLINK, 0, up_by_index_request(index, wish["mtu"]))
        for gateway in wish["gateways"]:
            add_route(netlink, gateway, index, metric=wish["metric"])


def _switch_off_ipv6(name: str) -> None:
    try:
        linux.write(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6", "1")
    except FileNotFoundError:
        pass  # a kernel without IPv6


# What each request looks like on the wire; the tests hold these against pyroute2's.


def cable_request(name: str, bridge: int, pid: int, peer: str, mac: bytes, mtu: int) -> bytes:
    return veth_request(name, bridge, pid, peer, mac) + attribute(IFLA_MTU, mtu)


def port_request(name: str, hairpin: bool, isolated: bool) -> bytes:
    return (
        _ifinfomsg.pack(0, 0, 0, 0, 0)
        + attribute(IFLA_IFNAME, name)
        + nested(
            IFLA_LINKINFO,
            attribute(IFLA_INFO_SLAVE_KIND, "bridge"),
            nested(
                IFLA_INFO_SLAVE_DATA,
                attribute(IFLA_BRPORT_MODE, bytes([hairpin])),
                attribute(IFLA_BRPORT_ISOLATED, bytes([isolated])),
            ),
        )
    )


def up_by_index_request(index: int, mtu: int = 0) -> bytes:
    return _ifinfomsg.pack(0, 0, index, IFF_UP, IFF_UP) + (attribute(IFLA_MTU, mtu) if mtu else b"")


def interface_address_request(index: int, address: str, length: int) -> bytes:
    kind, value = family(address), packed(address)
    request = _ifaddrmsg.pack(kind, length, IFA_F_NODAD if kind == _socket.AF_INET6 else 0, RT_SCOPE_UNIVERSE, index)
    if kind == _socket.AF_INET:
        request += attribute(IFA_LOCAL, value)
    request += attribute(IFA_ADDRESS, value)
    if kind == _socket.AF_INET:
        last = int.from_bytes(value, "big") | (1 << 32 - length) - 1
        request += attribute(IFA_BROADCAST, last.to_bytes(4, "big"))
    return request


def route_by_link_request(gateway: str, index: int, destination: str, metric: int, onlink: bool) -> bytes:
    address, _, length = destination.partition("/")
    kind, flags = family(gateway or address), RTNH_F_ONLINK if onlink else 0
    header = _rtmsg.pack(
        kind, int(length or 0), 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, RT_SCOPE_UNIVERSE, RTN_UNICAST, flags
    )
    return (
        header
        + (attribute(RTA_DST, packed(address)) if address else b"")
        + (attribute(RTA_GATEWAY, packed(gateway)) if gateway else b"")
        + attribute(RTA_OIF, index)
        + (attribute(RTA_PRIORITY, metric) if metric else b"")
    )
