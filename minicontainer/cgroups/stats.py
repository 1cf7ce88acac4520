"""What a group has used: one look (`Stats`), or a look every so often (`sample`, `Sampler`) for a plot.

The numbers are the kernel's counters, read from the files that cgroup-v2.rst describes. What a host or a group does
not count is None, never 0.
"""

from __future__ import annotations

import time

from minicontainer.cgroups import units
from minicontainer.errors import HostError, NotFoundError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from threading import Event
    from typing import Any, Self

    from minicontainer.cgroups.group import Group


class IO:
    """Input and output of one device: bytes and operations, read and written."""

    __slots__ = ("rbytes", "rios", "wbytes", "wios")

    def __init__(self, rbytes: int, wbytes: int, rios: int, wios: int) -> None:
        self.rbytes, self.wbytes, self.rios, self.wios = rbytes, wbytes, rios, wios

    def __repr__(self) -> str:
        return f"IO(rbytes={self.rbytes}, wbytes={self.wbytes}, rios={self.rios}, wios={self.wios})"


class Pressure:
    """Stalls for want of one resource (the kernel's accounting/psi.rst).

    `some` and `full`: percent of the last 10, 60 and 300 seconds in which some process, or all of them, waited.
    `some_us` and `full_us`: microseconds of such waiting since the group was made.
    """

    __slots__ = ("full", "full_us", "some", "some_us")

    def __init__(self, text: str) -> None:
        table = units.nested(text)
        self.some, self.some_us = self._line(table.get("some"))
        self.full, self.full_us = self._line(table.get("full"))

    @staticmethod
    def _line(row: dict[str, str] | None) -> tuple[tuple[float, float, float] | None, int | None]:
        if row is None:
            return None, None
        return (float(row["avg10"]), float(row["avg60"]), float(row["avg300"])), int(row["total"])

    def __repr__(self) -> str:
        return f"Pressure(some={self.some}, some_us={self.some_us}, full={self.full}, full_us={self.full_us})"


