"""Make the learners' copies of the labs: each is its solution without the answers.

    .venv/bin/python tools/labs.py                       labs/NN-name.ipynb from labs/solutions/NN-name.ipynb
    .venv/bin/python tools/labs.py --to DIRECTORY 02 04  the copies of these (or all) labs, for a class

What stands between `# <solution>` and `# </solution>` becomes `raise NotImplementedError`; outputs are left out. A
release never overwrites a file in which a learner may have worked.
"""

from __future__ import annotations

import argparse
import glob
import os
import re
import sys

import nbformat

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ANSWER = re.compile(r"^([ \t]*)# <solution>\n.*?^[ \t]*# </solution>$", re.MULTILINE | re.DOTALL)


LINK = "](../notebooks/"
"""How a lab's text leads to a chapter, as long as it lies in labs/."""


def learners_copy(solution: str, folder: str = f"{ROOT}/labs") -> str:
    """The text of the notebook that a learner gets in `folder`, from the path of a solution."""
    chapters = os.path.relpath(f"{ROOT}/notebooks", folder)
    notebook = nbformat.read(solution, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.source = ANSWER.sub(r"\1raise NotImplementedError", cell.source)
            cell.outputs, cell.execution_count = [], None
        else:
            cell.source = cell.source.replace(LINK, f"]({chapters}/")
    nbformat.validate(notebook)
    text: str = nbformat.writes(notebook)
    return text.rstrip("\n") + "\n"


def main() -> int:
    """Write the copies; 1 if a file was kept."""
    parser = argparse.ArgumentParser(description="Make the learners' copies of the labs.")
    parser.add_argument("labs", nargs="*", metavar="NN", help="the labs' numbers; all if not given")
    parser.add_argument("--to", metavar="DIRECTORY", help="for a class: nothing that is there is overwritten")
    asked = parser.parse_args()
    kept = 0
    solutions = sorted(glob.glob(f"{ROOT}/labs/solutions/*.ipynb"))
    if unknown := [lab for lab in asked.labs if not any(os.path.basename(it)[:2] == lab for it in solutions)]:
        parser.error(f"there is no lab {', '.join(unknown)}")
    for solution in solutions:
        name = os.path.basename(solution)
        if asked.labs and name[:2] not in asked.labs:
            continue
        folder = asked.to or f"{ROOT}/labs"
        os.makedirs(folder, exist_ok=True)
        path, text = f"{folder}/{name}", learners_copy(solution, folder)
        if os.path.exists(path):
            with open(path) as file:
                if file.read() == text:
                    continue
            if asked.to:
                print(f"kept     {path} (it differs from the lab: somebody has worked in it, or it is an older one)")
                kept = 1
                continue
        with open(path, "w") as file:
            file.write(text)
        print(f"written  {path}")
    return kept


if __name__ == "__main__":
    sys.exit(main())
