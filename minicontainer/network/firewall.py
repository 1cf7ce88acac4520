"""The firewall's part: masquerade, published ports, and nothing else of anybody's touched.

A container's address means nothing outside this machine. So what leaves it for elsewhere gets the host's address
(masquerade), and what arrives at a published port of the host gets the container's (DNAT). Both are rules of
nf_tables, in one table of our own (`table inet minicontainer`), loaded by nft(8) in one atomic step:

    guard        what comes from the bridge may not call the host's own 127.0.0.1. It could otherwise, because our
                 connections through 127.0.0.1 need `route_localnet` on the bridge
    prerouting   what comes in for one of the host's addresses: look the port up, rewrite the destination
    output       the same for what the host itself sends, to its own addresses and to 127.0.0.1
    postrouting  masquerade; and answers must come back through us where they would find a shorter way
    forward      into the bridge only: from it, answers, and what was published. All else is dropped

A start adds an element to a map, no rule. Packets pass *every* table that hooks in, and a drop by anyone is final: an
accept of ours cannot overrule a firewall whose forward chain drops what it does not know (Docker's, ufw's,
firewalld's). Into such a chain, and only there, go two accepts for our bridge, one each way, marked with a comment
by which they are found and removed again.

The kernel numbers its rule sets. As long as that number is the one we left, nothing needs looking at, and a container
without published ports starts without nft. A firewall that was reloaded over our heads is mended by the next start.

Left out: IPv6 and rules between containers of one network (rules.py); iptables' legacy tables (see
`warn_of_legacy_tables`).

Sources: nft(8), https://wiki.nftables.org, ip-sysctl.rst in the kernel's documentation.
"""

from __future__ import annotations

import json
import os
import struct

from minicontainer import linux
from minicontainer.errors import HostError
from minicontainer.network.netlink import NETLINK_NETFILTER, Netlink, attributes
from minicontainer.network.ports import ANY, Port

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from minicontainer.network.addresses import Subnet

    Key = tuple[str, str, int]  # host address, protocol, host port
    Target = tuple[str, int]  # container address, container port

DIRECTORIES = ("/usr/sbin", "/sbin", "/usr/bin", "/usr/local/sbin")
"""Where nft may be."""

NFNL_SUBSYS_NFTABLES = 10
NFT_MSG_GETGEN = 16
NFTA_GEN_ID = 1

_TABLE = """\
table inet {table} {{
  map published {{
    type inet_proto . inet_service : ipv4_addr . inet_service
  }}
  map published_at {{
    type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service
  }}
  chain guard {{
    type filter hook prerouting priority raw; policy accept;
    iifname "{bridge}" ip daddr 127.0.0.0/8 drop
  }}
  chain publish {{
    dnat ip to ip daddr . meta l4proto . th dport map @published_at
    dnat ip to meta l4proto . th dport map @published
  }}
  chain prerouting {{
    type nat hook prerouting priority -100; policy accept;
    ip daddr != 127.0.0.0/8 fib daddr type local meta l4proto {{ tcp, udp }} jump publish
  }}
  chain output {{
    type nat hook output priority -100; policy accept;
    fib daddr type local meta l4proto {{ tcp, udp }} jump publish
  }}
  chain postrouting {{
    type nat hook postrouting priority 100; policy accept;
    oifname != "{bridge}" ip saddr {subnet} masquerade
    oifname "{bridge}" ct status dnat ip saddr {{ 127.0.0.0/8, {subnet} }} masquerade
  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    oifname != "{bridge}" accept
    iifname "{bridge}" accept
    ct state established,related accept
    ct status dnat accept
    drop
  }}
}}
"""


