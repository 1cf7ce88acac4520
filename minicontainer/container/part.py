"""What a part of a container is.

A container is a process plus parts: a root, namespaces, a cgroup, an overlay, an address. Each part has the same few
moments, each of them optional. All parts pass one moment before any part passes the next:

    record   ─┐
    prepare   │ on the host, the process does not exist yet: make a cgroup, reserve an address
    attach   ─┘ on the host, the process exists and is held: uid maps, its end of a veth pair
    join     ─┐
    mount     │ in the process, on its way from a copy of us to the command it will be
    enter     │
    seal     ─┘ … and the last thing before exec
    release     on the host, whenever, as often as you like: undo all of the above

To write a part, subclass `Part` and fill in the moments it needs; `Container(argv, YourPart())` does the rest.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, Self, TypeVar

    Kind = TypeVar("Kind", bound="Part")


class Host:
    """The container as the host's side sees it: what `prepare` and `attach` work with."""

    def __init__(self, id: str, parts: Sequence[Part], *, name: str = "") -> None:
        self.id = id
        self.parts = list(parts)
        self.name = name or id[:12]
        self.hostname = id[:12]
        """What the container will call itself; `Namespaces(hostname=…)` changes it in `prepare`."""
        self.flags = 0
        """The namespaces that clone3 makes: all parts' `namespaces`, and what `prepare` adds."""
        self.cgroup: int | None = None
        """A descriptor of the cgroup v2 directory the process is to be born in; closed here after the clone."""
        self.pid_namespace: int | None = None
        """A descriptor of an existing PID namespace the process is to be born in; closed here after the clone."""
        self.entrances: list[tuple[int, int]] = []
        """Existing namespaces (descriptor, flag) to be born in where a user namespace decides about it (chapter 9's
        runtime); closed here after the clone."""
        self.pid = 0
        """The process, from `attach` on."""
        self.pidfd = -1
        self.gifts: dict[str, int] = {}
        self.given_back: dict[str, int] = {}
        """Descriptors that the process handed out with `inside.give_back`. Who wants one takes it (`pop`), and closes
        it; `release` closes those that nobody has taken."""

    def give(self, name: str, fd: int) -> None:
        """Hand an open descriptor to the process: `inside.fds[name]` from `join` on. It is closed here afterwards."""
        before = self.gifts.get(name)  # two parts may bring the same thing: the mount namespace, for exec
        if before is not None:
            os.close(before)
        self.gifts[name] = fd

    def close(self) -> None:
        """Close every descriptor that was meant for the clone or for the process."""
        for fd in (self.cgroup, self.pid_namespace, *(fd for fd, _ in self.entrances), *self.gifts.values()):
            if fd is not None:
                os.close(fd)
        self.cgroup = self.pid_namespace = None
        self.entrances.clear()
        self.gifts.clear()

    def find(self, kind: type[Kind]) -> Kind | None:
        """The part of this kind, if the container has one."""
        return next((part for part in self.parts if isinstance(part, kind)), None)


class Inside:
    """The container as its own process sees it: what `join`, `mount`, `enter` and `seal` work with."""

    def __init__(self, argv: list[str], env: dict[str, str], cwd: str, hostname: str) -> None:
        self.argv = argv
        self.env = env
        self.cwd = cwd
        """Where the command starts, seen from its new root."""
        self.hostname = hostname
        self.rootfs: str | None = None
        """The new root while the old one is still visible; None before a part has brought one."""
        self.fds: dict[str, int] = {}
        """What the host's side gave, by name."""
        self.give_back: Callable[[str, int], None] = _nobody_listens
        """Hand an open descriptor to the host's side: `host.given_back[name]` once the command runs."""
        self.ask: Callable[[str], dict[str, Any]] = _nobody_answers
        """Wait here until the host's side has answered a question of this name (chapter 9's runtime does)."""
        self.report_to: Callable[[int], None] = _nobody_hears
        """Tell what follows (a failure, the exec) to another listener, on a connected socket."""
        self.at_exec: list[Callable[[], None]] = []
        """What `seal` puts off until nothing is left to do but the exec, such as a filter of system calls; in order."""
        self.needed = 0
        """Capabilities (as bits) that those put-off steps still need, whatever the container itself may keep."""


def _nobody_listens(name: str, fd: int) -> None:
    raise RuntimeError(f"no host's side to give {name} to")


def _nobody_answers(question: str) -> dict[str, Any]:
    raise RuntimeError(f"no host's side to answer {question}")


def _nobody_hears(fd: int) -> None:
    raise RuntimeError("no process to report for")


class Part:
    """One part of a container. Every moment does nothing until a subclass says otherwise.

    A part that does something in the process travels there by pickle, as it is after `prepare`; what must not travel
    (an open descriptor) is handed over with `host.give`.
    """

    namespaces: int = 0
    """The CLONE_NEW… flags that the part needs."""

    meanwhile: bool = False
    """Whether `prepare` may pass while the process is being cloned, so that the host does two things at a time: for a
    part that asks nothing of the clone but its `namespaces`. It travels as it is before that `prepare`."""

    seal_order: int = 0
    """All parts' `seal` come in this order, then in that of the list: what takes rights away comes after what needs
    them, wherever it stands among the parts (chapter 08 has the numbers)."""

    def record(self, host: Host) -> dict[str, Any] | None:
        """What another process would need to `release` this part if this one were killed, as JSON; None: nothing.

        Asked before `prepare`, so the names of everything that will be made must be known by then. It is written to
        disk before anything is made.
        """
        return None

    @classmethod
    def recall(cls, record: dict[str, Any]) -> Self:
        """The part again, from its record, for `release` (and `second`)."""
        part = cls.__new__(cls)
        part.__dict__.update(record)
        return part

    def prepare(self, host: Host) -> None:
        """On the host, before anybody knows the process."""

    def attach(self, host: Host) -> None:
        """On the host; the process exists in its new namespaces (`host.pid`, `host.pidfd`) and is held."""

    def join(self, inside: Inside) -> None:
        """In the process: setns, unshare, become the mapped root."""

    def mount(self, inside: Inside) -> None:
        """In the process, the old root still visible: everything below the new root."""

    def enter(self, inside: Inside) -> None:
        """In the process: pivot_root and what follows it."""

    def seal(self, inside: Inside) -> None:
        """In the process, last before exec: user, limits, capabilities."""

    def release(self) -> None:
        """On the host: undo all of the above. May be called at any time, any number of times, after any failure;
        what is already gone is no error."""

    def second(self, host: Host) -> Part | None:
        """The part that a second process of this container needs (`exec`), `host` being the running first one."""
        return None
