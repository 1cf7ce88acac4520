"""Chapter 01: containers from programs with threads, event loops and notebooks; and what is left when one is killed.

In these tests programs and containers are killed at will, and the kernel's list of processes says who is still there.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from programs import eventually, marked

from minicontainer import errors, state
from minicontainer.container import DEVNULL, Container, Part, child, records, spawner
from minicontainer.namespaces import Namespaces

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from programs import Program

    from minicontainer.container.part import Host, Inside

DAEMON = 'setsid sh -c ": {mark} daemon; sleep 1000; true" & (: {mark} child; sleep 1000; true) & '


@pytest.fixture
def thread() -> Iterator[None]:
    """A second thread in this program: now it must not clone itself."""
    done = threading.Event()
    waiting = threading.Thread(target=done.wait)
    waiting.start()
    yield
    done.set()
    waiting.join()


# ---------------------------------------------------------------------------------------------------- who clones


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_a_program_with_threads_lets_its_spawner_clone(program: Callable[..., Program]) -> None:
    it = program("""
stop = threading.Event()
threading.Thread(target=stop.wait).start()
with Container(["sleep", "1000"], Namespaces("pid")) as container:
    print(container.pid, flush=True)
    sys.stdin.readline()
stop.set()
""", stdin=subprocess.PIPE)  # fmt: skip
    container = int(it.line())
    spawner = parent_of(container)
    assert spawner != it.pid
    assert parent_of(spawner) == it.pid
    assert len(os.listdir(f"/proc/{spawner}/task")) == 1
    it.process.communicate("\n")


def test_a_container_without_a_pid_namespace_always_has_a_spawner(program: Callable[..., Program]) -> None:
    """Somebody has to stay who can find its orphans."""
    it = program("""
with Container(["sleep", "1000"]) as container:
    print(container.pid, flush=True)
    time.sleep(1000)
""")
    assert parent_of(parent_of(int(it.line()))) == it.pid


def test_a_program_that_ignores_its_children_still_learns_how_they_end(program: Callable[..., Program]) -> None:
    it = program("""
import signal
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
print(Container(["sh", "-c", "exit 7"], Namespaces("pid")).run())
""")
    assert it.finish() == "7\n"


def test_an_end_that_somebody_else_waited_for_is_a_clear_error(program: Callable[..., Program]) -> None:
    it = program("""
from minicontainer import errors
container = Container(["true"], Namespaces("pid")).start()
os.waitpid(-1, 0)
try: container.wait()
except errors.HostError as error: print(error)
container.remove()
""")
    assert "its exit status is lost" in it.finish()


# ------------------------------------------------------------------------------------------------- threads and loops


def test_a_hundred_containers_from_eight_threads() -> None:
    def run(number: int) -> tuple[str, int]:
        kinds = ["pid", "uts"] if number % 2 else ["uts"]
        container = Container(["sh", "-c", f"hostname; exit {number}"], Namespaces(*kinds, hostname=f"host-{number}"))
        read, write = os.pipe()
        with open(read) as out:
            code = container.run(stdin=DEVNULL, stdout=write)
            os.close(write)
            return out.read().strip(), code

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        results = list(pool.map(run, range(100)))
    assert results == [(f"host-{number}", number) for number in range(100)]


def test_errors_find_the_thread_that_they_are_for() -> None:
    def run(number: int) -> str:
        if number % 2:
            return Container(["echo", str(number)]).output().strip()
        with pytest.raises(errors.CommandNotFound) as caught:
            Container([f"missing-{number}"]).run()
        return str(caught.value)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for number, text in enumerate(pool.map(run, range(40))):
            assert (text == str(number)) if number % 2 else (f"'missing-{number}'" in text)


def test_a_container_may_be_started_in_one_thread_and_killed_in_another(mark: str) -> None:
    container = Container(["sh", "-c", f": {mark}; sleep 1000"]).start()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(container.wait)
        time.sleep(0.05)
        container.kill()
        assert waiting.result(60) == 137
    assert marked(mark) == {}


def test_containers_outlive_the_thread_that_started_them(mark: str) -> None:
    """PDEATHSIG fires when the thread that cloned ends: that thread is the spawner's only one."""
    started: list[Container] = []
    starting = threading.Thread(
        target=lambda: started.append(Container(["sh", "-c", f": {mark}; sleep 1000; true"]).start())
    )
    starting.start()
    starting.join()
    time.sleep(0.1)
    (container,) = started
    assert container.poll() is None
    container.remove()


