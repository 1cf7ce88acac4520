"""What is arriving: a place for it that the kernel keeps locked for us, and that somebody tidies up if we are killed.

A session is a directory below `ingest/`. Its file `needs` is locked by its owner as long as that lives (flock(2): a
lock ends with its process, however that ends) and lists what it will use. So a collection knows what to spare, and the
next session which directories are nobody's any more. Nothing in a session is believed: from here to its place in the
store there is one rename, after the digest has been verified.
"""

from __future__ import annotations

import errno
import fcntl
import os

from minicontainer.overlayfs.upper import remove_tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from minicontainer.images.store import Store


class Session:
    """A directory for what is arriving, held by a lock: if its owner is killed, the next session removes it."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.path = f"{store.ingest}/{os.urandom(8).hex()}"
        self._fd = -1

    def __enter__(self) -> Session:
        try:
            with self.store.locked():
                self.sweep()
                os.mkdir(self.path, 0o700)
                self._fd = os.open(f"{self.path}/needs", os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
                fcntl.flock(self._fd, fcntl.LOCK_EX)
        except BaseException:  # a KeyboardInterrupt too: whoever has not entered is not asked to leave
            self.__exit__()
            raise
        return self

    def needs(self, digests: Iterable[str]) -> None:
        """Protect blobs (by digest) and layers (by chain id) from collection, whether they are here already or not."""
        with self.store.locked():
            os.write(self._fd, "".join(f"{digest}\n" for digest in digests).encode())

    def others(self) -> set[str]:
        """What all living sessions need, and this one."""
        found: set[str] = set()
        for name in os.listdir(self.store.ingest):
            try:
                with open(f"{self.store.ingest}/{name}/needs") as file:
                    found.update(file.read().split())
            except (FileNotFoundError, NotADirectoryError):
                continue
        return found

    def sweep(self) -> None:
        """Remove what killed sessions left. The store is locked."""
        for name in os.listdir(self.store.ingest):
            path = f"{self.store.ingest}/{name}"
            if name == "lock" or name.endswith(".partial"):
                continue
            try:
                fd = os.open(path if name.endswith(".lock") else f"{path}/needs", os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                _remove(path)  # killed between mkdir and open
                continue
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not name.endswith(".lock"):
                    _remove(path)
                elif is_same(fd, path):
                    os.unlink(path)
            except BlockingIOError:
                continue
            finally:
                os.close(fd)

    def __exit__(self, *error: object) -> None:
        try:
            _remove(self.path)
        finally:  # else this process would hold what is left until its end, and nobody could sweep it away
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1
        with self.store.locked():
            self.sweep()  # the locks of workers that we had to kill


def _remove(path: str) -> None:
    """Remove a directory of `ingest/`, however deep what was unpacked there is."""
    parent = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        remove_tree(os.path.basename(path), parent)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.ENOENT):  # a worker whose owner was killed is just ending
            raise
    finally:
        os.close(parent)


def is_same(fd: int, path: str) -> bool:
    """Whether an open file still has that name."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False
