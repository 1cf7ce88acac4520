"""Published ports in the kernel: what an element of the maps `published` says, and who else has some.

`-p 8080:80` is one element of a map: the key is what the packet was sent to, `tcp . 8080`, the value where it shall go
instead, `172.29.0.2 . 80`. A port of one certain address of the host is in a map of its own, `published_at`, whose
key begins with that address; IPv6 has two more, because an address of another length is another type.

Every instance of ours has such maps, in tables whose names begin alike. So which ports are taken on this machine is
asked of the kernel, and not of some register that all would have to keep.
"""

from __future__ import annotations

import _socket

from minicontainer.network import elements
from minicontainer.network.elements import NFPROTO_INET, Element, field
from minicontainer.network.interfaces import packed
from minicontainer.network.ports import ANY, ANY6, Port

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from minicontainer.network.netlink import Netlink

    Key = tuple[str, str, int]  # host address, protocol, host port
    Target = tuple[str, int]  # container address, container port

MAPS = ("published", "published_at", "published6", "published6_at")
PROTOCOLS = {"tcp": _socket.IPPROTO_TCP, "udp": _socket.IPPROTO_UDP}
PREFIX = "minicontainer"
"""What the names of all our tables begin with, those of all instances."""


def element(table: str, key: Key, target: Target) -> Element:
    """The element of the table's maps that leads from `key` to `target`."""
    (host_ip, protocol, host_port), (address, container_port) = key, target
    name = "published6" if ":" in address else "published"
    wire = field(bytes([PROTOCOLS[protocol]])) + field(host_port.to_bytes(2, "big"))
    text = f"{protocol} . {host_port} : {address} . {container_port}"
    if host_ip not in (ANY, ANY6):
        name, wire, text = f"{name}_at", packed(host_ip) + wire, f"{host_ip} . {text}"
    value = packed(address) + field(container_port.to_bytes(2, "big"))
    words = f"{Port(container_port, host_port, host_ip, protocol)} to {address}"
    return Element(NFPROTO_INET, table, name, wire, value, words, text)


def read(name: str, key: bytes, value: bytes) -> tuple[Key, Target]:
    """What an element of the map `name` says."""
    family, size = (_socket.AF_INET6, 16) if name.startswith("published6") else (_socket.AF_INET, 4)
    host_ip = ANY6 if size == 16 else ANY
    if name.endswith("_at"):
        host_ip, key = _socket.inet_ntop(family, key[:size]), key[size:]
    protocol = next((it for it, number in PROTOCOLS.items() if number == key[0]), str(key[0]))
    target = _socket.inet_ntop(family, value[:size]), int.from_bytes(value[size : size + 2], "big")
    return (host_ip, protocol, int.from_bytes(key[4:6], "big")), target


def published(netlink: Netlink, table: str) -> dict[Key, Target]:
    """All that the maps of one of our tables say."""
    return dict(read(name, *it) for name in MAPS for it in elements.read(netlink, NFPROTO_INET, table, name))


def ports(tables: Iterable[tuple[str, dict[Key, Target]]]) -> list[tuple[Port, str]]:
    """The published ports of several tables, each with the table's name."""
    return [
        (Port(target[1], host_port, host_ip, protocol), table)
        for table, there in tables
        for (host_ip, protocol, host_port), target in there.items()
    ]
