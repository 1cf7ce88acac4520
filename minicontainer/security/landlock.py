"""Only these files: Landlock, the way of an unprivileged program to shut itself in.

A container's root is a whole tree of files, and its command may need three directories of it. Landlock allows reading
or writing below paths and refuses the rest, whatever the user and the permissions; it needs no root and no policy of
the host. landlock(7)
"""

from __future__ import annotations

import os
import stat

from minicontainer import linux
from minicontainer.container.part import Host, Inside, Part
from minicontainer.errors import HostError, UsageError
from minicontainer.linux import landlock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

_OF_A_FILE = ("EXECUTE", "WRITE_FILE", "READ_FILE", "TRUNCATE", "IOCTL_DEV")


class Landlock(Part):
    """Allow reading and executing below `read`, everything below `write`, and nothing else in the container's root.

    Paths are the container's. Raises HostError where the kernel runs no Landlock, UsageError at the start for a path
    that does not exist.
    """

    seal_order = 20

    def __init__(self, *, read: Iterable[str] = (), write: Iterable[str] = ()) -> None:
        if isinstance(read, str) or isinstance(write, str):
            raise UsageError("paths are a list, not one string", hint='write read=["/usr"]')
        self.read, self.write = list(read), list(write)
        self.ruleset = -1

    def record(self, host: Host) -> dict[str, Any]:
        return {"read": self.read, "write": self.write, "ruleset": -1}

    def second(self, host: Host) -> Part:
        return Landlock(read=self.read, write=self.write)

    def prepare(self, host: Host) -> None:
        if not landlock.landlock_abi():
            raise HostError("this kernel runs no Landlock", hint="Linux 5.13, and lsm=landlock,… at its start")

    def seal(self, inside: Inside) -> None:
        everything = landlock.landlock_rights(landlock.landlock_abi())
        rights = landlock.LANDLOCK_ACCESS_FS
        reading = rights["READ_FILE"] | rights["READ_DIR"] | rights["EXECUTE"]
        self.ruleset = landlock.landlock_create_ruleset(everything)
        for paths, allowed in ((self.read, reading), (self.write, everything)):
            for path in paths:
                self._allow(path, allowed)
        if not linux.prctl(linux.PR_GET_NO_NEW_PRIVS, 0):
            inside.needed |= 1 << 21  # CAP_SYS_ADMIN
        inside.at_exec.append(self._restrict)

    def _allow(self, path: str, allowed: int) -> None:
        try:
            fd = linux.open(path, os.O_PATH)
        except FileNotFoundError:
            raise UsageError(f"Landlock: there is no {path} in the container") from None
        try:
            if not stat.S_ISDIR(os.fstat(fd).st_mode):
                allowed &= sum(landlock.LANDLOCK_ACCESS_FS[name] for name in _OF_A_FILE)
            landlock.landlock_add_rule(self.ruleset, fd, allowed)
        finally:
            os.close(fd)

    def _restrict(self) -> None:
        landlock.landlock_restrict_self(self.ruleset)
        os.close(self.ruleset)
