"""What the members of a network may have together, and how they share it.

A limit of shaping.py is one container's. Where a whole network has so much and no more, one bucket for all of them
would let the loudest drink it up. A hierarchy of buckets (htb) does not:

    1:    htb in front of the link
    1:1   the whole network: its rate, and no more
    1:2   … a member: its part of the whole is its own rate, and it may borrow what others leave unused, up to the
    1:3   whole. A member with share 2 has twice the part of one with share 1; the parts change as members come and go

So a member that is alone has all of it, and nobody can be kept from his part. Which class a packet belongs to, a
filter (u32) says by the member's address. Each class has a queue of its own (bfifo): who sends too much waits behind
himself only.

    download   the bridge itself sends what the host has for its members: htb in front of it, packets by their target
    upload     what members have for others arrives at the host's ends of their cables. It is redirected to a link that
               does nothing but send it on (an ifb; see shaping.py), with htb in front of that, packets by their source

What members have for one another, or for the gateway, goes past both. (Why upload is not redirected where it leaves
the bridge, once for all members: on hosts whose bridges call the IP rules, br_netfilter, the connection tracking has
seen the packet by then. The way through the ifb makes the packet forget its connection, and nobody looks again.)

Sources: tc-htb(8), tc-u32(8), net/sched/sch_htb.c in the kernel's sources, <linux/pkt_sched.h>, <linux/pkt_cls.h>.
"""

from __future__ import annotations

import _socket
import errno
import struct

from minicontainer.errors import HostError, UsageError
from minicontainer.network import links, shaping
from minicontainer.network.interfaces import packed
from minicontainer.network.netlink import NLM_F_CREATE, NLM_F_EXCL, Netlink, attribute, nested
from minicontainer.network.shaping import (
    INGRESS,
    LATENCY,
    PSCHED_TICKS,
    RTM_NEWQDISC,
    RTM_NEWTFILTER,
    TC_H_INGRESS,
    TC_H_ROOT,
    TC_U32_TERMINAL,
    TCA_KIND,
    TCA_OPTIONS,
    TCA_U32_SEL,
    _ratespec,
    _tcmsg,
    burst,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from minicontainer.network.definition import IPNetwork, Member, Network

RTM_DELQDISC = 37
RTM_NEWTCLASS = 40
RTM_DELTCLASS = 41
RTM_DELTFILTER = 45
TCA_HTB_PARMS = 1
TCA_HTB_INIT = 2
TCA_HTB_RATE64 = 6
TCA_HTB_CEIL64 = 7
TCA_U32_CLASSID = 1
ETH_P = {4: 0x0800, 6: 0x86DD}
WHERE = {("download", 4): 16, ("upload", 4): 12, ("download", 6): 24, ("upload", 6): 8}
"""Where in a packet the address is that a member is known by: that of the target, or of the source."""

ROOT = 0x00010000
WHOLE = ROOT + 1
LARGEST = 1 << 16
"""Bytes of the largest piece that the kernel sends at once (a segment that the card would cut up)."""


def share(wish: int | str) -> int:
    """How many parts of what is shared a member gets where others get one. Raises UsageError."""
    text = str(wish).strip()
    if not text.isdecimal() or not 1 <= int(text) <= 100:
        raise UsageError(f"{wish!r} is not a share", hint="1 to 100: how many parts, where the other members get one")
    return int(text)


def rates(network: Network) -> dict[str, int]:
    """What there is to be shared: bits per second by direction."""
    return {way: bits for way, bits in (("download", network.download), ("upload", network.upload)) if bits}


def standing(netlink: Netlink, network: Network) -> bool:
    """Whether the link that upload is sent on by is there, if one is needed."""
    return "upload" not in rates(network) or links.find_link(netlink, link(network, "upload")) is not None


def begin(netlink: Netlink, network: Network) -> None:
    """Put the network's limits in front of its bridge, if it has some, with a class for each member; in place of what
    may be there already. Raises HostError where the kernel cannot."""
    wished = rates(network)
    if not wished:
        return
    links.delete_link(netlink, link(network, "upload"))
    request = _tcmsg.pack(0, links.index_of(network.link), 0, TC_H_ROOT, 0)
    _forget(netlink, "RTM_DELQDISC", f"the queue on {network.link}", RTM_DELQDISC, request)
    try:
        for way, bits in wished.items():
            name = link(network, way)
            if way == "upload":
                shaping.create_ifb(netlink, name)
            index = links.index_of(name)
            request = queue_request(index)
            netlink.change("RTM_NEWQDISC", f"htb on {name}", RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, request)
            words = f"all of {name}: {bits} bit/s"
            request = class_request(index, ROOT, WHOLE, bits, bits, LARGEST)
            netlink.change("RTM_NEWTCLASS", words, RTM_NEWTCLASS, NLM_F_CREATE | NLM_F_EXCL, request)
        for member in network.members.values():
            _create(netlink, network, member)
            if links.find_link(netlink, member.link) is not None:
                plug(netlink, network, member)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EOPNOTSUPP):
            raise HostError(
                f"this kernel cannot share bandwidth: {error}",
                hint="it needs sch_htb, cls_u32, act_mirred and ifb (modprobe); or create the network without limits",
            ) from error
        raise


