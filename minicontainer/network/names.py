"""Who is called what: the name server of a network.

It is a process that lives as long as the network has members, and listens on the network's gateway, port 53. A
question is answered from the networks' files; they are read anew as soon as one has changed, so a container that has
ended has no name from that moment on.

* A container is asked for by its name, its short id, or an alias; with the network's name behind it or without. Those
  who ask hear of the networks they are members of themselves, no others. The asker is known by his address, which he
  cannot forge (rules.py).
* Several containers may have one alias: all their addresses are in the answer, in turn a different one first.
* An address is asked for by its reverse name (PTR).
* In an overlay network, the other hosts are asked for what is not known here (abroad.py).
* Whatever else is asked for goes to the host's own resolvers, and their answer back (forward.py). Not for those who
  are in internal networks only: a question, too, can carry a secret out.

Sources: RFC 1035, RFC 1794 (taking turns), RFC 7766 (TCP).
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import signal
import socket
import sys

from minicontainer.container import records
from minicontainer.errors import ContainerError, HostError
from minicontainer.network import abroad, definition, dns, membership, networks
from minicontainer.network.forward import Forwarder
from minicontainer.network.interfaces import packed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minicontainer.network.definition import Network
    from minicontainer.network.dns import Question

AT_ONCE = 64
"""How many datagrams are answered before the others get their turn."""
CONNECTIONS = 64
PATIENCE = 5.0
"""Seconds that a TCP connection may be silent."""
LOOK_EVERY = 1.0
"""Seconds between looks whether the network still has members."""

Answer = tuple[int, list[bytes]]  # a code, and values


class Directory:
    """What the networks' files say about names, from the point of view of each who may ask."""

    def __init__(self, network: str) -> None:
        self.network = network
        self.folder = os.path.dirname(definition.path(network))
        self._seen: tuple[int, ...] = ()
        self._networks: dict[str, Network] = {}
        self._askers: dict[str, dict[tuple[str, int], list[bytes]]] = {}
        self._turn = 0

    def refresh(self) -> bool:
        """Read the files anew if one of them has changed. Whether the network still has members."""
        try:
            folder, own = os.stat(self.folder), os.stat(definition.path(self.network))
            seen = (folder.st_mtime_ns, own.st_ino, own.st_mtime_ns, own.st_size)
            if seen != self._seen:
                self._networks = {network.name: network for network in networks.everything()}
                self._askers.clear()
                self._seen = seen
        except FileNotFoundError:
            return False
        except HostError as error:  # a file that somebody has damaged: what we know stays
            print(f"minicontainer: {error}", file=sys.stderr)
        network = self._networks.get(self.network)
        return network is not None and bool(network.members)

    def members(self) -> list[str]:
        return list(self._networks[self.network].members)

    def network_itself(self) -> Network:
        return self._networks[self.network]

    def option(self, name: str) -> str | None:
        """One of the network's options."""
        return self._networks[self.network].options.get(name)

    def lookup(self, asker: str, question: Question) -> Answer | None:
        """The answer to a question from the address `asker`; None when somebody else must know."""
        table = self._askers.get(asker)
        if table is None:
            table = self._askers[asker] = self._table(asker)
        found = table.get((question.name, question.type))
        if found is not None:
            if len(found) > 1:
                self._turn += 1
                turn = self._turn % len(found)
                found = found[turn:] + found[:turn]
            return dns.NOERROR, found
        if (question.name, 0) in table:
            return dns.NOERROR, []  # the name exists, but not with this type
        address = dns.reverse(question.name)
        if address is not None and any(
            ipaddress.ip_address(address) in subnet for network in self._networks.values() for subnet in network.subnets
        ):
            return dns.NXDOMAIN, []  # nobody outside knows our addresses
        return (dns.REFUSED, []) if (".", 0) in table else None

    def _table(self, asker: str) -> dict[tuple[str, int], list[bytes]]:
        """All that this asker may know: values by name and type, and under type 0 that there is such a name."""
        own = self._networks[self.network]
        container = next((it for it, me in own.members.items() if asker in (me.address, me.address6)), "")
        around = [network for network in self._networks.values() if container in network.members]
        if asker in (own.gateway, own.gateway6):
            around = [own]  # the host itself
        table: dict[tuple[str, int], list[bytes]] = {}
        if own.driver == "overlay" and asker in abroad.servers(own).values():
            around = [own]  # another host of it, which is to hear of this one's members, and of nothing beyond
            table[".", 0] = []
        if all(network.internal for network in around):
            table[".", 0] = []
        for network in around:
            for member in network.members.values():
                for name in member.names:
                    for known_as in (name.lower(), f"{name}.{network.name}".lower()):
                        table[known_as, 0] = []
                        for kind, address in ((dns.A, member.address), (dns.AAAA, member.address6)):
                            if address:
                                table.setdefault((known_as, kind), []).append(packed(address))
                for address in filter(None, (member.address, member.address6)):
                    if member.names:
                        pointer = ipaddress.ip_address(address).reverse_pointer
                        table[pointer, 0] = []
                        table[pointer, dns.PTR] = [dns.wire_name(f"{member.names[0]}.{network.name}")]
        return table


