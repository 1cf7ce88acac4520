"""The kernel's keyrings: secrets that processes leave with the kernel, keyrings(7). No namespace divides them."""

from __future__ import annotations

import ctypes

from minicontainer.linux.door import syscall
from minicontainer.linux.libc import by_number, c_char_p, c_int, c_long, c_size_t, c_void_p

KEY_SPEC_SESSION_KEYRING = -3
KEY_SPEC_USER_KEYRING = -4
KEYCTL_JOIN_SESSION_KEYRING = 1
KEYCTL_LINK, KEYCTL_UNLINK, KEYCTL_SEARCH, KEYCTL_READ = 8, 9, 10, 11

_add_key = by_number("add_key", c_char_p, c_char_p, c_char_p, c_size_t, c_int)
_keyctl = by_number("keyctl", c_int, c_long, c_void_p, c_void_p, c_long)


@syscall()
def add_key(kind: str, description: str, content: bytes, keyring: int) -> int:
    """Leave a secret in a keyring; the key's number. add_key(2)"""
    return _add_key(kind.encode(), description.encode(), content, len(content), keyring)


@syscall(name="keyctl")
def keyctl_link(key: int, keyring: int) -> None:
    """Put a key, or a keyring, into a keyring. keyctl_link(3)"""
    _keyctl(KEYCTL_LINK, key, keyring, None, 0)


@syscall(name="keyctl")
def keyctl_unlink(key: int, keyring: int) -> None:
    """Take a key out of a keyring. keyctl_unlink(3)"""
    _keyctl(KEYCTL_UNLINK, key, keyring, None, 0)


@syscall(name="keyctl")
def keyctl_search(keyring: int, kind: str, description: str) -> int:
    """The number of a key, by its description. keyctl_search(3)"""
    return _keyctl(KEYCTL_SEARCH, keyring, kind.encode(), description.encode(), 0)


@syscall(name="keyctl")
def keyctl_read(key: int) -> bytes:
    """A key's secret. keyctl_read(3)"""
    buffer = ctypes.create_string_buffer(4096)
    size = _keyctl(KEYCTL_READ, key, ctypes.addressof(buffer), len(buffer), 0)
    return buffer.raw[:size]


@syscall(name="keyctl")
def keyctl_join_session_keyring() -> int:
    """Begin with an empty session keyring, for this process and all that it will start. keyctl(2)"""
    return _keyctl(KEYCTL_JOIN_SESSION_KEYRING, 0, None, None, 0)
