"""User-defined networks when things go wrong: faults and kill -9 at every step, and what `reset` finds."""

from __future__ import annotations

import errno
import json
import os
import signal
from typing import TYPE_CHECKING

import pytest
from joins import eventually, start

from minicontainer import leaks, linux, state
from minicontainer.container import Host, Inside
from minicontainer.network import Endpoint, Join, networks

if TYPE_CHECKING:
    import subprocess

    from networks import Machine

pytest_plugins = ["networks"]


def wanted() -> Join:
    """A part with all there is: two networks, both families, published ports, aliases, limits."""
    endpoint = Endpoint("front", aliases=["web"], download="10M", upload="10M")
    return Join(endpoint, "back", publish=["8080:80", "127.0.0.1:5353:53/udp"])


@pytest.fixture
def nets(machine: Machine) -> None:
    networks.create("front", ipv6=True)
    networks.create("back", icc=False)


@pytest.fixture
def held(machine: Machine) -> subprocess.Popen[str]:
    """A process in an empty network namespace: what a container is while its parts work on it."""
    return machine.keep(["unshare", "-n", "sh", "-c", "echo ready; exec sleep 1000"])


def view(machine: Machine) -> dict[str, object]:
    """What the kernel has, and who is a member."""
    found = machine.view()
    found["members"] = {network.name: sorted(network.members) for network in networks.everything()}
    found["rules"] = sorted(found["rules"].split())  # the order within a set is by chance
    found["files"] = [name for name in found["files"] if "/spawner" not in name]
    found["forwarding6"] = linux_read("/proc/sys/net/ipv6/conf/all/forwarding")
    return found


def linux_read(path: str) -> str:
    with open(path) as file:
        return file.read()


def live(join: Join, host: Host) -> None:
    """Take the part through its moments on the host's side, and through `join` in the container's namespace."""
    join.record(host)
    try:
        join.prepare(host)
        join.attach(host)
    finally:
        host.close()
    before = os.open("/proc/self/ns/net", os.O_RDONLY)
    there = os.open(f"/proc/{host.pid}/ns/net", os.O_RDONLY)
    try:
        linux.setns(there, linux.CLONE_NEWNET)
        join.join(Inside(["true"], {}, "/", host.hostname))
    finally:
        with linux.watch(None):
            linux.setns(before, linux.CLONE_NEWNET)
        os.close(before)
        os.close(there)


def new_host(join: Join, pid: int) -> Host:
    host = Host(state.new_id(), [join])
    host.pid = pid
    return host


@pytest.mark.parametrize("company", [False, True])
def test_fault_at_any_step_leaves_nothing(
    machine: Machine, nets: None, held: subprocess.Popen[str], company: bool
) -> None:
    linux.write("/proc/sys/net/ipv6/conf/all/forwarding", "0")
    if company:
        start(machine, Join("front", publish={9090: 90}))
    before, step = view(machine), 0
    while True:
        step += 1
        watcher = linux.Watch(fail_at=step, fail_errno=errno.EIO)
        fault = None
        join = wanted()
        with linux.watch(watcher):
            try:
                live(join, new_host(join, held.pid))
            except OSError as error:
                fault = error.errno
        join.release()
        join.release()
        assert view(machine) == before, f"step {step}: {watcher.calls[-1]}"
        assert fault in (None, errno.EIO)
        if fault is None:
            break
    assert step > 30, "the walk went through the part's whole life"


def test_fault_in_release_is_mended_by_a_second_one(machine: Machine, nets: None, held: subprocess.Popen[str]) -> None:
    start(machine, Join("back", publish={9090: 90}))  # so one network stays, and one goes
    before, step = view(machine), 0
    while True:
        step += 1
        join = wanted()
        live(join, new_host(join, held.pid))
        fault = None
        with linux.watch(linux.Watch(fail_at=step, fail_errno=errno.EIO)):
            try:
                join.release()
            except OSError as error:
                fault = error.errno
        join.release()
        assert view(machine) == before, f"step {step}"
        assert fault in (None, errno.EIO)
        if fault is None:
            break
    assert step > 6


class Killer(linux.Watch):
    """Ends its process, as kill -9 does, when the n-th call is about to be made."""

    def next_fails(self) -> bool:
        if super().next_fails():
            os.kill(os.getpid(), signal.SIGKILL)
        return False


@pytest.mark.parametrize("moment", ["start", "release"])
def test_kill_at_any_step_leaves_nothing_that_the_record_does_not_tell_of(
    machine: Machine, nets: None, held: subprocess.Popen[str], moment: str
) -> None:
    before, step, killed = view(machine), 0, True
    while killed:
        step += 1
        join = wanted()
        host = new_host(join, held.pid)
        record = json.loads(json.dumps(join.record(host)))
        pid = os.fork()
        if pid == 0:
            try:
                if moment == "start":
                    with linux.watch(Killer(fail_at=step)):
                        live(join, host)
                else:
                    live(join, host)
                    with linux.watch(Killer(fail_at=step)):
                        join.release()
            finally:
                os._exit(0)
        status = os.waitpid(pid, 0)[1]
        killed = os.WIFSIGNALED(status)
        Join.recall(record).release()
        Join.recall(record).release()
        assert view(machine) == before, f"step {step}"
    assert step > (30 if moment == "start" else 6)


def servers() -> list[int]:
    """Name servers of this instance that run."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if "network.names" not in linux_read(f"/proc/{name}/cmdline"):
                continue
            if f"MINICONTAINER_DATA_ROOT={state.data_root()}\0" in linux_read(f"/proc/{name}/environ"):
                found.append(int(name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


@pytest.fixture
def killed(machine: Machine, nets: None, held: subprocess.Popen[str]) -> str:
    """The id of a container of which whoever made it was killed, and the record was lost, too."""
    join = Join("front", publish={8080: 80})
    host = new_host(join, held.pid)
    pid = os.fork()
    if pid == 0:
        try:
            live(join, host)
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    assert "8080" in machine.ruleset()
    return host.id


@pytest.mark.parametrize("company", [False, True])
def test_reset_finds_what_a_killed_program_left_without_a_record(machine: Machine, killed: str, company: bool) -> None:
    if company:
        other = start(machine, Join("front"))
    assert killed in networks.get("front").members
    removed = "\n".join(leaks.reset())
    assert killed not in networks.get("front").members
    if company:
        assert list(networks.get("front").members) == [other.container.id]  # type: ignore[attr-defined]
        other.serve("tcp", 7, "it")
        assert machine.call("tcp", other.address, 7).startswith("it sees"), "who lives keeps the network"
        assert "8080" not in machine.ruleset()
        machine.end(other)
    else:
        assert f"removed: link mc{state.tag()}-n" in removed
        assert f"{state.instance()}.networks" in removed
    assert machine.view()["links"] == ["lo"]
    assert machine.ruleset() == ""
    assert eventually(lambda: servers() == [])
    assert [network.name for network in networks.everything()] == ["back", "front"], "plans are no leftovers"
