"""Between `create` and `start`: the process is all that it will be, but for its command, and waits.

It waits on a socket in its state directory. `start` connects and says go; the connection is close-on-exec, so its end
without another word means that the command runs, and whatever goes wrong until then is said on it. A second `start`
finds nobody listening.
"""

from __future__ import annotations

import _socket
import errno
import os

from minicontainer import linux
from minicontainer.container.channel import Channel
from minicontainer.container.failures import as_error
from minicontainer.container.part import Host, Inside, Part
from minicontainer.errors import CommandNotExecutable, CommandNotFound, ConflictError
from minicontainer.runtime.states import SOCKET

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Hold(Part):
    """Hold the process here, in `seal`, until `go` is called with the same state directory."""

    seal_order = 90  # after all that takes rights away; a filter of system calls comes after `start`

    def __init__(self, directory: str) -> None:
        self.directory = directory

    def prepare(self, host: Host) -> None:
        listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
        with _Short(self.directory) as name:
            listener.bind(name)
        listener.listen(1)
        host.give("hold", listener.detach())

    def seal(self, inside: Inside) -> None:
        look_up(inside)
        linux.prctl(linux.PR_SET_PDEATHSIG, 0)  # from here on it outlives `create`
        inside.ask("created")
        listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, inside.fds["hold"])
        while True:
            fd, _ = listener._accept()  # type: ignore[attr-defined]
            caller = Channel(fd)
            if caller.receive() is not None:
                break
            caller.close()  # it was killed before it had said go
        inside.report_to(fd)
        self.caller = caller  # or it would be closed


def look_up(inside: Inside) -> None:
    """Fail now, not at `start`, for a command that is not there, or that cannot be executed."""
    command = inside.argv[0]
    if "/" in command:
        places = [command]
    else:
        places = [f"{place or '.'}/{command}" for place in inside.env.get("PATH", "").split(":")]
    there = [place for place in places if os.path.exists(place)]
    if not there:
        where = "" if "/" in command else "executable file not found in $PATH: "
        raise CommandNotFound(f'exec: "{command}": {where}no such file or directory', call="execve", errno=errno.ENOENT)
    # as whoever it will run as: an access(2) would ask for the real user, and root may execute what has one x bit
    if not any(os.access(place, os.X_OK, effective_ids=True) and not os.path.isdir(place) for place in there):
        raise CommandNotExecutable(f'exec: "{command}": permission denied', call="execve", errno=errno.EACCES)


def go(directory: str, listener: Callable[[int], None]) -> None:
    """Let a held process become its command. Raises what it failed by, ConflictError if it is not held.

    `listener` is called with the descriptor that decides about its system calls, if there is one.
    """
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    try:
        with _Short(directory) as name:
            connection.connect(name)
    except OSError as error:
        connection.close()
        if error.errno in (errno.ENOENT, errno.ECONNREFUSED):
            raise ConflictError("cannot start a container in a state other than created") from None
        raise
    channel = Channel(connection.detach())
    try:
        channel.send({"go": True})
        told = False
        while (received := channel.receive()) is not None:
            if watcher := linux.watching():
                for call in received[0].get("failed", received[0]).get("calls", ()):
                    watcher.note(linux.Call(*call))
            if "failed" in received[0]:
                raise as_error(received[0]["failed"])
            if received[0].get("gift") == "seccomp":
                listener(received[1][0])
            told = told or "execve" in received[0]
        if not told:
            raise ConflictError("the container's process ended before it could become its command")
    finally:
        channel.close()
        try:
            os.unlink(f"{directory}/{SOCKET}")
        except FileNotFoundError:
            pass  # another `start`, or `delete`, was quicker


class _Short:
    """A name of the socket that is short enough: an address of unix(7) has 108 bytes."""

    def __init__(self, directory: str) -> None:
        self.fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def __enter__(self) -> str:
        return f"/proc/self/fd/{self.fd}/{SOCKET}"

    def __exit__(self, *exception: object) -> None:
        os.close(self.fd)
