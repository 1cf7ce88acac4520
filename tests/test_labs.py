"""The labs: the learner's copy is the solution without its answers, and each check gives each of its three verdicts.

That the solutions are correct is checked by nbval (labs/solutions). Here: a copy in which nobody has written anything
is "not attempted", and every wrong answer that we could think of is "not yet", with a message that says what the
kernel shows.
"""

from __future__ import annotations

import glob
import importlib
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import nbformat
import pytest

from labs.checks import kernel
from tools.labs import ANSWER, learners_copy

if TYPE_CHECKING:
    from nbformat import NotebookNode

    from labs.checks.frame import Lab as Exercises

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LABS = sorted(os.path.basename(path).removesuffix(".ipynb") for path in glob.glob(f"{ROOT}/labs/solutions/*.ipynb"))
WRONG = re.compile(r"^# %% (\w+): (.+)\n# says: (.+)\n", re.MULTILINE)
QUICK = {"MINICONTAINER_LAB_SECONDS": "5"}  # some answers are wrong because they never end
lab = pytest.mark.parametrize("name", LABS)


def solution(name: str) -> NotebookNode:
    return nbformat.read(f"{ROOT}/labs/solutions/{name}.ipynb", as_version=4)


def exercises(name: str) -> Exercises:
    module: Exercises = importlib.import_module(f"labs.checks.{name[3:]}").lab
    return module


def wrong_answers(name: str) -> list[tuple[str, str, str, str]]:
    """Exercise, what is wrong, what the check must say, and the code."""
    with open(f"{ROOT}/labs/wrong/{name}.py") as file:
        parts = WRONG.split(file.read())
    return list(zip(parts[1::4], parts[2::4], parts[3::4], parts[4::4], strict=True))


@lab
def test_learners_copy_is_the_solution_without_its_answers(name: str) -> None:
    path = f"{ROOT}/labs/{name}.ipynb"
    with open(path) as file:
        assert file.read() == learners_copy(f"{ROOT}/labs/solutions/{name}.ipynb"), "run tools/labs.py"
    text = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code")
    assert "solution" not in text
    assert text.count("raise NotImplementedError") >= len(exercises(name).exercises)


@lab
def test_a_lab_has_a_stub_a_check_and_a_hint_for_each_exercise(name: str) -> None:
    notebook = solution(name)
    found = kernel.checks(notebook)
    assert [check for _, check, _ in found] == list(exercises(name).exercises)
    assert 3 <= len(found) <= 8
    starts = [0, *(index + 1 for index, _, _ in found)]
    for (index, _, answer), start in zip(found, starts, strict=False):
        stubs = [cell.source for cell in notebook.cells[start:index] if cell.cell_type == "code"]
        assert any(ANSWER.search(stub) and re.search(rf"^(def|class) {answer}\b", stub, re.M) for stub in stubs)
        hints = notebook.cells[index + 1]
        assert hints.cell_type == "markdown"
        assert "<details><summary>Hint 1</summary>" in hints.source
        assert hints.source.count("<details>") == hints.source.count("</details>")


@lab
def test_an_untouched_copy_is_not_attempted(name: str) -> None:
    cells = nbformat.read(f"{ROOT}/labs/{name}.ipynb", as_version=4).cells
    sources = [cell.source for cell in cells if cell.cell_type == "code"]
    shown = kernel.run_cells(f"{ROOT}/labs", sources, environment=QUICK)
    checked = zip(sources, shown, strict=True)
    said = [kernel.verdict(outputs) for source, outputs in checked if kernel.CHECK.search(source)]
    assert [it for it, _, _ in said] == [kernel.NOT_ATTEMPTED] * len(exercises(name).exercises), said
    for (_, _, text), label in zip(said, exercises(name).exercises.values(), strict=True):
        assert text.startswith(f"… not attempted · {label}\n")
        assert "Traceback" not in text


@lab
@pytest.mark.usefixtures("shared_root")
def test_every_wrong_answer_is_rejected_and_told_what_the_kernel_shows(name: str) -> None:
    """One kernel: the solution from top to bottom, and at each check the wrong answers first."""
    notebook, wrong = solution(name), wrong_answers(name)
    sources: list[str] = []
    tried: list[tuple[int, str, str]] = []  # the check's place in `sources`, what is wrong, what must be said
    for exercise in exercises(name).exercises:
        assert sum(it[0] == exercise for it in wrong) >= 3, f"three wrong answers to {exercise}, at least"
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        if match := kernel.CHECK.search(cell.source):
            right = max(
                number for number, it in enumerate(sources) if re.search(rf"^(def|class) {match[2]}\b", it, re.M)
            )
            for exercise, what, says, code in wrong:
                if exercise == match[1]:
                    sources += [code, cell.source]
                    tried.append((len(sources) - 1, f"{exercise}: {what}", says))
            sources.append(sources[right])
        else:
            sources.append(cell.source)
    assert len(tried) == len(wrong)
    shown = kernel.run_cells(f"{ROOT}/labs/solutions", sources, environment=QUICK)
    accepted = []
    for place, what, says in tried:
        assert not shown[place - 1], f"{what}: the cell itself shows {shown[place - 1]}"
        kind, _, text = kernel.verdict(shown[place])
        if kind != kernel.NOT_YET or not re.search(says, text):
            accepted.append(f"{what}: {kind or 'no verdict'}\n{text}\n  and not {says!r}")
    assert not accepted, "\n".join(accepted)


def test_pytest_fails_for_a_copy_that_is_not_finished_and_passes_for_a_solution() -> None:
    """`make check-lab` and what it runs."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--nbval-lax", "--nbval-current-env"]
    command += ["-p", "labs.checks.report"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    environment["MINICONTAINER_LEAK_CHECK"] = "instance"
    for path, status in ((f"{ROOT}/labs/01-container.ipynb", 1), (f"{ROOT}/labs/solutions/01-container.ipynb", 0)):
        ended = subprocess.run([*command, path], cwd=ROOT, env=environment, capture_output=True, text=True)
        assert ended.returncode == status, ended.stdout
        assert ("not attempted · 01.3 what it writes" in ended.stdout) == bool(status)
        verdict = kernel.NOT_ATTEMPTED if status else kernel.CORRECT
        assert re.findall(r"^. (\S.*?) · \d\d\.\d ", ended.stdout, re.MULTILINE)[-5:] == [verdict] * 5
