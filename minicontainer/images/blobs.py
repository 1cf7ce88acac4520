"""A blob as one stream, however often the line is cut, and whoever has it.

Most of a layer may be here when a connection breaks. What came is hashed and unpacked already, so the stream goes on
where it stopped: `Range: bytes=1048576-`. A server that does not know ranges sends all of it again (200 instead of
206); then what we have is passed over. The same content may be had from several places (a mirror, the registry itself,
the addresses of a foreign layer): when one has it no longer, the next is asked, for the rest only. Since the digest is
verified at the end, it does not matter who sent which part. (RFC 9110, 14; distribution-spec, "Pulling blobs")
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from minicontainer.images import transport
from minicontainer.images.failures import BrokenConnection, RegistryError
from minicontainer.images.settings import is_insecure

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from minicontainer.images.transport import Answer, Transport

    Opener = Callable[[int], Answer]

MOST_CUTS = 1000
"""How often a line may be cut before we give up, even if a little came each time."""


class Blob:
    """The bytes of a blob from `start` on. `openers` ask one place each for it, from a given byte on (an answer of 200
    or 206)."""

    def __init__(self, openers: Sequence[Opener], start: int = 0) -> None:
        self._openers = list(openers)
        self._answer: Answer | None = None
        self._at = start
        self._idle = 0
        self._cuts = 0

    def readinto(self, buffer: memoryview) -> int:
        """Read into `buffer`; 0 at the end. Raises RegistryError when nobody has (the rest of) it."""
        while True:
            try:
                if self._answer is None:
                    self._answer = self._open()
                count = self._answer.readinto(buffer)
            except BrokenConnection as error:
                self._broken(error)
                continue
            except RegistryError:
                self.close()
                if len(self._openers) == 1:
                    raise
                del self._openers[0]
                continue
            self._at += count
            self._idle = 0 if count else self._idle
            return count

    def _open(self) -> Answer:
        """An answer that goes on where the last one ended."""
        answer = self._openers[0](self._at)
        try:
            if answer.status == 206:
                if not answer.header("Content-Range").startswith(f"bytes {self._at}-"):
                    raise RegistryError(
                        f"{answer.url.partition('?')[0]} was asked for a blob from byte {self._at} on, "
                        f"and sends {answer.header('Content-Range')!r:.80}",
                        hint="something before the registry does not understand ranges",
                        status=answer.status,
                    )
                return answer
            left, buffer = self._at, memoryview(bytearray(min(self._at, 256 << 10)))
            while left:
                count = answer.readinto(buffer[:left])
                if not count:
                    raise RegistryError(
                        f"{answer.url.partition('?')[0]} has {self._at - left} bytes now, and had more before",
                        hint="its storage is damaged, or changes",
                        status=answer.status,
                    )
                left -= count
            return answer
        except BaseException:
            answer.close()
            raise

    def _broken(self, error: BrokenConnection) -> None:
        """Wait a little before the next attempt, or give this place up."""
        self.close()
        self._idle += 1
        self._cuts += 1
        if self._idle < transport.ATTEMPTS and self._cuts < MOST_CUTS:
            time.sleep(transport.pause(self._idle))
            return
        if len(self._openers) == 1:
            raise error
        del self._openers[0]
        self._idle = self._cuts = 0

    def close(self) -> None:
        """End the answer that is under way."""
        if self._answer is not None:
            self._answer.close()
            self._answer = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def is_allowed(url: str) -> bool:
    """Whether we go to an address that an image names: TLS, unless its host is known to be without."""
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and (
            parts.scheme == "https" or (parts.scheme == "http" and is_insecure(parts.netloc))
        )
    except ValueError:
        return False


def foreign(transport: Transport, url: str, start: int) -> Answer:
    """A layer from an address outside the registry. Nothing that says who we are goes there."""
    answer = transport.request("GET", url, range_of(start))
    if answer.status not in (200, 206):
        answer.close()
        raise RegistryError(
            f"{url:.200} answers HTTP {answer.status} where the image says that a layer is",
            hint="whoever made the image must mend it",
            status=answer.status,
        )
    return answer


def range_of(start: int) -> dict[str, str]:
    """The header that asks for what begins at this byte; none for the whole."""
    return {"Range": f"bytes={start}-"} if start else {}
