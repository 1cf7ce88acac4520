"""The bridge network: an address of its own for the container, and a way out and in.

                 host                              │        container
    eth0 ── routing, nf_tables ── mc…-br0 (gateway) │
                                   │  │  └─ mc…-0003 ┼── eth0  172.29.0.3, default via 172.29.0.1
                                   │  └──── mc…-0002 ┼── eth0  172.29.0.2
                                                    │

The host is the container's router: the bridge has the subnet's first address, and the kernel forwards between it and
the host's other links (ip_forward), with the firewall's help (firewall.py).

`prepare` has the lock of the address plan. The first container of a network makes the bridge and the rules, the last
one takes them down, and puts ip_forward back if it was off. What it was is written where it cannot get lost before
the bridge does: into the bridge's own alias (forwarding.py).

The far end of the cable is made in the container's namespace at once; its address and route can be set only from
within, so the container's own process does that on its way (`join`).

Left out: what networks of the user's own have (networks.py): names of other containers, IPv6, limits of bandwidth.
"""

from __future__ import annotations

import os

from minicontainer import linux, state
from minicontainer.container.part import Part
from minicontainer.errors import HostError, UsageError
from minicontainer.network import arrival, conntrack, files, firewall, forwarding, links
from minicontainer.network.addresses import Plan, Subnet, hardware_address, machine_lock, number
from minicontainer.network.netlink import Netlink
from minicontainer.network.ports import Port, claim, read

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from minicontainer.container.part import Host, Inside


_MORE = "networks"
"""The file, among a container's, that says that it has been connected to networks besides the bridge."""


