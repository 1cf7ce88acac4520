"""The checks of lab 04: a group by hand, a quota, counters, weights, a kill that wins, and a Cgroup for the engine."""

from __future__ import annotations

import os
import signal
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from labs.checks.engine import module_tests
from labs.checks.frame import Lab, attempt, expect
from minicontainer import Cgroup, Container, linux, state
from minicontainer.cgroups import Group, layout
from minicontainer.errors import ContainerError, NotFoundError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from minicontainer import Part

lab = Lab("04-cgroups")


@lab.exercise("a group by hand")
def small_group(answer: Callable[[str, int], None]) -> str:
    """A process calls the answer; then it is asked where it is, and how many children it can make."""
    with Group.create("lab"), Group.create("lab/sibling"):  # so the parent passes the controllers on
        tree = layout().legacy.get("pids", layout().top)
        directory = f"{tree}/{state.instance()}/lab/mine"

        def ask() -> dict[str, Any]:
            answer(directory, 5)
            seen: dict[str, Any] = {"made": os.path.isdir(directory), "limit": "", "inside": False}
            if seen["made"]:
                seen["limit"] = _text(f"{directory}/pids.max")
                seen["inside"] = str(os.getpid()) in _text(f"{directory}/cgroup.procs").split()
            return {**seen, "children": _children_until_it_fails()}

        seen = attempt(ask, answer).value
    expect(seen["made"], saw="no group at the directory that was asked for", wanted="a group there")
    expect(seen["limit"] == "5", saw=f"its pids.max is {seen['limit']}", wanted="5, as was asked for")
    expect(seen["inside"], saw="the calling process is not in the group's cgroup.procs", wanted="it is in there")
    expect(seen["children"] == 4, saw=f"{seen['children']} children could be made", wanted="4: with itself, 5")
    return "the process is in its group with pids.max 5, and its fifth child failed with EAGAIN"


def _text(path: str) -> str:
    with open(path) as file:
        return file.read().strip()


def _children_until_it_fails(most: int = 12) -> int:
    made: list[int] = []
    try:
        while len(made) < most:
            pid = os.fork()
            if pid == 0:
                signal.pause()
            made.append(pid)
    except BlockingIOError:
        pass
    for pid in made:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return len(made)


@lab.exercise("so many CPUs")
def give_cpus(answer: Callable[[Group, float | None], None]) -> str:
    """The quota that the kernel has afterwards, divided by its period, is what was asked for."""
    wishes = (0.5, 0.05, 2, 1.5, None)

    def ask() -> list[str]:
        seen = []
        with Group.create("lab") as group:
            for wish in wishes:
                answer(group, wish)
                seen.append(group["cpu.max"])
        return seen

    for wish, text in zip(wishes, attempt(ask, answer).value, strict=True):
        quota, period = text.split()
        if wish is None:
            expect(quota == "max", saw=f"cpu.max is {text!r} after None, for no limit", wanted="a quota of max")
            continue
        got = "max" if quota == "max" else int(quota) / int(period)
        expect(got == wish, saw=f"cpu.max is {text!r} for {wish} CPUs: {got} of a CPU", wanted=f"a quota for {wish}")
    return "quota by period is what was asked for, for " + ", ".join(map(str, wishes))


@lab.exercise("read the counters")
def report(answer: Callable[[Group], dict[str, float]]) -> str:
    """Three groups, one throttled, one with an OOM kill, one idle; the kernel's own counters are compared."""

    cases: list[tuple[str, dict[str, str | int], Callable[[], None] | None]] = [
        ("a throttled", {"cpu.max": "20000 100000"}, _burn),
        ("an OOM-killed", {"memory.max": "32M", "memory.swap.max": 0}, _grow),
        ("an idle", {"cpu.max": "50000 100000"}, None),
    ]

    def ask() -> list[dict[str, Any]]:
        seen = []
        for name, limits, work in cases:
            with Group.create("lab", limits) as group:
                if work:
                    _in_group(group, work)
                    time.sleep(0.3)  # the last period ends after the last process
                true, said = _counters(group), answer(group)
                seen.append({"name": name, "true": true, "said": said, "then": _counters(group)})
        return seen

    for group in attempt(ask, answer).value:
        said, true, then = group["said"], group["true"], group["then"]
        expect(
            isinstance(said, dict) and set(said) == set(true),
            saw=f"it returned {said!r}",
            wanted=f"a dict with the keys {', '.join(true)}",
        )
        for key, value in true.items():
            number = isinstance(said[key], int | float)
            near = number and any(abs(said[key] - it) <= 0.02 + 0.05 * it for it in (value, then[key]))
            expect(near, saw=f"of {group['name']} group you say {key}={said[key]!r}", wanted=f"{round(value, 2)}")
    return "CPU seconds, the throttled part of the periods, and OOM kills are what the kernel counts"


