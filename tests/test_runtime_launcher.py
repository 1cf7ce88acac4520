"""The script that engines call, and the read-only mount from which it executes the interpreter."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import launching
import pytest

from minicontainer import leaks, linux
from minicontainer.runtime import groups

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bundles import Bundle
    from launching import Installed


@pytest.fixture
def installed(bundle: Bundle, shared_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installed]:
    monkeypatch.setenv("MINICONTAINER_EXEC_ROOT", os.fspath(shared_path / "exec"))
    for made in launching.installed(shared_path / "installed", shared_path / "exec"):
        bundle.command = [os.fspath(made.program)]
        yield made


def executed(bundle: Bundle) -> int:
    """The pid of a container that waits: until its start it executes the runtime's interpreter."""
    return int(bundle.state(bundle.create("sleep", "100"))["pid"])


def may_not_be_written(pid: int) -> bool:
    """Nor when nobody executes it any more: its mount is read-only."""
    return bool(os.statvfs(f"/proc/{pid}/exe").f_flag & os.ST_RDONLY)


def test_the_interpreter_is_executed_from_a_mount_that_is_kept(bundle: Bundle, installed: Installed) -> None:
    assert bundle.run("echo", "first") == "first\n"
    directory, file = installed.mounts()
    assert "unbindable" in directory
    assert file.split()[5].startswith("ro")
    pid = executed(bundle)
    assert os.readlink(f"/proc/{pid}/exe") == os.fspath(installed.place)
    assert may_not_be_written(pid)
    assert installed.mounts() == [directory, file]
    assert installed.place.parent.stat().st_mode & 0o777 == 0o700


def test_what_is_kept_is_not_shown_to_a_container_that_sees_all_of_its_directory(
    bundle: Bundle, installed: Installed, shared_path: Path
) -> None:
    bundle.run("true")
    source = os.fspath(shared_path / "exec")
    bundle.config["mounts"].append(
        {"destination": "/all", "type": "bind", "source": source, "options": ["rbind", "rshared"]}
    )
    inside = f"/all/{installed.place.relative_to(source)}"
    assert bundle.run("stat", "-c", "%s", inside) == "0\n"


def test_an_interpreter_that_was_replaced_is_the_one_that_runs(bundle: Bundle, installed: Installed) -> None:
    bundle.run("true")
    newer = installed.python.with_name("newer")
    shutil.copy(installed.python, newer)
    os.replace(newer, installed.python)
    for _ in range(2):  # it is put in the place of the old one, and executed from there
        pid = executed(bundle)
        assert os.path.samefile(f"/proc/{pid}/exe", installed.python)
        assert may_not_be_written(pid)
    assert os.path.samefile(installed.place, installed.python)
    assert len(installed.mounts()) == 2


def test_nothing_is_kept_where_others_than_root_could_put_something(
    bundle: Bundle, installed: Installed, shared_path: Path
) -> None:
    (shared_path / "exec").mkdir()
    os.chown(shared_path / "exec", 1000, 1000)
    assert bundle.run("echo", "works") == "works\n"
    assert installed.mounts() == []
    assert may_not_be_written(executed(bundle))


def test_a_program_that_somebody_put_in_its_place_is_not_executed(bundle: Bundle, installed: Installed) -> None:
    installed.place.parent.mkdir(parents=True)
    shutil.copy("/bin/false", installed.place)
    assert bundle.run("echo", "ours") == "ours\n"
    assert os.path.samefile(installed.place, installed.python)


def test_many_first_starts_at_once_keep_one(bundle: Bundle, installed: Installed) -> None:
    bundle.says("true")
    bundle.write()
    command = [*bundle.command, "--root", f"{bundle.root}-minicontainer-runtime", "run"]
    running = [subprocess.Popen([*command, bundle.name()], cwd=bundle.directory) for _ in range(6)]
    assert [it.wait(60) for it in running] == [0] * 6
    assert len(installed.mounts()) == 2


def test_reset_takes_it_away_and_the_next_start_brings_it_back(bundle: Bundle, installed: Installed) -> None:
    bundle.run("true")
    before = leaks.snapshot()
    removed = leaks.reset()
    assert f"removed: mount {installed.place}" in removed
    assert installed.mounts() == []
    assert not installed.place.parent.exists()
    bundle.run("true")
    assert len(installed.mounts()) == 2
    assert leaks.difference(before, leaks.snapshot()) == []  # it is no leak


def test_the_package_is_found_where_pip_puts_it(installed: Installed, shared_path: Path) -> None:
    (installed.packages / "minicontainer.pth").unlink()
    (installed.packages / "minicontainer").symlink_to(launching.TOP / "minicontainer")
    link = shared_path / "elsewhere"  # as pipx makes them
    link.symlink_to(installed.program)
    done = subprocess.run([link, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("minicontainer-runtime version")


def test_a_verb_that_enters_no_container_keeps_nothing(bundle: Bundle, installed: Installed) -> None:
    bundle.tell("list")
    assert installed.mounts() == []


def test_unmounting_what_is_kept_costs_a_start_and_nothing_else(bundle: Bundle, installed: Installed) -> None:
    bundle.run("true")
    pid = executed(bundle)
    linux.umount2(installed.place, linux.MNT_DETACH)
    assert may_not_be_written(pid)
    assert bundle.run("echo", "again") == "again\n"
    assert len(installed.mounts()) == 2


def test_whoever_expects_moves_between_groups_stays_where_it_is() -> None:
    before = Path("/proc/self/cgroup").read_text()
    for _ in range(3):
        groups.expect_moves()
        groups.expect_moves()  # it is under way already
        groups.moves_expected()
        groups.moves_expected()
    assert Path("/proc/self/cgroup").read_text() == before
