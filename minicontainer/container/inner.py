"""The container's own process, between the clone and the exec.

After clone3 there are two copies of the same program. One stays on the host; this is the other one. It waits until
the host's side has attached what can only be attached from outside, then takes every part through its inner moments,
and becomes the command:

    wait for go → join → mount → enter → chdir → seal → exec

From `enter` on, every path means the container's files, which are not to be trusted. So nothing is imported any more
(a chrooted Python would run the image's own modules, as root): the import system is switched off.
"""

from __future__ import annotations

import errno
import fcntl
import gc
import io
import os
import select
import sys

from minicontainer import linux
from minicontainer.container import init
from minicontainer.container.channel import Channel
from minicontainer.container.part import Inside
from minicontainer.errors import CommandNotExecutable, CommandNotFound, ContainerError
from minicontainer.lean import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from minicontainer.container.part import Part

MOMENTS = ("join", "mount", "enter", "seal")
MAX_INTERPRETER = 256  # BINPRM_BUF_SIZE: as much of a "#!" line as the kernel reads


class Plan:
    """All that the process has to know. Travels to a spawner's child by pickle.

    `keep` descriptors after the standard streams (3, 4, …) stay open in the command. A process that `outlives` is not
    tied to its maker's life once all its parts are sealed.
    """

    def __init__(
        self,
        argv: list[str],
        function: Callable[[], object] | None,
        env: dict[str, str],
        cwd: str,
        hostname: str,
        parts: list[Part],
        *,
        init: bool,
        traced: bool,
        fail_at: int,
        fail_errno: int,
        keep: int = 0,
        outlives: bool = False,
    ) -> None:
        self.argv, self.function, self.env, self.cwd = argv, function, env, cwd
        self.hostname, self.parts = hostname, parts
        self.init, self.traced, self.fail_at, self.fail_errno = init, traced, fail_at, fail_errno
        self.keep, self.outlives = keep, outlives


def become(plan: Plan, channel: Channel, stdio: tuple[int, int, int], parent: int) -> NoReturn:
    """Turn this freshly cloned process into the container's command; never returns.

    `stdio` are the descriptors that become 0, 1 and 2, `parent` is a pidfd of the process that cloned us.
    """
    gc.disable()  # a collected object of the old program would close a descriptor number that is ours by now
    reporter = _Reporter(channel)
    try:
        watcher = linux.Watch(fail_at=plan.fail_at, fail_errno=plan.fail_errno)
        if plan.traced or plan.fail_at:
            reporter.watcher = watcher
            with linux.watch(watcher):
                _build(plan, channel, stdio, parent, reporter)
        else:
            with linux.watch(None):
                _build(plan, channel, stdio, parent, reporter)
    except BaseException as error:
        reporter.failed(error)
    finally:
        os._exit(70)


def _build(plan: Plan, channel: Channel, stdio: tuple[int, int, int], parent: int, reporter: _Reporter) -> None:
    reporter.at("Container", "prepare")
    tie_to(parent)
    _reset_signals()
    parent = _take_descriptors(stdio, channel, parent, plan.keep)
    linux.setsid()

    go = channel.receive()
    if go is None:
        os._exit(70)  # the host's side gave up or died
    message, fds, _ = go
    inside = Inside(list(plan.argv), dict(plan.env), plan.cwd, plan.hostname)
    inside.fds = dict(zip(message["gifts"], fds, strict=True))
    inside.give_back = lambda name, fd: reporter.channel.send({"gift": name}, [fd])
    inside.ask = lambda question: _ask(channel, question)
    inside.report_to = reporter.report_to

    importing, root = tuple(list(finders) for finders in _import_system()), _root()
    for moment in MOMENTS:
        if moment == "enter" and plan.parts:
            for finders in _import_system():
                finders.clear()
        if moment == "seal":
            reporter.at("Container", "enter")
            _change_directory(inside)
        parts = plan.parts if moment != "seal" else sorted(plan.parts, key=lambda part: part.seal_order)
        for part in parts:
            reporter.at(type(part).__name__, moment)
            getattr(part, moment)(inside)

    reporter.at("Container", "seal")
    if plan.outlives:
        linux.prctl(linux.PR_SET_PDEATHSIG, 0)
    else:
        tie_to(parent)  # again: setresuid clears it, prctl(2)
    linux.close_range(3 + plan.keep, flags=linux.CLOSE_RANGE_CLOEXEC)
    found = _candidates(inside) if plan.function is None else []
    for action in inside.at_exec:
        reporter.at(type(getattr(action, "__self__", action)).__name__, "seal")
        action()
    if plan.function is not None:
        reporter.at("Container", "call")
        if _root() == root:  # it is still the host's own files that it would import
            sys.meta_path[:], sys.path_hooks[:], sys.path[:] = importing
        _call(plan.function, reporter)
    if plan.init:
        init.run(lambda: _execute_as_child(inside, found, reporter), channel.close)
    _execute(inside, found, reporter)


