"""Every break-out, in both directions: out of a container that lacks its defence, and not out of Docker's set."""

from __future__ import annotations

import os

import pytest

from minicontainer.errors import HostError
from minicontainer.security import breakouts


@pytest.mark.parametrize("kind", breakouts.ALL, ids=lambda kind: kind.__name__)
def test_it_gets_out_where_its_defence_is_missing(rootfs: str, kind: type[breakouts.BreakOut]) -> None:
    with kind(rootfs) as attack:
        outcome = attack(attack.naive())
    assert outcome.out, outcome


@pytest.mark.parametrize("kind", breakouts.ALL, ids=lambda kind: kind.__name__)
def test_the_default_holds_it(rootfs: str, kind: type[breakouts.BreakOut]) -> None:
    with kind(rootfs) as attack:
        outcome = attack(attack.default())
    assert not outcome.out, outcome
    assert outcome.evidence


@pytest.mark.parametrize("kind", breakouts.ALL, ids=lambda kind: kind.__name__)
def test_its_decoy_goes_with_it(rootfs: str, kind: type[breakouts.BreakOut]) -> None:
    before = sorted(os.listdir(rootfs))
    with kind(rootfs) as attack:
        directory = attack.directory
        assert os.path.isdir(directory)
    assert not os.path.exists(directory)
    assert sorted(os.listdir(rootfs)) == before
    assert kind.title
    assert kind.defence


def test_a_machine_without_loop_devices_is_told_how_to_get_them(rootfs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breakouts.kernel, "LOOP_CONTROL", "/none")
    with pytest.raises(HostError, match="modprobe loop"), breakouts.RawDisk(rootfs):
        pass
    assert not os.path.exists(f"{rootfs}/tmp/disk")


def test_a_hierarchy_of_cgroups_goes_with_its_decoy(rootfs: str) -> None:
    for _ in range(3):
        with breakouts.ReleaseAgent(rootfs) as attack:
            token = attack.token
            assert attack(attack.naive()).out
        with open("/proc/self/cgroup") as file:
            assert token not in file.read()