class Bridge(Part):
    """A network namespace with an address on the instance's bridge, and published ports.

    `publish` is `{8080: 80}` (host port: container port, TCP), or a list of `Port` or of text in Docker's form
    (`"127.0.0.1:5353:53/udp"`). `address` asks for a certain address of the network; without it the next free one is
    taken. From `prepare` on, `address` and `ports` say what the container has, `gateway` and `subnet` where it is.

    Raises UsageError for what cannot be read, ConflictError when a port or the address is taken, HostError when this
    machine has no nft or no subnet left.
    """

    namespaces = linux.CLONE_NEWNET

    def __init__(
        self,
        network: str = "bridge",
        publish: dict[int, int] | Iterable[Port | str] = (),
        address: str | None = None,
    ) -> None:
        if network != "bridge":
            raise UsageError(f"there is no network {network!r}", hint="for one of your own: Join(…)")
        self.network = network
        self.ports = read(publish)
        for port in self.ports:
            if ":" in port.host_ip:
                raise UsageError(
                    f"cannot publish {port}: the default bridge has no IPv6",
                    hint="use an IPv4 address of this host, or a network of your own that has it",
                )
        self.address = address or ""
        self.subnet = self.gateway = self.link = self.bridge = ""
        self.container = self.place = ""

    def record(self, host: Host) -> dict[str, Any]:
        return {"network": self.network, "container": host.id, "place": files.directory(host.id)}

    def prepare(self, host: Host) -> None:
        self.container, self.place, self.bridge = host.id, files.directory(host.id), bridge_name()
        arrival.offer(host)
        plan = Plan(self.network)
        with plan.locked(), Netlink() as netlink:
            bridge = links.find_link(netlink, bridge_name())
            complete = bridge is not None and bridge.index == plan.index
            if complete and not self.ports and firewall.generation() == plan.generation:
                self._reserve(plan, netlink)
                plan.save()
                return
            with machine_lock():
                rules = _firewall().look(plan.generation if complete else 0)
                if plan.subnet is None:
                    _find_subnet(plan, netlink, bridge)
                self._reserve(plan, netlink)
                self._claim(plan, rules)
                plan.save()  # from here on `release` finds what there may be to undo
                if not complete:
                    plan.index = _make_bridge(netlink, plan).index
                _enforce(plan, rules)
                plan.save()
        conntrack.forget(self.ports)

    def attach(self, host: Host) -> None:
        with Netlink() as netlink:
            bridge = links.find_link(netlink, bridge_name())
            if bridge is None:
                raise HostError(f"the bridge {bridge_name()} is gone", hint="somebody removed it; start again")
            links.create_veth(netlink, self.link, bridge, host.pid, "eth0", hardware_address(self.address))
            if self.ports:
                links.let_hairpin(netlink, self.link)
        files.offer(
            host,
            {
                "resolv.conf": files.resolver(),
                "hosts": files.hosts(self.address, host.hostname),
                "hostname": host.hostname + "\n",
            },
        )

    def join(self, inside: Inside) -> None:
        with Netlink() as netlink:
            links.set_up(netlink, "lo")
            links.add_address(netlink, "eth0", self.address, Subnet.parse(self.subnet))
            links.set_up(netlink, "eth0")
            links.add_default_route(netlink, self.gateway)
        links.open_low_ports()

    def mount(self, inside: Inside) -> None:
        files.mount(inside)

    def enter(self, inside: Inside) -> None:
        # not bridge_name(): our parent is a spawner, whose roots may be older than the program's
        arrival.wait(inside, [(self.link, self.bridge)])

    def release(self) -> None:
        if not self.container:
            return
        if os.path.exists(f"{self.place}/{_MORE}"):
            from minicontainer.network import membership

            membership.leave(self.container)
            linux.unlink(f"{self.place}/{_MORE}")
        leave(self.container, self.network)
        files.remove(self.place)

    def _reserve(self, plan: Plan, netlink: Netlink) -> None:
        def in_use(address: str) -> bool:
            return links.find_link(netlink, veth_name(plan.range, address)) is not None

        self.address = plan.reserve(self.container, self.address or None, in_use)
        self.subnet, self.gateway = str(plan.range), plan.gateway
        self.link = veth_name(plan.range, self.address)

    def _claim(self, plan: Plan, rules: firewall.RuleSet) -> None:
        taken = [(port, f"container {owner[:12]}") for owner, _, port in _published(plan)]
        taken += [(port, f"a container of another network (table {table})") for port, table in rules.elsewhere]
        claimed: list[Port] = []
        for port in self.ports:
            claimed.append(claim(port, [*taken, *((other, "this container") for other in claimed)]))
        self.ports = claimed
        plan.containers[self.container]["ports"] = [port.record() for port in claimed]


def bridge_name() -> str:
    """The instance's bridge, as `ip link` shows it."""
    return f"mc{state.tag()}-br0"


def veth_name(subnet: Subnet, address: str) -> str:
    """The host's end of the cable to `address`: its last 16 bits in hex, so no two can have the same."""
    return f"mc{state.tag()}-{number(address) - subnet.first:04x}"


def leave(container: str, network: str = "bridge") -> bool:
    """Undo what a container has of the bridge: its cable, its address, its ports; with the last one the bridge itself.
    Whether it had anything."""
    plan = Plan(network)
    with plan.locked():
        entry = plan.containers.pop(container, None)
        if entry is None:
            return False
        cable = veth_name(plan.range, entry["address"])
        with Netlink() as netlink:
            if not plan.containers:
                with machine_lock():
                    _take_down(netlink, [cable])
            else:
                links.delete_link(netlink, cable)
        if plan.containers and entry["ports"]:
            _enforce(plan, _firewall().look(plan.generation))
        conntrack.forget(Port(**port) for port in entry["ports"])
        plan.save()
    return True


def note_more(container: str) -> None:
    """Note that a container of the bridge may be in other networks, too (connecting.py), which it is then to leave."""
    with open(f"{files.directory(container)}/{_MORE}", "w"):
        pass


def address_of(container: str) -> str | None:
    """A container's address on the default bridge; None when it is not there."""
    plan = Plan("bridge")
    with plan.locked():
        entry = plan.containers.get(container)
    return None if entry is None else str(entry["address"])


