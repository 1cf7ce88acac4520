"""The charts over time and the dashboard: what they show is what the kernel does, and nothing outlives them."""

from __future__ import annotations

import io
import os
import re
import tempfile
import threading
import time
from typing import TYPE_CHECKING

import pytest

from minicontainer import Cgroup, Container, state
from minicontainer.cgroups import layout
from minicontainer.errors import NotFoundError, UsageError
from minicontainer.notebook import Chart
from minicontainer.notebook.dashboard import Dashboard, painter
from minicontainer.notebook.recording import Recording

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(scope="module", autouse=True)
def fonts() -> None:
    """matplotlib opens its fonts once and keeps them: before the leak check begins."""
    chart = Chart("A title", x="time (s)", y=("CPUs", "bytes"))
    chart.png()
    painter().submit(chart.png).result()


def spin() -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        pass


def read_again_and_again() -> None:
    """Burn CPU and fill the page cache: read a file of 256 MiB from a disk that stores none of it."""
    end = time.monotonic() + 60
    with tempfile.TemporaryFile(dir="/var/tmp") as file:
        file.truncate(256 << 20)
        while time.monotonic() < end:
            file.seek(0)
            while file.read(1 << 20):
                pass


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


# --------------------------------------------------------------------------------------------------------- recording


def test_a_recording_tells_the_phases_apart() -> None:
    part = Cgroup(cpus=0.8)
    with Container(spin, part), Recording(part.group, interval=0.05) as recording:
        for percent in (80, 20):
            part.group["cpu.max"] = f"{percent}000 100000"
            recording.phase(f"{percent} %")
            time.sleep(1.5)
    assert recording.mean("20 %") < 0.35
    assert recording.mean("20 %") < recording.mean("80 %")
    series = recording.series()
    assert series["time"] == sorted(series["time"])
    assert series["throttles"] == sorted(series["throttles"])
    assert series["throttles"][-1] > series["throttles"][0]
    (first, _), (second, name) = recording.phases
    assert 0 <= first < second < series["time"][-1]
    assert name == "20 %"


def test_a_recording_of_several_groups_outlives_one_of_them() -> None:
    parts = {name: Cgroup() for name in ("web", "db")}
    containers = {name: Container(["sleep", "60"], part).start() for name, part in parts.items()}
    try:
        with Recording({name: part.group for name, part in parts.items()}, interval=0.02) as recording:
            recording.phase("both")
            time.sleep(0.1)
            recording.phase("one")
            containers["db"].remove()
            time.sleep(0.1)
    finally:
        for container in containers.values():
            container.remove()
    assert recording.mean("both", "db") == pytest.approx(0, abs=0.05)
    assert recording.mean("one", "web") == pytest.approx(0, abs=0.05)
    with pytest.raises(UsageError, match="db"):
        recording.mean("one", "db")
    with pytest.raises(UsageError, match="none"):
        recording.mean("none")
    assert len(recording.series("web")["time"]) > len(recording.series("db")["time"]) > 0


def test_phases_stand_in_the_chart() -> None:
    recording = Recording({})
    recording.phases = [(0.0, "at first"), (1.5, "then")]
    chart = Chart("It changes", x="time (s)", y=("CPUs", "bytes"))
    recording.draw_phases(chart)
    assert [text.get_text() for text in chart.axes.texts] == ["at first", "then"]
    assert all([line.get_xdata()[0] for line in axes.lines] == [0.0, 1.5] for axes in chart.panels)  # type: ignore[index]


# ------------------------------------------------------------------------------------------------------------- chart


def test_chart_with_panels_has_one_title_one_x_axis_and_a_quantity_for_each() -> None:
    chart = Chart("Two things at once", x="time (s)", y=("CPUs", "memory (MiB)"))
    assert repr(chart) == "Chart. Two things at once. CPUs, memory (MiB) against time (s)"
    assert [axes.get_ylabel() for axes in chart.panels] == ["CPUs", "memory (MiB)"]
    assert [axes.get_xlabel() for axes in chart.panels] == ["", "time (s)"]
    assert [axes.get_title(loc="left") for axes in chart.panels] == ["Two things at once", ""]


def test_what_was_set_looks_different_from_what_was_measured() -> None:
    chart = Chart("Follows", x="time (s)", y="CPUs")
    chart.level([0, 1, 2], [1, 0.5, 0.5], "the quota")
    chart.line(range(100), range(100), "measured")
    level, line = chart.axes.lines
    assert level.get_linestyle() != line.get_linestyle()
    assert (level.get_marker(), line.get_marker()) == ("None", "o"), "the first line has the first marker"
    assert line.get_markevery() == 8
    assert level.get_drawstyle() == "steps-post"


# --------------------------------------------------------------------------------------------------------- dashboard


@pytest.fixture
def dashboard() -> Iterator[Dashboard]:
    board = Dashboard(lambda: Container(read_again_and_again, Cgroup(swap=0, memory="64M")), cpu=60, memory=64)
    yield board
    board.stop()


