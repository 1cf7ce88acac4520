"""What a newcomer and CI touch first: the package as it is installed, the lock, the set-up scripts, the notebooks."""

from __future__ import annotations

import glob
import json
import os
import re
import shutil
import site
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import minicontainer
from minicontainer import cli

TOP = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((TOP / "notebooks").glob("*.ipynb"))


def python(code: str) -> str:
    """What a fresh, isolated interpreter prints: no environment, no current directory, as `minicontainer` runs."""
    return subprocess.run([sys.executable, "-I", "-c", code], check=True, capture_output=True, text=True).stdout


def loaded_by(statement: str) -> set[str]:
    """The modules that a statement loads into a bare interpreter."""
    code = f"import sys; before = set(sys.modules); {statement}; print(*set(sys.modules) - before)"
    return set(python(code).split())


# -------------------------------------------------------------------------------------------------------- the package


def test_importing_the_package_loads_nothing_of_others_and_next_to_nothing_of_its_own() -> None:
    loaded = loaded_by("import minicontainer")
    assert {name.partition(".")[0] for name in loaded} <= {"minicontainer", "__future__", *sys.stdlib_module_names}
    assert not {name for name in loaded if name.startswith("minicontainer.")}


def test_the_way_of_run_loads_no_module_that_costs_more_than_a_container() -> None:
    parts = "Container, Namespaces, PivotRoot, Cgroup, Overlay, Bridge"
    loaded = loaded_by(f"import minicontainer.cli.run; from minicontainer import {parts}")
    assert "minicontainer.overlayfs" in loaded
    heavy = {"asyncio", "dataclasses", "hashlib", "http.client", "inspect", "logging", "pyroute2", "ssl", "subprocess"}
    heavy |= {"tarfile", "tempfile", "typing", "pathlib", "cloudpickle", "isal", "aiohttp"}
    assert loaded & heavy == set()


def test_the_runtime_is_installed_as_the_script_that_it_is() -> None:
    installed = Path(sys.executable).with_name("minicontainer-runtime")
    assert installed.read_bytes() == (TOP / "minicontainer/runtime/installed/bin/minicontainer-runtime").read_bytes()
    assert os.access(installed, os.X_OK)
    done = subprocess.run([installed, "--version"], check=True, capture_output=True, text=True)
    assert done.stdout.startswith("minicontainer-runtime version")


def test_every_name_that_the_package_promises_is_there() -> None:
    for name in minicontainer.__all__:
        assert getattr(minicontainer, name)
    with pytest.raises(AttributeError):
        minicontainer.nothing_of_that_name  # noqa: B018


def test_the_command_is_installed_and_lists_its_commands() -> None:
    script = Path(sys.prefix, "bin", "minicontainer")
    for argv in ([str(script)], [sys.executable, "-I", "-m", "minicontainer.cli"]):
        done = subprocess.run([*argv, "--help"], check=True, capture_output=True, text=True)
        assert [name for name in cli.COMMANDS if not re.search(rf"^  {name} ", done.stdout, re.MULTILINE)] == []


def test_no_hook_runs_at_every_start_of_the_interpreter() -> None:
    folders = [folder for folder in site.getsitepackages() if folder.startswith(sys.prefix)]
    hooks = [
        (path, line)
        for folder in folders
        for path in glob.glob(f"{folder}/*.pth")
        for line in Path(path).read_text().splitlines()
        if line.startswith("import")
    ]
    assert folders
    assert hooks == []


# ------------------------------------------------------------------------------------------------------------ the lock


def pins() -> dict[str, str]:
    lines = (TOP / "requirements.txt").read_text().splitlines()
    return dict(line.partition(" ;")[0].split("==") for line in lines if line and line[0] not in " #" and holds(line))


def holds(requirement: str) -> bool:
    """Whether a requirement is one for this Python: `zstd; python_version < "3.14"` is none where it is built in."""
    marker = Requirement(requirement).marker
    return marker is None or marker.evaluate()


def test_the_lock_pins_everything_that_is_asked_for_and_is_what_is_installed() -> None:
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(name for extra in project["optional-dependencies"].values() for name in extra),
    ]
    names = {re.split(r"[<>=~!\[ ]", requirement)[0].lower() for requirement in wanted if holds(requirement)}
    assert names - set(pins()) == set()
    assert {"jupyterlab", "ipywidgets", "matplotlib", "pyroute2", "nbval"} <= set(pins())
    assert {name: metadata.version(name) for name in pins()} == pins()


def test_the_lock_names_no_index_and_no_place_of_the_machine_it_was_made_on() -> None:
    text = (TOP / "requirements.txt").read_text()
    assert not re.search(r"://|^-|@ |file:|/opt|/home|/root", text, re.MULTILINE)


# -------------------------------------------------------------------------------------------------------------- set-up


def test_set_up_says_plainly_that_it_needs_root(tmp_path: Path) -> None:
    for tool in ("id", "bash"):
        (tmp_path / tool).symlink_to(str(shutil.which(tool)))
    done = subprocess.run(
        [str(shutil.which("bash")), "-c", ". tools/say.sh; as_root 'system packages' apt-get update"],
        cwd=TOP,
        env={"PATH": str(tmp_path)},  # no sudo in it
        user=65534,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "no root and no sudo, and it is needed: system packages" in done.stderr


def test_set_up_says_plainly_that_there_is_no_python(tmp_path: Path) -> None:
    shutil.copytree(TOP / "tools", tmp_path / "tools")
    for name in ("requirements.txt", "pyproject.toml"):
        shutil.copy(TOP / name, tmp_path)
    done = subprocess.run(
        ["tools/venv.sh"], cwd=tmp_path, env={**os.environ, "PYTHON": "/bin/false"}, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "no Python 3.11 or newer" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_a_step_of_set_up_that_fails_shows_why(tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", "-c", ". tools/say.sh; quietly 'it did not work' sh -c 'echo because; exit 3'"],
        cwd=TOP,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert "because" in done.stderr
    assert "it did not work" in done.stderr


def test_set_up_does_nothing_when_nothing_has_changed() -> None:
    """strace sees what is executed: no package tool. (With a PYTHON that cannot work, a rebuild would be an error.)"""
    done = subprocess.run(
        ["strace", "-f", "-qq", "-e", "trace=execve", "-e", "signal=none", "make", "--no-print-directory", "venv"],
        cwd=TOP,
        env={**os.environ, "PYTHON": "/bin/false"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    executed = {os.path.basename(path) for path in re.findall(r'execve\("([^"]+)".* = 0', done.stderr)}
    assert "dpkg-query" in executed
    assert executed & {"apt-get", "pip", "sudo"} == set()


# ----------------------------------------------------------------------------------------------------------- notebooks


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_every_cell_of_a_notebook_was_run_in_order_and_tells_no_place_of_a_machine(path: Path) -> None:
    notebook = json.loads(path.read_text())
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    # nbval passes a cell that was never run without a look at it
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert str(TOP) not in path.read_text()
    outputs = json.dumps([cell["outputs"] for cell in cells])
    assert not re.search(r"/root/|/home/|/var/tmp/|minicontainer-[0-9a-f]{8}", outputs)
    # an error is wanted only where the cell says so
    for cell in cells:
        failed = any(output["output_type"] == "error" for output in cell["outputs"])
        assert failed == ("raises-exception" in cell["metadata"].get("tags", []))


def test_there_is_a_notebook_to_begin_with() -> None:
    assert "00-start-here.ipynb" in [path.name for path in NOTEBOOKS]