def add(netlink: Netlink, network: Network, member: Member) -> None:
    """Give a member its part; it is one of the network's members already, and the others' parts become smaller."""
    if rates(network):
        _create(netlink, network, member)
        _settle(netlink, network, besides=member)


def plug(netlink: Netlink, network: Network, member: Member) -> None:
    """The member's cable is there: what it sends beyond the network is to pass the network's queue first."""
    if network.upload:
        cable = links.index_of(member.link)
        request = _tcmsg.pack(0, cable, 0, TC_H_INGRESS, 0)
        _forget(netlink, "RTM_DELQDISC", f"ingress on {member.link}", RTM_DELQDISC, request)
        besides = [(f"{member.link}: not what is for {it}", within_request(cable, it)) for it in network.subnets]
        shaping.redirect(netlink, member.link, link(network, "upload"), besides)


def remove(netlink: Netlink, network: Network, member: Member) -> None:
    """Take a member's part away, if it has one; it is none of the network's members any more."""
    if rates(network):
        _remove(netlink, network, member)
        _settle(netlink, network)


def _settle(netlink: Netlink, network: Network, besides: Member | None = None) -> None:
    """Let the members' own rates be what they are now that somebody has come or gone."""
    for way in rates(network):
        if links.find_link(netlink, link(network, way)) is not None:
            for member in network.members.values():
                if member is not besides:
                    _set_class(netlink, network, member, way)


