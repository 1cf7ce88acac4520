"""The cgroup of a bundle: at the path that the engine names, in every tree of this host.

Chapter 4's groups are our own, below our instance's name, in the trees they need. An engine names a path, looks for
the container there itself (`podman stats` does), and says its limits in config.json's terms, which are v1's.
`resources` turns those into files; this part makes the directories and has the process in them.
"""

from __future__ import annotations

import errno
import os
import time

from minicontainer import linux
from minicontainer.container.part import Host, Part
from minicontainer.errors import ConflictError, HostError, TimeoutExpired, UsageError
from minicontainer.runtime import devices, mapping, resources

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self

_OPTIONS = frozenset(("rw", "ro", "noprefix", "clone_children", "xattr", "all", "none", "nosuid", "nodev", "noexec"))


_MAY_NOT = (errno.EACCES, errno.EPERM, errno.EROFS)


class Tree:
    """One mounted hierarchy and the container's directory in it. The v2 tree has no `controllers` of its own.

    Not `joined`: the container has none here, and is where its caller is.
    """

    def __init__(self, top: str, controllers: tuple[str, ...], own: str) -> None:
        self.top, self.controllers, self.own = top, controllers, own
        self.name = os.path.basename(top)
        self.directory = ""
        self.joined = True


class Cgroup(Part):
    """The directories, the limits in them, the devices that may be opened, the process."""

    def __init__(self, path: str, id: str, limits: dict[str, Any], *, lenient: bool | None = None) -> None:
        self.asked_for, self.lenient = bool(path), lenient
        self.trees = trees()
        for tree in self.trees:
            if not path:
                below = f"{tree.own.rstrip('/')}/{id}"
            elif path.startswith("/"):
                below = os.path.normpath(path)
            else:
                below = os.path.normpath(f"{tree.own}/{path}")
            if below == "/" or "/.." in below:
                raise UsageError(f"linux.cgroupsPath: {path!r} is no place for a container")
            tree.directory = tree.top + below
        self.directories = by_controller(self.trees)
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
            if _pids(tree.directory):
                raise ConflictError(f"container's cgroup is not empty: there are processes in {tree.directory}")
        if frozen(self.directories):
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
                host.cgroup = linux.open(tree.directory, os.O_RDONLY | os.O_DIRECTORY)
        resources.write(self.files)
        self._limit_devices()

    def _make(self, tree: Tree) -> bool:
        """Make the tree's directory; False where we may not, and need not: the process stays in its caller's."""
        try:
            os.makedirs(os.path.dirname(tree.directory), exist_ok=True)
            linux.mkdir(tree.directory, 0o755)
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
        kill(self.directories)
        for directory in dict.fromkeys(self.directories.values()):
            _remove(directory)


class JoinCgroup(Part):
    """A second process, in the directories of the first (or in a group inside of them)."""

    def __init__(self, directories: dict[str, str], inner: dict[str, str]) -> None:
        self.directories = {}
        for controller in set(inner) - set(directories) - {""}:
            raise UsageError(f"--cgroup: unknown controller {controller}")
        for controller, directory in directories.items():
            below = inner.get(controller, inner.get("", ""))
            self.directories[controller] = os.path.normpath(f"{directory}/{below}")

    def prepare(self, host: Host) -> None:
        for directory in self.directories.values():
            if not os.path.isdir(directory):
                raise UsageError(f"--cgroup: error adding pid to {directory}/cgroup.procs: no such file or directory")
        if "unified" in self.directories:
            host.cgroup = linux.open(self.directories["unified"], os.O_RDONLY | os.O_DIRECTORY)

    def attach(self, host: Host) -> None:
        for controller, directory in self.directories.items():
            if controller != "unified":
                linux.write(f"{directory}/cgroup.procs", str(host.pid))


def trees() -> list[Tree]:
    """The hierarchies mounted here, with this process's own path in each. cgroups(7)"""
    own: dict[tuple[str, ...], str] = {}
    with open("/proc/self/cgroup") as file:
        for line in file:
            _, controllers, path = line.rstrip("\n").split(":", 2)
            own[tuple(controllers.split(",")) if controllers else ()] = path
    found: dict[tuple[str, ...], Tree] = {}
    with open("/proc/self/mountinfo") as file:
        for line in file:
            before, _, after = line.partition(" - ")
            fstype, _, options = after.rstrip("\n").split(" ", 2)
            if fstype not in ("cgroup", "cgroup2"):
                continue
            words = set(options.split(",")) - _OPTIONS
            names: tuple[str, ...] = ()
            if fstype == "cgroup":
                names = next((key for key in own if key and words >= set(key)), ())
                if not names or (names[0].startswith("name=") and names != ("name=systemd",)):
                    continue  # a hierarchy without controllers is its maker's; systemd's shows whose a process is
            if names not in found:
                found[names] = Tree(before.split(" ")[4], names, own.get(names, "/"))
    return list(found.values())


def by_controller(found: list[Tree]) -> dict[str, str]:
    """controller → directory; the v2 tree is called `unified`."""
    directories = {}
    for tree in found:
        for controller in tree.controllers or ("unified",):
            directories[controller] = tree.directory
    return directories


