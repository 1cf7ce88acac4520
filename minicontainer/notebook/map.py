"""The map: Docker's architecture, floor by floor, with one chapter's piece of it marked. The same in every chapter.

It is drawn as SVG on cards of its own, because a drawing cannot know the colours of the page it stands on: every text
is dark on a light card or light on a dark one, whatever the theme. What is marked is marked by more than its colour:
this chapter has a heavy frame and an arrow, what the reader has built has a tick, the rest a broken frame.
"""

from __future__ import annotations

from html import escape
from urllib.parse import quote

from minicontainer.errors import UsageError
from minicontainer.notebook.show import Shown

CHAPTERS = {
    1: ("container", "a process"),
    2: ("chroot", "its own root"),
    3: ("namespaces", "its own view"),
    4: ("cgroups", "its share"),
    5: ("overlayfs", "its own copy"),
    6: ("network", "its own address"),
    7: ("images", "registry, layers"),
    8: ("security", "what it may do"),
    9: ("runtime", "runc"),
    10: ("shim", "containerd-shim"),
    11: ("volumes", "what outlives it"),
    12: ("build", "Dockerfile"),
    13: ("engine", "dockerd and its API"),
    14: ("orchestration", "many machines"),
}
"""Each chapter's name, and what it is or gives."""

# name of the floor; its chapters
FLOORS = (
    ("commands", (14,)),
    ("the engine", (13, 7, 12, 11)),
    ("keeps one running", (10,)),
    ("makes one", (9,)),
    ("its parts", (1, 2, 3, 4, 5, 6, 8)),
)

HERE, HERE_TEXT = "#0B4F8A", "#FFFFFF"
BUILT, BUILT_TEXT = "#D5EBDD", "#10301C"
AHEAD, AHEAD_TEXT = "#F2F2F2", "#3A3A3A"
PLAIN, PLAIN_TEXT = "#DCDCE4", "#22222A"
LINE = "#7A7A85"

_LEFT, _WIDTH, _HIGH, _GAP = 140, 140, 46, 16


def chapter_map(chapter: int) -> Shown:
    """The map with `chapter` (1 to 14; 0 for none) marked, and the chapters before it as built."""
    if chapter not in CHAPTERS and chapter != 0:
        raise UsageError(f"there is no chapter {chapter!r}", hint="they are numbered from 1 to 14; 0 marks none")
    text = _text(chapter)
    uri = "data:image/svg+xml," + quote(_svg(chapter))
    return Shown("text/html", f'<img src="{uri}" alt="{escape(text)}" style="max-width: 100%">', text)


def _svg(chapter: int) -> str:
    width = _LEFT + 7 * (_WIDTH + 8)
    rows, y = [], 4
    rows += _card(_LEFT, y, 2 * _WIDTH + 8, "docker", "the command that you type", PLAIN, PLAIN_TEXT)
    for number, (name, chapters) in enumerate(FLOORS):
        if number:
            rows.append(_arrow(_LEFT + 40, y + _HIGH, _GAP))
            y += _HIGH + _GAP
        rows.append(_label(y, name))
        x = _LEFT + (2 * (_WIDTH + 8) if number == 0 else 0)
        for it in chapters:
            rows += _chapter(x, y, it, chapter)
            x += _WIDTH + 8
    rows.append(_arrow(_LEFT + 40, y + _HIGH, _GAP))
    y += _HIGH + _GAP
    rows.append(_label(y, "on the host"))
    rows += _card(
        _LEFT, y, width - _LEFT - 8, "the Linux kernel", "processes, and properties of processes", PLAIN, PLAIN_TEXT
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {y + _HIGH + 6}" width="{width}" '
        f'role="img" font-family="system-ui, sans-serif">{"".join(rows)}</svg>'
    )


def _chapter(x: int, y: int, it: int, here: int) -> list[str]:
    name, what = CHAPTERS[it]
    if it == here:
        return _card(x, y, _WIDTH, f"▶ {it:02} {name}", what, HERE, HERE_TEXT, frame=3)
    if it < here:
        return _card(x, y, _WIDTH, f"✓ {it:02} {name}", what, BUILT, BUILT_TEXT)
    return _card(x, y, _WIDTH, f"{it:02} {name}", what, AHEAD, AHEAD_TEXT, broken=True)


def _card(
    x: int, y: int, width: int, head: str, below: str, fill: str, ink: str, *, frame: int = 1, broken: bool = False
) -> list[str]:
    dashes = ' stroke-dasharray="5 4"' if broken else ""
    stroke = "#F5A623" if frame > 1 else LINE
    return [
        f'<rect x="{x}" y="{y}" width="{width}" height="{_HIGH}" rx="6" fill="{fill}" stroke="{stroke}" '
        f'stroke-width="{frame}"{dashes}/>',
        f'<text x="{x + 9}" y="{y + 20}" font-size="13" font-weight="600" fill="{ink}">{escape(head)}</text>',
        f'<text x="{x + 9}" y="{y + 37}" font-size="11.5" fill="{ink}">{escape(below)}</text>',
    ]


def _label(y: int, text: str) -> str:
    return "".join(
        [
            f'<rect x="0" y="{y + 11}" width="{_LEFT - 10}" height="24" rx="4" fill="{PLAIN}"/>',
            f'<text x="8" y="{y + 27}" font-size="12" fill="{PLAIN_TEXT}">{escape(text)}</text>',
        ]
    )


def _arrow(x: int, y: int, length: int) -> str:
    tip = y + length
    return (
        f'<path d="M{x} {y + 2}V{tip - 3}M{x - 4} {tip - 8}L{x} {tip - 3}L{x + 4} {tip - 8}" '
        f'fill="none" stroke="{LINE}" stroke-width="2"/>'
    )


def _text(chapter: int) -> str:
    lines = ["Docker's architecture, from the command to the kernel:"]
    for number, (name, chapters) in enumerate(FLOORS):
        words = ["docker (the command that you type)"] if number == 0 else []
        for it in chapters:
            mark = " [this chapter]" if it == chapter else " [built]" if it < chapter else ""
            words.append(f"{it:02} {CHAPTERS[it][0]} ({CHAPTERS[it][1]}){mark}")
        lines.append(f"  {name}: " + ", ".join(words))
    return "\n".join([*lines, "  on the host: the Linux kernel"])
