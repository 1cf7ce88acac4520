"""How Python reaches the kernel: libc's functions where it has one, `syscall(2)` by number where it has none.

The only file, with its neighbours in this folder, that calls C (`c`). Numbers from 424 on are the same on every
architecture; the few older ones that are needed by number are listed for the two architectures the course runs on.
"""

from __future__ import annotations

import os

from minicontainer.linux import c
from minicontainer.linux.c import c_char_p, c_int, c_long, c_size_t, c_uint, c_ulong, c_void_p

__all__ = [
    "NUMBERS",
    "by_number",
    "c_char_p",
    "c_int",
    "c_long",
    "c_size_t",
    "c_uint",
    "c_ulong",
    "c_void_p",
    "function",
]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

NUMBERS = {
    "pivot_root": {"x86_64": 155, "aarch64": 41},
    "capget": {"x86_64": 125, "aarch64": 90},
    "capset": {"x86_64": 126, "aarch64": 91},
    "landlock_create_ruleset": 444,
    "landlock_add_rule": 445,
    "landlock_restrict_self": 446,
    "bpf": {"x86_64": 321, "aarch64": 280},
    "seccomp": {"x86_64": 317, "aarch64": 277},
    "sched_setattr": {"x86_64": 314, "aarch64": 274},
    "set_mempolicy": {"x86_64": 238, "aarch64": 237},
    "ioprio_set": {"x86_64": 251, "aarch64": 30},
    "add_key": {"x86_64": 248, "aarch64": 217},
    "keyctl": {"x86_64": 250, "aarch64": 219},
    "name_to_handle_at": {"x86_64": 303, "aarch64": 264},
    "open_by_handle_at": {"x86_64": 304, "aarch64": 265},
    "pidfd_send_signal": 424,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "pidfd_open": 434,
    "clone3": 435,
    "close_range": 436,
    "openat2": 437,
    "mount_setattr": 442,
}


def function(name: str, *argtypes: Any) -> Callable[..., int]:
    """libc's function `name`: returns its result, raises OSError where libc returns -1."""
    raw = c.function(name, argtypes, c_long if name == "syscall" else c_int)

    def call(*args: Any) -> int:
        result: int = raw(*args)
        if result == -1:
            number = c.get_errno()
            raise OSError(number, os.strerror(number))
        return result

    return call


def by_number(name: str, *argtypes: Any) -> Callable[..., int]:
    """System call `name`, which libc may have no function for."""
    number = NUMBERS[name]
    if isinstance(number, dict):
        number = number.get(os.uname().machine, -1)
    raw = function("syscall", c_long, *argtypes)

    def call(*args: Any) -> int:
        return raw(number, *args)

    return call
