"""The terminal of a container: its master end leaves through the console socket, or is ours in the foreground.

An engine that wants a terminal listens on a unix socket and names it; the descriptor is sent there, with its name as
the message, and whoever listens drives the terminal from then on. conmon and containerd's shim do.
"""

from __future__ import annotations

import _socket
import fcntl
import os
import select
import struct
import termios

from minicontainer.chroot import Terminal
from minicontainer.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from minicontainer.container.part import Inside


class Console(Terminal):
    """Chapter 2's terminal, of a size that config.json may name."""

    def __init__(self, size: dict[str, Any] | None) -> None:
        self.size = (size.get("height", 0), size.get("width", 0)) if size else None

    def enter(self, inside: Inside) -> None:
        super().enter(inside)
        if self.size:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", *self.size, 0, 0))


def send(path: str, master: int) -> None:
    """Hand the master end to whoever listens at `path`."""
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    try:
        connection.connect(path)
        rights = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack("i", master))
        connection.sendmsg([b"/dev/ptmx"], [rights])
    except OSError as error:
        raise UsageError(f"--console-socket: nobody took the terminal at {path}: {error.strerror}") from None
    finally:
        connection.close()


def resize(master: int) -> None:
    """Give the container's terminal the size of ours."""
    try:
        size = fcntl.ioctl(0, termios.TIOCGWINSZ, b"\0" * 8)
    except OSError:
        return  # ours is none
    fcntl.ioctl(master, termios.TIOCSWINSZ, size)


class Raw:
    """Our own terminal, raw while the container's is shown on it, and as it was afterwards."""

    def __init__(self) -> None:
        self.before: list[Any] | None = None

    def __enter__(self) -> None:
        if os.isatty(0):
            self.before = termios.tcgetattr(0)
            attributes = termios.tcgetattr(0)
            attributes[0] &= ~(
                termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP | termios.INLCR | termios.IGNCR
            )
            attributes[0] &= ~(termios.ICRNL | termios.IXON)
            attributes[1] &= ~termios.OPOST
            attributes[2] = attributes[2] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
            attributes[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
            termios.tcsetattr(0, termios.TCSANOW, attributes)

    def __exit__(self, *exception: object) -> None:
        if self.before is not None:
            termios.tcsetattr(0, termios.TCSANOW, self.before)


class Relay:
    """Copies between our standard streams and a container's terminal; `poll` takes part in somebody else's loop."""

    def __init__(self, master: int, poll: select.poll) -> None:
        self.master, self.poll_object = master, poll
        poll.register(master, select.POLLIN)
        poll.register(0, select.POLLIN)

    def step(self, ready: list[int]) -> None:
        """Copy what is there."""
        if self.master in ready:
            self.drain()
        if 0 in ready:
            data = os.read(0, 4096)
            if not data:
                self.poll_object.unregister(0)
            view = memoryview(data or b"\x04")  # the end of our input: the one of a terminal's is ^D
            while view:
                view = view[os.write(self.master, view) :]

    def drain(self) -> bool:
        """Show what the container has written; False at its end."""
        try:
            data = os.read(self.master, 65536)
        except OSError:  # EIO: the last one to have the other end is gone
            data = b""
        if not data:
            self.poll_object.unregister(self.master)
            return False
        view = memoryview(data)
        while view:
            view = view[os.write(1, view) :]
        return True

    def finish(self) -> None:
        """Show what was written before the end."""
        poll = select.poll()
        poll.register(self.master, select.POLLIN)
        self.poll_object = poll
        while poll.poll(0) and self.drain():
            pass
