"""Chapter 01: a container's life, from its start to its exit status, whatever is asked for."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import signal
import stat
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from programs import eventually, marked

from minicontainer import errors, linux
from minicontainer.chroot import PivotRoot
from minicontainer.container import DEVNULL, PIPE, Container, Part, child
from minicontainer.namespaces import Namespaces

if TYPE_CHECKING:
    from collections.abc import Callable

    from programs import Program

    from minicontainer.container.part import Host, Inside


def shell(script: str, *parts: Part, **how: object) -> Container:
    return Container(["/bin/sh", "-c", script], *parts, **how)  # type: ignore[arg-type]


# -------------------------------------------------------------------------------------------------------- exit status


@pytest.mark.parametrize("code", [0, 1, 70, 255])
def test_run_returns_the_exit_status(code: int) -> None:
    assert shell(f"exit {code}").run() == code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, signal.SIGRTMIN])
def test_after_a_signal_the_status_is_128_and_its_number(number: int) -> None:
    assert shell(f"kill -{int(number)} $$").run() == 128 + number


def test_wait_can_be_called_again_and_poll_does_not_wait() -> None:
    container = shell("read line; exit 5").start(stdin=PIPE)
    assert container.poll() is None
    assert container.stdin is not None
    container.stdin.close()
    assert container.wait() == container.wait() == container.poll() == 5


def test_a_container_runs_once() -> None:
    container = shell("true")
    container.run()
    with pytest.raises(errors.UsageError, match="started already"):
        container.start()
    with pytest.raises(errors.UsageError, match="not been started"):
        shell("true").wait()


# ------------------------------------------------------------------------------------------------------------ streams


def test_output_is_what_it_wrote() -> None:
    assert shell("echo one; echo two >&2; echo three").output() == "one\nthree\n"


def test_output_of_a_failing_command_is_an_error_that_shows_it() -> None:
    with pytest.raises(errors.ContainerError, match=r"status 3.*'half'"):
        shell("printf half; exit 3").output()


def test_pipes_and_half_close() -> None:
    container = Container(["cat"]).start(stdin=PIPE, stdout=PIPE)
    assert container.stdin is not None
    assert container.stdout is not None
    container.stdin.write(b"first\n")
    assert container.stdout.read(6) == b"first\n"
    container.stdin.write(b"second\n")
    container.stdin.close()
    assert container.stdout.read() == b"second\n"
    container.stdout.close()
    assert container.wait() == 0


def test_streams_to_files_are_the_very_files(tmp_path: Path) -> None:
    (tmp_path / "in").write_text("from a file\n")
    with (
        open(tmp_path / "in") as source,
        open(tmp_path / "out", "wb") as out,
        open(tmp_path / "err", "wb") as err,
    ):
        container = shell("cat; echo trouble >&2; readlink /proc/self/fd/1")
        assert container.run(stdin=source, stdout=out, stderr=err.fileno()) == 0
    assert (tmp_path / "out").read_text() == f"from a file\n{tmp_path}/out\n"
    assert (tmp_path / "err").read_text() == "trouble\n"


def test_output_reaches_a_stdout_that_is_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stdout", shown)
    assert shell("printf 'ä\\n'; sleep 0.05; printf '\\303'; sleep 0.05; printf '\\244\\n'").run() == 0
    assert shown.getvalue() == "ä\nä\n"


def test_output_arrives_while_the_container_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    arrived = threading.Event()

    class Shown(io.StringIO):
        def write(self, text: str) -> int:
            if "first" in text:
                arrived.set()
            return super().write(text)

    monkeypatch.setattr(sys, "stdout", Shown())
    container = shell("echo first; read line; echo second").start(stdin=PIPE)
    end = threading.Thread(target=lambda: arrived.wait(30) and container.stdin is not None and container.stdin.close())
    end.start()
    assert container.wait(60) == 0
    end.join()
    assert arrived.is_set()


def test_ten_megabytes_of_both_outputs_do_not_deadlock(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    script = "head -c 10000000 /dev/zero | tr '\\0' o; head -c 10000000 /dev/zero | tr '\\0' e >&2"
    assert shell(script).run(timeout=120) == 0
    assert (len(out.getvalue()), set(out.getvalue())) == (10_000_000, {"o"})
    assert (len(err.getvalue()), set(err.getvalue())) == (10_000_000, {"e"})


def test_a_grandchild_that_keeps_the_output_open_does_not_keep_wait(monkeypatch: pytest.MonkeyPatch, mark: str) -> None:
    monkeypatch.setattr(sys, "stdout", shown := io.StringIO())
    started = time.monotonic()
    assert shell(f"echo begun; (: {mark}; sleep 1000) & exit 4").run() == 4
    assert time.monotonic() - started < 500
    assert shown.getvalue() == "begun\n"
    assert eventually(lambda: not marked(mark))


def test_run_refuses_pipes_that_nobody_would_read() -> None:
    with pytest.raises(errors.UsageError, match="pipe"):
        shell("true").run(stdout=PIPE)


def test_devnull_is_empty_and_swallows(capfd: pytest.CaptureFixture[str]) -> None:
    assert shell("cat; echo noise; echo noise >&2").run(stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL) == 0
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("direct", [True, False], ids=["direct", "spawner"])
@pytest.mark.parametrize("closed", ["0", "1", "2", "0 1", "1 2", "0 2", "0 1 2"])
def test_a_program_without_standard_descriptors_can_run_containers(
    program: Callable[..., Program], tmp_path: Path, closed: str, direct: bool
) -> None:
    """Whatever is opened then gets the numbers 0, 1 and 2: the channel, pipes, pidfds."""
    code = f"""
