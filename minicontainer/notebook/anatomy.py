"""An image taken apart, as pictures: its documents with the step that made each layer, and its files by layer.

    parts = explain("localhost:5000/web")
    anatomy(parts)              index → manifest → config and layers; a layer's step, what travels, what nobody sees
    file_tree(parts)            what a container sees, each file with its layer; struck out: what a later layer hides

A layer has one colour in both, and its number beside it. The pictures bring a light paper of their own, and words.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

from minicontainer.notebook.charts import INK, PAPER
from minicontainer.notebook.map import AHEAD, AHEAD_TEXT, BUILT, BUILT_TEXT, HERE, HERE_TEXT, LINE
from minicontainer.notebook.show import Shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from minicontainer.images.explaining import Document, Explanation, Layer
    from minicontainer.images.trees import File, Hidden

TINTS = ("#DCE9F5", "#FBE3D0", "#D8EFE3", "#F7E9B8", "#EBDCEE", "#D3EEF6", "#F3D9DC", "#E3E6CF")
"""A layer's colour, by its number: light enough for dark words."""

_LINE_HIGH, _PAD, _GAP, _BETWEEN = 17, 9, 10, 46
_WIDTHS = (176, 176, 176, 440)
_LETTER = 6.1
"""What a letter of a card is wide at most, on average, in pixels."""


def size_in_words(size: int) -> str:
    """Bytes as people say them: 106 bytes, 8.4 MB."""
    return f"{size / 1e6:.1f} MB" if size >= 50_000 else f"{size} bytes"


# ----------------------------------------------------------------------------------------------------- the documents


class _Card(NamedTuple):
    lines: list[str]
    fill: str
    ink: str
    below: list[_Card]

    @property
    def high(self) -> int:
        return 2 * _PAD + _LINE_HIGH * len(self.lines)

    @property
    def all_high(self) -> int:
        """Of itself or of all that hangs on it, whichever needs more."""
        return max(self.high, sum(card.all_high for card in self.below) + _GAP * max(0, len(self.below) - 1))


def anatomy(parts: Explanation) -> Shown:
    """Draw how an image's documents lead to each other, from the index (or the manifest) on to the layers."""
    quiet = [step.instruction for step in parts.steps if step.number is None and step.instruction]
    root = _card(parts.documents, iter(parts.layers), quiet)
    depth = _depth(root)
    widths = _WIDTHS[len(_WIDTHS) - depth :]
    drawn: list[str] = []
    _draw(root, 2, 2, widths, drawn)
    wide, high = sum(widths) + _BETWEEN * (depth - 1) + 4, root.all_high + 4
    text = "\n".join(_words(root))
    return _picture(drawn, wide, high, text, ground=False)


def _card(document: Document, layers: Iterator[Layer], quiet: list[str]) -> _Card:
    """`layers` are taken in the order of the documents: two of them may be the same blob."""
    below = [_card(part, layers, quiet) for part in document.parts]
    short = document.digest.removeprefix("sha256:")[:8]
    size = size_in_words(document.size)
    if document.kind == "layer":
        layer = next(layers)
        lines = [f"layer {layer.number} · {short} · {document.note or 'a step without words'}"]
        lines.append(f"{size} travel, {size_in_words(layer.content)} in {layer.files} files")
        if layer.wasted:
            lines[-1] += f"; {size_in_words(layer.wasted)} hidden"
        return _Card(lines, TINTS[layer.number % len(TINTS)], INK, below)
    if document.kind == "config":
        lines = [f"config · {short} · {size}", f"runs {document.note}", *(f"+ {line}" for line in quiet)]
        return _Card(lines, BUILT, BUILT_TEXT, below)
    lines = [f"{document.kind} · {short}", document.note or size]
    if not document.here:
        return _Card([*lines[:1], f"{document.note}, not here".lstrip(", ")], AHEAD, AHEAD_TEXT, below)
    return _Card(lines, HERE, HERE_TEXT, below)


def _depth(card: _Card) -> int:
    return 1 + max((_depth(inner) for inner in card.below), default=0)


def _draw(card: _Card, x: float, y: float, widths: tuple[int, ...], drawn: list[str]) -> float:
    """Draw a card in the middle of what hangs on it, and that; where its middle is."""
    wide, middle = widths[0], y + card.all_high / 2
    ends = []
    for inner in card.below:
        ends.append(_draw(inner, x + wide + _BETWEEN, y, widths[1:], drawn))
        y += inner.all_high + _GAP
    for end in ends:
        x1, x2 = x + wide, x + wide + _BETWEEN - 2
        half = (x1 + x2) / 2
        drawn.append(
            f'<path d="M{x1} {middle:.1f}C{half} {middle:.1f} {half} {end:.1f} {x2} {end:.1f}m-7 -4l7 4l-7 4" '
            f'fill="none" stroke="{LINE}" stroke-width="1.6"/>'
        )
    top = middle - card.high / 2
    drawn.append(
        f'<rect x="{x}" y="{top:.1f}" width="{wide}" height="{card.high}" rx="6" fill="{card.fill}" stroke="{LINE}"/>'
    )
    for number, line in enumerate(card.lines):
        weight = "600" if number == 0 else "400"
        drawn.append(
            f'<text x="{x + 9}" y="{top + _PAD + 13 + number * _LINE_HIGH:.1f}" font-size="12" font-weight="{weight}" '
            f'fill="{card.ink}">{escape(_fit(line, wide - 18))}</text>'
        )
    return middle


