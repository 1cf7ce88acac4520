"""What a filter of system calls decides: read back from the kernel, and executed here, for any call one likes."""

from __future__ import annotations

import ctypes
import os
import signal
import struct

from minicontainer.linux import libc

PTRACE_SECCOMP_GET_FILTER = 0x420C
PTRACE_SEIZE, PTRACE_INTERRUPT, PTRACE_DETACH = 0x4206, 0x4207, 17

X86_64, I386, AARCH64 = 0xC000003E, 0x40000003, 0xC00000B7
KINDS = {0x7FFF: "allow", 0x0005: "errno", 0x0003: "trap", 0x7FF0: "trace", 0x7FFC: "log", 0x7FC0: "notify"}

_ptrace = libc.function("ptrace", ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)

Filter = list[tuple[int, int, int, int]]


def of(pid: int) -> Filter:
    """The last filter that was put on a process, as the kernel has it. ptrace(2), PTRACE_SECCOMP_GET_FILTER"""
    _ptrace(PTRACE_SEIZE, pid, None, None)
    try:
        _ptrace(PTRACE_INTERRUPT, pid, None, None)
        os.waitpid(pid, 0x40000000)  # __WALL: it need not be a child of ours
        length = _ptrace(PTRACE_SECCOMP_GET_FILTER, pid, None, None)
        buffer = ctypes.create_string_buffer(length * 8)
        _ptrace(PTRACE_SECCOMP_GET_FILTER, pid, None, ctypes.addressof(buffer))
    finally:
        _ptrace(PTRACE_DETACH, pid, None, None)
        os.kill(pid, signal.SIGCONT)
    return parse(buffer.raw)


def parse(program: bytes) -> Filter:
    """struct sock_filter[] as tuples (code, jump if true, jump if false, constant)."""
    return list(struct.iter_unpack("=HBBI", program))


def decide(program: Filter, arch: int, number: int, *arguments: int) -> str:
    """What becomes of a call: `allow`, `errno 1`, `kill`, …: the program is executed as the kernel does."""
    padded = [*arguments, 0, 0, 0, 0, 0, 0][:6]
    data = struct.pack("=IIQ6Q", number, arch, 0, *padded)
    accumulator, at = 0, 0
    while True:
        code, true, false, constant = program[at]
        at += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, constant)
        elif code == 0x54:
            accumulator &= constant
        elif code == 0x05:
            at += constant
        elif code in (0x15, 0x25, 0x35, 0x45):
            holds = {
                0x15: accumulator == constant,
                0x25: accumulator > constant,
                0x35: accumulator >= constant,
                0x45: bool(accumulator & constant),
            }[code]
            at += true if holds else false
        elif code == 0x06:
            kind, number = KINDS.get(constant >> 16, "kill"), constant & 0xFFFF
            return f"{kind} {number}" if kind in ("errno", "trace") else kind
        else:
            raise AssertionError(f"an instruction {code:#x} in a filter")
