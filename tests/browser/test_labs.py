"""A lab as its learner meets it: the check says three things, one after the other."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lab import Lab

LABS = Path(__file__).resolve().parent.parent.parent / "labs"
WRONG = """\
def exit_status(result):
    return result.si_status
"""


def solution(lab: str, stub: str) -> str:
    """The cell of the solution notebook that begins like the stub, as a learner would have written it."""
    cells = json.loads((LABS / "solutions" / lab).read_text())["cells"]
    source = next(text for cell in cells if (text := "".join(cell["source"])).startswith(stub))
    return re.sub(r"^ *# </?solution>\n?", "", source, flags=re.MULTILINE)


def test_a_check_says_not_attempted_then_not_yet_then_correct(lab: Lab) -> None:
    lab.open("labs/01-container.ipynb")
    lab.run_all()  # stops at the first check
    stub, check = lab.number("def exit_status("), lab.number("check.exit_status(")
    assert "not attempted" in "\n".join(lab.errors())
    assert "not attempted" in lab.cell(check).inner_text()
    lab.picture("lab-01-not-attempted")

    lab.type(stub, WRONG)
    lab.run(stub)
    assert "✗ not yet" in lab.run(check)
    lab.picture("lab-01-not-yet")

    lab.type(stub, solution("01-container.ipynb", "def exit_status("))
    lab.run(stub)
    assert "✓ correct" in lab.run(check)
    assert "✓ correct" in lab.cell(check).inner_text()
    assert "kill -KILL $$" in lab.cell(check).inner_text(), "a shell's $$ is no mathematics"
    for theme in ("light", "dark"):
        lab.theme(theme)
        lab.picture(f"lab-01-correct-{theme}")


def test_hints_unfold_one_at_a_time(lab: Lab) -> None:
    lab.open("labs/01-container.ipynb")
    hints = lab.cell(lab.number("check.exit_status(") + 1)
    first, second = (hints.locator("summary", has_text=f"Hint {number}") for number in (1, 2))
    first.wait_for(timeout=10_000)
    assert not second.is_visible()
    first.click()
    second.wait_for(state="visible", timeout=10_000)
