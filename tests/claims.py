"""The list of claims (notebooks/CLAIMS.md), the cells it names, and what such a cell needs to have run before it."""

from __future__ import annotations

import ast
import json
import os
import re
from dataclasses import dataclass, field
from typing import Any

NOTEBOOKS = f"{os.path.dirname(os.path.dirname(os.path.abspath(__file__)))}/notebooks"
LIST = f"{NOTEBOOKS}/CLAIMS.md"
HEADER = ["claim", "document", "cell", "part"]
NO_PART = "–"


@dataclass(frozen=True)
class Claim:
    """One line of the list."""

    notebook: str
    """The notebook's file name without its ending."""
    text: str
    documents: tuple[str, ...]
    cell: str
    parts: tuple[str, ...]
    """Each of them, taken out of the containers, makes the cell fail; none: no part is concerned."""


def read(text: str) -> list[Claim]:
    """The claims in the tables below headings such as `## 01-container`. Raises ValueError for a line in no table's
    form."""
    found: list[Claim] = []
    notebook = ""
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("#"):
            heading = re.fullmatch(r"## (\d\d-[a-z-]+)", line)
            notebook = heading[1] if heading else ""
        if not notebook or not line.startswith("|"):
            continue
        columns = [column.strip() for column in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(columns) != len(HEADER) or not all(columns):
            raise ValueError(f"line {number}: not the columns {', '.join(HEADER)}: {line}")
        if columns == HEADER or not set("".join(columns)) - {"-"}:
            continue
        claim, documents, cell, parts = columns
        names = () if parts == NO_PART else tuple(re.split(r",\s*", parts))
        found.append(Claim(notebook, claim, tuple(re.split(r",\s*", documents)), cell, names))
    return found


def listed() -> list[Claim]:
    """Every claim of the list."""
    with open(LIST) as file:
        return read(file.read())


# ------------------------------------------------------------------------------------------------------ the cells


def code(path: str) -> list[dict[str, Any]]:
    """The code cells of a notebook."""
    with open(path) as file:
        return [cell for cell in json.load(file)["cells"] if cell["cell_type"] == "code"]


def source(cell: dict[str, Any]) -> str:
    """The text of a cell, which is stored as one string or as a list of lines."""
    return "".join(cell["source"])


def slugs(cell: dict[str, Any]) -> list[str]:
    """What the cell claims: its tags `claim:…`."""
    return [tag.removeprefix("claim:") for tag in cell["metadata"].get("tags", []) if tag.startswith("claim:")]


def asserts(text: str) -> bool:
    """Whether there is an assertion in the cell that is made when the cell runs, not only defined."""
    pending: list[ast.AST] = [ast.parse(text)]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Assert):
            return True
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
            pending += ast.iter_child_nodes(node)
    return False


@dataclass
class _Names:
    """What a cell does with names."""

    binds: set[str] = field(default_factory=set)
    uses: set[str] = field(default_factory=set)
    works_on: set[str] = field(default_factory=set)
    """Those that it does something to, by a statement: `chart.line(…)`, `group["cpu.max"] = …`, `with container:`."""


def needed(texts: list[str], wanted: set[int]) -> list[int]:
    """Which cells to run for the `wanted` ones: those, and before them each cell that makes what they use or does
    something to it. So a chapter's plots, sliders and virtual machines need not run again for every part.

    That enough is kept is not taken for granted: the test runs the same cells with nothing taken out as well.
    """
    kept: list[int] = []
    names: set[str] = set()
    for index in range(max(wanted), -1, -1):
        try:
            it = _names(ast.parse(texts[index]))
        except SyntaxError:  # a line for IPython or the shell: nobody knows what it does
            it = None
        if it is None or index in wanted or names & (it.binds | it.works_on):
            kept.append(index)
            names |= it.uses | it.works_on if it else set()
    return kept[::-1]


def _names(tree: ast.Module) -> _Names:
    found = _Names()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            (found.uses if isinstance(node.ctx, ast.Load) else found.binds).add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.binds.add(node.name)
        elif isinstance(node, ast.alias):
            found.binds.add((node.asname or node.name).partition(".")[0])
    modules = {"os", "time", "signal", "linux", "leaks", "state", "shutil", "subprocess", "print"}
    for node in tree.body:
        targets: list[ast.expr] = []
        if isinstance(node, ast.Expr):
            targets = [node.value]
        elif isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, ast.With):
            targets = [item.context_expr for item in node.items]
        elif isinstance(node, (ast.For, ast.While, ast.Try, ast.If)):
            targets = [it.value for it in ast.walk(node) if isinstance(it, ast.Expr)]
        found.works_on |= {root for target in targets if (root := _root(target))} - modules
    return found


def _root(expression: ast.expr) -> str:
    """`a` of `a.b(c)[d].e`; empty for a plain name, of which nothing happens."""
    node = expression
    while isinstance(node, (ast.Attribute, ast.Subscript, ast.Call)):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) and node is not expression else ""
