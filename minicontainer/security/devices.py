"""Which devices a container may open.

A device node is a name for a pair of numbers, and whoever may make one (CAP_MKNOD, which a container's root keeps)
makes one for the host's disk. So the kernel is told for each control group which numbers may be opened and how: read,
write, mknod. Version 1 has a controller with lists; version 2 runs a small program of ours at each open
(admin-guide/cgroup-v1/devices.rst; cgroup-v2.rst, "Device controller").

Docker's default: any node may be made, and opened are null, zero, full, random, urandom, tty, console, ptmx and the
container's own terminals. Rules are OCI's (runtime-spec, config-linux.md, "Allowed Device list"): in order, the last
one that fits decides.
"""

from __future__ import annotations

import errno
import os
import stat

from minicontainer import linux
from minicontainer.cgroups import Cgroup
from minicontainer.chroot import within
from minicontainer.container.part import Host, Inside, Part
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
NOT_SHOWN = ("pts", "shm", "mqueue", "fd", "console", "core", "stdin", "stdout", "stderr", "ptmx")


class Devices(Part):
    """Docker's default devices, and those of the host that are named: `Devices("/dev/fuse", "/dev/sda:/dev/disk:r")`.

    `everything=True` is Docker's --privileged: all devices of the host are in /dev, and may be opened. `rules` are in
    place of the default ones. Needs a Cgroup among the parts, and a new /dev (PivotRoot) before it for the nodes.
    """

    def __init__(self, *devices: str, everything: bool = False, rules: Sequence[Allowed] | None = None) -> None:
        self.rules = list(DEFAULT if rules is None else rules)
        self.nodes: list[tuple[str, str]] = []
        for text in devices:
            source, _, rest = text.partition(":")
            target, _, access = rest.partition(":")
            if target and not target.startswith("/") and not access:
                target, access = "", target
            self.rules.append(_rule_for(source, access or "rwm"))
            self.nodes.append((source, target or source))
        if everything:
            self.rules = [Allowed(True)]
            self.nodes += [(path, path) for path in _of_host("/dev")]

    def prepare(self, host: Host) -> None:
        cgroup = host.find(Cgroup)
        if cgroup is None or not cgroup.path:
            raise UsageError(
                "which devices may be opened is said of a cgroup", hint="put the part Cgroup() before Devices()"
            )
        group = cgroup.group
        if directory := group.unified():
            try:
                limit_v2(directory, self.rules)
                return
            except HostError:
                if not group.has_tree("devices"):
                    raise
        limit_v1(group.tree("devices"), self.rules)

    def mount(self, inside: Inside) -> None:
        if self.nodes and inside.rootfs is not None:
            with within.root(inside.rootfs) as root:
                for source, target in self.nodes:
                    _node(root, source, target)


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


def _rule_for(path: str, access: str) -> Allowed:
    kind, number = _look(path)
    return Allowed(True, kind, os.major(number), os.minor(number), access)


def _look(path: str) -> tuple[str, int]:
    try:
        status = os.stat(path)
    except OSError as error:
        raise UsageError(
            f"there is no device {path}: {error.strerror}", hint="--device /dev/NAME[:/dev/NAME[:rwm]]"
        ) from None
    if stat.S_ISCHR(status.st_mode):
        return "c", status.st_rdev
    if stat.S_ISBLK(status.st_mode):
        return "b", status.st_rdev
    raise UsageError(f"{path} is no device", hint="--device /dev/NAME; --volume is for files and directories")


def _of_host(directory: str) -> list[str]:
    found = []
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.name in NOT_SHOWN or entry.is_symlink():
                continue
            if entry.is_dir():
                found += _of_host(entry.path)
            elif stat.S_IFMT(entry.stat().st_mode) in (stat.S_IFCHR, stat.S_IFBLK):
                found.append(entry.path)
    return sorted(found)


def _node(root: int, source: str, target: str) -> None:
    """A node for the host's device `source` at `target`; in a user namespace the host's own is bound there."""
    status = os.stat(source)
    parent, _, name = target.rpartition("/")
    with within.place(root, parent or "/") as directory:
        before = linux.umask(0)
        try:
            linux.mknod(name, status.st_mode, status.st_rdev, dir_fd=directory)
            os.chown(name, status.st_uid, status.st_gid, dir_fd=directory)
        except FileExistsError:
            return  # it is one of those that every container has
        except PermissionError:
            with within.place(root, target, directory=False) as file:
                linux.mount(source, within.path_of(file), flags=linux.MS_BIND)
        finally:
            linux.umask(before)
