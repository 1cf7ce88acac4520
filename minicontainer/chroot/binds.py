"""Directories and files of the host inside the container, and memory as a directory."""

from __future__ import annotations

import os
import stat

from minicontainer import linux
from minicontainer.chroot import within
from minicontainer.container.part import Host, Inside, Part
from minicontainer.errors import UsageError

PROPAGATION = {
    "private": linux.MS_PRIVATE,
    "slave": linux.MS_SLAVE,
    "shared": linux.MS_SHARED,
}


class Bind(Part):
    """`source` on the host appears as `target` in the container: the same files, not a copy.

    `read_only`, `nosuid`, `nodev` and `noexec` hold for all that is mounted below it too; with `recursive=False` what
    is mounted below it stays out. `propagation` says whether later mounts on one side appear on the other: "private"
    (no), "slave" (the host's appear inside), "shared" (both ways); the latter two need a source on a mount that is
    itself shared (or a slave). The target is made if it is not there.
    """

    namespaces = linux.CLONE_NEWNS

    def __init__(
        self,
        source: str,
        target: str,
        *,
        read_only: bool = False,
        nosuid: bool = False,
        nodev: bool = False,
        noexec: bool = False,
        recursive: bool = True,
        propagation: str = "private",
    ) -> None:
        self.source = os.path.abspath(source)
        self.target = _checked_target(target)
        self.recursive = recursive
        self.attributes = (
            (linux.MOUNT_ATTR_RDONLY if read_only else 0)
            | (linux.MOUNT_ATTR_NOSUID if nosuid else 0)
            | (linux.MOUNT_ATTR_NODEV if nodev else 0)
            | (linux.MOUNT_ATTR_NOEXEC if noexec else 0)
        )
        if propagation not in PROPAGATION:
            raise UsageError(f"no propagation is called {propagation!r}", hint=f"one of {', '.join(PROPAGATION)}")
        self.propagation = PROPAGATION[propagation]
        self.is_directory = True

    def prepare(self, host: Host) -> None:
        try:
            self.is_directory = stat.S_ISDIR(os.stat(self.source).st_mode)
        except FileNotFoundError:
            raise UsageError(
                f"there is nothing at {self.source} to bind to {self.target}", hint="make it first, or check the path"
            ) from None
        if self.propagation != linux.MS_PRIVATE:
            _check_shared(self.source, "shared:", *(["master:"] if self.propagation == linux.MS_SLAVE else []))

    def attach(self, host: Host) -> None:
        # Copied on the host's side, where the path means what the user meant and root may read it; the copy is
        # mounted nowhere until the process hangs it into its own root.
        recursive = linux.AT_RECURSIVE if self.recursive else 0
        tree = linux.open_tree(linux.AT_FDCWD, self.source, linux.OPEN_TREE_CLONE | linux.OPEN_TREE_CLOEXEC | recursive)
        host.give(f"bind {self.target}", tree)
        linux.mount_setattr(
            tree,
            "",
            linux.AT_EMPTY_PATH | recursive,
            set_attributes=self.attributes,
            propagation=0 if self.propagation == linux.MS_SHARED else self.propagation,
        )

    def mount(self, inside: Inside) -> None:
        with (
            within.root(_root_of(inside, self.target)) as root,
            within.place(root, self.target, directory=self.is_directory) as target,
        ):
            within.hang(inside.fds[f"bind {self.target}"], target)


class Tmpfs(Part):
    """An empty directory in memory at `target`, gone with the container.

    `options` are tmpfs(5)'s (`size=64m,mode=1777`); nosuid, nodev and noexec are Docker's defaults.
    """

    namespaces = linux.CLONE_NEWNS

    def __init__(
        self, target: str, options: str = "", *, nosuid: bool = True, nodev: bool = True, noexec: bool = True
    ) -> None:
        self.target = _checked_target(target)
        self.options = options
        self.flags = (
            (linux.MS_NOSUID if nosuid else 0) | (linux.MS_NODEV if nodev else 0) | (linux.MS_NOEXEC if noexec else 0)
        )

    def mount(self, inside: Inside) -> None:
        with within.root(_root_of(inside, self.target)) as root, within.place(root, self.target) as target:
            linux.mount("tmpfs", within.path_of(target), "tmpfs", self.flags, self.options or None)


def _check_shared(path: str, *wanted: str) -> None:
    """Nothing propagates from or to a private mount, whatever its copy is told. mount_namespaces(7)"""
    fd = linux.open(path, os.O_PATH)
    try:
        with open(f"/proc/self/fdinfo/{fd}") as file:
            mount = next(line.split()[1] for line in file if line.startswith("mnt_id:"))
    finally:
        os.close(fd)
    with open("/proc/self/mountinfo") as file:
        fields = next(line.split() for line in file if line.split()[0] == mount)
    if not any(field.startswith(wanted) for field in fields[6 : fields.index("-")]):
        raise UsageError(
            f"{path} is on the mount {fields[4]}, which is private: nothing would propagate",
            hint=f"mount --make-shared {fields[4]}, or leave the propagation out",
        )


def _checked_target(target: str) -> str:
    path = os.path.normpath(target)
    if not path.startswith("/") or path == "/":
        raise UsageError(f"{target!r} is no place to mount on", hint="give an absolute path below / in the container")
    return path


def _root_of(inside: Inside, target: str) -> str:
    if inside.rootfs is None:
        raise UsageError(
            f"there is no root yet to mount {target} in",
            hint="put PivotRoot (and Overlay) before it in the list of parts",
        )
    return inside.rootfs
