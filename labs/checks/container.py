"""The checks of lab 01: exit statuses, a run, its output, a clean start, and a PID 1 for the engine."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from typing import TYPE_CHECKING

from labs.checks.engine import module_tests
from labs.checks.frame import STRAY, Lab, attempt, expect, until
from minicontainer import linux

if TYPE_CHECKING:
    from collections.abc import Callable

lab = Lab("01-container")

ENDS = ("exit 0", "exit 3", "kill -TERM $$", "kill -KILL $$", "kill -ABRT $$")


def _shell(script: str) -> int:
    """What a real shell says of the end of `script`: the oracle."""
    command = ["sh", "-c", 'sh -c "$1"; exit $?', "sh", script]
    return subprocess.run(command, stderr=subprocess.DEVNULL).returncode


def _compare(got: list[object]) -> None:
    for script, status in zip(ENDS, got, strict=True):
        wanted = _shell(script)
        expect(status == wanted, saw=f"for `{script}` yours is {status!r}", wanted=f"{wanted}, as a shell has in $?")


@lab.exercise("an exit status")
def exit_status(answer: Callable[[os.waitid_result], int]) -> str:
    """Five processes end in five ways; what is made of the kernel's report is compared with a shell's."""

    def ask() -> list[object]:
        got: list[object] = []
        for script in ENDS:
            pid, pidfd = linux.clone3()
            if pid == 0:
                linux.execve("/bin/sh", ["sh", "-c", script], {})
            result = linux.waitid(pidfd)
            assert result is not None
            got.append(answer(result))
        return got

    _compare(attempt(ask, answer).value)
    return "your status is the shell's for " + ", ".join(f"`{script}`" for script in ENDS)


@lab.exercise("run a program")
def run(answer: Callable[[list[str]], int]) -> str:
    """Programs are run; their parent, their status and what is left of them are looked at."""
    with tempfile.TemporaryDirectory(prefix="minicontainer-lab-") as folder:

        def ask() -> dict[str, object]:
            got = [answer(["/bin/sh", "-c", script]) for script in ENDS]
            answer(["/bin/sh", "-c", 'echo $PPID > "$1"', "sh", f"{folder}/parent"])
            answer(["/bin/sh", "-c", 'exec /bin/cat /proc/$$/environ > "$1"', "sh", f"{folder}/environment"])
            missing = answer(["/no/such/program"])
            return {"got": got, "pid": os.getpid(), "missing": missing, "children": _children()}

        seen = attempt(ask, answer).value
        _compare(seen["got"])
        with open(f"{folder}/parent") as file:
            parent = int(file.read())
        with open(f"{folder}/environment") as file:
            variables = [word.partition("=")[0] for word in file.read().split("\0") if word]
    expect(parent == seen["pid"], saw="the program's parent is another process", wanted="the process that called `run`")
    expect(
        seen["missing"] != STRAY,
        saw="for a program that does not exist, two processes came back from `run`: the copy went on with your code",
        wanted="a copy that ends when `execve` fails, and 127 in the original",
    )
    given = [name for name in variables if name not in ("PWD", "OLDPWD", "SHLVL", "_")]  # these a shell adds itself
    expect(
        not given,
        saw=f"the program was given {len(given)} variables ({', '.join(given[:3])}, …)",
        wanted="an empty environment",
    )
    expect(seen["missing"] == 127, saw=f"{seen['missing']!r} for a program that does not exist", wanted="127")
    expect(seen["children"] == [], saw=f"it left {_states(seen['children'])}", wanted="no child left, dead or alive")
    return "statuses are the shell's, a missing program is 127, and no child is left"


@lab.exercise("what it writes")
def output_of(answer: Callable[[list[str]], str]) -> str:
    """Short and long outputs come back whole, and no descriptor and no child stays."""
    long = 'i=0; while [ $i -lt 20000 ]; do echo "line $i"; i=$((i + 1)); done'

    def ask() -> dict[str, object]:
        before = _descriptors()
        hello = answer(["/bin/sh", "-c", "echo hello; echo this goes to descriptor 2 >&2; exit 3"])
        if not isinstance(hello, str):
            return {"hello": hello}
        text = answer(["/bin/sh", "-c", long])
        nothing = answer(["/bin/true"])
        after = _descriptors()
        return {
            "hello": hello,
            "lines": text.splitlines() == [f"line {i}" for i in range(20000)],
            "size": len(text),
            "nothing": nothing,
            "open": sorted(after[fd] for fd in after.keys() - before.keys()),
            "children": _children(),
        }

    seen = attempt(ask, answer).value
    expect(
        seen["hello"] == "hello\n",
        saw=f"{seen['hello']!r} from a program that writes hello to its output, and an error to descriptor 2",
        wanted="'hello\\n'",
    )
    expect(seen["lines"], saw=f"{seen['size']} characters of a long output", wanted="all 20000 lines of it")
    expect(seen["nothing"] == "", saw=f"{seen['nothing']!r} from a program that writes nothing", wanted="''")
    expect(
        not seen["open"],
        saw=f"after three calls {len(seen['open'])} more descriptors are open than before: {', '.join(seen['open'])}",
        wanted="none: whoever makes a descriptor closes it",
    )
    expect(seen["children"] == [], saw=f"it left {_states(seen['children'])}", wanted="no child left, dead or alive")
    return "short, long and empty outputs are whole; no descriptor and no child is left"


@lab.exercise("a clean start")
def launch(answer: Callable[[list[str]], int]) -> str:
    """A caller with odd signals and a forgotten descriptor starts a program; /proc tells what it has got of them."""

    def ask() -> dict[str, object]:
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        forgotten = os.open("/", os.O_RDONLY)
        os.set_inheritable(forgotten, True)  # as most programs' are that are not written in Python
        pid = answer(["/bin/sleep", "1000"])
        if not isinstance(pid, int):
            return {"pid": repr(pid)}
        os.close(forgotten)
        until(lambda: _sleeps(pid), 10)
        with open(f"/proc/{pid}/status") as file:
            status = dict(line.split(":", 1) for line in file)
        fds = sorted(os.listdir(f"/proc/{pid}/fd"), key=int)
        os.kill(pid, signal.SIGKILL)
        mine = {"parent": int(status["PPid"]) == os.getpid(), "fds": fds}
        return {**mine, "ignored": _names(int(status["SigIgn"], 16)), "blocked": _names(int(status["SigBlk"], 16))}

    seen = attempt(ask, answer).value
    expect("pid" not in seen, saw=f"{seen.get('pid')} came back", wanted="the program's pid, a number")
    expect(seen["parent"], saw="a program whose parent is another process", wanted="a child of the caller")
    expect(
        seen["fds"] == ["0", "1", "2"], saw=f"it holds the descriptors {', '.join(seen['fds'])}", wanted="0, 1 and 2"
    )
    expect(not seen["ignored"], saw=f"it ignores {seen['ignored']}", wanted="no signal ignored")
    expect(not seen["blocked"], saw=f"it blocks {seen['blocked']}", wanted="no signal blocked")
    return "the program holds 0, 1 and 2, and ignores and blocks no signal"


@lab.exercise("a PID 1, in the engine")
def watch_over(answer: Callable[[int, set[signal.Signals]], int]) -> str:
    """First alone; then the engine uses it for `init=True`, and that feature's own tests run."""

    def ask() -> object:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
        pid, _ = linux.clone3()
        if pid == 0:
            linux.execve("/bin/sh", ["sh", "-c", "exit 3"], {})
        return answer(pid, {signal.SIGCHLD})

    alone = attempt(ask, answer)
    expect(alone.value == 3, saw=f"{alone.value!r} for a command that exits with 3", wanted="3")
    return module_tests(answer, "minicontainer.container.init:_watch_over", "test_container_life.py")


def _children() -> list[int]:
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return [int(word) for word in file.read().split()]


def _descriptors() -> dict[str, str]:
    """What this process holds: number → a file's path, or what it is (pipe, pidfd)."""
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            what = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:
            continue  # the one that the listing itself has used
        found[fd] = what if what.startswith("/") else what.removeprefix("anon_inode:").split(":")[0].strip("[]")
    return found


def _states(children: list[int]) -> str:
    return f"{len(children)} child" + ("ren" if len(children) > 1 else "") + " (a zombie counts)"


def _names(mask: int) -> str:
    """The signals of a mask of /proc/PID/status, but for those that the C library keeps to itself."""
    return ", ".join(getattr(n, "name", f"signal {n}") for n in sorted(signal.valid_signals()) if mask & 1 << n - 1)


def _sleeps(pid: int) -> bool:
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        return file.read().startswith(b"/bin/sleep")
