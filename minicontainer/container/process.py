"""The process behind a container, as the program that started it sees it: who its parent is, where its output goes,
and how we learn of its end."""

from __future__ import annotations

import os
from signal import SIGKILL

from minicontainer import errors, linux, state
from minicontainer.container import cloning, spawner
from minicontainer.container.inner import Plan, become
from minicontainer.container.streams import Streams, wait

TYPE_CHECKING = False
if TYPE_CHECKING:
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
        self.payload = b""
        """The plan by value, when a spawner's child has to be told."""
        self.reaped = False
        self.code = 0
        self._own_pids = False
        self._pid, self._pidfd, self._status = 0, -1, -1

    def clone(self, host: Host, plan: Plan, theirs: Channel) -> None:
        """Make the process: ourselves, or by a spawner. From then on `host` has its pid."""
        stdio = (self.streams.theirs[0], self.streams.theirs[1], self.streams.theirs[2])
        self._own_pids = bool(host.flags & linux.CLONE_NEWPID) or host.pid_namespace is not None
        maker = self.keeper or spawner.choose(self._own_pids)
        if maker is None:
            parent = os.pidfd_open(os.getpid())
            try:
                pid, pidfd = cloning.clone_into(host.flags, host.cgroup, host.pid_namespace)
                if pid == 0:
                    become(plan, theirs, stdio, parent)
            finally:
                os.close(parent)
        else:
            self._status, theirs_status = os.pipe2(os.O_CLOEXEC)
            try:
                self.payload, modules = spawner.dump(plan)
                request = spawner.Request(host, modules, theirs, stdio, theirs_status)
                pid, pidfd = linux.announce(
                    "clone3", linux.clone_flags(host.flags), "clone(2)", lambda: maker.clone(request)
                )
            finally:
                os.close(theirs_status)
        self._pid, self._pidfd = host.pid, host.pidfd = pid, pidfd

    def ended(self, timeout: float | None) -> bool:
        """Relay its output until it ends, and reap it; False if it has not after `timeout` seconds."""
        if self.reaped:
            return True
        if not wait(self.streams, self.channel, self._pidfd if self._status < 0 else self._status, timeout):
            return False
        try:
            self.code = self._reap() if self._status < 0 else self._hear_end()
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

    def _hear_end(self) -> int:
        told = os.read(self._status, 1)
        if told:
            return told[0]
        # The spawner was killed, and the process with it, but not what that had left in its session.
        if not self._own_pids and not state.start_time(self._pid):
            cloning.kill_session(self._pid)
        return 128 + SIGKILL

    def close(self) -> None:
        """Let go of every descriptor of ours."""
        self.streams.close()
        for fd in (self._pidfd, self._status):
            if fd >= 0:
                os.close(fd)
        self._pidfd = self._status = -1
        if self.keeper is not None:
            self.keeper.release()
            self.keeper = None
