"""Charts: axes with units, a title that states the finding, colours for everybody, and words for who cannot see it.

The colours are those of Okabe and Ito, which people with any common kind of colour blindness can tell apart; lines
differ by their marker and bars by their hatching as well. A chart brings its own light paper, so it is as readable on
a dark page as on a light one. Without pyplot: no state that one cell leaves to the next.
"""

from __future__ import annotations

import base64
import html
import io
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from minicontainer.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    from matplotlib.axes import Axes

    from minicontainer.linux import Call

BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#AA5A8A", "#56B4E9"
COLOURS = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY)
"""In this order, a chart's first, second, … line."""
PAPER, INK, GRID = "#FCFCFA", "#26262B", "#D9D9DD"
MARKERS = ("o", "s", "^", "D", "v", "P")
_drawing = threading.RLock()  # matplotlib's settings are one for the whole program, and a dashboard draws in a thread


class Chart:
    """One chart. `axes` is matplotlib's, to be drawn on; the chart shows itself as the last line of a cell.

    `title` states what is to be seen, `x` and `y` are the quantities with their units, "time (ms)". `alt` says the
    same for who cannot see it, without numbers that differ from run to run (title and axes if not given). Several `y`
    are as many `panels`, one below the other along the same x.
    """

    def __init__(
        self, title: str, *, x: str, y: str | Sequence[str], alt: str = "", wide: float = 7.5, high: float = 3.6
    ) -> None:
        from matplotlib.figure import Figure

        names = [y] if isinstance(y, str) else list(y)
        with _style():
            self.figure = Figure(figsize=(wide, high), layout="constrained")
            rows = self.figure.subplots(len(names), sharex=True, squeeze=False)
            self.panels: list[Axes] = [row[0] for row in rows]
            self.axes = self.panels[0]
            self.axes.set_title(title, loc="left", fontweight="bold", fontsize=11.5)
            self.panels[-1].set_xlabel(x)
            for axes, name in zip(self.panels, names, strict=True):
                axes.set_ylabel(name)
        about = alt or f"{', '.join(names)} against {x}".strip()
        self.alt = f"Chart. {title}. {about}"

    def line(self, x: Sequence[float], y: Sequence[float], label: str, panel: int = 0) -> None:
        """Add a line of measured points, in the next colour and marker."""
        axes = self.panels[panel]
        number = sum(line.get_marker() in MARKERS for line in axes.lines)
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        few = max(1, len(x) // 12)  # where points are dense, some of the markers are enough
        axes.plot(x, y, color=colour, marker=marker, markersize=5, markevery=few, linewidth=1.8, label=label)
        axes.legend(frameon=False, labelcolor=INK)

    def level(self, x: Sequence[float], y: Sequence[float], label: str, panel: int = 0) -> None:
        """Add what was set and not measured, such as a limit: a broken line that keeps each value until the next."""
        axes = self.panels[panel]
        axes.step(x, y, where="post", color=INK, linestyle="--", linewidth=1.3, label=label)
        axes.legend(frameon=False, labelcolor=INK)

    def moment(self, x: float, text: str) -> None:
        """Mark a moment, through all panels; the text stands to the right of it, above the first one's data."""
        for axes in self.panels:
            axes.axvline(x, color=INK, linestyle=":", linewidth=1)
        self.axes.annotate(
            text,
            (x, 1),
            xycoords=("data", "axes fraction"),
            xytext=(3, -2),
            textcoords="offset points",
            va="top",
            fontsize=9,
        )

    def png(self) -> bytes:
        """As it is now, as a PNG."""
        file = io.BytesIO()
        with _style():
            self.figure.savefig(file, format="png", dpi=110, metadata={"Software": None})
        return file.getvalue()

    def __repr__(self) -> str:
        return self.alt

    def _repr_mimebundle_(
        self, include: object = None, exclude: object = None
    ) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
        picture = base64.b64encode(self.png()).decode()
        # JupyterLab shows the HTML, which has words for who cannot see it; a page that takes none shows the picture
        image = f'<img src="data:image/png;base64,{picture}" alt="{html.escape(self.alt)}" style="max-width: 100%">'
        data = {"text/html": image, "image/png": picture, "text/plain": self.alt}
        return data, {"image/png": {"alt": self.alt}}


@contextmanager
def _style() -> Iterator[None]:
    from matplotlib import rc_context

    style: Any = {
        "figure.facecolor": PAPER,
        "savefig.facecolor": PAPER,
        "axes.facecolor": PAPER,
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "axes.titlecolor": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": GRID,
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "font.size": 10,
        "hatch.linewidth": 0.6,
    }
    with _drawing, rc_context(style):
        yield


def milliseconds(
    calls: Sequence[Call], title: str = "Where each millisecond goes", by: Callable[[Call], str] | None = None
) -> Chart:
    """Chart the calls of a `linux.trace()` along the time: one row for each system call (or for each `by(call)`).

    Every bar is one call, from its start to its end; what is white between the bars is not the kernel but Python, and
    waiting. At the right, a row's sum and its number of calls. Plain bars are this process's, hatched ones the
    container's own.
    """
    if not calls:
        raise UsageError("no system call was traced", hint="with linux.trace() as calls: Container(…).run()")
    rows: dict[str, list[Call]] = {}
    begin = min((call.start for call in calls if call.start), default=0)
    end = max(call.start + call.duration for call in calls)
    # An execve that succeeded has no time of its own: the program that would have looked at the clock is gone.
    for call in sorted(calls, key=lambda call: call.start or end):
        rows.setdefault(by(call) if by else call.name, []).append(call)
    chart = Chart(
        title,
        x="time since the first call (ms)",
        y="",
        alt="Rows in order of their first call: " + ", ".join(rows),
        high=1.5 + 0.27 * len(rows),
    )
    thin = (end - begin) / 400  # what is too short to be seen is drawn this wide
    ours = calls[0].pid
    with _style():
        for row, members in enumerate(rows.values()):
            for call in members:
                left, width = ((call.start or end) - begin) / 1e6, max(call.duration, thin) / 1e6
                inside = call.pid != ours
                chart.axes.barh(
                    row,
                    width,
                    left=left,
                    height=0.68,
                    color=ORANGE if inside else BLUE,
                    edgecolor=INK if inside else BLUE,
                    hatch="////" if inside else None,
                    linewidth=0.4,
                )
            total = sum(call.duration for call in members) / 1e6
            words = f"{total:.2f} ms" if any(call.start for call in members) else "not timed"
            words += f" in {len(members)} calls" if len(members) > 1 else ""
            chart.axes.annotate(
                words, (1.01, row), xycoords=("axes fraction", "data"), va="center", fontsize=8.5, annotation_clip=False
            )
        chart.axes.set_yticks(range(len(rows)), list(rows))
        chart.axes.set_ylim(len(rows) - 0.4, -0.6)
        _legend(chart.axes, any(call.pid != ours for call in calls))
    return chart


def _legend(axes: Axes, inside: bool) -> None:
    from matplotlib.patches import Patch

    keys = [Patch(color=BLUE, label="on the host's side")]
    if inside:
        keys.append(Patch(facecolor=ORANGE, edgecolor=INK, hatch="////", label="in the container's own process"))
    axes.legend(
        handles=keys, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, frameon=False, fontsize=8.5, borderaxespad=0.1
    )
    axes.set_title(axes.get_title(loc="left"), loc="left", fontweight="bold", fontsize=11.5, pad=24)
