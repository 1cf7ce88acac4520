"""Device nodes for a container with a user namespace: made outside of it, bound inside.

Nobody in a user namespace may make a node, and a node on a filesystem that was mounted in one cannot be opened. What
every container has (null, zero, …) is therefore bound from the host's /dev. A device that config.json names has a mode
and an owner that are its own, and the host need not have it at all: root makes it, on a filesystem that is mounted
nowhere (so nothing of it stays if we are killed), and hands that over. mknod(2), user_namespaces(7)
"""

from __future__ import annotations

import os

from minicontainer import linux
from minicontainer.chroot import within
from minicontainer.errors import UsageError
from minicontainer.runtime import mapping

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minicontainer.container.part import Host, Inside
    from minicontainer.runtime.rootfs import Device

_GIFT = "device nodes"


class Nodes:
    """The nodes of these devices, from the host's side to their places. Without root there are none."""

    def __init__(self, devices: list[Device]) -> None:
        self.devices = devices
        self.trees: dict[str, int] = {}

    def give(self, host: Host) -> None:
        """Make them, called by their number, and hand their filesystem to the process."""
        if mapping.restricted():
            return
        context = linux.fsopen("tmpfs")
        try:
            linux.fsconfig(context, linux.FSCONFIG_SET_STRING, "mode", "0755")
            linux.fsconfig(context, linux.FSCONFIG_CMD_CREATE)
            tree = linux.fsmount(context, linux.MOUNT_ATTR_NOSUID | linux.MOUNT_ATTR_NOEXEC)
        finally:
            os.close(context)
        before = linux.umask(0)
        try:
            for number, device in enumerate(self.devices):
                linux.mknod(str(number), device.mode, device.number, dir_fd=tree)
                uid, gid = (_outside(host.pid, *both) for both in zip(("uid", "gid"), device.owner, strict=True))
                os.chown(str(number), uid, gid, dir_fd=tree, follow_symlinks=False)
        except BaseException as error:
            os.close(tree)
            if isinstance(error, PermissionError):
                return  # a root that may make no nodes: the host's own are bound, if it has them
            raise
        finally:
            linux.umask(before)
        host.give(_GIFT, tree)

    def take(self, inside: Inside, rootfs: str) -> None:
        """Copy them, each as a mount of its own. What is copied has to be mounted in our namespace: so it is, for the
        while that takes, on top of the root."""
        if _GIFT not in inside.fds:
            return
        with within.root(rootfs) as target:
            within.hang(inside.fds.pop(_GIFT), target)
        try:
            for number, device in enumerate(self.devices):
                self.trees[device.path] = linux.open_tree(linux.AT_FDCWD, f"{rootfs}/{number}")
        finally:
            linux.umount2(rootfs, linux.MNT_DETACH)

    def of(self, path: str) -> int:
        """A detached mount of the node that belongs there; -1 where there is none."""
        return self.trees.pop(path, -1)


def _outside(pid: int, kind: str, id: int) -> int:
    """The host's number of a user or group of the process's user namespace. Raises UsageError where there is none."""
    with open(f"/proc/{pid}/{kind}_map") as file:
        for first, outside, count in (map(int, line.split()) for line in file):
            if first <= id < first + count:
                return outside + id - first
    raise UsageError(f"linux.devices: {kind} {id} is none in the container's user namespace")
