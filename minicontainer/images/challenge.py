"""What a registry asks for when it answers 401: the header `WWW-Authenticate`, read.

    Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/alpine:pull"
    Basic realm="the analytical engine", Bearer realm="…"

Several challenges may stand in one header, with the same comma between them as between the parameters of one, and a
comma may stand within quotes. So a list of words is read from left to right; a word without `=` begins a challenge.
What follows no grammar is passed over: a challenge that we cannot read is one that we cannot answer.
(RFC 9110, 11.2 to 11.6.1)
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

MOST = 16 << 10
"""Characters of a header that are read; a web server sends no more than half of that."""

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_WORD = re.compile(
    rf'(?:(?P<key>{_TOKEN})\s*=\s*(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<bare>{_TOKEN}))|(?P<scheme>{_TOKEN}))'
    r"(?=[\s,]|$)",
    re.DOTALL,
)


class Challenge:
    """One way in: its `scheme` ("basic", "bearer") and `parameters`, both in small letters, values as they are."""

    __slots__ = ("parameters", "scheme")

    def __init__(self, scheme: str) -> None:
        self.scheme = scheme
        self.parameters: dict[str, str] = {}


def parse(headers: Iterable[str]) -> list[Challenge]:
    """The challenges in all these headers, in their order."""
    found: list[Challenge] = []
    for header in headers:
        text, place = header[:MOST], 0
        begun = False  # a parameter before any scheme belongs to nothing
        while place < len(text):
            place = len(text) - len(text[place:].lstrip(" \t\r\n,"))
            word = _WORD.match(text, place)
            if word is None:  # no grammar: on to the next comma or space
                rest = re.search(r"[\s,]", text[place + 1 :])
                place = place + 2 + rest.start() if rest else len(text)
                continue
            place = word.end()
            if word["scheme"] is not None:
                found.append(Challenge(word["scheme"].lower()))
                begun = True
            elif begun:
                value = (
                    word["bare"] if word["quoted"] is None else re.sub(r"\\(.)", r"\1", word["quoted"], flags=re.DOTALL)
                )
                found[-1].parameters.setdefault(word["key"].lower(), value)
    return found