def tie_to(parent: int) -> None:
    """Die when the process behind the pidfd `parent` dies, also if it is dead by now."""
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    poll = select.poll()
    poll.register(parent, select.POLLIN)
    if poll.poll(0):
        os._exit(70)


def _reset_signals() -> None:
    """Every signal is at its default again, and none is blocked; what is ignored or blocked would stay so in exec."""
    for number in signal.valid_signals():
        if signal.getsignal(number) is not signal.SIG_DFL:  # most are
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def _ask(channel: Channel, question: str) -> dict[str, Any]:
    channel.send({"ask": question})
    answer = channel.receive()
    if answer is None:
        os._exit(70)  # the host's side gave up or died
    return answer[0]


def _take_descriptors(stdio: tuple[int, int, int], channel: Channel, parent: int, keep: int) -> int:
    """Make `stdio` 0, 1 and 2, keep `keep` more after them, the channel and `parent` (returned: it may move), and
    close everything else.

    Nothing of the host's reaches the container. Any of them may be in the way of 0, 1 and 2, in any order: a program
    that has closed its own gets these numbers for whatever it opens next.
    """
    above = [_dup_high(fd) for fd in stdio]
    channel.lift()
    parent = parent if parent > 2 else _dup_high(parent)
    for target, fd in enumerate(above):
        linux.dup2(fd, target)
    first = 3 + keep
    for fd in sorted([*channel.descriptors(), parent]):
        if first < fd:
            linux.close_range(first, fd - 1)
        first = max(first, fd + 1)
    linux.close_range(first)
    return parent


def _dup_high(fd: int) -> int:
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)


def _import_system() -> tuple[list[Any], list[Any], list[str]]:
    """What Python finds modules by."""
    return sys.meta_path, sys.path_hooks, sys.path


def _root() -> tuple[int, int]:
    status = os.stat("/")
    return status.st_dev, status.st_ino


def _change_directory(inside: Inside) -> None:
    try:
        linux.chdir(inside.cwd)
    except FileNotFoundError:
        if inside.rootfs is None:
            raise
        os.makedirs(inside.cwd)  # a working directory that the image lacks is made, as Docker does
        linux.chdir(inside.cwd)
    os.getcwd()  # fails where the directory lies outside the root (CVE-2024-21626)


def _candidates(inside: Inside) -> list[str]:
    """Where the command may lie, looked up in PATH as execvp(3) does, while looking is still allowed."""
    command = inside.argv[0]
    if "/" in command:
        return [command]
    paths = [f"{directory or '.'}/{command}" for directory in inside.env.get("PATH", "").split(":")]
    return paths if len(paths) == 1 else [path for path in paths if os.path.lexists(path)]


def _execute(inside: Inside, candidates: list[str], reporter: _Reporter) -> None:
    """Replace this process by the command. Raises when there is none.

    A filter of system calls may be in force by now: a word to the host's side (sendto) and execve is all that a start
    still needs.
    """
    command = inside.argv[0]
    denied: OSError | None = None
    for path in candidates:
        reporter.about_to_execute(path, inside)
        try:
            linux.execve(path, inside.argv, inside.env)
        except (FileNotFoundError, NotADirectoryError) as error:
            interpreter = _interpreter(path)
            if interpreter:
                raise CommandNotFound(
                    f"cannot execute {path}: its interpreter {interpreter} is missing in the container",
                    hint="install it in the image, or start the command by another one",
                    errno=error.errno or 0,
                    call="execve",
                ) from None
        except PermissionError as error:
            denied = error
        except OSError as error:
            raise _cannot_execute(path, error) from None
    if denied is not None:
        raise _cannot_execute(command, denied)
    where = f" in {inside.env.get('PATH', '(no PATH)')}" if "/" not in command else ""
    raise CommandNotFound(
        f"there is no command {command!r}{where}",
        hint="check the spelling, and that the container's root has it",
        errno=errno.ENOENT,
        call="execve",
    )


