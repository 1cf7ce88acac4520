"""Chapter 1. A container is a process.

There is no container in the Linux kernel. There are processes, and properties of processes: which files they see,
which other processes, which addresses, how much memory they may use. A container is a process that was given a few
unusual properties before it began to execute its command.

So this class makes a process, and no more: `Container(["/bin/sh"]).run()` isolates nothing. What isolates comes from
*parts*, one for each later chapter, which the process is taken through on its way:

    host:     record, prepare ─ clone ─ attach ── go ──┐                          ┌── release
    process:                      └── waits ───────────┴ join, mount, enter, seal ┴ exec … exit

Files of this chapter: `container` (the class), `part` (what a part is), `build` (the host's side), `inner` (the
process between clone and exec), `cloning` (clone3 and wait), `init` (PID 1), `streams` (input and output), `channel`
(how the two sides talk), `spawner` and `serving` (cloning safely for programs with threads), `records` (what must be
undone if we are killed).

The names below are loaded when they are first used.
"""

from __future__ import annotations

from minicontainer.lean import lazily

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minicontainer.container.container import DEFAULT_PATH as DEFAULT_PATH
    from minicontainer.container.container import Container as Container
    from minicontainer.container.container import child as child
    from minicontainer.container.part import Host as Host
    from minicontainer.container.part import Inside as Inside
    from minicontainer.container.part import Part as Part
    from minicontainer.container.streams import DEVNULL as DEVNULL
    from minicontainer.container.streams import PIPE as PIPE

__all__ = ["DEFAULT_PATH", "DEVNULL", "PIPE", "Container", "Host", "Inside", "Part", "child"]

_HOMES = {
    "container": ("DEFAULT_PATH", "Container", "child"),
    "part": ("Host", "Inside", "Part"),
    "streams": ("DEVNULL", "PIPE"),
}


__getattr__ = lazily(__name__, _HOMES)


def __dir__() -> list[str]:
    return __all__
