"""Who a process is and what it may do: user, groups, capabilities, resource limits."""

from __future__ import annotations

import os

from minicontainer.linux import c
from minicontainer.linux.door import syscall
from minicontainer.linux.libc import by_number, c_int, c_ulong, c_void_p, function

_CAPABILITY_VERSION_3 = 0x20080522


class _CapHeader(c.Structure):
    _fields_ = (("version", c.c_uint32), ("pid", c.c_int))


class _CapData(c.Structure):
    _fields_ = tuple((name, c.c_uint32) for name in ("effective", "permitted", "inheritable"))


_capget = by_number("capget", c_void_p, c_void_p)
_capset = by_number("capset", c_void_p, c_void_p)


@syscall()
def capget(pid: int = 0) -> tuple[int, int, int]:
    """The (effective, permitted, inheritable) sets of a thread, one bit for each capability. capget(2)"""
    header, data = _CapHeader(_CAPABILITY_VERSION_3, pid), (_CapData * 2)()
    _capget(c.byref(header), data)
    low, high = data
    return (
        low.effective | high.effective << 32,
        low.permitted | high.permitted << 32,
        low.inheritable | high.inheritable << 32,
    )


@syscall()
def capset(effective: int, permitted: int, inheritable: int) -> None:
    """Set this thread's own sets; it can only give up what it has. capset(2)"""
    header, data = _CapHeader(_CAPABILITY_VERSION_3, 0), (_CapData * 2)()
    for i, shift in enumerate((0, 32)):
        mask = 0xFFFFFFFF
        data[i].effective = effective >> shift & mask
        data[i].permitted = permitted >> shift & mask
        data[i].inheritable = inheritable >> shift & mask
    _capset(c.byref(header), data)


_setfsuid = function("setfsuid", c_int)
_setfsgid = function("setfsgid", c_int)


@syscall()
def setfsuid(uid: int) -> int:
    """Set, for this thread only, the user that it makes files as; its effective file capabilities go when that is
    not root. Returns the one before. setfsuid(2)"""
    return _setfsuid(uid)


@syscall()
def setfsgid(gid: int) -> int:
    """Set, for this thread only, the group that it makes files as. Returns the one before. setfsgid(2)"""
    return _setfsgid(gid)


@syscall()
def setgroups(groups: list[int]) -> None:
    """Set the supplementary groups. setgroups(2)"""
    os.setgroups(groups)


@syscall()
def setresgid(gid: int) -> None:
    """Set the real, effective and saved group. setresgid(2)"""
    os.setresgid(gid, gid, gid)


@syscall()
def setresuid(uid: int) -> None:
    """Set the real, effective and saved user; clears PDEATHSIG. setresuid(2)"""
    os.setresuid(uid, uid, uid)


_setrlimit = function("setrlimit", c_int, c_void_p)


@syscall()
def setrlimit(which: int, soft: int, hard: int) -> None:
    """Limit a resource of this process and its children. setrlimit(2)"""
    _setrlimit(which, (c_ulong * 2)(soft, hard))
