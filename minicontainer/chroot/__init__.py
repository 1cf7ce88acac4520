"""Chapter 2. Its own root.

Which files a process sees is two things: where its `/` begins, and what is mounted. `Chroot` changes only the first,
and a privileged process simply walks out. `PivotRoot` gives it a mount namespace, furnishes the new root there, makes
it the root mount and takes the old one away.

Files of this chapter: `root` (the two parts), `filesystems` (/proc, /sys, /dev, what is masked), `within` (paths in a
root that is not to be trusted), `binds` (Bind, Tmpfs), `user` (User), `terminal` (Terminal).

The names below are loaded when they are first used.
"""

from __future__ import annotations

from minicontainer.lean import lazily

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minicontainer.chroot.binds import Bind as Bind
    from minicontainer.chroot.binds import Tmpfs as Tmpfs
    from minicontainer.chroot.root import Chroot as Chroot
    from minicontainer.chroot.root import PivotRoot as PivotRoot
    from minicontainer.chroot.terminal import Terminal as Terminal
    from minicontainer.chroot.user import User as User

__all__ = ["Bind", "Chroot", "PivotRoot", "Terminal", "Tmpfs", "User"]

_HOMES = {
    "binds": ("Bind", "Tmpfs"),
    "root": ("Chroot", "PivotRoot"),
    "terminal": ("Terminal",),
    "user": ("User",),
}


__getattr__ = lazily(__name__, _HOMES)


def __dir__() -> list[str]:
    return __all__
