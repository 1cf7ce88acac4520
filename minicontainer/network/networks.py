"""Networks of the user's own: each a file that says what it is, and who is in it.

    <data root>/networks/NAME.json    {"driver": "bridge", "subnet": "10.224.7.0/24", "members": {"<id>": …}, …}

The default bridge (bridge.py) is one for all and knows nobody by name. A network of one's own is a line drawn around
containers that belong together: they reach each other, by name, and nobody else reaches them. Such a network is data.
Until its first member comes nothing of it exists in the kernel, and when the last one goes nothing is left: what is
built, by which driver, is drivers.py's affair.

One lock (`locked`) is held while any of these files changes, so two networks cannot take the same subnet, nor two
containers the same address. A member is written down before anything is made for it.

What such a file says is definition.py's, how a new one gets its numbers subnets.py's.
"""

from __future__ import annotations

import ipaddress
import itertools
import os
import time

from minicontainer import state
from minicontainer.errors import ConflictError, HostError, NotFoundError, UsageError
from minicontainer.network import subnets
from minicontainer.network.addresses import Plan
from minicontainer.network.definition import LABEL, Network, check_label, interface_number, path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from typing import Any

    from minicontainer.network.definition import IPNetwork

RESERVED = ("bridge", "host", "none", "default", "container")
"""Names that mean something else: the networks of bridge.py and modes.py."""


def locked() -> AbstractContextManager[None]:
    """Hold the lock of all of this instance's user-defined networks."""
    return state.locked(os.path.join(state.data_root(), "networks", "networks.lock"))


def get(name: str) -> Network:
    """The network of this name. Raises NotFoundError, and HostError when its file is no network's."""
    if name in RESERVED:
        raise NotFoundError(
            f"{name!r} is always there, and is no network of your own", hint="`minicontainer network ls` lists those"
        )
    found = _read(path(name)) if LABEL.fullmatch(name) else None
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
    range6: str = "",
    gateway6: str = "",
    internal: bool = False,
    icc: bool = True,
    host_access: bool = False,
    mtu: int = 0,
    download: int | str = 0,
    upload: int | str = 0,
    options: dict[str, str] | None = None,
) -> Network:
    """Make a network: write down what it is to be. What is not given is chosen: a free subnet, its first address for
    the gateway, all of it for the range; with `ipv6` a ULA /64 by chance (RFC 4193), too.

    `download` and `upload` are what all members may have together from beyond the network, and send there: bits per
    second, or text (`"100M"`). They share it (sharing.py).

    Raises UsageError for what makes no sense, ConflictError for a name that is taken or a subnet that overlaps one of
    ours or one that this machine has a route to. Then nothing has changed.
    """
    from minicontainer.network import shaping
    from minicontainer.network.drivers import driver_called

    check_label(name, "a network's name")
    if name in RESERVED:
        raise UsageError(f"{name!r} is not a name for a network of your own", hint=f"not one of {', '.join(RESERVED)}")
    chosen = driver_called(driver)
    options = dict(options or {})
    four = subnets.read(subnet, 4) if subnet else None
    ipv6 = ipv6 or bool(subnet6)
    if (range6 or gateway6) and not ipv6:
        raise UsageError(f"{range6 or gateway6}: network {name} is to have no IPv6", hint="name a subnet of it, too")
    six = (subnets.read(subnet6, 6) if subnet6 else subnets.ula()) if ipv6 else None
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
            four = subnets.choose(taken)
        for wanted in [four] if six is None else [four, six]:
            for what, other in taken:
                if wanted.version == other.version and wanted.overlaps(other):
                    raise ConflictError(f"subnet {wanted} overlaps {other}, {what}", hint="choose another one")
        inner = subnets.part(range, four)
        inner6 = subnets.part(range6, six) if six else None
        first, first6 = (inner, inner6) if chosen.gateway_in_range else (four, six)
        chosen6 = subnets.gateway(gateway6, six) if six and gateway6 else str(first6[1]) if first6 else ""
        found = {
            "driver": driver,
            "number": next(it for it in itertools.count(1) if it not in {other.number for other in others}),
            "subnet": str(four),
            "gateway": subnets.gateway(gateway, four) if gateway else str(first.network_address + 1),
            "range": str(inner),
            "subnet6": str(six) if six else None,
            "range6": str(inner6) if inner6 else None,
            "gateway6": chosen6,
            "internal": internal,
            "icc": icc,
            "host_access": host_access,
            "download": shaping.rate(download),
            "upload": shaping.rate(upload),
            "mtu": subnets.mtu(mtu or chosen.frame(options), ipv6),
            "options": options,
            "created": time.time(),
        }
        network = Network(name, found)
        if (network.download or network.upload) and not chosen.is_router:
            raise UsageError(
                f"bandwidth cannot be limited in a {driver} network",
                hint="the host is not in between there; leave out the limit",
            )
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


def _taken(others: list[Network]) -> list[tuple[str, IPNetwork]]:
    """The subnets of this instance, each with what it is."""
    found = [(f"which is network {other.name}'s", subnet) for other in others for subnet in other.subnets]
    try:
        default = state.read_json(Plan("bridge").path).get("subnet")
    except FileNotFoundError:
        default = None
    return found + ([("which is the default bridge's", ipaddress.IPv4Network(default))] if default else [])
