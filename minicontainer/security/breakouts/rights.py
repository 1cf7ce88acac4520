"""Out by rights: other processes, setuid programs, raw sockets, capabilities that a file inherits."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import struct
from functools import partial

from minicontainer.chroot import PivotRoot, User
from minicontainer.container import Container, Part
from minicontainer.namespaces import Namespaces
from minicontainer.security.breakouts.frame import VIEWS, BreakOut, Outcome, docker, trying
from minicontainer.security.capabilities import DEFAULT, Capabilities, bits
from minicontainer.security.no_new_privs import NoNewPrivs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


class HostProcess(BreakOut):
    """With the host's PID namespace its processes have numbers here as well, and /proc/PID shows their memory, their
    environment, their root, to whoever may ptrace them. The process here is a dummy with a secret of its own."""

    title = "a process of the host"
    defence = "Namespaces(pid), and Capabilities: to look into a process one needs all that it has"

    def lay(self) -> None:
        pid = os.posix_spawn("/bin/sleep", ["sleep", "60"], {"SECRET": self.token})
        self.pid = pid
        self.afterwards(lambda: os.waitpid(pid, 0))
        self.afterwards(lambda: os.kill(pid, signal.SIGKILL))

    def naive(self) -> list[Part]:
        kinds = [kind for kind in VIEWS if kind != "pid"]
        return [Namespaces(*kinds), PivotRoot(self.rootfs)]

    def __call__(self, parts: Sequence[Part]) -> Outcome:
        return self.stolen(self.inside(partial(_read_environment, self.pid), parts))


def _read_environment(pid: int) -> str:
    def attack() -> str:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return file.read().decode()

    return trying(attack)


class SetuidProgram(BreakOut):
    """A setuid program of the image runs as its owner, root, whoever starts it. What it does then is its author's."""

    title = "a setuid program"
    defence = "NoNewPrivs (which Docker sets on request: --security-opt no-new-privileges)"

    def lay(self) -> None:
        self.program = f"/{self.token}"
        with open(f"{self.rootfs}{self.program}", "wb") as file:
            file.write(_who_am_i())
        os.chmod(f"{self.rootfs}{self.program}", 0o4755)
        self.afterwards(lambda: os.unlink(f"{self.rootfs}{self.program}"))

    def naive(self) -> list[Part]:
        return [*docker(self.rootfs), User("1000")]

    def default(self) -> list[Part]:
        return [*docker(self.rootfs), User("1000"), NoNewPrivs()]

    def __call__(self, parts: Sequence[Part]) -> Outcome:
        user = Container([self.program], *parts).run(timeout=30)
        return Outcome(user == 0, f"user 1000 runs as user {'0' if user == 0 else '1000'}")


def _who_am_i() -> bytes:
    """A program that ends with its effective user as exit status: an ELF file, its header, and four instructions."""
    if os.uname().machine == "aarch64":
        # mov x8, #175 (geteuid); svc 0; mov x8, #93 (exit); svc 0
        machine, code = 183, struct.pack("<4I", 0xD28015E8, 0xD4000001, 0xD2800BA8, 0xD4000001)
    else:
        # mov eax, 107 (geteuid); syscall; mov edi, eax; mov eax, 60 (exit); syscall
        machine, code = 62, bytes.fromhex("b86b000000 0f05 89c7 b83c000000 0f05")
    base, start = 0x400000, 120
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header += struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, base + start, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, start + len(code), start + len(code), 0x1000)
    return header + segment + code


class InheritedCapabilities(BreakOut):
    """A file may have inheritable capabilities: whoever executes it keeps those of his own inheritable set. That set
    was not empty in containers for years, so that any user of one could get what its root had."""

    title = "capabilities inherited by a file"
    cve = "CVE-2022-29162"
    defence = "Capabilities: the inheritable set is empty"

    def lay(self) -> None:
        # a copy of busybox does what its first argument says if its own name begins with busybox
        self.program = f"/busybox-{self.token}"
        shutil.copy(f"{self.rootfs}/bin/busybox", f"{self.rootfs}{self.program}")
        inheritable = bits(["CHOWN", "NET_RAW"])
        # struct vfs_cap_data, revision 2, with the effective bit: permitted and inheritable, low words then high
        data = struct.pack("<5I", 0x02000001, 0, inheritable, 0, 0)
        os.setxattr(f"{self.rootfs}{self.program}", "security.capability", data)
        self.afterwards(lambda: os.unlink(f"{self.rootfs}{self.program}"))

    def naive(self) -> list[Part]:
        sets = dict.fromkeys(("bounding", "effective", "permitted", "inheritable"), DEFAULT)
        parts = [part for part in docker(self.rootfs) if not isinstance(part, Capabilities)]
        return [*parts, Capabilities.exactly(**sets), User("1000")]

    def default(self) -> list[Part]:
        return [*docker(self.rootfs), User("1000")]

    def __call__(self, parts: Sequence[Part]) -> Outcome:
        argv = [self.program, "grep", "CapPrm", "/proc/self/status"]
        text = Container(argv, *parts).output(timeout=30)
        return Outcome(int(text.split()[1], 16) != 0, f"user 1000 has {text.strip()}")


class RawSocket(BreakOut):
    """With CAP_NET_RAW a process writes whole frames, with any sender in them: on a bridge that is every neighbour's
    name, by forged answers to ARP. Docker's default set keeps it, for ping's sake; taking it away is an option.

    The frame here is sent on the container's own loopback."""

    title = "forged frames"
    cve = "CVE-2020-14386"
    defence = "Capabilities(drop=[NET_RAW])"

    def naive(self) -> list[Part]:
        return docker(self.rootfs)

    def default(self) -> list[Part]:
        parts = [part for part in docker(self.rootfs) if not isinstance(part, Capabilities)]
        return [*parts, Capabilities(drop=["NET_RAW"])]

    def __call__(self, parts: Sequence[Part]) -> Outcome:
        said = self.inside(_forge, parts)
        return Outcome(said == "sent", f"a forged answer to ARP: {said}")


def _forge() -> str:
    def attack() -> str:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806)) as raw:
            raw.bind(("lo", 0x0806))
            # who asked is told that 10.0.0.1 is at 02:00:00:00:00:66
            answer = struct.pack(
                "!HHBBH6s4s6s4s", 1, 0x0800, 6, 4, 2, b"\2\0\0\0\0f", b"\n\0\0\1", b"\xff" * 6, b"\n\0\0\2"
            )
            try:
                raw.send(b"\xff" * 6 + b"\2\0\0\0\0f" + b"\x08\x06" + answer)
            except OSError as error:
                if error.errno != 100:  # ENETDOWN: its loopback is down, nothing refused the frame
                    raise
        return "sent"

    return trying(attack)
