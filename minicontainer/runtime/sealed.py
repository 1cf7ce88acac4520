"""The runtime's own program cannot be written through a container (CVE-2019-5736).

Between the clone and the exec our process is inside, and /proc/PID/exe leads from there to its file on the host, past
every root. A command `/proc/self/exe` executes that file once more, with whatever libraries the image has; a process
beside it may look. Either way somebody in the container holds the interpreter open, waits until nobody executes it,
and writes: from then on the attacker's program is started on the host, as root.

Which *mount* a file was executed from is part of that link. So the interpreter is executed again, from a mount of its
own that is read-only and that no directory shows: whoever follows the link gets EROFS, and has no mount to remount.
runc does the same with its own program, from a sealed copy in memory or, since 1.2, an overlay. open_tree(2),
mount_setattr(2), execveat(2)

It costs one more start of the interpreter, so it comes first of all: before anything else is imported, also before
the floor that every other system call goes through.
"""

from __future__ import annotations

import os
import sys

PROGRAM = "/proc/self/exe"
ENTERING = frozenset(("create", "run", "exec"))
"""Verbs that bring a process of ours into a container, and with it a way to its program."""

OPEN_TREE, MOUNT_SETATTR = 428, 442  # the same on every architecture
AT_FDCWD, AT_EMPTY_PATH = -100, 0x1000
CLONE_AND_CLOSE = 0x1 | os.O_CLOEXEC
READ_ONLY = (1).to_bytes(8, sys.byteorder) + bytes(24)  # struct mount_attr with MOUNT_ATTR_RDONLY set


def ensure() -> None:
    """Be executed from a read-only mount: returns if that is so already, executes this command again if not.

    Whoever may not write to the interpreter's file need not be kept from it: nobody in a container may do more.
    """
    if not os.access(PROGRAM, os.W_OK):  # EROFS, or not ours
        return
    fd = _call(OPEN_TREE, AT_FDCWD, PROGRAM.encode(), CLONE_AND_CLOSE)
    _call(MOUNT_SETATTR, fd, b"", AT_EMPTY_PATH, READ_ONLY, len(READ_ONLY))
    os.execve(fd, sys.orig_argv, os.environ)


def _call(number: int, *arguments: int | bytes) -> int:
    from _ctypes import FUNCFLAG_CDECL, FUNCFLAG_USE_ERRNO, CFuncPtr, dlopen, dlsym, get_errno

    class Call(CFuncPtr):
        _flags_ = FUNCFLAG_CDECL | FUNCFLAG_USE_ERRNO

    result: int = Call(dlsym(dlopen("", 0), "syscall"))(number, *arguments)
    if result < 0:
        error = get_errno()
        raise OSError(error, os.strerror(error), "a read-only mount of the interpreter (Linux 5.12)")
    return result
