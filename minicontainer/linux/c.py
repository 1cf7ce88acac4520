"""What ctypes has, as far as a system call needs it, from the C code behind it.

`ctypes` looks at every type that C has, and at both orders of bytes, before it is imported: two thirds of a
millisecond, in every process that makes a container.
"""

from __future__ import annotations

__all__ = [
    "Structure",
    "addressof",
    "byref",
    "c_char",
    "c_char_p",
    "c_int",
    "c_int32",
    "c_long",
    "c_size_t",
    "c_uint",
    "c_uint32",
    "c_uint64",
    "c_ulong",
    "c_ushort",
    "c_void_p",
    "create_string_buffer",
    "function",
    "get_errno",
    "sizeof",
]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ctypes import (
        Structure,
        addressof,
        byref,
        c_char,
        c_char_p,
        c_int,
        c_int32,
        c_long,
        c_size_t,
        c_uint,
        c_uint32,
        c_uint64,
        c_ulong,
        c_ushort,
        c_void_p,
        create_string_buffer,
        get_errno,
        sizeof,
    )
    from typing import Any

    def function(name: str, arguments: tuple[Any, ...], result: Any, *, locked: bool = False) -> Any: ...

else:
    from _ctypes import (
        FUNCFLAG_CDECL,
        FUNCFLAG_PYTHONAPI,
        FUNCFLAG_USE_ERRNO,
        CFuncPtr,
        Structure,
        _SimpleCData,
        addressof,
        byref,
        dlopen,
        dlsym,
        get_errno,
        sizeof,
    )

    # the codes are those of struct; a long has 64 bits on both architectures that are known here

    class c_char(_SimpleCData):
        _type_ = "c"

    class c_char_p(_SimpleCData):
        _type_ = "z"

    class c_int(_SimpleCData):
        _type_ = "i"

    class c_long(_SimpleCData):
        _type_ = "l"

    class c_uint(_SimpleCData):
        _type_ = "I"

    class c_ulong(_SimpleCData):
        _type_ = "L"

    class c_ushort(_SimpleCData):
        _type_ = "H"

    class c_void_p(_SimpleCData):
        _type_ = "P"

    c_int32, c_uint32, c_uint64, c_size_t = c_int, c_uint, c_ulong, c_ulong

    def create_string_buffer(content: bytes, size: int | None = None) -> Any:
        """An array of `size` bytes that begins with `content`; without a size, of all its bytes and a NUL."""
        array = (c_char * (len(content) + 1 if size is None else size))()
        array.value = content
        return array

    class _OfLibc(CFuncPtr):
        _flags_ = FUNCFLAG_CDECL | FUNCFLAG_USE_ERRNO

    class _OfPython(CFuncPtr):
        _flags_ = FUNCFLAG_CDECL | FUNCFLAG_USE_ERRNO | FUNCFLAG_PYTHONAPI

    _PROGRAM = dlopen(None, 0)

    def function(name: str, arguments: tuple[Any, ...], result: Any, *, locked: bool = False) -> Any:
        """The function `name` of libc or of the interpreter. `locked`: it keeps the interpreter's lock while it runs.

        Raises OSError when there is none of this name. Its errno is `get_errno`'s to tell.
        """
        found = (_OfPython if locked else _OfLibc)(dlsym(_PROGRAM, name))
        found.argtypes, found.restype = arguments, result
        return found
