"""Chapter 3. Its own view.

A namespace is a view of one kind of resource that processes share: the process table, the mounts, the network. A
process is in exactly one of each of the eight kinds; /proc/PID/ns shows which, as links whose inode number *is* the
namespace. A container is a process in namespaces of its own.

Three ways lead into one: clone(2) with a flag makes a new one for a new process, unshare(2) makes a new one for the
caller, setns(2) joins an existing one. Six kinds come with the clone. Two come later, in the process: the cgroup
namespace, because its root is the group the process is in at that moment, and the time namespace, because its offsets
are fixed when the first process enters. namespaces(7)
"""

from __future__ import annotations

import os

from minicontainer import linux
from minicontainer.container.part import Host, Inside, Part
from minicontainer.errors import NotFoundError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from minicontainer.container import Container

    Source = int | str | Container

# our name → (flag, name below /proc/PID/ns)
KINDS = {
    "mount": (linux.CLONE_NEWNS, "mnt"),
    "uts": (linux.CLONE_NEWUTS, "uts"),
    "ipc": (linux.CLONE_NEWIPC, "ipc"),
    "pid": (linux.CLONE_NEWPID, "pid"),
    "network": (linux.CLONE_NEWNET, "net"),
    "cgroup": (linux.CLONE_NEWCGROUP, "cgroup"),
    "time": (linux.CLONE_NEWTIME, "time"),
    "user": (linux.CLONE_NEWUSER, "user"),
}
LATER = ("cgroup", "time")
DEFAULT_MAP = ((0, 100_000, 65_536),)
"""Root inside is user 100000 of the host, who is nobody there."""


