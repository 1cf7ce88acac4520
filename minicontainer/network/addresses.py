"""The address plan of a network: who has which address, in one file that a reader can open.

    <data root>/networks/bridge.json    {"subnet": "172.29.0.0/16", "containers": {"<id>": {"address": …}}, …}

An address is in use from the moment its line is on disk until the container that it was given to is undone, also
when that container's owner was killed: nobody concludes from a dead process that an address is free. The file is
changed by atomic rename while its lock is held, so fifty containers that start at once from several processes get
fifty addresses. Addresses are handed out in turn, not lowest first, so that one which was just given back rests.

The plan also asks the kernel. The near end of each cable is named after the address at its far end, so the kernel
itself refuses a second one; an address whose cable exists is skipped even if the file was lost.

Two instances on one machine must not choose the same subnet: each takes the first of a list (`SUBNETS`) that nothing
on the machine routes to, holding a lock that all instances share while it looks and while it brings its bridge up.

Left out: subnets chosen by the user, more than one network, IPv6 (networks.py has them).
"""

from __future__ import annotations

import _socket
import fcntl
import os
from contextlib import contextmanager

from minicontainer import state
from minicontainer.errors import ConflictError, HostError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

SUBNETS = (
    *(f"172.{second}.0.0/16" for second in range(29, 17, -1)),
    *(f"10.{second}.0.0/16" for second in range(231, 250)),
    *(f"192.168.{third}.0/24" for third in range(200, 250)),
)
"""What a network's subnet is chosen from, in this order: private ranges (RFC 1918), away from those that Docker
(172.17 upwards), podman (10.88) and home routers (192.168.0 and 1) take first."""


def number(address: str) -> int:
    """An IPv4 address as a number. Raises UsageError when it is none."""
    try:
        return int.from_bytes(_socket.inet_pton(_socket.AF_INET, address), "big")
    except OSError:
        raise UsageError(f"{address!r} is not an IPv4 address", hint="four numbers, as in 192.0.2.1") from None


def text(address: int) -> str:
    """A number as an IPv4 address."""
    return _socket.inet_ntoa(address.to_bytes(4, "big"))


class Subnet:
    """A range of addresses, by any address in it and the number of leading bits that all of them share."""

    __slots__ = ("first", "last", "length")

    def __init__(self, address: int, length: int) -> None:
        size = 1 << 32 - length
        self.first = address & ~(size - 1)
        self.last = self.first + size - 1
        self.length = length

    @classmethod
    def parse(cls, written: str) -> Subnet:
        """From `172.29.0.0/16`."""
        address, _, length = written.partition("/")
        return cls(number(address), int(length))

    def __str__(self) -> str:
        return f"{text(self.first)}/{self.length}"

    def __contains__(self, address: int) -> bool:
        return self.first <= address <= self.last

    def overlaps(self, other: Subnet) -> bool:
        return self.first <= other.last and other.first <= self.last