def processes(directories: dict[str, str], *, below: bool = False) -> list[int]:
    """The processes in the container's group; `below`: also in groups inside of it."""
    found: set[int] = set()
    for directory in dict.fromkeys(directories.values()):
        for inner, _, _ in os.walk(directory) if below else ((directory, (), ()),):
            found.update(_pids(inner))
    return sorted(found)


def frozen(directories: dict[str, str]) -> bool:
    """Whether the group stands still, or has been told to."""
    for controller, file in (("freezer", "freezer.state"), ("unified", "cgroup.events")):
        if controller in directories:
            try:
                content = _read(f"{directories[controller]}/{file}")
            except FileNotFoundError:
                continue
            return "THAWED" not in content if controller == "freezer" else "frozen 1" in content
    return False


def freeze(directories: dict[str, str], on: bool, timeout: float = 10) -> None:
    """Have the group stand still, or go on. Raises TimeoutExpired."""
    if "freezer" in directories:
        wanted, file = "FROZEN" if on else "THAWED", f"{directories['freezer']}/freezer.state"
        linux.write(file, wanted)
    elif "unified" not in directories:
        raise ConflictError("the container stands in no cgroup of its own, and only those can be frozen")
    else:
        wanted, file = f"frozen {int(on)}", f"{directories['unified']}/cgroup.events"
        linux.write(f"{directories['unified']}/cgroup.freeze", str(int(on)))
    deadline = time.monotonic() + timeout
    while wanted not in _read(file):
        if time.monotonic() > deadline:
            raise TimeoutExpired(f"{file} did not become {wanted} in {timeout:g} s")
        time.sleep(0.001)


def thaw(directories: dict[str, str]) -> None:
    """Let the group go on if it is frozen: what is frozen on v1 does not even die."""
    for controller, file, text in (("freezer", "freezer.state", "THAWED"), ("unified", "cgroup.freeze", "0")):
        if controller in directories and os.path.exists(path := f"{directories[controller]}/{file}"):
            linux.write(path, text)


def of_process(pid: int) -> dict[str, str]:
    """The groups that a process is in now: somebody may have moved it. Empty when it is gone."""
    try:
        lines = _read(f"/proc/{pid}/cgroup").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    found = {
        tuple(names.split(",")) if names else (): path for _, names, path in (line.split(":", 2) for line in lines)
    }
    return {
        controller: tree.top + found[tree.controllers]
        for tree in trees()
        if tree.controllers in found
        for controller in tree.controllers or ("unified",)
    }


def kill(directories: dict[str, str], timeout: float = 10) -> None:
    """SIGKILL all that is in the group and in groups inside of it, and wait until it is gone."""
    deadline, pause = time.monotonic() + timeout, 0.0005
    while pids := processes(directories, below=True):
        unified = directories.get("unified", "")
        if os.path.exists(f"{unified}/cgroup.kill"):
            linux.write(f"{unified}/cgroup.kill", "1")
        for pid in pids:
            try:
                linux.kill(pid, 9)
            except ProcessLookupError:
                continue
        thaw(directories)
        if time.monotonic() > deadline:
            raise TimeoutExpired(f"processes {pids} of the container did not die in {timeout:g} s")
        time.sleep(pause)
        pause = min(pause * 2, 0.05)


def _enable(tree: Tree, all_of_them: set[str], wanted: set[str]) -> None:
    """Pass controllers down to the directory, from the top. What the host has not got is left out, unless wanted."""
    controllers = (all_of_them | wanted) - {"cgroup"}
    if not controllers:
        return
    here = tree.top
    for name in tree.directory[len(tree.top) + 1 :].split("/"):
        offered = set(_read(f"{here}/cgroup.controllers").split())
        passed = set(_read(f"{here}/cgroup.subtree_control").split())
        for controller in sorted((controllers & offered) - passed):
            try:
                linux.write(f"{here}/cgroup.subtree_control", f"+{controller}")
            except OSError:
                if controller in wanted:
                    raise
        here = f"{here}/{name}"


def _inherit(top: str, directory: str) -> None:
    """A v1 cpuset starts empty and takes nobody: it gets what its parent has, from the top down."""
    if directory == top:
        return
    parent = os.path.dirname(directory)
    for file in ("cpuset.cpus", "cpuset.mems"):
        if not _read(f"{directory}/{file}").strip():
            _inherit(top, parent)
            linux.write(f"{directory}/{file}", _read(f"{parent}/{file}").strip())


def _remove(directory: str) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            linux.rmdir(directory)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.ENOTEMPTY) or time.monotonic() > deadline:
                raise
            for name in os.listdir(directory):
                if os.path.isdir(f"{directory}/{name}"):
                    _remove(f"{directory}/{name}")
            time.sleep(0.0005)
        else:
            return


def _pids(directory: str) -> list[int]:
    try:
        return [pid for word in _read(f"{directory}/cgroup.procs").split() if (pid := int(word))]
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP):
            return []
        raise


def _read(path: str) -> str:
    with open(path) as file:
        return file.read()
