"""The numbers of a new network: what a user has written, looked at, or what is free.

Whatever makes no sense is a UsageError that says what would. A subnet that nobody has named comes from a list of
private ones (RFC 1918); with IPv6 it is made up by chance, so that no two networks of the world are likely to have the
same (RFC 4193).
"""

from __future__ import annotations

import ipaddress
import os

from minicontainer import state
from minicontainer.errors import HostError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from minicontainer.network.definition import IPNetwork

_POOL = [f"10.{second}.{third}.0/24" for second in range(222, 231) for third in range(256)]


def read(written: str, version: int) -> Any:
    kind = ipaddress.IPv4Network if version == 4 else ipaddress.IPv6Network
    try:
        subnet = kind(written)
    except ValueError as error:
        raise UsageError(
            f"{written!r} is not a subnet: {error}", hint="as in 10.9.0.0/24" if version == 4 else "as in fd00:9::/64"
        ) from None
    if subnet.num_addresses < 4 or subnet.num_addresses > 1 << 80:
        raise UsageError(f"subnet {subnet} has no room for a network", hint="at least a /30, or a /126 of IPv6")
    if subnet.is_multicast or subnet.is_loopback or subnet.is_link_local or subnet.is_unspecified:
        raise UsageError(f"subnet {subnet} is not for containers", hint="private ones are 10.0.0.0/8, fd00::/8, …")
    return subnet


def gateway(written: str, subnet: IPNetwork) -> str:
    try:
        gateway = ipaddress.ip_address(written)
    except ValueError:
        raise UsageError(f"{written!r} is not an address", hint=f"a gateway is one of {subnet}") from None
    if gateway.version != subnet.version or gateway not in subnet or gateway == subnet.network_address:
        raise UsageError(f"gateway {gateway} is not in subnet {subnet}", hint=f"such as {subnet.network_address + 1}")
    if gateway.version == 4 and gateway == subnet.broadcast_address:
        raise UsageError(f"gateway {gateway} is the subnet's broadcast address")
    return str(gateway)


def part(written: str, subnet: Any) -> Any:
    if not written:
        return subnet
    try:
        inner = type(subnet)(written)
    except ValueError as error:
        raise UsageError(f"{written!r} is not a range: {error}", hint=f"a part of {subnet}") from None
    if not inner.subnet_of(subnet):
        raise UsageError(f"range {inner} is not a part of subnet {subnet}")
    return inner


def mtu(wanted: int, ipv6: bool) -> int:
    least = 1280 if ipv6 else 68  # RFC 8200, 5; RFC 791
    if not least <= wanted <= 65535:
        raise UsageError(f"an MTU of {wanted} bytes is not possible", hint=f"{least} to 65535; Ethernet's is 1500")
    return wanted


def ula() -> ipaddress.IPv6Network:
    """A subnet of our own: fd, forty bits by chance, subnet 0. RFC 4193, 3.2"""
    return ipaddress.IPv6Network((b"\xfd" + os.urandom(5) + bytes(10), 64))


def choose(taken: list[tuple[str, IPNetwork]]) -> ipaddress.IPv4Network:
    """The first free subnet of a list; where in the list to begin is the instance's own, so that two of them do not
    plan the same one while neither has it up."""
    start = int(state.tag(), 16) % len(_POOL)
    for written in _POOL[start:] + _POOL[:start]:
        subnet = ipaddress.IPv4Network(written)
        if not any(other.version == 4 and subnet.overlaps(other) for _, other in taken):
            return subnet
    raise HostError(
        "no subnet is free", hint="name one with --subnet; `minicontainer network prune` removes unused ones"
    )