class Plan:
    """The plan of one network, to be used inside `with plan.locked():`, which reads the file. `save` writes it."""

    def __init__(self, network: str) -> None:
        self.network = network
        self.path = os.path.join(state.data_root(), "networks", f"{network}.json")
        self.lock = self.path.removesuffix(".json") + ".lock"
        self.subnet: Subnet | None = None
        self.last = 0
        """The host part that was handed out last."""
        self.index = 0
        """The bridge's ifindex once all of the network was set up; 0 before."""
        self.generation = 0
        """The number of the kernel's rule set when we last looked at it; 0: look again."""
        self.containers: dict[str, dict[str, Any]] = {}
        """For each container id its `address`, and its `ports` as `Port.record()` has them."""

    @contextmanager
    def locked(self) -> Iterator[Plan]:
        with state.locked(self.lock):
            try:
                found = state.read_json(self.path)
            except FileNotFoundError:
                found = {}
            except ValueError as error:
                raise HostError(
                    f"the address plan {self.path} is not JSON: {error}",
                    hint="with no container running, remove it (or run `minicontainer reset`)",
                ) from None
            self.subnet = Subnet.parse(found["subnet"]) if found.get("subnet") else None
            self.last, self.index = found.get("last", 0), found.get("index", 0)
            self.generation, self.containers = found.get("generation", 0), found.get("containers", {})
            yield self

    def save(self) -> None:
        """Write the plan; without a container left there is nothing to remember, and the file goes."""
        if not self.containers:
            try:
                os.unlink(self.path)
            except FileNotFoundError:
                pass
            return
        written = {
            "subnet": str(self.subnet),
            "gateway": self.gateway,
            "last": self.last,
            "index": self.index,
            "generation": self.generation,
            "containers": self.containers,
        }
        state.write_json(self.path, written, alone=True)

    @property
    def range(self) -> Subnet:
        """The subnet, once it has been chosen."""
        if self.subnet is None:
            raise HostError(f"network {self.network} has no subnet yet")
        return self.subnet

    @property
    def gateway(self) -> str:
        """The bridge's own address: the first of the subnet."""
        return text(self.range.first + 1)

    def choose_subnet(self, taken: list[Subnet]) -> None:
        """Take the first subnet of the list that overlaps none of `taken`. Raises HostError."""
        for written in SUBNETS:
            subnet = Subnet.parse(written)
            if not any(subnet.overlaps(other) for other in taken):
                self.subnet, self.last = subnet, 1
                return
        raise HostError(
            "this machine has routes into every subnet that a network could use",
            hint=f"free one of {SUBNETS[0]} … {SUBNETS[-1]} (see `ip route`)",
        )

    def reserve(self, container: str, wanted: str | None, in_use: Callable[[str], bool]) -> str:
        """Note an address for `container`: `wanted`, or the next that is free. `in_use` asks the kernel.

        Raises ConflictError when the wanted one is taken or none is left, UsageError when it is not ours to give.
        """
        subnet = self.range
        taken = {number(entry["address"]) for entry in self.containers.values()}
        if wanted is not None:
            chosen = number(wanted)
            if chosen not in subnet or chosen in (subnet.first, subnet.first + 1, subnet.last):
                raise UsageError(
                    f"{wanted} is not an address for a container of network {self.network}",
                    hint=f"choose one of {subnet} that is not its first, its last or the gateway {self.gateway}",
                )
            if chosen in taken or in_use(wanted):
                raise ConflictError(f"address {wanted} is taken in network {self.network}", hint="leave it out")
        else:
            chosen = self._next_free(subnet, taken, in_use)
            self.last = chosen - subnet.first
        address = text(chosen)
        self.containers[container] = {"address": address, "ports": []}
        return address

    def _next_free(self, subnet: Subnet, taken: set[int], in_use: Callable[[str], bool]) -> int:
        usable = subnet.last - subnet.first - 2  # all but the network's own, the gateway and the broadcast address
        for step in range(usable):
            candidate = subnet.first + 2 + (self.last - 1 + step) % usable
            if candidate not in taken and not in_use(text(candidate)):
                return candidate
        raise ConflictError(
            f"network {self.network} has no address left: all {usable} of {subnet} are taken",
            hint="end containers that you no longer need; `minicontainer reset` frees what crashed ones hold",
        )


@contextmanager
def machine_lock() -> Iterator[None]:
    """Hold what all instances on this machine share: subnets, published ports, the switch for forwarding. flock(2)

    The lock hangs on the directory of this machine's links, which is there without our making.
    """
    fd = os.open("/sys/class/net", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def hardware_address(address: str) -> bytes:
    """The MAC of the interface that has `address`: locally administered (its second bit), 02:6d and the address.

    So an address that is handed out again brings its MAC along, and no neighbour's cache is ever wrong.
    """
    return b"\x02\x6d" + number(address).to_bytes(4, "big")
