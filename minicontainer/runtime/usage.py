"""What a container has used, in the form that engines read from `events`: runc's types/events.go."""

from __future__ import annotations

import os

from minicontainer.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from minicontainer.runtime.states import State

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def seconds(text: str) -> float:
    """`5s`, `100ms`, `1m` as seconds. Raises UsageError."""
    unit = next((unit for unit in _UNITS if text.endswith(unit)), "")
    try:
        value = float(text.removesuffix(unit)) * _UNITS[unit]
    except (ValueError, KeyError):
        raise UsageError(f"--interval: {text!r} is no duration", hint="5s, 500ms, 1m") from None
    if value <= 0:
        raise UsageError("duration interval must be greater than 0")
    return value


LOOK = 0.1
"""Seconds between two looks at whether the kernel has killed."""


def killed(container: State) -> int:
    """How many processes of it the kernel has killed for want of memory."""
    directories: dict[str, str] = container.values["cgroup"]
    if place := directories.get("memory"):
        return _flat(f"{place}/memory.oom_control").get("oom_kill", 0)
    return _flat(f"{directories['unified']}/memory.events").get("oom_kill", 0)


def stats(container: State) -> dict[str, Any]:
    """One look at the counters of its cgroup."""
    directories: dict[str, str] = container.values["cgroup"]
    found: dict[str, Any] = {"cpu": _cpu(directories), "memory": _memory(directories), "pids": {}, "blkio": {}}
    place = directories.get("pids") or directories.get("unified", "")
    found["pids"] = {"current": _number(f"{place}/pids.current"), "limit": _number(f"{place}/pids.max")}
    found["hugetlb"] = {}
    return found


def _cpu(directories: dict[str, str]) -> dict[str, Any]:
    if place := directories.get("cpuacct"):
        usage = {
            "total": _number(f"{place}/cpuacct.usage"),
            "percpu": [int(word) for word in _text(f"{place}/cpuacct.usage_percpu").split()],
            "kernel": _number(f"{place}/cpuacct.usage_sys"),
            "user": _number(f"{place}/cpuacct.usage_user"),
        }
        stat = _flat(f"{directories.get('cpu', place)}/cpu.stat")
        throttled = stat.get("throttled_time", 0)
    else:
        stat = _flat(f"{directories['unified']}/cpu.stat")
        names = {"total": "usage_usec", "kernel": "system_usec", "user": "user_usec"}
        usage = {name: stat.get(key, 0) * 1000 for name, key in names.items()}
        throttled = stat.get("throttled_usec", 0) * 1000
    throttling = {
        "periods": stat.get("nr_periods", 0),
        "throttledPeriods": stat.get("nr_throttled", 0),
        "throttledTime": throttled,
    }
    return {"usage": usage, "throttling": throttling}


def _memory(directories: dict[str, str]) -> dict[str, Any]:
    if place := directories.get("memory"):
        stat = _flat(f"{place}/memory.stat")
        files = {"usage": "usage_in_bytes", "max": "max_usage_in_bytes", "limit": "limit_in_bytes"}
        usage = {name: _number(f"{place}/memory.{file}") for name, file in files.items()}
        usage["failcnt"] = _number(f"{place}/memory.failcnt")
        cache = stat.get("total_cache", 0)
    else:
        place = directories["unified"]
        stat = _flat(f"{place}/memory.stat")
        usage = {"usage": _number(f"{place}/memory.current"), "limit": _number(f"{place}/memory.max")}
        usage["failcnt"] = _flat(f"{place}/memory.events").get("max", 0)
        cache = stat.get("file", 0)
    return {"cache": cache, "usage": usage, "raw": stat}


def _text(path: str) -> str:
    if not os.path.exists(path):
        return ""
    with open(path) as file:
        return file.read()


def _number(path: str) -> int:
    text = _text(path).strip()
    return int(text) if text.isdecimal() else 0


def _flat(path: str) -> dict[str, int]:
    lines = (line.split() for line in _text(path).splitlines())
    return {words[0]: int(words[1]) for words in lines if len(words) == 2 and words[1].isdecimal()}
