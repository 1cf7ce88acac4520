"""The network when things go wrong: faults at every step, kill -9 at every step, many at once, a lost file."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from minicontainer import linux, state
from minicontainer.container import Host, Inside
from minicontainer.errors import ConflictError, UsageError
from minicontainer.network import Bridge, bridge_name
from minicontainer.network.addresses import Plan, Subnet

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from networks import Machine

pytest_plugins = ["networks"]

PORTS = ["8080:80", "127.0.0.1:5353:53/udp"]


@pytest.fixture
def held(machine: Machine) -> Iterator[subprocess.Popen[str]]:
    """A process in an empty network namespace: what a container is while its parts work on it."""
    return machine.keep(["unshare", "-n", "sh", "-c", "echo ready; exec sleep 1000"])  # type: ignore[return-value]


def live(bridge: Bridge, host: Host) -> None:
    """Take the part through its moments on the host's side, and through `join` in the container's namespace."""
    bridge.record(host)
    try:
        bridge.prepare(host)
        bridge.attach(host)
    finally:
        host.close()
    before = os.open("/proc/self/ns/net", os.O_RDONLY)
    there = os.open(f"/proc/{host.pid}/ns/net", os.O_RDONLY)
    try:
        linux.setns(there, linux.CLONE_NEWNET)
        bridge.join(Inside(["true"], {}, "/", host.hostname))
    finally:
        with linux.watch(None):
            linux.setns(before, linux.CLONE_NEWNET)
        os.close(before)
        os.close(there)


def new_host(bridge: Bridge, pid: int) -> Host:
    host = Host(state.new_id(), [bridge])
    host.pid = pid
    return host


@pytest.mark.parametrize("company", [False, True])
def test_fault_at_any_step_leaves_nothing(machine: Machine, held: subprocess.Popen[str], company: bool) -> None:
    if company:
        machine.start(Bridge(publish={9090: 90}))
    before, step = machine.view(), 0
    while True:
        step += 1
        watcher = linux.Watch(fail_at=step, fail_errno=errno.EIO)
        bridge = Bridge(publish=PORTS)
        fault = None
        with linux.watch(watcher):
            try:
                live(bridge, new_host(bridge, held.pid))
            except OSError as error:
                fault = error.errno
        bridge.release()
        bridge.release()
        after = machine.view()
        assert after == before, f"step {step}: {watcher.calls[-1]}"
        assert fault in (None, errno.EIO)
        if fault is None:
            break
    assert step > 12, "the walk went through the part's whole life"


@pytest.mark.parametrize("company", [False, True])
def test_fault_in_release_is_mended_by_a_second_one(
    machine: Machine, held: subprocess.Popen[str], company: bool
) -> None:
    if company:
        machine.start(Bridge(publish={9090: 90}))
    before, step = machine.view(), 0
    while True:
        step += 1
        bridge = Bridge(publish=PORTS)
        live(bridge, new_host(bridge, held.pid))
        fault = None
        with linux.watch(linux.Watch(fail_at=step, fail_errno=errno.EIO)):
            try:
                bridge.release()
            except OSError as error:
                fault = error.errno
        bridge.release()
        assert machine.view() == before, f"step {step}"
        assert fault in (None, errno.EIO)
        if fault is None:
            break
    assert step > 3


class Killer(linux.Watch):
    """Ends its process, as kill -9 does, when the n-th call is about to be made."""

    def next_fails(self) -> bool:
        if super().next_fails():
            os.kill(os.getpid(), signal.SIGKILL)
        return False


@pytest.mark.parametrize("moment", ["start", "release"])
def test_kill_at_any_step_leaves_nothing_that_the_record_does_not_tell_of(
    machine: Machine, held: subprocess.Popen[str], moment: str
) -> None:
    before, step, killed = machine.view(), 0, True
    while killed:
        step += 1
        bridge = Bridge(publish=PORTS)
        host = new_host(bridge, held.pid)
        record = json.loads(json.dumps(bridge.record(host)))
        pid = os.fork()
        if pid == 0:
            try:
                if moment == "start":
                    with linux.watch(Killer(fail_at=step)):
                        live(bridge, host)
                else:
                    live(bridge, host)
                    with linux.watch(Killer(fail_at=step)):
                        bridge.release()
            finally:
                os._exit(0)
        status = os.waitpid(pid, 0)[1]
        killed = os.WIFSIGNALED(status)
        Bridge.recall(record).release()
        Bridge.recall(record).release()
        assert machine.view() == before, f"step {step}"
    assert step > (12 if moment == "start" else 3)


def test_fifty_containers_of_five_processes_get_fifty_addresses(machine: Machine) -> None:
    program = """
