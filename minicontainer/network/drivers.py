"""What a network is made of: its driver.

The plan of a network (networks.py) is the same for all; what the kernel is asked to build is not. A driver is one
class with five verbs, and a new one needs no change anywhere else: subclass `Driver`, and enter it in `DRIVERS`.

    check      may such a network be made? (when it is created; nothing is built)
    up         build what its members share; again for a network that stands does no harm
    plug       give one container its interface
    unplug     take away what is left of it
    down       take away what `up` has built

    bridge     a switch of our own, and the host as its members' router (here)
    overlay    the same on several hosts, with a tunnel between them (overlay.py)
    macvlan    more hardware addresses on a card of the host: members stand in the host's own network (macvlan.py)

The networks that need no plan, `host`, `none` and `container:…`, are in modes.py.
"""

from __future__ import annotations

from minicontainer import linux, state
from minicontainer.errors import ConflictError, HostError, UsageError
from minicontainer.network import forwarding, interfaces, links
from minicontainer.network.addresses import hardware_address
from minicontainer.network.netlink import Netlink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minicontainer.network.definition import IPNetwork, Member, Network


class Driver:
    """A kind of network."""

    name = ""
    is_router = True
    """Whether this host is its members' gateway, so that its subnet must be free here, ports can be published, and
    the host answers for names."""
    gateway_in_range = False
    """Whether the gateway is the first of the range (each host of an overlay is the router of its own part)."""

    def frame(self, options: dict[str, str]) -> int:
        """How many bytes a frame may carry, unless the user says so."""
        return 1500

    def check(self, network: Network) -> None:
        """Raise UsageError when the network's options make no sense."""
        if network.options:
            raise UsageError(f"a {self.name} network has no option {', '.join(network.options)}")

    def up(self, netlink: Netlink, network: Network) -> int:
        """Build it, or what is missing of it; the ifindex of its link."""
        raise NotImplementedError

    def standing(self, netlink: Netlink, network: Network) -> bool:
        """Whether all of it is there."""
        link = links.find_link(netlink, network.link)
        return link is not None and link.index == network.index

    def plug(self, netlink: Netlink, network: Network, member: Member, pid: int) -> None:
        """Give the process's network namespace the member's interface; from the outside."""
        raise NotImplementedError

    def unplug(self, netlink: Netlink, network: Network, member: Member) -> None:
        """Remove the member's interface, if it is still there."""
        links.delete_link(netlink, member.link)

    def down(self, netlink: Netlink, network: Network) -> None:
        """Remove what `up` has built, if it is still there."""

    def pairs(self, network: Network) -> list[tuple[str, str]]:
        """The links between which the firewall lets its packets pass."""
        return [(network.link, network.link)] if network.icc else []

    def doors(self, network: Network) -> list[str]:
        """The links by which the network's name server may be asked."""
        return [network.link]

    def guards(self, network: Network) -> list[str]:
        """Rules for what arrives at this host at all (nft(8)), besides those that all networks have."""
        return []

    def refresh(self, netlink: Netlink, network: Network) -> bool:
        """Look whether what it depends on has changed, on a network that stands; whether the firewall must know."""
        return False

    def routed(self) -> list[tuple[str, IPNetwork]]:
        """What this machine has a route to already, each with what it is."""
        with Netlink() as netlink:
            return [
                ("which this machine has a route to", route)
                for version in (4, 6)
                for route, _ in interfaces.routes(netlink, version)
                if not route.is_link_local and not route.is_multicast and not route.is_loopback
            ]


class Bridge(Driver):
    """A bridge of the network's own; the host is the router."""

    name = "bridge"

    def up(self, netlink: Netlink, network: Network) -> int:
        link = links.find_link(netlink, network.link)
        if link is None:
            self._check_routes(netlink, network)
            links.create_bridge(netlink, network.link, hardware_address(network.gateway))
            interfaces.set_master(netlink, network.link, [member.link for member in network.members.values()])
        there = links.all_links(netlink)
        bridge = next(it for it in there if it.name == network.link)
        versions = [] if network.internal else [subnet.version for subnet in network.subnets]
        interfaces.set_mtu(netlink, network.link, network.mtu)
        if network.subnet6 is not None:
            # Until its own link-local address is known to be the only one, a second or two, the bridge could not ask
            # for its members' hardware addresses. (See interfaces.py for why nobody need wait.)
            self._switch(network.link, "ipv6", "accept_dad", "0")
        if not bridge.alias:
            note = forwarding.note(there, versions) or "as it was"
            links.set_up(netlink, network.link, f"{state.instance()} {network.name} {note}")
        if network.subnet6 is not None:
            self._switch(network.link, "ipv6", "disable_ipv6", "0")
        for subnet, gateway in zip(network.subnets, (network.gateway, network.gateway6), strict=False):
            interfaces.add_interface_address(netlink, network.link, bridge.index, gateway, subnet.prefixlen)
        self._switch(network.link, "ipv4", "route_localnet", "1")  # as for the default bridge
        forwarding.switch_on(versions)
        return bridge.index

    def plug(self, netlink: Netlink, network: Network, member: Member, pid: int) -> None:
        bridge = links.find_link(netlink, network.link)
        if bridge is None:
            raise HostError(f"the bridge {network.link} is gone", hint="somebody removed it; start again")
        mac = hardware_address(member.address)
        interfaces.create_cable(netlink, member.link, bridge, pid, member.interface, mac, network.mtu)
        if member.ports or not network.icc:
            interfaces.set_port(netlink, member.link, hairpin=bool(member.ports), isolated=not network.icc)

    def down(self, netlink: Netlink, network: Network) -> None:
        there = links.all_links(netlink)
        for bridge in there:
            if bridge.name == network.link:
                forwarding.switch_back(bridge, there)
                links.delete_link(netlink, bridge.name)

    @staticmethod
    def _check_routes(netlink: Netlink, network: Network) -> None:
        """What was free when the network was made may be somebody's by now."""
        for subnet in network.subnets:
            for route, _ in interfaces.routes(netlink, subnet.version):
                if route.overlaps(subnet):
                    raise ConflictError(
                        f"subnet {subnet} of network {network.name} overlaps {route}: this machine has a route there",
                        hint="`ip route` shows whose it is; remove the network, and create it with another subnet",
                    )

    @staticmethod
    def _switch(link: str, version: str, name: str, value: str) -> None:
        linux.write(f"/proc/sys/net/{version}/conf/{link}/{name}", value)


def driver_called(name: str) -> Driver:
    """Raises UsageError when there is none of this name."""
    if name in ("overlay", "macvlan"):  # these load their own file, and enter themselves
        __import__(f"minicontainer.network.{name}")
    if name not in DRIVERS:
        raise UsageError(f"there is no driver {name!r}", hint="bridge, overlay or macvlan")
    return DRIVERS[name]


DRIVERS: dict[str, Driver] = {"bridge": Bridge()}
"""The drivers by name."""
