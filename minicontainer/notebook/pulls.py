"""A pull as a picture: when each layer began and ended, and the documents that lead to it.

watched = Waterfall()
image = pull("localhost:5000/gallery", progress=watched)
watched.chart("…", names)           one bar for each layer
manifest_tree([image, other])       manifest → config and layers; what two images share is one card
"""

from __future__ import annotations

import time
from html import escape
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

from minicontainer.errors import UsageError
from minicontainer.notebook.charts import BLUE, COLOURS, INK, Chart
from minicontainer.notebook.map import AHEAD, AHEAD_TEXT, BUILT, BUILT_TEXT, HERE, HERE_TEXT, LINE, PLAIN, PLAIN_TEXT
from minicontainer.notebook.show import Shown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from minicontainer.images import Image
    from minicontainer.images.progress import Event


HATCHES = (None, "////", "....", "xxxx")
"""Of a chart's first, second, … quantity: so that colour is not all that tells them apart."""


class Bar(NamedTuple):
    """One layer's way: from when to when, in seconds since the pull began, and its `size` in bytes."""

    begin: float
    end: float
    size: int

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.end - self.begin


class Waterfall:
    """What a pull reports, with the time of it. Given as `progress=`; its clock starts when it is made."""

    def __init__(self) -> None:
        self._clock = time.monotonic()
        self.bars: dict[str, Bar] = {}
        """Each layer by its digest, in the order in which they were begun. One that was here already takes no time."""
        self.there: set[str] = set()
        """The digests of those that were here already."""

    def __call__(self, event: Event) -> None:
        now = time.monotonic() - self._clock
        if event.status == "exists":
            self.there.add(event.digest)
        begin = self.bars[event.digest].begin if event.digest in self.bars else now
        self.bars[event.digest] = Bar(begin, now, event.total)

    def chart(self, title: str, names: dict[str, str]) -> Chart:
        """One row for each layer in `names` (digest → name), in that order."""
        if not self.bars:
            raise UsageError("no pull was watched", hint="pull(…, progress=watched)")
        chart = Chart(
            title,
            x="time since the pull began (s)",
            y="",
            alt="One bar for each layer, from the moment a worker takes it to the moment it is unpacked: "
            + ", ".join(names.values()),
            high=1.3 + 0.3 * len(names),
        )
        axes = chart.axes
        last = max(bar.end for bar in self.bars.values())
        for row, digest in enumerate(names):
            bar = self.bars[digest]
            if digest not in self.there:
                width = max(bar.seconds, last / 300)
                axes.barh(row, width, left=bar.begin, height=0.66, color=BLUE, edgecolor=INK, linewidth=0.4)
            words = f"{bar.size / 1e6:.1f} MB" if bar.size >= 50_000 else f"{bar.size / 1e3:.1f} kB"
            axes.annotate(
                "was here" if digest in self.there else words,
                (1.01, row),
                xycoords=("axes fraction", "data"),
                va="center",
                fontsize=8.5,
                annotation_clip=False,
            )
        axes.set_yticks(range(len(names)), list(names.values()))
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_xlim(0, last * 1.02)
        return chart


def bars(title: str, rows: Mapping[str, Mapping[str, float]], *, x: str, stacked: bool = False) -> Chart:
    """One row for each thing, with a bar for each of its quantities: below one another, or end to end (`stacked`).

    Each quantity has its colour, and from the second on a hatching, in all rows.
    """
    quantities = list(dict.fromkeys(quantity for row in rows.values() for quantity in row))
    if not quantities:
        raise UsageError("nothing to chart", hint='bars(…, {"row": {"quantity": 1.0}}, x="time (s)")')
    chart = Chart(title, x=x, y="", alt="Rows: " + ", ".join(rows), high=1.5 + (0.42 if stacked else 0.62) * len(rows))
    axes = chart.axes
    high = 0.6 if stacked else 0.76 / len(quantities)
    for number, row in enumerate(rows.values()):
        left, top = 0.0, number - (0 if stacked else high * (len(row) - 1) / 2)
        for place, (quantity, value) in enumerate(row.items()):
            kind = quantities.index(quantity)
            seen = any(quantity in earlier for earlier in list(rows.values())[:number])
            axes.barh(
                top if stacked else top + place * high,
                value,
                left=left,
                height=high,
                color=COLOURS[kind % len(COLOURS)],
                edgecolor=INK,
                linewidth=0.4,
                hatch=HATCHES[kind % len(HATCHES)],
                label=None if seen else quantity,
            )
            left += value if stacked else 0
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        ncols=4,
        frameon=False,
        fontsize=8.5,
        labelcolor=INK,
        borderaxespad=0.1,
    )
    axes.set_title(title, loc="left", fontweight="bold", fontsize=11.5, pad=24)
    return chart