def test_from_an_asyncio_program_in_threads_and_directly() -> None:
    async def main() -> list[int]:
        slow = [asyncio.to_thread(Container(["sh", "-c", f"sleep 0.1; exit {n}"]).run) for n in range(8)]
        together = asyncio.gather(*slow)
        await asyncio.sleep(0)
        direct = Container(["sh", "-c", "exit 9"], Namespaces("pid")).run()  # blocks the loop, but works
        process = await asyncio.create_subprocess_exec("true")  # asyncio's own children are still asyncio's
        return [*await together, direct, await process.wait()]

    assert asyncio.run(main()) == [*range(8), 9, 0]


def test_from_an_asyncio_program_that_has_one_thread(program: Callable[..., Program]) -> None:
    it = program("""
import asyncio, signal
async def main():
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, lambda: print("signalled", flush=True))
    for _ in range(3):
        print(Container(["sh", "-c", "kill -0 1; exit 4"], Namespaces("pid")).run())
    os.kill(os.getpid(), signal.SIGUSR1)
    await asyncio.sleep(0.05)
    process = await asyncio.create_subprocess_exec("sh", "-c", "exit 5")
    print(await process.wait())
asyncio.run(main())
""")
    assert it.finish().split() == ["4", "4", "4", "signalled", "5"]


# -------------------------------------------------------------------------------------------------------------- forks


def test_a_forked_program_gets_a_spawner_of_its_own(program: Callable[..., Program], mark: str) -> None:
    it = program("""
Container(["true"]).run()
ours = Container(["sh", "-c", f": {sys.argv[1]}; sleep 1000; true"]).start()
pid = os.fork()
if pid == 0:
    code = Container(["sh", "-c", "exit 3"]).run()
    sys.exit(code)   # atexit runs here: it must not touch our parent's container
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), ours.poll(), flush=True)
print(Container(["sh", "-c", "exit 4"]).run(), flush=True)
ours.remove()
""", mark)  # fmt: skip
    assert it.finish().split() == ["3", "None", "4"]


def test_a_program_that_forks_while_another_thread_starts_a_container(program: Callable[..., Program]) -> None:
    """The other thread is not copied, so what it held is held for ever, unless somebody frees it."""
    it = program("""
import signal
from minicontainer.container import spawner
Container(["true"]).run()
held = threading.Event()
def hold():
    with spawner._shared_lock:
        held.set()
        time.sleep(1)
threading.Thread(target=hold).start()
held.wait()
pid = os.fork()
if pid == 0:
    signal.alarm(20)
    os._exit(Container(["sh", "-c", "exit 3"]).run())
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
""")
    assert it.finish() == "3\n"


def _in_a_worker(number: int) -> int:
    return Container(["sh", "-c", f"exit {number}"], Namespaces("pid")).run()


@pytest.mark.parametrize("threads", [False, True], ids=["one thread", "with threads"])
def test_from_multiprocessing_workers(threads: bool) -> None:
    Container(["true"]).run()
    done = threading.Event()
    other = threading.Thread(target=done.wait)
    if threads:
        other.start()
    try:
        with multiprocessing.get_context("fork").Pool(4) as pool:
            assert pool.map(_in_a_worker, range(20)) == list(range(20))
            pool.close()
            pool.join()
    finally:
        done.set()
        if threads:
            other.join()
    assert Container(["sh", "-c", "exit 8"]).run() == 8


# ------------------------------------------------------------------------------------- parts that exist only in a cell


