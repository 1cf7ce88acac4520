"""Text for people: columns, and words of others that must not steer the terminal."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def table(rows: Sequence[tuple[str, ...]]) -> str:
    """The rows with their columns aligned, three spaces apart, as Docker prints them. The first is the heading."""
    rows = [tuple(map(plain, row)) for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def size(count: float) -> str:
    """`12.3MB` for a number of bytes, in powers of ten as Docker has them."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            break
        count /= 1000
    return f"{count:.3g}{unit}"


def age(seconds: float) -> str:
    """`5 minutes` for a number of seconds."""
    units = (("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1))
    unit, length = next((found for found in units if seconds >= found[1]), units[-1])
    count = int(seconds // length)
    return f"{count} {unit}{'' if count == 1 else 's'}"


def plain(text: str) -> str:
    """For one line on a terminal: what moves its cursor or clears it, a newline too, is written as `\\x1b`, `\\n`.

    A registry's answer, an image's history and a file's name are a stranger's words.
    """
    if text.isprintable():
        return text
    return "".join(it if it.isprintable() else it.encode("unicode_escape").decode() for it in text)
