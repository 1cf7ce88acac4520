"""A container's share: `Container(argv, Cgroup(…))`, from the first instruction to the last trace of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from minicontainer import linux, state
from minicontainer.cgroups import Cgroup, Group, layout
from minicontainer.container import Container
from minicontainer.errors import ConflictError, ContainerError, HostError, NotFoundError, StartError, UsageError
from minicontainer.namespaces import Namespaces

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def own_instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An instance of this test's own, of which no cgroup is left in the end."""
    monkeypatch.setenv("MINICONTAINER_DATA_ROOT", str(tmp_path / "data"))
    monkeypatch.setenv("MINICONTAINER_EXEC_ROOT", str(tmp_path / "exec"))
    yield
    assert not left()


def left() -> list[str]:
    """What there is of this instance in any tree."""
    tops = {layout().top, *layout().legacy.values()} - {""}
    return [f"{top}/{state.instance()}" for top in tops if os.path.exists(f"{top}/{state.instance()}")]


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def places(text: str) -> set[str]:
    """The distinct groups that a /proc/PID/cgroup names."""
    return {line.split(":", 2)[2] for line in text.splitlines()}


@pytest.mark.lab
def test_the_command_finds_itself_in_its_group_with_its_limits() -> None:
    part = Cgroup(memory="64M", cpus=0.5, pids=20)
    container = Container(["cat", "/proc/self/cgroup"], part)
    text = container.output()
    assert f"{layout().top.removeprefix(layout().unified)}/{state.instance()}/{container.id}" in places(text)
    for controller in ("memory", "pids", "cpu"):
        if controller in layout().legacy:
            line = next(line for line in text.splitlines() if controller in line.split(":")[1].split(","))
            assert line.endswith(f"/{container.id}")


def test_limits_are_in_the_kernels_files_and_change_while_it_runs() -> None:
    part = Cgroup(memory="64M", cpus=0.5, pids=20, limits={"cpu.weight": 50})
    with pytest.raises(UsageError, match="start"):
        part.group["memory.max"]
    with Container(["sleep", "60"], part) as container:
        group = part.group
        assert [group[file] for file in ("memory.max", "cpu.max", "pids.max", "cpu.weight")] == [
            *(str(64 << 20), "50000 100000", "20", "50")
        ]
        assert group.processes() == [container.pid]
        group["memory.max"] = "128M"
        assert Group(group.path)["memory.max"] == str(128 << 20)
        assert group.stats().pids == 1
    with pytest.raises(NotFoundError):
        group["memory.max"]


@pytest.mark.lab
def test_too_much_memory_is_a_kill() -> None:
    limit = Cgroup(memory="24M", swap=0)
    assert Container(["tail", "/dev/zero"], limit).run() == 128 + signal.SIGKILL


@pytest.mark.lab
def test_its_own_cgroup_namespace_begins_at_its_group() -> None:
    text = Container(["cat", "/proc/self/cgroup"], Cgroup(pids=20), Namespaces("cgroup", "pid")).output()
    assert "0::/" in text.splitlines() or layout().version == "v1"
    assert not any(state.instance() in place for place in places(text))
    assert not any(".." in place for place in places(text))


@pytest.mark.lab
def test_exec_joins_the_group_and_leaves_it_as_it_was() -> None:
    part = Cgroup(pids=20)
    with Container(["sleep", "60"], part) as container:
        inside = container.second(["cat", "/proc/self/cgroup"]).output()
        with open(f"/proc/{container.pid}/cgroup") as file:
            assert places(inside) == places(file.read())
        assert part.group.processes() == [container.pid]
        assert part.group["pids.max"] == "20"


@pytest.mark.lab
def test_what_it_left_running_is_killed() -> None:
    container = Container(["sh", "-c", "sleep 300 >/dev/null 2>&1 & echo $!"], Cgroup())
    survivor = int(container.output())
    until(lambda: state.start_time(survivor) == 0, f"process {survivor} lives on")


