"""Who the command runs as, by number: the engine has looked names up already. And until then, out of sight."""

from __future__ import annotations

from minicontainer import linux
from minicontainer.chroot.user import give_streams, resolve
from minicontainer.container.part import Inside, Part
from minicontainer.errors import UsageError
from minicontainer.runtime import mapping

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Identity(Part):
    """config.json's `process.user`: uid, gid, additionalGids, umask. HOME is looked up where there is none."""

    def __init__(self, user: dict[str, Any]) -> None:
        self.uid, self.gid = user.get("uid", 0), user.get("gid", 0)
        self.groups: list[int] = user.get("additionalGids") or []
        self.umask = user.get("umask")
        for number in (self.uid, self.gid, *self.groups):
            if not 0 <= number < 0xFFFFFFFF:
                raise UsageError(f"process.user: {number} is no user or group")

    def join(self, inside: Inside) -> None:
        self.groups_denied = mapping.groups_denied()
        if self.groups_denied and self.groups:
            raise UsageError(
                "process.user: additionalGids cannot be set: this user namespace has given up setgroups(2)",
                hint="a map of groups that newgidmap writes (/etc/subgid) keeps it, user_namespaces(7)",
            )

    def seal(self, inside: Inside) -> None:
        if not inside.env.get("HOME"):
            inside.env["HOME"] = _home(self.uid)
        give_streams(self.uid)
        if not self.groups_denied:
            linux.setgroups(self.groups)
        linux.setresgid(self.gid)
        linux.setresuid(self.uid)
        if self.umask is not None:
            linux.umask(self.umask)


def _home(uid: int) -> str:
    return resolve(str(uid))[3]


class Unseen(Part):
    """Until it is the command, no process of the container may trace ours, or look into it (CVE-2016-9962).

    With its capabilities given up it has no more than they, and the kernel would let them: a process that waits for
    `start` has no filter of system calls yet. The exec undoes this. prctl(2), PR_SET_DUMPABLE

    Where all is new there is nobody, and being seen has its use: who made a container without being root is root to
    its namespaces, but to none of a process that cannot be traced, and there a network of theirs is to be put.
    """

    def join(self, inside: Inside) -> None:
        linux.prctl(linux.PR_SET_DUMPABLE, 0)


_DOMAINS = {"LINUX": 0, "LINUX32": 8}


class Personality(Part):
    """The execution domain: LINUX, or LINUX32 for a uname that says i686. personality(2)"""

    def __init__(self, section: dict[str, Any]) -> None:
        domain = section.get("domain")
        if domain not in _DOMAINS:
            raise UsageError(f"linux.personality: there is no domain {domain!r}")
        if section.get("flags"):
            raise UsageError("linux.personality: flags are not supported")
        self.domain = _DOMAINS[domain]

    def seal(self, inside: Inside) -> None:
        linux.personality(self.domain)