for fd in map(int, "{closed}".split()):
    os.close(fd)
report = os.fdopen(os.dup2(low := os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT), 100), "w")
os.close(low)
{"" if direct else "Container(['true'], Namespaces('pid')).run()"}
out = open(sys.argv[2], "w")
script = "cat; echo out; echo err >&2; ls -l /proc/self/fd >&2"
with open("/etc/hostname") as source:
    code = Container(["sh", "-c", script], Namespaces("pid")).run(stdin=source, stdout=out, stderr=out)
out.close()
print(code, file=report)
# and inherited, that is, not there at all
print(Container(["sh", "-c", "cat; echo x; echo y >&2"], Namespaces("pid")).run(stdin=DEVNULL), file=report)
report.close()
"""
    it = program(code, f"{tmp_path}/report", f"{tmp_path}/out")
    it.process.wait(60)
    assert (tmp_path / "report").read_text() == "0\n0\n"
    lines = (tmp_path / "out").read_text().splitlines()
    assert lines[:3] == [Path("/etc/hostname").read_text().strip(), "out", "err"]
    fds = [line.split(" -> ")[0].split()[-1] for line in lines[3:] if " -> " in line]
    assert fds == ["0", "1", "2", "3"]


@pytest.mark.parametrize("direct", [True, False], ids=["direct", "spawner"])
def test_the_channel_may_stand_where_the_standard_streams_go(
    program: Callable[..., Program], tmp_path: Path, direct: bool
) -> None:
    """With 0, 1 and 2 free, the two ends of the channel get the first of them."""
    code = f"""
high = os.dup2(os.open(sys.argv[1], os.O_RDWR | os.O_CREAT), 100)
{"" if direct else "Container(['true'], Namespaces('pid')).run()"}
os.closerange(0, 50)
code = Container(["sh", "-c", "echo works; echo well >&2"], Namespaces("pid")).run(stdin=high, stdout=high, stderr=high)
os.write(high, str(code).encode())
"""
    if not direct:  # the channel to the spawner must stay open
        code = code.replace("os.closerange(0, 50)", "os.closerange(0, 3)")
    program(code, f"{tmp_path}/out").process.wait(60)
    assert (tmp_path / "out").read_text() == "works\nwell\n0"


def test_descriptors_may_be_swapped(tmp_path: Path, program: Callable[..., Program]) -> None:
    """stdout to our descriptor 2 and stderr to our 1, stdin from our 0 as it is: none overwrites another."""
    code = """
Container(["true"], Namespaces("pid")).run()
for _ in (1, 2):
    Container(["sh", "-c", "echo out; echo err >&2"], Namespaces("pid")).run(stdin=2, stdout=2, stderr=1)
"""
    with open(tmp_path / "2", "w") as two:
        it = program(code, stderr=two)
        assert it.finish() == "err\nerr\n"
    assert (tmp_path / "2").read_text() == "out\nout\n"


# --------------------------------------------------------------------------------------------------- what it inherits


def test_no_descriptor_of_ours_reaches_the_container(tmp_path: Path) -> None:
    ours = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(ours, True)
    high = os.dup2(ours, 700, inheritable=True)
    try:
        for parts in ([], [Namespaces("pid")], [Namespaces("pid", "user", "time", "cgroup")]):
            listed = Container(["/bin/ls", "/proc/self/fd"], *parts).output().split()
            assert listed == ["0", "1", "2", "3"]  # the last is the directory that ls itself reads
    finally:
        os.close(ours)
        os.close(high)


def test_no_descriptor_of_ours_reaches_a_function(program: Callable[..., Program], tmp_path: Path) -> None:
    """Nothing is executed in its process, which is a copy of ours the first time: all has to be closed by hand."""
    code = """