# ---------------------------------------------------------------------------------------------------------- the tree

_WIDE, _HIGH, _GAP, _BETWEEN = 236, 44, 10, 70


class _Node(NamedTuple):
    key: str
    """The digest, or the name for a tag: cards of one key are one card."""
    head: str
    below: str
    fill: str
    ink: str


def manifest_tree(images: Sequence[Image]) -> Shown:
    """Draw how names lead to manifests, and manifests to a config and to layers.

    Every arrow but the first is a digest. A layer that several images have is one card with several arrows.
    """
    columns: list[dict[str, _Node]] = [{}, {}, {}]
    arrows: list[tuple[str, str]] = []
    text: list[str] = []
    for image in images:
        manifest = image.entry.manifest
        columns[0][image.name] = _Node(image.name, image.name.rpartition("/")[2], "a name, may move", PLAIN, PLAIN_TEXT)
        columns[1][manifest.digest] = _node("manifest", manifest.digest, manifest.size, HERE, HERE_TEXT)
        arrows.append((image.name, manifest.digest))
        text.append(f"{image.name.rpartition('/')[2]} → manifest {_short(manifest.digest)}")
        config = image.manifest.config
        children = [_node("config", config.digest, config.size, BUILT, BUILT_TEXT)]
        for layer in image.manifest.layers:
            children.append(_node("layer", layer.digest, layer.size, AHEAD, AHEAD_TEXT))
        for child in children:
            shared = ", shared with the one above" if child.key in columns[2] else ""
            columns[2].setdefault(child.key, child)
            arrows.append((manifest.digest, child.key))
            text.append(f"    → {child.head}, {child.below}{shared}")
    plain = "\n".join(text)
    uri = "data:image/svg+xml," + quote(_svg(columns, arrows), safe=":")
    return Shown("text/html", f'<img src="{uri}" alt="{escape(plain)}" style="max-width: 100%">', plain)


def _node(kind: str, digest: str, size: int, fill: str, ink: str) -> _Node:
    words = f"{size / 1e6:.1f} MB" if size >= 50_000 else f"{size} bytes"
    return _Node(digest, f"{kind} {_short(digest)}", words, fill, ink)


def _short(digest: str) -> str:
    return digest[: len("sha256:") + 8] + "…"


def _svg(columns: list[dict[str, _Node]], arrows: list[tuple[str, str]]) -> str:
    rows = max(len(column) for column in columns)
    high, wide = rows * (_HIGH + _GAP), len(columns) * (_WIDE + _BETWEEN) - _BETWEEN + 4
    places: dict[str, tuple[float, float]] = {}
    cards: list[str] = []
    for number, column in enumerate(columns):
        step = high / len(column)
        for row, node in enumerate(column.values()):
            x, y = 2 + number * (_WIDE + _BETWEEN), step * (row + 0.5) - _HIGH / 2
            places[node.key] = (x, y + _HIGH / 2)
            cards.append(
                f'<rect x="{x}" y="{y:.1f}" width="{_WIDE}" height="{_HIGH}" rx="6" fill="{node.fill}" '
                f'stroke="{LINE}"/><text x="{x + 9}" y="{y + 19:.1f}" font-size="13" font-weight="600" '
                f'fill="{node.ink}">{escape(node.head)}</text><text x="{x + 9}" y="{y + 35:.1f}" font-size="11.5" '
                f'fill="{node.ink}">{escape(node.below)}</text>'
            )
    lines = []
    for start, end in arrows:
        (x1, y1), (x2, y2) = places[start], places[end]
        x1, x2 = x1 + _WIDE, x2 - 2
        middle = (x1 + x2) / 2
        lines.append(
            f'<path d="M{x1} {y1:.1f}C{middle} {y1:.1f} {middle} {y2:.1f} {x2} {y2:.1f}m-7 -4l7 4l-7 4" fill="none" '
            f'stroke="{LINE}" stroke-width="1.6"/>'
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high:.0f}" width="{wide}" role="img" '
        f'font-family="system-ui, sans-serif">{"".join(lines + cards)}</svg>'
    )
