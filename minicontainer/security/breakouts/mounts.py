"""Out by a mount: paths that lead elsewhere than they seem to."""

from __future__ import annotations

import os
import shutil

from minicontainer import linux
from minicontainer.chroot import Bind, PivotRoot
from minicontainer.container import DEVNULL, Container, Inside, Part
from minicontainer.errors import ContainerError
from minicontainer.namespaces import Namespaces
from minicontainer.security.breakouts.frame import VIEWS, BreakOut, Outcome, docker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


class MountThroughLink(BreakOut):
    """Before pivot_root the container's /data is the host's /some/rootfs/data, and the image decides what that is. If
    it is a link to a directory of the host, a mount on the joined path lands there, and what the runtime reads there
    next is the attacker's. (The published flaw is the same with a link that is exchanged at the right moment.)"""

    title = "a mount through a symbolic link"
    cve = "CVE-2021-30465"
    defence = "openat2 with RESOLVE_IN_ROOT: no link leads out of the root, and what was found is mounted on"

    def lay(self) -> None:
        for name in ("trusted", "volume"):
            os.mkdir(f"{self.directory}/{name}")
        with open(f"{self.directory}/trusted/config", "w") as file:
            file.write("the host's own")
        with open(f"{self.directory}/volume/config", "w") as file:
            file.write(self.token)
        self.place = f"/{self.token}"
        os.symlink(f"{self.directory}/trusted", f"{self.rootfs}{self.place}")
        self.afterwards(lambda: os.unlink(f"{self.rootfs}{self.place}"))

    def _parts(self, bind: Part) -> list[Part]:
        return [bind, _ReadNext(f"{self.directory}/trusted/config")]

    def naive(self) -> list[Part]:
        bind = _JoinedBind(f"{self.directory}/volume", self.place)
        return [Namespaces(*VIEWS), PivotRoot(self.rootfs), *self._parts(bind)]

    def default(self) -> list[Part]:
        self.afterwards(lambda: shutil.rmtree(f"{self.rootfs}/var/tmp", ignore_errors=True))
        return [*docker(self.rootfs), *self._parts(Bind(f"{self.directory}/volume", self.place))]

    def __call__(self, parts: Sequence[Part]) -> Outcome:
        text = Container(["true"], *parts).output(timeout=30)
        found = self.token in text
        return Outcome(found, "the runtime read the attacker's file for its own" if found else f"it read {text!r}")


class _JoinedBind(Part):
    """mount(2) on the root's path and the target's, put together as text."""

    def __init__(self, source: str, target: str) -> None:
        self.source, self.target = source, target

    def mount(self, inside: Inside) -> None:
        linux.mount(self.source, f"{inside.rootfs}{self.target}", flags=linux.MS_BIND)


class _ReadNext(Part):
    """Whatever the runtime reads of the host's next, while the old root is still visible."""

    def __init__(self, path: str) -> None:
        self.path = path

    def mount(self, inside: Inside) -> None:
        with open(self.path, "rb") as file:
            os.write(1, file.read())


class MaskByLink(BreakOut):
    """Files that tell too much are hidden by mounting /dev/null over them: the container's /dev/null. If that is a
    link, what it leads to on the host appears in the hidden file's place."""

    title = "what hides is a link"
    cve = "CVE-2025-31133"
    defence = "looked at through openat2, and it has to be the null device"
    masked = "/proc/interrupts"

    def lay(self) -> None:
        super().lay()
        self.evil = f"{self.directory}/dev"
        os.mkdir(self.evil)
        os.symlink(f"{self.directory}/secret", f"{self.evil}/null")

    def naive(self) -> list[Part]:
        mask = _JoinedMask(self.masked)
        return [Namespaces(*VIEWS), mask, PivotRoot(self.rootfs, masked=()), Bind(self.evil, "/dev")]

    def default(self) -> list[Part]:
        return [*docker(self.rootfs), Bind(self.evil, "/dev")]

    def __call__(self, parts: Sequence[Part]) -> Outcome:
        try:
            return self.stolen(Container(["cat", self.masked], *parts).output(stdin=DEVNULL, timeout=30))
        except ContainerError as error:
            return Outcome(False, error.message)


class _JoinedMask(Part):
    """Hiding a file as it was done: the path of the root's /dev/null, put together as text."""

    def __init__(self, path: str) -> None:
        self.path = path

    def enter(self, inside: Inside) -> None:
        linux.mount(f"{inside.rootfs}/dev/null", f"{inside.rootfs}{self.path}", flags=linux.MS_BIND)