ours = [os.open(sys.argv[1], os.O_RDONLY) for _ in range(20)]
def look():
    return sorted(os.readlink(f"/proc/self/fd/{fd}").partition(":")[0] for fd in os.listdir("/proc/self/fd")
                  if fd not in "012" and os.path.lexists(f"/proc/self/fd/{fd}"))
for _ in range(2):
    container = Container(look, Namespaces("pid"))
    container.run()
    print(*container.returned, flush=True)
"""
    # the channel and a pidfd of our parent
    assert program(code, str(tmp_path)).finish() == "anon_inode socket\n" * 2


def test_the_environment_is_exactly_what_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "of the host")
    given = {"GREETING": "hello world", "PATH": "/bin:/usr/bin", "EMPTY": ""}
    raw = Container(["/usr/bin/env", "-0"], env=given).output()
    assert sorted(raw.rstrip("\0").split("\0")) == ["EMPTY=", "GREETING=hello world", "PATH=/bin:/usr/bin"]
    assert Container(["/usr/bin/env", "-0"]).output().startswith("PATH=/usr/local/sbin:")


def test_signals_are_as_a_new_process_expects_them(program: Callable[..., Program]) -> None:
    """What this program ignores or blocks is its own business: neither survives into the command."""
    code = """
import signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, lambda *_: None)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGTERM})
for _ in (1, 2):
    Container(["cat", "/proc/self/status"], Namespaces("pid")).run()
