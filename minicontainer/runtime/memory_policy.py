"""From which NUMA nodes a container gets its memory: config.json's `linux.memoryPolicy`.

A cpuset says which nodes a group may use at all; a policy says which of them a process prefers. It is a process's own,
and goes on to what that makes and executes, so `exec` sets it again. runtime-spec, config-linux.md, "Memory policy";
set_mempolicy(2)
"""

from __future__ import annotations

from minicontainer.container.part import Inside, Part
from minicontainer.errors import UsageError
from minicontainer.linux import numa

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# <linux/mempolicy.h>
MODES = {
    "MPOL_DEFAULT": 0,
    "MPOL_PREFERRED": 1,
    "MPOL_BIND": 2,
    "MPOL_INTERLEAVE": 3,
    "MPOL_LOCAL": 4,
    "MPOL_PREFERRED_MANY": 5,
    "MPOL_WEIGHTED_INTERLEAVE": 6,
}
FLAGS = {"MPOL_F_STATIC_NODES": 1 << 15, "MPOL_F_RELATIVE_NODES": 1 << 14, "MPOL_F_NUMA_BALANCING": 1 << 13}
_NODES = 1024  # more than any kernel knows


class MemoryPolicy(Part):
    """A mode, its flags and its nodes. Which of them go together the kernel says: EINVAL."""

    seal_order = -20  # before a filter of system calls

    def __init__(self, section: dict[str, Any]) -> None:
        self.mode = _known("mode", section.get("mode", ""), MODES)
        for flag in section.get("flags") or ():
            self.mode |= _known("flags", flag, FLAGS)
        self.nodes = _nodes(section.get("nodes") or "")

    def seal(self, inside: Inside) -> None:
        numa.set_mempolicy(self.mode, self.nodes)


def _known(field: str, name: str, table: dict[str, int]) -> int:
    if name not in table:
        raise UsageError(f"linux.memoryPolicy.{field}: {name!r} is not known", hint=f"one of {', '.join(table)}")
    return table[name]


def _nodes(text: str) -> list[int]:
    """`0-3,7` as numbers. Raises UsageError."""
    found: list[int] = []
    for word in text.split(",") if text else ():
        first, dash, last = word.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or int(last or first) >= _NODES:
            raise UsageError(f"linux.memoryPolicy.nodes: {text!r} is no list of nodes", hint="0-3,7")
        found += range(int(first), int(last or first) + 1)
    return found
