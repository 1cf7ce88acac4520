"""Rules about devices, and how a control group is told: lists on v1, a program for the kernel on v2."""

from __future__ import annotations

import errno
import os

from minicontainer import linux
from minicontainer.errors import HostError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    Rule = dict[str, Any]


class Allowed:
    """One rule: `allow` or deny a `kind` of device ("c", "b", "a" for both), its numbers (None: any), how ("rwm")."""

    __slots__ = ("access", "allow", "kind", "major", "minor")

    def __init__(
        self, allow: bool, kind: str = "a", major: int | None = None, minor: int | None = None, access: str = "rwm"
    ) -> None:
        if kind not in ("a", "b", "c") or not access or set(access) - set("rwm"):
            raise UsageError(f"a device rule of type {kind!r}, access {access!r}", hint="a, b or c; some of r, w and m")
        self.allow, self.kind, self.access = allow, kind, access
        self.major, self.minor = major, minor

    @classmethod
    def parse(cls, rule: Rule) -> Allowed:
        """From an entry of linux.resources.devices."""
        major, minor = (None if rule.get(key) in (None, -1) else int(rule[key]) for key in ("major", "minor"))
        return cls(bool(rule.get("allow")), rule.get("type") or "a", major, minor, rule.get("access") or "rwm")

    @property
    def everything(self) -> bool:
        return self.kind == "a" and self.major is None and self.minor is None

    def __str__(self) -> str:
        """As v1's files take it: `c 1:3 rwm`."""
        numbers = ("*" if number is None else str(number) for number in (self.major, self.minor))
        return "a" if self.everything else f"{self.kind} {':'.join(numbers)} {self.access}"


NOTHING = Allowed(False)
DEFAULT = [
    NOTHING,
    Allowed(True, "c", None, None, "m"),
    Allowed(True, "b", None, None, "m"),
    *(Allowed(True, "c", 1, minor) for minor in (3, 5, 7, 8, 9)),  # null, zero, full, random, urandom
    *(Allowed(True, "c", 5, minor) for minor in (0, 1, 2)),  # tty, console, ptmx
    Allowed(True, "c", 136),  # the slaves of /dev/pts
]


def limit_v1(directory: str, rules: Iterable[Allowed]) -> None:
    """Write the rules into a directory of the v1 controller `devices`."""
    for rule in rules:
        linux.write(f"{directory}/devices.{'allow' if rule.allow else 'deny'}", str(rule))


def limit_v2(directory: str, rules: Sequence[Allowed]) -> None:
    """Hang a program with these rules on a cgroup v2 directory. Raises HostError where the kernel has none of that."""
    group = linux.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        loaded = linux.load_device_program(program(rules))
        try:
            linux.attach_device_program(group, loaded)
        finally:
            os.close(loaded)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EINVAL):
            raise
        raise HostError(
            "this kernel cannot decide about devices for a cgroup",
            hint="it needs CONFIG_CGROUP_BPF; cgroup v1 would need its controller `devices`",
        ) from None
    finally:
        os.close(group)


def program(rules: Sequence[Allowed]) -> bytes:
    """The program for cgroup v2: asked at each open and mknod, it answers 1 (go ahead) or 0 (EPERM).

    type, access, major, minor of the device into registers 2 to 5
    for each rule, the last one first: does it fit? then leave with its answer
    none fits: 0
    """
    from minicontainer.linux import bpf

    kind, access, major, minor, spare = 2, 3, 4, 5, 6
    code = bpf.load_word(kind, 1, bpf.DEVICE_TYPE_AND_ACCESS) + bpf.copy(access, kind)
    code += bpf.shift_right(access, 16) + bpf.mask(kind, 0xFFFF)
    code += bpf.load_word(major, 1, bpf.DEVICE_MAJOR) + bpf.load_word(minor, 1, bpf.DEVICE_MINOR)
    for rule in reversed(rules):
        answer = bpf.set_to(0, int(rule.allow)) + bpf.leave()
        bits = sum({"m": bpf.MKNOD, "r": bpf.READ, "w": bpf.WRITE}[letter] for letter in set(rule.access))
        if bits != 7:
            # allowed is a request all of which the rule has; denied is one any of which the rule has
            looked_at, jump = (7 & ~bits, bpf.unless_equal) if rule.allow else (bits, bpf.if_equal)
            answer = bpf.copy(spare, access) + bpf.mask(spare, looked_at) + jump(spare, 0, 2) + answer
        for register, number in ((minor, rule.minor), (major, rule.major)):
            if number is not None:
                answer = bpf.unless_equal(register, number, len(answer) // 8) + answer
        if rule.kind != "a":
            number = bpf.BLOCK if rule.kind == "b" else bpf.CHARACTER
            answer = bpf.unless_equal(kind, number, len(answer) // 8) + answer
        code += answer
        if rule.everything and bits == 7:
            return code  # nothing before it is ever asked
    return code + bpf.set_to(0, 0) + bpf.leave()
