"""How many bits per second may pass a container's cable, in either direction.

Nothing slows down traffic that *arrives*; one can only let what one *sends* wait. Both ends of a container's cable
send, and the host's end is ours, so:

    download   the host's end sends what goes to the container: a token bucket (tbf) in front of it
    upload     what the container sends arrives at the host's end. It is redirected (u32, mirred) to a link that does
               nothing but send it on (ifb), with a token bucket in front of that

A token bucket fills at the rate; each byte takes a token with it, and waits where there is none. The bucket's size is
how much may pass at once after a pause. Both stand outside the container, which can therefore not remove them.

Where the kernel has netem, what goes to the container can also be held back for a while (delay) and in part be lost,
for a network that is as bad as a real one. It stands in front of the bucket.

Sources: tc(8), tc-tbf(8), tc-mirred(8), <linux/pkt_sched.h>, <linux/pkt_cls.h>.
"""

from __future__ import annotations

import _socket
import errno
import struct

from minicontainer.errors import HostError, UsageError
from minicontainer.network import links
from minicontainer.network.links import IFF_UP, IFLA_IFNAME, IFLA_INFO_KIND, IFLA_LINKINFO, RTM_NEWLINK, _ifinfomsg
from minicontainer.network.netlink import NLM_F_CREATE, NLM_F_EXCL, Netlink, attribute, nested

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from minicontainer.network.definition import Member

RTM_NEWQDISC = 36
RTM_NEWTFILTER = 44
NLM_F_REPLACE = 0x100

TC_H_ROOT = 0xFFFFFFFF
TC_H_INGRESS = 0xFFFFFFF1
INGRESS = 0xFFFF0000
TCA_KIND = 1
TCA_OPTIONS = 2
TCA_TBF_PARMS = 1
TCA_TBF_RATE64 = 4
TCA_TBF_BURST = 6
TCA_U32_SEL = 5
TCA_U32_ACT = 7
TCA_ACT_KIND = 1
TCA_ACT_OPTIONS = 2
TCA_MIRRED_PARMS = 2
TCA_EGRESS_REDIR = 1
TC_U32_TERMINAL = 1
TC_ACT_STOLEN = 4
ETH_P_ALL = 0x0003

PSCHED_TICKS = 15.625
"""How many of the kernel's scheduler ticks are a microsecond: 64 ns each. <net/pkt_sched.h>"""
NETEM = 0x00020000
"""The handle of the queue that delays and loses, when there is one (2: in the words of tc)."""
LATENCY = 0.05
"""Seconds that a packet may wait for its token; who would wait longer is dropped."""

_tcmsg = struct.Struct("=BxxxiIII")  # family, index, handle, parent, info
_ratespec = struct.Struct("=BBHhHI")  # cell_log, linklayer, overhead, cell_align, mpu, rate
_UNITS = {"k": 10**3, "m": 10**6, "g": 10**9}


def rate(wish: int | str) -> int:
    """Bits per second, from a number or from text: `"500k"`, `"10M"`, `"1g"`, with `bit` behind it or without."""
    text = str(wish).strip().lower().removesuffix("bit")
    unit = _UNITS.get(text[-1:], 1)
    try:
        found = round(float(text.rstrip("kmg")) * unit)
    except (ValueError, OverflowError):
        found = -1
    if found < 0 or 0 < found < 8000 or found > 10**12:
        raise UsageError(f"{wish!r} is not a rate", hint="bits per second: 500k, 10M, 1G; from 8k up")
    return found


def duration(wish: float | str) -> float:
    """Milliseconds, from a number of them or from text: `"20ms"`, `"1.5s"`, `"300us"`."""
    text = str(wish).strip().lower()
    unit = next((it for it in ("ms", "us", "s") if text.endswith(it)), "")
    try:
        found = float(text.removesuffix(unit)) * {"s": 1000, "us": 0.001}.get(unit, 1)
    except ValueError:
        found = -1
    if not 0 <= found <= 60_000:
        raise UsageError(f"{wish!r} is not a delay", hint="milliseconds: 20ms, 0.5s; a minute at most")
    return found


def part(wish: float | str) -> float:
    """A part of the whole, from 0 to 1: from such a number, or from text: `"1%"`, `"0.01"`."""
    text = str(wish).strip()
    try:
        found = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        found = -1
    if not 0 <= found <= 1:
        raise UsageError(f"{wish!r} is not a part of the packets", hint="1% or 0.01: one in a hundred")
    return found


def limit(netlink: Netlink, member: Member) -> None:
    """Put the member's limits in front of the host's end of its cable. Raises HostError where the kernel cannot."""
    if member.delay or member.loss:
        delay(netlink, member.link, member.delay, member.loss)
    try:
        if member.download:
            _bucket(netlink, member.link, member.download, NETEM + 1 if member.delay or member.loss else TC_H_ROOT)
        if member.upload:
            create_ifb(netlink, ifb(member.link))
            redirect(netlink, member.link, ifb(member.link))
            _bucket(netlink, ifb(member.link), member.upload)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EOPNOTSUPP):
            raise HostError(
                f"this kernel cannot limit bandwidth: {error}",
                hint="it needs sch_tbf, sch_ingress, cls_u32, act_mirred and ifb (modprobe), or leave out the limit",
            ) from error
        raise


def forget(netlink: Netlink, member: Member) -> None:
    """Remove what the cable itself does not take along: the link that upload is sent on by."""
    if member.upload:
        links.delete_link(netlink, ifb(member.link))


