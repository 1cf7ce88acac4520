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
import pickle
import select
import signal
import sys
import threading

from minicontainer import linux, state
from minicontainer.container import inner, records
from minicontainer.container.channel import Channel
from minicontainer.container.init import children
from minicontainer.errors import ContainerError, HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from minicontainer.container.part import Host


class Request:
    """What a spawner is told: everything about the clone, nothing about what the process will be.

    `status` is the pipe on which the exit status will arrive.
    """

    def __init__(
        self, host: Host, modules: list[str], channel: Channel, stdio: tuple[int, int, int], status: int
    ) -> None:
        optional = [fd for fd in (host.cgroup, host.pid_namespace) if fd is not None]
        self.fds = [channel.fileno(), status, *stdio, *optional]
        self.message = {
            "container": host.id,
            "flags": host.flags,
            "modules": modules,
            "cgroup": host.cgroup is not None,
            "pid_namespace": host.pid_namespace is not None,
        }


class Spawner:
    """The program's side: a handle on one spawner process."""

    def __init__(self, keep: bool = False) -> None:
        ours, theirs = Channel.pair()
        channel_fd = fcntl.fcntl(theirs.fileno(), fcntl.F_DUPFD_CLOEXEC, 10)  # out of the way of 3 and 4
        myself = os.pidfd_open(os.getpid())
        owner = fcntl.fcntl(myself, fcntl.F_DUPFD_CLOEXEC, 10)
        os.close(myself)
        code = "import sys; sys.path[:] = sys.argv[2:]; from minicontainer.container import spawner; spawner.main()"
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
        self._lock = threading.Lock()

    def clone(self, request: Request) -> tuple[int, int]:
        """Clone a process that then waits for its plan on its channel; returns (pid, pidfd).

        Raises KernelError when clone3 fails, HostError when the spawner itself is gone.
        """
        try:
            with self._lock:
                self._channel.send(request.message, request.fds)
                reply = self._channel.receive()
        except BrokenPipeError:
            reply = None
        if reply is None:
            raise HostError("the process that makes containers is gone", hint="try again: a new one is started")
        message, fds, _ = reply
        if "errno" in message:
            raise linux.kernel_error(message["errno"], message["call"], message["arguments"])
        return message["pid"], fds[0]

    def alive(self) -> bool:
        if self.owner != os.getpid():
            return False
        poll = select.poll()
        with self._lock:  # between two requests: an answer to another thread's would look like the end
            poll.register(self._channel.fileno(), select.POLLIN)
            return not poll.poll(0)

    def fileno(self) -> int:
        """Our end of the channel."""
        return self._channel.fileno()

    def release(self) -> None:
        """Let go of it: it ends when its containers have (a keeper), or ends them (any other)."""
        self._channel.close()
        if self.owner == os.getpid():
            threading.Thread(target=_reap, args=(self.pid,), daemon=True).start()


def _reap(pid: int) -> None:
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        return  # somebody else of this program waits for any child, as asyncio's watchers may


_shared: Spawner | None = None
_shared_lock = threading.Lock()


def _after_fork() -> None:
    global _shared_lock
    _shared_lock = threading.Lock()  # a thread that held it was not copied


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


def dump(plan: inner.Plan) -> tuple[bytes, list[str]]:
    """The plan by value, and the modules that its parts come from, for the spawner to import once.

    A part that exists only in a notebook's cell has no module that another process could import: cloudpickle then
    sends the class itself.
    """
    package = __name__.split(".")[0]
    names = {type(part).__module__ for part in plan.parts} | ({"__main__"} if plan.function else set())
    modules = sorted(name for name in names if name.split(".")[0] == package)
    try:
        if len(modules) == len(names):
            return pickle.dumps(plan), modules
        import cloudpickle  # type: ignore[import-untyped]

        return bytes(cloudpickle.dumps(plan)), [*modules, "cloudpickle"]
    except (pickle.PicklingError, AttributeError, TypeError, ValueError) as error:
        raise ContainerError(
            f"a part cannot travel to the container's process: {error}",
            hint="keep open files and locks out of its attributes; hand descriptors over with host.give()",
        ) from error


# ---------------------------------------------------------------------------------------------- the spawner's side


class _Served:
    """A container as its spawner knows it."""

    def __init__(self, container: str, pidfd: int, status: int, own_pids: bool) -> None:
        self.container, self.pidfd, self.status, self.own_pids = container, pidfd, status, own_pids


def main() -> NoReturn:
    """The spawner process: descriptor 3 is the channel to the program, 4 a pidfd of it."""
    keep, channel, owner = sys.argv[1] == "1", Channel(3), 4
    for fd in (3, 4):
        os.set_inheritable(fd, False)
    linux.close_range(5)  # what the program itself had inherited
    while (null := os.open("/dev/null", os.O_RDWR)) < 5:
        pass  # 0, 1 and 2 are never free, whatever the program had closed
    linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
    for fd in (0, 1, 2) if keep else (0,):
        os.dup2(null, fd)
    wake, wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(wake_write)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    served: dict[int, _Served] = {}
    myself = os.pidfd_open(os.getpid())
    poll = select.poll()
    for descriptor in (channel.fileno(), owner, wake):
        poll.register(descriptor, select.POLLIN)
    owned = True
    while owned or (keep and served):
        ready = [fd for fd, _ in poll.poll()]
        if wake in ready:
            os.read(wake, 4096)
        _reap_all(served, keep)
        if owner in ready or (channel.fileno() in ready and not _serve(channel, served, myself)):
            owned = False
            if keep:
                poll.unregister(owner)
                poll.unregister(channel.fileno())
    _end(served)
    os._exit(0)


