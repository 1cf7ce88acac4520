"""The modules of a start, all in one file: who reads it, and when it does not count."""

from __future__ import annotations

import marshal
import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import launching
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bundles import Bundle
    from launching import Installed


@pytest.fixture
def installed(bundle: Bundle, shared_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installed]:
    """With a copy of the package, where pip puts one, that a test may change."""
    monkeypatch.setenv("MINICONTAINER_EXEC_ROOT", os.fspath(shared_path / "exec"))
    for made in launching.installed(shared_path / "installed", shared_path / "exec"):
        (made.packages / "minicontainer.pth").unlink()
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(launching.TOP / "minicontainer", made.packages / "minicontainer", ignore=ignored)
        bundle.command = [os.fspath(made.program)]
        yield made


def opened(bundle: Bundle, installed: Installed) -> list[str]:
    """The files that a start opens, but for kernel's and libc's."""
    trace = bundle.directory / "trace"
    before = bundle.command
    bundle.command = ["strace", "-f", "-qq", "-e", "trace=open,openat", "-e", "signal=none", "-o", f"{trace}", *before]
    try:
        assert bundle.run("echo", "works") == "works\n"
    finally:
        bundle.command = before
    names = [line.split('"')[1] for line in trace.read_text().splitlines() if '"' in line and " = -1 " not in line]
    return [name for name in names if name.endswith((".py", ".pyc", "/modules"))]


def test_a_start_reads_one_file_in_place_of_fifty(bundle: Bundle, installed: Installed) -> None:
    first = opened(bundle, installed)
    assert len([name for name in first if "/minicontainer/" in name]) > 40
    later = [name for name in opened(bundle, installed) if "/encodings/" not in name]
    assert {os.path.dirname(name) for name in later} == {os.fspath(installed.place.parent)}
    assert {os.path.basename(name) for name in later} == {"start.pyc", "modules"}


def test_what_another_verb_needs_is_added(bundle: Bundle, installed: Installed) -> None:
    bundle.run("true")
    modules = installed.place.parent / "modules"
    before = modules.stat().st_size
    bundle.tell("features")
    assert (after := modules.stat()).st_size > before
    bundle.tell("features")
    bundle.run("true")
    assert modules.stat() == after  # there is nothing left to look for


def test_every_verb_brings_what_it_needs_at_once(bundle: Bundle, installed: Installed) -> None:
    modules = installed.place.parent / "modules"
    lives = []
    for _ in range(3):
        name = bundle.create("sleep", "100")
        bundle.tell("start", name)
        for words in ("state", "ps", "pause", "resume", "events --stats", "update --pids-limit 9"):
            verb, *options = words.split()
            bundle.tell(verb, *options, name)
        assert bundle.tell("exec", name, "echo", "second") == "second\n"
        bundle.tell("kill", name, "KILL")
        bundle.tell("delete", "--force", name)
        for verb in ("list", "features"):
            bundle.tell(verb)
        bundle.run("true")
        lives.append(modules.read_bytes())
    assert lives[1] == lives[2]
    with open(modules, "rb") as file:
        _, index, verbs = marshal.loads(file.read(int.from_bytes(file.read(4), "little")))
    assert {verb for verb, names in verbs.items() if len(names) > 8} == {
        *("create", "start", "state", "ps", "pause", "resume", "events", "update", "exec", "kill", "delete"),
        *("list", "features", "run"),
    }
    assert {name for names in verbs.values() for name in names} <= {*index}


def test_modules_that_need_each_other_are_left_to_the_import_system(bundle: Bundle, installed: Installed) -> None:
    package = installed.packages / "minicontainer/runtime"
    states, log = package / "states.py", package / "log.py"
    states.write_text("early = 1\nfrom minicontainer.runtime import log\n".join(_split(states)))
    log.write_text("from minicontainer.runtime import states\nstates.early\n".join(_split(log)))
    for _ in range(3):
        assert bundle.run("echo", "works") == "works\n"


def _split(source: Path) -> tuple[str, str]:
    """What comes before its imports, and what after."""
    before, line, after = source.read_text().partition("import os\n")
    return before + line, after


def test_a_module_that_has_changed_is_the_one_that_runs(bundle: Bundle, installed: Installed) -> None:
    for _ in range(2):
        bundle.run("true")
    changed = installed.packages / "minicontainer/runtime/cli.py"
    changed.write_text(changed.read_text().replace("minicontainer-runtime version", "another version"))
    for _ in range(2):
        assert bundle.tell("--version").startswith("another version")


def test_a_package_somewhere_else_is_the_one_that_runs(bundle: Bundle, installed: Installed, shared_path: Path) -> None:
    for _ in range(2):
        bundle.run("true")
    (shared_path / "moved").mkdir()
    moved = shutil.move(installed.packages / "minicontainer", shared_path / "moved")
    (installed.packages / "minicontainer.pth").write_text(os.path.dirname(moved))
    assert bundle.run("echo", "works") == "works\n"
    shutil.rmtree(moved)
    (installed.packages / "minicontainer.pth").write_text(os.fspath(launching.TOP))
    assert bundle.run("echo", "works") == "works\n"


@pytest.mark.parametrize("content", [b"", b"\xff\xff\xff\x7f", b"\4\0\0\0abcd", None])
def test_a_damaged_file_costs_a_start_and_nothing_else(
    bundle: Bundle, installed: Installed, content: bytes | None
) -> None:
    bundle.run("true")
    modules = installed.place.parent / "modules"
    whole = modules.stat().st_size
    if content is None:
        modules.unlink()
    else:
        modules.write_bytes(content)
    assert bundle.run("echo", "works") == "works\n"
    assert modules.stat().st_size > whole * 0.9  # the first start had a mount to make, too


def test_an_error_in_it_names_the_line_of_its_source(bundle: Bundle, installed: Installed) -> None:
    for _ in range(2):
        bundle.run("true")
    broken = installed.packages / "minicontainer/runtime/states.py"
    broken.write_text(
        broken.read_text().replace('NAME = "minicontainer-runtime"', 'NAME = "minicontainer-runtime" / 2')
    )
    for _ in range(2):
        done = subprocess.run([*bundle.command, "--debug", "list"], capture_output=True, text=True)
        assert done.returncode == 1
        assert f'File "{broken.parent}/../' in done.stderr or f'"{broken}"' in done.stderr, done.stderr