def test_a_part_that_exists_only_here_travels_by_value(thread: None) -> None:
    secret = "from the enclosing function"

    class Local(Part):
        def __init__(self) -> None:
            self.value = {"nested": [1, 2]}

        def prepare(self, host: Host) -> None:
            host.give("file", os.memfd_create("gift"))

        def seal(self, inside: Inside) -> None:
            os.write(inside.fds["file"], b"x")
            inside.env["MESSAGE"] = f"{secret} {self.value['nested']}"

    assert Container(["sh", "-c", "echo $MESSAGE"], Local()).output() == f"{secret} [1, 2]\n"


def test_a_part_of_main_travels_by_value(program: Callable[..., Program]) -> None:
    it = program("""
stop = threading.Event()
threading.Thread(target=stop.wait).start()
class Greeting(Part):
    def __init__(self, text): self.text = text
    def seal(self, inside): inside.env["GREETING"] = self.text
print(Container(["sh", "-c", "echo $GREETING"], Greeting("hello"), Namespaces("pid")).output(), end="")
print(child(lambda: [os.getpid() != os.getppid(), 42]))
stop.set()
""")  # fmt: skip
    assert it.finish() == "hello\n[True, 42]\n"


def test_a_part_of_a_module_that_was_found_later(tmp_path: Path, program: Callable[..., Program]) -> None:
    """The spawner runs already when the program learns where to look for a module, and moves to another directory."""
    (tmp_path / "mypart.py").write_text("""
import os
from minicontainer.container import Part
class Mine(Part):
    def join(self, inside):
        inside.env["HERE"] = os.getcwd()
""")
    it = program("""
Container(["true"]).run()
sys.path.append(sys.argv[1])
os.chdir(sys.argv[1])
import mypart
print(Container(["sh", "-c", "echo $HERE"], mypart.Mine()).output(), end="")
""", str(tmp_path))  # fmt: skip
    assert it.finish() == f"{tmp_path}\n"


def test_a_part_that_cannot_travel_says_so(thread: None) -> None:
    class Locked(Part):
        def __init__(self) -> None:
            self.lock = threading.Lock()

        def mount(self, inside: Inside) -> None:
            pass

    with pytest.raises(errors.ContainerError, match="cannot travel"):
        Container(["true"], Locked()).run()


def test_a_part_with_nothing_to_do_inside_does_not_travel(thread: None) -> None:
    class AtHome(Part):
        def __init__(self) -> None:
            self.lock, self.seen = threading.Lock(), 0

        def attach(self, host: Host) -> None:
            self.seen = host.pid

    part = AtHome()
    assert Container(["true"], part).run() == 0
    assert part.seen


def test_a_part_that_cannot_be_rebuilt_says_so(thread: None) -> None:
    class Fragile(Part):
        def __setstate__(self, state: object) -> None:
            raise RuntimeError("in a thousand pieces")

        def __getstate__(self) -> dict[str, int]:
            return {"a": 1}

        def mount(self, inside: Inside) -> None:
            pass

    with pytest.raises(errors.ContainerError, match="a thousand pieces"):
        Container(["true"], Fragile()).run()


def test_what_a_part_unpickles_to_runs_in_the_containers_own_process_only(thread: None, tmp_path: Path) -> None:
    class Nosy(Part):
        def __setstate__(self, state: dict[str, str]) -> None:
            self.__dict__.update(state)
            Path(self.note).write_text(str(os.getpid()))

        def mount(self, inside: Inside) -> None:
            pass

    nosy = Nosy()
    nosy.note = str(tmp_path / "note")  # type: ignore[attr-defined]
    with Container(["sleep", "1000"], nosy) as container:
        assert (tmp_path / "note").read_text() == str(container.pid)


# -------------------------------------------------------------------------------------------- owners that are killed

