"""Into a network and out of it while the container runs.

A container's interfaces are made from the outside, as at its start; only its addresses and routes can be set from
nowhere but inside its network namespace. A thread of ours goes there for that moment.

A container of the default bridge can be connected, too; its `release` knows of one network only, so it is told by a
file among the container's own, before anything is made, that there may be more.

What the container asks names of, and what it is called, is in two files that are mounted into it. They are written
anew in place: the mount shows the same file, so its processes see the change.
"""

from __future__ import annotations

import contextvars
import os
import threading

from minicontainer import linux
from minicontainer.container import failures, records
from minicontainer.errors import ConflictError, NotFoundError, UsageError
from minicontainer.network import arrival, bridge, files, interfaces, links, membership, networks
from minicontainer.network.drivers import driver_called
from minicontainer.network.join import cables, texts
from minicontainer.network.membership import Endpoint
from minicontainer.network.netlink import Netlink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


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
        with failures.named("Join", "connect"):
            membership.plug(container, pid, endpoint.network)
            wishes = membership.wishes(container, endpoint.network)
            _within(pid, lambda netlink: interfaces.configure(netlink, wishes))
            arrival.wait_for(cables(wishes))
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
        if record is not None and is_alive and not driver_called(networks.get(network).driver).is_router:
            with failures.named("Join", "disconnect"):  # there is no cable to take the interface along
                _within(record["process"]["pid"], lambda it: links.delete_link(it, members[container].interface))
    if is_alive:
        _rewrite(container)


def _within(pid: int, action: Callable[[Netlink], None]) -> None:
    """Do something in the network namespace of process `pid`: in a thread, which may be in another one than the rest of
    its process (setns(2)), and ends there."""
    network = linux.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    failed: list[BaseException] = []

    def work() -> None:
        try:
            linux.setns(network, linux.CLONE_NEWNET)
            with Netlink() as netlink:
                action(netlink)
        except BaseException as error:  # for who waits for this thread
            failed.append(error)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(work,))
    try:
        thread.start()
        thread.join()
    finally:
        if thread.ident is not None:
            thread.join()  # also when the wait was interrupted: it is a matter of a moment
        os.close(network)
    if failed:
        raise failed[0]


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
