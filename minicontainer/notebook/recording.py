"""What groups use while an experiment runs, and what of it belongs to which step of the experiment.

A plot over time wants a look at the counters every so often; a statement ("with a quota of 20 % it used 20 %") wants
them exactly at the beginning and the end of one step. A recording takes both: a `Sampler` for each group looks in the
background, and `phase()` looks at once.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from minicontainer.cgroups import Group
from minicontainer.cgroups.stats import Sampler, Stats
from minicontainer.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

    from minicontainer.notebook.charts import Chart


class Recording:
    """The use of one or more groups, for the length of a `with` block.

    >>> with Recording(part.group) as recording:
    ...     for percent in (80, 20):
    ...         part.group["cpu.max"] = f"{percent}000 100000"
    ...         recording.phase(f"{percent} %")
    ...         time.sleep(2)
    >>> recording.mean("20 %")

    `groups` is one group, or several by name. `interval` is in seconds. All times are seconds since the beginning.
    """

    def __init__(self, groups: Group | Mapping[str, Group], interval: float = 0.1) -> None:
        named = {"": groups} if isinstance(groups, Group) else groups
        self.samplers = {name: Sampler(group, interval) for name, group in named.items()}
        self.phases: list[tuple[float, str]] = []
        """When each phase began, and its name."""
        self._looks: list[dict[str, Stats]] = []
        self._begin = 0.0

    def __enter__(self) -> Self:
        self._begin = time.monotonic()
        for sampler in self.samplers.values():
            sampler.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        for sampler in self.samplers.values():
            sampler.__exit__()
        self._looks.append(self._look())

    def phase(self, name: str) -> None:
        """From now on it is this phase."""
        self._looks.append(self._look())
        self.phases.append((time.monotonic() - self._begin, name))

    def mean(self, phase: str, group: str = "") -> float:
        """The CPUs that a group had in use, on average, during a phase: 0.5 is half of one.

        Raises UsageError for a phase that there was not, or in which the group was not there from beginning to end.
        """
        names = [name for _, name in self.phases]
        looks = self._looks[names.index(phase) :][:2] if phase in names else []
        if len(looks) < 2 or any(group not in look for look in looks):
            raise UsageError(f"nothing was recorded of {group or 'the group'} in {phase!r}", hint="see .phases")
        first, last = (look[group] for look in looks)
        if first.cpu_us is None or last.cpu_us is None:
            raise UsageError("this host does not count the CPU time of groups", hint="a cgroup v2 tree does")
        return (last.cpu_us - first.cpu_us) / 1e6 / (last.time - first.time)

    def series(self, group: str = "") -> dict[str, list[float]]:
        """As `Sampler.series()`, and `throttles`: in how many periods, so far, the quota was used up."""
        sampler = self.samplers[group]
        table, samples = sampler.series(), sampler.samples
        if samples:
            table["time"] = [look.time - self._begin for look in samples[1:]]
            if samples[0].throttled is not None:
                table["throttles"] = [(look.throttled or 0) - samples[0].throttled for look in samples[1:]]
        return table

    def draw_phases(self, chart: Chart) -> None:
        """Mark where each phase begins."""
        for when, name in self.phases:
            chart.moment(when, name)

    def _look(self) -> dict[str, Stats]:
        found = {}
        for name, sampler in self.samplers.items():
            try:
                found[name] = sampler.group.stats()
            except NotFoundError:  # a container that has ended is no error: it is what some experiments are about
                pass
        return found
