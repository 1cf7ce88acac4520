"""libseccomp: from rules by name to a filter in the kernel's machine language.

System calls have other numbers on each architecture, and a 64-bit x86 kernel answers to three of them. libseccomp
knows the tables and writes the jumps. It is asked on the host's side, once for each policy; the container's process
only hands the result to the kernel. seccomp_rule_add(3), seccomp_export_bpf(3)
"""

from __future__ import annotations

import ctypes
import os

from minicontainer.linux.door import kernel_error
from minicontainer.linux.libc import c_char_p, c_int, c_uint, c_void_p

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    Comparison = tuple[int, str, int, int]
    Rule = tuple[int, str, list[Comparison]]

OPERATORS = {
    f"SCMP_CMP_{name}": number for number, name in enumerate(("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"), start=1)
}
_OPTIMIZE, _BINARY_TREE = 8, 2  # SCMP_FLTATR_CTL_OPTIMIZE, its second level: since libseccomp 2.5
_NO_SUCH_CALL = -1  # __NR_SCMP_ERROR
_EEXIST, _EDOM = 17, 33


class _Comparison(ctypes.Structure):
    """struct scmp_arg_cmp"""

    _fields_ = [("arg", c_uint), ("op", c_int), ("datum_a", ctypes.c_uint64), ("datum_b", ctypes.c_uint64)]


class Missing(OSError):
    """There is no libseccomp on this machine."""


_library: Any = None


def _load() -> Any:
    global _library
    if _library is None:
        try:
            library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
        except OSError as error:
            raise Missing(2, str(error)) from None
        library.seccomp_init.argtypes, library.seccomp_init.restype = (c_uint,), c_void_p
        library.seccomp_release.argtypes, library.seccomp_release.restype = (c_void_p,), None
        library.seccomp_arch_resolve_name.argtypes, library.seccomp_arch_resolve_name.restype = (c_char_p,), c_uint
        library.seccomp_arch_add.argtypes = (c_void_p, c_uint)
        library.seccomp_attr_set.argtypes = (c_void_p, c_int, c_uint)
        library.seccomp_syscall_resolve_name.argtypes = (c_char_p,)
        library.seccomp_syscall_resolve_name_arch.argtypes = (c_uint, c_char_p)
        library.seccomp_syscall_resolve_num_arch.argtypes = (c_uint, c_int)
        library.seccomp_syscall_resolve_num_arch.restype = c_void_p
        library.free.argtypes, library.free.restype = (c_void_p,), None  # libc's: the names it returns are ours
        library.seccomp_rule_add_array.argtypes = (c_void_p, c_uint, c_int, c_uint, c_void_p)
        library.seccomp_export_bpf.argtypes = (c_void_p, c_int)
        _library = library
    return _library


def number_of(architecture: str, call: str) -> int:
    """A call's number on an architecture (`x86_64`); negative where it has none. Raises Missing, ValueError."""
    library = _load()
    return int(library.seccomp_syscall_resolve_name_arch(_token(library, architecture), call.encode()))


def name_of(architecture: str, number: int) -> str:
    """The name of a call on an architecture; "" for a number that has none there. Raises Missing, ValueError."""
    library = _load()
    text = library.seccomp_syscall_resolve_num_arch(_token(library, architecture), number)
    if not text:
        return ""
    name = ctypes.string_at(text).decode()
    library.free(text)
    return name


def _token(library: Any, architecture: str) -> int:
    token: int = library.seccomp_arch_resolve_name(architecture.encode())
    if not token:
        raise ValueError(f"libseccomp knows no architecture {architecture!r}")
    return token


def compile(default: int, architectures: Iterable[str], rules: Iterable[Rule]) -> bytes:
    """The filter that does `default`, and for each rule (action, call, comparisons of arguments) its action.

    Architectures are named as libseccomp does (`x86_64`, `x86`, `x32`, `aarch64`, `arm`); this machine's own is always
    among them. Calls that the library does not know are left out. Raises Missing, ValueError and KernelError.
    """
    library = _load()
    context = library.seccomp_init(default)
    if not context:
        raise ValueError(f"libseccomp does not take {default:#x} as what a filter does by default")
    try:
        for architecture in architectures:
            _check(library.seccomp_arch_add(context, _token(library, architecture)), architecture, _EEXIST)
        library.seccomp_attr_set(context, _OPTIMIZE, _BINARY_TREE)  # an older library makes a slower filter
        for action, call, comparisons in rules:
            number = library.seccomp_syscall_resolve_name(call.encode())
            if number == _NO_SUCH_CALL:
                continue
            array = (_Comparison * len(comparisons))(
                *(_Comparison(index, OPERATORS[op], a, b) for index, op, a, b in comparisons)
            )
            result = library.seccomp_rule_add_array(context, action, number, len(comparisons), array)
            _check(result, call, _EEXIST, _EDOM)  # EDOM: it exists on none of the architectures
        return _exported(library, context)
    finally:
        library.seccomp_release(context)


def _exported(library: Any, context: int) -> bytes:
    fd = os.memfd_create("filter", os.MFD_CLOEXEC)
    try:
        _check(library.seccomp_export_bpf(context, fd), "export")
        size = os.lseek(fd, 0, os.SEEK_CUR)
        return os.pread(fd, size, 0)
    finally:
        os.close(fd)


def _check(result: int, what: str, *harmless: int) -> None:
    if result < 0 and -result not in harmless:
        raise kernel_error(-result, "libseccomp", what)
