"""Chapter 04: its share. A container may use so much memory, so much CPU time, so many processes, and no more.

Namespaces decide what a process sees; control groups decide what it gets. A group is a directory in a filesystem of
the kernel's, its limits are files in it, and a process is in a group because its number was written into
cgroup.procs, or because it was born there. cgroups(7)

    units.py    64M, 0.5 CPUs: what people write, as the kernel wants it
    layout.py   where this machine keeps its groups: v2, v1, or both
    v2.py       the native driver
    v1.py       the same names where controllers still hang on v1
    group.py    Group: read, write, freeze, kill, remove
    stats.py    what a group has used, once or as a series
    part.py     Cgroup, the container's part

Left out: device access (chapter 08 does it with eBPF on v2), rdma, misc and the real-time scheduler's budget.
"""

from minicontainer.cgroups.group import Group
from minicontainer.cgroups.layout import Layout, layout
from minicontainer.cgroups.part import Cgroup, JoinCgroup

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minicontainer.cgroups.stats import IO, Pressure, Sampler, Stats, sample

__all__ = ["IO", "Cgroup", "Group", "JoinCgroup", "Layout", "Pressure", "Sampler", "Stats", "layout", "sample"]


def __getattr__(name: str) -> object:
    """Statistics are imported when somebody asks for them: starting a container needs none."""
    if name in __all__:
        from minicontainer.cgroups import stats

        return getattr(stats, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
