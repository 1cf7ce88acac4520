"""Networks of the user's own: each a file that says what it is, and who is in it.

    <data root>/networks/NAME.json    {"driver": "bridge", "subnet": "10.224.7.0/24", "members": {"<id>": …}, …}

The default bridge (bridge.py) is one for all and knows nobody by name. A network of one's own is a line drawn around
containers that belong together: they reach each other, by name, and nobody else reaches them. Such a network is data.
Until its first member comes nothing of it exists in the kernel, and when the last one goes nothing is left: what is
built, by which driver, is drivers.py's affair.

One lock (`locked`) is held while any of these files changes, so two networks cannot take the same subnet, nor two
containers the same address. A member is written down before anything is made for it.

Sources: RFC 1918 and RFC 4193 (private addresses of both families), RFC 1035, 2.3.1 (names).
"""

from __future__ import annotations

import ipaddress
import itertools
import os
import re
import time

from minicontainer import state
from minicontainer.errors import ConflictError, HostError, NotFoundError, UsageError
from minicontainer.network.addresses import Plan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import AbstractContextManager
    from typing import Any

    IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

RESERVED = ("bridge", "host", "none", "default", "container")
"""Names that mean something else: the networks of bridge.py and modes.py."""

_POOL = [f"10.{second}.{third}.0/24" for second in range(222, 231) for third in range(256)]
_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_MEMBER = ("address", "address6", "link", "interface", "names", "ports", "download", "upload", "delay", "loss")


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
        delay: float = 0,
        loss: float = 0,
    ) -> None:
        self.address, self.address6, self.link, self.interface = address, address6, link, interface
        self.names, self.ports = list(names), list(ports)
        self.download, self.upload = download, upload
        """Bits per second towards the container, and away from it; 0: as fast as it goes."""
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
        self.gateway6: str = found.get("gateway6", "")
        self.internal: bool = found.get("internal", False)
        """There is no way out of it, and none in."""
        self.icc: bool = found.get("icc", True)
        """Whether its members reach each other (inter-container communication)."""
        self.host_access: bool = found.get("host_access", False)
        """Whether its members reach what the host itself listens on, names and ping apart."""
        self.mtu: int = found.get("mtu", 1500)
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
        for key in ("subnet", "range", "subnet6"):
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
        if self.subnet6 is None:
            if wanted:
                raise UsageError(f"network {self.name} has no IPv6", hint="make one with --ipv6")
            return ""
        taken = {number(it.address6) for it in self.members.values() if it.address6} | {number(self.gateway6)}
        if wanted:
            return str(ipaddress.IPv6Address(self._check(wanted, self.subnet6, taken)))
        first, size = int(self.subnet6.network_address), self.subnet6.num_addresses
        host = (number4 - int(self.subnet.network_address)) % size
        chosen = next(first + (host + step) % size for step in range(size) if first + (host + step) % size not in taken)
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
            raise ConflictError(f"address {wanted} is taken in network {self.name}", hint="leave it out")
        return int(address)


def number(address: str) -> int:
    """An address of either family as a number."""
    return int(ipaddress.ip_address(address))


def path(name: str) -> str:
    """A network's file."""
    return os.path.join(state.data_root(), "networks", f"{name}.json")


def locked() -> AbstractContextManager[None]:
    """Hold the lock of all of this instance's user-defined networks."""
    return state.locked(os.path.join(state.data_root(), "networks", "networks.lock"))


def get(name: str) -> Network:
    """The network of this name. Raises NotFoundError, and HostError when its file is no network's."""
    found = _read(path(name)) if _LABEL.fullmatch(name) else None
    if found is None:
        raise NotFoundError(
            f"there is no network {name!r}", hint="`minicontainer network ls` lists them, `network create` makes one"
        )
    return _parse(name, found)


def _parse(name: str, found: dict[str, Any]) -> Network:
    try:
        return Network(name, found)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise HostError(
            f"{path(name)} describes no network: {type(error).__name__}: {error}",
            hint=f"end its containers, remove the file and create network {name} again",
        ) from None


def everything() -> list[Network]:
    """All user-defined networks of this instance, by name."""
    try:
        names = sorted(os.listdir(os.path.join(state.data_root(), "networks")))
    except FileNotFoundError:
        return []
    named = [name.removesuffix(".json") for name in names if name.endswith(".json")]
    read = ((name, _read(path(name))) for name in named if name not in RESERVED)
    return [_parse(name, found) for name, found in read if found is not None]


def _read(where: str) -> dict[str, Any] | None:
    """What is in a network's file; None when there is none, or when it is another kind of plan (bridge.py's)."""
    try:
        found = state.read_json(where)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise HostError(f"{where} is not JSON: {error}", hint="with no container in it, remove the file") from None
    return found if isinstance(found, dict) and "driver" in found else None


