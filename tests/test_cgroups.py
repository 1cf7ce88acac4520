"""Groups as the kernel sees them: each limit is shown to bite, on v1, hybrid and v2 alike (make test-v2)."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from minicontainer import linux, state
from minicontainer.cgroups import Group, Layout, Sampler, layout, sample, units
from minicontainer.errors import ConflictError, HostError, NotFoundError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LAYOUT = sys.modules["minicontainer.cgroups.layout"]  # (the package's `layout` is the function in it)
SPIN = ["sh", "-c", "while :; do :; done"]

needs_v2 = pytest.mark.skipif(layout().version != "v2", reason="this host's controllers are on cgroup v1")
needs_v1 = pytest.mark.skipif("memory" not in layout().legacy, reason="this host's memory controller is on cgroup v2")
needs_two_cpus = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one CPU only")


def our_directories() -> set[str]:
    """Every cgroup directory of this test's instance, as find(1) sees them."""
    machine = layout()
    tops = {machine.top, *machine.legacy.values()} - {""}
    return {
        name
        for top in tops
        if os.path.isdir(f"{top}/{state.instance()}")
        for name, _, _ in os.walk(f"{top}/{state.instance()}")
    }


@pytest.fixture(autouse=True)
def own_instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An instance of this test's own, of which nothing is left in the end."""
    monkeypatch.setenv("MINICONTAINER_DATA_ROOT", str(tmp_path / "data"))
    monkeypatch.setenv("MINICONTAINER_EXEC_ROOT", str(tmp_path / "exec"))
    root = Path(layout().unified or "/nowhere", "cgroup.subtree_control")
    before = root.read_text().split() if layout().version == "hybrid" else []
    yield
    monkeypatch.undo()
    monkeypatch.setenv("MINICONTAINER_DATA_ROOT", str(tmp_path / "data"))
    assert not our_directories()
    if layout().version == "hybrid":  # a test that used a controller of the v2 tree gives it back
        for name in set(root.read_text().split()) - set(before):
            root.write_text(f"-{name}")


@pytest.fixture
def run() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start a command that is in a group before its first instruction; what still runs in the end is killed."""
    started: list[subprocess.Popen[bytes]] = []

    def start(group: Group, argv: list[str], **how: object) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(["sh", "-c", 'read _; exec "$@"', "sh", *argv], stdin=subprocess.PIPE, **how)  # type: ignore[call-overload]
        started.append(process)
        group.add(process.pid)
        process.stdin.write(b"\n")
        process.stdin.close()
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


def until(condition: Callable[[], object], what: str) -> None:
    """Wait for something that the kernel does when it gets round to it."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def cgroups_of(pid: int) -> str:
    with open(f"/proc/{pid}/cgroup") as file:
        return file.read()


# ------------------------------------------------------------------------------------------------- being a group


def test_a_process_that_is_added_is_in_the_group(run: Callable) -> None:
    with Group.create("web") as group:
        process = run(group, ["sleep", "60"])
        assert group.processes() == [process.pid]
        places = [line for line in cgroups_of(process.pid).splitlines() if line.endswith(f"/{group.path}")]
        assert len(places) == len(group.directories()) >= 1
    assert process.wait() == -signal.SIGKILL, "removing a group kills what is left in it"


def test_a_name_is_taken_once() -> None:
    with Group.create("web", {"pids.max": 7}):
        with pytest.raises(ConflictError, match="already"):
            Group.create("web")
        assert Group.open("web")["pids.max"] == "7", "the failure did not touch the first"


def test_a_group_that_is_not_there_is_not_found() -> None:
    with pytest.raises(NotFoundError):
        Group.open("nobody")
    group = Group(f"{state.instance()}/nobody")
    for act in (lambda: group["memory.max"], lambda: group.stats(), lambda: group.__setitem__("memory.max", 1)):
        with pytest.raises(NotFoundError, match="no cgroup"):
            act()
    group.remove()


@pytest.mark.parametrize("name", ["", "..", "a/../../b", "/a", "a//b", "a\nb", "a/"])
def test_a_name_cannot_lead_elsewhere(name: str) -> None:
    with pytest.raises(UsageError):
        Group.create(name)


