"""Netlink: how a program asks the kernel to change the network.

A netlink socket carries messages, and a message is nothing but a few fixed fields with a list of attributes behind
them, each with its length, its number and its value; a value may be a list of attributes again:

    nlmsghdr   length, type (RTM_NEWLINK), flags (REQUEST | ACK | CREATE), sequence number, port id     16 bytes
    header     what the type asks for: `struct ifinfomsg` for a link, `struct nfgenmsg` for nftables
    attributes length, number, value, padding to four bytes; length, number, value, padding …

The kernel works through a request inside the sender's own sendto(2), so the answer is there when that call comes
back: an error number (0: done) for a request with NLM_F_ACK, a row of messages for NLM_F_DUMP.

A library that speaks all of netlink (pyroute2) takes longer to import than a container takes to start, so what a
container needs is written out here; the tests hold every request that we send against pyroute2's bytes for the same.
Left out: multicast groups (events), extended errors, and every message type that no file of this folder asks for.

Sources: netlink(7), rtnetlink(7), <linux/netlink.h>, <linux/rtnetlink.h>.
"""

from __future__ import annotations

import _socket  # the C module below `socket`, whose import costs five milliseconds more
import errno
import os
import struct

from minicontainer import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Self

NETLINK_ROUTE = 0
NETLINK_NETFILTER = 12

NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_DUMP = 0x300
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400

NFNL_SUBSYS_NFTABLES = 10
"""Which part of netfilter a message is for: the upper half of its type. (NETLINK_NETFILTER)"""

NLMSG_ERROR = 2
NLMSG_DONE = 3

NLA_F_NESTED = 0x8000
NLA_TYPE_MASK = 0x3FFF

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_BUFFER = 1 << 17  # a dump's answers arrive in pieces of at most 32 KiB


class Netlink:
    """An open netlink socket (`with Netlink() as netlink: …`) of this process's network namespace; or, with `fd`, one
    that is open already, of that in which it was made."""

    def __init__(self, protocol: int = NETLINK_ROUTE, fd: int | None = None) -> None:
        self._man = "nfnetlink(7)" if protocol == NETLINK_NETFILTER else "rtnetlink(7)"
        self._socket = _socket.socket(_socket.AF_NETLINK, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, protocol, fd)
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def change(self, name: str, words: str, type: int, flags: int, payload: bytes) -> None:
        """Ask for a change and wait for the kernel's word. `name` and `words` say in a trace what is asked for.

        Raises KernelError with the error number the kernel answered.
        """

        def request() -> None:
            self._exchange(type, flags | NLM_F_ACK, payload)

        linux.announce(name, words, self._man, request)

    def get(self, name: str, words: str, type: int, payload: bytes) -> bytes:
        """Ask for one thing; its message without the netlink header. Raises KernelError (ENODEV, ENOENT: none)."""
        return linux.announce(name, words, self._man, lambda: self._exchange(type, 0, payload))[0]

    def dump(self, name: str, words: str, type: int, payload: bytes) -> list[bytes]:
        """Ask for everything of one kind; their messages without the netlink headers."""
        return linux.announce(name, words, self._man, lambda: self._exchange(type, NLM_F_DUMP, payload))

    def _exchange(self, type: int, flags: int, payload: bytes) -> Answers:
        self._sequence += 1
        self._socket.sendto(message(type, flags | NLM_F_REQUEST, self._sequence, payload), (0, 0))
        answers = Answers()
        while True:
            for kind, sequence, body in messages(self._socket.recv(_BUFFER)):
                if sequence != self._sequence:
                    continue  # what is left of an exchange that was interrupted
                if kind in (NLMSG_ERROR, NLMSG_DONE):
                    number = -int.from_bytes(body[:4], "little", signed=True)
                    if number:
                        raise OSError(number, os.strerror(number))
                    return answers
                answers.append(body)
                if flags & (NLM_F_DUMP | NLM_F_ACK) == 0:
                    return answers


class Answers(list[bytes]):
    """The kernel's answers; a trace shows their number, not their bytes."""

    def __repr__(self) -> str:
        return f"{len(self)} message{'s' * (len(self) != 1)}"


def message(type: int, flags: int, sequence: int, payload: bytes) -> bytes:
    """One netlink message: its header and what follows it."""
    return _HEADER.pack(_HEADER.size + len(payload), type, flags, sequence, 0) + payload


def messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """The (type, sequence number, payload) of each message in a datagram from the kernel."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, _flags, sequence, _port = _HEADER.unpack_from(data, at)
        if length < _HEADER.size:
            raise OSError(errno.EBADMSG, "a netlink message shorter than its own header")
        yield kind, sequence, data[at + _HEADER.size : at + length]
        at += (length + 3) & ~3


def attribute(number: int, value: bytes | str | int) -> bytes:
    """One attribute: bytes as they are, text with its closing NUL, a number as 32 bits in the machine's order."""
    if isinstance(value, str):
        value = value.encode() + b"\0"
    elif isinstance(value, int):
        value = struct.pack("=I", value)
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, number) + value + bytes(-length % 4)


def nested(number: int, *attributes: bytes) -> bytes:
    """An attribute whose value is a list of attributes."""
    return attribute(number, b"".join(attributes))


def attributes(data: bytes) -> dict[int, bytes]:
    """The attributes in `data`, by number."""
    return dict(each_attribute(data))


def each_attribute(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The attributes in `data` in their order: a list may have many of one number."""
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, number = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size:
            return
        yield number & NLA_TYPE_MASK, data[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3
