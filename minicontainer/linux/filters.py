"""Filters of system calls: a program in the kernel's smallest machine language decides about each call. seccomp(2)

The machine is classic BPF: it sees the call's number, the architecture and the six arguments as numbers (never what
a pointer points to), jumps only forwards, and ends by returning an action. A filter can be added, never taken off.
"""

from __future__ import annotations

from minicontainer.linux import c
from minicontainer.linux.door import syscall
from minicontainer.linux.libc import by_number, c_uint, c_void_p

SECCOMP_SET_MODE_FILTER = 1
SECCOMP_GET_ACTION_AVAIL = 2
SECCOMP_FILTER_FLAG_TSYNC = 1
SECCOMP_FILTER_FLAG_LOG = 2
SECCOMP_FILTER_FLAG_SPEC_ALLOW = 4
SECCOMP_FILTER_FLAG_NEW_LISTENER = 8
SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV = 32

SECCOMP_RET_KILL_PROCESS = 0x80000000
SECCOMP_RET_KILL_THREAD = 0
SECCOMP_RET_TRAP = 0x00030000
SECCOMP_RET_ERRNO = 0x00050000
SECCOMP_RET_USER_NOTIF = 0x7FC00000
SECCOMP_RET_TRACE = 0x7FF00000
SECCOMP_RET_LOG = 0x7FFC0000
SECCOMP_RET_ALLOW = 0x7FFF0000

INSTRUCTION = 8
"""Bytes of one instruction, struct sock_filter: a code, two jumps, a constant."""


class _Program(c.Structure):
    """struct sock_fprog"""

    _fields_ = (("length", c.c_ushort), ("filter", c_void_p))


_seccomp = by_number("seccomp", c_uint, c_uint, c_void_p)


@syscall(name="seccomp", show={"flags": "SECCOMP_FILTER_FLAG_"})
def _set_filter(instructions: int, flags: int, program: _Hidden) -> int:
    buffer = c.create_string_buffer(program.code, len(program.code))
    fprog = _Program(instructions, c.addressof(buffer))
    return _seccomp(SECCOMP_SET_MODE_FILTER, flags, c.byref(fprog))


class _Hidden:
    """A filter in the trace: some hundred instructions of machine code are no help there."""

    def __init__(self, code: bytes) -> None:
        self.code = code

    def __repr__(self) -> str:
        return "<filter>"


def seccomp(program: bytes, flags: int = 0) -> int:
    """Put this thread, and all it will ever start, under the filter `program` (an array of struct sock_filter).

    Returns a descriptor to listen on with SECCOMP_FILTER_FLAG_NEW_LISTENER, else 0. Needs no_new_privs or
    CAP_SYS_ADMIN. seccomp(2)
    """
    return _set_filter(len(program) // INSTRUCTION, flags, _Hidden(program))


def knows_action(action: int) -> bool:
    """Whether this kernel knows what a filter may return, SECCOMP_GET_ACTION_AVAIL."""
    try:
        _seccomp(SECCOMP_GET_ACTION_AVAIL, 0, c.byref(c.c_uint32(action)))
    except OSError:
        return False
    return True