KINDS = {
    "no namespace": "",
    "pid namespace": "Namespaces('pid')",
    "another user": "Namespaces('pid'), User('65534:65534')",  # to become one clears PDEATHSIG, prctl(2)
}
OWNER = """
mark, threads = sys.argv[1], sys.argv[2] == "spawner"
if threads:
    threading.Thread(target=lambda: time.sleep(1000), daemon=True).start()
script = sys.argv[3] + "echo ready; while :; do sleep 1000; done"
container = Container(["sh", "-c", script, mark], {parts}).start({how})
{then}
time.sleep(1000)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
@pytest.mark.parametrize("mode", ["direct", "spawner"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_owner_leaves_no_process(
    program: Callable[..., Program], mark: str, kind: str, mode: str, number: int
) -> None:
    """Neither the first process, nor its child, nor one that has made a session of its own."""
    code = OWNER.format(parts=KINDS[kind], how="", then="")
    it = program(code, mark, mode, DAEMON.format(mark=mark))
    assert it.line() == "ready"
    assert eventually(lambda: len(marked(mark)) - (it.pid in marked(mark)) >= 3)
    it.kill(number)
    assert eventually(lambda: not marked(mark)), marked(mark)
    records.mend()  # as the next start does: a part with a record (User has one, for exec) leaves it behind


def test_a_program_that_ends_by_itself_leaves_no_process(program: Callable[..., Program], mark: str) -> None:
    code = OWNER.format(parts="Namespaces('uts')", how="", then="sys.exit()")
    program(code, mark, "direct", DAEMON.format(mark=mark)).process.wait(60)
    assert eventually(lambda: not marked(mark))


def test_an_interrupted_run_leaves_no_process(program: Callable[..., Program], mark: str) -> None:
    it = program("""
try:
    Container(["sh", "-c", f": {sys.argv[1]}; echo ready; sleep 1000; true"]).run()
except KeyboardInterrupt:
    print("interrupted", flush=True)
time.sleep(1000)
""", mark)  # fmt: skip
    assert it.line() == "ready"
    it.process.send_signal(signal.SIGINT)
    assert it.line() == "interrupted"
    assert set(marked(mark)) == {it.pid}


def test_an_owner_killed_at_any_moment_of_a_start_leaves_no_process(program: Callable[..., Program], mark: str) -> None:
    """Starts in an endless row, and a kill in the middle of one of them, at twenty different moments."""
    code = """
while True:
    for parts in ([], [Namespaces("pid", "uts", "mount")]):
        with Container(["sh", "-c", f": {sys.argv[1]}; sleep 1000 & sleep 1000"], *parts) as container:
            print("ready", flush=True)
"""
    for number in range(20):
        it = program(code, mark)
        it.line()
        time.sleep(number / 1000)
        it.kill()
        assert eventually(lambda: not marked(mark)), marked(mark)


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_spawner_takes_its_containers_along_and_a_new_one_is_started(
    program: Callable[..., Program], mark: str, kind: str
) -> None:
    it = program("""