def _counters(group: Group) -> dict[str, float]:
    stats = group.stats()
    return {
        "cpu": (stats.cpu_us or 0) / 1e6,
        "throttled": (stats.throttled or 0) / stats.periods if stats.periods else 0.0,
        "oom_kills": stats.oom_kills or 0,
    }


def _in_group(group: Group, work: Callable[[], None]) -> None:
    pid = os.fork()
    if pid == 0:
        try:
            group.add(os.getpid())
            work()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)


def _burn(seconds: float = 1.0) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def _grow() -> None:
    held = [b"x" * (4 << 20) for _ in range(32)]  # 128 MiB at most
    del held


@lab.exercise("shares")
def share_out(answer: Callable[[list[Group], list[float]], None]) -> str:
    """The weights are in proportion, nobody is limited, and three burners on one CPU get what they should."""
    wishes = ([0.5, 0.3, 0.2], [0.96, 0.036, 0.004])

    def ask() -> list[Any]:
        seen = []
        for wish in wishes:
            with _three() as groups:
                answer(groups, list(wish))
                limits = [[int(group["cpu.weight"]), group["cpu.max"].split()[0]] for group in groups]
                seen.append([limits, _shares(groups) if wish is wishes[0] else []])
        return seen

    for wish, (limits, shares) in zip(wishes, attempt(ask, answer).value, strict=True):
        weights, quotas = [it[0] for it in limits], [it[1] for it in limits]
        expect(
            set(quotas) == {"max"},
            saw=f"their cpu.max is {', '.join(quotas)}: they wait even when nobody else wants the CPU",
            wanted="that nobody is limited as long as there is CPU time left",
        )
        expect(
            all(abs(w / sum(weights) - part) <= 0.1 * part for w, part in zip(weights, wish, strict=True)),
            saw=f"weights {weights} for the parts {wish}",
            wanted="weights in the same proportion, within a tenth",
        )
        expect(
            all(0.5 < got / part < 2 for got, part in zip(shares, wish, strict=False)),
            saw=f"of one CPU they got {[round(it, 2) for it in shares]}",
            wanted=f"about {wish}",
        )
    return "weights are in proportion, and three burners on one CPU got their parts of it"


@contextmanager
def _three() -> Iterator[list[Group]]:
    limits = {"cpuset.cpus": str(min(os.sched_getaffinity(0)))}
    with (
        Group.create("lab1", limits) as one,
        Group.create("lab2", limits) as two,
        Group.create("lab3", limits) as three,
    ):
        yield [one, two, three]


def _shares(groups: list[Group], seconds: float = 2.0) -> list[float]:
    """The part of the CPU time of all that each got, while all of them wanted all of it."""
    pids = []
    for group in groups:
        pid = os.fork()
        if pid == 0:
            try:
                group.add(os.getpid())
                _burn(seconds + 2)
            finally:
                os._exit(0)
        pids.append(pid)
    time.sleep(0.3)
    first = [group.stats().cpu_us or 0 for group in groups]
    time.sleep(seconds)
    used = [(group.stats().cpu_us or 0) - before for group, before in zip(groups, first, strict=True)]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return [it / max(1, sum(used)) for it in used]


class OldGroup(Group):
    """A group on a kernel that has no cgroup.kill (before 5.14), and on a busy machine: what it has listed is old."""

    def kill(self, timeout: float = 10) -> None:
        raise UsageError("this exercise is to do without Group.kill", hint="freeze(), processes(), thaw()")

    def __setitem__(self, file: str, value: str | int) -> None:
        if file == "cgroup.kill":
            raise UsageError("this exercise is to do without cgroup.kill", hint="Linux has it since 5.14")
        super().__setitem__(file, value)

    def processes(self) -> list[int]:
        found = super().processes()
        time.sleep(0.05)
        return found


