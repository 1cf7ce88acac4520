"""How much has passed a container's cables: the kernel's own counters, as numbers and as a time series.

Each link counts what it has sent and received. The host's end of a cable counts the wrong way round, seen from the
container: what that end has sent, the container has received. Here everything is the container's view.

Source: `struct rtnl_link_stats64` in <linux/if_link.h>.
"""

from __future__ import annotations

import struct
import time

from minicontainer.network import links, networks
from minicontainer.network.links import RTM_GETLINK, _ifinfomsg
from minicontainer.network.netlink import Netlink, attributes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

IFLA_STATS64 = 23

_stats = struct.Struct("=8Q")  # packets, bytes, errors and drops; of each received, then sent


class Counters:
    """What a container has received and sent by one interface, since it was made. `time` is in seconds, monotonic."""

    __slots__ = ("dropped", "received_bytes", "received_packets", "sent_bytes", "sent_packets", "time")

    def __init__(self, stats: bytes) -> None:
        self.time = time.monotonic()
        values = _stats.unpack_from(stats)
        self.sent_packets, self.received_packets, self.sent_bytes, self.received_bytes = values[:4]
        self.dropped = values[6] + values[7]


def read(container: str) -> dict[str, Counters]:
    """The counters of a container (its whole id), by network; of those networks that have a cable."""
    found = {}
    with Netlink() as netlink:
        for network in networks.of(container):
            cable = network.members[container].link
            if links.find_link(netlink, cable) is not None:
                found[network.name] = Counters(_link_stats(netlink, cable))
    return found


def watch(container: str, network: str, *, every: float = 0.1) -> Iterator[tuple[float, float, float]]:
    """A time series without an end: seconds since the beginning, and bits per second received and sent since the
    last one. It ends when the container has left the network."""
    before = read(container).get(network)
    first = before.time if before else 0.0
    while before is not None:
        time.sleep(every)
        now = read(container).get(network)
        if now is None:
            return
        span = now.time - before.time
        received = (now.received_bytes - before.received_bytes) * 8 / span
        sent = (now.sent_bytes - before.sent_bytes) * 8 / span
        yield now.time - first, received, sent
        before = now


def _link_stats(netlink: Netlink, name: str) -> bytes:
    answer = netlink.get("RTM_GETLINK", name, RTM_GETLINK, links.link_by_name(name))
    return attributes(answer[_ifinfomsg.size :])[IFLA_STATS64]
