"""The floor: floor.c compiled, and driven one container at a time."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

from bench.measure import Failed
from minicontainer.cgroups.layout import layout
from minicontainer.chroot.filesystems import MASKED, READ_ONLY

if TYPE_CHECKING:
    from typing import Self

SOURCE = f"{os.path.dirname(os.path.abspath(__file__))}/floor.c"
MEMORY = 64 << 20
CPUS = 0.5
HOSTNAME = "floor"


def build(directory: str) -> str:
    """Compile it; the program."""
    program = f"{directory}/floor"
    subprocess.run(["gcc", "-O2", "-Wall", "-o", program, SOURCE], check=True)
    return program


class Floor:
    """A floor process, ready to make containers of `layer`, with or without cgroups."""

    def __init__(self, program: str, layer: str, directory: str, *argv: str, cgroup: bool, output: int = 2) -> None:
        rootfs, words = f"{directory}/rootfs", []
        os.makedirs(rootfs, exist_ok=True)
        if cgroup:
            words += cgroup_words("minicontainer-floor/" + "f" * 64)
        words += [f"mask={path}" for path in MASKED] + [f"read-only={path}" for path in READ_ONLY]
        ask, self._ask = os.pipe()
        self._answer, answer = os.pipe()
        line = [program, layer, f"{directory}/container", rootfs, HOSTNAME, *words, "--", *argv]
        # The floor's descriptors are 3 and 4, so move ours out of their way before they are put there.
        moved = [os.dup2(fd, number, inheritable=False) for fd, number in ((ask, 100), (answer, 101), (output, 102))]
        actions = [(os.POSIX_SPAWN_DUP2, fd, number) for fd, number in zip(moved, (3, 4, 1), strict=True)]
        self._pid = os.posix_spawn(program, line, {}, file_actions=actions)
        for fd in (ask, answer, *moved):
            os.close(fd)

    def once(self) -> float:
        """Make one container; the seconds it took, by the floor's own clock. Raises Failed."""
        os.write(self._ask, b"1")
        words = os.read(self._answer, 100).split()
        if len(words) != 2 or words[1] != b"0":
            raise Failed(f"the floor answers {words}")
        return int(words[0]) / 1e9

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self._ask)
        os.close(self._answer)
        os.waitpid(self._pid, 0)


def cgroup_words(path: str) -> list[str]:
    """What the floor is told so that it makes the groups that Cgroup(memory=MEMORY, cpus=CPUS) makes on this host."""
    machine = layout()
    parent = os.path.dirname(path)
    words = []
    quota, period = int(CPUS * 100_000), 100_000
    if machine.unified:
        words += [f"mkdir={machine.top}/{parent}", f"mkdir={machine.top}/{path}", f"born={machine.top}/{path}"]
        hanging = [name for name in ("memory", "pids", "cpu") if name in machine.controllers]
        if hanging:
            # a parent passes its controllers on; the mkdir of the child comes before, as the files allow
            words.append(f"{machine.top}/{parent}/cgroup.subtree_control:={' '.join(f'+{name}' for name in hanging)}")
        if "memory" in hanging:
            words.append(f"{machine.top}/{path}/memory.max:={MEMORY}")
        if "cpu" in hanging:
            words.append(f"{machine.top}/{path}/cpu.max:={quota} {period}")
    for controller in ("cpu", "memory", "pids"):
        if controller in machine.legacy and controller not in machine.controllers:
            tree = machine.legacy[controller]
            words += [f"mkdir={tree}/{parent}", f"mkdir={tree}/{path}", f"join={tree}/{path}"]
            if controller == "memory":
                words.append(f"{tree}/{path}/memory.limit_in_bytes:={MEMORY}")
            if controller == "cpu":
                words.append(f"{tree}/{path}/cpu.cfs_quota_us:={quota}")
    return words