def _set_class(netlink: Netlink, network: Network, member: Member, way: str) -> None:
    name, bits = link(network, way), rates(network)[way]
    part = max(bits * member.share // sum(other.share for other in network.members.values()), 8000)
    words = f"{name}: class 1:{number(member):x} has {part} bit/s, and may borrow up to {bits}"
    handle = ROOT + number(member)
    request = class_request(links.index_of(name), WHOLE, handle, part, bits, turn(bits) * member.share)
    netlink.change("RTM_NEWTCLASS", words, RTM_NEWTCLASS, NLM_F_CREATE, request)


def _create(netlink: Netlink, network: Network, member: Member) -> None:
    """A class for a member in each direction, its queue, and its packets."""
    for way, bits in rates(network).items():
        _set_class(netlink, network, member, way)
        name = link(network, way)
        index, handle = links.index_of(name), ROOT + number(member)
        words = f"{name}: a queue for class 1:{number(member):x}"
        request = bytes_request(index, handle, round(bits / 8 * LATENCY) + LARGEST)
        netlink.change("RTM_NEWQDISC", words, RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, request)
        for version, address in _addresses(member):
            words = (
                f"{name}: what is {'for' if way == 'download' else 'from'} {address} is of class 1:{number(member):x}"
            )
            request = filter_request(index, number(member), version, address, WHERE[way, version])
            netlink.change("RTM_NEWTFILTER", words, RTM_NEWTFILTER, NLM_F_CREATE | NLM_F_EXCL, request)


def _remove(netlink: Netlink, network: Network, member: Member) -> None:
    for way in rates(network):
        name = link(network, way)
        try:
            index = links.index_of(name)
        except OSError:
            continue  # somebody has removed it, and all that was on it
        for version, address in _addresses(member):
            request = _which_filter(index, number(member), version)
            _forget(netlink, "RTM_DELTFILTER", f"{name}: {address}", RTM_DELTFILTER, request)
        request = _tcmsg.pack(0, index, ROOT + number(member), WHOLE, 0)
        _forget(netlink, "RTM_DELTCLASS", f"{name}: class 1:{number(member):x}", RTM_DELTCLASS, request)


def end(netlink: Netlink, network: Network) -> None:
    """Remove what the bridge does not take along."""
    if "upload" in rates(network):
        links.delete_link(netlink, link(network, "upload"))


def link(network: Network, way: str) -> str:
    """The link that sends in this direction: the bridge; for upload the ifb, s where the bridge has n."""
    return network.link if way == "download" else network.link.replace("-n", "-s")


def number(member: Member) -> int:
    """Which class is the member's: 2 and up, by its cable. In tc's words, and here: 1:2."""
    return int(member.link[-3:], 36) + 2


def turn(bits: int) -> int:
    """How many bytes a member of share 1 may send in its turn: what passes in ten milliseconds. Two frames at least;
    and no more than the largest piece, which counts as one turn however short the turn is."""
    return min(max(bits // 8 // 100, 2 * 1514), LARGEST)


def _addresses(member: Member) -> Iterator[tuple[int, str]]:
    yield 4, member.address
    if member.address6:
        yield 6, member.address6


def _forget(netlink: Netlink, call: str, words: str, kind: int, request: bytes) -> None:
    try:
        netlink.change(call, words, kind, 0, request)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EINVAL, errno.ENODEV):
            raise


def _which_filter(index: int, minor: int, version: int) -> bytes:
    """Which filter: its place in their order is the member's own, so that it can be found again."""
    place = 2 * minor + (version == 6)
    return _tcmsg.pack(0, index, 0, ROOT, place << 16 | _socket.htons(ETH_P[version])) + attribute(TCA_KIND, "u32")


# What each request looks like on the wire; the tests hold these against what tc(8) shows.


def queue_request(index: int) -> bytes:
    start = struct.pack("=5I", 3, 10, 0, 0, 0)  # struct tc_htb_glob: version 3; who is in no class is not held up
    options = nested(TCA_OPTIONS, attribute(TCA_HTB_INIT, start))
    return _tcmsg.pack(0, index, ROOT, TC_H_ROOT, 0) + attribute(TCA_KIND, "htb") + options


def class_request(index: int, parent: int, handle: int, bits: int, ceil: int, quantum: int) -> bytes:
    """A class that has `bits` per second of its own and may borrow up to `ceil`, `quantum` bytes in its turn."""
    specs, buffers, large = b"", [], b""
    for wish, kind in ((bits, TCA_HTB_RATE64), (ceil, TCA_HTB_CEIL64)):
        octets = wish // 8
        specs += _ratespec.pack(0, 1, 0, -1, 0, min(octets, 0xFFFFFFFF))  # 1: TC_LINKLAYER_ETHERNET
        buffers.append(min(round(burst(wish) * 1e6 / octets * PSCHED_TICKS), 0xFFFFFFFF))
        large += attribute(kind, struct.pack("=Q", octets)) if octets > 0xFFFFFFFF else b""
    parameters = specs + struct.pack("=5I", *buffers, quantum, 0, 0)  # struct tc_htb_opt
    options = nested(TCA_OPTIONS, attribute(TCA_HTB_PARMS, parameters) + large)
    return _tcmsg.pack(0, index, handle, parent, 0) + attribute(TCA_KIND, "htb") + options


def bytes_request(index: int, parent: int, limit: int) -> bytes:
    """A queue for so many bytes; who finds it full is dropped."""
    return _tcmsg.pack(0, index, 0, parent, 0) + attribute(TCA_KIND, "bfifo") + attribute(TCA_OPTIONS, limit)


def filter_request(index: int, minor: int, version: int, address: str, where: int) -> bytes:
    value = packed(address)
    selector = _selector(value, b"\xff" * len(value), where)
    options = nested(TCA_OPTIONS, attribute(TCA_U32_CLASSID, ROOT + minor), selector)
    return _which_filter(index, minor, version) + options


def within_request(index: int, subnet: IPNetwork) -> bytes:
    """What is for `subnet`: it goes its way, and no later filter is asked."""
    version = subnet.version
    selector = _selector(subnet.network_address.packed, subnet.netmask.packed, WHERE["download", version])
    header = _tcmsg.pack(0, index, 0, INGRESS, version << 16 | _socket.htons(ETH_P[version]))
    options = nested(TCA_OPTIONS, attribute(TCA_U32_CLASSID, ROOT), selector)
    return header + attribute(TCA_KIND, "u32") + options


def _selector(value: bytes, mask: bytes, where: int) -> bytes:
    """Packets that have this value, as far as the mask goes, in that place."""
    steps = range(0, len(value), 4)
    keys = [mask[at : at + 4] + value[at : at + 4] + struct.pack("=ii", where + at, 0) for at in steps]
    head = struct.pack("=BBBBHHhhI", TC_U32_TERMINAL, 0, len(keys), 0, 0, 0, 0, 0, 0)
    return attribute(TCA_U32_SEL, head + b"".join(keys))
