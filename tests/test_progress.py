"""The instructor's view of a class: what stands in notebooks, and what the course's own checks say of them."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from test_labs import ROOT

from labs.checks import kernel
from labs.instructor import progress

if TYPE_CHECKING:
    from pathlib import Path

LAB = "01-container"


@pytest.fixture(scope="module", autouse=True)
def fonts() -> None:
    """matplotlib opens its fonts once and keeps them: before the leak check begins."""
    progress.chart({"nobody": {it: "" for found in progress.labs().values() for it in found}})


def hand_in(folder: Path, learner: str, *sources: str) -> None:
    (folder / learner).mkdir()
    nbformat.write(new_notebook(cells=[new_code_cell(it) for it in sources]), folder / learner / f"{LAB}.ipynb")


def of_lab(results: dict[str, str]) -> list[str]:
    return [results[f"01.{number}"] for number in range(1, 6)]


def test_stored_verdicts_are_read_from_a_learners_last_run(tmp_path: Path) -> None:
    for learner in ("anna", "ben", "eve"):
        (tmp_path / learner).mkdir()
    shutil.copy(f"{ROOT}/labs/solutions/{LAB}.ipynb", tmp_path / "anna")
    notebook = nbformat.read(f"{ROOT}/labs/solutions/{LAB}.ipynb", as_version=4)
    places = [index for index, _, _ in kernel.checks(notebook)]
    said = "✗ not yet · 01.2 run a program\nThe kernel shows: a zombie"
    failed = nbformat.v4.new_output("error", ename="NotYet", evalue="", traceback=said.splitlines())
    notebook.cells[places[1]].outputs = [failed]
    notebook.cells[places[2]].outputs = []
    nbformat.write(notebook, tmp_path / "ben" / f"{LAB}.ipynb")
    results = progress.read_class(os.fspath(tmp_path))
    assert of_lab(results["anna"]) == [kernel.CORRECT] * 5
    assert of_lab(results["ben"]) == [kernel.CORRECT, kernel.NOT_YET, "", kernel.CORRECT, kernel.CORRECT]
    assert of_lab(results["eve"]) == [""] * 5
    lines = {line.split()[0]: line for line in progress.table(results).splitlines() if line}
    assert lines["anna"].split()[1] == "✓✓✓✓✓"
    assert lines["ben"].split()[1] == "✓✗·✓✓"
    assert f"5 of {len(results['anna'])}" in lines["anna"]


def test_a_run_asks_the_courses_own_checks(tmp_path: Path) -> None:
    """A check that the learner has replaced counts for nothing, and one exercise that fails not for the others."""
    right = "import os\ndef exit_status(result):\n    return result.si_status + 128 * (result.si_code != os.CLD_EXITED)"
    hand_in(tmp_path, "mallory", "class check:\n    exit_status = run = print", right, "def run(argv):\n    return 0")
    results = progress.read_class(os.fspath(tmp_path), run=True)
    assert of_lab(results["mallory"]) == [kernel.CORRECT, kernel.NOT_YET, "", "", ""]


def test_a_run_ends_in_time_and_leaves_nothing(tmp_path: Path, mark: str, capfd: pytest.CaptureFixture[str]) -> None:
    code = "from minicontainer import Container, Namespaces\nimport time"
    started = f"Container(['sh', '-c', ': {mark}; sleep 1000'], Namespaces('pid')).start(detach=True)"
    hand_in(tmp_path, "hangs", code, started, "time.sleep(1000)")
    results = progress.read_class(os.fspath(tmp_path), run=True, seconds=10)
    assert of_lab(results["hangs"]) == [""] * 5
    assert "TimeoutExpired" in capfd.readouterr().err
    for _ in range(100):
        if subprocess.run(["pgrep", "-f", mark], stdout=subprocess.DEVNULL).returncode:
            break
        time.sleep(0.1)
    else:
        pytest.fail("its container still runs")


def test_what_is_no_notebook_is_named_and_counts_as_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "eve").mkdir()
    (tmp_path / "eve" / f"{LAB}.ipynb").write_text("{")
    assert of_lab(progress.read_class(os.fspath(tmp_path))["eve"]) == [""] * 5
    assert f"eve/{LAB}.ipynb: not a notebook" in capsys.readouterr().err


def test_the_chart_is_a_picture(tmp_path: Path) -> None:
    from PIL import Image

    hand_in(tmp_path, "anna")
    with Image.open(io.BytesIO(progress.chart(progress.read_class(os.fspath(tmp_path))))) as picture:
        assert picture.width > 700


def test_the_command_says_what_it_needs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "labs.instructor.progress"]
    for folder, says in ((tmp_path / "none", "is no folder"), (tmp_path, "holds no learner's folder")):
        ended = subprocess.run([*command, os.fspath(folder)], capture_output=True, text=True, cwd=ROOT)
        assert ended.returncode == 2
        assert says in ended.stderr