class Firewall:
    """The rules of one bridge: `table` is our table's name (the instance's), `bridge` the link's."""

    def __init__(self, table: str, bridge: str) -> None:
        self.table = table
        self.bridge = bridge
        self.mark = f"{table} {bridge}"
        """The comment on the rules that we put into others' chains."""

    def look(self) -> RuleSet:
        """The kernel's rule set as it is now, by nft."""
        number = generation()  # asked first: what changes meanwhile makes the next start look again
        return RuleSet(self, number, json.loads(_nft("list ruleset", "-j", "list", "ruleset"))["nftables"])

    def apply(self, subnet: Subnet, published: Iterable[tuple[str, Port]], found: RuleSet) -> bool:
        """Make the rule set have our table with exactly the `published` ports (container address, port), and our
        accepts where they are needed; one transaction, none if all is there. Whether there was one.
        """
        wanted = {(port.host_ip, port.protocol, port.host_port): (to, port.container_port) for to, port in published}
        script = []
        if not found.has_table:
            script.append(_TABLE.format(table=self.table, bridge=self.bridge, subnet=subnet))
        for key, target in found.published.items():
            if wanted.get(key) != target:
                script.append(f"delete element inet {self.table} {_element(key)} }}")
        for key, target in wanted.items():
            if found.published.get(key) != target:
                script.append(f"add element inet {self.table} {_element(key)} : {target[0]} . {target[1]} }}")
        for chain in found.dropping:
            if chain not in {accept[:3] for accept in found.accepts}:
                for way in ("iifname", "oifname"):
                    script.append(
                        f'insert rule {" ".join(chain)} {way} "{self.bridge}" counter accept comment "{self.mark}"'
                    )
        if script:
            _nft("\n".join(script), "-f", "-")
        return bool(script)

    def remove(self) -> tuple[list[str], Nft | None]:
        """Begin to take away our table and our accepts in others' chains: what there was of them, and the nft that is
        at it. The kernel takes its time over it, which the caller can use (see `bridge`) before it waits.
        """
        found = self.look()
        script = [f"delete rule {' '.join(accept[:3])} handle {accept[3]}" for accept in found.accepts]
        if found.has_table:
            script.append(f"delete table inet {self.table}")
        words = "\n".join(script)
        nft = linux.announce("nft", words, "nft(8)", lambda: Nft(words, "-f", "-")) if script else None
        return [line.removeprefix("delete ") for line in script], nft


class RuleSet:
    """What of the kernel's rule set matters to us."""

    def __init__(self, firewall: Firewall, generation: int, objects: list[dict[str, Any]]) -> None:
        self.generation = generation
        self.has_table = False
        self.published: dict[Key, Target] = {}
        self.elsewhere: list[tuple[Port, str]] = []
        """What other instances have published, each with its table's name."""
        self.accepts: list[tuple[str, str, str, int]] = []
        """Our accepts in others' chains: family, table, chain, handle."""
        self.dropping: list[tuple[str, str, str]] = []
        """Others' forward chains that drop what they do not know: family, table, chain."""
        last_rules: dict[tuple[str, str, str], dict[str, Any]] = {}
        chains = []
        for entry in objects:
            (kind, it), *_ = entry.items()
            if kind == "table":
                self.has_table |= (it["family"], it["name"]) == ("inet", firewall.table)
            elif kind == "chain":
                ours = it["family"] == "inet" and it["table"].startswith("minicontainer")
                if it.get("hook") == "forward" and it["family"] in ("ip", "inet") and not ours:
                    chains.append(it)
            elif kind == "rule":
                last_rules[it["family"], it["table"], it["chain"]] = it
                if it.get("comment") == firewall.mark:
                    self.accepts.append((it["family"], it["table"], it["chain"], it["handle"]))
            elif kind == "map" and it["family"] == "inet" and it["name"].startswith("published"):
                elements = [_read_element(element) for element in it.get("elem", ())]
                if it["table"] == firewall.table:
                    self.published.update(elements)
                elif it["table"].startswith("minicontainer"):
                    for (host_ip, protocol, host_port), target in elements:
                        self.elsewhere.append((Port(target[1], host_port, host_ip, protocol), it["table"]))
        for chain in chains:
            name = (chain["family"], chain["table"], chain["name"])
            if chain.get("policy") == "drop" or _drops_all(last_rules.get(name)):
                self.dropping.append(name)


def generation() -> int:
    """The number of the kernel's present rule set: another after every change, by whomever."""
    with Netlink(NETLINK_NETFILTER) as netlink:
        header = struct.pack("!BBH", 0, 0, 0)  # struct nfgenmsg: any family, version 0
        answer = netlink.get("NFT_MSG_GETGEN", "", NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETGEN, header)
    return int.from_bytes(attributes(answer[len(header) :])[NFTA_GEN_ID], "big")


