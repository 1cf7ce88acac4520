"""DNS messages: what a question for a name looks like on the wire, and its answer.

    header      id, flags, and how many there are of each of the four sections        12 bytes
    question    a name, a type (A: address, AAAA: IPv6 address, PTR: name of an address), a class (IN: Internet)
    answer      a name, type, class, for how many seconds it may be kept, length, value

A name is its labels, each behind its length, and a zero at the end: `\\x03web\\x08frontend\\x00`. Where a name has
stood in the message before, two bytes may point back to it. Everything that reads a message here treats it as written
by an enemy: no pointer is followed in a question, no length is believed.

Left out: everything that only a server for a zone of the Internet needs (SOA, DNSSEC, transfers).

Sources: RFC 1035, 4 (messages); RFC 3596 (AAAA); RFC 6891 (EDNS: how large an answer by UDP may be).
"""

from __future__ import annotations

import ipaddress
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

A, PTR, AAAA, OPT, ANY = 1, 12, 28, 41, 255
IN = 1

NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = range(6)

QR, AA, TC, RD, RA = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080

PLAIN_LIMIT = 512
"""What an answer by UDP may have at most, in bytes, when the question does not allow more."""
LARGEST = 1232
"""What ours has at most in any case: so much passes everywhere in one piece. (The DNS flag day of 2020.)"""

_header = struct.Struct("!6H")
_record = struct.Struct("!HHHIH")


class Malformed(ValueError):
    """A message that cannot be answered but with FORMERR."""


class Question:
    """The one question of a message, and what its header and its EDNS record say of the answer."""

    __slots__ = ("end", "flags", "id", "limit", "name", "type", "wire")

    def __init__(self, data: bytes) -> None:
        if len(data) < _header.size:
            raise Malformed("shorter than a header")
        self.id, self.flags, questions, answers, authorities, additional = _header.unpack_from(data)
        self.limit = PLAIN_LIMIT
        if self.flags & QR:
            raise Malformed("an answer, not a question")
        if questions != 1 or answers or authorities:
            raise Malformed(f"{questions} questions and {answers + authorities} answers")
        labels, at = [], _header.size
        while True:
            length = data[at] if at < len(data) else 255
            if length > 63 or at + 1 + length > len(data):
                raise Malformed("a label longer than the message, or than 63")
            at += 1 + length
            if length == 0:
                break
            labels.append(data[at - length : at])
        if at - _header.size > 255 or at + 4 > len(data):
            raise Malformed("a name longer than 255, or no type")
        self.name = b".".join(labels).lower().decode("latin-1")
        self.type, kind = struct.unpack_from("!HH", data, at)
        self.end = at + 4
        self.wire = data[_header.size : self.end]
        if kind not in (IN, ANY):
            raise Malformed(f"class {kind}")
        if additional and data[self.end : self.end + 3] == b"\0\0\x29" and len(data) >= self.end + 5:
            (size,) = struct.unpack_from("!H", data, self.end + 3)
            self.limit = min(max(size, PLAIN_LIMIT), LARGEST)

    @property
    def opcode(self) -> int:
        return int(self.flags) >> 11 & 15


def answer(question: Question, addresses: Sequence[bytes], code: int = NOERROR, *, limit: int = 65535) -> bytes:
    """The answer with these values; without them and with TC set where it would have more than `limit` bytes (then
    the client asks again by TCP)."""
    flags = QR | AA | RA | question.flags & (RD | 0x7800) | code
    # 0xC00C: the name that stands behind the header. The 0 is for how long it may be kept: not at all, because a
    # container may end at any moment.
    head = struct.pack("!HHHIH", 0xC00C, question.type, IN, 0, 0)[:-2]
    records = [head + struct.pack("!H", len(value)) + value for value in addresses]
    size = _header.size + len(question.wire) + sum(map(len, records))
    if size > limit:
        return _header.pack(question.id, flags | TC, 1, 0, 0, 0) + question.wire
    return b"".join([_header.pack(question.id, flags, 1, len(records), 0, 0), question.wire, *records])


def refusal(data: bytes, code: int) -> bytes | None:
    """The shortest answer to a message that is no proper question; None where silence is better: to an answer (or
    two servers would talk for ever), and to what has no header."""
    if len(data) < _header.size or data[2] & 0x80:
        return None
    (number, flags) = struct.unpack_from("!HH", data)
    return _header.pack(number, QR | flags & (RD | 0x7800) | code, 0, 0, 0, 0)


def wire_name(name: str) -> bytes:
    """A name as it stands in a message."""
    return b"".join(bytes([len(label)]) + label.encode("latin-1") for label in name.split(".") if label) + b"\0"


def reverse(name: str) -> str | None:
    """The address that a name of the reverse tree is for: `2.0.9.10.in-addr.arpa` → `10.9.0.2`; None: for none."""
    try:
        if name.endswith(".in-addr.arpa"):
            return str(ipaddress.IPv4Address(".".join(reversed(name.removesuffix(".in-addr.arpa").split(".")))))
        if name.endswith(".ip6.arpa"):
            digits = "".join(reversed(name.removesuffix(".ip6.arpa").split(".")))
            return str(ipaddress.IPv6Address(int(digits, 16))) if len(digits) == 32 else None
    except ValueError:
        return None
    return None
