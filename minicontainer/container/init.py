"""PID 1 for a container whose command does not expect to be it.

The first process of a PID namespace has two duties that no other process has: it inherits every orphan, and has to
wait for it (or zombies pile up until pids.max); and a signal it has no handler for is ignored, so that `stop` would
wait its ten seconds in vain. With `init=True` our own process stays as PID 1, runs the command as its child, hands
every signal on, reaps whatever ends, and ends with the command's own status. What `docker run --init` adds is the
same in a small binary (tini). signal(7), pid_namespaces(7)
"""

from __future__ import annotations

import os

from minicontainer import linux
from minicontainer.lean import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

# These stop or report a fault of the one process they are sent to: not ours to hand on.
_NOT_FORWARDED: set[int] = {signal.SIGCHLD, signal.SIGKILL, signal.SIGSTOP, signal.SIGTTIN, signal.SIGTTOU}
_NOT_FORWARDED |= {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP, signal.SIGABRT}


def run(execute: Callable[[], None], detach: Callable[[], None]) -> NoReturn:
    """Run `execute` (which becomes the command) in a child, and be its init; never returns.

    `detach` lets go of the channel to the host's side in this process, so that only the child holds it.
    Errors of `execute` leave by exception, in the child.
    """
    blocked: set[int] = {*signal.valid_signals()} - _NOT_FORWARDED | {signal.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked | {signal.SIGTTOU})
    linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
    myself = os.getpid()
    pid = linux.announce("fork", "", "fork(2)", os.fork)  # not clone3: a filter of system calls refuses that
    if pid == 0:
        os.setpgid(0, 0)  # a group of its own, so that a terminal's Ctrl-C reaches it once
        if os.isatty(0):
            os.tcsetpgrp(0, os.getpid())  # SIGTTOU, which would stop a background process here, is blocked still
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != myself:
            os._exit(70)  # it died before we could be told
        execute()
        os._exit(70)
    detach()
    with linux.watch(None):  # nobody is left to report to
        linux.close_range(3)
    os.chdir("/")
    status = _watch_over(pid, blocked)
    _end_the_rest()
    os._exit(status)


def _watch_over(command: int, blocked: set[int]) -> int:
    """Forward signals and reap until the command ends; its exit status, 128 + n after signal n."""
    while True:
        number = signal.sigwait(blocked)
        if number != signal.SIGCHLD:
            try:
                os.kill(command, number)
            except ProcessLookupError:
                continue
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            if pid == command:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code


def _end_the_rest() -> None:
    """Kill and reap all other descendants. In a PID namespace the kernel does it; without one, this does."""
    while True:
        killed = [pid for pid in children(os.getpid()) if _kill(pid)]
        if not killed:
            return
        for pid in killed:
            os.waitpid(pid, 0)


def children(pid: int) -> list[int]:
    """The direct children of a process, from /proc/PID/task/TID/children (empty where /proc is not mounted)."""
    found: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as file:
                found.extend(int(word) for word in file.read().split())
    except (FileNotFoundError, ProcessLookupError):
        return []
    return found


def _kill(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True
