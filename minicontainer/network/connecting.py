"""Into a network and out of it while the container runs.

A container's interfaces are made from the outside, as at its start; only its addresses and routes can be set from
nowhere but inside its network namespace. A process of ours goes there for that moment: a container without any
namespace of its own that joins that one.

A container of the default bridge can be connected, too; its `release` knows of one network only, so it is told by a
file among the container's own, before anything is made, that there may be more.

What the container asks names of, and what it is called, is in two files that are mounted into it. They are written
anew in place: the mount shows the same file, so its processes see the change.
"""

from __future__ import annotations

import os

from minicontainer import linux
from minicontainer.container import Container, records
from minicontainer.container.part import Part
from minicontainer.errors import ConflictError, NotFoundError, UsageError
from minicontainer.network import arrival, bridge, files, interfaces, links, membership, networks
from minicontainer.network.join import cables, texts
from minicontainer.network.membership import Endpoint
from minicontainer.network.netlink import Netlink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from minicontainer.container.part import Host, Inside


def connect(container: str, endpoint: str | Endpoint) -> None:
    """Bring the running container (its whole id) into one more network.

    Raises NotFoundError, ConflictError (it is in there already, or has a network that cannot be added to), UsageError.
    """
    record = _record(container)
    endpoint = Endpoint(endpoint) if isinstance(endpoint, str) else endpoint
    pid = record["process"]["pid"]
    if endpoint.network == "bridge":
        raise UsageError("a running container cannot be brought onto the default bridge", hint="start it there")
    networks.get(endpoint.network)
    on_bridge = _has(record, ":Bridge")
    if on_bridge:
        bridge.note_more(container)
    membership.enter(container, [record["name"], container[:12]], [endpoint], [], first=1 if on_bridge else 0)
    try:
        membership.plug(container, pid, endpoint.network)
        Container(_nothing, _Configure(pid, membership.wishes(container, endpoint.network))).run()
    except BaseException:
        membership.leave(container, endpoint.network)
        raise
    _rewrite(container)


def disconnect(container: str, network: str) -> None:
    """Take a container out of a network, the default bridge included; from there on it has neither its address there
    nor its name, nor what was published there."""
    record = records.read(container)
    is_alive = record is not None and records.is_alive(record.get("process"))
    if network == "bridge":
        if not bridge.leave(container):
            raise NotFoundError(f"container {container[:12]} is not on the default bridge")
    else:
        members = networks.get(network).members
        if container not in members:
            raise NotFoundError(
                f"container {container[:12]} is not in network {network}",
                hint=f"`minicontainer network inspect {network}`",
            )
        membership.leave(container, network)
        if record is not None and is_alive:
            Container(_nothing, _Unplug(record["process"]["pid"], members[container].interface)).run()
    if is_alive:
        _rewrite(container)


class _Configure(Part):
    """Set up interfaces in the network namespace of process `target`."""

    def __init__(self, target: int, wishes: list[dict[str, Any]]) -> None:
        self.target, self.wishes = target, wishes

    def prepare(self, host: Host) -> None:
        arrival.offer(host)
        host.give("network", linux.open(f"/proc/{self.target}/ns/net", os.O_RDONLY))

    def join(self, inside: Inside) -> None:
        linux.setns(inside.fds["network"], linux.CLONE_NEWNET)
        with Netlink() as netlink:
            interfaces.configure(netlink, self.wishes)
        arrival.wait(inside, cables(self.wishes))


class _Unplug(_Configure):
    """Remove an interface there that no cable of the host's has taken along."""

    def __init__(self, target: int, interface: str) -> None:
        super().__init__(target, [])
        self.interface = interface

    def join(self, inside: Inside) -> None:
        linux.setns(inside.fds["network"], linux.CLONE_NEWNET)
        with Netlink() as netlink:
            links.delete_link(netlink, self.interface)


def _nothing() -> None:
    """What is left to do when the interfaces are there."""


def _record(container: str) -> dict[str, Any]:
    record = records.read(container)
    if record is None or not records.is_alive(record["process"]):
        raise NotFoundError(f"container {container[:12]} does not run", hint="`minicontainer ps` lists those that do")
    if not (_has(record, ":Join") or _has(record, ":Bridge")):
        raise ConflictError(
            f"container {container[:12]} has no network that others can be added to",
            hint="start it with --network NAME, or on the default bridge; not with none, host or container:…",
        )
    return record


def _has(record: dict[str, Any], part: str) -> bool:
    return any(it["part"].endswith(part) for it in record["parts"])


def _rewrite(container: str) -> None:
    """The container's files, where it has a root of its own to see them in."""
    place = files.directory(container)
    hostname = _line(f"{place}/hostname") or container[:12]
    addresses = {}
    if (own := bridge.address_of(container)) is not None:
        addresses["bridge"] = [own]
    for network in networks.of(container):
        member = network.members[container]
        addresses[network.name] = [it for it in (member.address, member.address6) if it]
    for name, text in texts(container, hostname, addresses).items():
        if os.path.exists(f"{place}/{name}"):
            with open(f"{place}/{name}", "w") as file:
                file.write(text)


def _line(path: str) -> str:
    try:
        with open(path) as file:
            return file.readline().strip()
    except FileNotFoundError:
        return ""
