"""Who comes to a network and who goes: what happens on the host, for one container or for all.

    enter    reserve addresses and ports, write them down; build the network if it does not stand; let the firewall
             know; start who answers for names
    plug     the container's process exists: give it its interfaces
    leave    undo all of that; with the last member the network itself

The lock of the networks is held in each of them. What is about to be made is in a network's file before it is made,
and leaves the file after it is gone: so `leave`, called by anyone for a container whose owner was killed at any
moment, finds what there is to undo.
"""

from __future__ import annotations

import errno
import itertools

from minicontainer import state
from minicontainer.errors import UsageError
from minicontainer.network import conntrack, elements, links, networks, rules, shaping, sharing
from minicontainer.network.addresses import machine_lock
from minicontainer.network.definition import Member, Network, check_label, interface_number
from minicontainer.network.drivers import driver_called
from minicontainer.network.netlink import Netlink
from minicontainer.network.ports import Port, claim

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


class Endpoint:
    """A wish to be in a network: with a certain address, under other names, no faster than so many bits per second.

    `aliases` are names beside the container's own. `download` is towards the container, `upload` away from it, in
    bits per second or as text (`"10M"`); 0: no limit. Where the members of the network have a limit together, it gets
    `share` parts of that where others get one. What goes to the container waits for `delay` (milliseconds, or
    text: `"20ms"`), and `loss` of it (`"1%"`, or 0.01) gets lost.
    """

    def __init__(
        self,
        network: str,
        address: str = "",
        address6: str = "",
        aliases: Iterable[str] = (),
        download: int | str = 0,
        upload: int | str = 0,
        share: int | str = 1,
        delay: float | str = 0,
        loss: float | str = 0,
    ) -> None:
        self.network, self.address, self.address6 = network, address, address6
        self.aliases = [check_label(alias, "an alias") for alias in aliases]
        self.download, self.upload = shaping.rate(download), shaping.rate(upload)
        self.share = sharing.share(share)
        self.delay, self.loss = shaping.duration(delay), shaping.part(loss)

    @property
    def shaped(self) -> bool:
        """Whether it asks for anything that the host has to see to between the two ends of the cable."""
        return bool(self.download or self.upload or self.delay or self.loss)


def enter(
    container: str, names: Sequence[str], endpoints: Sequence[Endpoint], ports: Sequence[Port], first: int = 0
) -> list[Port]:
    """Make `container` a member, published ports included; the ports, each with the host port that it has got.
    `first` is the number of its first interface, unless it has some already.

    Raises NotFoundError (no such network), UsageError, ConflictError; then nothing has changed but what `leave` undoes.
    """
    with networks.locked():
        everything = {network.name: network for network in networks.everything()}
        chosen = [everything.get(it.network) or networks.get(it.network) for it in endpoints]
        if len({network.name for network in chosen}) < len(chosen):
            named = [network.name for network in chosen]
            twice = next(name for name in named if named.count(name) > 1)
            raise UsageError(f"network {twice} is named twice", hint="a container can be in a network only once")
        outlet = _outlet(chosen, ports)
        links_taken = {member.link for network in everything.values() for member in network.members.values()}
        there = [network.members[container] for network in everything.values() if container in network.members]
        first = max([interface_number(member.interface) + 1 for member in there] + [first])
        for place, (network, endpoint) in enumerate(zip(chosen, endpoints, strict=True)):
            if endpoint.shaped and not driver_called(network.driver).is_router:
                raise UsageError(
                    f"bandwidth cannot be limited in {network.driver} network {network.name}",
                    hint="the host is not in between there; leave out the limit",
                )
            if endpoint.share != 1 and not sharing.rates(network):
                raise UsageError(
                    f"network {network.name} has no limit that its members could share",
                    hint="leave out the share, or create the network with --download and --upload",
                )
            if endpoint.upload and network.upload:
                raise UsageError(
                    f"network {network.name} has a limit of upload for all its members together",
                    hint="leave out the container's own; its share of that is what can be chosen",
                )
            link = next(name for name in _cables() if name not in links_taken)
            links_taken.add(link)
            known = [name for name in dict.fromkeys([*names, *endpoint.aliases]) if name]
            member = Member("", "", link, f"eth{first + place}", known)
            member.download, member.upload = endpoint.download, endpoint.upload
            member.share = endpoint.share
            member.delay, member.loss = endpoint.delay, endpoint.loss
            network.reserve(container, endpoint.address, endpoint.address6, member)
        with Netlink() as netlink, machine_lock():
            if outlet is not None:
                ports = _claim(outlet, container, ports)
            for network in chosen:
                network.save()  # from here on `leave` finds what there may be to undo
            standing = [
                driver_called(network.driver).standing(netlink, network) and sharing.standing(netlink, network)
                for network in chosen
            ]
            anew = False
            for network, stands in zip(chosen, standing, strict=True):
                driver = driver_called(network.driver)
                if stands:
                    sharing.add(netlink, network, network.members[container])
                if stands and not driver.refresh(netlink, network):
                    continue
                anew = True
                if not stands:
                    index = driver.up(netlink, network)
                    sharing.begin(netlink, network)
                    network.index = index
                network.save()
            routed = [network for network in chosen if driver_called(network.driver).is_router]
            if routed:
                _enforce([network.members[container] for network in routed], anew)
            for network in routed:
                _answer_for_names(network)
    conntrack.forget(ports)
    return list(ports)


