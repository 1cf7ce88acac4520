"""When the cable is ready: the first packet of a container shall not be the one that is lost.

A request that sets a link up comes back before the link carries anything. The kernel tells the other end of the cable
later, in a worker of its own (linkwatch), and only then does the bridge let frames pass that port, and the bridge
itself, with its first port, has somebody to talk to. Until then it drops what comes, without a word. Mostly that is
over before the container's command runs; once in ten or twenty times it is not. Then its first question for the
gateway's hardware address is lost, and the kernel asks again after one second.

So the container asks itself, and asks again at once: whoever gets an answer from his gateway has a path that works,
there and back. That takes one to a few milliseconds where it was not ready, and some microseconds where it was.

Sources: RFC 826 (ARP), packet(7), net/core/link_watch.c in the kernel's sources.
"""

from __future__ import annotations

import _socket
import struct
import time

from minicontainer import linux
from minicontainer.network.interfaces import packed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

ETH_P_ARP = 0x0806
BROADCAST = b"\xff" * 6

AGAIN = 0.0005
"""Seconds until the question is asked again."""
PATIENCE = 0.2
"""Seconds after which it is asked no more. Whoever forbids his bridge to answer (arp_ignore, a filter) has a
container that begins so much later, and is no error of the container's."""

_arp = struct.Struct("!HHBBH6s4s6s4s")  # kinds and sizes of both addresses, operation; sender's two, target's two
_REQUEST, _REPLY = 1, 2


def wait(interface: str, address: str, gateway: str) -> bool:
    """From within the container's network namespace: wait until `gateway` answers `address` by `interface`.

    Whether it did. Needs CAP_NET_RAW, which the container's process has until it is sealed.
    """
    words = f"who has {gateway}? tell {address} by {interface}, until it answers"
    return linux.announce("ARP", words, "packet(7)", lambda: _ask(interface, packed(address), packed(gateway)))


def wait_all(wishes: list[dict[str, Any]]) -> None:
    """The same for each of a container's interfaces (see `interfaces.configure`) at whose other end the host is."""
    for wish in wishes:
        if wish["router"]:
            wait(wish["name"], wish["addresses"][0].partition("/")[0], wish["router"])


def _ask(interface: str, address: bytes, gateway: bytes) -> bool:
    kind = _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC  # the kernel writes the Ethernet header
    asking = _socket.socket(_socket.AF_PACKET, kind, _socket.htons(ETH_P_ARP))
    try:
        asking.bind((interface, ETH_P_ARP))
        question = request(asking.getsockname()[4], address, gateway)
        end = time.monotonic() + PATIENCE
        while (now := time.monotonic()) < end:
            try:
                asking.sendto(question, (interface, ETH_P_ARP, 0, 0, BROADCAST))
            except OSError:
                pass  # ENETDOWN, ENOBUFS: not even our own end carries anything yet
            if _answered(asking, gateway, now + AGAIN):
                return True
        return False
    finally:
        asking.close()


def _answered(asking: _socket.socket, gateway: bytes, end: float) -> bool:
    """Whether the answer comes in time."""
    while (left := end - time.monotonic()) > 0:
        asking.settimeout(left)
        try:
            message = asking.recv(64)
        except TimeoutError:
            return False
        if len(message) >= _arp.size:
            found = _arp.unpack_from(message)
            if found[4] == _REPLY and found[6] == gateway:
                return True
    return False


def request(mac: bytes, address: bytes, gateway: bytes) -> bytes:
    """The question as it is on the wire."""
    return _arp.pack(1, 0x0800, 6, 4, _REQUEST, mac, address, bytes(6), gateway)
