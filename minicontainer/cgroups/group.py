"""A cgroup as an object: a mapping from the kernel's file names to their text, and a few verbs.

>>> with Group.create("demo") as group:
...     group["memory.max"] = "64M"
...     group["cpu.max"] = "50000 100000"
...     group.add(pid)
...     group["memory.current"]
...     group.kill()

The names are cgroup v2's on every host. `Group` decides for each file which tree it is about, and turns what the
kernel answers into errors with a next step; how the trees differ is in v2.py and v1.py.
"""

from __future__ import annotations

import errno
import os
import time

from minicontainer import linux, state
from minicontainer.cgroups import units
from minicontainer.cgroups.layout import exists, layout
from minicontainer.cgroups.v1 import V1
from minicontainer.cgroups.v2 import V2
from minicontainer.errors import ConflictError, HostError, NotFoundError, TimeoutExpired, UsageError
from minicontainer.state import read_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Self

    from minicontainer.cgroups.stats import Stats

ACCOUNTED = ("memory", "pids")
"""The controllers that every group has, for what can be read of it later: memory of the past cannot be counted. CPU
time, pressure and the processes come with the v2 tree, without any controller. On v1 the first move of a process into
a group waits for an RCU grace period (10 ms after an idle spell), each further tree costs 0.05 to 0.1 ms in all."""

_OF_NO_V2_TREE = ("freezer", "cpuacct")
_ALL = ("memory", "pids", "cpu", "cpuset", "io")
_PRESSURE = ("cpu.pressure", "memory.pressure", "io.pressure", "irq.pressure", "cgroup.pressure")