def warn_of_legacy_tables() -> None:
    """Say it when the old iptables is in use beside nf_tables: its chains may drop what ours let pass.

    We write nf_tables only; `iptables-nft`, the default of all distributions today, is that too.
    """
    try:
        with open("/proc/self/net/ip_tables_names") as file:
            filters = "filter" in file.read().split()
    except FileNotFoundError:
        return
    if filters:
        import warnings

        warnings.warn(
            "this machine uses iptables-legacy; where its FORWARD chain drops, containers on a bridge cannot reach "
            "the outside: accept the bridge there by hand, or change to iptables-nft",
            RuntimeWarning,
            stacklevel=2,
        )


def _element(key: Key) -> str:
    host_ip, protocol, host_port = key
    if host_ip == ANY:
        return f"published {{ {protocol} . {host_port}"
    return f"published_at {{ {host_ip} . {protocol} . {host_port}"


def _read_element(element: list[Any]) -> tuple[Key, Target]:
    key, target = element[0]["concat"], element[1]["concat"]
    if len(key) == 2:
        key = [ANY, *key]
    return (key[0], key[1], key[2]), (target[0], target[1])


def _drops_all(rule: dict[str, Any] | None) -> bool:
    """Whether a chain's last rule drops or rejects whatever comes as far (firewalld's way)."""
    if rule is None:
        return False
    steps = [name for step in rule["expr"] for name in step if name not in ("counter", "log", "limit")]
    return len(steps) == 1 and steps[0] in ("drop", "reject")


def _nft(words: str, *arguments: str) -> bytes:
    """Run nft(8), `words` being its input if it reads one. Its output; raises HostError with what it complains of."""
    return linux.announce("nft", words, "nft(8)", lambda: Nft(words, *arguments).wait())


class Nft:
    """A running nft(8) that reads `words`."""

    def __init__(self, words: str, *arguments: str) -> None:
        self.words = words
        self.arguments = arguments
        # posix_spawn is safe in a process with threads; subprocess would take longer to import than nft to run. And
        # files in memory take any amount of output while nobody reads.
        self.files = [os.memfd_create(name, os.MFD_CLOEXEC) for name in ("stdin", "stdout", "stderr")]
        try:
            os.write(self.files[0], words.encode() + b"\n")
            os.lseek(self.files[0], 0, os.SEEK_SET)
            self.pid = _spawn(["nft", *arguments], [(os.POSIX_SPAWN_DUP2, fd, to) for to, fd in enumerate(self.files)])
        except BaseException:
            self._close()
            raise

    def wait(self) -> bytes:
        """What it wrote, when it has ended. Raises HostError with what it complains of."""
        try:
            status = os.waitstatus_to_exitcode(self._ended())
            _stdin, stdout, stderr = self.files
            if status != 0:
                complaint = os.pread(stderr, 4096, 0).decode(errors="replace").strip()
                raise HostError(
                    f"nft {' '.join(self.arguments)} failed with exit status {status}: {complaint}",
                    hint="the rules were: " + self.words,
                )
            return os.pread(stdout, os.fstat(stdout).st_size, 0)
        finally:
            self._close()

    def _ended(self) -> int:
        try:
            return os.waitpid(self.pid, 0)[1]
        except KeyboardInterrupt:
            try:
                os.waitpid(self.pid, 0)  # a matter of milliseconds, and nobody else would reap it
            except ChildProcessError:
                pass  # it was reaped already when the interrupt came
            raise

    def _close(self) -> None:
        for fd in self.files:
            os.close(fd)

    def __repr__(self) -> str:
        return f"process {self.pid}"


def _spawn(argv: list[str], actions: list[tuple[int, int, int]]) -> int:
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
    for directory in DIRECTORIES:
        try:
            return os.posix_spawn(f"{directory}/nft", argv, environment, file_actions=actions)
        except FileNotFoundError:
            continue
    raise HostError("there is no nft on this machine", hint="install the package nftables: apt-get install nftables")