def test_what_no_host_has_is_an_error_that_says_so() -> None:
    with Group.create("web") as group:
        for file in ("banana.max", "memory.banana"):
            with pytest.raises(HostError, match=re.escape(file)):
                group[file]
            with pytest.raises(HostError, match=re.escape(file)):
                group[file] = "1"
        with pytest.raises(HostError, match="banana"):
            Group.create("other", {"banana.max": "1"})


def test_a_value_the_kernel_refuses_is_a_usage_error() -> None:
    with Group.create("web") as group:
        for file, value in (
            ("memory.max", "banana"),
            ("cpu.max", "1 100000"),
            ("cpuset.cpus", "5000"),
            ("cpu.max", "x"),
        ):
            with pytest.raises(UsageError, match=value):
                group[file] = value
        with pytest.raises(UsageError):
            Group.create("other", {"pids.max": 3, "cpu.max": "1 100000"})


@pytest.mark.v2
@pytest.mark.skipif(layout().top == layout().unified, reason="the v2 tree of this host is not systemd's")
def test_on_a_systemd_host_groups_live_in_a_unit_that_was_handed_over(run: Callable) -> None:
    with Group.create("web") as group:
        process = run(group, ["sleep", "60"])
        unit = layout().top.rpartition("/")[2]
        assert f"/{unit}/{group.path}" in cgroups_of(process.pid)
        show = ["systemctl", "show", "--property=Delegate", "--property=ActiveState", unit]
        assert set(subprocess.check_output(show, text=True).split()) == {"Delegate=yes", "ActiveState=active"}
        subprocess.run(["systemctl", "daemon-reload"], check=True)  # when systemd writes its own wishes again
        there = set(group["cgroup.controllers"].split())
        assert {"cpu", "cpuset", "io", "memory", "pids"} <= there
        # not asked for, and so not given; another runtime may have had it enabled all the way down
        files = ("hugetlb.2MB.max", "misc.max", "rdma.max")
        withheld = next(file for file in files if file.partition(".")[0] not in there)
        with pytest.raises(HostError, match="systemd"):
            group[withheld] = "2M"
        with pytest.raises(HostError, match="systemd"):
            Group.create("other", {withheld: "2M"})


def test_a_group_that_fails_to_be_made_leaves_nothing() -> None:
    with pytest.raises(UsageError):
        Group(f"{state.instance()}/web").make({"cpu.max": "1 100000"})
    assert not our_directories()


@needs_v1
@pytest.mark.parametrize(
    "file", ["memory.high", "memory.low", "memory.min", "memory.oom.group", "cpuset.cpus.partition"]
)
def test_v1_has_no_look_alikes(file: str) -> None:
    with pytest.raises(HostError, match=re.escape(file)), Group.create("web", {file: "1"}):
        pass
    assert not our_directories()


# ---------------------------------------------------------------------------------------------------- each limit bites


def test_memory_max_kills_and_counts(run: Callable) -> None:
    with Group.create("web", {"memory.max": "16M"}) as group:
        if layout().version == "v2":
            group["memory.swap.max"] = 0
        process = run(group, ["tail", "/dev/zero"])  # one endless line
        assert process.wait(120) == -signal.SIGKILL
        stats = group.stats()
        assert stats.oom_kills == 1
        assert stats.limit_hits is not None
        assert stats.limit_hits > 0
        assert stats.memory_max == 16 << 20
        assert stats.memory_peak is not None
        assert (15 << 20) < stats.memory_peak <= (16 << 20)
        assert units.flat(group["memory.events"])["oom_kill"] == 1


def test_memory_is_accounted(run: Callable) -> None:
    with Group.create("web") as group:
        hold = "import sys, time; data = b'x' * (30 << 20); print('held', flush=True); time.sleep(60)"
        process = run(group, [sys.executable, "-c", hold], stdout=subprocess.PIPE)
        assert process.stdout.readline() == b"held\n"
        assert int(group["memory.current"]) > 30 << 20
        assert units.flat(group["memory.stat"])["anon"] > 30 << 20


