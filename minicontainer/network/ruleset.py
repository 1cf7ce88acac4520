"""What of the kernel's rule set matters to us: our own tables, and chains of others that would drop our packets.

The whole rule set of a machine can be long, and nft(8) takes its time to write it all down. So the kernel is asked in
netlink for what is cheap, which chains there are and what our maps have in them; nft only, if somebody else filters
what is forwarded, for his rules.

Source: <linux/netfilter/nf_tables.h>.
"""

from __future__ import annotations

import struct

from minicontainer.lean import loads
from minicontainer.network import publishing
from minicontainer.network.elements import NFPROTO_INET
from minicontainer.network.netlink import NETLINK_NETFILTER, NFNL_SUBSYS_NFTABLES, Netlink, attributes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from minicontainer.network.ports import Port
    from minicontainer.network.publishing import Key, Target

NFT_MSG_GETCHAIN = 4
NFT_MSG_GETGEN = 16
NFTA_GEN_ID = 1
NFTA_CHAIN_TABLE = 1
NFTA_CHAIN_HOOK = 4
NFTA_HOOK_HOOKNUM = 1
NF_INET_FORWARD = 2
NFPROTO_IPV4 = 2

_nfgenmsg = struct.Struct("!BBH")  # family, version, resource


class RuleSet:
    """The kernel's rule set as it is now, seen by the instance whose table is `table`.

    `mark` is the comment on its rules in others' chains, `list_rules` has nft write all rules down. Without them, and
    when the rule set is still the one of the number `known`, others' chains are not looked at.
    """

    def __init__(
        self, table: str, mark: str = "", list_rules: Callable[[], bytes] | None = None, known: int = 0
    ) -> None:
        self.generation = generation()  # asked first: what changes meanwhile makes the next start look again
        self.published: dict[Key, Target] = {}
        self.accepts: list[tuple[str, str, str, int]] = []
        """Our accepts in others' chains: family, table, chain, handle."""
        self.dropping: list[tuple[str, str, str]] = []
        """Others' forward chains that drop what they do not know: family, table, chain."""
        with Netlink(NETLINK_NETFILTER) as netlink:
            chains = _chains(netlink)
            tables = {name for family, name, _ in chains if family == NFPROTO_INET}
            found = {it: publishing.published(netlink, it) for it in sorted(tables) if it.startswith(publishing.PREFIX)}
        self.has_table = table in tables
        self.published = found.pop(table, {})
        self.elsewhere: list[tuple[Port, str]] = publishing.ports(found.items())
        """What other instances have published, each with its table's name."""
        forward = [family for family, name, hook in chains if hook == NF_INET_FORWARD and not _is_ours(family, name)]
        if list_rules is not None and self.generation != known and {NFPROTO_INET, NFPROTO_IPV4} & set(forward):
            self._look_at_others(loads(list_rules())["nftables"], mark)

    def _look_at_others(self, objects: list[dict[str, Any]], mark: str) -> None:
        last_rules: dict[tuple[str, str, str], dict[str, Any]] = {}
        chains = []
        for entry in objects:
            (kind, it), *_ = entry.items()
            if kind == "chain" and it.get("hook") == "forward" and it["family"] in ("ip", "inet"):
                if it["family"] == "ip" or not it["table"].startswith(publishing.PREFIX):
                    chains.append(it)
            elif kind == "rule":
                last_rules[it["family"], it["table"], it["chain"]] = it
                if it.get("comment") == mark:
                    self.accepts.append((it["family"], it["table"], it["chain"], it["handle"]))
        for chain in chains:
            name = (chain["family"], chain["table"], chain["name"])
            if chain.get("policy") == "drop" or _drops_all(last_rules.get(name)):
                self.dropping.append(name)


def generation() -> int:
    """The number of the kernel's present rule set: another after every change, by whomever."""
    with Netlink(NETLINK_NETFILTER) as netlink:
        kind, header = NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETGEN, _nfgenmsg.pack(0, 0, 0)  # any family
        answer = netlink.get("NFT_MSG_GETGEN", "number of the rule set", kind, header)
    return int.from_bytes(attributes(answer[_nfgenmsg.size :])[NFTA_GEN_ID], "big")


def _chains(netlink: Netlink) -> list[tuple[int, str, int]]:
    """All chains: family, table, and the number of the hook that it hangs on (-1: on none)."""
    kind = NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETCHAIN
    found = []
    for answer in netlink.dump("NFT_MSG_GETCHAIN", "all", kind, _nfgenmsg.pack(0, 0, 0)):
        parts = attributes(answer[_nfgenmsg.size :])
        hook = attributes(parts.get(NFTA_CHAIN_HOOK, b"")).get(NFTA_HOOK_HOOKNUM)
        table = parts[NFTA_CHAIN_TABLE].rstrip(b"\0").decode(errors="replace")
        found.append((answer[0], table, -1 if hook is None else int.from_bytes(hook, "big")))
    return found


def _is_ours(family: int, table: str) -> bool:
    return family == NFPROTO_INET and table.startswith(publishing.PREFIX)


def _drops_all(rule: dict[str, Any] | None) -> bool:
    """Whether a chain's last rule drops or rejects whatever comes as far (firewalld's way)."""
    if rule is None:
        return False
    steps = [name for step in rule["expr"] for name in step if name not in ("counter", "log", "limit")]
    return len(steps) == 1 and steps[0] in ("drop", "reject")
