"""A plugin for `make check-lab`: what each exercise's check says, for pytest itself counts cells.

.venv/bin/python -m pytest --nbval-lax --no-summary -p labs.checks.report labs/02-chroot.ipynb
"""

from __future__ import annotations

import importlib
import os
import textwrap
from typing import TYPE_CHECKING

import nbformat

from labs.checks import kernel

if TYPE_CHECKING:
    from typing import Any

    import pytest

_failed: dict[str, dict[int, str]] = {}
"""Notebook → number of a code cell → what nbval says of its failure; "" for a cell that ran."""


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note what became of each cell."""
    path, _, cell = report.nodeid.partition("::Cell ")
    if report.when == "call" and cell:
        _failed.setdefault(path, {})[int(cell)] = "" if report.passed else report.longreprtext


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the exercises, each with its verdict, and what has gone wrong besides."""
    for path, failed in _failed.items():
        name = os.path.basename(path).removesuffix(".ipynb")
        notebook: Any = nbformat.read(str(config.rootpath / path), as_version=4)  # type: ignore[no-untyped-call]
        cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
        exercises = importlib.import_module(f"labs.checks.{name[3:]}").lab.exercises
        terminalreporter.section(name)
        for number, text in sorted(failed.items()):
            match, said = kernel.CHECK.search(cells[number]), kernel.HEAD.search(text)
            if match and not text:
                terminalreporter.write_line(f"✓ correct · {exercises[match[1]]}")
            elif said:
                terminalreporter.write_line(text[said.start() :].rstrip())
            elif text:
                terminalreporter.write_line(f"cell {number + 1} of the code fails:")
                terminalreporter.write_line(textwrap.indent(text.rstrip(), "    "))
