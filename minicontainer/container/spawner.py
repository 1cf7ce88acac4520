"""A small single-threaded process that clones containers for a program that must not clone itself.

A Jupyter kernel has a dozen threads, an asyncio daemon some. A clone copies only the thread that calls it; if another
one held a lock at that moment (malloc's, the import system's), it is held in the child for ever. So such a program
starts one spawner, a fresh Python with nothing but this package in it, and asks it:

    program ──"clone, with these flags, these descriptors"──▶ spawner ──clone3──▶ the container's process
       └──────────── plan, go, errors: straight to the container's process ──────────┘

The spawner never opens what the program sends to the container's process. It is the parent of its containers: it
reaps them, tells the program how they ended, and kills what is left of them when the program goes. A detached
container gets a spawner of its own that stays until the container has ended: its keeper.
"""

from __future__ import annotations

import fcntl
import os
import sys
from _thread import allocate_lock  # `threading` is more than a container's start can spend

from minicontainer import linux
from minicontainer.container.channel import Channel
from minicontainer.errors import ContainerError, HostError
from minicontainer.lean import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minicontainer.container.inner import Plan
    from minicontainer.container.part import Host


class Request:
    """What a spawner is told: everything about the clone, nothing about what the process will be."""

    def __init__(self, host: Host, modules: list[str], channel: Channel, stdio: tuple[int, int, int]) -> None:
        optional = [fd for fd in (host.cgroup, host.pid_namespace) if fd is not None]
        self.fds = [channel.fileno(), *stdio, *optional]
        self.message = {
            "container": host.id,
            "flags": host.flags,
            "modules": modules,
            "cgroup": host.cgroup is not None,
            "pid_namespace": host.pid_namespace is not None,
        }


class Gone(HostError):
    """The spawner died before it answered."""


class Spawner:
    """The program's side: a handle on one spawner process."""

    def __init__(self, keep: bool = False) -> None:
        ours, theirs = Channel.pair()
        channel_fd = fcntl.fcntl(theirs.fileno(), fcntl.F_DUPFD_CLOEXEC, 10)  # out of the way of 3 and 4
        myself = os.pidfd_open(os.getpid())
        owner = fcntl.fcntl(myself, fcntl.F_DUPFD_CLOEXEC, 10)
        os.close(myself)
        code = "import sys; sys.path[:] = sys.argv[2:]; from minicontainer.container import serving; serving.main()"
        try:
            # posix_spawn is a vfork and an exec in C: safe in a program with threads
            self.pid = os.posix_spawn(
                sys.executable,
                [sys.executable, "-I", "-S", "-c", code, str(int(keep)), *[os.path.abspath(p) for p in sys.path]],
                os.environ,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, channel_fd, 3),
                    (os.POSIX_SPAWN_DUP2, owner, 4),
                ],
                setsid=True,  # a Ctrl-C meant for the program does not reach it
                setsigmask=[],
                setsigdef=list(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}),
            )
        finally:
            theirs.close()
            os.close(channel_fd)
            os.close(owner)
        self.owner = os.getpid()
        self._channel = ours
        self._lock = allocate_lock()

    def ask(self, request: Request) -> Channel:
        """Have a process cloned that then waits for its plan on its channel. What comes back is where the spawner
        will tell of it: its `answer`, and one day its end. A spawner that has died says nothing there."""
        ours, theirs = Channel.pair()
        try:
            with self._lock:
                self._channel.send(request.message, [theirs.fileno(), *request.fds])
        except BrokenPipeError:
            pass
        finally:
            theirs.close()
        return ours

    def alive(self) -> bool:
        """Whether it can be asked: it is ours, and nobody has hung up."""
        return self.owner == os.getpid() and self._channel.fileno() >= 0 and not self._channel.readable()

    def fileno(self) -> int:
        """Our end of the channel."""
        return self._channel.fileno()

    def close(self) -> None:
        """Hang up: it ends when its containers have (a keeper), or ends them (any other)."""
        self._channel.close()

    def release(self) -> None:
        """Hang up, and see to it that it is reaped when it ends."""
        self.close()
        if self.owner == os.getpid():
            import threading

            threading.Thread(target=_reap, args=(self.pid,), daemon=True).start()


def _reap(pid: int) -> None:
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        return  # somebody else of this program waits for any child, as asyncio's watchers may


def answer(status: Channel) -> tuple[int, int]:
    """Hear what became of a request: (pid, pidfd). Raises KernelError when clone3 failed, Gone when the spawner is."""
    reply = status.receive()
    if reply is None:
        raise Gone("the process that makes containers is gone", hint="something killed it; try again")
    message, fds, _ = reply
    if "errno" in message:
        raise linux.kernel_error(message["errno"], message["call"], message["arguments"])
    return message["pid"], fds[0]


_shared: Spawner | None = None
_shared_lock = allocate_lock()


def _after_fork() -> None:
    global _shared_lock
    _shared_lock = allocate_lock()  # a thread that held it was not copied


os.register_at_fork(after_in_child=_after_fork)


def shared() -> Spawner:
    """This program's spawner, started when it is first needed, and anew when it has died."""
    global _shared
    with _shared_lock:
        if _shared is None or not _shared.alive():
            if _shared is not None:
                _shared.release()
            _shared = Spawner()
        return _shared


def current() -> Spawner | None:
    """This program's spawner, if it has started one."""
    return _shared if _shared is not None and _shared.owner == os.getpid() else None


_cloned_directly = 0


def choose(own_pids: bool) -> Spawner | None:
    """Who is to clone the next container: a spawner, or this process itself (None).

    A process with one thread may do it itself, and its first container it does: a script that runs one is done before
    a spawner would have started. From the second on a spawner does it, although nothing forces us: its memory is
    small, and every page of it that one side changes after the clone has to be copied.

    Not so when the container has no PID namespace, with which all its processes end: if this program is killed,
    somebody has to stay who finds those that the container's first process has left. Nor when this program ignores
    SIGCHLD: then the kernel forgets how its children ended. wait(2)
    """
    global _cloned_directly
    alone = len(os.listdir("/proc/self/task")) == 1 and signal.getsignal(signal.SIGCHLD) != signal.SIG_IGN
    if alone and own_pids and _shared is None and _cloned_directly != os.getpid():
        _cloned_directly = os.getpid()
        return None
    return shared()


def modules(plan: Plan) -> list[str]:
    """The modules that a plan's parts come from, for the spawner to import once."""
    package = __name__.split(".")[0]
    names = {type(part).__module__ for part in plan.parts} | ({"__main__"} if plan.function else set())
    ours = sorted(name for name in names if name.split(".")[0] == package)
    return ours if len(ours) == len(names) else [*ours, "cloudpickle"]


def dump(plan: Plan) -> bytes:
    """The plan by value.

    A part that exists only in a notebook's cell has no module that another process could import: cloudpickle then
    sends the class itself.
    """
    import _pickle as pickle

    try:
        if "cloudpickle" not in modules(plan):
            return pickle.dumps(plan)
        import cloudpickle  # type: ignore[import-untyped]

        return bytes(cloudpickle.dumps(plan))
    except (pickle.PicklingError, AttributeError, TypeError, ValueError) as error:
        raise ContainerError(
            f"a part cannot travel to the container's process: {error}",
            hint="keep open files and locks out of its attributes; hand descriptors over with host.give()",
        ) from error
