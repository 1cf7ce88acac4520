"""The network when things go wrong: faults at every step, kill -9 at every step, many at once, a lost file."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest
from joins import fail_at_every_step, fail_in_release, fifty, hold, kill_at_every_step, new_host

from minicontainer.errors import ConflictError, UsageError
from minicontainer.network import Bridge, bridge_name
from minicontainer.network.addresses import Plan, Subnet

if TYPE_CHECKING:
    from pathlib import Path

    from networks import Machine

pytest_plugins = ["networks"]

PORTS = ["8080:80", "127.0.0.1:5353:53/udp"]


def wanted() -> Bridge:
    return Bridge(publish=PORTS)


@pytest.mark.parametrize("company", [False, True])
def test_fault_at_any_step_leaves_nothing(machine: Machine, company: bool) -> None:
    if company:
        machine.start(Bridge(publish={9090: 90}))
    steps = fail_at_every_step(wanted, machine.view, hold(machine).pid)
    assert steps > 12, "the walk went through the part's whole life"


@pytest.mark.parametrize("company", [False, True])
def test_fault_in_release_is_mended_by_a_second_one(machine: Machine, company: bool) -> None:
    if company:
        machine.start(Bridge(publish={9090: 90}))
    assert fail_in_release(wanted, machine.view, hold(machine).pid) > 3


@pytest.mark.parametrize("moment", ["start", "release"])
def test_kill_at_any_step_leaves_nothing_that_the_record_does_not_tell_of(machine: Machine, moment: str) -> None:
    steps = kill_at_every_step(wanted, machine.view, hold(machine).pid, moment)
    assert steps > (12 if moment == "start" else 3)


def test_fifty_containers_of_five_processes_get_fifty_addresses(machine: Machine) -> None:
    before = machine.view()
    with fifty('Bridge(publish=["80"])', "(part.address, part.ports[0].host_port)") as words:
        assert len(words) == 100
        assert len({word for word in words if "." in word}) == 50
        assert len({word for word in words if "." not in word}) == 50
        links = [link for link in machine.ip("link") if link.get("master") == bridge_name()]
        assert len(links) == 50, "and the kernel has a cable for each"
    assert machine.view() == before


def test_address_of_a_container_whose_owner_was_killed_is_not_handed_out(machine: Machine) -> None:
    bridge, held = Bridge(), hold(machine)
    host = new_host(bridge, held.pid)
    record = bridge.record(host)
    pid = os.fork()
    if pid == 0:
        bridge.prepare(host)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    host.close()
    second, another = Bridge(address="172.29.0.2"), new_host(bridge, held.pid)
    with pytest.raises(ConflictError, match=r"172\.29\.0\.2 is taken"):
        second.prepare(another)
    another.close()
    Bridge.recall(record).release()
    third, another = Bridge(address="172.29.0.2"), new_host(bridge, held.pid)
    third.prepare(another)
    another.close()
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