"""
    lines = [line.split() for line in program(code).finish().splitlines() if line.startswith("Sig")]
    of_the_c_library = 1 << 31 | 1 << 32  # 32 and 33, which posix_spawn(3) leaves ignored; no program can use them
    masks = [(name, int(mask, 16) & ~of_the_c_library) for name, mask in lines if name != "SigQ:"]
    assert masks == [(name, 0) for name in ("SigPnd:", "SigBlk:", "SigIgn:", "SigCgt:")] * 2


def test_the_working_directory_is_what_was_asked_for(tmp_path: Path) -> None:
    assert Container(["/bin/pwd"]).output() == "/\n"
    assert Container(["/bin/pwd"], cwd=str(tmp_path)).output() == f"{tmp_path}\n"
    with pytest.raises(errors.StartError, match="ENOENT") as caught:
        Container(["/bin/pwd"], cwd=f"{tmp_path}/missing").run()
    assert caught.value.part == "Container"
    assert not os.path.exists(tmp_path / "missing")


def test_it_is_in_a_session_of_its_own() -> None:
    fields = Container(["/bin/cat", "/proc/self/stat"]).output().rpartition(")")[2].split()
    group, session, terminal = fields[2:5]
    assert group == session
    assert int(session) != os.getsid(0)
    assert terminal == "0"


# ---------------------------------------------------------------------------------------------------- kill, stop, time


def test_a_timeout_kills_it(mark: str) -> None:
    with pytest.raises(errors.TimeoutExpired, match=r"longer than 0.2 s, and was killed"):
        shell(f": {mark}; sleep 1000 & wait").run(timeout=0.2)
    assert marked(mark) == {}


def test_a_timeout_of_wait_lets_it_run_on() -> None:
    with shell("read line; exit 3").start(stdin=PIPE) as container:
        with pytest.raises(errors.TimeoutExpired):
            container.wait(0.05)
        assert container.poll() is None
        assert container.stdin is not None
        container.stdin.close()
        assert container.wait(60) == 3


def test_kill_sends_any_signal_and_is_harmless_afterwards() -> None:
    container = shell("trap 'exit 9' USR1; echo ready; while :; do sleep 0.01; done").start(stdout=PIPE)
    assert container.stdout is not None
    assert container.stdout.readline() == b"ready\n"
    container.kill(signal.SIGUSR1)
    assert container.wait() == 9
    container.kill()
    container.stdout.close()


def test_stop_asks_first_and_kills_who_does_not_listen() -> None:
    polite = shell("trap 'exit 5' TERM; echo ready; while :; do sleep 0.01; done").start(stdout=PIPE)
    deaf = shell("trap '' TERM; echo ready; while :; do sleep 0.01; done").start(stdout=PIPE)
    for container in (polite, deaf):
        assert container.stdout is not None
        assert container.stdout.readline() == b"ready\n"
        container.stdout.close()
    assert polite.stop(60) == 5
    assert deaf.stop(0.1) == 128 + signal.SIGKILL


def test_leaving_the_block_kills_it(mark: str) -> None:
    with shell(f": {mark}; sleep 1000"):
        assert marked(mark)
    assert marked(mark) == {}


def test_what_it_leaves_in_its_session_ends_with_it(mark: str) -> None:
    assert shell(f"(: {mark}; sleep 1000; true) & sleep 0.01; exit 0").run() == 0
    assert eventually(lambda: not marked(mark))


def test_release_before_start_and_twice_is_harmless() -> None:
    container = shell("true")
    container.release()
    container.release()
    container = shell("true")
    container.run()
    container.release()
    container.remove()


# --------------------------------------------------------------------------------------------------------------- exec


def test_exec_joins_the_running_container(rootfs: str) -> None:
    parts = [Namespaces("pid", "uts", "ipc", "mount", "network", hostname="first"), PivotRoot(rootfs)]
    with Container(["sleep", "1000"], *parts, env={"COLOUR": "red"}) as container:
        second = container.second(
            ["sh", "-c", "hostname; echo $COLOUR $SHADE; ls /; ps | grep -c sleep"], env={"SHADE": "dark"}
        )
        assert second.output().split()[:3] == ["first", "red", "dark"]
        assert container.exec(["sh", "-c", "exit 6"]) == 6
        assert container.poll() is None
        with pytest.raises(errors.CommandNotFound):
            container.exec(["no-such-command"])
        with pytest.raises(errors.TimeoutExpired):
            container.exec(["sleep", "1000"], timeout=0.05)
        assert container.second(["ps", "-o", "comm"]).output().split() == ["COMMAND", "sleep", "ps"]
    with pytest.raises(errors.ContainerError, match="has ended"):
        container.exec(["true"])


def test_exec_into_a_container_without_parts_is_just_a_process() -> None:
    with shell("sleep 1000") as container:
        assert container.second(["/bin/echo", "beside"]).output() == "beside\n"


# --------------------------------------------------------------------------------------------------------------- init


INIT = [[], ["pid"], ["pid", "mount"]]


@pytest.mark.lab
@pytest.mark.parametrize("kinds", INIT, ids=["no namespace", "pid", "pid and mount"])
@pytest.mark.parametrize("way", ["exit 7", "kill -TERM $$", "kill -KILL $$"])
def test_init_ends_as_the_command_does(kinds: list[str], way: str) -> None:
    expected = {"exit 7": 7, "kill -TERM $$": 143, "kill -KILL $$": 137}[way]
    assert shell(way, *([Namespaces(*kinds)] if kinds else []), init=True).run() == expected


@pytest.mark.lab
def test_init_reaps_orphans_in_its_pid_namespace(rootfs: str) -> None:
    """PID 1 is `sleep`, which waits for nobody: the orphans stay zombies. With init they go."""
    count = "grep -h '^Name:.sleep' /proc/[0-9]*/status | wc -l"
    seen = {}
    for init in (False, True):
        with Container(["sleep", "1000"], Namespaces("pid"), PivotRoot(rootfs), init=init) as container:
            container.exec(["sh", "-c", "for i in 1 2 3 4 5 6 7 8 9 10; do (sleep 0.01 &) ; done"])

            def sleepers() -> int:
                """All processes called sleep, dead or alive, but for the container's own command."""
                return int(container.second(["sh", "-c", count]).output()) - 1

            time.sleep(0.5)  # all of them have ended; whether they have also gone is the question
            if init:
                assert eventually(lambda: sleepers() == 0)
            seen[init] = sleepers()
    assert seen == {False: 10, True: 0}


@pytest.mark.lab
def test_init_reaps_orphans_without_a_pid_namespace(mark: str) -> None:
    container = shell(
        f": {mark}; for i in 1 2 3 4 5; do (sleep 0.01 &) ; done; sleep 0.3; echo done; read line; true", init=True
    )
    container.start(stdin=PIPE, stdout=PIPE)
    assert container.stdout is not None
    assert container.stdin is not None
    assert container.stdout.readline() == b"done\n"

    def children() -> list[str]:
        return Path(f"/proc/{container.pid}/task/{container.pid}/children").read_text().split()

    assert eventually(lambda: len(children()) == 1)  # the command alone: no zombie
    container.stdin.close()
    container.stdout.close()
    assert container.wait() == 0
    assert marked(mark) == {}


