"""The runtime's own program cannot be written through a container (CVE-2019-5736).

Between the clone and the exec our process is inside, and /proc/PID/exe leads from there to its file on the host, past
every root. A command `/proc/self/exe` executes that file once more, with whatever libraries the image has; a process
beside it may look. Either way somebody in the container holds the interpreter open, waits until nobody executes it,
and writes: from then on the attacker's program is started on the host, as root.

Which *mount* a file was executed from is part of that link. So the interpreter is executed from a mount of its own
that is read-only: whoever follows the link gets EROFS, and cannot remount what is in the host's mount namespace or in
none. runc does the same with its own program, from a sealed copy in memory or, since 1.2, an overlay. open_tree(2),
mount_setattr(2), execveat(2)

The first time it costs one more start of the interpreter, so it comes first of all: before anything else is imported,
also before the floor that every other system call goes through. Then the mount is kept, where the script that starts
us looks for it (`-X sealed=PLACE`): below a directory that is root's alone, as everything is that root executes.
"""

from __future__ import annotations

import os
import stat
import sys

PROGRAM = "/proc/self/exe"
ENTERING = frozenset(("create", "run", "exec"))
"""Verbs that bring a process of ours into a container, and with it a way to its program."""

OPEN_TREE, MOUNT_SETATTR = 428, 442  # the same on every architecture
AT_FDCWD, AT_EMPTY_PATH = -100, 0x1000
CLONE_AND_CLOSE = 0x1 | os.O_CLOEXEC
MOUNT_ATTR_RDONLY, MS_PRIVATE, MFD_EXEC = 0x1, 0x40000, 0x10
READ_ONLY = b"".join(number.to_bytes(8, sys.byteorder) for number in (MOUNT_ATTR_RDONLY, 0, MS_PRIVATE, 0))
"""struct mount_attr: what is set, what is cleared, how mounts on it spread (not at all), no user namespace."""


def ensure() -> None:
    """Be executed from a read-only mount: returns if that is so already, executes this command again if not.

    Whoever may not write to the interpreter's file need not be kept from it: nobody in a container may do more.
    """
    if not os.access(PROGRAM, os.W_OK):  # EROFS, or not ours
        return
    if os.geteuid():
        _ensure_copy()
        return
    fd = _call(OPEN_TREE, AT_FDCWD, PROGRAM.encode(), CLONE_AND_CLOSE)
    _call(MOUNT_SETATTR, fd, b"", AT_EMPTY_PATH, READ_ONLY, len(READ_ONLY))
    if place := sys._xoptions.get("sealed"):
        try:
            _keep(fd, str(place))
        except OSError:
            pass  # no such place for us: it costs every start a second one, and no safety
    os.execve(fd, sys.orig_argv, os.environ)


def kept() -> str:
    """The directory where the mount is kept that we were executed from; none without one."""
    place = str(sys._xoptions.get("sealed", ""))
    return os.path.dirname(place) if place and os.path.exists(place) and os.path.samefile(place, PROGRAM) else ""


def _ensure_copy() -> None:
    """For somebody who may mount nothing and has an interpreter of their own: a copy in memory that nobody can write.

    memfd_create(2), fcntl(2), "File Sealing"
    """
    import fcntl

    with open(PROGRAM, "rb") as program:
        try:
            if fcntl.fcntl(program, fcntl.F_GET_SEALS) & fcntl.F_SEAL_WRITE:
                return
        except OSError:
            pass  # a file on a disk
        try:
            fd = os.memfd_create("python", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING | MFD_EXEC)
        except OSError:  # before Linux 6.3 all of them can be executed, and the flag is not known
            fd = os.memfd_create("python", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        while os.sendfile(fd, program.fileno(), None, 1 << 30):
            pass
    every = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, every)
    os.execve(fd, sys.orig_argv, os.environ)


def _keep(tree: int, place: str) -> None:
    """Hang the mount where the next start finds it. Raises OSError, also where others than root could reach.

    Its directory is a mount as well, one that cannot be bound: whoever shows /run to a container, with all that is
    mounted there, does not show it this.
    """
    from minicontainer import linux, state
    from minicontainer.runtime import together

    directory = above = os.path.dirname(place)
    os.makedirs(directory, 0o700, exist_ok=True)
    while above != "/":
        status = os.lstat(above)
        if status.st_uid or (status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX):
            raise PermissionError(f"{above} is not root's alone")
        above = os.path.dirname(above)
    with state.locked(f"{directory}.lock"):
        if os.path.exists(place) and os.path.samefile(place, PROGRAM):
            return  # another one was quicker
        while _unmounted(directory):
            pass  # an interpreter that has been replaced since
        for name in (together.MODULES, together.START):  # what it had imported
            if os.path.exists(f"{directory}/{name}"):
                os.unlink(f"{directory}/{name}")
        # where the library is, which it would look for beside itself, PEP 405
        home = os.path.dirname(os.path.realpath(sys.executable))
        state.write_file(f"{directory}/pyvenv.cfg", f"home = {home}\n".encode())
        os.close(os.open(place, os.O_CREAT | os.O_CLOEXEC, 0))
        own = linux.open_tree(linux.AT_FDCWD, directory, linux.OPEN_TREE_CLONE | linux.OPEN_TREE_CLOEXEC)
        linux.mount_setattr(own, "", linux.AT_EMPTY_PATH, propagation=linux.MS_PRIVATE)
        linux.move_mount(own, "", linux.AT_FDCWD, directory, linux.MOVE_MOUNT_F_EMPTY_PATH)
        linux.mount_setattr(own, "", linux.AT_EMPTY_PATH, propagation=linux.MS_UNBINDABLE)
        linux.move_mount(tree, "", linux.AT_FDCWD, place, linux.MOVE_MOUNT_F_EMPTY_PATH)


def _unmounted(directory: str) -> bool:
    from minicontainer import linux

    try:
        linux.umount2(directory, linux.MNT_DETACH)
    except OSError:
        return False
    return True


def _call(number: int, *arguments: int | bytes) -> int:
    from _ctypes import FUNCFLAG_CDECL, FUNCFLAG_USE_ERRNO, CFuncPtr, dlopen, dlsym, get_errno

    class Call(CFuncPtr):
        _flags_ = FUNCFLAG_CDECL | FUNCFLAG_USE_ERRNO

    result: int = Call(dlsym(dlopen("", 0), "syscall"))(number, *arguments)
    if result < 0:
        error = get_errno()
        raise OSError(error, os.strerror(error), "a read-only mount of the interpreter (Linux 5.12)")
    return result
