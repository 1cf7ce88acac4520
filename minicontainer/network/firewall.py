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

A start adds an element to a map, no rule (publishing.py), and so needs no nft. Packets pass *every* table that hooks
in, and a drop by anyone is final: an accept of ours cannot overrule a firewall whose forward chain drops what it does
not know (Docker's, ufw's, firewalld's). Into such a chain, and only there, go two accepts for our bridge, one each
way, marked with a comment by which they are found and removed again.

The kernel numbers its rule sets. As long as that number is the one we left, nobody's rules need looking at
(ruleset.py). A firewall that was reloaded over our heads is mended by the next start.

Left out: IPv6 and rules between containers of one network (rules.py); iptables' legacy tables (see
`warn_of_legacy_tables`).

Sources: nft(8), https://wiki.nftables.org, ip-sysctl.rst in the kernel's documentation.
"""

from __future__ import annotations

import os

from minicontainer import linux
from minicontainer.errors import HostError
from minicontainer.lean import signal
from minicontainer.network import elements, publishing
from minicontainer.network.ruleset import RuleSet, generation

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from minicontainer.network.addresses import Subnet
    from minicontainer.network.ports import Port

__all__ = ["Firewall", "Nft", "RuleSet", "generation", "warn_of_legacy_tables"]

DIRECTORIES = ("/usr/sbin", "/sbin", "/usr/bin", "/usr/local/sbin")
"""Where nft may be."""

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

    def look(self, known: int = 0) -> RuleSet:
        """The kernel's rule set as it is now; without others' chains if it is still the one of the number `known`."""
        return RuleSet(self.table, self.mark, lambda: _nft("list ruleset", "-j", "list", "ruleset"), known)

    def apply(self, subnet: Subnet, published: Iterable[tuple[str, Port]], found: RuleSet) -> int:
        """Make the rule set have our table with exactly the `published` ports (container address, port), and our
        accepts where they are needed. How many steps that took: none, if all was there.
        """
        wanted = {(port.host_ip, port.protocol, port.host_port): (to, port.container_port) for to, port in published}
        script = []
        if not found.has_table:
            script.append(_TABLE.format(table=self.table, bridge=self.bridge, subnet=subnet))
        for chain in found.dropping:
            if chain not in {accept[:3] for accept in found.accepts}:
                for way in ("iifname", "oifname"):
                    script.append(
                        f'insert rule {" ".join(chain)} {way} "{self.bridge}" counter accept comment "{self.mark}"'
                    )
        if script:
            _nft("\n".join(script), "-f", "-")
        new = dict(wanted.items() - found.published.items())
        gone = dict(found.published.items() - wanted.items())
        new_elements, gone_elements = (
            [publishing.element(self.table, *it) for it in some.items()] for some in (new, gone)
        )
        elements.change(new_elements, gone_elements)
        return bool(script) + bool(new or gone)

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

    def removed(self, nft: Nft) -> None:
        """Wait for the nft of `remove`. Its complaint is none if all is gone: an nft whose owner was killed in the same
        moment may have been faster."""
        try:
            nft.wait()
        except HostError:
            left = self.look()
            if left.has_table or left.accepts:
                raise


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
            # It does not hear a Ctrl-C meant for the program, and so finishes. In a process group of its own it still
            # would, in the moment before it has left ours.
            return os.posix_spawn(
                f"{directory}/nft", argv, environment, file_actions=actions, setsigmask=[signal.SIGINT]
            )
        except FileNotFoundError:
            continue
    raise HostError("there is no nft on this machine", hint="install the package nftables: apt-get install nftables")