def create(
    name: str,
    *,
    driver: str = "bridge",
    subnet: str = "",
    gateway: str = "",
    range: str = "",
    ipv6: bool = False,
    subnet6: str = "",
    gateway6: str = "",
    internal: bool = False,
    icc: bool = True,
    host_access: bool = False,
    mtu: int = 0,
    options: dict[str, str] | None = None,
) -> Network:
    """Make a network: write down what it is to be. What is not given is chosen: a free subnet, its first address for
    the gateway, all of it for the range; with `ipv6` a ULA /64 by chance (RFC 4193), too.

    Raises UsageError for what makes no sense, ConflictError for a name that is taken or a subnet that overlaps one of
    ours or one that this machine has a route to. Then nothing has changed.
    """
    from minicontainer.network.drivers import driver_called

    check_label(name, "a network's name")
    if name in RESERVED:
        raise UsageError(f"{name!r} is not a name for a network of your own", hint=f"not one of {', '.join(RESERVED)}")
    chosen = driver_called(driver)
    options = dict(options or {})
    four = _subnet(subnet, 4) if subnet else None
    ipv6 = ipv6 or bool(subnet6)
    six = (_subnet(subnet6, 6) if subnet6 else _ula()) if ipv6 else None
    with locked():
        if os.path.exists(path(name)):
            raise ConflictError(f"there is a network {name} already", hint=f"`minicontainer network inspect {name}`")
        others = everything()
        taken = _taken(others) + (chosen.routed() if chosen.is_router else [])
        if four is None:
            if not chosen.is_router:
                raise UsageError(
                    f"a {driver} network needs the subnet of the network that it is part of",
                    hint="--subnet 192.168.1.0/24 --gateway 192.168.1.1",
                )
            four = _choose(taken)
        for wanted in [four] if six is None else [four, six]:
            for what, other in taken:
                if wanted.version == other.version and wanted.overlaps(other):
                    raise ConflictError(f"subnet {wanted} overlaps {other}, {what}", hint="choose another one")
        inner = _range(range, four)
        first = inner if chosen.gateway_in_range and range else four
        found = {
            "driver": driver,
            "number": next(it for it in itertools.count(1) if it not in {other.number for other in others}),
            "subnet": str(four),
            "gateway": _gateway(gateway, four) if gateway else str(first.network_address + 1),
            "range": str(inner),
            "subnet6": str(six) if six else None,
            "gateway6": (_gateway(gateway6, six) if gateway6 else str(six.network_address + 1)) if six else "",
            "internal": internal,
            "icc": icc,
            "host_access": host_access,
            "mtu": _mtu(mtu or chosen.mtu, ipv6),
            "options": options,
            "created": time.time(),
        }
        network = Network(name, found)
        chosen.check(network)
        network.save()
    return network


def remove(name: str) -> None:
    """Remove a network that has no members. Raises NotFoundError, ConflictError."""
    with locked():
        network = get(name)
        if network.members:
            ids = ", ".join(sorted(container[:12] for container in network.members))
            raise ConflictError(
                f"network {name} has members: {ids}", hint=f"end them, or `minicontainer network disconnect {name} …`"
            )
        os.unlink(path(name))


def prune() -> list[str]:
    """Remove every network that has no members; their names."""
    removed = []
    with locked():
        for network in everything():
            if not network.members:
                os.unlink(path(network.name))
                removed.append(network.name)
    return removed


def of(container: str) -> list[Network]:
    """The networks that a container is a member of, in the order of its interfaces."""
    found = [network for network in everything() if container in network.members]
    return sorted(found, key=lambda network: interface_number(network.members[container].interface))


def interface_number(interface: str) -> int:
    """The 3 of eth3."""
    return int(interface.removeprefix("eth"))


def check_label(name: str, what: str) -> str:
    """`name`, if it can be a part of a host name. Raises UsageError."""
    if not _LABEL.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot be {what}", hint="1 to 63 letters, digits, - and _; neither first nor last a - (RFC 1035)"
        )
    return name


def _subnet(written: str, version: int) -> Any:
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


def _gateway(written: str, subnet: IPNetwork) -> str:
    try:
        gateway = ipaddress.ip_address(written)
    except ValueError:
        raise UsageError(f"{written!r} is not an address", hint=f"a gateway is one of {subnet}") from None
    if gateway.version != subnet.version or gateway not in subnet or gateway == subnet.network_address:
        raise UsageError(f"gateway {gateway} is not in subnet {subnet}", hint=f"such as {subnet.network_address + 1}")
    if gateway.version == 4 and gateway == subnet.broadcast_address:
        raise UsageError(f"gateway {gateway} is the subnet's broadcast address")
    return str(gateway)


def _range(written: str, subnet: ipaddress.IPv4Network) -> ipaddress.IPv4Network:
    if not written:
        return subnet
    try:
        inner = ipaddress.IPv4Network(written)
    except ValueError as error:
        raise UsageError(f"{written!r} is not a range: {error}", hint=f"a part of {subnet}") from None
    if not inner.subnet_of(subnet):
        raise UsageError(f"range {inner} is not a part of subnet {subnet}")
    return inner


def _mtu(wanted: int, ipv6: bool) -> int:
    least = 1280 if ipv6 else 68  # RFC 8200, 5; RFC 791
    if not least <= wanted <= 65535:
        raise UsageError(f"an MTU of {wanted} bytes is not possible", hint=f"{least} to 65535; Ethernet's is 1500")
    return wanted


def _ula() -> ipaddress.IPv6Network:
    """A subnet of our own: fd, forty bits by chance, subnet 0. RFC 4193, 3.2"""
    return ipaddress.IPv6Network((b"\xfd" + os.urandom(5) + bytes(10), 64))


def _taken(others: list[Network]) -> list[tuple[str, IPNetwork]]:
    """The subnets of this instance, each with what it is."""
    found = [(f"which is network {other.name}'s", subnet) for other in others for subnet in other.subnets]
    try:
        default = state.read_json(Plan("bridge").path).get("subnet")
    except FileNotFoundError:
        default = None
    return found + ([("which is the default bridge's", ipaddress.IPv4Network(default))] if default else [])


def _choose(taken: list[tuple[str, IPNetwork]]) -> ipaddress.IPv4Network:
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
