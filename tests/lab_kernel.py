"""Run cells in a real Jupyter kernel, as JupyterLab would, and return what each has shown.

The kernel and its client live in a process of their own, which ends: a client in this one would keep sockets open, and
the leak check would be right to complain.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

import nbformat
from nbformat.v4 import new_code_cell, new_notebook

if TYPE_CHECKING:
    from collections.abc import Sequence


def run_cells(folder: str, sources: Sequence[str]) -> list[list[nbformat.NotebookNode]]:
    """The outputs of each of these cells, run one after the other in a fresh kernel that works in `folder`. A cell
    that fails does not keep the next one from running."""
    with tempfile.TemporaryDirectory(prefix="minicontainer-test-") as there:
        path = f"{there}/cells.ipynb"
        nbformat.write(new_notebook(cells=[new_code_cell(source) for source in sources]), path)
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
        environment["MINICONTAINER_LAB_SECONDS"] = "5"  # some answers are wrong because they never end
        ended = subprocess.run(
            [sys.executable, __file__, path, folder], env=environment, capture_output=True, text=True
        )
        assert ended.returncode == 0, ended.stderr
        return [cell.outputs for cell in nbformat.read(path, as_version=4).cells]


def verdict(outputs: list[nbformat.NotebookNode]) -> tuple[str, str]:
    """What a check's cell says: "Correct", "NotYet", "NotAttempted" (or another error), and its whole text."""
    for output in outputs:
        if output.output_type == "error":
            return output.ename, "\n".join(output.traceback)
        if output.output_type == "execute_result" and output.data["text/plain"].startswith("✓ correct"):
            return "Correct", output.data["text/plain"]
    return "nothing", repr(outputs)


if __name__ == "__main__":
    from nbclient import NotebookClient

    cells = nbformat.read(sys.argv[1], as_version=4)
    where = {"metadata": {"path": sys.argv[2]}}
    NotebookClient(cells, timeout=600, kernel_name="python3", allow_errors=True, resources=where).execute()
    nbformat.write(cells, sys.argv[1])