class Group:
    """A cgroup, existing or not yet, by its path below the place where ours are: `minicontainer/web`."""

    def __init__(self, path: str) -> None:
        if not path or any(part in ("", ".", "..") for part in path.split("/")) or not path.isprintable():
            raise UsageError(f"{path!r} names no cgroup", hint="names with / between them, no . or .., such as lab/web")
        self.path = path
        machine = layout()
        self._machine = machine
        self._v2 = V2(machine) if machine.unified else None
        self._v1 = V1(machine) if machine.legacy else None
        self._drivers: list[V2 | V1] = [driver for driver in (self._v2, self._v1) if driver]

    @classmethod
    def create(cls, name: str, limits: Mapping[str, str | int] | None = None) -> Self:
        """Make the group `name` of this instance, with every controller of the host. Raises ConflictError.

        `lab/web` is a group inside of `lab`. Use it in a `with` block, which kills what is left in it and removes it.
        """
        group = cls(f"{state.instance()}/{name}")
        here = [name for name in _ALL if name in group._machine.controllers or (group._v1 and group._v1.has(name))]
        group.make(limits or {}, here)
        return group

    @classmethod
    def open(cls, name: str) -> Self:
        """The group `name` of this instance that exists. Raises NotFoundError."""
        group = cls(f"{state.instance()}/{name}")
        if not group.exists():
            raise NotFoundError(f"there is no cgroup {group.path}", hint="Group.create makes one")
        return group

    def make(self, limits: Mapping[str, str | int], controllers: Iterable[str] = ()) -> None:
        """Make the group with what its limits need, `controllers` and `ACCOUNTED`, and set the limits. All or nothing.

        Raises ConflictError if it exists, UsageError for a value, HostError for what this host cannot do.
        """
        v2, v1 = self._v2, self._v1
        wanted = {file.partition(".")[0] for file in limits} - {"cgroup"}
        for name in wanted:
            self._driver(f"{name}.")
        wanted.update(controllers, ACCOUNTED)
        mine = False
        try:
            if v2:
                v2.make(self.path, wanted & self._machine.controllers)
                mine = True
            if v1:
                old = {v1.controller(name) for name in wanted} | set(() if v2 else _OF_NO_V2_TREE)
                v1.make(self.path, sorted(old & v1.mounts.keys() - self._machine.controllers), first=not mine)
                mine = True
            for file in sorted(limits, key=lambda file: file != "memory.max"):  # v1 counts swap on top of memory
                self[file] = limits[file]
            if v1:
                v1.settle(self.path)
        except BaseException:
            if mine:
                self.remove()
            else:
                self._tidy()
            raise

    def exists(self) -> bool:
        """Whether it has a directory in any tree."""
        return bool(self.directories())

    def directories(self) -> list[str]:
        """Its directories: one on a v2 host, one for each tree it is in on the others. The v2 one comes first."""
        return [name for driver in self._drivers for name in driver.directories(self.path)]

    def unified(self) -> str:
        """Its directory in the v2 tree; "" on a host that has none."""
        return self._v2.directory(self.path) if self._v2 else ""

    def has_tree(self, controller: str) -> bool:
        """Whether this host has a v1 tree for that controller."""
        return self._v1 is not None and controller in self._v1.mounts

    def tree(self, controller: str) -> str:
        """Its directory in a v1 controller's tree, made if need be: for what has no file in v2. Raises HostError."""
        if not self.has_tree(controller):
            raise HostError(f"this host has no v1 tree for {controller}", hint="see /proc/self/mountinfo")
        assert self._v1 is not None
        self._bring(f"{controller}.")
        return self._v1.directory(self.path, controller)

    def __getitem__(self, file: str) -> str:
        """The text of a file of cgroup v2, without its last newline: `group["memory.current"]`.

        Raises NotFoundError when the group is gone or has not got that controller, HostError when the host has not.
        """
        driver = self._driver(file)
        try:
            text = driver.read(self.path, file)
        except FileNotFoundError:
            raise self._missing(file) from None
        if file == "cpu.stat" and driver is self._v2 and self._v1 and self._v1.has(file):
            text = "".join(line for line in text.splitlines(True) if "thrott" not in line and "periods" not in line)
            text += self._v1.throttling(self.path)
        return text.rstrip("\n")

    def __setitem__(self, file: str, value: str | int) -> None:
        """Write a file of cgroup v2: `group["memory.max"] = "64M"`. A running group feels it at once.

        Sizes may have a suffix. Several lines (io.max) are written one by one, as the kernel wants them. Raises
        UsageError for a value that makes no sense, HostError for what this host cannot do, ConflictError when it
        cannot be done now.
        """
        driver = self._driver(file)
        text = units.for_file(file, value)
        if driver is self._v1:
            self._bring(file)
        try:
            for line in text.splitlines() or [text]:
                driver.write(self.path, file, line)
        except FileNotFoundError:
            raise self._missing(file) from None
        except OSError as error:
            raise self._refused(file, text, error) from error

    def add(self, pid: int) -> None:
        """Move a process, with all its threads, into the group. Its children will be born there."""
        if self._v2:
            self._v2.add(self.path, pid)
        if self._v1:
            self._v1.add(self.path, pid)

    def processes(self) -> list[int]:
        """The processes in the group itself (not in groups inside of it), as this PID namespace numbers them."""
        pids: set[int] = set()
        for directory in self.directories():
            pids.update(_pids(directory))
        return sorted(pids)

    def groups(self) -> list[Group]:
        """The groups inside of this one."""
        names = {os.path.basename(inner) for top in self.directories() for inner in _children(top)}
        return [type(self)(f"{self.path}/{name}") for name in sorted(names)]

    def freeze(self, timeout: float = 10) -> None:
        """Stop everything in the group, and in groups inside of it, where it stands. Raises TimeoutExpired."""
        self["cgroup.freeze"] = "1"
        deadline = time.monotonic() + timeout
        while not self._is_frozen():
            if time.monotonic() > deadline:
                raise TimeoutExpired(f"{self.path} did not stand still in {timeout:g} s", hint="thaw() lets it go on")
            time.sleep(0.001)

    def thaw(self) -> None:
        """Let it go on."""
        self["cgroup.freeze"] = "0"

    def kill(self, timeout: float = 10) -> None:
        """SIGKILL everything in the group and in groups inside of it, and wait until it is gone.

        In one step by cgroup.kill (Linux 5.14), else frozen and then killed, again and again: what forks as fast as
        it is killed must not win. Raises TimeoutExpired, which only a process that hangs in the kernel can cause.
        """
        deadline, pause = time.monotonic() + timeout, 0.0005
        while self._populated():
            if self._v2 and exists(file := f"{self._v2.directory(self.path)}/cgroup.kill"):
                linux.write(file, "1")
            else:
                self._kill_frozen()
            if time.monotonic() > deadline:
                raise TimeoutExpired(f"{self.path} did not die in {timeout:g} s", hint="ps -eo pid,stat,wchan,cmd")
            time.sleep(pause)
            pause = min(pause * 2, 0.05)

    def remove(self, timeout: float = 10) -> None:
        """Kill what is left in the group and remove it, with the groups inside of it. One that is gone is no error."""
        first: OSError | None = None
        for directory in self.directories():
            try:
                self._remove(directory, timeout)
            except OSError as error:  # the other trees all the same: another call then finds only this one
                first = first or error
        if first:
            raise first
        self._tidy()

    def stats(self) -> Stats:
        """What the group has used, in one look."""
        from minicontainer.cgroups.stats import read

        return read(self)

    def birthplace(self) -> int | None:
        """A descriptor for clone3's CLONE_INTO_CGROUP; None where there is no v2 tree."""
        return linux.open(self._v2.directory(self.path), os.O_RDONLY | os.O_DIRECTORY) if self._v2 else None

    def move_in(self, pid: int) -> None:
        """Move a process that was born in the v2 directory into the v1 ones."""
        if self._v1:
            self._v1.add(self.path, pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()

    def __repr__(self) -> str:
        return f"<Group {self.path} ({self._machine.version})>"

    # ----------------------------------------------------------------------------------------------------- helpers

    def _driver(self, file: str) -> V2 | V1:
        """Whose file it is. Raises HostError if no tree of this host has its controller."""
        controller = file.partition(".")[0]
        if self._v2 and (controller in ("cgroup", *self._machine.controllers) or file in (*_PRESSURE, "cpu.stat")):
            return self._v2
        if self._v1 and file == "cgroup.freeze":
            return self._v1
        if self._v1 and (controller == "cgroup" or file in _PRESSURE):
            raise HostError(f"{file} needs a cgroup v2 tree", hint="mount -t cgroup2 none /sys/fs/cgroup/unified")
        if self._v1 and self._v1.has(file):
            return self._v1
        known = sorted({*self._machine.controllers, *self._machine.legacy})
        raise HostError(f"no cgroup tree of this host has a controller for {file}", hint=f"it has {', '.join(known)}")

    def _bring(self, file: str) -> None:
        """Have the group in the tree that this file's controller hangs on, with all its processes."""
        v1 = self._v1
        assert v1 is not None
        controller = "freezer" if file == "cgroup.freeze" else v1.controller(file)
        if exists(v1.directory(self.path, controller)):
            return
        if not self.exists():
            raise self._missing(file)
        v1.make(self.path, [controller], first=False)
        v1.settle(self.path)
        target = v1.directory(self.path, controller)
        while newcomers := set(self.processes()) - set(_pids(target)):
            for pid in newcomers:
                try:
                    linux.write(f"{target}/cgroup.procs", str(pid))
                except ProcessLookupError:
                    pass

    def _missing(self, file: str) -> NotFoundError | HostError:
        if not self.exists():
            return NotFoundError(
                f"there is no cgroup {self.path}", hint="Group.create makes one; a container's ends with it"
            )
        controller = file.partition(".")[0]
        driver = self._driver(file)
        if isinstance(driver, V1):
            absent = controller != "cgroup" and not exists(driver.directory(self.path, driver.controller(file)))
        else:
            absent = controller in self._machine.controllers and controller not in self["cgroup.controllers"].split()
        if absent:
            return NotFoundError(
                f"{self.path} has no {controller} controller, so no {file}",
                hint=f"setting a {controller} limit brings it",
            )
        return HostError(f"this kernel's {controller} controller has no {file}", hint="uname -r; a newer kernel may")

    def _refused(self, file: str, text: str, error: OSError) -> Exception:
        """What the kernel meant by its errno."""
        name = linux.errno_name(error.errno or 0)
        what = f"{file} of {self.path}: the kernel refuses {text!r} ({name})"
        if error.errno in (errno.EINVAL, errno.ERANGE, errno.ENODEV, errno.ENXIO, errno.EOVERFLOW):
            return UsageError(
                what, hint="see the kernel's admin-guide/cgroup-v2.rst; a child may not exceed its parent"
            )
        if error.errno == errno.EACCES and file.startswith("cpuset."):
            return UsageError(what, hint="a cpuset has no more than its parent's")
        if error.errno == errno.EBUSY and file == "memory.max":
            return ConflictError(what, hint="it uses more, and v1 kills nobody for a limit that comes later: free some")
        if error.errno == errno.EBUSY:
            return ConflictError(
                what, hint="are there processes in it, or groups inside of it, that this would strand?"
            )
        return error

    def _is_frozen(self) -> bool:
        if self._v2:
            return units.flat(self["cgroup.events"])["frozen"] == 1
        assert self._v1 is not None
        return read_file(f"{self._v1.directory(self.path, 'freezer')}/freezer.state").strip() == "FROZEN"

    def _populated(self) -> bool:
        """Whether anything lives in the group or in groups inside of it; zombies do not."""
        if self._v2 and self._v2.directories(self.path) and units.flat(self["cgroup.events"])["populated"]:
            return True
        return any(_pids(inner) for top in self._v1_directories() for inner, _, _ in os.walk(top))

    def _kill_frozen(self) -> None:
        self["cgroup.freeze"] = "1"
        for top in self.directories():
            for inner, _, _ in os.walk(top):
                for pid in _pids(inner):
                    try:
                        linux.kill(pid, 9)
                    except ProcessLookupError:
                        pass
        self["cgroup.freeze"] = "0"  # v1's frozen do not even die

    def _tidy(self) -> None:
        """The instance's own group goes with the last one in it: rmdir refuses as long as there are others."""
        instance, _, name = self.path.partition("/")
        if name and "/" not in name:
            for driver in self._drivers:
                for directory in driver.directories(instance):
                    linux.rmdir_unless_used(directory)

    def _v1_directories(self) -> list[str]:
        return self._v1.directories(self.path) if self._v1 else []

    def _remove(self, directory: str, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while not linux.rmdir_unless_used(directory):
            for entry in _children(directory):
                self._remove(entry, timeout)
            self.kill(timeout)
            if time.monotonic() > deadline:
                raise TimeoutExpired(f"{directory} cannot be removed", hint=f"what is in it? ls -R {directory}")
            time.sleep(0.0005)


def _children(directory: str) -> list[str]:
    try:
        with os.scandir(directory) as entries:
            return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []


def _pids(directory: str) -> list[int]:
    """The processes in a directory; 0, which is how one outside of our PID namespace is shown, is left out."""
    try:
        return [pid for line in read_file(f"{directory}/cgroup.procs").split() if (pid := int(line))]
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP):  # gone, going, or a group of threads
            return []
        raise