threading.Thread(target=lambda: time.sleep(1000), daemon=True).start()
script = f": {sys.argv[1]}; (: {sys.argv[1]}; sleep 1000; true) & echo ready; sleep 1000; true"
container = Container(["sh", "-c", script], PARTS).start()
print(open(f"/proc/{container.pid}/stat").read().rpartition(")")[2].split()[1], flush=True)
print(container.wait(), flush=True)
print(Container(["sh", "-c", "exit 3"]).run(), flush=True)
time.sleep(1000)
""".replace("PARTS", KINDS[kind]), mark)  # fmt: skip
    both = it.line() + it.line()  # in any order, and in pieces: two processes write to the same pipe
    os.kill(int("".join(filter(str.isdigit, both))), signal.SIGKILL)
    assert it.line() == "137"
    assert eventually(lambda: set(marked(mark)) == {it.pid}), marked(mark)
    assert it.line() == "3"


# ----------------------------------------------------------------------------------------------------------- detached


def test_a_detached_container_outlives_its_owner_and_its_keeper_releases_it(
    program: Callable[..., Program], mark: str, tmp_path: Path
) -> None:
    code = OWNER.format(
        parts="Namespaces('pid', 'uts')",
        how=f"detach=True, stdout=open({str(tmp_path / 'log')!r}, 'w')",
        then="print(container.pid, container.id, flush=True)",
    )
    it = program(code, mark, "direct", f"trap 'exit 0' TERM; (: {mark}; sleep 1000; true) & sleep 0.1;")
    pid, identity = it.line().split()
    keeper = parent_of(int(pid))
    it.kill()
    time.sleep(0.1)
    assert int(pid) in marked(mark)
    assert eventually(lambda: (tmp_path / "log").read_text() == "ready\n")
    record = records.read(identity)
    assert record is not None
    assert record["owner"]["pid"] == keeper
    assert records.mend() == []  # it is nobody's leftover
    assert int(pid) in marked(mark)
    os.kill(int(pid), signal.SIGKILL)
    assert eventually(lambda: not marked(mark) and not os.path.exists(f"/proc/{keeper}/exe"))
    assert not os.path.exists(records.directory(identity))


def test_a_keeper_holds_no_descriptor_of_its_program(program: Callable[..., Program], mark: str) -> None:
    """Or whoever reads the program's output would wait for the container's end."""
    code = OWNER.format(parts="", how="detach=True", then="print(container.pid, flush=True); sys.exit()")
    read, write = os.pipe()
    os.set_inheritable(write, True)
    it = program(code, mark, "direct", "", pass_fds=[write])
    os.close(write)
    with open(read) as end:
        pid = int(it.line())
        assert it.finish() == ""
        assert end.read() == ""
    assert pid in marked(mark)
    os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: not marked(mark))


def test_the_owner_of_a_detached_container_can_wait_for_it() -> None:
    container = Container(["sh", "-c", "exit 6"], Namespaces("pid")).start(detach=True)
    assert container.wait(60) == 6
    assert not os.path.exists(records.directory(container.id))


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_keeper_takes_the_container_along_and_the_next_start_mends(
    program: Callable[..., Program], mark: str, kind: str
) -> None:
    code = OWNER.format(parts=KINDS[kind], how="detach=True", then="print(container.pid, container.id, flush=True)")
    it = program(code, mark, "direct", "")
    pid, identity = it.line().split()
    it.kill()
    os.kill(parent_of(int(pid)), signal.SIGKILL)
    assert eventually(lambda: not marked(mark))
    assert os.path.exists(records.path(identity))
    program("Container(['true'], Namespaces('pid')).run()").finish()
    assert not os.path.exists(records.directory(identity))


# ------------------------------------------------------------------------------------------------------------ records


def test_the_next_start_mends_what_a_killed_owner_has_on_record(program: Callable[..., Program], rootfs: str) -> None:
    it = program("""
from minicontainer.overlayfs import Overlay
parts = [Namespaces("pid"), Overlay([sys.argv[1]]), PivotRoot()]
container = Container(["sh", "-c", "echo written > /file; sleep 1000"], *parts).start()
print(container.id, parts[1].directory, flush=True)
time.sleep(1000)
""", rootfs)  # fmt: skip
    identity, directory = it.line().split()
    assert eventually(lambda: os.path.exists(f"{directory}/upper/file"))
    it.kill()
    program("Container(['true'], Namespaces('pid')).run()").finish()
    assert not os.path.exists(directory)
    assert not os.path.exists(records.directory(identity))


def test_the_next_start_removes_a_directory_whose_record_was_never_finished() -> None:
    identity = state.new_id()
    dead = subprocess.Popen(["true"])
    dead.wait()
    os.makedirs(records.directory(identity))
    Path(f"{records.path(identity)}.{dead.pid}.0123abcd").touch()
    assert identity not in records.all_containers()
    records.mend()
    assert not os.path.exists(records.directory(identity))


def test_a_record_that_is_just_being_written_is_not_taken_for_an_unfinished_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Mending waits for it: the moment between the directory and the record, held open."""
    identity = state.new_id()
    mending = threading.Thread(target=records.mend)
    written = state.write_json

    def slowly(path: str, value: object, **how: bool) -> None:
        os.makedirs(os.path.dirname(path))
        mending.start()
        mending.join(0.2)
        assert mending.is_alive()
        written(path, value, **how)

    monkeypatch.setattr(state, "write_json", slowly)
    records.write(identity, {"id": identity, "owner": records.this_process(), "parts": []})
    mending.join()
    assert records.all_containers() == [identity]
    records.remove(identity)