class Namespaces(Part):
    """New namespaces of the kinds named, and existing ones to join.

    `Namespaces("pid", "uts", hostname="web")`; the kinds are mount, uts, ipc, pid, network, cgroup, time, user.
    `join` maps a kind to whose namespace to join: a pid, a path (a pinned one), or a running Container.
    `uid_map` and `gid_map` are ranges (first inside, first outside, count) for "user". `clock_offsets` are seconds
    that "monotonic" and "boottime" are ahead in "time". user_namespaces(7), time_namespaces(7)
    """

    def __init__(
        self,
        *kinds: str,
        hostname: str | None = None,
        domainname: str | None = None,
        uid_map: Iterable[tuple[int, int, int]] = DEFAULT_MAP,
        gid_map: Iterable[tuple[int, int, int]] = DEFAULT_MAP,
        clock_offsets: Mapping[str, float] | None = None,
        join: Mapping[str, Source] | None = None,
    ) -> None:
        for kind in (*kinds, *(join or {})):
            if kind not in KINDS:
                raise UsageError(f"there is no namespace called {kind!r}", hint=f"one of {', '.join(KINDS)}")
        both = set(kinds) & set(join or {})
        if both:
            raise UsageError(f"{', '.join(sorted(both))}: a new namespace, or join one, but not both")
        self.kinds = tuple(kinds)
        self.joined = {kind: _path_of(source, kind) for kind, source in (join or {}).items()}
        self.namespaces = sum(KINDS[kind][0] for kind in set(kinds) if kind not in LATER)
        self.hostname = hostname
        self.domainname = domainname
        if (hostname or domainname) and "uts" not in kinds:
            raise UsageError("a host name of its own needs a uts namespace", hint='add "uts"')
        for name in (hostname or "", domainname or ""):
            if len(os.fsencode(name)) > 64:
                raise UsageError(f"{name!r} is longer than the 64 bytes the kernel has for it, uname(2)")
        self.uid_map = [tuple(line) for line in uid_map]
        self.gid_map = [tuple(line) for line in gid_map]
        self.clock_offsets = dict(clock_offsets or {})
        if self.clock_offsets and "time" not in kinds:
            raise UsageError("clock offsets need a time namespace", hint='add "time"')
        if set(self.clock_offsets) - {"monotonic", "boottime"}:
            raise UsageError("only the clocks monotonic and boottime can be offset, time_namespaces(7)")

    # ------------------------------------------------------------------------------------------ on the host

    def prepare(self, host: Host) -> None:
        for kind, path in self.joined.items():
            try:
                fd = linux.open(path, os.O_RDONLY)
            except FileNotFoundError:
                raise NotFoundError(
                    f"there is no {kind} namespace at {path}", hint="has the process ended, or the pin been removed?"
                ) from None
            if kind == "pid":
                host.pid_namespace = fd  # where the clone itself has to happen
            else:
                host.give(f"{kind} namespace", fd)
        if self.hostname:
            host.hostname = self.hostname

    def attach(self, host: Host) -> None:
        if "user" in self.kinds:
            # from outside: only a privileged process of the parent namespace may map more than itself
            linux.write(f"/proc/{host.pid}/uid_map", _as_lines(self.uid_map))
            linux.write(f"/proc/{host.pid}/gid_map", _as_lines(self.gid_map))

    def second(self, host: Host) -> Part | None:
        kinds = [*self.kinds, *self.joined]
        return Namespaces(join=dict.fromkeys(kinds, host.pid)) if kinds else None

    # ------------------------------------------------------------------------------------------ in the process

    def join(self, inside: Inside) -> None:
        # "user" last: what we are now may join everything, what we are then only what that namespace owns
        for kind in sorted(self.joined, key=lambda kind: kind == "user"):
            if kind not in ("pid", "mount"):
                linux.setns(inside.fds[f"{kind} namespace"], KINDS[kind][0])
        if "cgroup" in self.kinds:
            linux.unshare(linux.CLONE_NEWCGROUP)
        if "time" in self.kinds:
            self._make_time()
        if "user" in self.kinds or "user" in self.joined:
            linux.setgroups([])
            linux.setresgid(0)
            linux.setresuid(0)

    def enter(self, inside: Inside) -> None:
        if "mount" in self.joined:  # not before this moment: from here on, every path is the container's
            linux.setns(inside.fds["mount namespace"], linux.CLONE_NEWNS)
        if "uts" in self.kinds:
            linux.sethostname(inside.hostname)
        if self.domainname:
            linux.setdomainname(self.domainname)

    def _make_time(self) -> None:
        linux.unshare(linux.CLONE_NEWTIME)
        for clock, seconds in self.clock_offsets.items():
            whole = int(seconds // 1)
            linux.write("/proc/self/timens_offsets", f"{clock} {whole} {int((seconds - whole) * 1e9)}\n")
        fd = linux.open("/proc/self/ns/time_for_children", os.O_RDONLY)
        linux.setns(fd, linux.CLONE_NEWTIME)  # unshare moved only our future children
        os.close(fd)


def of(pid: int | str = "self") -> dict[str, int]:
    """The namespaces a process is in: kind → inode number, which is the namespace's identity.

    Raises NotFoundError when there is no such process, PermissionError when ptrace(2) would not be allowed either.
    namespaces(7), "The /proc/pid/ns/ directory"
    """
    try:
        return {kind: os.stat(f"/proc/{pid}/ns/{name}").st_ino for kind, (_, name) in KINDS.items()}
    except (FileNotFoundError, ProcessLookupError):
        raise NotFoundError(f"there is no process {pid}") from None


def tree() -> dict[str, dict[int, list[int]]]:
    """Which process lives where: kind → namespace → the pids in it, for every process this one may look into."""
    found: dict[str, dict[int, list[int]]] = {kind: {} for kind in KINDS}
    for name in os.listdir("/proc"):
        if not name.isdecimal():
            continue
        try:
            here = of(name)
        except (NotFoundError, PermissionError):  # it ended while we were looking, or is more privileged than we are
            continue
        for kind, namespace in here.items():
            found[kind].setdefault(namespace, []).append(int(name))
    return found


def pin(source: Source, kind: str, path: str) -> None:
    """Keep a namespace alive without a process: bind it to the file `path` (made). Join it with `join={kind: path}`."""
    os.close(linux.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o444))
    try:
        linux.mount(_path_of(source, kind), path, flags=linux.MS_BIND)
    except OSError:
        os.unlink(path)
        raise


def unpin(path: str) -> None:
    """Let go of a pinned namespace: it ends with its last process. What is not there any more is no error."""
    try:
        linux.umount2(path, linux.MNT_DETACH)
    except (FileNotFoundError, OSError) as error:
        if not os.path.exists(path):
            return
        if error.errno != 22:  # EINVAL: a file, but no mount
            raise
    linux.unlink(path)


def _path_of(source: Source | Any, kind: str) -> str:
    if isinstance(source, str):
        return source
    pid = source if isinstance(source, int) else source.pid
    if not pid:
        raise UsageError(f"cannot join the {kind} namespace of a container that does not run", hint="start it first")
    return f"/proc/{pid}/ns/{KINDS[kind][1]}"


def _as_lines(ranges: list[tuple[int, ...]]) -> str:
    return "".join(f"{inside} {outside} {count}\n" for inside, outside, count in ranges)
