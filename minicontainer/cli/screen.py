"""`run -t`: our terminal becomes the container's.

Two terminals are in play: the user's, which we switch to raw mode so that it hands on every key (Ctrl-C too, which
then becomes a signal *inside*, by the container's own terminal), and the container's, of which we hold the master.
We copy between the two, and tell the inner one when the outer one changes its size. termios(3), ioctl_tty(2)
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import struct
import termios
import tty
from contextlib import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from minicontainer.container import Container


def run(container: Container, *, interactive: bool) -> int:
    """Start the container, whose Terminal part hands us the master, and copy until it ends; its exit status."""
    container.start(stdin=0, stdout=1, stderr=2)
    master = container.host.given_back.pop("terminal")
    try:
        with _raw(interactive), _size_follows(master):
            _copy(master, container, interactive)
            return container.wait()
    finally:
        os.close(master)
        container.remove()


@contextmanager
def _raw(interactive: bool) -> Iterator[None]:
    if not (interactive and os.isatty(0)):
        yield
        return
    before = termios.tcgetattr(0)
    tty.setraw(0)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


@contextmanager
def _size_follows(master: int) -> Iterator[None]:
    def copy_size(*_: object) -> None:
        if os.isatty(1):
            size = fcntl.ioctl(1, termios.TIOCGWINSZ, struct.pack("HHHH", 0, 0, 0, 0))
            fcntl.ioctl(master, termios.TIOCSWINSZ, size)

    copy_size()
    before = signal.signal(signal.SIGWINCH, copy_size)
    try:
        yield
    finally:
        signal.signal(signal.SIGWINCH, before)


def _copy(master: int, container: Container, interactive: bool) -> None:
    """Both ways, until the container's terminal has no more users (which reading tells by EIO)."""
    poll = select.poll()
    poll.register(master, select.POLLIN)
    if interactive:
        poll.register(0, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            try:
                data = os.read(fd, 65536)
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                data = b""
            if fd == master:
                if not data:
                    return
                _write(1, data)
            elif data:
                _write(master, data)
            else:
                poll.unregister(0)


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
