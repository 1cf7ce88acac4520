"""The three networks that are none of ours: the host's, nobody's, and another container's.

* `HostNetwork`: no network namespace at all. The container has the host's links, addresses, ports and firewall.
* `NoNetwork`: a namespace with nothing in it but a loopback of its own.
* `JoinNetwork`: the namespace of another container. Both have one set of links and ports, and find each other on
  127.0.0.1; that is what a pod is made of.

Each brings the files that names are looked up in (files.py), if the container has a root of its own.
"""

from __future__ import annotations

import os

from minicontainer import linux
from minicontainer.container.part import Part
from minicontainer.errors import HostError, NotFoundError
from minicontainer.network import files, links
from minicontainer.network.netlink import Netlink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from minicontainer.container.part import Host, Inside


class _Files(Part):
    """What the three have in common: the files. A subclass says in `_texts` what is in them."""

    place = ""

    def record(self, host: Host) -> dict[str, Any]:
        return {"place": files.directory(host.id)}

    def prepare(self, host: Host) -> None:
        self.place = files.directory(host.id)

    def attach(self, host: Host) -> None:
        files.offer(host, self._texts(host))

    def mount(self, inside: Inside) -> None:
        files.mount(inside)

    def release(self) -> None:
        if self.place:
            files.remove(self.place)

    def _texts(self, host: Host) -> dict[str, str]:
        return files.host_texts(host.hostname)


class HostNetwork(_Files):
    """The host's own network: no namespace, no isolation, no cost."""


class NoNetwork(_Files):
    """A network namespace in which there is only lo, and lo is up."""

    namespaces = linux.CLONE_NEWNET

    def join(self, inside: Inside) -> None:
        with Netlink() as netlink:
            links.set_up(netlink, "lo")
        links.open_low_ports()

    def _texts(self, host: Host) -> dict[str, str]:
        return {
            "resolv.conf": files.resolver(),
            "hosts": files.hosts(None, host.hostname),
            "hostname": host.hostname + "\n",
        }


class JoinNetwork(_Files):
    """The network namespace of process `target` (its pid), or one that is kept alive by a file (its path).

    Raises NotFoundError when there is none. A container in a user namespace of its own may not join one that belongs
    to another: setns(2) says EPERM.
    """

    def __init__(self, target: int | str) -> None:
        self.target = target

    def prepare(self, host: Host) -> None:
        super().prepare(host)
        path = f"/proc/{self.target}/ns/net" if isinstance(self.target, int) else self.target
        try:
            fd = linux.open(path, os.O_RDONLY)
        except (FileNotFoundError, ProcessLookupError):
            raise NotFoundError(
                f"there is no network namespace {path}", hint="is the container whose network you want still running?"
            ) from None
        except OSError as error:
            raise HostError(f"cannot open the network namespace {path}: {error.strerror}") from None
        host.give("network", fd)

    def join(self, inside: Inside) -> None:
        linux.setns(inside.fds["network"], linux.CLONE_NEWNET)

    def _texts(self, host: Host) -> dict[str, str]:
        """The other container's files as its own processes see them, for its names are ours now."""
        texts = super()._texts(host)
        if isinstance(self.target, int):
            for name in files.NAMES:
                found = files.read_inside(f"/proc/{self.target}/root", f"/etc/{name}")
                if found is not None:
                    texts[name] = found
        return texts