@pytest.mark.lab
@pytest.mark.parametrize("kinds", INIT[:2], ids=["no namespace", "pid"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2, signal.SIGINT, signal.SIGWINCH])
def test_init_forwards_signals(kinds: list[str], number: int) -> None:
    script = f"trap 'exit 11' {int(number)}; echo ready; while :; do sleep 0.01; done"
    container = shell(script, *([Namespaces(*kinds)] if kinds else []), init=True).start(stdout=PIPE)
    assert container.stdout is not None
    assert container.stdout.readline() == b"ready\n"
    container.kill(number)
    assert container.wait(60) == 11
    container.stdout.close()


@pytest.mark.lab
def test_without_init_a_signal_that_pid_1_does_not_handle_is_ignored_and_with_init_it_ends_it(rootfs: str) -> None:
    parts = [Namespaces("pid"), PivotRoot(rootfs)]
    with Container(["sleep", "1000"], *parts) as container:
        container.kill(signal.SIGTERM)
        with pytest.raises(errors.TimeoutExpired):
            container.wait(0.2)
    with Container(["sleep", "1000"], *parts, init=True) as container:
        container.kill(signal.SIGTERM)
        assert container.wait(60) == 128 + signal.SIGTERM


@pytest.mark.lab
def test_init_ends_what_the_command_leaves_also_in_a_session_of_its_own(mark: str) -> None:
    assert shell(f"setsid sh -c ': {mark}; sleep 1000' & sleep 0.05; exit 0", init=True).run() == 0
    assert eventually(lambda: not marked(mark))


def test_init_holds_no_descriptor_of_ours(tmp_path: Path) -> None:
    ours = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(ours, True)
    try:
        with shell("sleep 1000", init=True).start(stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL) as container:
            assert eventually(lambda: sorted(os.listdir(f"/proc/{container.pid}/fd")) == ["0", "1", "2"])
    finally:
        os.close(ours)


def test_an_error_of_the_command_crosses_init() -> None:
    with pytest.raises(errors.CommandNotFound, match="no-such-command"):
        Container(["no-such-command"], Namespaces("pid"), init=True).run()


def test_killing_init_ends_the_command(mark: str) -> None:
    with shell(f": {mark}; sleep 1000", init=True) as container:
        container.kill()
        assert container.wait() == 137
    assert eventually(lambda: not marked(mark))


# ---------------------------------------------------------------------------------------------- commands that cannot be


def test_a_missing_command_is_named_with_the_path_that_was_searched() -> None:
    with pytest.raises(errors.CommandNotFound, match=r"no command 'nothing-here' in /bin:/nowhere") as caught:
        Container(["nothing-here"], env={"PATH": "/bin:/nowhere"}).run()
    assert caught.value.errno == errno.ENOENT
    with pytest.raises(errors.CommandNotFound, match="no command '/bin/nothing-here'"):
        Container(["/bin/nothing-here"]).run()
    with pytest.raises(errors.CommandNotFound):
        Container(["/bin/sh/nothing-here"]).run()