def _serve(channel: Channel, served: dict[int, _Served], myself: int) -> bool:
    """Answer one request; False when there are no more."""
    request = channel.receive()
    if request is None:
        return False
    message, fds, _ = request
    process, status, *rest = fds
    stdio = (rest[0], rest[1], rest[2])
    optional = rest[3:]
    cgroup = optional.pop(0) if message["cgroup"] else None
    pid_namespace = optional.pop(0) if message["pid_namespace"] else None
    for module in message["modules"]:  # imported once, here, and not in every container's process again
        try:
            __import__(module)
        except ImportError:
            pass  # the container's process will miss it too, and say so
    try:
        pid, pidfd = clone_into(message["flags"], cgroup, pid_namespace)
    except linux.KernelError as error:
        channel.send({"errno": error.errno, "call": error.call, "arguments": error.arguments})
        os.close(status)
    else:
        if pid == 0:
            _become(Channel(process), stdio, myself)
        own_pids = bool(message["flags"] & linux.CLONE_NEWPID) or pid_namespace is not None
        served[pid] = _Served(message["container"], pidfd, status, own_pids)
        channel.send({"pid": pid}, [pidfd])
    for fd in (process, *rest):
        os.close(fd)
    return True


def _become(channel: Channel, stdio: tuple[int, int, int], parent: int) -> NoReturn:
    signal.set_wakeup_fd(-1)
    inner.tie_to(parent)
    received = channel.receive()
    if received is None:
        os._exit(70)
    try:
        sys.path[:] = received[0]["path"]
        os.chdir(received[0]["directory"])
        plan: inner.Plan = pickle.loads(received[2])
    except BaseException as error:
        failed = {"part": "Container", "moment": "prepare", "kind": type(error).__name__}
        channel.send({"failed": {**failed, "message": f"a part cannot be rebuilt in the container's process: {error}"}})
        os._exit(70)
    inner.become(plan, channel, stdio, parent)


def clone_into(flags: int, cgroup: int | None, pid_namespace: int | None) -> tuple[int, int]:
    """clone3, the child to be born in an existing PID namespace if one is given.

    setns to a PID namespace changes only where the next children go, so it is set for the one clone and set back.
    The process must be single-threaded: no thread can be made while the two differ. pid_namespaces(7)
    """
    if pid_namespace is None:
        return linux.clone3(flags, cgroup)
    own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    pid = -1
    try:
        linux.setns(pid_namespace, linux.CLONE_NEWPID)
        try:
            pid, pidfd = linux.clone3(flags, cgroup)
        finally:
            if pid:
                _children_back_to(own)
        return pid, pidfd
    finally:
        os.close(own)


def _children_back_to(pid_namespace: int) -> None:
    """Tried twice: who fails here has a child that nobody knows, and all that follow in the wrong place."""
    try:
        linux.setns(pid_namespace, linux.CLONE_NEWPID)
    except OSError:
        linux.setns(pid_namespace, linux.CLONE_NEWPID)


def reap(pid: int, own_pids: bool) -> int:
    """Wait for a container's process that has ended, and end what it left in its session; its exit status.

    Without a PID namespace nothing ends the command's children with it. Those of its session are killed while its
    own number cannot yet be used again; one that made a session of its own escapes (which is what chapter 3 mends).
    """
    ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    if not own_pids:
        kill_session(pid)
    os.waitid(os.P_PID, pid, os.WEXITED)
    assert ended is not None
    return ended.si_status if ended.si_code == os.CLD_EXITED else 128 + ended.si_status


def kill_session(session: int) -> None:
    """Kill all processes of a session but its leader, again and again until none is left that could have forked."""
    found = True
    while found:
        found = False
        for name in os.listdir("/proc"):
            if name.isdecimal() and int(name) != session and state.start_time(int(name)):
                try:
                    if os.getsid(int(name)) == session:
                        os.kill(int(name), signal.SIGKILL)
                        found = True
                except ProcessLookupError:
                    continue


def _reap_all(served: dict[int, _Served], keep: bool) -> None:
    while True:
        try:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if ended is None:
            return
        container = served.pop(ended.si_pid, None)
        if container is None:
            os.waitpid(ended.si_pid, 0)  # an orphan that some container left
            continue
        code = reap(ended.si_pid, container.own_pids)
        try:
            if keep:
                records.ended(container.container, code)
        except Exception:
            pass  # its record stays, and the next start mends what is left
        try:
            os.write(container.status, bytes([code]))
        except BrokenPipeError:
            pass  # the program has gone, and nobody is left to tell
        os.close(container.status)
        os.close(container.pidfd)


def _end(served: dict[int, _Served]) -> None:
    """The program is gone: end its containers and whatever of them has come to us, then mend what they leave."""
    while True:
        alive = children(os.getpid())
        for pid in alive:
            os.kill(pid, signal.SIGKILL)
        try:
            while True:
                os.waitpid(-1, 0)
        except ChildProcessError:
            pass
        if not alive:
            break
    try:
        records.mend()
    except Exception:
        pass  # what could not be mended is still on record: the next start tries, and says so
