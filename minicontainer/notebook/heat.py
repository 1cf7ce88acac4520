"""The heat map of processes × namespaces: who shares what with whom, at a glance.

A row is a process, a column one kind of namespace. Equal letters in one column are one namespace, A being that of the
first process; the kernel's word for it is the inode number of /proc/PID/ns/KIND. The letter says all that the colour
says, so nobody needs the colours, and the text form is the same table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from minicontainer import namespaces
from minicontainer.errors import UsageError
from minicontainer.notebook.charts import BLUE, GREEN, INK, ORANGE, PAPER, SKY, VERMILION, Chart

if TYPE_CHECKING:
    from collections.abc import Mapping

    from minicontainer.container import Container

TINTS = (
    ("#E4E4E8", INK),  # A: the first process's namespaces, mostly the host's, stand back
    (BLUE, "#FFFFFF"),
    (ORANGE, INK),
    (GREEN, "#000000"),
    (SKY, INK),
    (VERMILION, "#000000"),
    ("#F0E442", INK),
)
"""The colours of Okabe and Ito, and the ink that can be read on each. They begin again after the last one."""


class HeatMap(Chart):
    """The chart, and what it shows: `letters` has a row for each process, and in it kind → letter."""

    letters: dict[str, dict[str, str]]


def heat_map(processes: Mapping[str, int | Container], title: str = "Equal letters share a namespace") -> HeatMap:
    """Draw in which namespaces `processes` are: what a row is to be called → a pid, or a running container.

    Raises NotFoundError for a process that has ended, UsageError for none at all.
    """
    if not processes:
        raise UsageError("no process was given", hint='heat_map({"this notebook": os.getpid(), "box": container})')
    where = {name: namespaces.of(it if isinstance(it, int) else it.pid) for name, it in processes.items()}
    kinds = {kind: name for kind, (_, name) in namespaces.KINDS.items()}
    seen: dict[str, list[int]] = {kind: [] for kind in kinds}
    letters: dict[str, dict[str, str]] = {}
    for row, inodes in where.items():
        for kind, inode in inodes.items():
            if inode not in seen[kind]:
                seen[kind].append(inode)
            letters.setdefault(row, {})[kinds[kind]] = _letter(seen[kind].index(inode))
    rows = "; ".join(
        f"{row}: " + " ".join(f"{kind}={it}" for kind, it in line.items()) for row, line in letters.items()
    )
    chart = HeatMap(
        title, x="kind of namespace", y="", alt=f"Equal letters are one namespace. {rows}", high=1.2 + 0.36 * len(where)
    )
    chart.letters = letters
    _draw(chart, seen, where)
    return chart


def _draw(chart: HeatMap, seen: Mapping[str, list[int]], where: Mapping[str, Mapping[str, int]]) -> None:
    from matplotlib.patches import Rectangle

    axes = chart.axes
    for y, (row, line) in enumerate(chart.letters.items()):
        for x, (kind, letter) in enumerate(zip(seen, line.values(), strict=True)):
            fill, ink = TINTS[seen[kind].index(where[row][kind]) % len(TINTS)]
            axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=fill, edgecolor=PAPER, linewidth=2.5))
            axes.text(x, y, letter, ha="center", va="center", color=ink, fontweight="bold", fontsize=10)
    axes.set_xlim(-0.5, len(seen) - 0.5)
    axes.set_ylim(len(where) - 0.5, -0.5)  # the first process on top
    axes.set_xticks(range(len(seen)), list(next(iter(chart.letters.values()))))
    axes.set_yticks(range(len(where)), list(where))
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


def _letter(number: int) -> str:
    """A to Z, then A1 to Z1, and so on."""
    return chr(ord("A") + number % 26) + (str(number // 26) if number >= 26 else "")
