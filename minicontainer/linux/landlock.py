"""Landlock: a process gives up files, for itself and all it will start, without being root. landlock(7)

A *ruleset* names what it is about (kinds of access to files); rules allow some of that below a directory; what the
ruleset is about and no rule allows is refused from then on, on top of all other checks.
"""

from __future__ import annotations

import struct

from minicontainer.linux.door import syscall
from minicontainer.linux.libc import by_number, c_int, c_size_t, c_uint, c_void_p

LANDLOCK_CREATE_RULESET_VERSION = 1
LANDLOCK_RULE_PATH_BENEATH = 1

_RIGHTS = """
EXECUTE WRITE_FILE READ_FILE READ_DIR REMOVE_DIR REMOVE_FILE MAKE_CHAR MAKE_DIR MAKE_REG MAKE_SOCK MAKE_FIFO MAKE_BLOCK
MAKE_SYM REFER TRUNCATE IOCTL_DEV
"""
LANDLOCK_ACCESS_FS = {name: 1 << number for number, name in enumerate(_RIGHTS.split())}
_SINCE = {2: "REFER", 3: "TRUNCATE", 5: "IOCTL_DEV"}

_create = by_number("landlock_create_ruleset", c_void_p, c_size_t, c_uint)
_add = by_number("landlock_add_rule", c_int, c_int, c_void_p, c_uint)
_restrict = by_number("landlock_restrict_self", c_int, c_uint)


def landlock_abi() -> int:
    """The version of Landlock that this kernel runs; 0: none."""
    try:
        return _create(None, 0, LANDLOCK_CREATE_RULESET_VERSION)
    except OSError:
        return 0


def landlock_rights(abi: int) -> int:
    """All kinds of access to files that this version knows."""
    newer = {name for version, name in _SINCE.items() if version > abi}
    return sum(bit for name, bit in LANDLOCK_ACCESS_FS.items() if name not in newer)


@syscall()
def landlock_create_ruleset(rights: int) -> int:
    """A ruleset about these kinds of access; a close-on-exec descriptor. landlock_create_ruleset(2)"""
    return _create(struct.pack("=Q", rights), 8, 0)


@syscall()
def landlock_add_rule(ruleset: int, directory: int, rights: int) -> None:
    """Allow these kinds of access to the open directory (O_PATH) and all below it. landlock_add_rule(2)"""
    _add(ruleset, LANDLOCK_RULE_PATH_BENEATH, struct.pack("=Qi", rights, directory), 0)


@syscall()
def landlock_restrict_self(ruleset: int) -> None:
    """Put the ruleset in force, for ever. Needs no_new_privs or CAP_SYS_ADMIN. landlock_restrict_self(2)"""
    _restrict(ruleset, 0)
