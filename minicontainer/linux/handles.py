"""Files by their number: what a file server uses to find a file again without a path. open_by_handle_at(2)"""

from __future__ import annotations

import ctypes
import os

from minicontainer.linux.door import syscall
from minicontainer.linux.libc import by_number, c_char_p, c_int, c_void_p

_MAX = 128  # MAX_HANDLE_SZ


class _Handle(ctypes.Structure):
    """struct file_handle"""

    _fields_ = [("size", ctypes.c_uint), ("kind", c_int), ("content", ctypes.c_ubyte * _MAX)]


_name_to_handle_at = by_number("name_to_handle_at", c_int, c_char_p, c_void_p, c_void_p, c_int)
_open_by_handle_at = by_number("open_by_handle_at", c_int, c_void_p, c_int)


@syscall()
def name_to_handle_at(path: str) -> tuple[int, bytes]:
    """A file's handle: its kind, and bytes that mean it on its filesystem (inode and generation, mostly)."""
    handle, mount = _Handle(size=_MAX), c_int()
    _name_to_handle_at(-100, os.fsencode(path), ctypes.byref(handle), ctypes.byref(mount), 0)
    return handle.kind, bytes(handle.content[: handle.size])


@syscall(show={"flags": "O_"})
def open_by_handle_at(mount: int, kind: int, content: bytes, flags: int) -> int:
    """Open the file that a handle means; `mount` is any open file of the same filesystem. Needs CAP_DAC_READ_SEARCH."""
    handle = _Handle(size=len(content), kind=kind)
    ctypes.memmove(handle.content, content, len(content))
    return _open_by_handle_at(mount, ctypes.byref(handle), flags | os.O_CLOEXEC)