def test_what_is_no_program_is_not_executable(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("no program")
    with pytest.raises(errors.CommandNotExecutable, match="EACCES") as caught:
        Container([str(file)]).run()
    assert caught.value.errno == errno.EACCES
    file.chmod(0o755)
    with pytest.raises(errors.CommandNotExecutable, match="ENOEXEC"):
        Container([str(file)]).run()
    with pytest.raises(errors.CommandNotExecutable, match="EACCES"):
        Container([str(tmp_path)]).run()
    os.mkfifo(tmp_path / "fifo", 0o755)
    with pytest.raises(errors.CommandNotExecutable):
        Container([str(tmp_path / "fifo")]).run()


def test_a_command_without_its_x_bit_does_not_hide_a_later_one_in_path(tmp_path: Path) -> None:
    for name, mode in (("first", 0o644), ("second", 0o755)):
        (tmp_path / name).mkdir()
        script = tmp_path / name / "tool"
        script.write_text(f"#!/bin/sh\necho {name}\n")
        script.chmod(mode)
    path = f"{tmp_path}/first:{tmp_path}/second"
    assert Container(["tool"], env={"PATH": path}).output() == "second\n"
    with pytest.raises(errors.CommandNotExecutable):
        Container(["tool"], env={"PATH": f"{tmp_path}/first"}).run()


def test_a_missing_interpreter_is_named(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter -x\n")
    script.chmod(0o755)
    with pytest.raises(errors.CommandNotFound, match="interpreter /no/such/interpreter is missing"):
        Container([str(script)]).run()


def test_a_missing_loader_of_a_binary_is_named(tmp_path: Path) -> None:
    binary = tmp_path / "binary"
    original = Path("/bin/true").read_bytes()
    at = original.index(b"/lib", 0, 4096)
    end = original.index(b"\0", at)
    binary.write_bytes(original[:at] + b"/lib/none"[: end - at].ljust(end - at, b"\0") + original[end:])
    binary.chmod(0o755)
    with pytest.raises(errors.CommandNotFound, match="interpreter /lib/none is missing"):
        Container([str(binary)]).run()


def test_arguments_that_are_too_large() -> None:
    with pytest.raises(errors.CommandNotExecutable, match="E2BIG"):
        Container(["/bin/true", "x" * 200_000]).run()
    with pytest.raises(errors.CommandNotExecutable, match="E2BIG"):
        Container(["/bin/true", *["y" * 100_000] * 100]).run()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Container(["/bin/echo", "a\0b"]),
        lambda: Container(["/bin/true"], env={"A": "b\0c"}),
        lambda: Container(["/bin/true"], env={"A=B": "c"}),
        lambda: Container(["/bin/true"], env={"": "c"}),
        lambda: Container([]),
        lambda: Container([""]),
        lambda: Container("/bin/true"),  # type: ignore[arg-type]
    ],
)
def test_what_the_kernel_could_not_take_is_refused_at_once(make: Callable[[], Container]) -> None:
    with pytest.raises(errors.UsageError):
        make()


# ---------------------------------------------------------------------------------------------- errors of parts


class Clumsy(Part):
    """A part that fails in one moment."""

    def __init__(self, moment: str, error: BaseException) -> None:
        self.moment, self.error = moment, error
        self.released = 0

    def _maybe(self, moment: str) -> None:
        if moment == self.moment:
            raise self.error

    def record(self, host: Host) -> None:
        self._maybe("record")

    def prepare(self, host: Host) -> None:
        self._maybe("prepare")

    def attach(self, host: Host) -> None:
        self._maybe("attach")

    def join(self, inside: Inside) -> None:
        self._maybe("join")

    def mount(self, inside: Inside) -> None:
        self._maybe("mount")

    def enter(self, inside: Inside) -> None:
        self._maybe("enter")

    def seal(self, inside: Inside) -> None:
        self._maybe("seal")

    def release(self) -> None:
        self.released += 1


@pytest.mark.parametrize("moment", ["record", "prepare", "attach", "join", "mount", "enter", "seal"])
@pytest.mark.parametrize(
    "error",
    [NotImplementedError("not yet"), ZeroDivisionError("by zero"), OSError(errno.EPERM, "no"), TimeoutError("slow")],
    ids=lambda error: type(error).__name__,
)
def test_an_error_in_a_part_is_one_error_that_names_part_and_moment(
    moment: str, error: BaseException, mark: str
) -> None:
    part = Clumsy(moment, error)
    with pytest.raises(errors.StartError) as caught:
        shell(f": {mark}; sleep 1000", part).run()
    assert (caught.value.part, caught.value.moment) == ("Clumsy", moment)
    assert f"Clumsy could not {moment}" in str(caught.value)
    assert str(error.args[-1]) in str(caught.value)
    assert part.released == 1
    assert marked(mark) == {}


def test_an_error_of_our_own_kind_stays_of_its_kind() -> None:
    with pytest.raises(errors.UsageError, match="bad wish"):
        shell("true", Clumsy("mount", errors.UsageError("bad wish"))).run()
    with pytest.raises(errors.HostError, match="cannot\n  hint: update"):
        shell("true", Clumsy("prepare", errors.HostError("cannot", hint="update"))).run()


class TimeoutExpired(Exception):
    """An error that has a name of ours, as subprocess's has."""


def test_a_foreign_error_with_a_name_of_ours_is_still_a_clear_error() -> None:
    with pytest.raises(errors.StartError, match="TimeoutExpired: five"):
        shell("true", Clumsy("mount", TimeoutExpired("five"))).run()