@lab.exercise("kill what forks")
def kill_all(answer: Callable[[Group], None]) -> str:
    """A bomb that forks as fast as it can, and ignores what can be ignored; afterwards its group is empty for good."""

    def ask() -> dict[str, Any]:
        linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # so the kernel itself reaps all that becomes of the bomb
        with Group.create("lab", {"pids.max": 40}) as group:
            pid = os.fork()
            if pid == 0:
                try:
                    group.add(os.getpid())
                    _bomb()
                finally:
                    os._exit(0)
            deadline = time.monotonic() + 10
            while (group.stats().pids or 0) < 8 and time.monotonic() < deadline:
                time.sleep(0.01)
            answer(OldGroup(group.path))
            time.sleep(0.3)
            return {"alive": len(_alive(group)), "frozen": group["cgroup.freeze"]}

    seen = attempt(ask, answer).value
    expect(seen["frozen"] == "0", saw="the group is still frozen", wanted="a group as it was, but for its processes")
    expect(not seen["alive"], saw=f"{seen['alive']} processes of the group are alive", wanted="none")
    return "the group is empty, and stays so"


def _bomb(seconds: float = 25) -> None:
    """Ten processes that each make a child and leave the rest to it, again and again; they end by themselves."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    end = time.monotonic() + seconds
    for _ in range(9):
        if os.fork() == 0:
            break
    while time.monotonic() < end:
        if os.fork():
            os._exit(0)


def _alive(group: Group) -> list[int]:
    """The processes of a group that are not dead yet (a zombie is)."""
    found = []
    for pid in group.processes():
        try:
            if _text(f"/proc/{pid}/stat").rpartition(")")[2].split()[0] not in "ZX":
                found.append(pid)
        except (FileNotFoundError, ProcessLookupError):
            pass
    return found


def _setting(group: Group, file: str) -> str:
    """A limit as it stands; `max` where the group has not even the controller."""
    try:
        return group[file]
    except NotFoundError:
        return "max"


@lab.exercise("your cgroup, in the engine")
def part(answer: type[Part]) -> str:
    """First one container with it; then the engine's own tests of Cgroup."""

    def ask() -> dict[str, Any]:
        share = answer(memory="64M", swap=0, cpus=0.5, pids=20)  # type: ignore[call-arg]
        container = Container(lambda: _text("/proc/self/cgroup"), share)
        group = Group(f"{state.instance()}/{container.id}")
        try:
            container.start()
            files = ("memory.max", "memory.swap.max", "cpu.max", "pids.max")
            limits = [_setting(group, file) for file in files] if group.exists() else []
            container.wait()
        except ContainerError as error:
            if "NotImplementedError" in str(error):
                raise NotImplementedError from None
            return {"said": error.message}
        finally:
            container.remove()
        left = group.exists()
        group.remove()
        inside = container.id in str(container.returned)
        return {"said": "", "inside": inside, "limits": limits, "left": left}

    seen = attempt(ask, answer).value
    expect(not seen["said"], saw=f"the engine says: {seen['said']}", wanted="a container that starts")
    wanted = [str(64 << 20), "0", "50000 100000", "20"]
    expect(
        bool(seen["limits"]),
        saw="there is no group INSTANCE/CONTAINER-ID while the container runs",
        wanted="a group named after the container",
    )
    expect(seen["inside"], saw="/proc/self/cgroup in the container names another group", wanted="the container's own")
    expect(
        seen["limits"] == wanted,
        saw=f"memory.max, memory.swap.max, cpu.max and pids.max are {', '.join(seen['limits'])}",
        wanted=f"{', '.join(wanted)} for memory='64M', swap=0, cpus=0.5, pids=20",
    )
    expect(not seen["left"], saw="the group is still there after the container's end", wanted="nothing left")
    return module_tests(answer, f"{Cgroup.__module__}:Cgroup", "test_cgroups_container.py")