import sys
from minicontainer.container import Container
from minicontainer.network import Bridge
bridges = [Bridge(publish=["80"]) for _ in range(10)]
started = [(bridge, Container(["/bin/sleep", "1000"], bridge).start()) for bridge in bridges]
print(*(bridge.address for bridge, _ in started), *(bridge.ports[0].host_port for bridge, _ in started), flush=True)
sys.stdin.read()
for _, container in started:
    container.kill()
    container.wait()
"""
    before = machine.view()
    processes = [
        subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(5)
    ]
    words: list[str] = []
    for process in processes:
        assert process.stdout is not None
        words += process.stdout.readline().split()
    addresses = {word for word in words if "." in word}
    ports = {word for word in words if "." not in word}
    assert len(words) == 100
    assert len(addresses) == 50
    assert len(ports) == 50
    links = [link for link in machine.ip("link") if link.get("master") == bridge_name()]
    assert len(links) == 50, "and the kernel has a cable for each"
    for process in processes:
        process.communicate("")
        assert process.returncode == 0
    assert machine.view() == before


def test_address_of_a_container_whose_owner_was_killed_is_not_handed_out(
    machine: Machine, held: subprocess.Popen[str]
) -> None:
    bridge = Bridge()
    host = new_host(bridge, held.pid)
    record = bridge.record(host)
    pid = os.fork()
    if pid == 0:
        bridge.prepare(host)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    second = Bridge(address="172.29.0.2")
    with pytest.raises(ConflictError, match=r"172\.29\.0\.2 is taken"):
        second.prepare(new_host(second, held.pid))
    Bridge.recall(record).release()
    third = Bridge(address="172.29.0.2")
    third.prepare(new_host(third, held.pid))
    third.release()


def test_address_is_not_handed_out_twice_when_the_plan_was_lost(machine: Machine) -> None:
    one = machine.start(Bridge())
    os.unlink(Plan("bridge").path)
    again = Bridge()
    two = machine.start(again)
    assert again.subnet == "172.29.0.0/16", "the bridge itself says which subnet it has"
    assert one.address != two.address
    two.serve("tcp", 7, "two")
    assert one.call("tcp", two.address, 7) == f"two sees {one.address}"
    from minicontainer.network import reset

    reset()


def test_address_just_given_back_rests(machine: Machine) -> None:
    keeper, first = machine.start(Bridge()), machine.start(Bridge())
    machine.end(first)
    second = machine.start(Bridge())
    assert second.address not in (keeper.address, first.address)


def test_chosen_address(machine: Machine) -> None:
    inside = machine.start(Bridge(address="172.29.7.7"))
    assert inside.ip("addr", "show", "eth0")[0]["addr_info"][0]["local"] == "172.29.7.7"
    with pytest.raises(ConflictError, match=r"172\.29\.7\.7 is taken"):
        machine.start(Bridge(address="172.29.7.7"))


@pytest.mark.parametrize("address", ["172.29.0.0", "172.29.0.1", "172.29.255.255", "172.30.0.2", "banana", "1.2.3"])
def test_chosen_address_that_is_not_ours_to_give(machine: Machine, address: str) -> None:
    before = machine.view()
    with pytest.raises(UsageError):
        machine.start(Bridge(address=address))
    assert machine.view() == before


def test_subnet_that_the_machine_routes_elsewhere_is_not_taken(machine: Machine) -> None:
    near = machine.neighbour()
    machine.run("ip", "route", "add", "172.29.128.0/17", "via", near.address)
    machine.run("ip", "route", "add", "172.16.0.0/13", "via", near.address, "table", "77")
    bridge = Bridge()
    machine.start(bridge)
    assert bridge.subnet == "172.28.0.0/16"


def test_network_without_free_address_says_so(roots: None) -> None:
    plan = Plan("bridge")
    plan.subnet = Subnet.parse("192.168.200.0/24")
    given = {plan.reserve(f"{n}", None, lambda _: False) for n in range(253)}
    assert len(given) == 253
    assert not given & {"192.168.200.0", "192.168.200.1", "192.168.200.255"}
    with pytest.raises(ConflictError, match="no address left"):
        plan.reserve("one more", None, lambda _: False)


def test_broken_plan_is_an_error_and_not_overwritten(machine: Machine) -> None:
    path = Plan("bridge").path
    os.makedirs(os.path.dirname(path))
    with open(path, "w") as file:
        file.write("{ half")
    from minicontainer.errors import HostError

    with pytest.raises(HostError, match=r"bridge\.json is not JSON"):
        machine.start(Bridge())
    with open(path) as file:
        assert file.read() == "{ half"
    os.unlink(path)


def test_bridge_that_somebody_removed_is_made_again(machine: Machine, tmp_path: Path) -> None:
    one = machine.start(Bridge())
    machine.run("ip", "link", "delete", bridge_name())
    two = machine.start(Bridge())
    machine.serve("tcp", 7, "the host")
    assert two.call("tcp", "172.29.0.1", 7) == f"the host sees {two.address}"
    assert one.address != two.address
