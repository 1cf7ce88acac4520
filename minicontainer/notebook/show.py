"""What a cell shows: one thing in a rich form and in plain text.

Jupyter asks an object for a *bundle*, the same thing in several formats by MIME type, and each front end takes the
best that it can show. JupyterLab shows HTML of a notebook that it does not trust yet without scripts and without
inline SVG; so nothing here relies on either.
"""

from __future__ import annotations

import html
import re


class Shown:
    """Something to be shown: `rich` in the format `mime`, and `text` for whoever cannot see that."""

    def __init__(self, mime: str, rich: str, text: str) -> None:
        self.mime, self.rich, self.text = mime, rich, text

    def __repr__(self) -> str:
        return self.text

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return {self.mime: self.rich, "text/plain": self.text}


def inline(text: str) -> str:
    """Text as HTML; what stands in backquotes is code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text, quote=False))
