"""The cgroup of a bundle: at the path that the engine names, in every tree of this host.

Chapter 4's groups are our own, below our instance's name, in the trees they need. An engine names a path, looks for
the container there itself (`podman stats` does), and says its limits in config.json's terms, which are v1's.
`resources` turns those into files; this part makes the directories (`groups`) and has the process in them.
"""

from __future__ import annotations

import errno
import os

from minicontainer import linux
from minicontainer.container.part import Host, Part
from minicontainer.errors import ConflictError, HostError, UsageError
from minicontainer.runtime import groups, mapping

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self

    from minicontainer.runtime.groups import Tree

_CONTROLLERS = frozenset(("cpu", "cpuset", "hugetlb", "io", "memory", "misc", "pids", "rdma"))
_MAY_NOT = (errno.EACCES, errno.EPERM, errno.EROFS)


class Cgroup(Part):
    """The directories, the limits in them, the devices that may be opened, the process."""

    def __init__(self, path: str, id: str, limits: dict[str, Any], *, lenient: bool | None = None) -> None:
        from minicontainer.runtime import devices, resources  # `exec` needs none of that

        self.asked_for, self.lenient = bool(path), lenient
        self.trees = groups.trees_seen()
        for tree in self.trees:
            # on v2 beside our own group: one that has processes in it passes no controllers on, cgroups(7)
            beside = len(self.trees) == 1 and not tree.controllers
            above = os.path.dirname(tree.own) if beside else tree.own
            below = os.path.normpath(path if path.startswith("/") else f"{above.rstrip('/')}/{path or id}")
            if below == "/" or "/.." in below:
                raise UsageError(f"linux.cgroupsPath: {path!r} is no place for a container")
            tree.directory = tree.top + below
        self.directories = groups.by_controller(self.trees)
        self.files = resources.files(limits, self.directories)
        self.rules = devices.rules(limits)

    def record(self, host: Host) -> dict[str, Any]:
        return {"directories": self.directories}

    @classmethod
    def recall(cls, record: dict[str, Any]) -> Self:
        part = cls.__new__(cls)
        part.directories = record["directories"]
        return part

    def check(self) -> None:
        """Raise ConflictError when the group is somebody's: asked before anything is on record as ours to release."""
        for tree in self.trees:
            if groups.members(tree.directory):
                raise ConflictError(f"container's cgroup is not empty: there are processes in {tree.directory}")
        if groups.frozen(self.directories):
            raise ConflictError("container's cgroup unexpectedly frozen")

    def prepare(self, host: Host) -> None:
        for tree in self.trees:
            if not self._make(tree):
                continue
            if "cpuset" in tree.controllers:
                _inherit(tree.top, tree.directory)
            if not tree.controllers:
                wanted = {file.partition(".")[0] for place, file, _ in self.files if place == tree.directory}
                alone = len(self.trees) == 1
                _enable(tree, set() if not alone else {"cpu", "cpuset", "io", "memory", "pids"}, wanted)
                groups.check_entry(tree.directory)
                host.cgroup = linux.open(tree.directory, os.O_RDONLY | os.O_DIRECTORY)
        from minicontainer.runtime import resources

        resources.write(self.files)
        self._limit_devices()

    def _make(self, tree: Tree) -> bool:
        """Make the tree's directory; False where we may not, and need not: the process stays in its caller's."""
        try:
            groups.make(tree.directory)
        except FileExistsError:
            pass  # an engine may have made it, with limits of its own
        except OSError as error:
            if error.errno not in _MAY_NOT or not self._may_do_without():
                raise
            if self.asked_for:
                raise HostError(
                    f"the cgroup {tree.directory} cannot be made: {(error.strerror or '').lower()}",
                    hint="without linux.cgroupsPath a user who is not root needs none",
                ) from None
            for place, file, _ in self.files:
                if place == tree.directory:
                    raise HostError(
                        f"cannot set {file.partition('.')[0]} limit: container could not join or create cgroup",
                        hint="a user who is not root can limit only below a group of their own",
                    ) from None
            for controller in tree.controllers or ("unified",):
                del self.directories[controller]
            tree.directory, tree.joined = f"{tree.top}{tree.own}", False
            return False
        return True

    def _may_do_without(self) -> bool:
        return mapping.restricted() if self.lenient is None else self.lenient

    def _limit_devices(self) -> None:
        """Who is not root has no rights to devices that could be taken away: what fails then is no error."""
        from minicontainer.runtime import devices

        try:
            devices.limit(self.rules, self.directories)
        except (OSError, UsageError):
            if not self._may_do_without():
                raise

    def attach(self, host: Host) -> None:
        for tree in self.trees:
            if tree.controllers and tree.joined:
                linux.write(f"{tree.directory}/cgroup.procs", str(host.pid))

    def release(self) -> None:
        left = [place for place in dict.fromkeys(self.directories.values()) if not linux.rmdir_unless_used(place)]
        if left:
            groups.kill(self.directories)
        for place in left:
            groups.remove(place)


