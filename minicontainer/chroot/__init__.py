"""Chapter 2. Its own root.

Which files a process sees is two things: where its `/` begins, and what is mounted. `Chroot` changes only the first,
and a privileged process simply walks out. `PivotRoot` gives it a mount namespace, furnishes the new root there, makes
it the root mount and takes the old one away.

Files of this chapter: `root` (the two parts), `filesystems` (/proc, /sys, /dev, what is masked), `within` (paths in a
root that is not to be trusted), `binds` (Bind, Tmpfs), `user` (User), `terminal` (Terminal).
"""

from minicontainer.chroot.binds import Bind, Tmpfs
from minicontainer.chroot.root import Chroot, PivotRoot
from minicontainer.chroot.terminal import Terminal
from minicontainer.chroot.user import User

__all__ = ["Bind", "Chroot", "PivotRoot", "Terminal", "Tmpfs", "User"]