def leave_record(content: str, identity: str | None = None) -> str:
    identity = identity or state.new_id()
    os.makedirs(records.directory(identity))
    Path(records.path(identity)).write_text(content)
    return identity


GARBAGE = {
    "empty": "",
    "truncated": '{"id": "abc", "owner": {"pi',
    "binary": "\x00\x01\x02",
    "a list": "[1, 2, 3]",
    "no owner": '{"parts": []}',
    "owner of another shape": '{"owner": 17, "parts": []}',
    "no parts": '{"owner": {"pid": 1, "start_time": 1}}',
    "an unknown part": '{"owner": {"pid": 1, "start_time": 1}, "parts": [{"part": "minicontainer.x:Y", "record": {}}]}',
    "a part of others": '{"owner": {"pid": 1, "start_time": 1}, "parts": [{"part": "os:system", "record": "true"}]}',
    "no part at all": '{"owner": {"pid": 1, "start_time": 1}, "parts": [17]}',
}


@pytest.mark.parametrize("content", GARBAGE.values(), ids=GARBAGE.keys())
def test_a_record_that_is_none_is_told_of_and_keeps_nobody_from_starting(
    program: Callable[..., Program], content: str
) -> None:
    identity = leave_record(content)
    healthy = leave_record(json.dumps({"owner": {"pid": 1, "start_time": 1}, "parts": [], "id": "x"}), "f" * 64)
    it = program("print(Container(['true'], Namespaces('pid')).run())", stderr=subprocess.PIPE)
    out, err = it.process.communicate(timeout=60)
    assert out == "0\n"
    assert identity in err or "not all undone" in err
    assert "minicontainer reset" in err
    assert not os.path.exists(records.directory(healthy))  # it came later, and was mended all the same
    assert os.path.exists(records.path(identity))
    from minicontainer import leaks

    leaks.reset()
    assert not os.path.exists(records.directory(identity))
    program("print(Container(['true'], Namespaces('pid')).run())", stderr=subprocess.DEVNULL).finish()


def test_a_record_whose_owner_lives_is_nobodys_business(mark: str) -> None:
    alive = json.dumps({"owner": records.this_process(), "parts": [{"part": "minicontainer.none:None", "record": {}}]})
    identity = leave_record(alive)
    assert records.mend() == []
    assert os.path.exists(records.path(identity))
    records.remove(identity)


def test_a_pid_that_means_another_process_by_now_is_not_killed() -> None:
    innocent = subprocess.Popen(["sleep", "1000"])
    try:
        identity = leave_record(json.dumps({"owner": {"pid": 1, "start_time": 1}, "parts": []}))
        Path(f"{records.directory(identity)}/process.json").write_text(
            json.dumps({"pid": innocent.pid, "start_time": state.start_time(innocent.pid) - 1})
        )
        assert records.mend() == [identity]
        assert innocent.poll() is None
        assert not os.path.exists(records.directory(identity))
    finally:
        innocent.kill()
        innocent.wait()


def test_a_process_on_record_whose_owner_is_dead_is_ended() -> None:
    process = subprocess.Popen(["sleep", "1000"])
    identity = leave_record(json.dumps({"owner": {"pid": 1, "start_time": 1}, "parts": []}))
    records.write_process(identity, process.pid)
    assert records.mend() == [identity]
    assert process.wait() == -signal.SIGKILL