def test_swap_is_limited_on_top_of_memory() -> None:
    with Group.create("web", {"memory.swap.max": "8M", "memory.max": "16M"}) as group:  # in the wrong order for v1
        assert group["memory.swap.max"] == str(8 << 20)
        for limit in ("64M", "4M"):  # up and down: the swap limit stays what it was
            group["memory.max"] = limit
            assert (group["memory.max"], group["memory.swap.max"]) == (str(units.size(limit)), str(8 << 20))
        if "memory" in layout().legacy:
            path = f"{layout().legacy['memory']}/{group.path}/memory.memsw.limit_in_bytes"
            assert LAYOUT.read_file(path).strip() == str(12 << 20)
            with pytest.raises(HostError, match=r"memory\.max"):
                group["memory.max"] = "max"
        group["memory.swap.max"] = "max"
        group["memory.max"] = "max"
        assert (group["memory.max"], group["memory.swap.max"]) == ("max", "max")


@needs_v1
def test_v1_cannot_limit_swap_alone() -> None:
    with Group.create("web") as group, pytest.raises(HostError, match=r"memory\.max"):
        group["memory.swap.max"] = "8M"


@needs_v2
@pytest.mark.v2
def test_v2_swaps_no_more_than_it_may(run: Callable) -> None:
    with open("/proc/swaps") as file:
        if len(file.readlines()) < 2:
            pytest.skip("this machine has no swap")
    with Group.create("web", {"memory.max": "8M", "memory.swap.max": "4M"}) as group:
        for attempt in range(1, 6):  # one that fills its memory faster than it is swapped out never gets that far
            assert run(group, ["tail", "/dev/zero"]).wait(120) == -signal.SIGKILL
            assert group.stats().oom_kills == attempt
            if units.flat(group["memory.swap.events"])["fail"]:
                break
        assert units.flat(group["memory.swap.events"])["fail"]


@needs_v2
@pytest.mark.v2
def test_v2_memory_high_slows_but_does_not_kill(run: Callable) -> None:
    with Group.create("web", {"memory.high": "8M", "memory.swap.max": 0}) as group:
        process = run(group, ["tail", "/dev/zero"])
        until(lambda: units.flat(group["memory.events"])["high"], "memory.high was never reached")
        assert process.poll() is None
        assert units.flat(group["memory.events"])["oom_kill"] == 0
        assert int(group["memory.pressure"].split("total=")[1].split()[0]) >= 0


@needs_v2
@pytest.mark.v2
def test_v2_protection_and_oom_group(run: Callable) -> None:
    limits = {
        "memory.low": "4M",
        "memory.min": "2M",
        "memory.oom.group": "1",
        "memory.max": "16M",
        "memory.swap.max": 0,
    }
    with Group.create("web", limits) as group:
        assert (group["memory.low"], group["memory.min"]) == (str(4 << 20), str(2 << 20))
        bystander = run(group, ["sleep", "60"])
        run(group, ["tail", "/dev/zero"])
        assert bystander.wait(120) == -signal.SIGKILL, "memory.oom.group takes the whole group"


def test_cpu_max_throttles(run: Callable) -> None:
    with Group.create("web", {"cpu.max": "20000 100000"}) as group:
        run(group, SPIN)
        before = group.stats()
        time.sleep(2)
        after = group.stats()
        assert after.cpu_us is not None
        assert before.cpu_us is not None
        share = (after.cpu_us - before.cpu_us) / 1e6 / (after.time - before.time)
        assert 0.05 < share < 0.4
        assert after.throttled is not None
        assert after.throttled > 5
        assert after.throttled_us is not None
        assert after.throttled_us > 0
        assert after.cpu_user_us is not None
        assert after.cpu_user_us <= after.cpu_us


def test_cpu_max_keeps_its_period() -> None:
    with Group.create("web", {"cpu.max": "5000 50000"}) as group:
        assert group["cpu.max"] == "5000 50000"
        group["cpu.max"] = "10000"
        assert group["cpu.max"] == "10000 50000"
        group["cpu.max"] = "max 100000"
        assert group["cpu.max"] == "max 100000"


