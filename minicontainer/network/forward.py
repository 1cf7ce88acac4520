"""Questions that others must answer: passed on to the host's resolvers, and their answers back.

Each question goes out with a number of our own choice, by a socket of its own that is connected to the one server
that was asked: whoever wants to slip in a forged answer must guess the number and the port. An answer counts when it
has that number and repeats the question.

Sources: RFC 5452 (forged answers), resolv.conf(5).
"""

from __future__ import annotations

import asyncio
import os
import socket

from minicontainer.network import dns, files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from minicontainer.network.dns import Question

WAIT = 2.0
"""Seconds until the next server is asked."""
AT_MOST = 512
"""Questions that may be on their way at a time; more are answered with SERVFAIL."""


class Forwarder:
    """Passes questions on to the servers in the host's resolv.conf."""

    def __init__(self, path: str = "/etc/resolv.conf") -> None:
        self.path = path
        self.nearer: Callable[[bytes, Question], Awaitable[bytes | None]] | None = None
        """Who is asked before the host's resolvers: the other hosts of an overlay network."""
        self._read: tuple[int, int] = (0, 0)
        self._servers: list[str] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def servers(self) -> list[str]:
        """The addresses of the host's resolvers, those that only the host itself can reach among them."""
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            return []
        if (found.st_ino, found.st_mtime_ns) != self._read:
            self._read = (found.st_ino, found.st_mtime_ns)
            words = [line.split() for line in files._lines(self.path)]
            self._servers = [line[1] for line in words if len(line) > 1 and line[0] == "nameserver"][:3]
        return self._servers

    def datagram(self, data: bytes, question: Question, answer: Callable[[bytes], None]) -> None:
        """Pass on what came by UDP; `answer` is called with what comes back, or with SERVFAIL."""
        if len(self._tasks) >= AT_MOST:
            answer(dns.answer(question, [], dns.SERVFAIL))
            return

        async def ask() -> None:
            found = await self._ask(data, question, by_stream=False)
            answer(found if len(found) <= question.limit else _truncated(found, question))

        task = asyncio.get_running_loop().create_task(ask())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stream(self, data: bytes, question: Question) -> bytes:
        """Pass on what came by TCP."""
        return await self._ask(data, question, by_stream=True)

    async def _ask(self, data: bytes, question: Question, *, by_stream: bool) -> bytes:
        if self.nearer is not None:
            near = await self.nearer(data, question)
            if near is not None:
                return near
        number = os.urandom(2)
        exchange = _by_stream if by_stream else by_datagram
        for server in self.servers():
            try:
                found = await asyncio.wait_for(exchange(server, number + data[2:], question), WAIT)
            except (OSError, TimeoutError, asyncio.IncompleteReadError):
                continue  # it does not answer: the next one may
            return data[:2] + found[2:]
        return dns.answer(question, [], dns.SERVFAIL)


def _truncated(found: bytes, question: Question) -> bytes:
    """The head of an answer that is too large for who asked."""
    return found[:2] + bytes([found[2] | dns.TC >> 8, found[3]]) + b"\0\1\0\0\0\0\0\0" + question.wire


def _fits(found: bytes, sent: bytes, question: Question) -> bool:
    """Whether this is an answer to that question. Upper and lower case count: it comes back as it was sent."""
    head = len(found) >= 12 and found[:2] == sent[:2] and bool(found[2] & 0x80)
    return head and found[12 : 12 + len(question.wire)] == question.wire


def _address(server: str) -> tuple[int, tuple[str, int]]:
    return (socket.AF_INET6 if ":" in server else socket.AF_INET), (server, 53)


async def by_datagram(server: str, sent: bytes, question: Question, source: str = "") -> bytes:
    """Ask one server; `source` is the address of this host to ask from."""
    loop = asyncio.get_running_loop()
    kind, address = _address(server)
    with socket.socket(kind, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as asking:
        if source:
            asking.bind((source, 0))
        asking.connect(address)
        await loop.sock_sendall(asking, sent)
        while True:
            found = await loop.sock_recv(asking, 65535)
            if _fits(found, sent, question):
                return found


async def _by_stream(server: str, sent: bytes, question: Question) -> bytes:
    reader, writer = await asyncio.open_connection(server, 53)
    try:
        writer.write(len(sent).to_bytes(2, "big") + sent)
        size = int.from_bytes(await reader.readexactly(2), "big")
        found = await reader.readexactly(size)
        if not _fits(found, sent, question):
            raise OSError("not an answer to the question")
        return found
    finally:
        writer.close()
