"""Which memory a process gets on a machine that has it in several places (NUMA nodes). set_mempolicy(2)"""

from __future__ import annotations

from minicontainer.linux import c
from minicontainer.linux.door import syscall
from minicontainer.linux.libc import by_number, c_int, c_ulong, c_void_p

_set_mempolicy = by_number("set_mempolicy", c_int, c_void_p, c_ulong)


@syscall()
def set_mempolicy(mode: int, nodes: list[int]) -> None:
    """From which nodes this process, and what it executes, gets its memory. set_mempolicy(2)"""
    mask = sum(1 << node for node in set(nodes))
    size = (mask.bit_length() + 63) // 64 * 8  # the mask is an array of longs, the lowest first
    bits = c.create_string_buffer(mask.to_bytes(size, "little"), size) if mask else None
    _set_mempolicy(mode, bits, size * 8 + 1)  # the kernel looks at one bit less than it is told