def test_cpu_weight_shares_a_cpu(run: Callable) -> None:
    cpu = str(min(os.sched_getaffinity(0)))
    with (
        Group.create("light", {"cpu.weight": 100, "cpuset.cpus": cpu}) as light,
        Group.create("heavy", {"cpu.weight": 400, "cpuset.cpus": cpu}) as heavy,
    ):
        run(light, SPIN)
        run(heavy, SPIN)
        first = [group.stats().cpu_us or 0 for group in (light, heavy)]
        time.sleep(2)
        used = [(group.stats().cpu_us or 0) - before for group, before in zip((light, heavy), first, strict=True)]
        assert 2 < used[1] / used[0] < 8
        assert heavy["cpu.weight"] == "400"
        if "cpu" in layout().legacy:
            assert LAYOUT.read_file(f"{layout().legacy['cpu']}/{heavy.path}/cpu.shares").strip() == "4096"


@pytest.mark.parametrize("weight", [1, 2, 99, 100, 101, 512, 9999, 10000])
def test_cpu_weight_reads_as_it_was_written(weight: int) -> None:
    with Group.create("web", {"cpu.weight": weight}) as group:
        assert group["cpu.weight"] == str(weight)


def test_pids_max_stops_a_fork(run: Callable, tmp_path: Path) -> None:
    with Group.create("web", {"pids.max": 3}) as group:
        fork = "import os, time\nfor n in range(9):\n  if not os.fork(): time.sleep(60)"
        with open(tmp_path / "said", "w") as said:
            process = run(group, [sys.executable, "-c", fork], stderr=said)
        assert process.wait(60) == 1
        assert "BlockingIOError" in (tmp_path / "said").read_text()
        assert units.flat(group["pids.events"])["max"] >= 1
        assert group.stats().pids == 2
        assert group.stats().pids_max == 3


@needs_two_cpus
def test_cpuset_binds(run: Callable) -> None:
    first, second = sorted(os.sched_getaffinity(0))[:2]
    with Group.create("web", {"cpuset.cpus": str(first)}) as group:
        process = run(group, SPIN)
        assert os.sched_getaffinity(process.pid) == {first}
        group["cpuset.cpus"] = f"{first},{second}"
        until(lambda: os.sched_getaffinity(process.pid) == {first, second}, "the second CPU never came")
        assert units.cpu_set(group["cpuset.cpus.effective"]) == {first, second}


def block_device(path: Path) -> str:
    """The disk below a path; a reason to skip when there is none that the kernel could throttle."""
    number = os.stat(path).st_dev
    device = f"{os.major(number)}:{os.minor(number)}"
    if not os.path.exists(f"/sys/dev/block/{device}"):
        pytest.skip(f"{path} is on no block device")
    return units.device(device)


def test_io_max_throttles_a_disk(run: Callable, tmp_path: Path) -> None:
    device = block_device(tmp_path)
    with Group.create("web", {"io.max": f"{device} wbps=1048576"}) as group:
        assert units.nested(group["io.max"])[device] == {
            "rbps": "max",
            "wbps": "1048576",
            "riops": "max",
            "wiops": "max",
        }
        start = time.monotonic()
        run(group, ["dd", "if=/dev/zero", f"of={tmp_path}/file", "bs=64k", "count=1024", "oflag=direct", "status=none"])
        time.sleep(2)
        io = group.stats().io
        assert io is not None
        assert 0 < io[device].wbytes <= (time.monotonic() - start + 1) * (1 << 20)
        assert io[device].wios > 0
        group["io.max"] = f"{device} wbps=max"
        assert "wbps=1048576" not in group["io.max"]


def test_io_weight() -> None:
    with Group.create("web", {"io.weight": 50}) as group:
        assert group["io.weight"].split()[:2] == ["default", "50"]
        if "blkio" in layout().legacy:
            with pytest.raises(HostError, match="1000"):
                group["io.weight"] = 2000


