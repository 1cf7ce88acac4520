"""A dashboard: sliders on the limits of a running container, and a chart of what it uses, drawn anew while it runs.

The sliders write the kernel's files of the container's cgroup, nothing else; what is drawn is what the kernel counts,
and the broken lines are the limits as they stand in those files. A thread looks and draws. It ends with the
container, and the container ends after a given time, so that one which nobody watches any more stops by itself;
moving a slider starts another one.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

from minicontainer.cgroups import Cgroup
from minicontainer.cgroups.stats import Stats, sample
from minicontainer.errors import ContainerError, NotFoundError, UsageError
from minicontainer.notebook.charts import Chart

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from minicontainer.cgroups import Group
    from minicontainer.container import Container

MIB = 1 << 20


@cache
def painter() -> ThreadPoolExecutor:
    """The one thread that draws, for all dashboards: matplotlib opens its fonts anew in each thread, and keeps them."""
    return ThreadPoolExecutor(1, "painter")


class Dashboard:
    """Sliders for the CPU quota and the memory limit of the container that `make` makes; it needs a `Cgroup` part.

    Show `widget` in a cell. `cpu` (percent of one CPU) and `memory` (MiB) are the sliders: setting their `value` does
    what dragging does. The container is ended after `seconds`.
    """

    WINDOW = 15.0
    """Seconds that the chart goes back."""

    def __init__(
        self,
        make: Callable[[], Container],
        *,
        cpu: int = 50,
        memory: int = 64,
        seconds: float = 60,
        interval: float = 0.1,
    ) -> None:
        from ipywidgets import Button, HBox, Image, IntSlider, Label, VBox  # type: ignore[import-untyped]

        self.make, self.seconds, self.interval = make, seconds, interval
        wide: dict[str, Any] = {"style": {"description_width": "10em"}, "layout": {"width": "26em"}}
        self.cpu = IntSlider(cpu, 5, 200, 5, description="CPU limit (%)", **wide)
        self.memory = IntSlider(memory, 16, 256, 8, description="Memory limit (MiB)", **wide)
        self.status = Label("not started")
        """What the chart shows, in words."""
        self.image = Image(format="png", layout={"max_width": "100%"})
        button = Button(description="Stop the container")
        button.on_click(lambda _: self.stop())
        self.widget = VBox(
            [HBox([self.cpu, self.memory], layout={"flex_flow": "row wrap"}), self.image, self.status, button]
        )
        self.looks: deque[tuple[Stats, float, int | None]] = deque(maxlen=int(self.WINDOW / interval))
        """What is drawn: a look, and the limits at that moment (CPUs; bytes)."""
        self.group: Group | None = None
        """The running container's group."""
        self._trouble = ""
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        for slider in (self.cpu, self.memory):
            slider.observe(self._moved, names="value")

    @property
    def running(self) -> bool:
        """Whether there is a container now."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Start the container, unless it runs, and begin to draw."""
        if self.running:
            return
        container = self.make()
        part = next((part for part in container.parts if isinstance(part, Cgroup)), None)
        if part is None:
            raise UsageError("the dashboard's container has no cgroup, so no limits", hint="Container(…, Cgroup())")
        container.start()
        try:
            self.group = part.group
            self._write()
            self.looks.clear()
            self._stop = threading.Event()
            self._thread = threading.Thread(
                target=self._run, args=(container, part.group, self._stop), name="dashboard", daemon=True
            )
            self._thread.start()
        except BaseException:
            container.remove()
            raise

    def stop(self) -> None:
        """End the container, and wait until nothing is left of it. The chart stays as it is."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def chart(self) -> Chart:
        """What the last seconds were like."""
        looks = list(self.looks)
        chart = Chart(
            "The container follows its limits",
            x="time (s)",
            y=("CPUs in use", "memory (MiB)"),
            alt="Above, CPUs in use and the quota; below, memory and its limit; both over time",
            high=4.2,
        )
        times = [look.time - looks[0][0].time for look, _, _ in looks]
        if len(looks) > 1:
            chart.line(times[1:], _cpus([look for look, _, _ in looks]), "in use")
            chart.level(times, [quota for _, quota, _ in looks], "cpu.max")
            chart.line(times, [(look.memory or 0) / MIB for look, _, _ in looks], "in use", panel=1)
            chart.level(times, [(limit or 0) / MIB for _, _, limit in looks], "memory.max", panel=1)
            for axes in chart.panels:
                axes.set_ylim(bottom=0)
                axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
        return chart

    # ----------------------------------------------------------------------------------------------------- helpers

    def _moved(self, _: object) -> None:
        self._trouble = ""
        try:
            if self.running:
                self._write()
            else:
                self.start()
        except ContainerError as error:  # nobody would see an exception of a callback
            self._trouble = error.message
            self.status.value = error.message

    def _write(self) -> None:
        assert self.group is not None
        self.group["cpu.max"] = f"{self.cpu.value * 1000} 100000"
        self.group["memory.max"] = f"{self.memory.value}M"

    def _run(self, container: Container, group: Group, stop: threading.Event) -> None:
        deadline = time.monotonic() + self.seconds
        due = 0.0
        try:
            for look in sample(group, self.interval):
                now = time.monotonic()
                if stop.is_set() or now > deadline or container.poll() is not None:
                    break
                self.looks.append((look, _quota(group), look.memory_max))
                if now > due:
                    self._draw(f"{deadline - now:.0f} s left")
                    due = time.monotonic() + max(0.4, 2 * (time.monotonic() - now))  # a slow machine draws less often
        except NotFoundError:  # the group went away between two looks
            pass
        finally:
            container.remove()
            self._draw("the container has ended; move a slider for another one")

    def _draw(self, words: str) -> None:
        looks = list(self.looks)
        if len(looks) > 1:
            self.image.value = painter().submit(lambda: self.chart().png()).result()
            recent = [look for look, _, _ in looks[-10:]]
            used, held = sum(_cpus(recent)) / (len(recent) - 1), (looks[-1][0].memory or 0) / MIB
            words = (
                f"CPU {used * 100:.0f} % of {looks[-1][1] * 100:.0f} %, "
                f"memory {held:.0f} of {(looks[-1][2] or 0) / MIB:.0f} MiB; {words}"
            )
        self.status.value = f"{words}; {self._trouble}" if self._trouble else words


def _cpus(looks: list[Stats]) -> list[float]:
    """CPUs in use between each look and the one before."""
    return [
        ((now.cpu_us or 0) - (before.cpu_us or 0)) / 1e6 / (now.time - before.time) for before, now in pairwise(looks)
    ]


def _quota(group: Group) -> float:
    quota, period = group["cpu.max"].split()
    return float("nan") if quota == "max" else int(quota) / int(period)
