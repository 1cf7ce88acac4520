"""What root may do: its powers, in some forty pieces.

Once a process was root or it was not. Linux cut root's rights into *capabilities*: to change a file's owner (CHOWN),
to bind port 80 (NET_BIND_SERVICE), to mount and a hundred things more (SYS_ADMIN). A container's root keeps fourteen,
with which packages install and servers start, and lacks those that reach the host.

Each thread has five sets of them. What it may do now is *effective*; what it may make effective is *permitted*.
execve(2) computes both anew, and takes nothing that is not in the *bounding* set:

    permitted' = (inheritable & file's inheritable) | (file's permitted & bounding) | ambient

For root every file counts as if it had them all, so root gets the bounding set, whatever it had before. For another
user a plain file has none, so only what is *ambient* passes. *Inheritable* is empty in a container: a file of the
image that has inheritable capabilities would get them for whoever executes it (CVE-2022-29162). capabilities(7)
"""

from __future__ import annotations

import errno
import os

from minicontainer import linux
from minicontainer.container.part import Host, Inside, Part
from minicontainer.errors import HostError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, Self

# include/uapi/linux/capability.h, in its order: the place in the list is the bit
_IN_ORDER = """
CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE
NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN
SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE
MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE
"""
_DOCKERS = """
CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP NET_BIND_SERVICE NET_RAW SYS_CHROOT MKNOD AUDIT_WRITE
SETFCAP
"""
NAMES = _IN_ORDER.split()
DEFAULT = _DOCKERS.split()
"""Docker's: "Runtime privilege and Linux capabilities" in its documentation."""

ALL = (1 << 64) - 1
SYS_ADMIN = 1 << NAMES.index("SYS_ADMIN")
SETS = ("bounding", "effective", "permitted", "inheritable", "ambient")


class Capabilities(Part):
    """Keep Docker's default capabilities, without those in `drop` and with those in `add`; `ALL` is every one.

    Names are with or without CAP_, in any case. What is both added and dropped is added, as in Docker; but `ALL` added
    without those dropped is what that says. Raises UsageError for a name that is none, HostError at the start for one
    that was asked for by name and that this process has not got itself.
    """

    seal_order = 40
    last = (0, 0, 0)

    def __init__(self, *, add: Iterable[str] = (), drop: Iterable[str] = ()) -> None:
        added, dropped = bits(add), bits(drop)
        everything = ALL & ~(0 if dropped == ALL else dropped)
        kept = everything if added == ALL else bits(DEFAULT) & ~dropped | added
        self.bounding = self.effective = self.permitted = kept
        self.inheritable = self.ambient = 0
        self.required = 0 if added == ALL else added
        self.of_root = True

    @classmethod
    def exactly(
        cls,
        *,
        bounding: Iterable[str] = (),
        effective: Iterable[str] = (),
        permitted: Iterable[str] = (),
        inheritable: Iterable[str] = (),
        ambient: Iterable[str] = (),
    ) -> Self:
        """The five sets as they are given, as an OCI config's `process.capabilities` does."""
        part = cls.__new__(cls)
        part.bounding, part.effective, part.permitted = bits(bounding), bits(effective), bits(permitted)
        part.inheritable, part.ambient = bits(inheritable), bits(ambient)
        part.required = part.permitted | part.inheritable | part.ambient
        part.of_root = False
        return part

    def record(self, host: Host) -> dict[str, Any]:
        return dict(self.__dict__)

    def second(self, host: Host) -> Part:
        return self

    def enter(self, inside: Inside) -> None:
        # or changing to another user would take them all, and with them the right to give up each
        linux.prctl(linux.PR_SET_KEEPCAPS, 1)

    def seal(self, inside: Inside) -> None:
        effective, held, inheritable = linux.capget()
        if missing := self.required & ~held:
            raise HostError(
                f"there is no CAP_{', CAP_'.join(names(missing))} to give: this process has not got it itself",
                hint="grep CapPrm /proc/self/status; is the host a container, or this a user without root's rights?",
            )
        if effective != held:
            linux.capset(held, held, inheritable)
        _bound(self.bounding)
        user = os.geteuid() if self.of_root else 0
        permitted = self.permitted & held if user == 0 else 0  # what execve will leave to another user
        effective = self.effective & permitted
        kept = inside.needed & held & ~permitted
        inheritable = self.inheritable & (held | inheritable)
        linux.capset(effective | kept, permitted | kept, inheritable)
        if kept:
            self.last = effective, permitted, inheritable
            inside.at_exec.append(self._give_up)
        linux.prctl(linux.PR_CAP_AMBIENT, linux.PR_CAP_AMBIENT_CLEAR_ALL)
        for number in _numbers(self.ambient):
            linux.prctl(linux.PR_CAP_AMBIENT, linux.PR_CAP_AMBIENT_RAISE, number)

    def _give_up(self) -> None:
        linux.capset(*self.last)


def bits(words: Iterable[str]) -> int:
    """The set that `CHOWN`, `cap_net_raw`, … name, one bit each. Raises UsageError."""
    if isinstance(words, str):
        raise UsageError(f"capabilities are a list of names, not one string: {words!r}", hint='write ["NET_ADMIN"]')
    found = 0
    for word in words:
        name = word.upper().removeprefix("CAP_")
        if name == "ALL":
            found = ALL
        elif name in NAMES:
            found |= 1 << NAMES.index(name)
        else:
            raise UsageError(f"there is no capability {word!r}", hint=f"ALL, or one of {', '.join(NAMES)}")
    return found


def names(bits: int) -> list[str]:
    """The names of a set, in the kernel's order; one that is newer than this list by its number."""
    return [NAMES[number] if number < len(NAMES) else str(number) for number in _numbers(bits)]


def _numbers(bits: int) -> list[int]:
    return [number for number in range(64) if bits >> number & 1]


def of(pid: int | str = "self") -> dict[str, int]:
    """The five sets of a process, as the kernel tells them in /proc/PID/status. proc_pid_status(5)"""
    keys = {"CapBnd": "bounding", "CapEff": "effective", "CapPrm": "permitted", "CapInh": "inheritable"}
    keys["CapAmb"] = "ambient"
    with open(f"/proc/{pid}/status") as file:
        lines = dict(line.split(":", 1) for line in file)
    return {name: int(lines[key], 16) for key, name in keys.items()}


def _bound(kept: int) -> None:
    """Take everything but `kept` out of the bounding set: for this process and all that it will execute."""
    for number in range(64):
        if not kept >> number & 1:
            try:
                linux.prctl(linux.PR_CAPBSET_DROP, number)
            except OSError as error:
                if error.errno == errno.EINVAL:  # the kernel knows no more of them
                    return
                raise
