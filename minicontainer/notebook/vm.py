"""A small virtual machine that really boots, to hold a container against.

It is made by `tools/vm.sh`: a distribution's kernel, and one static busybox as all of its files. QEMU is a process
like any other, so it runs as a container of chapter 01: it ends with its owner, whatever happens to that, and can be
given a cgroup like any other. What the machine has to say comes over its serial line; when it is up, it says so.
"""

from __future__ import annotations

import os
import platform
import threading
import time
from typing import TYPE_CHECKING

import minicontainer
from minicontainer.container import PIPE, Container
from minicontainer.errors import ContainerError

if TYPE_CHECKING:
    from typing import Self

    from minicontainer.container import Part

FILES = os.path.join(os.path.dirname(os.path.dirname(minicontainer.__file__)), ".cache", "vm")
"""Where `tools/vm.sh` puts the kernel and the initramfs, or the reason why there are none."""
MACHINES = {
    "x86_64": ("qemu-system-x86_64", "pc", "ttyS0"),
    "aarch64": ("qemu-system-aarch64", "virt", "ttyAMA0"),
}
"""For each architecture: QEMU's program, the machine it imitates, and its serial line."""


def missing() -> str:
    """Why no virtual machine can be booted here; "" when one can."""
    try:
        with open(f"{FILES}/missing") as file:
            return file.read().strip()
    except FileNotFoundError:
        pass
    if not os.path.exists(f"{FILES}/recipe"):
        return "it is not made yet: `make lab` does that, or tools/vm.sh alone"
    return "" if platform.machine() in MACHINES else f"there is none for {platform.machine()}"


def command(accelerator: str = "tcg", memory: int = 96) -> list[str]:
    """QEMU's command line. `accelerator` is "kvm" (the processor does it) or "tcg" (QEMU does it, instruction by
    instruction); `memory` in MiB is what the machine believes to have."""
    program, machine, console = MACHINES[platform.machine()]
    line = [program, "-accel", "tcg,tb-size=32" if accelerator == "tcg" else accelerator]
    line += ["-machine", machine, "-cpu", "max" if accelerator == "tcg" else "host", "-m", str(memory)]
    line += ["-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio"]
    line += ["-kernel", f"{FILES}/kernel", "-initrd", f"{FILES}/initramfs"]
    return [*line, "-append", f"console={console} quiet panic=-1"]


def accelerators() -> list[str]:
    """Those with which the machine gets up here, the fastest first; empty where there is no machine.

    /dev/kvm alone says little: within a virtual machine it may be there and fail. So it is tried.
    """
    if missing():
        return []
    try:
        with VM(accelerator="kvm"):
            return ["kvm", "tcg"]
    except ContainerError:
        return ["tcg"]


def size() -> int:
    """Bytes on the disk of all that the machine consists of."""
    return sum(os.stat(f"{FILES}/{name}").st_size for name in ("kernel", "initramfs"))


class VM:
    """A virtual machine that is up. It ends with its `with` block, or with this program.

    `seconds` is the time from the start of QEMU until the machine has said that it is up, `kernel_seconds` what its own
    kernel counts of these; `said` are the other lines, {"kernel": "6.1.0", "boot": "…", "MemTotal": "61020 kB"}.
    Raises ContainerError, with QEMU's own words, for one that does not get there within `timeout` seconds.
    """

    def __init__(self, *parts: Part, accelerator: str = "tcg", memory: int = 96, timeout: float = 60) -> None:
        if reason := missing():
            raise ContainerError(f"no virtual machine here: {reason}", hint="the notebook goes on without")
        self.container = Container(command(accelerator, memory), *parts)
        self.said: dict[str, str] = {}
        begin = time.monotonic()
        with open(os.memfd_create("qemu", os.MFD_CLOEXEC), "w+b") as complaints:
            self.container.start(stdin=PIPE, stdout=PIPE, stderr=complaints)
            watch = threading.Timer(timeout, self.container.kill)
            watch.start()
            try:
                self._listen()
                self.seconds = time.monotonic() - begin
            except BaseException:
                self._end()
                raise
            finally:
                watch.cancel()
                watch.join()
            if "up" not in self.said:
                self._end()
                complaints.seek(0)
                words = complaints.read().decode(errors="replace").strip() or f"nothing in {timeout:g} s"
                raise ContainerError(
                    f"the virtual machine did not get up ({accelerator}): {words}",
                    hint="accelerator='tcg' needs no KVM",
                )
        self.kernel_seconds = float(self.said.pop("up"))

    def _listen(self) -> None:
        assert self.container.stdout is not None
        for line in self.container.stdout:
            key, _, value = line.decode(errors="replace").strip().partition(" ")
            self.said[key.rstrip(":")] = value.strip()
            if key == "up":
                return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._end()

    def _end(self) -> None:
        self.container.remove()
        for line in (self.container.stdin, self.container.stdout):
            if line is not None:
                line.close()


def memory(pid: int) -> int:
    """Bytes of memory that a process holds; a page that n processes share counts 1/n for each.

    "PSS" in /proc/PID/smaps_rollup, proc(5).
    """
    with open(f"/proc/{pid}/smaps_rollup") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Pss:")) * 1024


__all__ = ["FILES", "VM", "command", "memory", "missing", "size"]