def test_an_id_that_is_in_use_is_a_conflict_and_hurts_nobody() -> None:
    with Container(["sleep", "60"], first := Cgroup()) as container:
        group = Group(f"{state.instance()}/{container.id}")
        with pytest.raises(ConflictError):
            group.make({})
        assert first.group.processes() == [container.pid]


@pytest.mark.skipif("memory" not in layout().legacy, reason="this host's memory controller is on cgroup v2")
def test_what_v1_cannot_do_starts_nothing() -> None:
    with pytest.raises(HostError, match=r"memory\.high"):
        Container(["true"], Cgroup(memory_high="8M")).run()


@pytest.mark.v2
@pytest.mark.skipif(layout().version != "v2", reason="this host's controllers are on cgroup v1")
def test_v2_processes_are_born_in_their_group() -> None:
    with linux.trace() as calls:
        Container(["true"], Cgroup(memory="64M", cpus=0.5)).run()
    assert not [call for call in calls if "cgroup.procs" in call.arguments]


def test_it_costs_few_calls() -> None:
    """Beside another container: a directory in each tree, each limit written once, moved once, removed."""
    trees = len(
        {layout().unified, *(layout().legacy.get(name, layout().unified) for name in ("memory", "pids", "cpu"))}
    )
    with Container(["sleep", "60"], Cgroup(memory="64M", cpus=0.5)), linux.trace() as calls:
        Container(["true"], Cgroup(memory="64M", cpus=0.5)).run()
    names = [call.name for call in calls if call.label.startswith("Cgroup.")]
    moves = trees - 1 if layout().version == "hybrid" else 0
    assert names.count("mkdir") == trees
    assert names.count("write") == 2 + moves
    assert names.count("rmdir") == 2 * trees  # each one's own, and a try at the instance's


def test_any_call_may_fail_and_no_group_is_left() -> None:
    at = 0
    while True:
        at += 1
        container = Container(["true"], Cgroup(memory="64M", cpus=0.5, cpuset="0"))
        watcher = linux.Watch(fail_at=at)
        with suppress(StartError, linux.KernelError, ContainerError), linux.watch(watcher):
            container.run()
        container.remove()
        assert not left(), f"call {at}: {watcher.calls[at - 1] if len(watcher.calls) >= at else ''}"
        if watcher.seen < at:
            break
    assert at > 10


@pytest.mark.parametrize("moment", ["prepare", "attach"])
def test_the_record_is_enough_to_undo_what_a_killed_owner_left(moment: str, tmp_path: Path) -> None:
    """The owner is gone in the middle; another process reads the record and knows what to do."""
    script = (
        "import json, os, signal, sys\n"
        "from minicontainer.cgroups import Cgroup\n"
        "from minicontainer.container.part import Host\n"
        "part = Cgroup(memory='64M', cpus=0.5)\n"
        "host = Host(os.urandom(32).hex(), [part])\n"
        "print(json.dumps(part.record(host)), flush=True)\n"
        "part.prepare(host)\n"
        "if sys.argv[1] == 'attach':\n"
        "    child = os.fork()\n"
        "    if not child:\n"
        "        import time; time.sleep(300); os._exit(0)\n"
        "    part.group.add(child)\n"
        "    print(child, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    with open(tmp_path / "said", "w") as said:
        assert subprocess.run([sys.executable, "-c", script, moment], stdout=said).returncode == -signal.SIGKILL
    import json

    record, *pids = (tmp_path / "said").read_text().splitlines()
    assert left()
    part = Cgroup.recall(json.loads(record))
    part.release()
    part.release()
    assert not left()
    for pid in pids:
        until(lambda pid=pid: state.start_time(int(pid)) == 0, f"process {pid} lives on")


def test_many_at_once() -> None:
    def one(_: int) -> int:
        return Container(["true"], Cgroup(memory="64M", cpus=0.5, cpuset="0")).run()

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(one, range(8 if layout().version == "v2" else 40))) == {0}
