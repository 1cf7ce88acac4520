"""The name server's process: how it is started, and how it ends.

The first container of a network opens the sockets, on the network's gateway, and starts a fresh Python that inherits
them (names.py). So nobody has to wait for it: a question that comes before it runs lies in the socket. It ends by
itself within a second when the network has no live member any more, and is told to when the last one leaves. When it
was killed, the next container that comes starts another.

It is nobody's child: a shell starts it in the background and ends at once, so it is init that reaps it.
"""

from __future__ import annotations

import _socket
import errno
import os
import select
import signal
import sys

from minicontainer import linux, state
from minicontainer.container import records
from minicontainer.errors import ConflictError, HostError, TimeoutExpired
from minicontainer.network.interfaces import family
from minicontainer.network.ports import Port, _holder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minicontainer.network.definition import Network

ENDED_WITHIN = 10
"""Seconds after which a name server that was killed and does not end is an error."""
_CODE = "import sys; sys.path[:] = sys.argv.pop(1).split('\\n'); from minicontainer.network.names import main; main()"


def is_running(server: dict[str, int] | None) -> bool:
    """Whether the process that a network's file names is alive."""
    return records.is_alive(server)


def start(network: Network) -> dict[str, int]:
    """Start the network's name server; its process. Raises ConflictError when the host has taken the gateway's port 53
    itself: a name server of the host's that listens on every address."""
    sockets = []
    try:
        for address in filter(None, (network.gateway, network.gateway6)):
            for kind in (_socket.SOCK_DGRAM, _socket.SOCK_STREAM):
                sockets.append(_listen(address, kind, network.name))
        words = f"the name server of {network.name}"
        pid = linux.announce("posix_spawn", words, "posix_spawn(3)", lambda: _spawn(network, sockets))
    finally:
        for socket in sockets:
            socket.close()
    return {"pid": pid, "start_time": state.start_time(pid)}


def stop(server: dict[str, int] | None) -> None:
    """End it, if it is alive: when this returns its port is free for the next."""
    if server is not None and records.is_alive(server):
        try:
            pidfd = linux.pidfd_open(server["pid"])
        except ProcessLookupError:
            return
        try:
            if records.is_alive(server):
                linux.pidfd_send_signal(pidfd, signal.SIGKILL)
                poll = select.poll()
                poll.register(pidfd, select.POLLIN)  # readable once it has closed its files and ended
                if not poll.poll(ENDED_WITHIN * 1000):
                    raise TimeoutExpired(f"the name server, process {server['pid']}, did not end in {ENDED_WITHIN} s")
        except ProcessLookupError:
            pass
        finally:
            os.close(pidfd)


def _listen(address: str, kind: int, network: str) -> _socket.socket:
    listener = _socket.socket(family(address), kind | _socket.SOCK_CLOEXEC)
    try:
        if kind == _socket.SOCK_STREAM:
            listener.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
        listener.bind((address, 53))
        if kind == _socket.SOCK_STREAM:
            listener.listen(64)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            protocol = "tcp" if kind == _socket.SOCK_STREAM else "udp"
            who = _holder(Port(53, 53, protocol=protocol)) or "another program"
            raise ConflictError(
                f"names cannot be answered for in network {network}: port 53/{protocol} of {address} is {who}'s",
                hint="let it listen on addresses of its own only (dnsmasq: bind-dynamic)",
            ) from None
        raise
    return listener


def _spawn(network: Network, sockets: list[_socket.socket]) -> int:
    first = 10
    moved = [(os.POSIX_SPAWN_DUP2, it.fileno(), first + place) for place, it in enumerate(sockets)]
    fds = [str(first + place) for place in range(len(sockets))]
    answer, theirs = os.pipe2(os.O_CLOEXEC)
    command = [sys.executable, "-I", "-S", "-c", _CODE, "\n".join(os.path.abspath(it) for it in sys.path)]
    environment = {"MINICONTAINER_DATA_ROOT": state.data_root(), "MINICONTAINER_EXEC_ROOT": state.exec_root()}
    try:
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        try:
            shell = os.posix_spawn(
                "/bin/sh",
                ["sh", "-c", '"$@" >/dev/null 2>&1 & echo $!', "sh", *command, network.name, *fds],
                environment,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, null, 0),
                    (os.POSIX_SPAWN_DUP2, theirs, 1),
                    (os.POSIX_SPAWN_DUP2, null, 2),
                    *moved,
                ],
                setsid=True,
                setsigmask=[],
                setsigdef=list(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}),
            )
        finally:
            os.close(null)
            os.close(theirs)
        os.waitpid(shell, 0)
        words = os.read(answer, 100)
    finally:
        os.close(answer)
    if not words:
        raise HostError(f"the name server of network {network.name} could not be started by /bin/sh")
    return int(words)
