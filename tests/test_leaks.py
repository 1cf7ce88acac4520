"""The leak check checked: it must see each kind of thing that can stay, and `reset` must remove ours and only ours."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from minicontainer import leaks, linux, state
from minicontainer.cgroups import Cgroup, Group
from minicontainer.container import Container, records
from minicontainer.namespaces import Namespaces
from minicontainer.network import bridge_name

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An instance of its own, with nothing in it."""
    monkeypatch.setenv("MINICONTAINER_DATA_ROOT", str(tmp_path / "data"))
    monkeypatch.setenv("MINICONTAINER_EXEC_ROOT", str(tmp_path / "exec"))
    yield state.instance()
    leaks.reset(all=True)


def run(*argv: str, **kwargs: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True, **kwargs).stdout  # type: ignore[call-overload, no-any-return]


# ---------------------------------------------------------------------------------------------- what a snapshot sees


def test_nothing_happened_is_an_empty_difference() -> None:
    before = leaks.snapshot("host")
    assert leaks.difference(before, leaks.snapshot("host")) == []


def test_a_mount_is_seen_also_one_on_top_of_its_like_and_one_with_other_options(tmp_path: Path) -> None:
    before = leaks.snapshot("host")
    linux.mount("tmpfs", str(tmp_path), "tmpfs")
    one = leaks.snapshot("host")
    linux.mount("tmpfs", str(tmp_path), "tmpfs")
    two = leaks.snapshot("host")
    linux.umount2(str(tmp_path))
    linux.mount(None, str(tmp_path), None, linux.MS_REMOUNT | linux.MS_BIND | linux.MS_RDONLY)
    readonly = leaks.snapshot("host")
    linux.umount2(str(tmp_path))
    assert [line.split(" (")[0] for line in leaks.difference(before, one)] == [f"left behind: mount {tmp_path}"]
    assert len(leaks.difference(one, two)) == 1
    changed = leaks.difference(one, readonly)
    assert len(changed) == 2
    assert "gone: mount" in changed[1]
    assert leaks.difference(before, leaks.snapshot("host")) == []


def test_a_mount_that_is_gone_is_seen(tmp_path: Path) -> None:
    linux.mount("tmpfs", str(tmp_path), "tmpfs")
    before = leaks.snapshot("host")
    linux.umount2(str(tmp_path))
    (line,) = leaks.difference(before, leaks.snapshot("host"))
    assert line.startswith(f"gone: mount {tmp_path}")


def test_a_cgroup_is_seen_in_every_tree() -> None:
    before = leaks.snapshot("host")
    with Group.create("seen", {"pids.max": 10}) as group:
        lines = leaks.difference(before, leaks.snapshot("host"))
        assert {f"left behind: cgroup {path}" for path in group.directories()} <= set(lines)
    assert leaks.left_since(before) == []


def test_a_cgroup_at_the_top_of_a_tree_is_seen_whatever_its_name_and_one_of_another_owner_is_not() -> None:
    top = Group("others-lab")
    top.make({})
    inner = Group("others-lab/job")
    try:
        before = leaks.snapshot("host")
        inner.make({})
        assert leaks.difference(before, leaks.snapshot("host")) == []
    finally:
        places = top.directories()
        top.remove()
    lines = leaks.difference(before, leaks.snapshot("host"))
    assert sorted(lines) == sorted(f"gone: cgroup {place}" for place in places)


def test_links_named_network_namespaces_and_firewall_rules_are_seen() -> None:
    before = leaks.snapshot("host")
    try:
        run("ip", "netns", "add", "mc-leak")
        run("ip", "link", "add", "mcleak0", "type", "bridge")
        run("nft", "add table ip mcleak; add chain ip mcleak c; add rule ip mcleak c drop; add set ip mcleak s "
            "{ type ipv4_addr; }; add element ip mcleak s { 192.0.2.1 }")  # fmt: skip
        lines = "\n".join(leaks.difference(before, leaks.snapshot("host")))
    finally:
        subprocess.run(["ip", "netns", "del", "mc-leak"], check=False)
        subprocess.run(["ip", "link", "del", "mcleak0"], check=False)
        subprocess.run(["nft", "delete", "table", "ip", "mcleak"], check=False)
    for words in (
        "network namespace mc-leak",
        "mount /run/netns/mc-leak",
        "link mcleak0",
        "firewall table ip mcleak",
        "firewall chain ip mcleak c",
        "firewall rule ip mcleak c",
        'firewall element of ip mcleak s: "192.0.2.1"',
    ):
        assert f"left behind: {words}" in lines


