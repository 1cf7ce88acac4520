"""Messages between the two sides of a container: JSON, with open descriptors beside it.

A container is built by two processes, and they have three things to say: what to build (host → process), go, with
the descriptors that parts gave (host → process), and what went wrong or how it went (process → host). All of it
passes one socket pair, as lines of JSON; descriptors travel with SCM_RIGHTS, unix(7). The process's end is
close-on-exec, so the end of the conversation is itself a message: the command is running.
"""

from __future__ import annotations

import _socket  # `socket` imports enum and selectors: five milliseconds of a start that takes six
import fcntl
import os
import select
import struct

from minicontainer.lean import dumps, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_F_DUPFD = fcntl.F_DUPFD_CLOEXEC
MAX_FDS = 250  # SCM_MAX_FD of the kernel is 253


class Channel:
    """One end of the conversation."""

    def __init__(self, fd: int) -> None:
        self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, fd)
        self._buffer = bytearray()
        self._fds: list[int] = []

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        """Two connected ends, both close-on-exec."""
        left, right = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
        return cls(left.detach()), cls(right.detach())

    def fileno(self) -> int:
        return self._socket.fileno()

    def readable(self) -> bool:
        """Whether there is something to receive now, be it the end."""
        poll = select.poll()
        poll.register(self.fileno(), select.POLLIN)
        return bool(self._buffer or poll.poll(0))

    def lift(self) -> None:
        """Move its descriptors out of the way of 0, 1 and 2, where they are if the program had closed those."""
        if self.fileno() < 3:
            fd = self._socket.detach()
            self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, fcntl.fcntl(fd, _F_DUPFD, 3))
        self._fds = [fd if fd > 2 else fcntl.fcntl(fd, _F_DUPFD, 3) for fd in self._fds]

    def descriptors(self) -> list[int]:
        """The channel's own, and those that have arrived with messages nobody has asked for yet."""
        return [self.fileno(), *self._fds]

    def send(self, message: dict[str, Any], fds: list[int] | None = None, payload: bytes = b"") -> None:
        """Send one message, its descriptors, and bytes that the other side need not understand.

        Raises BrokenPipeError when the other side is gone.
        """
        data = dumps({**message, "fds": len(fds or ()), "payload": len(payload)}).encode() + b"\n"
        if fds:
            if len(fds) > MAX_FDS:
                raise ValueError(f"{len(fds)} descriptors in one message, the kernel takes {MAX_FDS}")
            ancillary = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack(f"{len(fds)}i", *fds))]
            sent = self._socket.sendmsg([data], ancillary, _socket.MSG_NOSIGNAL)
            data = data[sent:]
        if data or payload:  # an empty send would fail if the other side has read all and gone
            self._socket.sendall(data + payload, _socket.MSG_NOSIGNAL)

    def receive(self) -> tuple[dict[str, Any], list[int], bytes] | None:
        """The next message, its descriptors (close-on-exec) and its payload; None at the end of the conversation."""
        while b"\n" not in self._buffer:
            if not self.fill():
                return None
        line, _, self._buffer = self._buffer.partition(b"\n")
        message: dict[str, Any] = loads(line)
        size, count = message.pop("payload"), message.pop("fds")
        while len(self._buffer) < size:
            if not self.fill():
                return None
        payload, self._buffer = bytes(self._buffer[:size]), self._buffer[size:]
        fds, self._fds = self._fds[:count], self._fds[count:]
        return message, fds, payload

    def fill(self) -> bool:
        """Take in what has arrived, or wait for it; False at the end. For a sender that must not be kept waiting."""
        space = _socket.CMSG_SPACE(MAX_FDS * 4)
        try:
            data, ancillary, _, _ = self._socket.recvmsg(65536, space, _socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:
            return False
        for level, kind, content in ancillary:
            if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
                self._fds.extend(struct.unpack(f"{len(content) // 4}i", content[: len(content) // 4 * 4]))
        self._buffer += data
        return bool(data)

    def close(self) -> None:
        self._socket.close()
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()