def used(board: Dashboard) -> tuple[float, float]:
    """CPUs in use, and MiB of memory, over the last half second as the chart shows them."""
    cpus, memory = (axes.lines[0].get_ydata() for axes in board.chart().panels)
    return sum(cpus[-5:]) / 5, memory[-1]  # type: ignore[arg-type,index,return-value]


def test_moving_a_slider_changes_the_running_container_and_the_chart(dashboard: Dashboard) -> None:
    dashboard.start()
    group = dashboard.group
    assert group is not None
    assert (group["cpu.max"], group["memory.max"]) == ("60000 100000", str(64 << 20))
    until(lambda: len(dashboard.looks) > 10 and used(dashboard)[1] > 50, "it never filled its memory")
    dashboard.cpu.value = 20
    dashboard.memory.value = 32
    assert (group["cpu.max"], group["memory.max"]) == ("20000 100000", str(32 << 20))
    until(lambda: used(dashboard)[0] < 0.3 and used(dashboard)[1] <= 32, "the chart did not follow down")
    before = dashboard.image.value
    dashboard.cpu.value = 100
    dashboard.memory.value = 128
    until(lambda: used(dashboard)[1] > 100, "the chart did not follow up")
    until(lambda: dashboard.image.value != before, "the picture stayed as it was")
    words = re.compile(r"CPU \d+ % of 100 %, memory \d+ of 128 MiB; \d+ s left")
    until(lambda: words.match(dashboard.status.value) is not None, "the words stayed as they were")
    levels = [axes.lines[1].get_ydata()[-1] for axes in dashboard.chart().panels]  # type: ignore[index]
    assert levels == [1.0, 128.0]


def test_the_dashboard_shows_a_picture_and_says_it_in_words(dashboard: Dashboard) -> None:
    from PIL import Image

    dashboard.start()
    until(lambda: dashboard.image.value, "nothing was drawn")
    with Image.open(io.BytesIO(dashboard.image.value)) as picture:
        assert picture.format == "PNG"
    assert [slider.description for slider in (dashboard.cpu, dashboard.memory)] == [
        "CPU limit (%)",
        "Memory limit (MiB)",
    ]
    assert "memory" in repr(dashboard.chart())


def test_a_dashboard_ends_by_itself_and_leaves_nothing() -> None:
    board = Dashboard(lambda: Container(spin, Cgroup()), seconds=0.5)
    board.start()
    until(lambda: not board.running, "it did not end")
    assert board.group is not None
    assert not board.group.exists()
    assert "ended" in board.status.value
    assert board.chart().axes.lines, "the chart stays"


def test_a_dashboard_ends_with_its_container() -> None:
    board = Dashboard(lambda: Container(["sleep", "0.3"], Cgroup()))
    board.start()
    until(lambda: not board.running, "it did not end")
    assert not os.path.exists(f"{state.exec_root()}/{board.group.path.rpartition('/')[2]}")  # type: ignore[union-attr]


def test_stop_leaves_nothing_and_moving_a_slider_starts_another_one(dashboard: Dashboard) -> None:
    dashboard.start()
    first = dashboard.group
    assert first is not None
    dashboard.start()
    assert dashboard.group is first, "there is one already"
    dashboard.stop()
    assert not dashboard.running
    with pytest.raises(NotFoundError):
        first["memory.max"]
    dashboard.cpu.value = 30
    assert dashboard.running
    assert dashboard.group is not None
    assert dashboard.group.path != first.path
    assert dashboard.group["cpu.max"] == "30000 100000"
    dashboard.stop()
    assert "dashboard" not in [thread.name for thread in threading.enumerate()]


def hold() -> None:
    held = b"x" * (100 << 20)
    time.sleep(60)
    del held


def test_a_limit_below_what_cannot_be_given_back_is_said_or_kills() -> None:
    """v1 refuses it and nothing changes; v2 kills. The chart shows the limit that holds, not the slider."""
    board = Dashboard(lambda: Container(hold, Cgroup(swap=0, memory="160M")), memory=160)
    board.start()
    try:
        until(lambda: board.looks and (board.looks[-1][0].memory or 0) > 100 << 20, "it never took its memory")
        board.memory.value = 32
        if "memory" in layout().legacy:
            until(lambda: "left; memory.max of" in board.status.value, "nobody said it")
            assert board.chart().panels[1].lines[1].get_ydata()[-1] == 160  # type: ignore[index]
            assert board.running
        else:
            until(lambda: not board.running, "it lives on")
    finally:
        board.stop()


def test_a_container_without_a_cgroup_is_refused() -> None:
    board = Dashboard(lambda: Container(["sleep", "60"]))
    with pytest.raises(UsageError, match="no cgroup"):
        board.start()
    assert not board.running
    board.cpu.value = 10
    assert "no cgroup" in board.status.value, "a callback says it, for nobody sees its exception"