class JoinCgroup(Part):
    """A second process, in the directories of the first (or in a group inside of them).

    A group inside is somebody's who made it, as by runc. But it is one group: where one of v1's trees has it, the
    trees that have not get it too; those but for which a group of their own was named.
    """

    def __init__(self, directories: dict[str, str], inner: dict[str, str]) -> None:
        self.outer, self.directories = directories, {}
        self.together = set(directories) - set(inner) if inner.get("") else set()
        for controller in set(inner) - set(directories) - {""}:
            raise UsageError(f"--cgroup: unknown controller {controller}")
        for controller, directory in directories.items():
            below = inner.get(controller, inner.get("", ""))
            self.directories[controller] = os.path.normpath(f"{directory}/{below}")

    def prepare(self, host: Host) -> None:
        there = {controller for controller, directory in self.directories.items() if os.path.isdir(directory)}
        for controller, directory in self.directories.items():
            if controller in there:
                continue
            if controller not in self.together or not self.together & there:
                raise UsageError(f"--cgroup: error adding pid to {directory}/cgroup.procs: no such file or directory")
            try:
                groups.make(directory)
            except FileExistsError:
                pass  # cpu and cpuacct may be one tree
            if controller == "cpuset":
                _inherit(self.outer[controller], directory)
        if "unified" in self.directories:
            groups.check_entry(self.directories["unified"])
            host.cgroup = linux.open(self.directories["unified"], os.O_RDONLY | os.O_DIRECTORY)

    def attach(self, host: Host) -> None:
        for controller, directory in self.directories.items():
            if controller != "unified":
                linux.write(f"{directory}/cgroup.procs", str(host.pid))


def _enable(tree: Tree, all_of_them: set[str], wanted: set[str]) -> None:
    """Pass controllers down to the directory, from the top. What the host has not got is left out, unless wanted."""
    controllers = (all_of_them | wanted) - {"cgroup"}
    if not controllers:
        return
    here = tree.top
    for name in tree.directory[len(tree.top) + 1 :].split("/"):
        offered = set(groups.read(f"{here}/cgroup.controllers").split())
        passed = set(groups.read(f"{here}/cgroup.subtree_control").split())
        for controller in sorted((wanted & _CONTROLLERS) - offered):
            raise HostError(
                f"cannot set {controller} limit: {here} has no such controller to pass on",
                hint=f"{here}/cgroup.controllers says which there are; systemd passes on what Delegate= names",
            )
        for controller in sorted((controllers & offered) - passed):
            try:
                linux.write(f"{here}/cgroup.subtree_control", f"+{controller}")
            except OSError as error:
                if controller in wanted and error.errno in _MAY_NOT:
                    raise HostError(
                        f"cannot set {controller} limit: {here} does not pass the controller on, and is not ours",
                        hint="systemd passes on what Delegate= names, systemd.resource-control(5)",
                    ) from None
                if controller in wanted:
                    raise
        here = f"{here}/{name}"


def _inherit(top: str, directory: str) -> None:
    """A v1 cpuset starts empty and takes nobody: it gets what its parent has, from the top down."""
    if directory == top:
        return
    parent = os.path.dirname(directory)
    for file in ("cpuset.cpus", "cpuset.mems"):
        if not groups.read(f"{directory}/{file}").strip():
            _inherit(top, parent)
            linux.write(f"{directory}/{file}", groups.read(f"{parent}/{file}").strip())
