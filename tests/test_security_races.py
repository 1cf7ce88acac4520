"""Links that are exchanged while a container is being made: the flaw behind CVE-2021-30465, tried many times."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from minicontainer.chroot import Bind, PivotRoot
from minicontainer.container import Container, Inside, Part
from minicontainer.errors import ContainerError
from minicontainer.namespaces import Namespaces

if TYPE_CHECKING:
    from pathlib import Path

EXCHANGE = """
import ctypes, os, sys
libc, one, other = ctypes.CDLL(None), *(os.fsencode(path) for path in sys.argv[1:])
print("ready", flush=True)
while os.getppid() != 1:
    libc.renameat2(-100, one, -100, other, 2)  # RENAME_EXCHANGE
"""


class Look(Part):
    """Says, while the host is still visible, whether the mount has landed on the decoy."""

    def __init__(self, decoy: str) -> None:
        self.decoy = decoy

    def mount(self, inside: Inside) -> None:
        os.write(1, b"outside\n" if os.path.exists(f"{self.decoy}/of-the-attacker") else b"")


def test_a_link_that_changes_while_we_look_leads_nowhere(rootfs: str, shared_path: Path) -> None:
    decoy, volume = shared_path / "decoy", shared_path / "volume"
    for path in (decoy, volume):
        path.mkdir()
    (volume / "of-the-attacker").touch()
    os.mkdir(f"{rootfs}/data")
    os.symlink(decoy, f"{rootfs}/other")
    attacker = subprocess.Popen(
        [sys.executable, "-c", EXCHANGE, f"{rootfs}/data", f"{rootfs}/other"], stdout=subprocess.PIPE
    )
    tried = 0
    try:
        assert attacker.stdout is not None
        assert attacker.stdout.readline() == b"ready\n"
        for _ in range(25):
            parts = [Namespaces("pid"), PivotRoot(rootfs), Bind(str(volume), "/data"), Look(str(decoy))]
            try:
                text = Container(["true"], *parts).output(timeout=30)
            except ContainerError as error:
                text = error.message  # it may be refused; it must not be deceived
            assert "outside" not in text
            tried += 1
    finally:
        attacker.kill()
        attacker.wait()
        attacker.stdout.close()  # type: ignore[union-attr]
    assert tried == 25
    assert os.listdir(decoy) == []


def test_the_attack_itself_works(rootfs: str, shared_path: Path) -> None:
    """The same with the link at rest, and a mount on the joined path: the look can see it."""
    decoy, volume = shared_path / "decoy", shared_path / "volume"
    for path in (decoy, volume):
        path.mkdir()
    (volume / "of-the-attacker").touch()
    os.symlink(decoy, f"{rootfs}/data")
    parts = [Namespaces("pid"), PivotRoot(rootfs), Joined(str(volume)), Look(str(decoy))]
    assert Container(["true"], *parts).output() == "outside\n"


class Joined(Part):
    def __init__(self, source: str) -> None:
        self.source = source

    def mount(self, inside: Inside) -> None:
        from minicontainer import linux

        linux.mount(self.source, f"{inside.rootfs}/data", flags=linux.MS_BIND)
