"""What the kernel remembers of flows, where it must forget.

Address translation looks at the first packet of a flow only. For all others the kernel remembers (conntrack) where the
first one went. TCP says when a flow ends; UDP does not: as long as a client sends to a published port at least every
half minute, its packets go where they always went, to a container that is gone or, from before the port was
published, to the host itself. So flows to a UDP port are forgotten when it is published and when it is given up.

Sources: <linux/netfilter/nfnetlink_conntrack.h>, conntrack(8).
"""

from __future__ import annotations

import _socket
import struct

from minicontainer.network.addresses import text
from minicontainer.network.netlink import NETLINK_NETFILTER, NLA_F_NESTED, Netlink, attribute, attributes
from minicontainer.network.ports import ANY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from minicontainer.network.ports import Port

NFNL_SUBSYS_CTNETLINK = 1
IPCTNL_MSG_CT_GET = 1
IPCTNL_MSG_CT_DELETE = 2

CTA_TUPLE_ORIG = 1
CTA_TUPLE_IP = 1
CTA_TUPLE_PROTO = 2
CTA_IP_V4_DST = 2
CTA_PROTO_NUM = 1
CTA_PROTO_DST_PORT = 3

_HEADER = struct.pack("=BBH", _socket.AF_INET, 0, 0)  # struct nfgenmsg


def forget(ports: Iterable[Port]) -> None:
    """Forget all flows to those of `ports` that are UDP."""
    wanted = {(port.host_ip, port.host_port) for port in ports if port.protocol == "udp"}
    if not wanted:
        return
    subsystem = NFNL_SUBSYS_CTNETLINK << 8
    with Netlink(NETLINK_NETFILTER) as netlink:
        for flow in netlink.dump("IPCTNL_MSG_CT_GET", "IPv4", subsystem | IPCTNL_MSG_CT_GET, _HEADER):
            original = attributes(flow[len(_HEADER) :])[CTA_TUPLE_ORIG]
            protocol, address, port = _destination(original)
            if protocol == _socket.IPPROTO_UDP and wanted & {(address, port), (ANY, port)}:
                request = _HEADER + attribute(CTA_TUPLE_ORIG | NLA_F_NESTED, original)
                words = f"udp flow to {address}:{port}"
                try:
                    netlink.change("IPCTNL_MSG_CT_DELETE", words, subsystem | IPCTNL_MSG_CT_DELETE, 0, request)
                except FileNotFoundError:
                    pass  # it timed out meanwhile


def _destination(original: bytes) -> tuple[int, str, int]:
    """Protocol number, address and port that the first packet of a flow was sent to."""
    parts = attributes(original)
    addresses, protocol = attributes(parts[CTA_TUPLE_IP]), attributes(parts[CTA_TUPLE_PROTO])
    return (
        protocol[CTA_PROTO_NUM][0],
        text(int.from_bytes(addresses[CTA_IP_V4_DST], "big")),
        int.from_bytes(protocol.get(CTA_PROTO_DST_PORT, b""), "big"),
    )