class Server:
    """One network's name server, on sockets that are open already."""

    def __init__(self, network: str, datagrams: list[socket.socket], listeners: list[socket.socket]) -> None:
        self.directory = Directory(network)
        self.datagrams, self.listeners = datagrams, listeners
        self.forwarder = Forwarder()
        if self.directory.refresh() and self.directory.option("peers"):
            self.forwarder.nearer = self._abroad
        self.connections = 0
        self.peers_seen = 0

    async def serve(self) -> None:
        """Answer until the network has no members any more, or somebody says so (SIGTERM)."""
        loop = asyncio.get_running_loop()
        main = asyncio.current_task()
        assert main is not None
        loop.add_signal_handler(signal.SIGTERM, main.cancel)
        for datagrams in self.datagrams:
            datagrams.setblocking(False)
            loop.add_reader(datagrams, self._read, datagrams)
        servers = [await asyncio.start_server(self._talk, sock=listener) for listener in self.listeners]
        try:
            while self._wanted():
                self._look_at_peers()
                await asyncio.sleep(LOOK_EVERY)
        except asyncio.CancelledError:
            pass
        finally:
            for server in servers:
                server.close()

    def _wanted(self) -> bool:
        """Whether a member is left whose process, or whoever builds it, is alive."""
        if not self.directory.refresh():
            return False
        for container in self.directory.members():
            record = records.read(container)
            if record is not None and (records.is_alive(record["owner"]) or records.is_alive(record["process"])):
                return True
        return False

    def _look_at_peers(self) -> None:
        """An overlay's file of peers may have changed."""
        path = self.directory.option("peers")
        if path is None:
            return
        try:
            found = os.stat(path).st_mtime_ns
        except FileNotFoundError:
            return  # somebody is writing it anew, or has taken it away: what we know stays
        if found != self.peers_seen:
            try:
                membership.refresh(self.directory.network)
            except ContainerError as error:
                print(f"minicontainer: {error}", file=sys.stderr)
            self.peers_seen = found

    def _read(self, datagrams: socket.socket) -> None:
        self.directory.refresh()
        for _ in range(AT_ONCE):
            try:
                data, asker = datagrams.recvfrom(4096)
            except (BlockingIOError, ConnectionError):
                return
            reply = self.reply(data, asker[0])
            if isinstance(reply, bytes):
                self._send(datagrams, reply, asker)
            elif reply is not None:
                self.forwarder.datagram(data, reply, lambda found, to=asker: self._send(datagrams, found, to))  # type: ignore[misc]

    def reply(self, data: bytes, asker: str, *, stream: bool = False) -> bytes | Question | None:
        """The answer to a message; its question, where others have to be asked; None for silence."""
        try:
            question = dns.Question(data)
        except dns.Malformed:
            return dns.refusal(data, dns.FORMERR)
        if question.opcode:
            return dns.refusal(data, dns.NOTIMP)
        found = self.directory.lookup(asker, question)
        if found is None:
            return question
        code, values = found
        return dns.answer(question, values, code, limit=65535 if stream else question.limit)

    async def _abroad(self, data: bytes, question: Question) -> bytes | None:
        try:
            return await abroad.ask(self.directory.network_itself(), data, question)
        except ContainerError as error:  # the file of peers makes no sense at the moment
            print(f"minicontainer: {error}", file=sys.stderr)
            return None

    def _send(self, datagrams: socket.socket, data: bytes, to: tuple[str, int]) -> None:
        try:
            datagrams.sendto(data, to)
        except (BlockingIOError, PermissionError, ConnectionError):
            return  # as if it got lost on the way: who asked asks again

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One TCP connection: each message behind its length, in two bytes."""
        self.connections += 1
        try:
            asker = writer.get_extra_info("peername")[0]
            while self.connections <= CONNECTIONS:
                size = await asyncio.wait_for(reader.readexactly(2), PATIENCE)
                data = await asyncio.wait_for(reader.readexactly(int.from_bytes(size, "big")), PATIENCE)
                self.directory.refresh()
                reply = self.reply(data, asker, stream=True)
                if reply is not None and not isinstance(reply, bytes):
                    reply = await self.forwarder.stream(data, reply)
                if reply is None:
                    break
                writer.write(len(reply).to_bytes(2, "big") + reply)
                await asyncio.wait_for(writer.drain(), PATIENCE)
        except (asyncio.IncompleteReadError, TimeoutError, OSError):
            pass  # the other side has hung up, or says nothing
        finally:
            self.connections -= 1
            writer.close()


def main() -> None:
    """What the process does: `names.main()` with the network's name and its sockets' descriptors in sys.argv."""
    network, *fds = sys.argv[1:]
    os.chdir("/")
    there = [socket.socket(fileno=int(fd)) for fd in fds]
    datagrams = [it for it in there if it.type == socket.SOCK_DGRAM]
    listeners = [it for it in there if it.type == socket.SOCK_STREAM]
    asyncio.run(Server(network, datagrams, listeners).serve())
