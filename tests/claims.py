"""The list of claims (notebooks/CLAIMS.md), the cells it names, and what such a cell needs to have run before it."""

from __future__ import annotations

import ast
import json
import os
import re
from dataclasses import dataclass
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


def needed(texts: list[str], wanted: set[int]) -> list[int]:
    """Which cells to run for the `wanted` ones: those, and each cell before them that makes a name they use, or that
    does something with one by a statement. So a chapter's plots, sliders and virtual machines need not run again for
    every part.

    That enough is kept is not taken for granted: the test runs the same cells with nothing taken out as well.
    """
    cells = [_Cell(text) for text in texts[: max(wanted) + 1]]
    kept = set(wanted) | {index for index, cell in enumerate(cells) if cell.unknown}
    while True:
        before = len(kept)
        made = {name for index in kept for name in cells[index].binds}
        late = {name for index in kept for name in cells[index].late}
        used: set[str] = set()  # by kept cells below the one we are looking at, and not made between
        for index, cell in reversed(list(enumerate(cells))):
            if index in kept or (used | late) & cell.binds or (used | made | late) & cell.works_on:
                kept.add(index)
                used = used - cell.binds | cell.uses
        if len(kept) == before:
            return sorted(kept)


HARMLESS = {"print", "question", "source", "interact"}


class _Cell:
    """What a cell does with the names of the notebook."""

    def __init__(self, text: str) -> None:
        self.binds: set[str] = set()
        self.uses: set[str] = set()
        """Those that it takes from cells before it."""
        self.late: set[str] = set()
        """Those that its functions take when they are called, whenever that is."""
        self.works_on: set[str] = set()
        """Those that it does something with by a statement: `chart.line(…)`, `group["cpu.max"] = …`, `child(f)`."""
        try:
            body = ast.parse(text).body
        except SyntaxError:  # a line for IPython or the shell: nobody knows what it does
            body = []
        self.unknown = not body
        self._read(body)

    def _read(self, body: list[ast.stmt]) -> None:
        for node in body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                self._bind({node.name})
                self.late |= _free(node)
            elif isinstance(node, (ast.Import, ast.ImportFrom)):
                self._bind({(alias.asname or alias.name).partition(".")[0] for alias in node.names})
            elif isinstance(node, (ast.For, ast.With)):
                items = [node.iter] if isinstance(node, ast.For) else [it.context_expr for it in node.items]
                targets = [node.target] if isinstance(node, ast.For) else [it.optional_vars for it in node.items]
                for item, target in zip(items, targets, strict=True):
                    self.uses |= _free(item) - self.binds
                    if target is not None:
                        self._bind(_stored(target))
                self._read([*node.body, *(node.orelse if isinstance(node, ast.For) else [])])
            elif isinstance(node, (ast.If, ast.While, ast.Try)):
                if not isinstance(node, ast.Try):
                    self.uses |= _free(node.test) - self.binds
                parts = [it for it in ast.iter_child_nodes(node) if isinstance(it, (ast.stmt, ast.ExceptHandler))]
                for part in parts:
                    self._read(part.body if isinstance(part, ast.ExceptHandler) else [part])
            else:
                targets = node.targets if isinstance(node, (ast.Assign, ast.Delete)) else [node]
                self.uses |= _free(node) - self.binds
                self._bind(_stored(node))
                for target in targets:
                    self.works_on |= _root(target.value if isinstance(target, ast.Expr) else target) - HARMLESS

    def _bind(self, names: set[str]) -> None:
        self.binds |= names - self.uses  # what is used and then bound is still needed from above


def _stored(node: ast.AST) -> set[str]:
    return {it.id for it in ast.walk(node) if isinstance(it, ast.Name) and not isinstance(it.ctx, ast.Load)}


def _free(node: ast.AST) -> set[str]:
    """The names that a statement or an expression takes from around it."""
    inner = set().union(*map(_free, ast.iter_child_nodes(node)))
    if isinstance(node, ast.Name):
        return {node.id} if isinstance(node.ctx, ast.Load) else set()
    if isinstance(node, (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)):
        return inner - set().union(*(_stored(generator.target) for generator in node.generators))
    if isinstance(node, (ast.FunctionDef, ast.Lambda)):
        arguments = {it.arg for it in ast.walk(node.args) if isinstance(it, ast.arg)}
        return inner - arguments - (_stored(node) if isinstance(node, ast.FunctionDef) else set())
    return inner


def _root(expression: ast.AST) -> set[str]:
    """`a` of `a.b(c)[d].e`; none for a plain name, to which nothing is done."""
    node = expression
    while isinstance(node, (ast.Attribute, ast.Subscript, ast.Call)):
        node = node.func if isinstance(node, ast.Call) else node.value
    return {node.id} if isinstance(node, ast.Name) and node is not expression else set()