def test_a_part_that_kills_its_process_is_a_clear_error() -> None:
    class Suicide(Part):
        def mount(self, inside: Inside) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(errors.StartError, match="died while it was being built"):
        shell("true", Suicide()).run()


def test_release_goes_on_after_an_error_and_can_be_repeated() -> None:
    class Stubborn(Part):
        def __init__(self) -> None:
            self.tries = 0

        def release(self) -> None:
            self.tries += 1
            if self.tries == 1:
                raise OSError(errno.EBUSY, "busy")

    stubborn, other = Stubborn(), Clumsy("", Exception())
    container = shell("true", other, stubborn).start()
    with pytest.raises(OSError, match="busy"):
        container.wait()
    assert (other.released, stubborn.tries) == (1, 1)
    container.release()
    assert stubborn.tries == 2
    container.release()
    assert stubborn.tries == 2


# --------------------------------------------------------------------------------------------- functions, and child()


def test_child_returns_what_the_function_returns() -> None:
    assert child(lambda: {"list": [1, 2.5, None, "ä"]}) == {"list": [1, 2.5, None, "ä"]}
    assert child(lambda: "x" * 5_000_000) == "x" * 5_000_000


def test_child_leaves_the_caller_as_it_was(tmp_path: Path) -> None:
    before = (os.readlink("/proc/self/ns/uts"), os.getcwd(), os.stat("/").st_ino)

    def wild() -> list[str]:
        linux.unshare(linux.CLONE_NEWUTS)
        os.chdir("/")
        os.chroot(tmp_path)
        return os.listdir("/")

    (tmp_path / "only this").touch()
    assert child(wild) == ["only this"]
    assert (os.readlink("/proc/self/ns/uts"), os.getcwd(), os.stat("/").st_ino) == before


def test_child_runs_where_the_caller_is_and_prints_where_it_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdout", shown := io.StringIO())

    def report() -> str:
        print("from within")
        return os.getcwd()

    assert child(report) == str(tmp_path)
    assert shown.getvalue() == "from within\n"


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda: os._exit(3), "status 3"),
        (lambda: os._exit(0), "died|nothing"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "status 137"),
        (lambda: object(), "not JSON serializable"),
        (lambda: sys.exit("bye"), "SystemExit"),
    ],
)
def test_a_function_that_returns_nothing_we_can_have_is_an_error(function: Callable[[], object], message: str) -> None:
    with pytest.raises(errors.ContainerError, match=message):
        child(function)


def test_a_function_may_run_too_long() -> None:
    with pytest.raises(errors.TimeoutExpired):
        child(lambda: time.sleep(1000), timeout=0.1)


def test_a_function_reads_its_standard_input(tmp_path: Path) -> None:
    (tmp_path / "in").write_text("a line\n")
    container = Container(lambda: sys.stdin.readline())
    with open(tmp_path / "in") as file:
        assert container.run(stdin=file) == 0
    assert container.returned == "a line\n"


# ------------------------------------------------------------------------------------------------------------- explain


def test_explain_prints_every_call_with_part_and_duration(capsys: pytest.CaptureFixture[str]) -> None:
    assert Container(["true"], Namespaces("uts", hostname="shown")).run(stdout=1, explain=True) == 0
    text = capsys.readouterr().out
    lines = [line for line in text.splitlines() if " ms " in line]
    assert any("Container.clone" in line and "clone3(" in line and "CLONE_NEWUTS" in line for line in lines)
    assert any("Namespaces.enter" in line and "sethostname('shown')" in line for line in lines)
    assert any("execve('" in line for line in lines)


def test_explain_hands_each_call_to_a_function() -> None:
    calls: list[linux.Call] = []
    assert Container(["true"]).run(stdout=1, explain=calls.append) == 0
    assert {"clone3", "execve"} <= {call.name for call in calls}


# ------------------------------------------------------------------------------ the image's own modules stay asleep


ATTACK = "import os; os.write(2, b'the image runs in our process\\n'); os.environ['OWNED'] = '1'\n"


