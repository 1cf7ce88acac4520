"""config.json's `linux.resources` as files of cgroups: of v1's trees, or of v2's one.

The specification speaks v1 (`shares`, `quota`, memory and swap together); what v2 says otherwise is converted as the
other runtimes do. What a host cannot do is an error that names the field. runtime-spec, config-linux.md, "Control
groups"; https://github.com/containers/crun/blob/main/crun.1.md#cgroup-v2
"""

from __future__ import annotations

from minicontainer import linux
from minicontainer.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    File = tuple[str, str, str]  # directory, file, text

_MEMORY = {
    "limit": "memory.limit_in_bytes",
    "reservation": "memory.soft_limit_in_bytes",
    "swap": "memory.memsw.limit_in_bytes",
    "kernelTCP": "memory.kmem.tcp.limit_in_bytes",
    "swappiness": "memory.swappiness",
}
_CPU = {  # in the order in which a v1 kernel takes them: a period first, then how much of it
    "shares": "cpu.shares",
    "period": "cpu.cfs_period_us",
    "quota": "cpu.cfs_quota_us",
    "burst": "cpu.cfs_burst_us",
    "realtimePeriod": "cpu.rt_period_us",
    "realtimeRuntime": "cpu.rt_runtime_us",
    "idle": "cpu.idle",
}
_THROTTLE = {
    "throttleReadBpsDevice": ("blkio.throttle.read_bps_device", "rbps"),
    "throttleWriteBpsDevice": ("blkio.throttle.write_bps_device", "wbps"),
    "throttleReadIOPSDevice": ("blkio.throttle.read_iops_device", "riops"),
    "throttleWriteIOPSDevice": ("blkio.throttle.write_iops_device", "wiops"),
}


def files(limits: dict[str, Any], directories: dict[str, str]) -> list[File]:
    """What is to be written where. Raises UsageError for what this host's trees cannot do."""
    section = {key: value for key, value in limits.items() if value is not None and key not in ("devices",)}
    unknown = set(section) - {"memory", "cpu", "pids", "blockIO", "hugepageLimits", "network", "rdma", "unified"}
    if unknown:
        raise UsageError(f"linux.resources.{min(unknown)} is not known")
    found: list[File] = []
    for name, translate in (("memory", _memory), ("cpu", _cpu), ("pids", _pids), ("blockIO", _block)):
        if section.get(name):
            found.extend(translate(section[name], directories))
    found.extend(_rest(section, directories))
    return found


def write(found: list[File]) -> None:
    """Write them. What the kernel refuses is tried again after the others: on v1, of memory and memory with swap the
    larger one has to come first, of quota and period the one that keeps their ratio below the parent's, whichever way
    they go."""
    waiting = list(found)
    while waiting:
        refused: list[tuple[File, OSError]] = []
        for entry in waiting:
            try:
                linux.write(f"{entry[0]}/{entry[1]}", entry[2])
            except OSError as error:
                refused.append((entry, error))
        if len(refused) == len(waiting):
            raise refused[0][1]
        waiting = [entry for entry, _ in refused]


def _place(controller: str, field: str, directories: dict[str, str]) -> tuple[str, bool]:
    """The directory for a controller, and whether it is v1's."""
    if controller in directories:
        return directories[controller], True
    if "unified" in directories:
        return directories["unified"], False
    raise UsageError(f"linux.resources.{field}: this host has no cgroup controller {controller}")


def _memory(section: dict[str, Any], directories: dict[str, str]) -> Iterator[File]:
    place, v1 = _place("memory", "memory", directories)
    if v1:
        if section.get("limit") == -1 and section.get("swap") is None:
            section = {**section, "swap": -1}  # no limit at all: v1 keeps memory below memory with swap
        for name, file in _MEMORY.items():
            if section.get(name) is not None:
                yield place, file, str(section[name])
        if section.get("disableOOMKiller"):
            yield place, "memory.oom_control", "1"
        return
    for name in ("kernelTCP", "swappiness", "disableOOMKiller"):
        if section.get(name):
            raise UsageError(f"linux.resources.memory.{name} is not supported on cgroup v2")
    limit, swap = section.get("limit"), section.get("swap")
    if limit is not None:
        yield place, "memory.max", _max(limit)
    if swap is not None and swap != 0:
        if swap > 0 and (limit is None or limit <= 0):
            raise UsageError("linux.resources.memory.swap needs a limit of memory")
        if 0 < swap < (limit or 0):
            raise UsageError("linux.resources.memory.swap is memory and swap together: not less than the limit")
        yield place, "memory.swap.max", "max" if swap < 0 else str(swap - (limit or 0))
    if section.get("reservation"):
        yield place, "memory.low", _max(section["reservation"])


