"""Programs in the kernel that decide for a control group: loaded, checked by the kernel, hung on a directory. bpf(2)

Cgroup v2 has no files for devices. What v1 keeps in devices.allow is there a small program that the kernel asks at
each open and mknod; extended BPF, ten registers, no loops. Here are the two system calls and an assembler for the few
instructions that such a program needs.
"""

from __future__ import annotations

import os
import struct

from minicontainer.linux import c
from minicontainer.linux.door import syscall
from minicontainer.linux.libc import by_number, c_int, c_uint, c_void_p

BPF_PROG_LOAD, BPF_PROG_ATTACH, BPF_PROG_QUERY = 5, 8, 16
BPF_PROG_TYPE_CGROUP_DEVICE, BPF_CGROUP_DEVICE = 15, 6
BPF_F_ALLOW_MULTI = 2

# struct bpf_cgroup_dev_ctx, <linux/bpf.h>
DEVICE_TYPE_AND_ACCESS, DEVICE_MAJOR, DEVICE_MINOR = 0, 4, 8
BLOCK, CHARACTER = 1, 2
MKNOD, READ, WRITE = 1, 2, 4

_LICENSE = c.create_string_buffer(b"MIT")
_bpf = by_number("bpf", c_int, c_void_p, c_uint)


def _instruction(code: int, target: int = 0, source: int = 0, offset: int = 0, constant: int = 0) -> bytes:
    return struct.pack("=BBhi", code, source << 4 | target, offset, constant)


def load_word(target: int, source: int, offset: int) -> bytes:
    """target = the 32 bits at source + offset"""
    return _instruction(0x61, target, source, offset)


def copy(target: int, source: int) -> bytes:
    """target = source"""
    return _instruction(0xBF, target, source)


def set_to(target: int, constant: int) -> bytes:
    """target = constant"""
    return _instruction(0xB7, target, constant=constant)


def mask(target: int, constant: int) -> bytes:
    """target &= constant, in 32 bits"""
    return _instruction(0x54, target, constant=constant)


def shift_right(target: int, constant: int) -> bytes:
    """target >>= constant, in 32 bits"""
    return _instruction(0x74, target, constant=constant)


def unless_equal(register: int, constant: int, skip: int) -> bytes:
    """if register != constant: skip so many instructions"""
    return _instruction(0x55, register, offset=skip, constant=constant)


def if_equal(register: int, constant: int, skip: int) -> bytes:
    """if register == constant: skip so many instructions"""
    return _instruction(0x15, register, offset=skip, constant=constant)


def leave() -> bytes:
    """return register 0"""
    return _instruction(0x95)


@syscall(name="bpf")
def _load(command: str, instructions: int, program: _Hidden) -> int:
    code = c.create_string_buffer(program.code, len(program.code))
    # union bpf_attr: prog_type, insn_cnt, insns, license, …
    attributes = struct.pack(
        "=IIQQIIQII16sII",
        BPF_PROG_TYPE_CGROUP_DEVICE,
        instructions,
        c.addressof(code),
        c.addressof(_LICENSE),
        0,
        0,
        0,
        0,
        0,
        b"minicontainer",
        0,
        BPF_CGROUP_DEVICE,
    )
    fd = _bpf(BPF_PROG_LOAD, attributes, len(attributes))
    os.set_inheritable(fd, False)
    return fd


class _Hidden:
    def __init__(self, code: bytes) -> None:
        self.code = code

    def __repr__(self) -> str:
        return "<program>"


def load_device_program(program: bytes) -> int:
    """Have the kernel check and take a program about devices; a descriptor of it. bpf(2), BPF_PROG_LOAD"""
    return _load("BPF_PROG_LOAD", len(program) // 8, _Hidden(program))


@syscall(name="bpf")
def _attach(command: str, cgroup: int, program: int) -> None:
    attributes = struct.pack("=IIII", cgroup, program, BPF_CGROUP_DEVICE, BPF_F_ALLOW_MULTI)
    _bpf(BPF_PROG_ATTACH, attributes, len(attributes))


def attach_device_program(cgroup: int, program: int) -> None:
    """Let the program decide for the cgroup v2 directory `cgroup`, and all below it, until that is removed."""
    _attach("BPF_PROG_ATTACH", cgroup, program)


@syscall(name="bpf")
def _query(command: str, cgroup: int) -> int:
    numbers = (c.c_uint32 * 64)()
    # union bpf_attr: target_fd, attach_type, query_flags, attach_flags, prog_ids, prog_cnt
    attributes = bytearray(struct.pack("=IIIIQII", cgroup, BPF_CGROUP_DEVICE, 1, 0, c.addressof(numbers), 64, 0))
    buffer = (c.c_char * len(attributes)).from_buffer(attributes)
    _bpf(BPF_PROG_QUERY, buffer, len(attributes))
    count: int = struct.unpack_from("=I", attributes, 24)[0]
    return count


def device_programs(directory: str) -> int:
    """How many programs about devices are in force for a cgroup v2 directory, those of its parents among them."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return _query("BPF_PROG_QUERY", fd)
    finally:
        os.close(fd)
