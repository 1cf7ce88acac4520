"""What one network is: the text of its file, and how it hands out its addresses.

A network has a subnet or two, a gateway, wishes (internal, no ICC, an MTU), and members; a member has its addresses,
the host's end of its cable, its interface, its names and limits. All of that is data, and in here nothing but data:
whoever wants to change it holds the lock (networks.py).

Sources: RFC 1035, 2.3.1 (names).
"""

from __future__ import annotations

import ipaddress
import os
import re

from minicontainer import state
from minicontainer.errors import ConflictError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_MEMBER = ("address", "address6", "link", "interface", "names", "ports", "download", "upload", "share", "delay", "loss")


class Member:
    """A container's place in a network: its addresses, the host's end of its cable, its interface, its names."""

    __slots__ = _MEMBER

    def __init__(
        self,
        address: str,
        address6: str = "",
        link: str = "",
        interface: str = "eth0",
        names: Iterable[str] = (),
        ports: Iterable[dict[str, Any]] = (),
        download: int = 0,
        upload: int = 0,
        share: int = 1,
        delay: float = 0,
        loss: float = 0,
    ) -> None:
        self.address, self.address6, self.link, self.interface = address, address6, link, interface
        self.names, self.ports = list(names), list(ports)
        self.download, self.upload = download, upload
        """Bits per second towards the container, and away from it; 0: as fast as it goes."""
        self.share = share
        """Its part of what all members may have together, where others have 1."""
        self.delay, self.loss = delay, loss
        """Milliseconds that what goes to the container waits, and the part of it that is lost."""

    def record(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _MEMBER}


