"""Elements of nf_tables' sets and maps, added and taken away by netlink.

A rule set has two kinds of things in it. Its *structure*, the tables, chains and rules, changes when a network comes
or goes; nft(8) compiles that from text, which takes it some milliseconds. Its *elements*, who is in which set, change
with every container. An element is nothing but its key's bytes (and in a map its value's), so a container need not
wait for a compiler: one message says it.

The kernel takes several such messages as a batch: all of them or, after the first error, none.

A key of several fields is their bytes one behind the other, each filled up to a multiple of four: `ifname` has
sixteen, an Ethernet address six and two of padding.

Sources: <linux/netfilter/nf_tables.h>, nft(8), "SETS".
"""

from __future__ import annotations

import _socket
import struct

from minicontainer import linux
from minicontainer.network.netlink import (
    NETLINK_NETFILTER,
    NFNL_SUBSYS_NFTABLES,
    NLA_F_NESTED,
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_REQUEST,
    NLMSG_ERROR,
    Netlink,
    attribute,
    attributes,
    each_attribute,
    message,
    messages,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

NFNL_MSG_BATCH_BEGIN = 16
NFNL_MSG_BATCH_END = 17
NFT_MSG_NEWSETELEM = 12
NFT_MSG_GETSETELEM = 13
NFT_MSG_DELSETELEM = 14

NFTA_SET_ELEM_LIST_TABLE = 1
NFTA_SET_ELEM_LIST_SET = 2
NFTA_SET_ELEM_LIST_ELEMENTS = 3
NFTA_LIST_ELEM = 1
NFTA_SET_ELEM_KEY = 1
NFTA_SET_ELEM_DATA = 2
NFTA_DATA_VALUE = 1

NFPROTO_INET = 1
NFPROTO_BRIDGE = 7

_nfgenmsg = struct.Struct("!BBH")


class Element:
    """One element of the set (or map) `set` of the table `table`; `words` say in a trace what it means, `text` is what
    nft(8) calls it."""

    __slots__ = ("data", "family", "key", "set", "table", "text", "words")

    def __init__(
        self, family: int, table: str, set: str, key: bytes, data: bytes = b"", words: str = "", text: str = ""
    ) -> None:
        self.family, self.table, self.set, self.key, self.data = family, table, set, key, data
        self.words, self.text = words, text


def field(value: bytes) -> bytes:
    """One field of a key."""
    return value + bytes(-len(value) % 4)


def ifname(name: str) -> bytes:
    """A link's name as a field."""
    return name.encode().ljust(16, b"\0")


def add(elements: Sequence[Element]) -> None:
    """Add them all, or none. Raises KernelError: ENOENT where there is no such table, EEXIST for another value."""
    change(elements, ())


def remove(elements: Sequence[Element]) -> None:
    """Take away those that are there; where one is gone already, the others one by one."""
    try:
        change((), elements)
    except FileNotFoundError:
        for element in elements if len(elements) > 1 else ():
            remove([element])


def change(new: Sequence[Element], gone: Sequence[Element]) -> None:
    """Take away those that are `gone` and add the `new` ones, as one step."""
    steps = [(NFT_MSG_DELSETELEM, 0, it) for it in gone] + [(NFT_MSG_NEWSETELEM, NLM_F_CREATE, it) for it in new]
    if steps:
        words = ", ".join([*(f"no {text}" if new else text for text in _words(gone)), *_words(new)])
        name = "NFT_MSG_NEWSETELEM" if new else "NFT_MSG_DELSETELEM"
        linux.announce(name, words, "nft(8)", lambda: _send(steps))


def script(wanted: Sequence[Element]) -> list[str]:
    """The same for nft(8): lines that add them, for a table that the same script makes."""
    sets: dict[tuple[int, str, str], list[str]] = {}
    for element in wanted:
        sets.setdefault((element.family, element.table, element.set), []).append(element.text)
    names = {NFPROTO_INET: "inet", NFPROTO_BRIDGE: "bridge"}
    return [
        f"add element {names[family]} {table} {set} {{ {', '.join(dict.fromkeys(texts))} }}"
        for (family, table, set), texts in sets.items()
    ]


def read(netlink: Netlink, family: int, table: str, set: str) -> list[tuple[bytes, bytes]]:
    """The elements of a set or map, each with its key and value; none where there is no such set."""
    payload = _nfgenmsg.pack(family, 0, 0)
    payload += attribute(NFTA_SET_ELEM_LIST_TABLE, table) + attribute(NFTA_SET_ELEM_LIST_SET, set)
    kind = NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETSETELEM
    try:
        answers = netlink.dump("NFT_MSG_GETSETELEM", f"{set} of table {table}", kind, payload)
    except FileNotFoundError:
        return []
    found = []
    for answer in answers:
        listed = attributes(answer[_nfgenmsg.size :]).get(NFTA_SET_ELEM_LIST_ELEMENTS, b"")
        for _, element in each_attribute(listed):
            parts = attributes(element)
            key, data = (attributes(parts.get(it, b"")) for it in (NFTA_SET_ELEM_KEY, NFTA_SET_ELEM_DATA))
            found.append((key.get(NFTA_DATA_VALUE, b""), data.get(NFTA_DATA_VALUE, b"")))
    return found


def _words(elements: Sequence[Element]) -> list[str]:
    return [f"{element.set} {element.words}" for element in elements]


def _send(steps: Sequence[tuple[int, int, Element]]) -> None:
    border = _nfgenmsg.pack(0, 0, NFNL_SUBSYS_NFTABLES)
    pieces = [message(NFNL_MSG_BATCH_BEGIN, NLM_F_REQUEST, 0, border)]
    for number, (type, flags, element) in enumerate(steps, 1):
        kind = NFNL_SUBSYS_NFTABLES << 8 | type
        pieces.append(message(kind, NLM_F_REQUEST | NLM_F_ACK | flags, number, request(element)))
    pieces.append(message(NFNL_MSG_BATCH_END, NLM_F_REQUEST, len(steps) + 1, border))
    netlink = _socket.socket(_socket.AF_NETLINK, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
    try:
        netlink.sendto(b"".join(pieces), (0, 0))
        missing = len(steps)
        while missing:
            for kind, _, body in messages(netlink.recv(1 << 16)):
                if kind != NLMSG_ERROR:
                    continue
                error = -int.from_bytes(body[:4], "little", signed=True)
                if error:
                    raise OSError(error, "nf_tables")
                missing -= 1
    finally:
        netlink.close()


def request(element: Element) -> bytes:
    """What one element looks like on the wire."""
    key = _nested(NFTA_SET_ELEM_KEY, _value(element.key))
    data = _nested(NFTA_SET_ELEM_DATA, _value(element.data)) if element.data else b""
    return (
        _nfgenmsg.pack(element.family, 0, 0)
        + attribute(NFTA_SET_ELEM_LIST_TABLE, element.table)
        + attribute(NFTA_SET_ELEM_LIST_SET, element.set)
        + _nested(NFTA_SET_ELEM_LIST_ELEMENTS, _nested(NFTA_LIST_ELEM, key + data))
    )


def _value(data: bytes) -> bytes:
    return attribute(NFTA_DATA_VALUE, data)


def _nested(number: int, inner: bytes) -> bytes:
    return attribute(number | NLA_F_NESTED, inner)
