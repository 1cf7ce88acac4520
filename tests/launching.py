"""The runtime as pip installs it: an interpreter, the script that engines call, and where the package is."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from minicontainer import linux

if TYPE_CHECKING:
    from collections.abc import Iterator

TOP = Path(__file__).resolve().parent.parent
SCRIPT = TOP / "minicontainer/runtime/installed/bin/minicontainer-runtime"


class Installed:
    """Below one directory: `program` is called, `python` is a copy of the interpreter, `place` where it is kept."""

    def __init__(self, directory: Path, exec_root: Path) -> None:
        self.bin = directory / "bin"
        self.bin.mkdir(parents=True)
        self.python, self.program = self.bin / "python3", self.bin / "minicontainer-runtime"
        original = os.path.realpath(sys.executable)
        shutil.copy(original, self.python)
        shutil.copy(SCRIPT, self.program)
        (directory / "pyvenv.cfg").write_text(f"home = {os.path.dirname(original)}\n")
        self.packages = directory / f"lib/python3.{sys.version_info.minor}/site-packages"
        self.packages.mkdir(parents=True)
        (self.packages / "minicontainer.pth").write_text(os.fspath(TOP))  # as flit writes it, without an end of line
        self.place = Path(f"{exec_root}/sealed{self.python}")

    def mounts(self) -> list[str]:
        """The lines of mountinfo for what is kept: that of the directory, that of the file in it."""
        with open("/proc/self/mountinfo") as file:
            found = [line for line in file if line.split()[4].startswith(os.fspath(self.place.parent))]
        return sorted(found, key=lambda line: line.split()[4])

    def close(self) -> None:
        for line in reversed(self.mounts()):
            linux.umount2(line.split()[4], linux.MNT_DETACH)


def installed(directory: Path, exec_root: Path) -> Iterator[Installed]:
    """For a fixture."""
    made = Installed(directory, exec_root)
    try:
        yield made
    finally:
        made.close()