def test_processes_are_seen_also_orphans_that_left_their_session() -> None:
    before = leaks.snapshot("host")
    pid = int(run("sh", "-c", "setsid sleep 60 >/dev/null 2>&1 & echo $!"))
    try:
        (line,) = leaks.left_since(before, patience=0.2)
        assert line == f"left behind: process {pid}: sleep 60"
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)  # it is ours now


def test_a_zombie_is_seen() -> None:
    before = leaks.snapshot("host")
    pid = os.posix_spawn("/bin/true", ["true"], {})
    while state.start_time(pid):
        time.sleep(0.001)
    lines = leaks.difference(before, leaks.snapshot("host"))
    os.waitpid(pid, 0)
    assert [line for line in lines if f"process {pid}:" in line and "zombie" in line]


def test_open_descriptors_and_files_below_the_roots_are_seen() -> None:
    before = leaks.snapshot("host")
    read, write = os.pipe()
    path = f"{state.data_root()}/containers/{'0' * 64}"
    os.makedirs(path)
    try:
        lines = leaks.difference(before, leaks.snapshot("host"))
    finally:
        os.close(read)
        os.close(write)
        os.rmdir(path)
    assert lines == [
        f"left behind: file {path}",
        f"left behind: descriptor {read} → pipe",
        f"left behind: descriptor {write} → pipe",
    ]


def test_what_takes_the_kernel_a_moment_is_waited_for() -> None:
    before = leaks.snapshot("host")
    process = subprocess.Popen(["sleep", "0.2"])
    assert leaks.difference(before, leaks.snapshot("host"))
    lines: list[str] = []
    import threading

    threading.Thread(target=process.wait).start()
    lines = leaks.left_since(before)
    assert lines == []


def test_an_instance_sees_its_own_and_not_its_neighbours(instance: str, tmp_path: Path) -> None:
    before = leaks.snapshot()
    neighbour = Group("minicontainer-neighbour/lab")
    neighbour.make({})
    try:
        assert leaks.difference(before, leaks.snapshot()) == []
    finally:
        neighbour.remove()
    with Group.create("lab"):
        assert any(f"/{instance}/lab" in line for line in leaks.difference(before, leaks.snapshot()))
    assert leaks.difference(before, leaks.snapshot()) == []


def test_a_container_that_ran_leaves_nothing(instance: str) -> None:
    before = leaks.snapshot()
    with Container(["sleep", "60"], Namespaces("pid"), Cgroup(pids=10)).start() as container:
        lines = "\n".join(leaks.difference(before, leaks.snapshot()))
        assert f"/{instance}/{container.id}" in lines
        assert f"process {container.pid}:" in lines
        assert f"file {records.directory(container.id)}" in lines
    assert leaks.left_since(before) == []


# ------------------------------------------------------------------------------------------------------------- reset

# A program that starts a container with all that leaves traces, says so, and waits to be killed.
_PROGRAM = """
import os, sys, time
from minicontainer.cgroups import Cgroup
from minicontainer.container import Container
from minicontainer.namespaces import Namespaces
from minicontainer.network import Bridge
container = Container(["sleep", "600"], Namespaces("pid", "uts"), Cgroup(memory="64M"), Bridge(publish={0: 80}))
container.start(detach=%s)
print(container.id, container.pid, flush=True)
time.sleep(600)
"""


def killed_program() -> tuple[str, int]:
    """A container of which the program was killed with SIGKILL; its id and pid."""
    program = subprocess.Popen([sys.executable, "-c", _PROGRAM % False], stdout=subprocess.PIPE, text=True)
    assert program.stdout is not None
    container, pid = program.stdout.readline().split()
    program.kill()
    program.wait()
    program.stdout.close()
    return container, int(pid)


def left(before: leaks.Snapshot) -> list[str]:
    """What is left, when the orphans that have come to us (pytest is a subreaper) have been waited for."""
    deadline = time.monotonic() + 5
    while (lines := leaks.difference(before, leaks.snapshot())) and time.monotonic() < deadline:
        try:
            os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            pass
        time.sleep(0.01)
    return lines


