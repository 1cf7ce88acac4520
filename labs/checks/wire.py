"""Frames for the checks of lab 06: written by hand, sent as they are, and read where they arrive."""

from __future__ import annotations

import socket
import struct
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

ETH_P_ALL, ETH_P_IP, ETH_P_ARP = 0x0003, 0x0800, 0x0806
EVERYBODY = b"\xff" * 6


def arp(ether: bytes, sender: bytes, address: str, target: str, answer: bool = False) -> bytes:
    """An ARP question (or answer) to everybody: from the hardware address `ether`, which says that `sender` has
    `address`."""
    ours, theirs = socket.inet_aton(address), socket.inet_aton(target)
    body = struct.pack("!HHBBH", 1, ETH_P_IP, 6, 4, 2 if answer else 1) + sender + ours + EVERYBODY + theirs
    return EVERYBODY + ether + struct.pack("!H", ETH_P_ARP) + body


def packet(ether: bytes, address: str, target: str) -> bytes:
    """An empty UDP datagram to everybody's hardware address, from `ether` and `address`."""
    header = struct.pack("!BBHHHBBH", 0x45, 0, 28, 1, 0, 64, socket.IPPROTO_UDP, 0)
    header += socket.inet_aton(address) + socket.inet_aton(target)
    total = sum(struct.unpack("!10H", header))
    total = (total & 0xFFFF) + (total >> 16)
    header = header[:10] + struct.pack("!H", ~total & 0xFFFF) + header[12:]
    return EVERYBODY + ether + struct.pack("!H", ETH_P_IP) + header + struct.pack("!HHHH", 9, 9, 8, 0)


def tap(link: str) -> socket.socket:
    """A socket that hears all that passes a link of this network namespace."""
    found = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    found.bind((link, 0))
    return found


def heard(listening: socket.socket) -> list[bytes]:
    """All frames that have come to a tap."""
    frames = []
    while True:
        try:
            frames.append(listening.recv(2048, socket.MSG_DONTWAIT))
        except BlockingIOError:
            return frames


def arrived(at: Callable[..., Any], sender: int, receiver: int, frames: Mapping[str, bytes]) -> list[str]:
    """Which of these frames, sent by one machine's eth0, come to another's; `at(pid, f)` calls f on a machine."""
    with at(receiver, lambda: tap("eth0")) as listening, at(sender, lambda: tap("eth0")) as sending:
        for frame in frames.values():
            sending.send(frame)
        time.sleep(0.1)
        came = set(heard(listening))
    return [name for name, frame in frames.items() if frame in came]


def tunnelled(frames: list[bytes]) -> list[dict[str, Any]]:
    """The UDP datagrams among these frames: from whom, to whom, to which port, and the VNI that a VXLAN one has."""
    found = []
    for frame in frames:
        if frame[12:14] == b"\x08\0" and frame[23] == socket.IPPROTO_UDP:
            source, target = socket.inet_ntoa(frame[26:30]), socket.inet_ntoa(frame[30:34])
            port, vni = int.from_bytes(frame[36:38], "big"), int.from_bytes(frame[46:49], "big")
            found.append({"from": source, "to": target, "port": port, "vni": vni})
    return found
