"""What processes may do, and what attacks came to: two grids that can be read without their colours.

rights_map({"root": container, …})        processes × capabilities: a disc for what it may do now, a ring for
                                          what an exec can still give it, nothing for what is gone
outcomes({"a title": (True, False), …})   attacks × containers: "out" or "held", by word as well as by colour
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from minicontainer.errors import UsageError
from minicontainer.notebook.charts import BLUE, INK, ORANGE, PAPER, VERMILION, Chart, _style
from minicontainer.security import capabilities

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes

    from minicontainer.container import Container

NONE, NOW, REACH = "", "●", "○"
EMPTY = "#EDEDF0"


class RightsMap(Chart):
    """The chart, and what it shows: `signs` has a row for each process, and in it capability → sign."""

    signs: dict[str, dict[str, str]]


def rights_map(processes: Mapping[str, Mapping[str, int] | Container], title: str) -> RightsMap:
    """Draw which capabilities `processes` have: what a row is to be called → a running container, or five sets as
    `capabilities.of(pid)` returns them.

    A disc is effective, a ring in the bounding set only. Raises UsageError for no process at all.
    """
    if not processes:
        raise UsageError("no process was given", hint='rights_map({"root": container}, "What it may do")')
    rows = {name: _sets(it) for name, it in processes.items()}
    known = [
        name for name in capabilities.NAMES if any(capabilities.bits([name]) & it["bounding"] for it in rows.values())
    ]
    signs = {row: {name: _sign(sets, capabilities.bits([name])) for name in known} for row, sets in rows.items()}
    about = "; ".join(
        f"{row}: {_count(line, NOW)} effective, {_count(line, REACH)} in reach" for row, line in signs.items()
    )
    chart = RightsMap(title, x="", y="", alt=about, wide=11, high=2.1 + 0.34 * len(rows))
    chart.signs = signs
    with _style():
        for y, line in enumerate(signs.values()):
            for x, sign in enumerate(line.values()):
                fill = {NOW: BLUE, REACH: ORANGE, NONE: EMPTY}[sign]
                _cell(chart.axes, x, y, fill, sign, "#FFFFFF" if sign == NOW else INK)
        _axes(chart.axes, list(signs), known)
        chart.axes.tick_params(axis="x", rotation=90, labelsize=7.5)
    return chart


def outcomes(results: Mapping[str, Sequence[bool]], containers: Sequence[str], title: str) -> Chart:
    """Draw whether each attack got out (True) of each of the `containers`. Raises UsageError for no attack."""
    if not results:
        raise UsageError("no attack was given", hint='outcomes({"a way out": (True, False)}, ["one", "other"], "…")')
    about = "; ".join(f"{name}: {', '.join('out' if it else 'held' for it in row)}" for name, row in results.items())
    chart = Chart(title, x="", y="", alt=about, wide=8.5, high=1.2 + 0.27 * len(results))
    with _style():
        for y, row in enumerate(results.values()):
            for x, out in enumerate(row):
                _cell(
                    chart.axes, x, y, VERMILION if out else EMPTY, "out" if out else "held", "#000000" if out else INK
                )
        _axes(chart.axes, list(results), containers)
    return chart


def _sets(process: Mapping[str, int] | Container) -> Mapping[str, int]:
    return capabilities.of(process.pid) if hasattr(process, "pid") else process


def _sign(sets: Mapping[str, int], bit: int) -> str:
    return NOW if sets["effective"] & bit else REACH if sets["bounding"] & bit else NONE


def _count(line: Mapping[str, str], sign: str) -> int:
    return list(line.values()).count(sign)


def _cell(axes: Axes, x: int, y: int, fill: str, text: str, ink: str) -> None:
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=fill, edgecolor=PAPER, linewidth=1.5))
    axes.text(x, y, text, ha="center", va="center", color=ink, fontsize=9)


def _axes(axes: Axes, rows: Sequence[str], columns: Sequence[str]) -> None:
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.set_ylim(len(rows) - 0.5, -0.5)  # the first on top
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
