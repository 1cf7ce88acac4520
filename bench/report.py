"""Tables of plain text, and goals."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence


class Goal(NamedTuple):
    """`value` should not be above `limit`; `text` says of what. `spread` is where the middle half of the rounds lies:
    a limit within it is neither met nor missed."""

    text: str
    value: float
    limit: float
    unit: str = ""
    spread: tuple[float, float] | None = None

    def __str__(self) -> str:
        word = "met" if self.value <= self.limit else "NOT MET"
        middle = ""
        if self.spread:
            low, high = self.spread
            middle = f" (half of the rounds {low:.2f} to {high:.2f})"
            if low <= self.limit < self.value:
                word = "level"
        return f"{self.text} at most {self.limit:g}{self.unit}: {self.value:.2f}{self.unit}{middle}, {word}"


def say(text: str) -> None:
    """A word on what is happening, for whoever waits; not part of the result."""
    print(f"   … {text}", file=sys.stderr, flush=True)


def title(text: str) -> None:
    """The head of a row."""
    print(f"\n== {text}")


def milliseconds(seconds: float) -> str:
    """`4.2` for 0.0042 s; whole ones from 100 on."""
    value = seconds * 1000
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    """Columns as wide as they must be: the first to the left, the others to the right."""
    widths = [max(len(line[column]) for line in [head, *lines]) for column in range(len(head))]
    for line in [head, *lines]:
        cells = [
            line[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)),
        ]
        print(f"   {'   '.join(cells)}".rstrip())


def versus(cold: dict[str, float], hot: dict[str, float], base: str) -> None:
    """The usual table: milliseconds cold and hot, and each as a multiple of `base`'s."""
    head = ["ms, median", "cold", "hot", f"cold / {base}", f"hot / {base}"]
    lines = []
    for name, took in hot.items():
        ratios = [f"{times[name] / times[base]:.2f}" for times in (cold, hot)]
        lines.append([name, milliseconds(cold[name]), milliseconds(took), *ratios])
    table(head, lines)


def goals(found: Sequence[Goal]) -> None:
    """One line for each goal."""
    for goal in found:
        print(f"   goal: {goal}")


def skipped(programs: Sequence[str], packages: Sequence[str]) -> None:
    """Name the peers that are not there, and how to get them."""
    if programs:
        print(f"   skipped, not installed: {', '.join(programs)}")
        print(f"   (apt-get install --no-install-recommends {' '.join(packages)})")