def plug(container: str, pid: int, only: str = "") -> None:
    """Give the process's network namespace its interfaces: that in the network `only`, or all."""
    with Netlink() as netlink:
        for network in networks.of(container):
            if only in ("", network.name):
                member = network.members[container]
                driver_called(network.driver).plug(netlink, network, member, pid)
                shaping.limit(netlink, member)
                sharing.plug(netlink, network, member)


def wishes(container: str, only: str = "") -> list[dict[str, Any]]:
    """What is to be set up from within the container's network namespace, for `interfaces.configure`."""
    return [
        _wish(network, network.members[container]) for network in networks.of(container) if only in ("", network.name)
    ]


def leave(container: str, only: str = "") -> None:
    """Undo what `enter` and `plug` have done for `container`, in the network `only` or in all of them."""
    with networks.locked():
        for network in networks.of(container):
            if only not in ("", network.name):
                continue
            member = network.members[container]
            with Netlink() as netlink:
                driver = driver_called(network.driver)
                if driver.is_router:
                    elements.remove(rules.of(member))
                driver.unplug(netlink, network, member)
                shaping.forget(netlink, member)
                del network.members[container]
                if not network.members:
                    with machine_lock():
                        _close(netlink, network)
                else:
                    sharing.remove(netlink, network, member)
            conntrack.forget(Port(**port) for port in member.ports)
            network.save()


def refresh(name: str) -> None:
    """Look whether what the network depends on has changed (an overlay's peers). For its name server, every second."""
    with networks.locked(), Netlink() as netlink, machine_lock():
        network = networks.get(name)
        driver = driver_called(network.driver)
        if network.members and driver.standing(netlink, network) and driver.refresh(netlink, network):
            network.save()
            _replace()


def reset() -> list[str]:
    """Remove all that this instance's networks have in the kernel, and every member from their files; what was
    removed, by name. Containers that still run lose their network."""
    with networks.locked(), machine_lock(), Netlink() as netlink:
        for network in networks.everything():
            if network.members or network.index:
                network.members.clear()
                _close(netlink, network)
                network.save()
        rules.replace([])
        prefix = f"mc{state.tag()}-"
        removed = [link.name for link in links.all_links(netlink) if link.name.startswith(prefix)]
        for name in removed:
            links.delete_link(netlink, name)
    return removed


