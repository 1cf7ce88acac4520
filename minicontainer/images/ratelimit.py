"""How often a registry lets itself be asked: Docker Hub counts pulls, and says with each manifest how many are left.

    ratelimit-limit: 100;w=21600            a hundred in six hours
    ratelimit-remaining: 76;w=21600
    docker-ratelimit-source: 192.0.2.1      counted for this address, or for a user

Asking for a manifest with HEAD counts for nothing. (draft-ietf-httpapi-ratelimit-headers;
https://docs.docker.com/docker-hub/usage/pulls)
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from minicontainer.images.transport import Answer

_VALUE = re.compile(r"\s*(\d{1,9})\s*(?:;\s*w\s*=\s*(\d{1,9}))?", re.ASCII)


class RateLimit:
    """`limit` requests in `seconds` (0: not said), of which `remaining` are left; `source` is who is counted."""

    __slots__ = ("limit", "remaining", "seconds", "source")

    def __init__(self, limit: int, remaining: int, seconds: int, source: str) -> None:
        self.limit, self.remaining, self.seconds, self.source = limit, remaining, seconds, source

    @classmethod
    def of(cls, answer: Answer) -> RateLimit | None:
        """What an answer's headers say; None when they say nothing."""
        limit, left = (_VALUE.match(answer.header(f"RateLimit-{name}")) for name in ("Limit", "Remaining"))
        if not limit or not left:
            return None
        return cls(int(limit[1]), int(left[1]), int(limit[2] or 0), answer.header("Docker-RateLimit-Source")[:80])

    @property
    def is_low(self) -> bool:
        """Whether a tenth or less is left."""
        return self.remaining * 10 <= self.limit

    def __str__(self) -> str:
        span = next(
            (
                f" in {self.seconds // size} {word}"
                for word, size in (("hours", 3600), ("minutes", 60), ("seconds", 1))
                if self.seconds and self.seconds % size == 0
            ),
            "",
        )
        return f"{self.remaining} of {self.limit} pulls{span} are left"
