"""The switch that makes the machine a router, and who is to switch it off again.

A host does not pass on packets that are not for it, unless `ip_forward` says so; IPv6 has a switch of its own. It is
one switch for the whole machine, and all bridges of all instances need it. So whoever makes a bridge notes in the
bridge's own alias how the switch was before (`ip link` shows it), and the last bridge of all takes the note along.
"""

from __future__ import annotations

import re

from minicontainer import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from minicontainer.network.links import Link

SWITCHES = {4: "/proc/sys/net/ipv4/ip_forward", 6: "/proc/sys/net/ipv6/conf/all/forwarding"}
_NOTES = {4: "ip_forward=0", 6: "ip6_forward=0"}
_BRIDGE = re.compile(r"mc[0-9a-f]{8}-(br0|n[0-9a-f]{1,3})")


def is_bridge(name: str) -> bool:
    """Whether this is a bridge of any instance."""
    return _BRIDGE.fullmatch(name) is not None


def note(links: Sequence[Link], versions: Sequence[int]) -> str:
    """What a new bridge's alias has to say: which of the switches were off before the first of all bridges."""
    words = []
    for version in versions:
        before = any(_NOTES[version] in link.alias.split() for link in links if is_bridge(link.name))
        if before or is_off(version):
            words.append(_NOTES[version])
    return " ".join(words)


def is_off(version: int) -> bool:
    """Whether the machine does not forward packets of this version of IP."""
    with open(SWITCHES[version]) as file:
        return file.read().strip() == "0"


def switch_on(versions: Sequence[int]) -> None:
    """Be a router."""
    for version in versions:
        if is_off(version):
            linux.write(SWITCHES[version], "1")


def switch_back(bridge: Link, links: Sequence[Link]) -> None:
    """Before `bridge` is removed: put back what its note speaks of, where no other bridge needs the switch."""
    others = [link for link in links if is_bridge(link.name) and link.name != bridge.name]
    for version, words in _NOTES.items():
        if words in bridge.alias.split() and not any(words in link.alias.split() for link in others):
            linux.write(SWITCHES[version], "0")