def _execute_as_child(inside: Inside, candidates: list[str], reporter: _Reporter) -> None:
    reporter.pid = os.getpid()
    _execute(inside, candidates, reporter)


def _call(function: Callable[[], object], reporter: _Reporter) -> NoReturn:
    """Call a Python function in place of executing a command, and end with status 0."""
    sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0)))
    sys.stdout, sys.stderr = (io.TextIOWrapper(io.FileIO(fd, "wb"), write_through=True) for fd in (1, 2))
    reporter.channel.send({"calling": True})
    reporter.returned(function())
    os._exit(0)


def _cannot_execute(path: str, error: OSError) -> CommandNotExecutable:
    reasons = {
        errno.EACCES: "is it a file with its x bit set, on a mount that is not noexec?",
        errno.ENOEXEC: "it is neither a binary of this architecture nor a script that begins with #!",
        errno.E2BIG: "arguments and environment are larger than a quarter of the stack limit",
    }
    return CommandNotExecutable(
        f"cannot execute {path}: {linux.errno_name(error.errno or 0)} ({error.strerror})",
        hint=reasons.get(error.errno or 0, "see execve(2)"),
        errno=error.errno or 0,
        call="execve",
    )


def _interpreter(path: str) -> str:
    """What a file that exists and yet gives ENOENT wants to be run by: the loader of a binary, or a script's #!."""
    try:
        with open(path, "rb") as file:
            start = file.read(4096)
    except OSError:
        return ""
    if start.startswith(b"#!"):
        words = start[2:MAX_INTERPRETER].partition(b"\n")[0].split()
        return os.fsdecode(words[0]) if words else ""
    if start.startswith(b"\x7fELF"):
        at = start.find(b"/lib")
        return os.fsdecode(start[at:].partition(b"\0")[0]) if at > 0 else "(the program loader)"
    return ""


class _Reporter:
    """Tells the host's side how far we are when something goes wrong, and what the door has seen."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.watcher: linux.Watch | None = None
        self.pid = os.getpid()
        self.part = self.moment = ""

    def report_to(self, fd: int) -> None:
        self.channel = Channel(fd)

    def at(self, part: str, moment: str) -> None:
        self.part, self.moment = part, moment
        if self.watcher:
            self.watcher.label = f"{part}.{moment}"

    def about_to_execute(self, path: str, inside: Inside) -> None:
        # If the exec succeeds nobody is left to tell, so it is told before; a failed one follows as an error.
        calls = [_as_list(call) for call in self.watcher.calls] if self.watcher else []
        self.channel.send({"calls": calls, "execve": f"{path!r}, {inside.argv!r}", "pid": self.pid})
        if self.watcher:
            self.watcher.calls.clear()

    def returned(self, value: object) -> None:
        calls = [_as_list(call) for call in self.watcher.calls] if self.watcher else []
        self.channel.send({"returned": value, "calls": calls})

    def failed(self, error: BaseException) -> None:
        message: dict[str, Any] = {"part": self.part, "moment": self.moment, "kind": type(error).__name__}
        if self.watcher:
            message["calls"] = [_as_list(call) for call in self.watcher.calls]
        if isinstance(error, ContainerError):
            message |= {"message": error.message, "hint": error.hint}
            message |= {"errno": getattr(error, "errno", 0), "call": getattr(error, "call", "")}
        elif isinstance(error, OSError):
            message |= {"message": str(error), "errno": error.errno or 0, "call": getattr(error, "call", "")}
        else:
            message["message"] = f"{type(error).__name__}: {error}"
        try:
            self.channel.send({"failed": message})
        except OSError:
            os._exit(70)  # nobody listens any more


def _as_list(call: linux.Call) -> list[Any]:
    return [getattr(call, field) for field in linux.CALL_FIELDS]
