"""The part that gives a container its share of the machine: `Container(argv, …, Cgroup(memory="64M", cpus=0.5))`.

The group is made and its limits are written before there is a process, so that not one instruction of the container
runs without them. On v2 the process is then born inside (clone3 with CLONE_INTO_CGROUP); on v1, where that does not
exist, it is moved while it is held, before it becomes the container's command. Its cgroup namespace, if it gets one,
is made after that (chapter 03): what a process sees as `/` is the group in which it was at that moment.
"""

from __future__ import annotations

from minicontainer import state
from minicontainer.cgroups import units
from minicontainer.cgroups.group import Group
from minicontainer.container.part import Part
from minicontainer.errors import ConflictError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from minicontainer.container.part import Host


class Cgroup(Part):
    """A control group of the container's own, with limits.

    memory, memory_high, memory_low, memory_min, swap: bytes, or `64M`; `max` for no limit. `swap` is what it may
    swap out, on top of memory (not Docker's sum of both). cpus: CPUs' worth of time, 0.5 is 50 ms of each 100 ms.
    cpu_weight, io_weight: 1 to 10000, its share when others want some too; 100 unless set. cpuset: the CPUs it may
    run on, `0-2,4`; cpuset_mems: memory nodes. pids: processes and threads. io_max: for each device rbps, wbps, riops,
    wiops (see `units.io_max`). hugetlb: bytes for each page size, {"2MB": "64M"}. limits: any other file of cgroup v2,
    {"memory.oom.group": "1"}.

    Without any limit it is still a group: it can be read, frozen and killed, and limits can be set later. Raises
    UsageError at once for a value that makes no sense, HostError when it starts for what this host cannot do.
    """

    def __init__(
        self,
        *,
        memory: str | int | None = None,
        memory_high: str | int | None = None,
        memory_low: str | int | None = None,
        memory_min: str | int | None = None,
        swap: str | int | None = None,
        cpus: str | float | None = None,
        cpu_weight: int | None = None,
        cpuset: str | Iterable[int] | None = None,
        cpuset_mems: str | Iterable[int] | None = None,
        pids: str | int | None = None,
        io_max: Mapping[str, Mapping[str, str | int]] | None = None,
        io_weight: int | None = None,
        hugetlb: Mapping[str, str | int] | None = None,
        limits: Mapping[str, str | int] | None = None,
    ) -> None:
        wishes = {
            "memory.max": None if memory is None else units.bytes_or_max(memory),
            "memory.high": None if memory_high is None else units.bytes_or_max(memory_high),
            "memory.low": None if memory_low is None else units.bytes_or_max(memory_low),
            "memory.min": None if memory_min is None else units.bytes_or_max(memory_min),
            "memory.swap.max": None if swap is None else units.bytes_or_max(swap),
            "cpu.max": None if cpus is None else units.cpu_max(cpus),
            "cpu.weight": None if cpu_weight is None else units.weight(cpu_weight),
            "cpuset.cpus": None if cpuset is None else units.number_list(cpuset),
            "cpuset.mems": None if cpuset_mems is None else units.number_list(cpuset_mems),
            "pids.max": None if pids is None else units.count_or_max(pids),
            "io.max": None if io_max is None else units.io_max(io_max),
            "io.weight": None if io_weight is None else units.weight(io_weight),
        }
        wishes |= {f"hugetlb.{size}.max": units.bytes_or_max(value) for size, value in (hugetlb or {}).items()}
        wishes |= {file: units.for_file(file, value) for file, value in (limits or {}).items()}
        self.limits = {file: value for file, value in wishes.items() if value is not None}
        """What is written, by cgroup v2's names."""
        self.path = ""
        """The group's path, `<instance>/<container id>`, once there is one."""

    @property
    def group(self) -> Group:
        """The group of the running container: read it, change its limits, freeze it."""
        if not self.path:
            raise UsageError("this container has no cgroup yet", hint="start it first")
        return Group(self.path)

    def record(self, host: Host) -> dict[str, Any]:
        return {"path": f"{state.instance()}/{host.id}"}

    def prepare(self, host: Host) -> None:
        self.path = f"{state.instance()}/{host.id}"
        group = self.group
        try:
            group.make(self.limits)
        except ConflictError:
            self.path = ""  # it is another one's: not ours to release
            raise
        host.cgroup = group.birthplace()

    def attach(self, host: Host) -> None:
        self.group.move_in(host.pid)

    def release(self) -> None:
        if self.path:
            self.group.remove()

    def second(self, host: Host) -> Part:
        return JoinCgroup(self.path)


class JoinCgroup(Part):
    """A second process of a container, in the group of the first. Makes nothing and releases nothing."""

    def __init__(self, path: str) -> None:
        self.path = path

    def prepare(self, host: Host) -> None:
        host.cgroup = Group(self.path).birthplace()

    def attach(self, host: Host) -> None:
        Group(self.path).move_in(host.pid)
