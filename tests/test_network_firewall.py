"""Our rules among those of others: theirs stay as they are, and ours are mended when somebody sweeps them away."""

from __future__ import annotations

import os
import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from minicontainer import state
from minicontainer.network import Bridge, bridge_name, firewall

if TYPE_CHECKING:
    from pathlib import Path

    from networks import Machine

pytest_plugins = ["networks"]

FOREIGN = """
table ip filter {
  chain INPUT { type filter hook input priority filter; policy accept; tcp dport 22 counter accept comment "ssh"; }
  chain FORWARD { type filter hook forward priority filter; policy accept; iifname "wg0" drop; }
}
table ip nat {
  chain POSTROUTING { type nat hook postrouting priority srcnat; policy accept; ip saddr 10.9.0.0/16 masquerade; }
}
table inet mine {
  set friends { type ipv4_addr; flags interval; elements = { 192.0.2.0/24, 198.51.100.7 } }
  chain odd { ip saddr @friends return; log prefix "odd: "; }
}
table bridge layer2 {
  chain forward { type filter hook forward priority 0; policy accept; }
}
"""

DROPPING = """
table inet ufw {
  chain forward { type filter hook forward priority filter; policy drop; ct state established accept; }
}
"""
REJECTING = """
table inet firewalld {
  chain filter_FORWARD {
    type filter hook forward priority filter + 10; policy accept;
    ct state established,related accept
    reject with icmpx admin-prohibited
  }
}
"""


def ours_taken_away(ruleset: str) -> str:
    """The rule set without our table and without the rules that carry our mark."""
    lines = [line for line in ruleset.splitlines() if f'comment "{state.instance()} {bridge_name()}"' not in line]
    return re.sub(rf"^table inet {state.instance()} {{$.*?^}}\n?", "", "\n".join(lines), flags=re.S | re.M).strip()


def test_tables_of_others_stay_as_they_are(machine: Machine) -> None:
    machine.nft(FOREIGN)
    before = machine.ruleset()
    one, two = machine.start(Bridge(publish={8080: 80})), machine.start(Bridge())
    during = machine.ruleset()
    assert during != before
    assert ours_taken_away(during) == before.strip()
    assert "table bridge layer2" in during
    machine.end(one)
    machine.end(two)
    assert machine.ruleset() == before


@pytest.mark.parametrize("theirs", [DROPPING, REJECTING])
def test_forward_chain_that_drops_gets_a_marked_accept_until_the_last_container_ends(
    machine: Machine, theirs: str
) -> None:
    near = machine.neighbour()
    machine.nft(FOREIGN + theirs)
    before = machine.ruleset()
    inside, other = machine.start(Bridge(publish={8080: 80})), machine.start(Bridge())
    inside.serve("tcp", 80, "it")
    near.serve("tcp", 7, "near")
    assert inside.call("tcp", near.address, 7) == "near sees 198.51.100.1"
    assert near.call("tcp", "198.51.100.1", 8080) == "it sees 198.51.100.2"
    assert other.call("tcp", inside.address, 80) == f"it sees {other.address}"
    during = machine.ruleset()
    assert ours_taken_away(during) == before.strip()
    marked = [line.strip() for line in during.splitlines() if f'"{state.instance()} {bridge_name()}"' in line]
    assert len(marked) == 2, "one each way, in the one chain that drops"
    assert all(line.endswith(f'accept comment "{state.instance()} {bridge_name()}"') for line in marked)
    machine.end(other)
    assert len([line for line in machine.ruleset().splitlines() if "comment" in line and bridge_name() in line]) == 2
    machine.end(inside)
    assert machine.ruleset() == before


def test_chain_that_lets_pass_gets_no_accept(machine: Machine) -> None:
    machine.nft(FOREIGN)
    machine.start(Bridge())
    assert "comment" not in machine.run("nft", "list", "chain", "ip", "filter", "FORWARD")


