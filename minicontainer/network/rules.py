"""The firewall of networks of the user's own: who may reach whom, and who may say who he is.

All of this instance's networks share two tables of their own, `inet INSTANCE.networks` and `bridge
INSTANCE.networks`. Both are written out anew, and swapped in as one step, whenever a network comes or goes: no packet
of a network that stays meets half of them. What changes with each container are elements of their sets (elements.py).

**Between networks** (`forward`). A packet may go from one of our bridges to the links that `within` pairs it with: to
itself, where members may talk; to its tunnel, on an overlay. Into a bridge come answers besides, and what was
published. Everything else is dropped: so two networks do not hear of each other, and nobody who routes a packet here
gets in uninvited. Out of a network that is not internal goes what its members like.

**To the host** (`input`). A container's packets for the host itself end here, but for questions to its own network's
name server, ping, and answers: what listens on the host is not the containers' business, unless the network was made
with `host_access`.

**On the bridge** (`spoofing`). A bridge believes whatever a frame says about its sender. With one forged ARP answer a
container can make its neighbours send it what they mean for the gateway. But which cable has which hardware and which
IP address was decided by us: a frame whose sender is not in `sender4` or `sender6` *with that cable* is dropped before
the bridge has even learned from it. In ARP the claim stands twice, in the frame and in the message; with IPv6 it is in
the target of the neighbour advertisement (its bytes 48 to 63), and nobody may pose as a router.

(What an interface says before it has an address, of sender `::`, is dropped without being counted: nothing of ours
needs it.)

The addresses that are published are looked up as for the default bridge (firewall.py), and of both families. Only
the host's own ::1 is left alone: IPv6 has no `route_localnet`, so what is sent from there finds no way out of lo. A
program that tries ::1 first is refused at once, and tries 127.0.0.1.

Sources: nft(8); ip-sysctl.rst; RFC 826 (ARP), RFC 4861 (neighbour discovery), RFC 6105 (rogue advertisements).
"""

from __future__ import annotations

import _socket

from minicontainer import state
from minicontainer.errors import HostError
from minicontainer.network import elements, firewall, publishing
from minicontainer.network.addresses import hardware_address
from minicontainer.network.elements import NFPROTO_BRIDGE, Element, field, ifname
from minicontainer.network.interfaces import packed
from minicontainer.network.ports import ANY, Port
from minicontainer.network.ruleset import RuleSet

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from minicontainer.network.definition import Member, Network

_TABLES = r"""
table inet {table} {{
  map published {{ type inet_proto . inet_service : ipv4_addr . inet_service; }}
  map published_at {{ type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }}
  map published6 {{ type inet_proto . inet_service : ipv6_addr . inet_service; }}
  map published6_at {{ type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service; }}
  set within {{ type ifname . ifname; {within} }}
  set internal {{ type ifname; {internal} }}
  set host_access {{ type ifname; {host_access} }}
  set resolver4 {{ type ifname . ipv4_addr; {resolver4} }}
  set resolver6 {{ type ifname . ipv6_addr; {resolver6} }}
  chain guard {{
    type filter hook prerouting priority raw; policy accept;
    iifname "{bridges}" ip daddr 127.0.0.0/8 drop
{guards}  }}
  chain publish {{
    dnat ip to ip daddr . meta l4proto . th dport map @published_at
    dnat ip to meta l4proto . th dport map @published
    dnat ip6 to ip6 daddr . meta l4proto . th dport map @published6_at
    dnat ip6 to meta l4proto . th dport map @published6
  }}
  chain prerouting {{
    type nat hook prerouting priority -100; policy accept;
    ip daddr != 127.0.0.0/8 fib daddr type local meta l4proto {{ tcp, udp }} jump publish
    meta nfproto ipv6 fib daddr type local meta l4proto {{ tcp, udp }} jump publish
  }}
  chain output {{
    type nat hook output priority -100; policy accept;
    ip6 daddr ::1 accept
    fib daddr type local meta l4proto {{ tcp, udp }} jump publish
  }}
  chain postrouting {{
    type nat hook postrouting priority 100; policy accept;
    oifname "{bridges}" ct status dnat ip saddr 127.0.0.0/8 masquerade
{masquerade}  }}
  chain input {{
    type filter hook input priority filter; policy accept;
    iifname "{bridges}" jump host
    iifname "{tunnels}" jump host
  }}
  chain host {{
    ct state established,related accept
    meta l4proto {{ icmp, ipv6-icmp }} accept
    meta l4proto {{ tcp, udp }} th dport 53 iifname . ip daddr @resolver4 accept
    meta l4proto {{ tcp, udp }} th dport 53 iifname . ip6 daddr @resolver6 accept
    iifname @host_access accept
    drop
  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    iifname . oifname @within accept
    iifname @internal drop
    ct state established,related accept
    oifname @internal drop
    oifname "{bridges}" ct status dnat accept
    oifname "{bridges}" drop
    oifname "{tunnels}" drop
  }}
}}
table bridge {table} {{
  set sender4 {{ type ifname . ether_addr . ipv4_addr; }}
  set sender6 {{ type ifname . ether_addr . ipv6_addr; }}
  set neighbour6 {{ typeof iifname . ether saddr . @nh,384,128; }}
  chain spoofing {{
    type filter hook prerouting priority -350; policy accept;
    iifname != "{cables}" accept
    ether type ip iifname . ether saddr . ip saddr @sender4 accept
    ether type arp iifname . ether saddr . arp saddr ip @sender4 \
      iifname . arp saddr ether . arp saddr ip @sender4 accept
    ip6 saddr :: drop
    icmpv6 type {{ nd-router-advert, nd-redirect }} counter drop
    icmpv6 type nd-neighbor-advert iifname . ether saddr . @nh,384,128 != @neighbour6 counter drop
    ether type ip6 iifname . ether saddr . ip6 saddr @sender6 accept
    counter drop
  }}
}}
"""


