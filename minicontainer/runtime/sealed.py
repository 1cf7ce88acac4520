"""The runtime's own program cannot be written through a container (CVE-2019-5736).

Between the clone and the exec our process is inside, and /proc/PID/exe leads from there to its file on the host, past
every root. A command `/proc/self/exe` executes that file once more, with whatever libraries the image has; a process
beside it may look. Either way somebody in the container holds the interpreter open, waits until nobody executes it,
and writes: from then on the attacker's program is started on the host, as root.

Which *mount* a file was executed from is part of that link. So the interpreter is executed again, from a mount of its
own that is read-only and that no directory shows: whoever follows the link gets EROFS, and has no mount to remount.
It costs one more start of the interpreter. runc does the same with its own, from a sealed copy in memory or, since
1.2, an overlay. open_tree(2), mount_setattr(2), execveat(2)
"""

from __future__ import annotations

import os
import sys

PROGRAM = "/proc/self/exe"


def ensure() -> None:
    """Be executed from a read-only mount: returns if that is so already, executes this command again if not.

    Whoever may not write to the interpreter's file need not be kept from it: nobody in a container may do more.
    """
    if not os.access(PROGRAM, os.W_OK):  # EROFS, or not ours
        return
    from minicontainer import linux

    fd = linux.open_tree(linux.AT_FDCWD, PROGRAM, linux.OPEN_TREE_CLONE | linux.OPEN_TREE_CLOEXEC)
    linux.mount_setattr(fd, "", linux.AT_EMPTY_PATH, set_attributes=linux.MOUNT_ATTR_RDONLY)
    os.execve(fd, sys.orig_argv, os.environ)
