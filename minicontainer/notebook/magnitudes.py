"""Values that lie powers of ten apart, beside what somebody has claimed of them.

"Minutes", "MBs": such words name an order of magnitude, so they stand as *bands* on a logarithmic axis, behind what was
measured. The length of a bar says nothing there, its end does, so each end carries its value in words.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from minicontainer.errors import UsageError
from minicontainer.notebook import charts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

HATCHES = (None, "////", "....", "xxxx", "\\\\\\\\", "++++")


def magnitudes(
    title: str,
    values: Mapping[str, float],
    *,
    x: str,
    words: Callable[[float], str],
    bands: Mapping[str, tuple[float, float]],
) -> charts.Chart:
    """A chart with a bar for each value, the first on top, before the `bands`, each with its name above.

    `words(value)` says a value with its unit; the axis is labelled so, too. Raises UsageError for no values, and for
    one that is not above 0.
    """
    if not values or min(values.values()) <= 0:
        raise UsageError(
            "there is nothing to be drawn on a logarithmic axis", hint="give values above 0: {'a container': 0.02}"
        )
    about = f"{x}, from top to bottom: {', '.join(values)}. Behind them the ranges {', '.join(bands)}"
    chart = charts.Chart(title, x=f"{x}, logarithmic", y="", alt=about, high=1.6 + 0.42 * len(values))
    ends = [*values.values(), *(end for band in bands.values() for end in band)]
    with charts._style():
        axes = chart.axes
        axes.set_xscale("log")
        axes.set_xlim(min(ends) / 3, max(ends) * 1.2)
        for number, (name, (begin, end)) in enumerate(bands.items()):
            axes.axvspan(begin, end, color=charts.GRID, alpha=0.9 if number % 2 else 0.5, linewidth=0)
            middle = (begin * end) ** 0.5
            axes.annotate(
                name,
                (middle, 1),
                xycoords=("data", "axes fraction"),
                xytext=(0, 3),
                textcoords="offset points",
                ha="center",
                fontsize=8.5,
            )
        for row, value in enumerate(values.values()):
            colour, hatch = charts.COLOURS[row % len(charts.COLOURS)], HATCHES[row % len(HATCHES)]
            axes.barh(row, value, height=0.6, color=colour, edgecolor=charts.INK, hatch=hatch, linewidth=0.4)
            axes.annotate(words(value), (value, row), xytext=(5, 0), textcoords="offset points", va="center")
        axes.xaxis.set_major_formatter(lambda value, _: words(value))
        axes.set_yticks(range(len(values)), list(values))
        axes.set_ylim(len(values) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        axes.set_title(title, loc="left", fontweight="bold", fontsize=11.5, pad=20)
    return chart
