"""When the cable is ready: the first packet of a container shall not be the one that is lost.

A request that sets a link up comes back before the link carries anything. The kernel tells the other end of the cable
later, in a worker of its own (linkwatch), and only then does the bridge let frames pass that port; and the bridge
itself, with its first port, has somebody to talk to. Until then it drops what comes, without a word. Mostly that is
over before the container's command runs; once in ten or twenty times it is not. Then its first question for the
gateway's hardware address is lost, and the kernel asks again after one second.

So the container's process waits until the port forwards. It cannot see the host's links, but it can look through a
netlink socket that the host's side has opened: a socket stays in the network namespace in which it was made.

(The obvious way, to ask the gateway by ARP until it answers, costs more than it saves: who closes a packet socket waits
until no processor can be using it any more, some twenty milliseconds.)

Sources: net/core/link_watch.c and net/bridge/br_stp_if.c in the kernel's sources, <linux/if_link.h>, RFC 2863.
"""

from __future__ import annotations

import os
import time

from minicontainer.network.links import IFLA_INFO_SLAVE_DATA, IFLA_LINKINFO, RTM_GETLINK, _ifinfomsg, link_by_name
from minicontainer.network.netlink import Netlink, attributes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from minicontainer.container.part import Host, Inside

IFLA_OPERSTATE = 16
IFLA_BRPORT_STATE = 1
IF_OPER_UP = 6
BR_STATE_FORWARDING = 3

GIFT = "the host's links"
AGAIN = 0.0003
"""Seconds between the first two looks; then always half as many again."""
PATIENCE = 0.2
"""Seconds after which nobody waits any more: somebody has switched the port off, or spanning tree on. The container
begins all the same."""


def offer(host: Host) -> None:
    """On the host: hand the container's process a socket to look through."""
    with Netlink() as netlink:
        host.give(GIFT, os.dup(netlink.fileno()))


def wait(inside: Inside, cables: Sequence[tuple[str, str]]) -> None:
    """In the container's process: wait until each of the `cables` (the host's end, its bridge) carries packets."""
    if cables:
        wait_for(cables, os.dup(inside.fds[GIFT]))


def wait_for(cables: Sequence[tuple[str, str]], fd: int | None = None) -> None:
    """The same on the host; or by that socket of its."""
    end, pause = time.monotonic() + PATIENCE, AGAIN
    with Netlink(fd=fd) as netlink:
        for name, bridge in cables:
            while not is_ready(netlink, name, bridge) and time.monotonic() < end:
                time.sleep(pause)
                pause *= 1.5


def is_ready(netlink: Netlink, name: str, bridge: str) -> bool:
    """Whether the bridge forwards what comes in by its port `name`, and sends itself."""
    port = attributes(attributes(_ask(netlink, name).get(IFLA_LINKINFO, b"")).get(IFLA_INFO_SLAVE_DATA, b""))
    if port.get(IFLA_BRPORT_STATE, b"")[:1] != bytes([BR_STATE_FORWARDING]):
        return False
    return _ask(netlink, bridge).get(IFLA_OPERSTATE) == bytes([IF_OPER_UP])


def _ask(netlink: Netlink, name: str) -> dict[int, bytes]:
    return attributes(netlink.get("RTM_GETLINK", name, RTM_GETLINK, link_by_name(name))[_ifinfomsg.size :])
