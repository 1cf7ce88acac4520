"""What the tests of user-defined networks share: containers in them, and what the kernel says of those.

(A helper that imports `networks` late: pytest wants to load that one itself, as a plugin.)
"""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from minicontainer import linux, state
from minicontainer.container import Container, Host, Inside

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from networks import Machine, Place

    from minicontainer.network import Bridge, Join

    Make = Callable[[], Bridge | Join]
    View = Callable[[], Any]


def start(machine: Machine, join: Join, name: str = "") -> Place:
    """A container that waits, in the given networks."""
    from networks import Place

    container = Container(["/bin/sleep", "1000"], join, name=name)
    container.start()
    machine.containers.append(container)
    place = Place(machine, container.pid, join.address)
    place.container = container  # type: ignore[attr-defined]
    return place


def inet(place: Place, interface: str = "eth0", family: str = "inet") -> list[str]:
    """The addresses that the kernel shows, link-local ones apart."""
    (link,) = place.ip("addr", "show", "dev", interface)
    found = [it for it in link["addr_info"] if it["family"] == family and it["scope"] == "global"]
    return [f"{it['local']}/{it['prefixlen']}" for it in found]


def six(place: Place, interface: str = "eth0") -> str:
    """The IPv6 address."""
    (found,) = inet(place, interface, "inet6")
    return found.partition("/")[0]


def defaults(place: Place, *family: str) -> list[tuple[str, str]]:
    """The default routes, the first one to be taken first."""
    routes = [route for route in place.ip(*family, "route") if route["dst"] == "default"]
    return [(route["gateway"], route["dev"]) for route in sorted(routes, key=lambda it: it.get("metric", 0))]


def eventually(condition: Callable[[], bool], seconds: float = 5) -> bool:
    """Whether it comes true in time."""
    from networks import eventually

    return eventually(condition, seconds)


def hold(machine: Machine) -> subprocess.Popen[str]:
    """A process in an empty network namespace: what a container is while its parts work on it."""
    return machine.keep(["unshare", "-n", "sh", "-c", "echo ready; exec sleep 1000"])


def new_host(part: Bridge | Join, pid: int) -> Host:
    host = Host(state.new_id(), [part])
    host.pid = pid
    return host


def live(part: Bridge | Join, host: Host) -> None:
    """Take the part through its moments on the host's side, and through `join` in the container's namespace."""
    part.record(host)
    try:
        part.prepare(host)
        part.attach(host)
    finally:
        host.close()
    before = os.open("/proc/self/ns/net", os.O_RDONLY)
    there = os.open(f"/proc/{host.pid}/ns/net", os.O_RDONLY)
    try:
        linux.setns(there, linux.CLONE_NEWNET)
        part.join(Inside(["true"], {}, "/", host.hostname))
    finally:
        with linux.watch(None):
            linux.setns(before, linux.CLONE_NEWNET)
        os.close(before)
        os.close(there)


def fail_at_every_step(make: Make, view: View, pid: int) -> int:
    """Let one call after the other of the part's life fail; what a release leaves must be what was there before. How
    many calls there are."""
    before, step = view(), 0
    while True:
        step += 1
        watcher = linux.Watch(fail_at=step, fail_errno=errno.EIO)
        part, fault = make(), None
        with linux.watch(watcher):
            try:
                live(part, new_host(part, pid))
            except OSError as error:
                fault = error.errno
        part.release()
        part.release()
        assert view() == before, f"step {step}: {watcher.calls[-1]}"
        assert fault in (None, errno.EIO)
        if fault is None:
            return step


def fail_in_release(make: Make, view: View, pid: int) -> int:
    """The same with the calls of its release: a second one must complete the work."""
    before, step = view(), 0
    while True:
        step += 1
        part, fault = make(), None
        live(part, new_host(part, pid))
        with linux.watch(linux.Watch(fail_at=step, fail_errno=errno.EIO)):
            try:
                part.release()
            except OSError as error:
                fault = error.errno
        part.release()
        assert view() == before, f"step {step}"
        assert fault in (None, errno.EIO)
        if fault is None:
            return step


class Killer(linux.Watch):
    """Ends its process, as kill -9 does, when the n-th call is about to be made."""

    def next_fails(self) -> bool:
        if super().next_fails():
            os.kill(os.getpid(), signal.SIGKILL)
        return False


def kill_at_every_step(make: Make, view: View, held: int, moment: str) -> int:
    """Kill the owner before one call after the other of the part's `start` or `release`; its record, in another
    process, must be enough to undo all. How many calls there are."""
    before, step, killed = view(), 0, True
    while killed:
        step += 1
        part = make()
        host = new_host(part, held)
        record = json.loads(json.dumps(part.record(host)))
        pid = os.fork()
        if pid == 0:
            try:
                if moment == "start":
                    with linux.watch(Killer(fail_at=step)):
                        live(part, host)
                else:
                    live(part, host)
                    with linux.watch(Killer(fail_at=step)):
                        part.release()
            finally:
                os._exit(0)
        killed = os.WIFSIGNALED(os.waitpid(pid, 0)[1])
        for _ in range(2):
            type(part).recall(record).release()
        assert view() == before, f"step {step}"
    return step


FIFTY = """
import sys
from minicontainer.container import Container
from minicontainer.network import Bridge, Join
parts = [{make} for n in range(10)]
started = [(part, Container(["/bin/sleep", "1000"], part).start()) for part in parts]
print(*[word for part, _ in started for word in {words}], flush=True)
sys.stdin.read()
for _, container in started:
    container.kill()
    container.wait()
"""


@contextmanager
def fifty(make: str, words: str) -> Iterator[list[str]]:
    """Five processes with ten containers each, all started at once, until the end of the block: what the expression
    `words` says of each `part`, which the expression `make` makes for the n-th of a process."""
    argv = [sys.executable, "-c", FIFTY.format(make=make, words=words)]
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True) for _ in range(5)]
    found: list[str] = []
    for process in processes:
        assert process.stdout is not None
        found += process.stdout.readline().split()
    yield found
    for process in processes:
        process.communicate()
        assert process.returncode == 0