def resolvers(container: str) -> list[str]:
    """Who answers a container's questions for names: the hosts of its networks."""
    found = [network for network in networks.of(container) if driver_called(network.driver).is_router]
    return [network.gateway for network in found][:3]  # MAXNS: resolv.conf(5)


def _close(netlink: Netlink, network: Network) -> None:
    """The last member has gone: so does all of the network that is not data."""
    from minicontainer.network import answering

    answering.stop(network.server)
    network.server = None
    driver_called(network.driver).down(netlink, network)
    sharing.end(netlink, network)
    _replace(besides=network.name)
    network.index = 0


def _enforce(members: Sequence[Member], anew: bool) -> None:
    """Let the firewall know the members: by elements, or where networks are new, or our tables are gone, by writing
    the whole anew."""
    wanted = [element for member in members for element in rules.of(member)]
    if not anew:
        try:
            elements.add(wanted)
            return
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EEXIST):
                raise
    _replace()


def _replace(besides: str = "") -> None:
    up = [network for network in networks.everything() if network.members and network.name != besides]
    up = [network for network in up if driver_called(network.driver).is_router]
    standing = [(network, driver_called(network.driver)) for network in up]
    pairs = [pair for network, driver in standing for pair in driver.pairs(network)]
    doors = [(link, network) for network, driver in standing for link in driver.doors(network)]
    rules.replace(up, pairs, doors, [rule for network, driver in standing for rule in driver.guards(network)])


def _answer_for_names(network: Network) -> None:
    from minicontainer.network import answering

    if not answering.is_running(network.server):
        network.server = answering.start(network)
        network.save()


def _outlet(chosen: Sequence[Network], ports: Sequence[Port]) -> Network | None:
    """The network that the published ports lead into: the first that has a way in."""
    if not ports:
        return None
    for network in chosen:
        if driver_called(network.driver).is_router and not network.internal:
            return network
    raise UsageError(
        f"ports cannot be published into {', '.join(network.name for network in chosen)}",
        hint="an internal network has no way in, and in a macvlan network every port is open anyway",
    )


def _claim(network: Network, container: str, ports: Sequence[Port]) -> list[Port]:
    taken = [
        (Port(**port), f"container {owner[:12]}")
        for other in networks.everything()
        for owner, member in other.members.items()
        for port in member.ports
    ]
    taken += [(port, f"a container of {table}") for port, table in rules.elsewhere()]
    claimed: list[Port] = []
    for port in ports:
        if port.host_ip == "::1":
            raise UsageError(
                f"{port} cannot be published: the kernel lets nothing out of lo that is sent from ::1",
                hint="publish on 127.0.0.1; who tries ::1 is refused there, and comes by IPv4",
            )
        if ":" in port.host_ip and network.subnet6 is None:
            raise UsageError(
                f"{port} cannot be published: network {network.name} has no IPv6", hint="create it so: --ipv6"
            )
        ours = [(other, "this container") for other in claimed]
        found = claim(port, [*taken, *ours])
        claimed.append(found)
    network.members[container].ports = [port.record() for port in claimed]
    return claimed


def _wish(network: Network, member: Member) -> dict[str, Any]:
    addresses = [f"{member.address}/{network.subnet.prefixlen}"]
    gateways = [network.gateway]
    if network.subnet6 is not None:
        addresses.append(f"{member.address6}/{network.subnet6.prefixlen}")
        gateways.append(network.gateway6)
    return {
        "name": member.interface,
        "mtu": network.mtu,
        "addresses": addresses,
        "ipv6": network.subnet6 is not None,
        "gateways": [] if network.internal else gateways,
        "cable": member.link,
        "bridge": network.link if driver_called(network.driver).is_router else "",
        "metric": 100 + interface_number(member.interface),
    }


def _cables() -> Iterable[str]:
    """Names for the host's ends of cables: v and three digits of base 36."""
    return (f"mc{state.tag()}-v{''.join(digits)}" for digits in itertools.product(_DIGITS, repeat=3))