def test_without_the_accept_the_dropping_chain_would_cut_us_off(machine: Machine) -> None:
    """The premise of the marked accept: an accept in our table does not overrule another's drop."""
    near = machine.neighbour()
    machine.nft(DROPPING)
    inside = machine.start(Bridge())
    near.serve("tcp", 7, "near")
    listed = machine.run("nft", "-a", "list", "chain", "inet", "ufw", "forward")
    for handle in re.findall(r'comment ".*" # handle (\d+)', listed):
        machine.run("nft", "delete", "rule", "inet", "ufw", "forward", "handle", handle)
    assert inside.call("tcp", near.address, 7, timeout=0.5) == "TimeoutError"


def test_iptables_of_the_nft_kind_still_reads_its_own_chain(machine: Machine) -> None:
    near = machine.neighbour()
    machine.run("iptables-nft", "-P", "FORWARD", "DROP")
    machine.run("iptables-nft", "-A", "FORWARD", "-i", "docker0", "-j", "ACCEPT")
    before = machine.run("iptables-nft", "-S")
    inside = machine.start(Bridge())
    near.serve("tcp", 7, "near")
    assert inside.call("tcp", near.address, 7) == "near sees 198.51.100.1"
    during = machine.run("iptables-nft", "-S", "FORWARD").splitlines()
    assert sorted(line.split()[2] for line in during if bridge_name() in line) == ["-i", "-o"]
    machine.end(inside)
    assert machine.run("iptables-nft", "-S") == before


def test_firewall_that_was_reloaded_over_our_heads_is_mended_by_the_next_start(machine: Machine) -> None:
    near = machine.neighbour()
    inside = machine.start(Bridge(publish={8080: 80}))
    inside.serve("tcp", 80, "it")
    assert near.call("tcp", "198.51.100.1", 8080) == "it sees 198.51.100.2"
    ours = machine.ruleset()
    machine.nft("flush ruleset\n" + DROPPING)
    assert near.call("tcp", "198.51.100.1", 8080) == "ConnectionRefusedError"
    machine.start(Bridge())
    assert near.call("tcp", "198.51.100.1", 8080) == "it sees 198.51.100.2"
    assert f"table inet {state.instance()}" in ours
    machine.nft("flush ruleset")
    machine.start(Bridge())
    assert machine.ruleset() == ours


def test_firewall_started_after_us_gets_its_accept_with_the_next_start(machine: Machine) -> None:
    near = machine.neighbour()
    inside = machine.start(Bridge())
    near.serve("tcp", 7, "near")
    machine.nft(DROPPING)
    assert inside.call("tcp", near.address, 7, timeout=0.5) == "TimeoutError"
    machine.start(Bridge())
    assert inside.call("tcp", near.address, 7) == "near sees 198.51.100.1"


def test_our_table_is_one_and_has_our_name(machine: Machine) -> None:
    machine.start(Bridge())
    assert machine.run("nft", "list", "tables").split() == ["table", "inet", state.instance()]


def test_release_without_our_table_is_no_error(machine: Machine) -> None:
    before = machine.view()
    inside = machine.start(Bridge(publish={8080: 80}))
    other = machine.start(Bridge(publish={8081: 80}))
    machine.nft("flush ruleset")
    machine.end(inside)
    machine.nft("flush ruleset")
    machine.end(other)
    assert machine.view() == before


def test_nft_finishes_although_ctrl_c_reaches_it_too(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A terminal's Ctrl-C, or a notebook's stop button, goes to the whole process group, in whatever moment."""
    (tmp_path / "nft").write_text('#!/bin/sh\nkill -INT $$\nexec /usr/sbin/nft "$@"\n')
    (tmp_path / "nft").chmod(0o755)
    monkeypatch.setattr(firewall, "DIRECTORIES", (str(tmp_path),))
    place = machine.start(Bridge())
    assert state.instance() in machine.ruleset()
    machine.end(place)
    assert state.instance() not in machine.ruleset()


def test_legacy_tables_are_spoken_of(machine: Machine) -> None:
    legacy = "/usr/sbin/iptables-legacy"
    if not os.path.exists(legacy):
        pytest.skip("iptables-legacy is not installed")
    if subprocess.run([legacy, "-S", "FORWARD"], capture_output=True, check=False).returncode:
        pytest.skip("this kernel has no legacy tables")
    with pytest.warns(RuntimeWarning, match="iptables-legacy"):
        machine.start(Bridge())
