"""no_new_privs: from here on, no execve gives more rights than there were.

A setuid program runs as its owner, one with file capabilities has those. Both are how a process gains rights, and how
a mistake in such a program becomes root. One bit switches that off, for a process and all its descendants, for ever.
It is also what lets an unprivileged process filter its own system calls: it cannot trick anybody with more rights
than its own. prctl(2), "PR_SET_NO_NEW_PRIVS"
"""

from __future__ import annotations

from minicontainer import linux
from minicontainer.container.part import Host, Inside, Part

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class NoNewPrivs(Part):
    """Set the bit: setuid bits and file capabilities mean nothing in the container."""

    seal_order = 10

    def record(self, host: Host) -> dict[str, Any]:
        return {}

    def second(self, host: Host) -> Part:
        return self

    def seal(self, inside: Inside) -> None:
        linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
