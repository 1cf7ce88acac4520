"""Every break-out, in both directions: out of a container that lacks its defence, and not out of Docker's set."""

from __future__ import annotations

import os

import pytest
from stores import grow

from minicontainer.cgroups import Cgroup
from minicontainer.container import DEVNULL, PIPE
from minicontainer.errors import ContainerError, HostError
from minicontainer.security import breakouts, defaults


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


def test_an_images_variable_with_newlines_is_one_variable(root: str) -> None:
    hostile = "one\nPATH=/evil\nLD_PRELOAD=/evil.so\n\x1b[2Jx"
    image = grow(f"{root}/..", "hostile:1", {"etc/motd": b""}, env={"A": hostile}, cmd=["sh", "-c", "read line"])
    with image.container(None, Cgroup(), *defaults.default()).start(stdin=PIPE) as container:
        with open(f"/proc/{container.pid}/environ", "rb") as file:
            words = file.read().split(b"\0")
        second = container.exec(["sh", "-c", 'test "$A" = "$0" && test -z "$LD_PRELOAD"', hostile])
        container.stdin.close()
    assert f"A={hostile}".encode() in words
    assert sorted(word.split(b"=")[0] for word in words if word) == [b"A", b"HOME", b"PATH"]
    assert second == 0


def test_an_image_that_wants_to_start_in_a_directory_of_the_host_is_refused(root: str) -> None:
    outside = os.open("/etc", os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.set_inheritable(outside, True)
        image = grow(f"{root}/..", "hostile:2", {"etc/motd": b""}, working_dir=f"/proc/self/fd/{outside}", cmd=["pwd"])
        container = image.container(None, Cgroup(), *defaults.default())
        with pytest.raises(ContainerError, match="/proc/self/fd"):
            container.run(stdin=DEVNULL, stdout=DEVNULL)
    finally:
        os.close(outside)
