"""Network devices of the host's that are to be the container's: config.json's `linux.netDevices`.

A hook of the engine's was the way until now; here the runtime itself moves them, by chapter 6's netlink. It brings
none back: when the namespace goes, the kernel returns a physical device to the first namespace, and removes one that
is made of software. runtime-spec, config-linux.md, "Network Devices"
"""

from __future__ import annotations

import os

from minicontainer import linux
from minicontainer.container.part import Host, Part
from minicontainer.errors import ConflictError, HostError, NotFoundError, UsageError
from minicontainer.network.moving import move, netlink_of
from minicontainer.network.netlink import Netlink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class NetDevices(Part):
    """Move each into the container's network namespace, under the name it is to have there."""

    def __init__(self, section: dict[str, Any]) -> None:
        self.names = {name: entry.get("name") or name for name, entry in section["netDevices"].items()}
        for name in (*self.names, *self.names.values()):
            if name in ("", ".", "..") or len(name) > 15 or any(letter in "/:" or letter.isspace() for letter in name):
                raise UsageError(f"linux.netDevices: {name!r} is no name of a network device")
        spaces = {entry["type"]: entry.get("path", "") for entry in section.get("namespaces") or ()}
        if "network" not in spaces:
            raise UsageError("linux.netDevices need a network namespace of the container's own")
        self.path = spaces["network"]

    def attach(self, host: Host) -> None:
        namespace = linux.open(self.path or f"/proc/{host.pid}/ns/net", os.O_RDONLY)
        try:
            if os.path.samestat(os.fstat(namespace), os.stat("/proc/self/ns/net")):
                raise UsageError(f"linux.netDevices: {self.path} is the network namespace that they are in")
            with Netlink() as here, netlink_of(namespace) as there:
                for name, new in self.names.items():
                    move(here, name, there, namespace, new)
        except (NotFoundError, ConflictError, HostError) as error:
            raise type(error)(f"linux.netDevices: {error.message}", hint=error.hint) from None
        finally:
            os.close(namespace)
