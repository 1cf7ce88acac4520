"""When the command gets a CPU and the disk: config.json's `process.scheduler` and `process.ioPriority`."""

from __future__ import annotations

from minicontainer import linux
from minicontainer.container.part import Inside, Part
from minicontainer.errors import HostError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# sched(7); include/uapi/linux/sched.h
_POLICIES = {"OTHER": 0, "FIFO": 1, "RR": 2, "BATCH": 3, "ISO": 4, "IDLE": 5, "DEADLINE": 6}
_FLAGS = {
    "RESET_ON_FORK": 0x01,
    "RECLAIM": 0x02,
    "DL_OVERRUN": 0x04,
    "KEEP_POLICY": 0x08,
    "KEEP_PARAMS": 0x10,
    "UTIL_CLAMP_MIN": 0x20,
    "UTIL_CLAMP_MAX": 0x40,
}
_SHORTEST, _LONGEST = 1 << 10, 1 << 63  # what the kernel takes for a runtime: it leaves ten bits out, and has a sign
# ioprio_set(2)
_CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}


class Scheduler(Part):
    """A policy for the CPU, with what belongs to it. Raises UsageError for what makes no sense."""

    seal_order = -20  # while we may still

    def __init__(self, section: dict[str, Any]) -> None:
        self.policy = _known("process.scheduler.policy", section.get("policy", ""), "SCHED_", _POLICIES)
        flags = (_known("process.scheduler.flags", flag, "SCHED_FLAG_", _FLAGS) for flag in section.get("flags") or ())
        self.flags = sum(flags)
        self.nice, self.priority = section.get("nice", 0), section.get("priority", 0)
        self.times = tuple(section.get(name, 0) for name in ("runtime", "deadline", "period"))
        if self.policy != _POLICIES["DEADLINE"] and any(self.times):
            raise UsageError("process.scheduler: runtime, deadline and period are for SCHED_DEADLINE")
        if self.policy == _POLICIES["DEADLINE"]:
            _check_times(section, *self.times)
        if self.policy not in (_POLICIES["FIFO"], _POLICIES["RR"]) and self.priority:
            raise UsageError("process.scheduler: a priority is for SCHED_FIFO and SCHED_RR")
        if not -20 <= self.nice <= 19:
            raise UsageError(f"process.scheduler: nice is {self.nice}, and goes from -20 to 19")

    def seal(self, inside: Inside) -> None:
        runtime, deadline, period = self.times
        try:
            linux.sched_setattr(self.policy, self.flags, self.nice, self.priority, runtime, deadline, period)
        except PermissionError as error:
            if self.policy not in (_POLICIES["FIFO"], _POLICIES["RR"]):
                raise
            raise HostError(
                f"process.scheduler: {error}",
                hint="it takes CAP_SYS_NICE, and with cgroup v1 a share of real time, which a new group has not got: "
                "linux.resources.cpu.realtimeRuntime",
            ) from None


class IoPriority(Part):
    """A class and a place in it, for schedulers of disks that know such."""

    seal_order = -20

    def __init__(self, section: dict[str, Any]) -> None:
        kind, level = section.get("class", ""), section.get("priority", 0)
        if not 0 <= level <= 7:
            raise UsageError(f"process.ioPriority.priority is {level}, and goes from 0 to 7")
        self.value = _known("process.ioPriority.class", kind, "", _CLASSES) << 13 | level

    def seal(self, inside: Inside) -> None:
        linux.ioprio_set(self.value)


def _check_times(section: dict[str, Any], runtime: int, deadline: int, period: int) -> None:
    """Raise UsageError for what the kernel would say no more of than EINVAL. sched_setattr(2), sched(7)"""
    what = "process.scheduler: sched_setattr: `SCHED_DEADLINE`"
    for name in ("runtime", "deadline"):
        if section.get(name) is None:
            raise UsageError(f"{what} requires `{name}`")
    if not runtime:
        raise UsageError(f"{what} runtime must be greater than 0")
    if not _SHORTEST <= runtime < _LONGEST:
        raise UsageError(f"{what} runtime {runtime} must be between {_SHORTEST} and {_LONGEST - 1} nanoseconds")
    if runtime > deadline:
        raise UsageError(f"{what} runtime {runtime} must be <= deadline {deadline}")
    if period and deadline > period:
        raise UsageError(f"{what} deadline {deadline} must be <= period {period}")


def _known(field: str, name: str, prefix: str, table: dict[str, int]) -> int:
    if not name.startswith(prefix) or name.removeprefix(prefix) not in table:
        raise UsageError(f"{field}: {name!r} is not known", hint=f"one of {', '.join(prefix + key for key in table)}")
    return table[name.removeprefix(prefix)]
