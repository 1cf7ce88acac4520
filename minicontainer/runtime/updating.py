"""Changing the limits of a container that exists: `update`, by options or by a part of config.json."""

from __future__ import annotations

import json
import sys

from minicontainer import state
from minicontainer.errors import UsageError
from minicontainer.runtime import resources, shape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from minicontainer.runtime.states import State

# option: (section, field)
_FIELDS = {
    "blkio-weight": ("blockIO", "weight"),
    "cpu-period": ("cpu", "period"),
    "cpu-quota": ("cpu", "quota"),
    "cpu-burst": ("cpu", "burst"),
    "cpu-share": ("cpu", "shares"),
    "cpu-rt-period": ("cpu", "realtimePeriod"),
    "cpu-rt-runtime": ("cpu", "realtimeRuntime"),
    "cpu-idle": ("cpu", "idle"),
    "cpuset-cpus": ("cpu", "cpus"),
    "cpuset-mems": ("cpu", "mems"),
    "memory": ("memory", "limit"),
    "memory-reservation": ("memory", "reservation"),
    "memory-swap": ("memory", "swap"),
    "pids-limit": ("pids", "limit"),
}
_TEXT = ("cpus", "mems")
_SIZES = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def update(container: State, options: dict[str, Any]) -> None:
    """Write the limits that are named; the others stay. Raises UsageError, KernelError for what the kernel refuses."""
    if source := options.get("resources"):
        try:
            limits = json.load(sys.stdin) if source == "-" else state.read_json(source)
        except (OSError, ValueError) as error:
            raise UsageError(f"--resources {source}: {error}") from None
        if not isinstance(limits, dict):
            raise UsageError(f"--resources {source} is no JSON object")
        limits = shape.checked(limits, shape.RESOURCES, "resources")
    else:
        limits = {}
        for option, (section, field) in _FIELDS.items():
            if option in options:
                value = options[option]
                limits.setdefault(section, {})[field] = value if field in _TEXT else _number(option, value)
    if limits.get("devices"):
        raise UsageError("resources.devices cannot be changed by update")
    before = (container.config.get("linux") or {}).get("resources") or {}
    for section, field in (("cpu", "period"), ("cpu", "quota"), ("memory", "limit")):
        # these are written together with others: what was set before still holds
        given = limits.get(section)
        if given and given.get(field) is None and (before.get(section) or {}).get(field):
            given[field] = before[section][field]
    found = resources.files(limits, container.values["cgroup"])
    resources.write(found)
    _remember(container, limits)


def _remember(container: State, limits: dict[str, Any]) -> None:
    config = container.config
    kept = config.setdefault("linux", {}).setdefault("resources", {})
    for section, values in limits.items():
        if isinstance(values, dict):
            kept[section] = {**(kept.get(section) or {}), **values}
    state.write_json(f"{container.directory}/config.json", config)


def _number(option: str, text: str) -> int:
    unit = text[-1:].lower()
    try:
        return int(text[:-1]) * _SIZES[unit] if unit in _SIZES else int(text)
    except ValueError:
        raise UsageError(f"invalid value for {option}: {text!r}") from None
