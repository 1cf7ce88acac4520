"""The part that brings a container into networks of the user's own.

    create("frontend"); create("backend", internal=True)
    Container(["httpd", "-f"], PivotRoot(rootfs), Join("frontend", Endpoint("backend", aliases=["db"])))

Each network is an interface, eth0, eth1 and so on, in the order in which they were named. What is for neither of them
leaves by the first that is not internal; when that one is disconnected, by the next: each has a default route, and the
kernel takes the one with the smallest metric.

The moments are Bridge's (bridge.py); the work is membership.py's. `record` needs the container's id only, because
what it is a member of stands in the networks' own files, also when it was connected later (connecting.py).
"""

from __future__ import annotations

from minicontainer import linux
from minicontainer.container.part import Part
from minicontainer.errors import UsageError
from minicontainer.network import arrival, files, interfaces, links, membership, networks
from minicontainer.network.definition import check_label
from minicontainer.network.membership import Endpoint
from minicontainer.network.netlink import Netlink
from minicontainer.network.ports import Port, read

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from minicontainer.container.part import Host, Inside


class Join(Part):
    """A network namespace with an interface in each of the `networks`: names, or `Endpoint`s with further wishes.

    `publish` is as for `Bridge`; the ports lead into the first network that has a way in, over IPv6 too if it has
    that. `aliases` are names for the container in all of them. From `prepare` on, `ports` says what it has got, and
    `addresses` its addresses by network.
    """

    namespaces = linux.CLONE_NEWNET

    def __init__(
        self,
        *wanted: str | Endpoint,
        publish: dict[int, int] | Iterable[Port | str] = (),
        aliases: Iterable[str] = (),
    ) -> None:
        if not wanted:
            raise UsageError("Join() without a network", hint='name one: Join("frontend"), or use NoNetwork()')
        self.endpoints = [Endpoint(it) if isinstance(it, str) else it for it in wanted]
        for alias in (aliases := list(aliases)):
            check_label(alias, "an alias")
        self.aliases = aliases
        self.ports = read(publish)
        self.addresses: dict[str, list[str]] = {}
        self.container = self.place = ""
        self.wishes: list[dict[str, Any]] = []

    @property
    def address(self) -> str:
        """Its IPv4 address in the first network."""
        return self.addresses[self.endpoints[0].network][0] if self.addresses else ""

    def record(self, host: Host) -> dict[str, Any]:
        return {"container": host.id, "place": files.directory(host.id)}

    def prepare(self, host: Host) -> None:
        self.container, self.place = host.id, files.directory(host.id)
        arrival.offer(host)
        names = [host.name, host.id[:12], *self.aliases]
        self.ports = membership.enter(host.id, names, self.endpoints, self.ports)
        found = {network.name: network.members[host.id] for network in networks.of(host.id)}
        self.addresses = {name: [it for it in (me.address, me.address6) if it] for name, me in found.items()}
        self.wishes = membership.wishes(host.id)

    def attach(self, host: Host) -> None:
        membership.plug(host.id, host.pid)
        files.offer(host, texts(host.id, host.hostname, self.addresses))

    def join(self, inside: Inside) -> None:
        with Netlink() as netlink:
            links.set_up(netlink, "lo")
            interfaces.configure(netlink, self.wishes)
        links.open_low_ports()

    def mount(self, inside: Inside) -> None:
        files.mount(inside)

    def enter(self, inside: Inside) -> None:
        arrival.wait(inside, cables(self.wishes))

    def release(self) -> None:
        if self.container:
            membership.leave(self.container)
            files.remove(self.place)


def cables(wishes: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """The host's ends of a container's cables, each with its bridge; of those networks that have such."""
    return [(wish["cable"], wish["bridge"]) for wish in wishes if wish["bridge"]]


def texts(container: str, hostname: str, addresses: dict[str, list[str]]) -> dict[str, str]:
    """The container's three files: who answers for names, its own name, once per address."""
    servers = membership.resolvers(container)
    lines = [line for line in files.resolver().splitlines() if line.split()[:1] != ["nameserver"]]
    resolver = [f"nameserver {server}" for server in servers] + lines if servers else files.resolver().splitlines()
    hosts = files.hosts(None, hostname)
    hosts += "".join(f"{address}\t{hostname}\n" for both in addresses.values() for address in both)
    return {"resolv.conf": "\n".join(resolver) + "\n", "hosts": hosts, "hostname": hostname + "\n"}
