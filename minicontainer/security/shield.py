"""The runtime's own program must not fall into the container's hands.

Between the clone and the exec our own process is already inside, and /proc/PID/exe leads from there to its program on
the host. A process of the container that gets hold of it can write to it once nobody executes it any more, and the
next container is started by the attacker's program (CVE-2019-5736). Two things keep it away:

* the process is not *dumpable*: nobody without the host's CAP_SYS_PTRACE may look at it in /proc, nor ptrace it; which
  holds as well for our own PID 1 (`init=True`), which stays (proc_pid(5), prctl(2), PR_SET_DUMPABLE);
* a command that turns out to be our own program (`/proc/self/exe`, a link to it, a script that wants it as its
  interpreter) is refused.

Left out: runc executes itself from a sealed copy or a read-only mount, which also holds where a process of the same
container exchanges the command between this look and the exec. The time for that is some microseconds.
"""

from __future__ import annotations

import os

from minicontainer import linux
from minicontainer.container.part import Host, Inside, Part
from minicontainer.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_LINE = 256  # as much of a "#!" line as the kernel reads
_DEPTH = 5  # and as many scripts as may have scripts as interpreters, execve(2)


class Shield(Part):
    """Keep the engine's own process and program from what runs in the container."""

    seal_order = 15
    own = (0, 0)

    def record(self, host: Host) -> dict[str, Any]:
        return {}

    def second(self, host: Host) -> Part:
        return self

    def join(self, inside: Inside) -> None:
        linux.prctl(linux.PR_SET_DUMPABLE, 0)
        self.own = _identity("/proc/self/exe")  # the host's /proc: the container's may be anything

    def seal(self, inside: Inside) -> None:
        command = inside.argv[0]
        places = [""] if "/" in command else [f"{entry or '.'}/" for entry in inside.env.get("PATH", "").split(":")]
        for place in places:
            path = place + command
            for _ in range(_DEPTH):
                if _identity(path) == self.own:
                    raise UsageError(
                        f"the command {command} leads to the program that makes containers",
                        hint="CVE-2019-5736: the image may want to overwrite it; who made this image?",
                    )
                if not (path := _interpreter(path)):
                    break


def _identity(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return (0, 0)  # the exec will say so better
    return status.st_dev, status.st_ino


def _interpreter(path: str) -> str:
    """What a script names after its #!; "" for what is no script."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        start = os.read(fd, _LINE)
    except OSError:
        return ""
    finally:
        os.close(fd)
    words = start[2:].partition(b"\n")[0].split() if start.startswith(b"#!") else []
    return os.fsdecode(words[0]) if words else ""