# -------------------------------------------------------------------------------------------- a real notebook kernel


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., list[tuple[str, str]]]]:
    """A real ipykernel. Calling it runs a cell and returns what the notebook would show: (kind, text)."""
    jupyter_client = pytest.importorskip("jupyter_client", reason="jupyter_client is part of the course's extra")
    pytest.importorskip("ipykernel", reason="ipykernel is part of the course's extra")
    from jupyter_core.utils import ensure_event_loop

    for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.delenv("PYTEST_CURRENT_TEST", raising=False)
    manager = jupyter_client.KernelManager(transport="ipc", ip=str(tmp_path / "kernel"))
    manager.kernel_spec.argv[0] = sys.executable
    manager.start_kernel(cwd=str(Path(__file__).resolve().parent.parent))
    client = manager.blocking_client()
    client.start_channels()
    client.wait_for_ready(timeout=60)

    def run(code: str, *, interrupt: Callable[[], bool] | None = None) -> list[tuple[str, str]]:
        shown: list[tuple[str, str]] = []
        wanted = client.execute(code)
        while True:
            message = client.get_iopub_msg(timeout=60)
            if message["parent_header"].get("msg_id") != wanted:
                continue
            content = message["content"]
            if message["msg_type"] == "stream":
                shown.append((content["name"], content["text"]))
                if interrupt and interrupt():
                    interrupt = None
                    manager.interrupt_kernel()
            elif message["msg_type"] == "error":
                shown.append(("error", f"{content['ename']}: {content['evalue']}"))
            elif message["msg_type"] == "execute_result":
                shown.append(("result", content["data"]["text/plain"]))
            elif message["msg_type"] == "status" and content["execution_state"] == "idle":
                return shown

    run.manager = manager  # type: ignore[attr-defined]
    run("from minicontainer.container import *; from minicontainer.namespaces import Namespaces, of")
    yield run
    client.stop_channels()
    if manager.is_alive():
        manager.shutdown_kernel(now=True)
    manager.cleanup_resources()
    client.context.destroy()
    ensure_event_loop().close()  # the client's, for its blocking calls


def together(shown: list[tuple[str, str]], kind: str) -> str:
    return "".join(text for name, text in shown if name == kind)


def test_in_a_notebook(kernel: Callable[..., list[tuple[str, str]]], mark: str) -> None:
    # its output goes to the cell, its status is the cell's value
    shown = kernel("Container(['sh', '-c', 'echo out; echo err >&2; exit 3']).run()")
    assert (together(shown, "stdout"), together(shown, "stderr")) == ("out\n", "err\n")
    assert together(shown, "result") == "3"
    # line by line, as it arrives
    shown = kernel("Container(['sh', '-c', 'echo one; sleep 0.5; echo two']).run();")
    assert [text for name, text in shown if name == "stdout"] == ["one\n", "two\n"]
    # an error is one error
    shown = kernel("Container(['no-such-command']).run()")
    assert [kind for kind, _ in shown] == ["error"]
    assert "CommandNotFound: there is no command 'no-such-command'" in shown[0][1]
    # a part and a function from a cell
    kernel("""
class Cell(Part):
    def __init__(self, word): self.word = word
    def seal(self, inside): inside.env["WORD"] = self.word + str(len(SECRET))
SECRET = "abc"
""")
    shown = kernel("Container(['sh', '-c', 'echo $WORD'], Cell('cell')).run();")
    assert together(shown, "stdout") == "cell3\n"
    assert together(kernel("import os\nchild(lambda: os.uname().sysname)"), "result") == "'Linux'"
    # the kernel's own namespaces, root and group never change, whatever its containers do
    look = "(of(), __import__('os').stat('/').st_ino, open('/proc/self/cgroup').read(), __import__('os').getcwd())"
    before = together(kernel(look), "result")
    kernel("Container(['true'], Namespaces('pid', 'uts', 'mount', 'network', 'ipc', 'cgroup', 'time', 'user')).run()")
    kernel("child(lambda: os.chroot('/tmp'))")
    assert together(kernel(look), "result") == before
    # its threads do not matter
    shown = kernel("""
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(8) as pool:
    codes = list(pool.map(lambda n: Container(["sh", "-c", f"exit {n}"], Namespaces("pid")).run(), range(40)))
codes == list(range(40))
""")
    assert together(shown, "result") == "True"

    # an interrupt ends the cell, and leaves nothing
    code = (
        f"Container(['sh', '-c', '{DAEMON.format(mark=mark)} echo ready; sleep 1000; true'], Namespaces('pid')).run()"
    )
    shown = kernel(code, interrupt=lambda: True)
    assert together(shown, "error").startswith("KeyboardInterrupt")
    assert eventually(lambda: not marked(mark)), marked(mark)
    assert together(kernel("Container(['echo', 'still here']).run();"), "stdout") == "still here\n"

    # SIGKILL of the kernel leaves nothing either
    code = f"""
containers = [
    Container(["sh", "-c", '{DAEMON.format(mark=mark)} echo ready; sleep 1000; true'], *parts).start()
    for parts in ([], [Namespaces("pid")])
]
"""
    kernel(code)
    assert eventually(lambda: len(marked(mark)) >= 6)
    manager = kernel.manager  # type: ignore[attr-defined]
    os.kill(manager.provisioner.pid, signal.SIGKILL)
    assert eventually(lambda: not marked(mark)), marked(mark)


