"""Where this machine keeps its cgroups.

There are three kinds of hosts. On a *v2* host all controllers hang on one tree (cgroup2). On a *v1* host each
controller, or a pair such as cpu,cpuacct, has a tree of its own. A *hybrid* host has both: controllers on v1 trees
and a v2 tree beside them, with no or few controllers, but with all that needs none: cgroup.kill, cgroup.freeze,
pressure, CPU time. Which is mounted where only /proc/self/mountinfo knows (proc(5)); /sys/fs/cgroup is a habit, not a
rule.

On a host run by systemd the v2 tree is systemd's. It takes controllers away from groups that it did not hand over, so
ours live below a unit that has been: `Delegate=yes`, https://systemd.io/CGROUP_DELEGATION.
"""

from __future__ import annotations

import os

from minicontainer import linux
from minicontainer.errors import HostError
from minicontainer.state import read_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

V1_CONTROLLERS = ("cpu", "cpuacct", "cpuset", "memory", "blkio", "pids", "freezer", "hugetlb", "devices")
"""The v1 controllers that this chapter, and for devices chapter 08, has a use for."""

UNIT = "minicontainer-cgroups.service"


class Layout:
    """One machine's cgroup trees.

    `unified` is the mount point of the v2 tree ("" where there is none), `controllers` what hangs on it; `legacy`
    gives the mount point of each v1 controller, the same one for two that are mounted together.
    """

    __slots__ = ("controllers", "legacy", "systemd", "unified")

    def __init__(
        self, unified: str, controllers: frozenset[str], legacy: Mapping[str, str], *, systemd: bool = False
    ) -> None:
        self.unified, self.controllers, self.legacy, self.systemd = unified, controllers, dict(legacy), systemd

    @property
    def version(self) -> str:
        """`v2`, `hybrid` or `v1`."""
        return "v1" if not self.unified else "hybrid" if self.legacy else "v2"

    @property
    def top(self) -> str:
        """The v2 directory below which our groups are: the root of the tree, or the unit systemd gave us."""
        return f"{self.unified}/system.slice/{UNIT}" if self.systemd and self.version == "v2" else self.unified

    def __repr__(self) -> str:
        return f"Layout({self.unified!r}, {sorted(self.controllers)}, {self.legacy})"


_layout: Layout | None = None


def layout() -> Layout:
    """This machine's trees, looked up once. Raises HostError where no cgroup tree is mounted."""
    global _layout
    if _layout is None:
        _layout = parse(read_file("/proc/self/mountinfo"))
        if not _layout.unified and not _layout.legacy:
            raise HostError("no cgroup tree is mounted", hint="mount -t cgroup2 none /sys/fs/cgroup")
    return _layout


def parse(mountinfo: str) -> Layout:
    """The trees that a mountinfo names; of a tree that is mounted twice the first counts. proc(5)"""
    unified = ""
    legacy: dict[str, str] = {}
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields, (fstype, _source, options) = before.split(" "), after.split(" ", 2)
        place = fields[4].encode().decode("unicode_escape")
        if fstype == "cgroup2":
            unified = unified or place
        elif fstype == "cgroup":
            for controller in options.split(","):
                if controller in V1_CONTROLLERS:
                    legacy.setdefault(controller, place)
    controllers = frozenset(read_file(f"{unified}/cgroup.controllers").split()) if unified else frozenset()
    return Layout(unified, controllers, legacy, systemd=exists("/run/systemd/system"))


def own_unit(machine: Layout) -> None:
    """Have systemd hand a part of its tree over to us, if it has not yet: a unit with one sleeping process.

    The process keeps the unit alive; it sits in a group of its own, because a group with processes cannot pass
    controllers on. `systemctl stop minicontainer-cgroups` ends it (and kills what is below).
    """
    import subprocess

    unit = f"{machine.unified}/system.slice/{UNIT}"
    keeper = f"{unit}/keeper"
    if exists(keeper) and not read_file(f"{unit}/cgroup.procs"):
        return
    properties = [
        f"--property={text}" for text in ("Delegate=yes", "TasksMax=infinity", "Type=exec", "OOMPolicy=continue")
    ]
    command = ["systemd-run", "--quiet", "--collect", f"--unit={UNIT}", *properties, "sleep", "infinity"]
    done = linux.announce(
        "systemd-run",
        " ".join(command[1:]),
        "systemd-run(1)",
        lambda: subprocess.run(command, capture_output=True, text=True),
    )
    if not exists(unit):  # (another process of ours may have been quicker: then it exists)
        raise HostError(
            f"systemd gave us no unit for our cgroups: {done.stderr.strip()}",
            hint=f"systemctl status {UNIT}; journalctl -u {UNIT}",
        )
    if not exists(keeper):
        linux.mkdir(keeper, 0o755)
    for pid in read_file(f"{unit}/cgroup.procs").split():
        linux.write(f"{keeper}/cgroup.procs", pid)


def exists(path: str) -> bool:
    """Whether there is such a file or directory."""
    return os.access(path, os.F_OK)