class Importing(Part):
    """What a careless part does once the root is the image's: it uses a module that was not needed before."""

    def __init__(self, restored: bool) -> None:
        self.restored = restored

    def mount(self, inside: Inside) -> None:
        import importlib.machinery

        if self.restored:  # the import system as it was, kept where the defence cannot clear it
            self.saved = (list(sys.meta_path), list(sys.path_hooks), list(sys.path))
        sys.modules.pop("colorsys", None)
        del importlib

    def seal(self, inside: Inside) -> None:
        if self.restored:
            sys.meta_path[:], sys.path_hooks[:], sys.path[:] = self.saved
            sys.path_importer_cache.clear()
        try:
            import colorsys
        except ImportError:
            inside.env["OWNED"] = "no"
        else:
            inside.env["OWNED"] = "yes, by " + str(colorsys.__file__)


@pytest.mark.parametrize("defended", [False, True], ids=["imports left on", "as it is"])
def test_after_the_root_has_changed_no_module_of_the_image_is_run(
    rootfs: str, defended: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    """The image has its own standard library where ours is. With imports left on, it runs as root, outside."""
    import colorsys

    assert colorsys.__file__ is not None
    trap = Path(rootfs + colorsys.__file__)
    trap.parent.mkdir(parents=True)
    trap.write_text(ATTACK)
    container = Container(["sh", "-c", "echo $OWNED"], PivotRoot(rootfs), Importing(restored=not defended))
    answer = container.output()
    if defended:
        assert answer == "no\n"
    else:
        assert answer == f"yes, by {colorsys.__file__}\n"
    assert ("the image runs" in capfd.readouterr().err) is not defended


def test_all_that_a_container_needs_is_loaded_before_its_root_changes(
    rootfs: str, program: Callable[..., Program]
) -> None:
    """Every part and its errors, in a fresh program and its spawner: nothing asks for a module in vain."""
    code = """
import builtins
from minicontainer import errors
class Spy(Part):
    def mount(self, inside):
        real = builtins.__import__
        def asked(name, *rest):
            if name not in sys.modules: os.write(2, ("import " + name + "\\n").encode())
            return real(name, *rest)
        builtins.__import__ = asked
from minicontainer.chroot import Terminal
def parts(*more):
    view = Namespaces("pid", "uts", "ipc", "mount", "network", "cgroup", "time", hostname="x")
    return [view, Spy(), PivotRoot(sys.argv[1], read_only=True), Bind("/etc", "/mnt"), Tmpfs("/run"), *more]
for init in (False, True):
    for user in ("learner", "1234:games"):
        container = Container(["true"], *parts(User(user), Terminal()), init=init, env={"HOME": "/"})
        assert container.start().wait() == 0
for wrong in ([User("nobody-there")], [Bind("/etc", "/bin/busybox/x")]):
    try: Container(["true"], *parts(*wrong)).run()
    except errors.ContainerError as error: pass
    else: raise SystemExit("no error")
for argv in (["nothing"], ["/etc/passwd"], ["/bin"]):
    try: Container(argv, *parts()).run()
    except errors.StartError: pass
    else: raise SystemExit("no error")
"""
    os.mkdir(f"{rootfs}/mnt")
    os.mkdir(f"{rootfs}/run")
    import subprocess

    it = program(code, rootfs, stderr=subprocess.PIPE)
    _, err = it.process.communicate(timeout=60)
    assert it.process.returncode == 0, err
    assert err == ""


def test_a_program_file_is_exactly_what_the_kernel_executes(tmp_path: Path) -> None:
    """argv[0] is the word that was given, the file is the one that PATH has."""
    script = tmp_path / "tool"
    script.write_text('#!/bin/sh\necho "$0 $*"\n')
    script.chmod(0o755)
    assert stat.S_IMODE(script.stat().st_mode) == 0o755
    assert Container(["tool", "a b", ""], env={"PATH": f"{tmp_path}:/bin"}).output() == f"{tmp_path}/tool a b \n"
    assert Container(["cat", "/proc/self/cmdline"]).output() == "cat\0/proc/self/cmdline\0"


def test_the_record_names_the_first_process_while_it_runs_and_is_gone_afterwards(rootfs: str) -> None:
    from minicontainer import state
    from minicontainer.container import records

    class Recorded(Part):
        def record(self, host: Host) -> dict[str, str]:
            return {}

    container = Container(["sleep", "1000"], Recorded())
    with container.start():
        record = records.read(container.id)
        assert record is not None
        assert record["owner"] == {"pid": os.getpid(), "start_time": state.start_time(os.getpid())}
        assert record["process"]["pid"] == container.pid
        assert json.loads(Path(records.path(container.id)).read_text())["argv"] == ["sleep", "1000"]
    assert not os.path.exists(records.directory(container.id))
    with contextlib.suppress(errors.ContainerError):
        container.exec(["true"])
