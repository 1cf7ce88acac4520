"""What the first write costs: overlayfs copies a whole file up before it lets anyone change a byte of it.

The price is paid once for each file, at open(2), and goes with the bytes that the file really has: holes, and blocks
that fallocate(2) only reserved, are skipped, and a filesystem with reflinks (xfs, btrfs) shares the rest.
"""

from __future__ import annotations

import os
import time


class CopyUp:
    """One measurement: the file's `size`, the bytes it now occupies in upper (`allocated`), the `seconds` taken."""

    __slots__ = ("allocated", "seconds", "size")

    def __init__(self, size: int, allocated: int, seconds: float) -> None:
        self.size, self.allocated, self.seconds = size, allocated, seconds

    def __repr__(self) -> str:
        return f"CopyUp(size={self.size}, allocated={self.allocated}, seconds={self.seconds:.6f})"


def copy_up(path: str) -> CopyUp:
    """Open `path`, a file in a mounted overlay, for writing, change nothing, and measure how long that took.

    The second time it is up already: the seconds of a plain open. Raises OSError.
    """
    start = time.perf_counter()
    fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    seconds = time.perf_counter() - start
    try:
        entry = os.fstat(fd)
    finally:
        os.close(fd)
    return CopyUp(entry.st_size, entry.st_blocks * 512, seconds)
