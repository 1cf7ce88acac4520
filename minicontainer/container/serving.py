"""The spawner process itself: it clones what it is asked to, reaps it, and tells how it ended.

Its program's side is `spawner`. It knows nothing of parts: what a container's process is to become goes past it, on a
channel that only that process reads.
"""

from __future__ import annotations

import _pickle as pickle  # without pickle.py, which brings `re` and `enum` along
import os
import select
import sys

from minicontainer import linux
from minicontainer.container import cloning, inner, records
from minicontainer.container.channel import Channel
from minicontainer.container.init import children
from minicontainer.lean import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


class _Served:
    """A container as its spawner knows it."""

    def __init__(self, container: str, pidfd: int, status: Channel, own_pids: bool) -> None:
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
    told, process, *rest = fds
    status = Channel(told)
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
        pid, pidfd = cloning.clone_into(message["flags"], cgroup, pid_namespace)
    except linux.KernelError as error:
        _tell(status, {"errno": error.errno, "call": error.call, "arguments": error.arguments})
        status.close()
    else:
        if pid == 0:
            _become(Channel(process), stdio, myself)
        own_pids = bool(message["flags"] & linux.CLONE_NEWPID) or pid_namespace is not None
        served[pid] = _Served(message["container"], pidfd, status, own_pids)
        _tell(status, {"pid": pid}, [pidfd])
    for fd in (process, *rest):
        os.close(fd)
    return True


def _tell(status: Channel, message: dict[str, object], fds: list[int] | None = None) -> None:
    try:
        status.send(message, fds)
    except ConnectionError:
        pass  # the program has gone, and nobody is left to tell


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
        code = cloning.reap(ended.si_pid, container.own_pids)
        try:
            if keep:
                records.ended(container.container, code)
        except Exception:
            pass  # its record stays, and the next start mends what is left
        _tell(container.status, {"ended": code})
        container.status.close()
        os.close(container.pidfd)


def _end(served: dict[int, _Served]) -> None:
    """The program is gone: end its containers and whatever of them has come to us, then mend what they leave."""
    while True:
        alive = children(os.getpid())
        for pid in alive:
            os.kill(pid, signal.SIGKILL)
        for pid in alive:  # and then their children are ours
            os.waitpid(pid, 0)
        if not alive:
            break
    try:
        records.mend()
    except Exception:
        pass  # what could not be mended is still on record: the next start tries, and says so
