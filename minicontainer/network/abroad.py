"""Names on the other hosts of an overlay network.

A host knows the names of its own containers and no others; nothing is copied when one starts or ends. So a name
server that does not know a name asks those of all other hosts at once, through the tunnel, and the first that knows
it is believed. They are found where their part of the subnet begins: 10.50.2.1 is the gateway, and the name server, of
10.50.2.0/24. (It is asked over IPv4, for IPv6 addresses, too.) Who is asked by another host answers for its own
containers, and asks nobody in turn.

A host that cannot be reached makes nobody wait for a name that is known elsewhere, and holds an unknown one up by
`WAIT`. With h hosts an unknown name costs h − 1 questions; a cluster of a thousand wants a register instead.

Left out: one name on several hosts (the asker's own host is believed before others, else who answers first), and
answers that are too long for a datagram.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os

from minicontainer.network import dns, overlay
from minicontainer.network.forward import by_datagram

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minicontainer.network.definition import IPNetwork, Network
    from minicontainer.network.dns import Question

WAIT = 0.3
"""Seconds that the other hosts have for an answer."""


def servers(network: Network) -> dict[IPNetwork, str]:
    """The other hosts' name servers, by the parts of the subnets that each knows."""
    peers = [(peer, str(peer.part.network_address + 1)) for peer in overlay.peers(network)]
    return {part: server for peer, server in peers for part in (peer.part, peer.part6) if part is not None}


def concerned(network: Network, question: Question) -> list[str]:
    """Which of them may know: all for a name of one label, or in this network; for an address the one whose it is."""
    address = dns.reverse(question.name)
    if address is not None:
        return [it for part, it in servers(network).items() if ipaddress.ip_address(address) in part]
    label, _, rest = question.name.partition(".")
    return list(dict.fromkeys(servers(network).values())) if label and rest in ("", network.name.lower()) else []


async def ask(network: Network, data: bytes, question: Question) -> bytes | None:
    """What another host answers; None when nobody knows."""
    sent = os.urandom(2) + data[2:]
    tasks = {
        asyncio.ensure_future(asyncio.wait_for(by_datagram(server, sent, question, network.gateway), WAIT))
        for server in concerned(network, question)
    }
    try:
        while tasks:
            done, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                found = b"" if task.exception() else task.result()
                if found and found[3] & 15 == dns.NOERROR:
                    return data[:2] + found[2:]
    finally:
        for task in tasks:
            task.cancel()
    return None