class Stats:
    """One look at a group. None is what this host, or this group, does not count."""

    def __init__(self) -> None:
        self.time = time.monotonic()
        """When: seconds of CLOCK_MONOTONIC."""
        self.cpu_us: int | None = None
        """CPU time used: microseconds, of which `cpu_user_us` in programs and `cpu_system_us` in the kernel."""
        self.cpu_user_us: int | None = None
        self.cpu_system_us: int | None = None
        self.periods: int | None = None
        """Periods of cpu.max that it ran in, and those in which it used up its quota and had to wait."""
        self.throttled: int | None = None
        self.throttled_us: int | None = None
        """How long its CPUs waited for the next period in all: microseconds."""
        self.memory: int | None = None
        """Bytes now, page cache included; `memory_peak` is the most it ever was."""
        self.memory_peak: int | None = None
        self.memory_max: int | None = None
        """The limit in bytes; None for none."""
        self.swap: int | None = None
        """Bytes swapped out."""
        self.limit_hits: int | None = None
        """How often it ran into memory.max."""
        self.oom_kills: int | None = None
        """Processes the kernel killed because of it (on v1 in this very group, on v2 also in groups inside)."""
        self.pids: int | None = None
        """Processes and threads now; `pids_max` is the limit, None for none."""
        self.pids_max: int | None = None
        self.io: dict[str, IO] | None = None
        """By device, `MAJ:MIN`."""
        self.pressure: dict[str, Pressure] = {}
        """By resource, `cpu`, `memory`, `io`; empty where the kernel has no PSI."""

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain values, for JSON or a table."""

        def plain(value: Any) -> Any:
            if isinstance(value, dict):
                return {key: plain(inner) for key, inner in value.items()}
            if isinstance(value, IO | Pressure):
                return {name: getattr(value, name) for name in value.__slots__}
            return value

        return {name: plain(value) for name, value in vars(self).items()}

    def __repr__(self) -> str:
        return f"Stats({', '.join(f'{name}={value!r}' for name, value in vars(self).items() if value is not None)})"


def read(group: Group) -> Stats:
    """One look at `group`. Raises NotFoundError when it is gone."""
    if not group.exists():
        raise NotFoundError(f"there is no cgroup {group.path}", hint="a container's group ends with it")
    stats = Stats()
    cpu, events = _flat(group, "cpu.stat"), _flat(group, "memory.events")
    stats.cpu_us, stats.cpu_user_us = cpu.get("usage_usec"), cpu.get("user_usec")
    stats.cpu_system_us = cpu.get("system_usec")
    stats.periods, stats.throttled = cpu.get("nr_periods"), cpu.get("nr_throttled")
    stats.throttled_us = cpu.get("throttled_usec")
    stats.memory, stats.memory_peak = _number(group, "memory.current"), _number(group, "memory.peak")
    stats.memory_max, stats.swap = _number(group, "memory.max"), _number(group, "memory.swap.current")
    stats.limit_hits, stats.oom_kills = events.get("max"), events.get("oom_kill")
    stats.pids, stats.pids_max = _number(group, "pids.current"), _number(group, "pids.max")
    text = _text(group, "io.stat")
    if text is not None:
        keys = ("rbytes", "wbytes", "rios", "wios")
        stats.io = {device: IO(*(int(row.get(key, 0)) for key in keys)) for device, row in units.nested(text).items()}
    for resource in ("cpu", "memory", "io"):
        text = _text(group, f"{resource}.pressure")
        if text:
            stats.pressure[resource] = Pressure(text)
    return stats


def sample(group: Group, interval: float = 0.1) -> Iterator[Stats]:
    """A look at `group` every `interval` seconds, from now until the group is gone."""
    due = time.monotonic()
    while True:
        try:
            yield read(group)
        except NotFoundError:
            return
        due += interval
        time.sleep(max(0.0, due - time.monotonic()))


class Sampler:
    """Looks taken in the background, by a thread, for the length of a `with` block.

    >>> with Sampler(part.group, interval=0.05) as sampler:
    ...     container.wait()
    >>> sampler.series()["cpu"]
    """

    def __init__(self, group: Group, interval: float = 0.1) -> None:
        self.group, self.interval = group, interval
        self.samples: list[Stats] = []
        """The looks so far, each a `Stats`."""

    def __enter__(self) -> Self:
        import threading

        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(self._stop,), name="cgroup sampler", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self, stop: Event) -> None:
        while not stop.wait(self.interval if self.samples else 0):
            try:
                self.samples.append(read(self.group))
            except NotFoundError:
                return

    def series(self) -> dict[str, list[float]]:
        """Lists of equal length, one value for each two looks that follow each other, as a plot wants them.

        `time`: seconds since the first look. `cpu`: CPUs in use (0.5 is half of one). `throttled`: CPUs' worth of
        time spent waiting for the next period. `memory`: bytes. `pids`: processes and threads. `read`, `written`:
        bytes a second, all devices together. What the group does not count is left out.
        """
        table: dict[str, list[float]] = {"time": []}
        for before, now in zip(self.samples, self.samples[1:], strict=False):
            seconds = now.time - before.time
            table["time"].append(now.time - self.samples[0].time)
            for name, value in (
                ("cpu", _rate(before.cpu_us, now.cpu_us, seconds * 1e6)),
                ("throttled", _rate(before.throttled_us, now.throttled_us, seconds * 1e6)),
                ("memory", now.memory),
                ("pids", now.pids),
                ("read", _rate(_total(before, "rbytes"), _total(now, "rbytes"), seconds)),
                ("written", _rate(_total(before, "wbytes"), _total(now, "wbytes"), seconds)),
            ):
                if value is not None:
                    table.setdefault(name, []).append(value)
        return {name: values for name, values in table.items() if len(values) == len(table["time"])}


def _rate(before: int | None, now: int | None, unit: float) -> float | None:
    return None if before is None or now is None else (now - before) / unit


def _total(stats: Stats, key: str) -> int | None:
    return None if stats.io is None else sum(getattr(device, key) for device in stats.io.values())


def _text(group: Group, file: str) -> str | None:
    try:
        return group[file]
    except (HostError, NotFoundError):
        return None
    except OSError as error:
        import errno

        if error.errno in (errno.EOPNOTSUPP, errno.ENODEV):  # PSI is switched off; the group went away just now
            return None
        raise


def _flat(group: Group, file: str) -> dict[str, int]:
    return units.flat(_text(group, file) or "")


def _number(group: Group, file: str) -> int | None:
    text = _text(group, file)
    return None if text is None or text == "max" else int(text)
