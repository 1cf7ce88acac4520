"""Published ports: which of the host's doors leads into the container, and whether that door is free.

`-p 8080:80` means: what arrives at port 8080 of any of the host's addresses goes to the container's port 80. The
firewall does that by rewriting the destination (firewall.py); nothing listens on the host. So a port can be taken
in three ways, and each is asked of the one who knows:

* by another container of ours: the address plan;
* by another instance's container: its table in the kernel's rule set;
* by a program of the host that listens there: the kernel, by trying to bind(2) a socket to the same address. /proc
  then tells which program it is.

No socket is kept: it would have to live in some process for as long as the container does. So a program may later
bind a published port without an error; connections go on reaching the container, because the rewriting comes first.

A range, `8000-8009:80-89`, is nothing but one port after the other.

Left out: protocols other than TCP and UDP.
"""

from __future__ import annotations

import _socket
import errno
import os

from minicontainer.errors import ConflictError, UsageError
from minicontainer.network.addresses import number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

ANY = "0.0.0.0"
"""All addresses of the host; of both families, where the container has both."""
ANY6 = "::"
"""All IPv6 addresses of the host."""


class Port:
    """One published port. `host_port` 0: the kernel chooses a free one (see `Bridge.ports` for which)."""

    __slots__ = ("container_port", "host_ip", "host_port", "protocol")

    def __init__(self, container_port: int, host_port: int = 0, host_ip: str = ANY, protocol: str = "tcp") -> None:
        for value, least in ((container_port, 1), (host_port, 0)):
            if not least <= value <= 65535:
                raise UsageError(f"{value} is not a port", hint=f"a port is a number from {least} to 65535")
        if protocol not in ("tcp", "udp"):
            raise UsageError(f"protocol {protocol!r} cannot be published", hint="use tcp or udp")
        if ":" in host_ip:
            host_ip = _ipv6(host_ip)
        else:
            number(host_ip)
        self.container_port, self.host_port, self.host_ip, self.protocol = container_port, host_port, host_ip, protocol

    @classmethod
    def parse(cls, written: str) -> Port:
        """From Docker's `-p`: `[[host address:][host port]:]container port[/tcp|udp]`. Raises UsageError."""
        ports, _, protocol = written.partition("/")
        host, _, inner = ports.rpartition(":")
        host_ip, _, outer = host.rpartition(":")
        try:
            return cls(_port(inner), _port(outer) if outer else 0, host_ip.strip("[]") or ANY, protocol or "tcp")
        except UsageError as error:
            raise UsageError(
                f"{written!r} is no published port: {error.message}",
                hint="write [host address:][host port:]container port[/tcp or /udp], as in 127.0.0.1:8080:80",
            ) from None

    def __str__(self) -> str:
        return f"{self.host_ip}:{self.host_port}->{self.container_port}/{self.protocol}"

    def __repr__(self) -> str:
        return f"<Port {self}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Port) and self.record() == other.record()

    def __hash__(self) -> int:
        return hash(str(self))

    def record(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}

    def clashes(self, other: Port) -> bool:
        """Whether one packet could be meant for both."""
        return (
            self.protocol == other.protocol
            and self.host_port == other.host_port
            and (self.host_ip == other.host_ip or ANY in (self.host_ip, other.host_ip) or self._any6(other))
        )

    def _any6(self, other: Port) -> bool:
        """Whether one of them is for all IPv6 addresses and the other is for one."""
        return ANY6 in (self.host_ip, other.host_ip) and ":" in self.host_ip and ":" in other.host_ip


def read(publish: dict[int, int] | Iterable[Port | str]) -> list[Port]:
    """What `Bridge(publish=…)` may be given: `{8080: 80}` (host port: container port, TCP), Ports, or Docker's text."""
    if isinstance(publish, dict):
        ports = [Port(inner, outer) for outer, inner in publish.items()]
    else:
        ports = []
        for port in publish:
            ports += [Port.parse(one) for one in _each(port)] if isinstance(port, str) else [port]
    for i, port in enumerate(ports):
        if port.host_port and any(port.clashes(other) for other in ports[:i]):
            raise UsageError(f"{port} is published twice", hint="give each container port a host port of its own")
    return ports