def ports_of(container: str) -> list[Port]:
    """What a container has published on the default bridge."""
    plan = Plan("bridge")
    with plan.locked():
        return [Port(**port) for port in plan.containers.get(container, {"ports": []})["ports"]]


def reset() -> list[str]:
    """Remove all that the default bridge has in the kernel's network and the plan's file; what was removed, by name.

    For after a crash that left no records; containers that still run lose their network.
    """
    plan = Plan("bridge")
    with state.locked(plan.lock), machine_lock(), Netlink() as netlink:
        prefix = f"mc{state.tag()}-"
        ours = [link.name for link in links.all_links(netlink) if link.name.startswith(prefix)]
        others = (bridge_name(), *(prefix + letter for letter in "nvxis"))  # those of user-defined networks
        removed = _take_down(netlink, [name for name in ours if not name.startswith(others)])
        try:
            os.unlink(plan.path)
            removed.append(plan.path)
        except FileNotFoundError:
            pass
    return removed


def _firewall() -> firewall.Firewall:
    return firewall.Firewall(state.instance(), bridge_name())


def _published(plan: Plan) -> list[tuple[str, str, Port]]:
    """All published ports of the plan: container id, container address, port."""
    return [
        (owner, entry["address"], Port(**port)) for owner, entry in plan.containers.items() for port in entry["ports"]
    ]


def _enforce(plan: Plan, rules: firewall.RuleSet) -> None:
    """Bring the kernel's rules in line with the plan, and note the number of the rule set that results.

    Where somebody else has changed it in between, the number is not the one expected: then the next start looks again.
    """
    published = [(address, port) for _, address, port in _published(plan)]
    steps = _firewall().apply(plan.range, published, rules)
    plan.generation = rules.generation + steps
    if steps:
        firewall.warn_of_legacy_tables()


def _find_subnet(plan: Plan, netlink: Netlink, bridge: links.Link | None) -> None:
    """The plan's subnet: the one that the bridge has if the plan's file was lost under it, else a free one."""
    for address, subnet in links.subnets_of(netlink, bridge.index) if bridge else ():
        if number(address) == subnet.first + 1:
            plan.subnet, plan.last = subnet, 1
            return
    plan.choose_subnet(links.routed_subnets(netlink))


def _make_bridge(netlink: Netlink, plan: Plan) -> links.Link:
    """The bridge with its address, ready to forward. Each step is one that may have been done already."""
    name = bridge_name()
    links.create_bridge(netlink, name, hardware_address(plan.gateway))
    there = links.all_links(netlink)
    bridge = next(link for link in there if link.name == name)
    if not bridge.alias:
        links.set_up(netlink, name, f"{state.instance()} {forwarding.note(there, [4]) or 'ip_forward=1'}")
    links.add_address(netlink, name, plan.gateway, plan.range)
    # Answers to connections through the host's 127.0.0.1 come in here, for an address that only lo may have.
    linux.write(f"/proc/sys/net/ipv4/conf/{name}/route_localnet", "1")
    forwarding.switch_on([4])
    return bridge


def _take_down(netlink: Netlink, cables: list[str]) -> list[str]:
    """Remove the rules, the bridge and what is left of its cables, and put ip_forward back; what there was, by name.

    The order is for speed. Each of these waits in the kernel until no processor can be looking at the removed thing
    any more (an RCU grace period, some ten milliseconds; several for a bridge). Rules and bridge wait side by side;
    and by the time the bridge is gone, so are the cables of containers that have ended, together with the network
    namespace at their other end.
    """
    removed, nft = _firewall().remove()
    try:
        there = links.all_links(netlink)
        for bridge in there:
            if bridge.name == bridge_name():
                forwarding.switch_back(bridge, there)
                links.delete_link(netlink, bridge.name)
                removed.append(bridge.name)
        for cable in cables:
            links.delete_link(netlink, cable)
    finally:
        if nft is not None:
            _firewall().removed(nft)
    return removed + cables