class Network:
    """What a network's file says. `save` writes it; everything else here only looks."""

    def __init__(self, name: str, found: dict[str, Any]) -> None:
        self.name = name
        self.driver: str = found["driver"]
        self.number: int = found["number"]
        """Which one it is among this instance's: the kernel's names have no room for more."""
        self.subnet = ipaddress.IPv4Network(found["subnet"])
        self.gateway: str = found["gateway"]
        """The first router's address; the host's own, on a network that the host is the router of."""
        self.range = ipaddress.IPv4Network(found["range"])
        """The part of the subnet that addresses are handed out from."""
        self.subnet6 = ipaddress.IPv6Network(found["subnet6"]) if found.get("subnet6") else None
        self.range6 = ipaddress.IPv6Network(found["range6"]) if found.get("range6") else self.subnet6
        self.gateway6: str = found.get("gateway6", "")
        self.internal: bool = found.get("internal", False)
        """There is no way out of it, and none in."""
        self.icc: bool = found.get("icc", True)
        """Whether its members reach each other (inter-container communication)."""
        self.host_access: bool = found.get("host_access", False)
        """Whether its members reach what the host itself listens on, names and ping apart."""
        self.mtu: int = found.get("mtu", 1500)
        self.download: int = found.get("download", 0)
        self.upload: int = found.get("upload", 0)
        """Bits per second that all members may have together from beyond the network, and send there; 0: no limit."""
        self.options: dict[str, str] = found.get("options", {})
        """What only its driver understands."""
        self.created: float = found.get("created", 0.0)
        self.last: int = found.get("last", -1)
        """The number, within the range, of the address that was handed out last."""
        self.index: int = found.get("index", 0)
        """The ifindex of its link once all of it was set up; 0 before."""
        self.server: dict[str, int] | None = found.get("server")
        """The process that answers for its names."""
        self.members = {container: Member(**member) for container, member in found.get("members", {}).items()}

    def record(self) -> dict[str, Any]:
        found: dict[str, Any] = {key: value for key, value in vars(self).items() if key not in ("name", "members")}
        for key in ("subnet", "range", "subnet6", "range6"):
            found[key] = str(found[key]) if found[key] is not None else None
        return found | {"members": {container: member.record() for container, member in self.members.items()}}

    def save(self) -> None:
        """Write it down. To be called with the lock held."""
        state.write_json(path(self.name), self.record(), alone=True)

    @property
    def link(self) -> str:
        """Its bridge, as `ip link` shows it."""
        return f"mc{state.tag()}-n{self.number:x}"

    @property
    def subnets(self) -> list[IPNetwork]:
        return [self.subnet] if self.subnet6 is None else [self.subnet, self.subnet6]

    def reserve(self, container: str, wanted: str, wanted6: str, member: Member) -> None:
        """Give `container` its addresses: those wanted, or the next that are free; noted in `members`, not yet saved.

        Raises UsageError for an address that is not the network's to give, ConflictError for one that is taken, or
        when none is left.
        """
        if container in self.members:
            raise ConflictError(f"container {container[:12]} is in network {self.name} already")
        taken = {number(it.address) for it in self.members.values()} | {number(self.gateway)}
        if wanted:
            chosen = self._check(wanted, self.subnet, taken)
        else:
            first, size = int(self.range.network_address), self.range.num_addresses
            ends = {int(self.subnet.network_address), int(self.subnet.broadcast_address)}
            steps = (first + (self.last + 1 + step) % size for step in range(size))
            free = next((it for it in steps if it not in taken and it not in ends), None)
            if free is None:
                raise ConflictError(
                    f"network {self.name} has no address left: all of {self.range} are taken",
                    hint="end containers that you no longer need, or make a network with a wider range",
                )
            self.last, chosen = free - first, free
        member.address = str(ipaddress.IPv4Address(chosen))
        member.address6 = self._reserve6(wanted6, chosen)
        self.members[container] = member

    def _reserve6(self, wanted: str, number4: int) -> str:
        """The IPv6 address: by default it ends like the IPv4 one, so that a reader sees what belongs together."""
        if self.subnet6 is None or self.range6 is None:
            if wanted:
                raise UsageError(f"network {self.name} has no IPv6", hint="make one with --ipv6")
            return ""
        taken = {number(it.address6) for it in self.members.values() if it.address6} | {number(self.gateway6)}
        if wanted:
            return str(ipaddress.IPv6Address(self._check(wanted, self.subnet6, taken)))
        taken.add(int(self.subnet6.network_address))
        first, size = int(self.range6.network_address), self.range6.num_addresses
        host = (number4 - int(self.subnet.network_address)) % size
        steps = (first + (host + step) % size for step in range(size))
        chosen = next((it for it in steps if it not in taken), None)
        if chosen is None:
            raise ConflictError(f"network {self.name} has no IPv6 address left: all of {self.range6} are taken")
        return str(ipaddress.IPv6Address(chosen))

    def _check(self, wanted: str, subnet: IPNetwork, taken: set[int]) -> int:
        try:
            address = ipaddress.ip_address(wanted)
        except ValueError:
            raise UsageError(f"{wanted!r} is not an address", hint=f"choose one of {subnet}") from None
        ends = {subnet.network_address, subnet.broadcast_address}
        if address.version != subnet.version or address not in subnet or address in ends:
            raise UsageError(
                f"{wanted} is not an address for a container of network {self.name}",
                hint=f"choose one of {subnet} that is neither its first nor its last",
            )
        if int(address) in taken:
            owners = (it for it, me in self.members.items() if address in map(_read, (me.address, me.address6)))
            whose = next((f"container {owner[:12]}'s" for owner in owners), "the gateway's")
            raise ConflictError(
                f"address {wanted} is taken in network {self.name}: it is {whose}",
                hint="leave it out, and the next free one is chosen",
            )
        return int(address)


def _read(address: str) -> object:
    return ipaddress.ip_address(address) if address else None


def number(address: str) -> int:
    """An address of either family as a number."""
    return int(ipaddress.ip_address(address))


def path(name: str) -> str:
    """A network's file."""
    return os.path.join(state.data_root(), "networks", f"{name}.json")


def interface_number(interface: str) -> int:
    """The 3 of eth3."""
    return int(interface.removeprefix("eth"))


def check_label(name: str, what: str) -> str:
    """`name`, if it can be a part of a host name. Raises UsageError."""
    if not LABEL.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot be {what}", hint="1 to 63 letters, digits, - and _; neither first nor last a - (RFC 1035)"
        )
    return name
