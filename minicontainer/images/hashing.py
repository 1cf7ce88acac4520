"""A hash that is computed beside other work: in a thread of its own, a few pieces behind.

Of all that a layer's bytes go through only the hash needs nothing else of the machine than a processor, and Python's
lock is not held meanwhile (hashlib gives it back for pieces of more than 2047 bytes). So one core hashes a piece while
another makes files of it. Never more than `BEHIND` pieces wait: what is in memory stays little.
"""

from __future__ import annotations

import hashlib
import threading
from queue import SimpleQueue

BEHIND = 4
"""Pieces that may wait to be hashed."""


class Sha256:
    """The sha256 of all pieces that are given to `update`; each must stay as it is until `hexdigest` or `stop`."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self._pieces: SimpleQueue[bytes] = SimpleQueue()
        self._room: SimpleQueue[None] = SimpleQueue()
        """As many as pieces may be added."""
        self._thread: threading.Thread | None = None

    def update(self, piece: bytes) -> None:
        """Add a piece that is not empty; waits while there are too many."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="sha256", daemon=True)
            self._thread.start()
            for _ in range(BEHIND):
                self._room.put(None)
        self._room.get()
        self._pieces.put(piece)

    def _work(self) -> None:
        while piece := self._pieces.get():
            self._sha256.update(piece)
            self._room.put(None)

    def stop(self) -> None:
        """End the thread, when it has hashed all."""
        if self._thread is not None:
            self._pieces.put(b"")
            self._thread.join()

    def hexdigest(self) -> str:
        """The hash of all pieces. Nothing can be added any more."""
        self.stop()
        return self._sha256.hexdigest()