def table() -> str:
    """The name of both our tables."""
    return f"{state.instance()}.networks"


def _pattern(letter: str) -> str:
    return f"mc{state.tag()}-{letter}*"


def replace(
    networks: Sequence[Network],
    pairs: Iterable[tuple[str, str]] = (),
    doors: Sequence[tuple[str, Network]] = (),
    guards: Iterable[str] = (),
) -> None:
    """Write both tables anew for the `networks` that are up; without any, remove them. `pairs` are the links between
    which a packet may pass, `doors` those by which a network's name server may be asked, `guards` rules for whatever
    arrives.

    Raises HostError when this machine's firewall cannot.
    """
    there = firewall.Firewall(table(), _pattern("n"))
    found = there.look()
    script = [f"delete rule {' '.join(accept[:3])} handle {accept[3]}" for accept in found.accepts]
    for family in ("inet", "bridge"):  # a table that may or may not be there can be removed only after it was added
        script += [f"add table {family} {table()}", f"delete table {family} {table()}"]
    if networks:
        masquerade = "".join(f"    {rule}\n" for network in networks for rule in _masquerade(network))
        script.append(
            _TABLES.format(
                table=table(),
                bridges=_pattern("n"),
                tunnels=_pattern("x"),
                cables=_pattern("v"),
                within=_elements(f'"{one}" . "{other}"' for one, other in pairs),
                internal=_elements(f'"{network.link}"' for network in networks if network.internal),
                host_access=_elements(f'"{network.link}"' for network in networks if network.host_access),
                resolver4=_elements(f'"{link}" . {network.gateway}' for link, network in doors),
                resolver6=_elements(f'"{link}" . {it.gateway6}' for link, it in doors if it.gateway6),
                masquerade=masquerade,
                guards="".join(f"    {rule}\n" for rule in guards),
            )
        )
        for chain in found.dropping:
            script += [
                f'insert rule {" ".join(chain)} {way} "{there.bridge}" counter accept comment "{there.mark}"'
                for way in ("iifname", "oifname")
            ]
    elif not found.has_table:
        return
    script += elements.script([it for network in networks for member in network.members.values() for it in of(member)])
    firewall._nft("\n".join(script), "-f", "-")
    if networks:
        firewall.warn_of_legacy_tables()


def elsewhere() -> list[tuple[Port, str]]:
    """What is published on this machine, but by our own networks: the default bridge's and other instances' ports,
    each with its table's name."""
    return RuleSet(table()).elsewhere


def of(member: Member) -> list[Element]:
    """The elements that a member has: who it is on its cable, and what it has published."""
    inet, found = table(), []
    if member.link:
        mac = hardware_address(member.address)
        for address in [member.address, *([member.address6, link_local(mac)] if member.address6 else [])]:
            key = ifname(member.link) + field(mac) + packed(address)
            for name in ("sender6", "neighbour6") if ":" in address else ("sender4",):
                written = f"0x{packed(address).hex()}" if name == "neighbour6" else address
                text = f'"{member.link}" . {mac.hex(":")} . {written}'
                found.append(Element(NFPROTO_BRIDGE, inet, name, key, words=f"{member.link} {address}", text=text))
    for record in member.ports:
        port = Port(**record)
        for address in filter(None, (member.address, member.address6)):
            if port.host_ip == ANY or (":" in port.host_ip) == (":" in address):  # else for the other family only
                outside = (port.host_ip, port.protocol, port.host_port)
                found.append(publishing.element(inet, outside, (address, port.container_port)))
    return found


def link_local(mac: bytes) -> str:
    """The address that an interface gives itself (modified EUI-64: RFC 4291, appendix A)."""
    host = bytes([mac[0] ^ 2]) + mac[1:3] + b"\xff\xfe" + mac[3:]
    return _socket.inet_ntop(_socket.AF_INET6, b"\xfe\x80" + bytes(6) + host)


def spoofed() -> int:
    """How many frames were dropped because their sender was not who he said."""
    import json

    try:
        listed = firewall._nft("", "-j", "list", "chain", "bridge", table(), "spoofing")
    except HostError:
        return 0
    rules = (entry["rule"]["expr"] for entry in json.loads(listed)["nftables"] if "rule" in entry)
    return sum(int(step["counter"]["packets"]) for rule in rules for step in rule if "counter" in step)


def _elements(words: Iterable[str]) -> str:
    text = ", ".join(words)
    return f"elements = {{ {text} }}" if text else ""


def _masquerade(network: Network) -> list[str]:
    """What leaves the network gets the host's address; and a member that calls a published port of its own network
    gets the gateway's, because the answer must come back through us."""
    found = []
    for subnet in network.subnets:
        ip = f"ip{6 if subnet.version == 6 else ''}"
        found.append(f'oifname "{network.link}" {ip} saddr {subnet} ct status dnat masquerade')
        if not network.internal:
            beyond = network.options.get("cluster6" if subnet.version == 6 else "cluster")
            inside = f" {ip} daddr != {beyond}" if beyond else ""
            found.append(f'oifname != "{_pattern("n")}" {ip} saddr {subnet}{inside} masquerade')
    return found
