"""The process behind a container, as the program that started it sees it: who its parent is, where its output goes,
and how we learn of its end."""

from __future__ import annotations

import os
import sys

from minicontainer import errors, linux, state
from minicontainer.container import cloning, spawner
from minicontainer.container.inner import Plan, become
from minicontainer.container.streams import Streams, wait
from minicontainer.lean import signal

FITS_A_SOCKET = 64 << 10
"""Bytes that a socket takes before anybody reads (its buffer is 208 KiB, some of which is bookkeeping), socket(7)."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from minicontainer.container.channel import Channel
    from minicontainer.container.part import Host


class Process:
    """The process behind a container: who its parent is, and how we learn of its end."""

    def __init__(self, streams: Streams) -> None:
        self.streams = streams
        self.keeper: spawner.Spawner | None = None
        self.channel: Channel | None = None
        """Where the result of a Python function will arrive, while it runs."""
        self.recorded = False
        self.reaped = False
        self.code = 0
        self._own_pids = False
        self._pid, self._pidfd = 0, -1
        self._status: Channel | None = None
        """Where a spawner tells of it, if one has cloned it."""

    def clone(self, host: Host, plan: Plan, ours: Channel, theirs: Channel, meanwhile: Callable[[], object]) -> None:
        """Make the process: ourselves, or by a spawner. From then on `host` has its pid.

        `meanwhile` is called once: while a spawner clones, or as soon as we have done it ourselves.
        """
        self._own_pids = bool(host.flags & linux.CLONE_NEWPID) or host.pid_namespace is not None
        maker = self.keeper or spawner.choose(self._own_pids)
        stdio = (self.streams.theirs[0], self.streams.theirs[1], self.streams.theirs[2])
        if maker is None:
            parent = os.pidfd_open(os.getpid())
            try:
                pid, pidfd = cloning.clone_into(host.flags, host.cgroup, host.pid_namespace)
                if pid == 0:
                    become(plan, theirs, stdio, parent)
            finally:
                os.close(parent)
            self._pid, self._pidfd = host.pid, host.pidfd = pid, pidfd
            meanwhile()
        else:
            request = spawner.Request(host, spawner.modules(plan), theirs, stdio)
            flags = linux.clone_flags(host.flags)
            linux.announce("clone3", flags, "clone(2)", lambda: self._by(maker, request, host, plan, ours, meanwhile))

    def _by(
        self,
        maker: spawner.Spawner,
        request: spawner.Request,
        host: Host,
        plan: Plan,
        ours: Channel,
        meanwhile: Callable[[], object],
    ) -> tuple[int, int]:
        """Have it made by a spawner: ask, do something else, hear the answer."""
        self._status = maker.ask(request)
        try:
            payload = spawner.dump(plan)
            message = {"plan": True, "path": _search_path(), "directory": _here()}
            small = len(payload) < FITS_A_SOCKET
            if small:  # it waits there for the process, and not the other way round
                ours.send(message, payload=payload)
            meanwhile()
        finally:  # whatever has happened: a process of which nobody knows could not be ended
            try:
                made = spawner.answer(self._status)
            except spawner.Gone:
                if self.keeper is not None:
                    raise
                self._status.close()
                self._status = spawner.shared().ask(request)
                made = spawner.answer(self._status)
            self._pid, self._pidfd = host.pid, host.pidfd = made
        if not small:
            try:
                ours.send(message, payload=payload)
            except BrokenPipeError:
                pass  # it is gone; what it has left to say is heard later
        return made

    def ended(self, timeout: float | None) -> bool:
        """Relay its output until it ends, and reap it; False if it has not after `timeout` seconds."""
        if self.reaped:
            return True
        if not wait(self.streams, self.channel, self._status.fileno() if self._status else self._pidfd, timeout):
            return False
        try:
            self.code = self._hear_end(self._status) if self._status else self._reap()
        finally:
            self.reaped = True
            self.close()
        return True

    def _reap(self) -> int:
        try:
            return cloning.reap(self._pid, self._own_pids)
        except ChildProcessError:
            raise errors.HostError(
                f"somebody else in this program has waited for process {self._pid}: its exit status is lost",
                hint="wait for your own children by their pids, not for any child",
            ) from None

    def _hear_end(self, status: Channel) -> int:
        told = status.receive()
        if told is not None:
            code: int = told[0]["ended"]
            return code
        # The spawner was killed, and with it the process, but not what that had left in its session.
        wait(self.streams, None, self._pidfd, None)
        if not self._own_pids and not state.start_time(self._pid):
            cloning.kill_session(self._pid)
        return 128 + signal.SIGKILL

    def close(self) -> None:
        """Let go of every descriptor of ours."""
        self.streams.close()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        if self._status is not None:
            self._status.close()
            self._status = None
        if self.keeper is not None:
            self.keeper.release()
            self.keeper = None


def _search_path() -> list[str]:
    return [os.path.abspath(entry) for entry in sys.path]


def _here() -> str:
    """The current directory, in which a part may still look things up; `/` if it has been removed."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return "/"
