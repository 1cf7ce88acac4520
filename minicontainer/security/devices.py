"""Which devices a container may open.

A device node is a name for a pair of numbers, and whoever may make one (CAP_MKNOD, which a container's root keeps)
makes one for the host's disk. So the kernel is told for each control group which numbers may be opened and how: read,
write, mknod. Version 1 has a controller with lists; version 2 runs a small program of ours at each open
(admin-guide/cgroup-v1/devices.rst; cgroup-v2.rst, "Device controller").

Docker's default: any node may be made, and opened are null, zero, full, random, urandom, tty, console, ptmx and the
container's own terminals. Rules are OCI's (runtime-spec, config-linux.md, "Allowed Device list"): in order, the last
one that fits decides (`device_rules`).
"""

from __future__ import annotations

import os
import stat

from minicontainer import linux
from minicontainer.cgroups import Cgroup
from minicontainer.chroot import within
from minicontainer.container.part import Host, Inside, Part
from minicontainer.errors import HostError, UsageError
from minicontainer.security.device_rules import DEFAULT, Allowed, limit_v1, limit_v2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


NOT_SHOWN = ("pts", "shm", "mqueue", "fd", "console", "core", "stdin", "stdout", "stderr", "ptmx")


class Devices(Part):
    """Docker's default devices, and those of the host that are named: `Devices("/dev/fuse", "/dev/sda:/dev/disk:r")`.

    `everything=True` is Docker's --privileged: all devices of the host are in /dev, and may be opened. `rules` are in
    place of the default ones. Needs a Cgroup among the parts, and a new /dev (PivotRoot) before it for the nodes.
    """

    def __init__(self, *devices: str, everything: bool = False, rules: Sequence[Allowed] | None = None) -> None:
        self.rules = list(DEFAULT if rules is None else rules)
        self.nodes: list[tuple[str, str]] = []
        for text in devices:
            source, _, rest = text.partition(":")
            target, _, access = rest.partition(":")
            if target and not target.startswith("/") and not access:
                target, access = "", target
            self.rules.append(_rule_for(source, access or "rwm"))
            self.nodes.append((source, target or source))
        if everything:
            self.rules = [Allowed(True)]
            self.nodes += [(path, path) for path in _of_host("/dev")]

    def prepare(self, host: Host) -> None:
        cgroup = host.find(Cgroup)
        if cgroup is None or not cgroup.path:
            raise UsageError(
                "which devices may be opened is said of a cgroup", hint="put the part Cgroup() before Devices()"
            )
        group = cgroup.group
        if directory := group.unified():
            try:
                limit_v2(directory, self.rules)
                return
            except HostError:
                if not group.has_tree("devices"):
                    raise
        limit_v1(group.tree("devices"), self.rules)

    def mount(self, inside: Inside) -> None:
        if self.nodes and inside.rootfs is not None:
            with within.root(inside.rootfs) as root:
                for source, target in self.nodes:
                    _node(root, source, target)


def _rule_for(path: str, access: str) -> Allowed:
    kind, number = _look(path)
    return Allowed(True, kind, os.major(number), os.minor(number), access)


def _look(path: str) -> tuple[str, int]:
    try:
        status = os.stat(path)
    except OSError as error:
        raise UsageError(
            f"there is no device {path}: {error.strerror}", hint="--device /dev/NAME[:/dev/NAME[:rwm]]"
        ) from None
    if stat.S_ISCHR(status.st_mode):
        return "c", status.st_rdev
    if stat.S_ISBLK(status.st_mode):
        return "b", status.st_rdev
    raise UsageError(f"{path} is no device", hint="--device /dev/NAME; --volume is for files and directories")


def _of_host(directory: str) -> list[str]:
    found = []
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.name in NOT_SHOWN or entry.is_symlink():
                continue
            if entry.is_dir():
                found += _of_host(entry.path)
            elif stat.S_IFMT(entry.stat().st_mode) in (stat.S_IFCHR, stat.S_IFBLK):
                found.append(entry.path)
    return sorted(found)


def _node(root: int, source: str, target: str) -> None:
    """A node for the host's device `source` at `target`; in a user namespace the host's own is bound there."""
    status = os.stat(source)
    parent, _, name = target.rpartition("/")
    with within.place(root, parent or "/") as directory:
        before = linux.umask(0)
        try:
            linux.mknod(name, status.st_mode, status.st_rdev, dir_fd=directory)
            os.chown(name, status.st_uid, status.st_gid, dir_fd=directory)
        except FileExistsError:
            return  # it is one of those that every container has
        except PermissionError:
            with within.place(root, target, directory=False) as file:
                linux.mount(source, within.path_of(file), flags=linux.MS_BIND)
        finally:
            linux.umask(before)
