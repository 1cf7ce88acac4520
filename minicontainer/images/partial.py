"""A blob that is not all here yet, kept for the next pull when this one is killed.

It arrives in `ingest/<digest>.partial`, written by whoever holds the blob's lock. When that process is killed, the
kernel frees the lock and the file stays. Whoever wants the blob next, or has been waiting for it, takes over: reads
what is there, then asks the registry for the rest (`Range`). Reading costs no more than hashing and unpacking must
anyway, since what the killed one had hashed and unpacked has died with it; and nothing is believed before the digest
of all of it, from the first byte on, is right. When it is not, what was kept goes and the blob comes anew.

A part also stays when the line breaks and when somebody interrupts. It goes when trying again would not help (the blob
is not what it should be) or when it is in the way (the disk is full), and with any collection (`rmi`, `image prune`).
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from minicontainer.images.failures import RegistryError

if TYPE_CHECKING:
    from minicontainer.images.manifest import Descriptor
    from minicontainer.images.store import Store


class Partial:
    """The file in which a blob arrives; the caller holds the blob's lock. `kept` bytes of it were here before."""

    def __init__(self, store: Store, blob: Descriptor) -> None:
        self.path = store.partial(blob.digest)
        self.file = os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644), "r+b", buffering=0)
        self.kept = os.fstat(self.file.fileno()).st_size
        if self.kept > blob.size:
            self.restart()

    def readinto(self, buffer: memoryview) -> int:
        """Read of what was here before; 0 after its end, where the file is then ready to be written."""
        left = self.kept - self.file.tell()
        return self.file.readinto(buffer[:left]) or 0 if left > 0 else 0

    def restart(self) -> None:
        """Drop all of it."""
        self.kept = 0
        self.file.seek(0)
        self.file.truncate()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, *_: object) -> None:
        size = os.fstat(self.file.fileno()).st_size
        self.file.close()
        if error is not None and not (isinstance(error, RegistryError) and size):
            with suppress(FileNotFoundError):  # it was right, and is a blob already: the error came later
                os.unlink(self.path)
