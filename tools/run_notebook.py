"""Run notebooks and store their outputs: `sudo .venv/bin/python tools/run_notebook.py notebooks/*.ipynb`.

They run with roots of their own, as under the tests, and are stored so that a second run changes nothing: no times,
no widgets' state, no version of the interpreter, cells numbered from 1.
"""

from __future__ import annotations

import os
import sys
import tempfile

import nbformat
from nbclient import NotebookClient

WIDGET = "application/vnd.jupyter.widget-view+json"


def run(path: str) -> None:
    """Execute one notebook from top to bottom and write it back. Raises CellExecutionError for a cell that fails."""
    notebook = nbformat.read(path, as_version=4)
    folder = os.path.dirname(os.path.abspath(path))
    NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": folder}},
    ).execute()
    notebook.metadata.pop("widgets", None)
    notebook.metadata.language_info.pop("version", None)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02}"
        if cell.cell_type == "code" and cell.source.startswith("question("):
            cell.metadata["jupyter"] = {"source_hidden": True}  # the answers stand there
        if cell.cell_type == "code":  # a widget lives only as long as its kernel
            cell.outputs = [output for output in cell.outputs if WIDGET not in output.get("data", {})]
    nbformat.validate(notebook)
    nbformat.write(notebook, path)


def main() -> None:
    """Run every notebook that is named."""
    with tempfile.TemporaryDirectory(prefix="minicontainer-notebooks-", dir="/var/tmp") as roots:
        os.chmod(roots, 0o755)
        os.environ["MINICONTAINER_DATA_ROOT"] = f"{roots}/data"
        os.environ["MINICONTAINER_EXEC_ROOT"] = f"{roots}/exec"
        for path in sys.argv[1:]:
            run(path)
            print(f"== {path}")


if __name__ == "__main__":
    main()