def ended(pid: int) -> None:
    deadline = time.monotonic() + 10
    while state.start_time(pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_reset_removes_what_a_killed_program_left(instance: str) -> None:
    before = leaks.snapshot()
    container, pid = killed_program()
    ended(pid)  # it dies with its program
    lines = "\n".join(leaks.difference(before, leaks.snapshot()))
    for words in (bridge_name(), "left behind: cgroup", "firewall table inet", f"exec/{container}", "networks/"):
        assert words in lines
    removed = "\n".join(leaks.reset())
    assert f"removed: link {bridge_name()}" in removed
    assert left(before) == []


def test_reset_removes_the_same_without_any_record(instance: str) -> None:
    before = leaks.snapshot()
    container, pid = killed_program()
    ended(pid)
    os.unlink(records.path(container))
    os.unlink(f"{state.data_root()}/networks/bridge.json")
    leaks.reset()
    assert left(before) == []


@pytest.mark.parametrize("text", ['{"id": ', "[]", "{}", '"text"'])
def test_reset_removes_a_container_whose_record_is_unreadable(instance: str, text: str) -> None:
    before = leaks.snapshot()
    container, pid = killed_program()
    ended(pid)
    with open(records.path(container), "w") as file:
        file.write(text)
    leaks.reset()
    assert left(before) == []


def test_reset_lets_running_containers_run_until_told_otherwise(instance: str) -> None:
    before = leaks.snapshot()
    program = subprocess.Popen([sys.executable, "-c", _PROGRAM % True], stdout=subprocess.PIPE, text=True)
    assert program.stdout is not None
    _, pid = program.stdout.readline().split()
    program.kill()
    program.wait()
    program.stdout.close()
    killed_program()
    leaks.reset()
    assert state.start_time(int(pid))
    assert any(
        line.startswith(f"left behind: link {bridge_name()}") for line in leaks.difference(before, leaks.snapshot())
    )
    removed = leaks.reset(all=True)
    assert not state.start_time(int(pid))
    assert any(f"process {pid}:" in line for line in removed)
    assert left(before) == []


def test_reset_leaves_a_group_in_which_something_runs(instance: str) -> None:
    with Group.create("lab") as group, subprocess.Popen(["sleep", "600"]) as process:
        group.add(process.pid)
        leaks.reset()
        assert group.processes() == [process.pid]
        process.kill()
        process.wait()
        leaks.reset()
        assert not group.exists()


def test_reset_touches_nothing_that_is_not_ours(instance: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "containers").mkdir(parents=True)
    (data / "containers" / "notes.txt").write_text("mine")
    (tmp_path / "exec").mkdir()
    (tmp_path / "exec" / "notes.txt").write_text("mine")
    linux.mount("tmpfs", str(data / "containers"), "tmpfs")  # somebody's disk below our root
    (data / "containers" / "more.txt").write_text("mine")
    run("ip", "link", "add", "mc00000000-br0", "type", "bridge")  # another instance's
    run("nft", "add table inet minicontainer-00000000")
    try:
        before = leaks.snapshot("host")
        assert leaks.reset(all=True) == []
        assert leaks.difference(before, leaks.snapshot("host")) == []
        assert (data / "containers" / "more.txt").read_text() == "mine"
        assert (tmp_path / "exec" / "notes.txt").read_text() == "mine"
    finally:
        run("ip", "link", "del", "mc00000000-br0")
        run("nft", "delete table inet minicontainer-00000000")
        linux.umount2(str(data / "containers"))


def test_reset_keeps_a_container_that_has_ended_and_was_to_be_kept(instance: str) -> None:
    kept, leftover = (f"{state.data_root()}/containers/{digit * 64}" for digit in "01")
    for directory in (kept, leftover):
        os.makedirs(f"{directory}/upper/etc")
    state.write_json(f"{kept}/container.json", {})
    assert leaks.reset() == [f"removed: file {leftover}"]
    assert os.path.isdir(f"{kept}/upper/etc")
    assert leaks.reset(all=True) == [f"removed: file {kept}"]


def test_reset_removes_a_file_that_was_never_finished(instance: str) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    directory = f"{state.data_root()}/networks"
    os.makedirs(directory)
    half, living = f"{directory}/bridge.json.{dead.pid}.0123abcd", f"{directory}/bridge.json.{os.getpid()}.0123abcd"
    for path in (half, living):
        open(path, "w").close()
    assert leaks.reset() == [f"removed: file {half}"]
    assert os.path.exists(living)


def test_a_file_that_was_never_finished_goes_with_the_next_that_is(tmp_path: Path) -> None:
    for name in ("a.json.123.0123abcd", "a.json.x.0123abcd", "b.json.123.0123abcd", "a.json.1.0123abcd.json"):
        (tmp_path / name).touch()
    state.write_json(f"{tmp_path}/a.json", {"written": True}, alone=True)
    there = {"a.json", "a.json.x.0123abcd", "b.json.123.0123abcd", "a.json.1.0123abcd.json"}
    assert set(os.listdir(tmp_path)) == there
    assert state.read_json(f"{tmp_path}/a.json") == {"written": True}
