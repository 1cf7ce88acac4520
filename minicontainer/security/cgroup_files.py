"""A container that can read its own cgroup, and not write it.

Programs size themselves by their limits (a JVM its heap, a server its threads), so they want to see memory.max. Who
may *write* there lifts his own limits, and on v1 may have the kernel execute a program of his (release_agent). So the
container's own group, nothing above and beside it, is shown at /sys/fs/cgroup, read-only. On v2 that is the group
itself; on other hosts a directory for each tree that the container has a group in, as that host has them.
"""

from __future__ import annotations

import os

from minicontainer import linux
from minicontainer.cgroups import Cgroup, layout
from minicontainer.chroot import within
from minicontainer.container.part import Host, Inside, Part
from minicontainer.errors import UsageError

PLACE = "/sys/fs/cgroup"
_QUIET = linux.MOUNT_ATTR_NOSUID | linux.MOUNT_ATTR_NODEV | linux.MOUNT_ATTR_NOEXEC


class CgroupFiles(Part):
    """Show the container's group at /sys/fs/cgroup. Belongs after Cgroup, Devices and PivotRoot.

    `writable` is for a container that manages groups itself; with it nothing holds it to its limits.
    """

    def __init__(self, *, writable: bool = False) -> None:
        self.attributes = _QUIET | (0 if writable else linux.MOUNT_ATTR_RDONLY)
        self.trees: list[tuple[str, str]] = []

    def prepare(self, host: Host) -> None:
        cgroup = host.find(Cgroup)
        if cgroup is None or not cgroup.path:
            raise UsageError("there is no cgroup to show", hint="put the part Cgroup() before CgroupFiles()")
        machine = layout()
        alone = machine.version == "v2"
        self.trees = []  # the same parts may make one container after the other
        for directory in cgroup.group.directories():
            tree = directory.removesuffix(f"/{cgroup.path}")
            self.trees.append(("" if alone else os.path.basename(tree), directory))

    def mount(self, inside: Inside) -> None:
        if inside.rootfs is None:
            raise UsageError("there is no root to show a cgroup in", hint="put PivotRoot() before CgroupFiles()")
        with within.root(inside.rootfs) as root, within.place(root, PLACE) as place:
            if all(name for name, _ in self.trees):
                flags = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC
                linux.mount("tmpfs", within.path_of(place), "tmpfs", flags, "mode=755,size=64k")
            for name, directory in self.trees:
                tree = linux.open_tree(linux.AT_FDCWD, directory, linux.OPEN_TREE_CLONE | linux.OPEN_TREE_CLOEXEC)
                linux.mount_setattr(tree, "", linux.AT_EMPTY_PATH, set_attributes=self.attributes)
                with within.place(root, f"{PLACE}/{name}") as target:
                    within.hang(tree, target)
            if self.attributes & linux.MOUNT_ATTR_RDONLY and self.trees and self.trees[0][0]:
                with within.place(root, PLACE) as top:
                    linux.mount_setattr(top, "", linux.AT_EMPTY_PATH, set_attributes=linux.MOUNT_ATTR_RDONLY)