def _words(card: _Card, indent: str = "") -> Iterator[str]:
    yield indent + card.lines[0]
    for line in card.lines[1:]:
        yield f"{indent}    {line}"
    for inner in card.below:
        yield from _words(inner, indent + "    ")


# --------------------------------------------------------------------------------------------------------- the files


class _Row(NamedTuple):
    depth: int
    name: str
    size: str
    layer: int | None
    """None for a directory with something in it: that may come from many."""
    hidden: str
    """By what a file is hidden; "" for one that a container sees."""


def file_tree(parts: Explanation, *, most: int = 4) -> Shown:
    """Draw the files that a container sees and those that it does not. Of more than `most` files of one layer in one
    directory the first are shown, and how many there are."""
    top: dict[str, _Place] = {}
    for file in parts.tree.files.values():
        _place(top, file.path).seen = file
    for hidden in parts.tree.hidden:
        _place(top, hidden.path).hidden.append(hidden)
    rows = list(_rows(top, 0, most))
    drawn: list[str] = []
    for number, row in enumerate(rows):
        drawn += _line(row, 24 + number * 22)
    text = "\n".join(_text(row) for row in rows)
    return _picture(drawn, 760, 22 * len(rows) + 16, text, ground=True)


class _Place:
    """One name: what a container sees there, what is hidden there, and what is below it."""

    def __init__(self) -> None:
        self.seen: File | None = None
        self.hidden: list[Hidden] = []
        self.below: dict[str, _Place] = {}


def _place(top: dict[str, _Place], path: str) -> _Place:
    *above, name = path.split("/")
    for step in above:
        top = top.setdefault(step, _Place()).below
    return top.setdefault(name, _Place())


def _rows(places: dict[str, _Place], depth: int, most: int) -> Iterator[_Row]:
    of_layer: dict[int, list[str]] = {}
    for name, place in sorted(places.items()):
        if place.seen and not place.below and not place.hidden and place.seen.kind != "directory":
            of_layer.setdefault(place.seen.layer, []).append(name)
    for name, place in sorted(places.items()):
        seen = place.seen
        fellows = of_layer.get(seen.layer, []) if seen else []
        if seen and name in fellows and len(fellows) > most:
            at = fellows.index(name)
            if at == most - 1:
                yield _Row(depth, f"… {len(fellows) - at} more", "", seen.layer, "")
            if at >= most - 1:
                continue
        if seen and seen.kind != "directory":
            yield _Row(depth, name, size_in_words(seen.size) if seen.kind == "file" else seen.kind, seen.layer, "")
        elif place.below or seen:
            yield _Row(depth, f"{name}/", "", seen.layer if seen and not place.below else None, "")
        for gone in sorted(place.hidden, key=lambda it: -it.layer):
            yield _Row(depth, name, size_in_words(gone.size), gone.layer, f"{gone.how} by layer {gone.by}")
        yield from _rows(place.below, depth + 1, most)


def _line(row: _Row, y: int) -> Iterator[str]:
    x = 12 + 22 * row.depth
    struck = ' text-decoration="line-through" fill-opacity="0.7"' if row.hidden else ""
    name, weight = _fit(row.name, 400 - x), "600" if row.name.endswith("/") else "400"
    yield f'<text x="{x}" y="{y}" font-size="12.5" font-weight="{weight}" fill="{INK}"{struck}>{escape(name)}</text>'
    yield f'<text x="500" y="{y}" font-size="12" text-anchor="end" fill="{INK}">{escape(row.size)}</text>'
    if row.layer is not None:
        tint, dash = TINTS[row.layer % len(TINTS)], ' stroke-dasharray="3 2"' if row.hidden else ""
        yield f'<rect x="516" y="{y - 14}" width="60" height="19" rx="9" fill="{tint}" stroke="{LINE}"{dash}/>'
        yield f'<text x="546" y="{y}" font-size="11.5" text-anchor="middle" fill="{INK}">layer {row.layer}</text>'
    yield f'<text x="586" y="{y}" font-size="11.5" fill="{INK}">{escape(row.hidden)}</text>'


def _text(row: _Row) -> str:
    layer = f"layer {row.layer}" if row.layer is not None else ""
    return "  ".join(filter(None, ["    " * row.depth + row.name, row.size, layer, row.hidden]))


# ----------------------------------------------------------------------------------------------------------- pictures


def _fit(text: str, wide: float) -> str:
    """As much of a text as a card has room for; a name that is no UTF-8 can be shown all the same."""
    shown, room = text.encode(errors="backslashreplace").decode(), int(wide / _LETTER)
    return shown if len(shown) <= room else shown[: room - 1] + "…"


def _picture(drawn: list[str], wide: float, high: float, text: str, *, ground: bool) -> Shown:
    paper = f'<rect width="{wide}" height="{high}" rx="6" fill="{PAPER}" stroke="{LINE}"/>' if ground else ""
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" width="{wide}" role="img" '
        f'font-family="system-ui, sans-serif">{paper}{"".join(drawn)}</svg>'
    )
    plain = text.encode(errors="backslashreplace").decode()
    uri = "data:image/svg+xml," + quote(svg, safe=":")
    return Shown("text/html", f'<img src="{uri}" alt="{escape(plain)}" style="max-width: 100%">', plain)