def _cpu(section: dict[str, Any], directories: dict[str, str]) -> Iterator[File]:
    for name in ("cpus", "mems"):
        if section.get(name):
            place, _ = _place("cpuset", f"cpu.{name}", directories)
            yield place, f"cpuset.{name}", section[name]
    if not any(section.get(name) for name in _CPU):
        return
    place, v1 = _place("cpu", "cpu", directories)
    if v1:
        for name, file in _CPU.items():
            if section.get(name):
                yield place, file, str(section[name])
        return
    for name in ("realtimePeriod", "realtimeRuntime"):
        if section.get(name):
            raise UsageError(f"linux.resources.cpu.{name} is not supported on cgroup v2")
    if section.get("shares"):
        yield place, "cpu.weight", str(weight(section["shares"]))
    if section.get("quota") or section.get("period"):
        quota = section.get("quota") or -1
        yield place, "cpu.max", f"{_max(quota)} {section.get('period') or 100000}"
    if section.get("burst"):
        yield place, "cpu.max.burst", str(section["burst"])
    if section.get("idle"):
        yield place, "cpu.idle", str(section["idle"])


def weight(shares: int) -> int:
    """v1's shares (2 to 262144) as v2's weight (1 to 10000), on the line that all runtimes draw."""
    return 1 + (max(2, min(shares, 262144)) - 2) * 9999 // 262142


def _pids(section: dict[str, Any], directories: dict[str, str]) -> Iterator[File]:
    limit = section.get("limit")
    if limit is not None and limit != 0:
        place, _ = _place("pids", "pids", directories)
        yield place, "pids.max", _max(limit)


def _block(section: dict[str, Any], directories: dict[str, str]) -> Iterator[File]:
    place, v1 = _place("blkio", "blockIO", directories)
    for name in ("leafWeight",):
        if section.get(name):
            raise UsageError(f"linux.resources.blockIO.{name}: the kernel has had none since Linux 5.0")
    weight_file = "blkio.bfq.weight" if v1 else "io.bfq.weight"
    if section.get("weight"):
        yield place, weight_file, str(section["weight"])
    for device in section.get("weightDevice") or ():
        if device.get("leafWeight"):
            raise UsageError("linux.resources.blockIO.weightDevice.leafWeight: the kernel has had none since Linux 5.0")
        file = "blkio.bfq.weight_device" if v1 else "io.bfq.weight"
        yield place, file, f"{device['major']}:{device['minor']} {device['weight']}"
    for name, (file, key) in _THROTTLE.items():
        for device in section.get(name) or ():
            number = f"{device['major']}:{device['minor']}"
            rate = f"{'' if v1 else f'{key}='}{device['rate']}"
            yield place, file if v1 else "io.max", f"{number} {rate}"


def _rest(section: dict[str, Any], directories: dict[str, str]) -> Iterator[File]:
    for entry in section.get("hugepageLimits") or ():
        place, v1 = _place("hugetlb", "hugepageLimits", directories)
        size = entry["pageSize"]
        yield place, f"hugetlb.{size}.{'limit_in_bytes' if v1 else 'max'}", str(entry["limit"])
    network = section.get("network") or {}
    if network.get("classID") is not None:
        place, v1 = _place("net_cls", "network.classID", directories)
        if not v1:
            raise UsageError("linux.resources.network.classID is not supported on cgroup v2")
        yield place, "net_cls.classid", str(network["classID"])
    for entry in network.get("priorities") or ():
        place, v1 = _place("net_prio", "network.priorities", directories)
        if not v1:
            raise UsageError("linux.resources.network.priorities is not supported on cgroup v2")
        yield place, "net_prio.ifpriomap", f"{entry['name']} {entry['priority']}"
    for name, entry in (section.get("rdma") or {}).items():
        place, _ = _place("rdma", "rdma", directories)
        words = [f"hca_{key[3:].lower()}={entry[key]}" for key in ("hcaHandles", "hcaObjects") if key in entry]
        yield place, "rdma.max", f"{name} {' '.join(words)}"
    if section.get("unified") and any(key != "unified" for key in directories):
        raise UsageError(
            "linux.resources.unified: invalid configuration: it is for cgroup v2, and this host's controllers are on v1"
        )
    for file, text in (section.get("unified") or {}).items():
        if "/" in file:
            raise UsageError(f"linux.resources.unified: {file!r} is no file of a cgroup")
        for line in text.splitlines() or [""]:
            yield directories["unified"], file, line


def _max(number: int) -> str:
    return "max" if number < 0 else str(number)