def claim(port: Port, ours: Iterable[tuple[Port, str]]) -> Port:
    """The port with its host port filled in, if nobody has it; `ours` are published ports, each with who has it.

    Raises ConflictError with the port and its holder, UsageError when the host has no such address.
    """
    taken = list(ours)
    for _ in range(100):
        claimed = Port(port.container_port, port.host_port or _free_port(port), port.host_ip, port.protocol)
        holder = next((owner for other, owner in taken if claimed.clashes(other)), None)
        if holder is None:
            if port.host_port:
                _try(claimed)
            return claimed
        if port.host_port:
            break
    raise ConflictError(
        f"port {claimed.host_port}/{claimed.protocol} of {claimed.host_ip} is already published by {holder}",
        hint="publish another host port, or none: -p CONTAINER_PORT takes a free one",
    )


def _each(written: str) -> list[str]:
    """A text with a range in it as one text for each of its ports."""
    ports, slash, protocol = written.partition("/")
    host, colon, inner = ports.rpartition(":")
    host_ip, second, outer = host.rpartition(":")
    if "-" not in inner and "-" not in outer:
        return [written]
    inners, outers = _range(inner, written), _range(outer, written) if outer else None
    if outers is not None and len(outers) != len(inners):
        raise UsageError(
            f"{written!r} is no published port: {len(outers)} host ports for {len(inners)} of the container's",
            hint="as many on either side: 8000-8009:80-89",
        )
    pairs = [("" if outers is None else str(outers[place]), port) for place, port in enumerate(inners)]
    return [f"{host_ip}{second}{out}{colon}{port}{slash}{protocol}" for out, port in pairs]


def _range(written: str, whole: str) -> list[int]:
    first, _, last = written.partition("-")
    try:
        ports = list(range(_port(first), min(_port(last or first), 65536) + 1))
    except UsageError as error:
        raise UsageError(f"{whole!r} is no published port: {error.message}", hint="as in 8000-8009:80-89") from None
    if not ports or ports[-1] > 65535:
        raise UsageError(f"{whole!r} is no published port: {written} is no range", hint="as in 8000-8009:80-89")
    return ports


def _ipv6(written: str) -> str:
    """An IPv6 address in its shortest form."""
    try:
        return _socket.inet_ntop(_socket.AF_INET6, _socket.inet_pton(_socket.AF_INET6, written))
    except OSError:
        raise UsageError(f"{written!r} is not an IPv6 address", hint="in brackets, as in [::1]:8080:80") from None


def _port(written: str) -> int:
    if not written.isascii() or not written.isdigit():
        raise UsageError(f"{written!r} is not a port")
    return int(written)


def _try(port: Port) -> int:
    """Bind a socket to the port for a moment; the port, which the kernel chooses if it is 0."""
    kind = _socket.SOCK_STREAM if port.protocol == "tcp" else _socket.SOCK_DGRAM
    family = _socket.AF_INET6 if ":" in port.host_ip else _socket.AF_INET
    probe = _socket.socket(family, kind | _socket.SOCK_CLOEXEC)
    try:
        if family == _socket.AF_INET6:  # the same port of IPv4 is another one
            probe.setsockopt(_socket.IPPROTO_IPV6, _socket.IPV6_V6ONLY, 1)
        if port.protocol == "tcp":  # what is left of closed connections (TIME_WAIT) is no conflict, a listener is
            probe.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
        probe.bind((port.host_ip, port.host_port))
        chosen: int = probe.getsockname()[1]
        return chosen
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            who = _holder(port) or "another program"
            raise ConflictError(
                f"port {port.host_port}/{port.protocol} of {port.host_ip} is in use by {who}",
                hint="stop it, or publish another host port",
            ) from None
        if error.errno == errno.EADDRNOTAVAIL:
            raise UsageError(
                f"{port.host_ip} is not an address of this host", hint="`ip address` shows those it has"
            ) from None
        raise
    finally:
        probe.close()


def _free_port(port: Port) -> int:
    return _try(Port(port.container_port, 0, port.host_ip, port.protocol))


def _holder(port: Port) -> str | None:
    """The program that has the port: its socket's inode by /proc/net, and then whose descriptor that is."""
    wanted = f"{port.host_port:04X}"
    inodes = set()
    for table in (port.protocol, port.protocol + "6"):
        try:
            with open(f"/proc/self/net/{table}") as file:
                rows = [line.split() for line in file.readlines()[1:]]
        except FileNotFoundError:
            continue  # a kernel without IPv6
        inodes |= {row[9] for row in rows if row[1].endswith(":" + wanted) and row[9] != "0"}
    links = {f"socket:[{inode}]" for inode in inodes}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if any(os.readlink(f"/proc/{pid}/fd/{fd}") in links for fd in os.listdir(f"/proc/{pid}/fd")):
                with open(f"/proc/{pid}/comm") as file:
                    return f"{file.read().strip()} (process {pid})"
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it ended meanwhile, or is not ours to look at
    return None
