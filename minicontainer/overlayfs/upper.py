"""The directory that keeps a container's changes: `upper/`, and `work/` where the overlay prepares a file before it
appears in `upper/` by one rename.

Removing it looks simple and is where an engine gets hurt: what is in there was made by the container's root. A
symbolic link must not lead us out, a tree 10 000 directories deep must not exhaust our stack or our descriptors, and
the overlay itself leaves directories with mode 0. So nothing here follows a path: the tree is emptied through
directory descriptors, a few at a time: what lies too deep for that is first lifted up to the top.
"""

from __future__ import annotations

import errno
import os

from minicontainer import linux
from minicontainer.errors import HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

LEVELS = 8
"""So deep does removing go before it lifts: as many directories are open at a time."""

_BELOW = linux.RESOLVE_BENEATH | linux.RESOLVE_NO_SYMLINKS | linux.RESOLVE_NO_XDEV


def make(directory: str, layers: Sequence[str]) -> None:
    """Make `directory` with `upper/` and `work/`. A new `upper/` gets the mode and owner of the uppermost layer: it
    becomes the container's `/`, and shows its own."""
    os.makedirs(os.path.dirname(directory), exist_ok=True)
    _mkdir(directory)
    _mkdir(f"{directory}/work")
    if _mkdir(f"{directory}/upper") and layers:
        try:
            like = os.stat(layers[-1])
        except OSError as error:
            reason = linux.errno_name(error.errno or 0)
            raise HostError(f"layer {layers[-1]}: {reason}", hint="pull the image again") from error
        linux.chown(f"{directory}/upper", like.st_uid, like.st_gid)
        linux.chmod(f"{directory}/upper", like.st_mode & 0o7777)


def _mkdir(path: str) -> bool:
    try:
        linux.mkdir(path, 0o700 if path.endswith("/work") else 0o755)
    except FileExistsError:
        return False
    return True


def remove(directory: str) -> None:
    """Remove `upper/` and `work/` below `directory`, and `directory` unless something else is in it. May be called
    again after it was stopped halfway; what is gone is no error. Never leaves the filesystem it is in."""
    try:
        parent = linux.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    try:
        for name in ("upper", "work"):
            remove_tree(name, parent)
    finally:
        os.close(parent)
    try:
        linux.rmdir(directory)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTEMPTY):
            raise


def remove_tree(name: str, dir_fd: int) -> None:
    """Remove the directory `name` of the directory `dir_fd` with all that is in it."""
    try:
        top = linux.openat2(dir_fd, name, os.O_RDONLY | os.O_DIRECTORY, _BELOW)
    except FileNotFoundError:
        return
    try:
        prefix, rounds = os.urandom(8).hex(), 0
        while _empty(top, top, f"{prefix}.{rounds}", LEVELS):
            rounds += 1
    finally:
        os.close(top)
    linux.rmdir(name, dir_fd)


def _empty(directory: int, top: int, prefix: str, levels: int) -> int:
    """Remove what is in `directory`, so many levels deep. Directories below that which are not empty are lifted up to
    `top`, as PREFIX.NUMBER, for the next round; how many were."""
    lifted = 0
    for number, (entry, is_directory) in enumerate(_entries(directory)):
        if _removed(entry, is_directory, directory):
            continue
        if not levels:
            linux.rename(entry, f"{prefix}.{number}", directory, top)
            lifted += 1
            continue
        below = linux.openat2(directory, entry, os.O_RDONLY | os.O_DIRECTORY, _BELOW)
        try:
            lifted += _empty(below, top, f"{prefix}.{number}", levels - 1)
        finally:
            os.close(below)
        linux.rmdir(entry, directory)
    return lifted


def _entries(fd: int) -> list[tuple[str, bool]]:
    with os.scandir(fd) as entries:
        return [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]


def _removed(name: str, is_directory: bool, dir_fd: int) -> bool:
    """Remove a file or an empty directory; False when the directory is not empty."""
    if not is_directory:
        linux.unlink(name, dir_fd)
        return True
    try:
        linux.rmdir(name, dir_fd)
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise
        return False
    return True
