"""User-defined networks when things go wrong: faults and kill -9 at every step, and what `reset` finds."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest
from joins import eventually, fail_at_every_step, fail_in_release, hold, kill_at_every_step, live, new_host, start

from minicontainer import leaks, linux, state
from minicontainer.network import Endpoint, Join, networks

if TYPE_CHECKING:
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


@pytest.mark.parametrize("company", [False, True])
def test_fault_at_any_step_leaves_nothing(machine: Machine, nets: None, company: bool) -> None:
    linux.write("/proc/sys/net/ipv6/conf/all/forwarding", "0")
    if company:
        start(machine, Join("front", publish={9090: 90}))
    steps = fail_at_every_step(wanted, lambda: view(machine), hold(machine).pid)
    assert steps > 30, "the walk went through the part's whole life"


def test_fault_in_release_is_mended_by_a_second_one(machine: Machine, nets: None) -> None:
    start(machine, Join("back", publish={9090: 90}))  # so one network stays, and one goes
    assert fail_in_release(wanted, lambda: view(machine), hold(machine).pid) > 6


@pytest.mark.parametrize("moment", ["start", "release"])
def test_kill_at_any_step_leaves_nothing_that_the_record_does_not_tell_of(
    machine: Machine, nets: None, moment: str
) -> None:
    steps = kill_at_every_step(wanted, lambda: view(machine), hold(machine).pid, moment)
    assert steps > (30 if moment == "start" else 6)


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
def killed(machine: Machine, nets: None) -> str:
    """The id of a container of which whoever made it was killed, and the record was lost, too."""
    join = Join("front", publish={8080: 80})
    host = new_host(join, hold(machine).pid)
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
