"""What chapter 8 asks of a control group, on whichever kind of host: devices, and the group's own files.

Python functions in an empty root, so that nothing is needed but the machine: `make test-v2` runs it on cgroup v2.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

import pytest

from minicontainer.cgroups import Cgroup
from minicontainer.chroot import PivotRoot
from minicontainer.container import Container
from minicontainer.namespaces import Namespaces
from minicontainer.security import CgroupFiles, Devices, defaults

if TYPE_CHECKING:
    from pathlib import Path

    from minicontainer.container import Part

VIEWS = ("pid", "uts", "ipc", "mount", "network", "cgroup")


@pytest.fixture
def empty(tmp_path: Path) -> str:
    (tmp_path / "root/tmp").mkdir(parents=True)
    return str(tmp_path / "root")


def returned(function: object, empty: str, *parts: Part) -> object:
    container = Container(function, Namespaces(*VIEWS), Cgroup(pids=20), PivotRoot(empty), *parts)  # type: ignore[arg-type]
    assert container.run(timeout=60) == 0
    return container.returned


def open_devices() -> dict[str, int]:
    """The errno of opening a few nodes, made for it."""
    found = {}
    for name, kind, major, minor in (
        ("null", stat.S_IFCHR, 1, 3),
        ("zero", stat.S_IFCHR, 1, 5),
        ("mem", stat.S_IFCHR, 1, 1),
        ("loop", stat.S_IFBLK, 7, 0),
        ("disk", stat.S_IFBLK, 254, 0),
    ):
        path = f"/tmp/{name}"
        os.mknod(path, kind | 0o600, os.makedev(major, minor))
        try:
            os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
            found[name] = 0
        except OSError as error:
            found[name] = error.errno or 0
        os.unlink(path)
    return found


def test_a_group_opens_only_what_its_devices_say(empty: str) -> None:
    assert returned(open_devices, empty, Devices()) == {"null": 0, "zero": 0} | dict.fromkeys(
        ("mem", "loop", "disk"), errno.EPERM
    )
    free = returned(open_devices, empty)
    assert isinstance(free, dict)
    assert free["loop"] != errno.EPERM


def own_limit() -> list[str]:
    """Its own pids.max, and what a write to it says."""
    for directory, _, files in os.walk("/sys/fs/cgroup"):
        if "pids.max" in files:
            with open(f"{directory}/pids.max") as file:
                found = [file.read().strip()]
            try:
                with open(f"{directory}/pids.max", "w") as file:
                    file.write("19")
                return [*found, "written"]
            except OSError as error:
                return [*found, errno.errorcode[error.errno or 0]]
    return []


def test_it_reads_its_own_limits_and_cannot_change_them(empty: str) -> None:
    assert returned(own_limit, empty, CgroupFiles()) == ["20", "EROFS"]
    # a tree that is mounted with nsdelegate lets nobody raise the limits of his own namespace's root, cgroups(7)
    with open("/proc/self/mountinfo") as file:
        delegated = any("nsdelegate" in line for line in file)
    wanted = ["20", "EPERM" if delegated else "written"]
    assert returned(own_limit, empty, CgroupFiles(writable=True)) == wanted


def rights() -> list[str]:
    with open("/proc/self/status") as file:
        return [line.split()[1] for line in file if line.startswith(("CapBnd", "Seccomp:"))]


def test_dockers_set_as_a_whole(empty: str) -> None:
    assert returned(rights, empty, *defaults.default()) == ["00000000a80425fb", "2"]