def test_hugetlb_bites(run: Callable) -> None:
    if not os.path.isdir("/sys/kernel/mm/hugepages/hugepages-2048kB"):
        pytest.skip("this machine has no huge pages of 2 MiB")
    if layout().top != layout().unified:
        pytest.skip("systemd hands no hugetlb controller over")
    pool = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"
    before = LAYOUT.read_file(pool).strip()
    touch = (
        "import mmap; area = mmap.mmap(-1, 4 << 20, flags=mmap.MAP_PRIVATE | 0x40000)\n"
        "area[0] = 1; print('one', flush=True); area[2 << 20] = 1; print('two', flush=True)"
    )
    try:
        with open(pool, "w") as file:
            file.write(str(int(before) + 4))
        with Group.create("web", {"hugetlb.2MB.max": "2M"}) as group:
            process = run(group, [sys.executable, "-c", touch], stdout=subprocess.PIPE)
            assert process.wait(60) == -signal.SIGBUS
            assert process.stdout.read() == b"one\n"
            assert units.flat(group["hugetlb.2MB.events"])["max"] >= 1
            assert group["hugetlb.2MB.max"] == str(2 << 20)
    finally:
        with open(pool, "w") as file:
            file.write(before)


# -------------------------------------------------------------------------------------------------- freeze, kill, nest


def test_frozen_is_still_and_thawed_goes_on(run: Callable) -> None:
    with Group.create("web") as group:
        run(group, SPIN)
        until(lambda: group.stats().cpu_us, "it never ran")
        group.freeze()
        still = group.stats().cpu_us
        time.sleep(0.3)
        assert group.stats().cpu_us == still
        group.thaw()
        until(lambda: (group.stats().cpu_us or 0) > (still or 0), "it did not go on")


def test_a_frozen_group_can_be_killed_and_removed(run: Callable) -> None:
    with Group.create("web") as group:
        process = run(group, SPIN)
        group.freeze()
    assert process.wait(60) == -signal.SIGKILL


def test_kill_wins_against_what_forks_all_the_time(run: Callable) -> None:
    bomb = "import os\nwhile True:\n  try:\n    os.fork()\n  except OSError: pass"
    with Group.create("web", {"pids.max": 50}) as group:
        process = run(group, [sys.executable, "-c", bomb])
        until(lambda: (group.stats().pids or 0) > 20, "it did not fork")
        group.kill()
        assert group.processes() == []
        assert process.wait(60) == -signal.SIGKILL


def test_groups_nest(run: Callable) -> None:
    with Group.create("lab", {"memory.max": "16M", "memory.swap.max": 0}) as outer:
        inner = Group.create("lab/web")
        assert [group.path for group in outer.groups()] == [inner.path]
        assert run(inner, ["tail", "/dev/zero"]).wait(120) == -signal.SIGKILL, "the outer limit holds inside"
        sleeper = run(inner, ["sleep", "60"])
        outer.kill()
        assert sleeper.wait(60) == -signal.SIGKILL
        run(inner, ["sleep", "60"])
    assert not inner.exists()


@needs_v2
@pytest.mark.v2
def test_v2_says_why_a_group_with_processes_cannot_pass_controllers_on(run: Callable) -> None:
    with Group.create("lab") as outer:
        run(outer, ["sleep", "60"])
        with pytest.raises(UsageError, match="processes"):
            Group.create("lab/web")
        assert outer.groups() == []


@needs_v2
@pytest.mark.v2
def test_v2_passes_on_only_what_is_needed() -> None:
    group = Group(f"{state.instance()}/web")
    group.make({"pids.max": 3})
    try:
        assert set(group["cgroup.controllers"].split()) >= {"memory", "pids"}
        with pytest.raises(NotFoundError, match="cpuset"):
            group["cpuset.cpus"]
        group["cpuset.cpus"] = "0"
        assert "cpuset" in group["cgroup.controllers"].split()
    finally:
        group.remove()


@needs_v1
def test_v1_makes_only_the_directories_that_are_needed(run: Callable) -> None:
    group = Group(f"{state.instance()}/web")
    group.make({})
    try:
        process = run(group, SPIN)
        trees = {os.path.relpath(name, "/sys/fs/cgroup").split("/")[0] for name in group.directories()}
        assert trees == {"unified", "memory", "pids"} if layout().version == "hybrid" else True
        with pytest.raises(NotFoundError, match="cpu"):
            group["cpu.max"]
        group["cpu.max"] = "10000"  # brings the tree, and the process that runs
        assert f"/{group.path}" in next(
            line for line in cgroups_of(process.pid).splitlines() if re.search(r"[:,]cpu[:,]", line)
        )
        group["cpuset.cpus"] = str(min(os.sched_getaffinity(0)))
        assert len(os.sched_getaffinity(process.pid)) == 1
    finally:
        group.remove()


