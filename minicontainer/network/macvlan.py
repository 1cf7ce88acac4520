"""Macvlan: containers that stand in the host's own network, each with a hardware address of its own.

The network card of the host (the *parent*) is given several hardware addresses, and what comes in for one of them goes
into that container: no bridge, no router, no translation of addresses. To the machines around, the container is one
more machine; its gateway is theirs.

What that costs: the host itself does not reach its containers (a card does not send to itself), a switch that allows
one address per port refuses, and the plan of addresses is one part of somebody else's: `--ip-range` must lie outside
what the network's own DHCP hands out. Names and published ports there are none, because the host is not in between.

Sources: <linux/if_link.h>, ip-link(8).
"""

from __future__ import annotations

import errno

from minicontainer.errors import HostError, NotFoundError, UsageError
from minicontainer.network import drivers, links
from minicontainer.network.addresses import hardware_address
from minicontainer.network.links import (
    IFLA_ADDRESS,
    IFLA_IFNAME,
    IFLA_INFO_DATA,
    IFLA_INFO_KIND,
    IFLA_LINKINFO,
    IFLA_NET_NS_PID,
    RTM_NEWLINK,
    _ifinfomsg,
)
from minicontainer.network.netlink import NLM_F_CREATE, NLM_F_EXCL, Netlink, attribute, nested

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minicontainer.network.definition import Member, Network

IFLA_MTU = 4
IFLA_LINK = 5
IFLA_MACVLAN_MODE = 1
MACVLAN_MODES = {"private": 1, "bridge": 4}


class Macvlan(drivers.Driver):
    """Options: `parent` (the host's link), `mode` (bridge: its containers reach each other; private: they do not)."""

    name = "macvlan"
    is_router = False

    def check(self, network: Network) -> None:
        unknown = network.options.keys() - {"parent", "mode"}
        if unknown:
            raise UsageError(f"a macvlan network has no option {', '.join(sorted(unknown))}", hint="parent, mode")
        if network.options.get("mode", "bridge") not in MACVLAN_MODES:
            raise UsageError(f"macvlan has no mode {network.options['mode']!r}", hint="bridge or private")
        if network.host_access or not network.icc:
            raise UsageError(
                "the host is not in between in a macvlan network", hint="-o mode=private keeps members apart"
            )
        with Netlink() as netlink:
            self._parent(netlink, network)

    def up(self, netlink: Netlink, network: Network) -> int:
        return self._parent(netlink, network).index

    def standing(self, netlink: Netlink, network: Network) -> bool:
        return self._parent(netlink, network).index == network.index

    def plug(self, netlink: Netlink, network: Network, member: Member, pid: int) -> None:
        parent = self._parent(netlink, network)
        words = f"macvlan {member.link} at {parent.name}, in the netns of {pid}"
        try:
            netlink.change(
                "RTM_NEWLINK",
                words,
                RTM_NEWLINK,
                NLM_F_CREATE | NLM_F_EXCL,
                macvlan_request(parent.index, pid, member, network.mtu, network.options.get("mode", "bridge")),
            )
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                raise HostError("this kernel has no macvlan", hint="modprobe macvlan") from error
            raise

    def unplug(self, netlink: Netlink, network: Network, member: Member) -> None:
        """It is gone with the container's network namespace; `disconnect` takes it out of there."""

    def _parent(self, netlink: Netlink, network: Network) -> links.Link:
        name = network.options.get("parent", "")
        if not name:
            raise UsageError("a macvlan network needs a link of the host", hint="-o parent=eth0")
        parent = links.find_link(netlink, name)
        if parent is None:
            raise NotFoundError(f"there is no link {name} on this host", hint="`ip link` shows those there are")
        return parent


# What the request looks like on the wire; the tests hold it against what ip(8) shows.


def macvlan_request(parent: int, pid: int, member: Member, mtu: int, mode: str) -> bytes:
    return (
        _ifinfomsg.pack(0, 0, 0, 0, 0)
        # not yet as it is to be called: Linux 6.1 takes no name that the host has too (eth0), wherever the link goes
        + attribute(IFLA_IFNAME, member.link)
        + attribute(IFLA_ADDRESS, hardware_address(member.address))
        + attribute(IFLA_LINK, parent)
        + attribute(IFLA_MTU, mtu)
        + attribute(IFLA_NET_NS_PID, pid)
        + nested(
            IFLA_LINKINFO,
            attribute(IFLA_INFO_KIND, "macvlan"),
            nested(IFLA_INFO_DATA, attribute(IFLA_MACVLAN_MODE, MACVLAN_MODES[mode])),
        )
    )


drivers.DRIVERS["macvlan"] = Macvlan()
