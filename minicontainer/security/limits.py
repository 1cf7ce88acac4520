"""Old limits that are each process's own: resource limits, and its place in the queue of the OOM killer.

Control groups limit a container as a whole; resource limits (ulimit in a shell) limit each process of it: open files,
the size of a core dump, locked memory. They are inherited, anybody may lower them, only CAP_SYS_RESOURCE raises a
hard one. setrlimit(2). When memory runs out the kernel kills who has the most of it; oom_score_adj shifts that by
thousandths of all memory, from -1000 (never) to 1000 (first). proc_pid_oom_score_adj(5)
"""

from __future__ import annotations

import resource

from minicontainer import linux
from minicontainer.container.part import Host, Inside, Part
from minicontainer.errors import HostError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

KINDS = {name[len("RLIMIT_") :].lower(): number for name, number in vars(resource).items() if name.startswith("RLIMIT")}
KINDS |= {"locks": 10}  # RLIMIT_LOCKS: in the kernel's list still, without effect since Linux 2.4.25
UNLIMITED = (1 << 64) - 1


class Rlimits(Part):
    """Limit each process of the container: `Rlimits(nofile=1024, core=(0, 0))`.

    A value is for the soft and the hard limit, or a pair of them; None is no limit. Names are those of getrlimit(2) in
    lower case (`nofile`, `nproc`, `memlock`, …), units are the kernel's: bytes, seconds of cpu, a number. Raises
    UsageError for what makes no sense, HostError at the start where this process may not raise a hard limit.
    """

    seal_order = -10

    def __init__(self, **limits: int | tuple[int | None, int | None] | None) -> None:
        self.limits: dict[str, tuple[int, int]] = {}
        for name, value in limits.items():
            soft, hard = value if isinstance(value, tuple) else (value, value)
            if name not in KINDS:
                raise UsageError(f"there is no resource limit {name!r}", hint=f"one of {', '.join(sorted(KINDS))}")
            pair = (UNLIMITED if soft is None else soft, UNLIMITED if hard is None else hard)
            if min(pair) < 0 or max(pair) > UNLIMITED or pair[0] > pair[1]:
                raise UsageError(f"{name}: soft limit {soft}, hard limit {hard}", hint="0 <= soft <= hard")
            self.limits[name] = pair

    @classmethod
    def parse(cls, texts: Mapping[str, str] | list[str]) -> Rlimits:
        """`["nofile=1024:2048", "core=-1"]`, as Docker's --ulimit takes them: the same name twice, the last counts."""
        limits: dict[str, int | tuple[int | None, int | None] | None] = {}
        for text in texts:
            name, _, value = text.partition("=")
            soft, colon, hard = value.partition(":")
            try:
                pair = _number(soft), _number(hard if colon else soft)
            except ValueError:
                raise UsageError(f"{text!r} is no resource limit", hint="NAME=SOFT[:HARD], -1 for no limit") from None
            limits[name] = pair
        return cls(**limits)

    def record(self, host: Host) -> dict[str, Any]:
        return {"limits": self.limits}

    def second(self, host: Host) -> Part:
        return self

    def seal(self, inside: Inside) -> None:
        # What has to be raised is raised while we may. Lowering is put off: our own last steps need files and memory.
        for name, (soft, hard) in self.limits.items():
            now = resource.getrlimit(KINDS[name])
            if hard > now[1] % (1 << 64):
                self._set(name, soft, hard)
        inside.at_exec.append(self._lower)

    def _lower(self) -> None:
        for name, (soft, hard) in self.limits.items():
            self._set(name, soft, hard)

    def _set(self, name: str, soft: int, hard: int) -> None:
        try:
            linux.setrlimit(KINDS[name], soft, hard)
        except PermissionError:
            raise HostError(
                f"the hard limit {name} cannot be raised to {hard}: this process has {_shown(KINDS[name])}",
                hint=f"CAP_SYS_RESOURCE would allow it; ask for no more than `ulimit -H` shows for {name}",
            ) from None


class OomScore(Part):
    """How soon the OOM killer takes the container's processes: from -1000 (never) to 1000 (first)."""

    def __init__(self, adjustment: int) -> None:
        if not -1000 <= adjustment <= 1000:
            raise UsageError(f"oom_score_adj is {adjustment}", hint="from -1000 to 1000")
        self.adjustment = adjustment

    def record(self, host: Host) -> dict[str, Any]:
        return {"adjustment": self.adjustment}

    def second(self, host: Host) -> Part:
        return self

    def attach(self, host: Host) -> None:
        try:
            linux.write(f"/proc/{host.pid}/oom_score_adj", str(self.adjustment))
        except PermissionError:
            raise HostError(
                f"oom_score_adj cannot be lowered to {self.adjustment}",
                hint="only CAP_SYS_RESOURCE may spare a process more than it was spared before",
            ) from None


def _number(text: str) -> int | None:
    return None if text in ("-1", "unlimited") else int(text)


def _shown(kind: int) -> str:
    hard = resource.getrlimit(kind)[1]
    return "no limit" if hard == resource.RLIM_INFINITY else str(hard)
