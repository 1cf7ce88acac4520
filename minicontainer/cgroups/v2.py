"""Cgroup v2, the native driver: a group is a directory, and its files are the interface. cgroups(7), cgroup-v2.rst

Two rules of v2 shape this file. A group has a controller's files only if its *parent* passes the controller on, in
cgroup.subtree_control, and so all the way up. And a group that passes controllers on can hold no processes itself
(the "no internal process" rule; the root is excepted).
"""

from __future__ import annotations

import errno

from minicontainer import linux
from minicontainer.cgroups import layout
from minicontainer.errors import ConflictError, HostError, UsageError
from minicontainer.state import read_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


class V2:
    """The v2 tree of a machine. Groups are named by their path below its top, such as `minicontainer/web`."""

    def __init__(self, machine: layout.Layout) -> None:
        self.machine = machine
        self.top = machine.top

    def directory(self, path: str) -> str:
        """The group's directory; the top's for the empty path."""
        return f"{self.top}/{path}" if path else self.top

    def directories(self, path: str) -> list[str]:
        """The group's directories that exist: this one, or none."""
        return [self.directory(path)] if layout.exists(self.directory(path)) else []

    def make(self, path: str, controllers: Iterable[str]) -> None:
        """Make a group that has these controllers. Raises ConflictError if there is one of this name."""
        if self.top != self.machine.unified:
            layout.own_unit(self.machine)
        directory = self.directory(path)
        try:
            make_directory(directory, self.top)
        except FileExistsError:
            raise ConflictError(f"there is a cgroup {path} already", hint="another name, or Group.open") from None
        try:
            # Read rather than written blindly: a subtree_control that is as it should be costs a group nothing.
            missing = set(controllers) - set(self.read(path, "cgroup.controllers").split())
            if missing:
                self.enable(path, missing)
        except BaseException:
            linux.rmdir(directory)
            raise

    def enable(self, path: str, controllers: set[str]) -> None:
        """Have the parent pass these controllers on to the group; its own parent first, where it lacks them."""
        if not path:
            offered = self.read("", "cgroup.controllers").strip() or "none"
            raise HostError(
                f"cgroup v2 does not offer {', '.join(sorted(controllers))} in {self.top}, only {offered}",
                hint="systemd hands over no others"
                if self.top != self.machine.unified
                else "a container as host needs --privileged and a cgroup namespace of its own",
            )
        parent = path.rpartition("/")[0]
        lacking = controllers - set(self.read(parent, "cgroup.controllers").split())
        if lacking:
            self.enable(parent, lacking)
        try:
            text = " ".join(f"+{name}" for name in sorted(controllers))
            linux.write(f"{self.directory(parent)}/cgroup.subtree_control", text)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            raise (UsageError if parent else HostError)(
                f"{parent or self.top} cannot pass {', '.join(sorted(controllers))} on to {path}: it has processes",
                hint="a v2 group has processes or passes controllers on, not both: move them into a child group first",
            ) from None

    def read(self, path: str, file: str) -> str:
        """One of the group's files, as it is."""
        return read_file(f"{self.directory(path)}/{file}")

    def write(self, path: str, file: str, value: str) -> None:
        """Write one of the group's files; brings its controller along if the group has it not yet."""
        name = f"{self.directory(path)}/{file}"
        controller = file.partition(".")[0]
        if (
            controller in self.machine.controllers
            and not layout.exists(name)
            and controller not in self.read(path, "cgroup.controllers").split()
        ):
            self.enable(path, {controller})
        linux.write(name, value)

    def add(self, path: str, pid: int) -> None:
        """Move a process, with all its threads, into the group."""
        linux.write(f"{self.directory(path)}/cgroup.procs", str(pid))


def make_directory(directory: str, top: str) -> None:
    """mkdir, with the parents below `top` that are missing. Raises FileExistsError.

    Whoever releases the last container of an instance removes the instance's own group: so a parent may be gone
    again when we come to make the child, and is then made once more.
    """
    parent = directory.rpartition("/")[0]
    for attempt in range(100):
        if len(parent) >= len(top) and not layout.exists(parent):  # asked first: an error costs far more than a look
            try:
                make_directory(parent, top)
            except FileExistsError:
                pass
        try:
            linux.mkdir(directory, 0o755)
            return
        except FileNotFoundError:
            if attempt == 99 or len(parent) < len(top):
                raise
