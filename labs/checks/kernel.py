"""Run cells in a real Jupyter kernel, as JupyterLab would, and read the verdicts of checks.

The kernel and its client live in a process of their own, which ends: so a client's sockets and threads stay out of
the caller's process, and a kernel that hangs or dies takes nothing with it.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

import nbformat
from nbformat.v4 import new_code_cell, new_notebook

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

CORRECT, NOT_YET, NOT_ATTEMPTED = "correct", "not yet", "not attempted"
CHECK = re.compile(r"^check\.(\w+)\((\w+)\)$", re.MULTILINE)
"""A cell that checks an exercise: the check's name, and that of what the learner has defined."""
HEAD = re.compile(r"^[✓✗…] (correct|not yet|not attempted) · (\d\d\.\d) ", re.MULTILINE)


def run_cells(
    folder: str, sources: Sequence[str], *, seconds: float = 1800, environment: Mapping[str, str] | None = None
) -> list[list[Any]]:
    """The outputs of each of these cells, run one after the other in a fresh kernel that works in `folder`. A cell
    that fails does not keep the next one from running.

    Raises TimeoutExpired (subprocess's) when it all takes longer than `seconds`, RuntimeError when the kernel dies.
    """
    with tempfile.TemporaryDirectory(prefix="minicontainer-lab-") as there:
        path = f"{there}/cells.ipynb"
        nbformat.write(new_notebook(cells=[new_code_cell(source) for source in sources]), path)
        kernel = subprocess.Popen(
            [sys.executable, "-m", "labs.checks.kernel", path, folder],
            env={key: value for key, value in {**os.environ, **(environment or {})}.items() if "PYTEST_" not in key},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            _, said = kernel.communicate(timeout=seconds)
        except BaseException:
            os.killpg(kernel.pid, signal.SIGTERM)  # it ends its kernel, and that its containers
            try:
                kernel.communicate(timeout=20)
            except subprocess.TimeoutExpired:
                os.killpg(kernel.pid, signal.SIGKILL)
                kernel.communicate()
            raise
        if kernel.returncode:
            raise RuntimeError(f"the cells could not be run:\n{said}")
        return [cell.outputs for cell in nbformat.read(path, as_version=4).cells]


def verdict(outputs: Sequence[Any]) -> tuple[str, str, str]:
    """What a check's cell says: the verdict, the exercise's number ("02.3"), and its whole text.

    For a cell that shows no verdict the first two are empty.
    """
    for output in outputs:
        if output.output_type == "error":
            text = "\n".join(output.traceback)
        elif output.output_type == "execute_result":
            text = output.data.get("text/plain", "")
        else:
            continue
        if match := HEAD.match(text):
            return match[1], match[2], text
        if output.output_type == "error":
            return "", "", text
    return "", "", ""


def checks(notebook: Any) -> list[tuple[int, str, str]]:
    """The check cells of a lab: index, the check's name, and the name of what it checks."""
    found = []
    for index, cell in enumerate(notebook.cells):
        if cell.cell_type == "code" and (match := CHECK.search(cell.source)):
            found.append((index, match[1], match[2]))
    return found


def main() -> None:
    """In the process of its own: run the notebook that is named, in the folder that is named, and write it back."""
    from nbclient import NotebookClient

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    path, folder = sys.argv[1:]
    cells = nbformat.read(path, as_version=4)
    where = {"metadata": {"path": folder}}
    client = NotebookClient(cells, timeout=None, kernel_name="python3", allow_errors=True, resources=where)
    client.execute()
    nbformat.write(cells, path)


if __name__ == "__main__":
    main()
