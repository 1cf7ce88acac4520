"""Where a container's input comes from and where its output goes.

In a terminal the command simply inherits ours. In a notebook, under pytest, or wherever `sys.stdout` is not
descriptor 1, that would bypass what the reader sees; there the output comes through a pipe and is written to
`sys.stdout` as it arrives.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import select
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import IO, Any

    from minicontainer.container.channel import Channel

    Target = int | IO[Any] | None

PIPE = -1
DEVNULL = -3
_NAMES = ("stdin", "stdout", "stderr")


class Streams:
    """The three standard streams of one process, on both sides."""

    def __init__(self, stdin: Target, stdout: Target, stderr: Target) -> None:
        self.theirs: list[int] = []
        """The descriptors that become the process's 0, 1 and 2."""
        self.files: list[IO[bytes] | None] = [None, None, None]
        """Our ends of those that are PIPE."""
        self.relayed: dict[int, Any] = {}
        """Our ends of those that `relay` copies: descriptor → (target text file, incremental decoder)."""
        self._opened: list[int] = []
        try:
            for number, target in enumerate((stdin, stdout, stderr)):
                self.theirs.append(self._open(number, target))
        except BaseException:
            self.close()
            raise

    def _open(self, number: int, target: Target) -> int:
        if target is None and _is_closed(number):
            target = DEVNULL
        if target is None and not _is_ours(number):
            target = DEVNULL if number == 0 else self._relay(number)
        if target is None:
            return number
        if target == DEVNULL:
            return self._keep(os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC))
        if target == PIPE:
            read, write = os.pipe2(os.O_CLOEXEC)
            ours, theirs = (write, read) if number == 0 else (read, write)
            self.files[number] = open(ours, "wb" if number == 0 else "rb", buffering=0)  # noqa: SIM115 (the caller closes it)
            return self._keep(theirs)
        return target if isinstance(target, int) else target.fileno()

    def _relay(self, number: int) -> int:
        read, write = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(read, False)
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self.relayed[read] = (getattr(sys, _NAMES[number]), decoder)
        return self._keep(write)

    def _keep(self, fd: int) -> int:
        self._opened.append(fd)
        return fd

    def handed_over(self) -> None:
        """The process has its ends: close ours of them, or we would never see the end of its output."""
        for fd in self._opened:
            os.close(fd)
        self._opened.clear()

    def relay(self, fd: int) -> None:
        """Copy what has arrived on one of `relayed`; forget it at its end."""
        target, decoder = self.relayed[fd]
        while True:
            try:
                data = os.read(fd, 65536)
            except BlockingIOError:
                break
            target.write(decoder.decode(data, final=not data))
            if not data:
                del self.relayed[fd]
                os.close(fd)
                break
        target.flush()

    def close(self) -> None:
        """Close what is left on our side; files of PIPE belong to the caller, who may still read them."""
        self.handed_over()
        for fd in list(self.relayed):
            self.relay(fd)
            if fd in self.relayed:  # a process that escaped still holds the other end
                del self.relayed[fd]
                os.close(fd)


def wait(streams: Streams, channel: Channel | None, ended: int, timeout: float | None) -> bool:
    """Relay output until the descriptor `ended` is readable; False when `timeout` seconds pass before that.

    What arrives on the channel is taken in meanwhile, or a long message would never be sent to its end.
    """
    import time

    deadline = None if timeout is None else time.monotonic() + timeout
    poll = select.poll()
    poll.register(ended, select.POLLIN)
    for fd in streams.relayed:
        poll.register(fd, select.POLLIN)
    if channel is not None:
        poll.register(channel.fileno(), select.POLLIN)
    while True:
        left = None if deadline is None else max(0, (deadline - time.monotonic()) * 1000)
        ready = [fd for fd, _ in poll.poll(left)]
        for fd in ready:
            if channel is not None and fd == channel.fileno():
                if not channel.fill():
                    poll.unregister(fd)
            elif fd in streams.relayed:
                streams.relay(fd)
                if fd not in streams.relayed:
                    poll.unregister(fd)
        if ended in ready:
            return True
        if deadline is not None and time.monotonic() >= deadline:
            return False


def _is_closed(number: int) -> bool:
    """Whether we have no stream `number` at all, as a daemon may."""
    stream = getattr(sys, _NAMES[number])
    if stream is None:
        return True
    try:
        os.fstat(stream.fileno())
    except OSError as error:  # io.UnsupportedOperation, of a stream without a descriptor, has no errno
        return error.errno == errno.EBADF
    except ValueError:
        return bool(stream.closed)
    except AttributeError:  # a notebook's streams may have no such method
        return False
    return False


def _is_ours(number: int) -> bool:
    """Whether Python's stream `number` is still the descriptor of that number."""
    stream = getattr(sys, _NAMES[number])
    try:
        return type(stream) is io.TextIOWrapper and stream.fileno() == number
    except (ValueError, OSError):  # closed, or no descriptor at all
        return False
