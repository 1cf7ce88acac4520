"""Bars for few values: how long, how large, how much, one below the other, and what somebody has said of it.

Values that lie powers of ten apart stand on a logarithmic axis; the length of a bar then says nothing, its end does,
so each end carries its value in words. A *band* is a range that was claimed ("minutes"), behind the bars.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from minicontainer.errors import UsageError
from minicontainer.notebook import charts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

HATCHES = (None, "////", "....", "xxxx", "\\\\\\\\", "++++")


def bars(
    title: str,
    values: Mapping[str, float],
    *,
    x: str,
    words: Callable[[float], str] = "{:g}".format,
    bands: Mapping[str, tuple[float, float]] | None = None,
    log: bool = False,
    alt: str = "",
) -> charts.Chart:
    """A chart with a bar for each value, the first on top; `words(value)` is written at its end.

    `bands` are ranges on the same axis, each with its name above. Raises UsageError for no values, and for one that is
    not above 0 on a logarithmic axis.
    """
    if not values:
        raise UsageError("there is nothing to be drawn", hint='bars("…", {"a container": 0.02}, x="time (s)")')
    if log and min(values.values()) <= 0:
        raise UsageError("a logarithmic axis has no place for 0", hint="log=False, or leave that value away")
    about = alt or f"{x}, from top to bottom: {', '.join(values)}"
    chart = charts.Chart(title, x=x, y="", alt=about, high=1.6 + 0.42 * len(values))
    with charts._style():
        axes = chart.axes
        if log:
            axes.set_xscale("log")
        ends = [end for band in (bands or {}).values() for end in band] if log else []
        least, most = min([*values.values(), *ends]), max([*values.values(), *ends])
        axes.set_xlim(least / 3 if log else 0, most * (6 if log else 1.18))
        for number, (name, (begin, end)) in enumerate((bands or {}).items()):
            axes.axvspan(begin, end, color=charts.GRID, alpha=0.9 if number % 2 else 0.5, linewidth=0)
            middle = (begin * end) ** 0.5 if log else (begin + end) / 2
            axes.annotate(
                name, (middle, 1), xycoords=("data", "axes fraction"), xytext=(0, 3), textcoords="offset points",
                ha="center", fontsize=8.5,
            )  # fmt: skip
        for row, value in enumerate(values.values()):
            colour, hatch = charts.COLOURS[row % len(charts.COLOURS)], HATCHES[row % len(HATCHES)]
            axes.barh(row, value, height=0.6, color=colour, edgecolor=charts.INK, hatch=hatch, linewidth=0.4)
            axes.annotate(words(value), (value, row), xytext=(5, 0), textcoords="offset points", va="center")
        axes.xaxis.set_major_formatter(lambda value, _: words(value))
        axes.set_yticks(range(len(values)), list(values))
        axes.set_ylim(len(values) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        axes.set_title(title, loc="left", fontweight="bold", fontsize=11.5, pad=20 if bands else 6)
    return chart