def test_limits_change_while_it_runs(run: Callable) -> None:
    with Group.create("web", {"pids.max": 1, "memory.max": "64M", "cpu.max": "max"}) as group:
        shell = "while :; do /bin/true && echo forked; done"
        process = run(group, ["sh", "-c", shell], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert process.wait(60) != 0, "one process may not fork"
        process = run(group, SPIN)
        group["cpu.max"] = "10000 100000"
        until(lambda: (group.stats().throttled or 0) > 3, "the new quota did not bite")
        group["memory.max"] = "8M"
        group["memory.swap.max"] = "0"
        group["pids.max"] = 10
        assert run(group, ["tail", "/dev/zero"]).wait(120) == -signal.SIGKILL
        assert run(group, ["sh", "-c", "/bin/true; exit 0"]).wait(60) == 0


# ----------------------------------------------------------------------------------------------------------- statistics


def test_pressure_shows_who_waits(run: Callable) -> None:
    if not os.path.exists("/proc/pressure/cpu"):
        pytest.skip("this kernel has no PSI")
    with Group.create("web", {"cpu.max": "10000 100000"}) as group:
        for _ in range(2):
            run(group, SPIN)
        until(lambda: (group.stats().pressure["cpu"].some_us or 0) > 100_000, "nobody ever waited")
        pressure = group.stats().pressure
        assert set(pressure) == {"cpu", "memory", "io"}
        assert pressure["memory"].full_us is not None
        assert f"total={pressure['memory'].some_us}" in group["memory.pressure"]


def test_a_sampler_gives_series_of_equal_length(run: Callable) -> None:
    with Group.create("web", {"cpu.max": "20000 100000"}) as group:
        run(group, SPIN)
        with Sampler(group, interval=0.1) as sampler:
            time.sleep(2)
        series = sampler.series()
        assert len({len(values) for values in series.values()}) == 1
        assert {"time", "cpu", "throttled", "memory", "pids"} <= set(series)
        assert series["time"] == sorted(series["time"])
        first, last = sampler.samples[0], sampler.samples[-1]
        used = sum(
            cpu * (now.time - before.time)
            for cpu, now, before in zip(series["cpu"], sampler.samples[1:], sampler.samples, strict=False)
        )
        assert used == pytest.approx(((last.cpu_us or 0) - (first.cpu_us or 0)) / 1e6)
        assert set(series["pids"]) == {1}
        assert last.as_dict()["pids"] == 1


def test_samples_end_with_the_group(run: Callable) -> None:
    seen = []
    with Group.create("web") as group:
        timer = threading.Timer(0.5, group.remove)
        timer.start()
        seen.extend(sample(group, interval=0.05))
        timer.join()
    assert len(seen) >= 2
    assert seen[0].memory is not None


def test_what_a_group_does_not_count_is_none_not_zero() -> None:
    group = Group(f"{state.instance()}/web")
    group.make({})
    try:
        stats = group.stats()
        assert stats.memory == 0
        assert stats.throttled in (None, 0)
        assert stats.io is None
    finally:
        group.remove()


# ------------------------------------------------------------------------------------------------- faults, races, peers


def test_any_call_may_fail_and_nothing_is_left(run: Callable) -> None:
    """Break a group's life at each of its calls in turn."""
    limits = {"memory.max": "64M", "cpu.max": "50000", "pids.max": 20, "cpuset.cpus": "0", "memory.swap.max": 0}
    at = 0
    while True:
        at += 1
        group = Group(f"{state.instance()}/web")
        process = subprocess.Popen(["sleep", "60"])
        watcher = linux.Watch(fail_at=at)
        try:
            with suppress(linux.KernelError), linux.watch(watcher):
                try:
                    group.make(limits, ["io"])
                    group.add(process.pid)
                    group["cpu.weight"] = 50
                    group.freeze()
                    group.thaw()
                    group.kill()
                finally:
                    group.remove()
        finally:
            group.remove()
            process.kill()
            process.wait()
        assert not our_directories(), f"call {at}: {watcher.calls[at - 1] if len(watcher.calls) >= at else ''}"
        if watcher.seen < at:
            break
    assert at > 10


def test_groups_come_and_go_from_several_processes_at_once() -> None:
    """The instance's own group is removed with its last one, while others are about to make theirs."""
    script = (
        "import sys\nfrom minicontainer.cgroups import Group\n"
        "for n in range(int(sys.argv[2])):\n"
        "    with Group.create(f'{sys.argv[1]}-{n}', {'cpuset.cpus': '0', 'pids.max': 5}) as group:\n"
        "        assert group['cpuset.mems'] is not None\n"
    )
    rounds = "10" if layout().version == "v2" else "60"
    racers = [
        subprocess.Popen([sys.executable, "-c", script, str(n), rounds], stderr=subprocess.PIPE) for n in range(4)
    ]
    for racer in racers:
        assert racer.communicate(timeout=300)[1] == b""
        assert racer.returncode == 0


RUNC_FILES = [
    *("cpu.max", "cpu.weight", "cpuset.cpus", "cpuset.mems", "memory.max", "memory.swap.max", "pids.max"),
    *("cpu.shares", "cpu.cfs_quota_us", "cpu.cfs_period_us", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"),
]
RUNC_LIMITS = {
    "cpu": {"quota": 30000, "period": 60000, "shares": 512, "cpus": "0"},
    "memory": {"limit": 64 << 20, "swap": 80 << 20},
    "pids": {"limit": 25},
}


def test_runc_writes_the_same_values_into_the_same_files(tmp_path: Path) -> None:
    """The same wishes as an OCI config and in our words: the kernel's files must not differ."""
    import json
    import shutil

    if not shutil.which("runc"):
        pytest.skip("runc is not installed")
    name = f"runc-{state.tag()}"
    (tmp_path / "rootfs").mkdir()
    subprocess.run(["runc", "spec"], cwd=tmp_path, check=True)
    config = json.loads((tmp_path / "config.json").read_text())
    config["linux"]["cgroupsPath"] = f"/{state.instance()}-runc/{name}"
    config["linux"]["resources"] = RUNC_LIMITS
    config["linux"]["namespaces"] = [{"type": "pid"}, {"type": "mount"}]
    config["process"].update(terminal=False, args=["/none"])
    config["process"].pop("capabilities", None)
    config["process"].pop("rlimits", None)
    config.pop("hostname", None)
    (tmp_path / "config.json").write_text(json.dumps(config))
    runc = ["runc", "--root", str(tmp_path / "state")]
    subprocess.run(["cp", shutil.which("busybox") or "/bin/sh", str(tmp_path / "rootfs/none")], check=True)
    with open(tmp_path / "said", "w") as said:  # (no pipe: the container keeps its end open)
        done = subprocess.run([*runc, "create", "--bundle", str(tmp_path), name], stdout=said, stderr=said)
    with open("/proc/self/mountinfo") as file:  # runc makes its group in every tree there is
        trees = [line.split()[4] for line in file if " - cgroup" in line]
    theirs = [f"{tree}/{state.instance()}-runc/{name}" for tree in trees]
    try:
        assert done.returncode == 0, (tmp_path / "said").read_text()
        limits = {
            "cpu.max": "30000 60000",
            "cpu.weight": 50 if layout().legacy else 20,  # runc's own conversion from shares to weights on v2
            "cpuset.cpus": "0",
            "memory.max": "64M",
            "memory.swap.max": "16M",
            "pids.max": 25,
        }
        with Group.create("web", limits) as group:
            compared = []
            for ours in group.directories():
                tree = next(tree for tree in trees if ours.startswith(f"{tree}/"))
                other = f"{tree}/{state.instance()}-runc/{name}"
                for file in RUNC_FILES:
                    if os.path.exists(f"{ours}/{file}") and os.path.exists(f"{other}/{file}"):
                        compared.append(file)
                        assert (file, LAYOUT.read_file(f"{ours}/{file}")) == (file, LAYOUT.read_file(f"{other}/{file}"))
            assert len(compared) >= 6
    finally:
        subprocess.run([*runc, "delete", "--force", name], check=False, capture_output=True)
        for directory in theirs:
            for each in (directory, os.path.dirname(directory)):
                with suppress(FileNotFoundError):
                    os.rmdir(each)


# ----------------------------------------------------------------------------------------------------- kinds of hosts

HYBRID = """\
30 23 0:26 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/unified rw,nosuid - cgroup2 cgroup2 rw,nsdelegate
32 30 0:28 / /sys/fs/cgroup/systemd rw,nosuid - cgroup cgroup rw,xattr,name=systemd
35 30 0:31 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid - cgroup cgroup rw,cpu,cpuacct
36 30 0:32 / /odd\\040place/memory rw,nosuid - cgroup cgroup rw,memory
37 30 0:32 / /second/view rw,nosuid - cgroup cgroup rw,memory
"""


def test_trees_are_where_mountinfo_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LAYOUT, "read_file", lambda path: {"/sys/fs/cgroup/unified/cgroup.controllers": "\n"}[path])
    machine = LAYOUT.parse(HYBRID)
    assert machine.version == "hybrid"
    assert machine.legacy == {
        "cpu": "/sys/fs/cgroup/cpu,cpuacct",
        "cpuacct": "/sys/fs/cgroup/cpu,cpuacct",
        "memory": "/odd place/memory",
    }


def test_the_layout_is_what_the_kernel_says() -> None:
    """Each controller is where a process can be seen in it: /proc/cgroups names its hierarchy, 0 is the v2 tree."""
    machine = layout()
    with open("/proc/cgroups") as file:
        rows = [line.split() for line in file if not line.startswith("#")]
    for name, hierarchy, _, _ in rows:
        if name in machine.legacy:
            assert hierarchy != "0"
        if name in machine.controllers:
            assert hierarchy == "0"


@pytest.fixture
def pure_v1(monkeypatch: pytest.MonkeyPatch) -> Layout:
    """This host as if its v2 tree were not mounted."""
    machine = layout()
    if machine.version != "hybrid" or "freezer" not in machine.legacy:
        pytest.skip("this host has no v1 controllers")
    old = Layout("", frozenset(), machine.legacy)
    monkeypatch.setattr(LAYOUT, "_layout", old)
    assert old.version == "v1"
    return old


def test_v1_alone_can_freeze_and_kill_too(pure_v1: Layout, run: Callable) -> None:
    with Group.create("web", {"pids.max": 30}) as group:
        with pytest.raises(ConflictError):
            Group.create("web")
        bomb = "import os\nwhile True:\n  try:\n    os.fork()\n  except OSError: pass"
        process = run(group, [sys.executable, "-c", bomb])
        until(lambda: (group.stats().pids or 0) > 10, "it did not fork")
        group.freeze()
        still = group.stats().cpu_us
        time.sleep(0.2)
        assert group.stats().cpu_us == still
        assert still
        group.kill()
        assert group.processes() == []
        assert process.wait(60) == -signal.SIGKILL
        with pytest.raises(HostError, match="cgroup2"):
            group["cpu.pressure"]
        assert group.stats().pressure == {}
        assert group["cgroup.freeze"] == "0"


def test_v1_alone_any_call_may_fail(pure_v1: Layout, run: Callable) -> None:
    test_any_call_may_fail_and_nothing_is_left(run)


def test_a_kernel_without_cgroup_kill_kills_too(run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux before 5.14: freeze, kill each, thaw."""
    module = sys.modules["minicontainer.cgroups.group"]
    real = module.exists
    monkeypatch.setattr(module, "exists", lambda path: not path.endswith("cgroup.kill") and real(path))
    with Group.create("lab") as outer:
        inner = Group.create("lab/web")
        processes = [run(inner, ["sleep", "60"]) for _ in range(5)]
        with linux.trace() as calls:
            outer.kill()
        assert {process.wait(60) for process in processes} == {-signal.SIGKILL}
        assert [call.name for call in calls].count("kill") >= 5