def delay(netlink: Netlink, link: str, milliseconds: float = 0, loss: float = 0) -> None:
    """Let everything that `link` sends wait, and lose a part of it (0.01: one in a hundred).

    Raises HostError where the kernel has no netem.
    """
    words = f"netem on {link}, {milliseconds} ms, loss {loss:.2%}"
    request = delay_request(links.index_of(link), milliseconds, loss)
    try:
        netlink.change("RTM_NEWQDISC", words, RTM_NEWQDISC, NLM_F_CREATE | NLM_F_REPLACE, request)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EOPNOTSUPP):
            raise HostError(
                "this kernel has no netem, which delays and loses packets",
                hint="modprobe sch_netem, if it is a module; or leave out delay and loss",
            ) from error
        raise


def ifb(cable: str) -> str:
    """The name of the link that the cable's upload is sent on by: i where the cable has v."""
    head, _, tail = cable.rpartition("-v")
    return f"{head}-i{tail}"


def _bucket(netlink: Netlink, link: str, bits: int, parent: int = TC_H_ROOT) -> None:
    request = bucket_request(links.index_of(link), bits, parent)
    words = f"tbf on {link}, {bits} bit/s"
    netlink.change("RTM_NEWQDISC", words, RTM_NEWQDISC, NLM_F_CREATE | NLM_F_REPLACE, request)


def create_ifb(netlink: Netlink, to: str) -> None:
    """Make a link that lets what it sends arrive where it came from."""
    request = (
        _ifinfomsg.pack(0, 0, 0, IFF_UP, IFF_UP)
        + attribute(IFLA_IFNAME, to)
        + nested(IFLA_LINKINFO, attribute(IFLA_INFO_KIND, "ifb"))
    )
    netlink.change("RTM_NEWLINK", f"ifb {to}", RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, request)


def redirect(netlink: Netlink, cable: str, to: str, besides: Iterable[tuple[str, bytes]] = ()) -> None:
    """Let all that arrives at the link `cable` be sent by the link `to` before anybody sees it; but for what the
    filters `besides` match (each with what it says)."""
    index = links.index_of(cable)
    ingress = _tcmsg.pack(0, index, INGRESS, TC_H_INGRESS, 0) + attribute(TCA_KIND, "ingress")
    netlink.change("RTM_NEWQDISC", f"ingress on {cable}", RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, ingress)
    for words, request in besides:
        netlink.change("RTM_NEWTFILTER", words, RTM_NEWTFILTER, NLM_F_CREATE | NLM_F_EXCL, request)
    request = redirect_request(index, links.index_of(to))
    words = f"all that {cable} receives goes to {to}"
    netlink.change("RTM_NEWTFILTER", words, RTM_NEWTFILTER, NLM_F_CREATE | NLM_F_EXCL, request)


# What each request looks like on the wire; the tests hold these against what tc(8) shows.


def burst(bits: int) -> int:
    """The bucket's size in bytes: what passes in ten milliseconds, and room for a large segment (64 KiB) and more."""
    return max(bits // 8 // 100, 1 << 17 if bits >= 10**7 else 1 << 14)


def bucket_request(index: int, bits: int, parent: int = TC_H_ROOT) -> bytes:
    octets, size = bits // 8, burst(bits)
    spec = _ratespec.pack(0, 1, 0, -1, 0, min(octets, 0xFFFFFFFF))  # 1: TC_LINKLAYER_ETHERNET
    ticks = min(round(size * 1e6 / octets * PSCHED_TICKS), 0xFFFFFFFF)
    room = round(octets * LATENCY) + size
    parameters = spec + bytes(12) + struct.pack("=III", room, ticks, 0)  # limit, buffer, mtu
    options = attribute(TCA_TBF_PARMS, parameters) + attribute(TCA_TBF_BURST, size)
    if octets > 0xFFFFFFFF:
        options += attribute(TCA_TBF_RATE64, struct.pack("=Q", octets))
    return _tcmsg.pack(0, index, 0x00010000, parent, 0) + attribute(TCA_KIND, "tbf") + nested(TCA_OPTIONS, options)


def delay_request(index: int, milliseconds: float, loss: float) -> bytes:
    latency, lost = round(milliseconds * 1000 * PSCHED_TICKS), round(loss * 0xFFFFFFFF)
    options = struct.pack("=6I", latency, 1000, lost, 0, 0, 0)  # struct tc_netem_qopt; at most 1000 packets wait
    return _tcmsg.pack(0, index, NETEM, TC_H_ROOT, 0) + attribute(TCA_KIND, "netem") + attribute(TCA_OPTIONS, options)


def redirect_request(index: int, to: int) -> bytes:
    everything = struct.pack("=BBBBHHhhI", TC_U32_TERMINAL, 0, 1, 0, 0, 0, 0, 0, 0) + bytes(16)  # one key: 0 & 0 == 0
    mirred = struct.pack("=IIiii", 0, 0, TC_ACT_STOLEN, 0, 0) + struct.pack("=iI", TCA_EGRESS_REDIR, to)
    action = nested(1, attribute(TCA_ACT_KIND, "mirred"), nested(TCA_ACT_OPTIONS, attribute(TCA_MIRRED_PARMS, mirred)))
    return (
        _tcmsg.pack(0, index, 0, INGRESS, 9 << 16 | _socket.htons(ETH_P_ALL))
        + attribute(TCA_KIND, "u32")
        + nested(TCA_OPTIONS, attribute(TCA_U32_SEL, everything), nested(TCA_U32_ACT, action))
    )