def test_a_shared_spawner_that_somebody_hung_up_on_is_replaced(thread: None) -> None:
    """An interrupt may fall between hanging up on the old one and starting the new one."""
    assert Container(["sh", "-c", "exit 3"]).run() == 3
    spawner.shared().release()
    assert Container(["sh", "-c", "exit 4"]).run() == 4


class Meanwhile(Part):
    """A part that prepares while its process is being cloned, and may fail at that."""

    meanwhile = True

    def __init__(self, error: BaseException | None = None) -> None:
        self.error, self.prepared, self.pid = error, 0, -1

    def prepare(self, host: Host) -> None:
        self.prepared, self.pid = self.prepared + 1, host.pid
        if self.error:
            raise self.error

    def mount(self, inside: Inside) -> None:
        assert self.prepared == 0  # it has travelled as it was before


def test_a_part_may_prepare_while_the_spawner_clones(thread: None) -> None:
    part = Meanwhile()
    with Container(["sleep", "1000"], part).start() as container:
        assert (part.prepared, part.pid) == (1, 0)
        assert parent_of(container.pid) == spawner.shared().pid


@pytest.mark.parametrize("error", [OSError(1, "no"), errors.UsageError("bad wish"), KeyboardInterrupt()], ids=repr)
def test_a_part_that_cannot_prepare_meanwhile_leaves_no_process(thread: None, error: BaseException) -> None:
    maker = spawner.shared()
    children = Path(f"/proc/{maker.pid}/task/{maker.pid}/children")
    container = Container(["sleep", "1000"], Meanwhile(error))
    with pytest.raises((errors.StartError, errors.UsageError, KeyboardInterrupt)):
        container.run()
    assert container.pid
    assert not Path(f"/proc/{container.pid}").exists()
    assert children.read_text() == ""
    assert Container(["true"]).run() == 0
    assert spawner.shared() is maker


def test_a_spawner_that_dies_before_it_answers_is_replaced(thread: None) -> None:
    class Murder(Meanwhile):
        def prepare(self, host: Host) -> None:
            os.kill(first.pid, signal.SIGKILL)

        def __reduce__(self) -> tuple[type, tuple[()]]:
            return Part, ()

    first = spawner.shared()
    os.kill(first.pid, signal.SIGSTOP)  # it is asked, and never hears it
    assert Container(["sh", "-c", "exit 3"], Murder()).run() == 3
    assert spawner.shared() is not first


def test_the_shared_spawner_is_one_process_for_all(thread: None) -> None:
    first = Container(["sleep", "1000"]).start()
    second = Container(["sleep", "1000"]).start()
    try:
        assert parent_of(first.pid) == parent_of(second.pid) == spawner.shared().pid
    finally:
        first.remove()
        second.remove()
    assert child(os.getppid) == spawner.shared().pid
