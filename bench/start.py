"""Row `start`: from the wish for a container to the end of its /bin/true, asked for by a Python that is running."""

from __future__ import annotations

import difflib
import os
import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from bench import floor, ground, measure, peers, report
from bench.measure import Contestant, Failed, Rounds
from minicontainer import Cgroup, Container, Namespaces, Overlay, PivotRoot

if TYPE_CHECKING:
    from collections.abc import Callable

TITLE = "start: start to exit of /bin/true from a warm Python, all namespaces, overlay, no network"
KINDS = ("pid", "uts", "ipc", "network", "mount", "cgroup")
LOOK = "cat /proc/self/mountinfo; echo; cat /proc/self/cgroup; ls -l /dev; ls -l /proc/self/ns; cat /proc/1/cmdline"
"""What a container says of itself in the comparison before the clock runs."""


def container(layer: str, *argv: str, kinds: tuple[str, ...] = KINDS, cgroup: bool = True) -> Container:
    """Ours: every part is made anew for each container."""
    share = [Cgroup(memory=floor.MEMORY, cpus=floor.CPUS)] if cgroup else []
    hostname = floor.HOSTNAME
    return Container(argv, Namespaces(*kinds, hostname=hostname), *share, Overlay([layer], volatile=True), PivotRoot())


def once(layer: str, null: int, *, kinds: tuple[str, ...] = KINDS, cgroup: bool = True) -> float:
    """Seconds that one of ours takes, from the making of its parts until all is undone."""
    before = time.perf_counter()
    status = container(layer, "/bin/true", kinds=kinds, cgroup=cgroup).run(stdin=null, stdout=null, stderr=2)
    took = time.perf_counter() - before
    if status:
        raise Failed(f"our /bin/true ended with status {status}")
    return took


def threaded(action: Callable[[], float]) -> float:
    """The same in a program that has a second thread, as a notebook's kernel has."""
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        return action()
    finally:
        stop.set()
        thread.join()
        while os.path.exists(f"/proc/self/task/{thread.native_id}"):
            time.sleep(0.0001)


def seen(text: str) -> list[str]:
    """What a container says of itself, without what differs by nature: numbers of mounts, devices and namespaces,
    times, and the overlay's directories."""
    lines = []
    for line in text.splitlines():
        before, dash, after = line.partition(" - ")
        if dash:
            fields, (kind, source, options) = before.split(), after.split(" ", 2)
            words = [word for word in options.split(",") if not word.startswith(("lowerdir", "upperdir", "workdir"))]
            lines.append(" ".join([fields[3], fields[4], fields[5], kind, source, *sorted(words)]))
        elif "->" in line or line.startswith(("c", "d", "l")):
            fields = line.split()
            arrow = (
                [word.rpartition(":[")[0] or word for word in fields[fields.index("->") :]] if "->" in fields else []
            )
            names = fields[8:9] if arrow else fields[-1:]
            lines.append(" ".join([*fields[:4], *names, *arrow]))
        else:
            lines.append(line)
    return lines


def verify(directory: str, program: str, layer: str) -> None:
    """Hold what the container sees in ours against what it sees in the floor's. Raises Failed when they differ."""
    argv = ("/bin/sh", "-c", LOOK)
    for cgroup in (True, False):
        ours = container(layer, *argv, cgroup=cgroup).output()
        with open(f"{directory}/seen", "w+b") as file:
            with floor.Floor(program, layer, directory, *argv, cgroup=cgroup, output=file.fileno()) as made:
                made.once()
            file.seek(0)
            theirs = file.read().decode()
        one, two = seen(ours), seen(theirs)
        if one != two or not any(line.startswith("/ / rw") and "volatile" in line for line in one):
            different = "\n".join(difflib.unified_diff(one, two, "minicontainer", "floor", lineterm=""))
            raise Failed(f"the floor's container is not the same as ours:\n{different or ours}")


def row(directory: str, rounds: Rounds) -> None:
    """Measure and print."""
    report.title(TITLE)
    layer = ground.busybox(f"{directory}/layer")
    program = floor.build(directory)
    verify(directory, program, layer)
    report.say("verified: both containers have the same mounts, devices, namespaces and groups")
    with ExitStack() as stack:
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        stack.callback(os.close, null)
        place = stack.enter_context(peers.Place(directory))
        found = {}
        for cgroup in (True, False):
            made = floor.Floor(program, layer, directory, "/bin/true", cgroup=cgroup, output=null)
            found[cgroup] = stack.enter_context(made)
        time_kinds, user_kinds = (*KINDS, "time"), (*KINDS, "user")
        contestants = [
            Contestant("C floor", found[True].once),
            Contestant("minicontainer", lambda: once(layer, null)),
            Contestant("C floor, no cgroup", found[False].once),
            Contestant("minicontainer, no cgroup", lambda: once(layer, null, cgroup=False)),
            Contestant("minicontainer, from a program with threads", lambda: threaded(lambda: once(layer, null))),
            Contestant("minicontainer, and a time namespace", lambda: once(layer, null, kinds=time_kinds)),
            Contestant("minicontainer, and a user namespace", lambda: once(layer, null, kinds=user_kinds)),
            Contestant("fork and exec, no container", lambda: measure.command([f"{layer}/bin/true"])),
        ]
        for name in ("crun", "runc"):
            if peers.there(name):
                where = peers.bundle(f"{directory}/{name}", layer, cgroup=True)
                argv = [name, "--root", f"{directory}/{name}-state", "run", "--bundle", where, name]
                contestants.append(Contestant(f"{name} run, plain root", lambda argv=argv: place.command(argv)))  # type: ignore[misc]
        if peers.there("bwrap"):
            argv = ["bwrap", "--unshare-all", "--bind", layer, "/", "--proc", "/proc", "--dev", "/dev", "/bin/true"]
            contestants.append(Contestant("bwrap --unshare-all, plain root", lambda: place.command(argv)))
        for contestant in contestants:
            contestant.once()
        report.say(f"{rounds.cold} cold rounds, {rounds.hot} hot starts of {len(contestants)}")
        cold = measure.cold(contestants, rounds.cold)
        hot = measure.hot(contestants, rounds)
    report.versus(cold, hot, "C floor")
    ours = hot["minicontainer"]
    goals = [
        report.Goal("hot, with cgroup, times the C floor", ours / hot["C floor"], 1.5),
        report.Goal(
            "hot, without cgroup, times the C floor", hot["minicontainer, no cgroup"] / hot["C floor, no cgroup"], 1.5
        ),
    ]
    crun = "crun run, plain root"
    if crun in hot:
        goals.append(report.Goal("hot, times crun run", ours / hot[crun], 1))
        goals.append(report.Goal("cold, times crun run", cold["minicontainer"] / cold[crun], 1))
    report.goals(goals)
    report.skipped(*peers.missing("crun", "runc", "bwrap"))
