"""The instructor's page: its schedules add up, and name what exists."""

from __future__ import annotations

import glob
import importlib
import os
import re

import nbformat
import pytest
from test_labs import ROOT

PAGE = f"{ROOT}/labs/instructor/README.md"
DAYS = {"Half a day": 240, "A day": 480, "Two days": 960}
"""Minutes from the first beginning to the last end, breaks included."""


def schedules() -> dict[str, list[list[str]]]:
    """Each schedule's rows: at, minutes, what, sections."""
    with open(PAGE) as file:
        text = file.read().partition("\n## Schedules")[2].partition("\n## ")[0]
    found = {}
    for part in re.split(r"(?m)^### ", text)[1:]:
        title, _, table = part.partition("\n")
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if "|" in line]
        found[title] = rows[2:]
    return found


@pytest.mark.parametrize("title", DAYS)
def test_a_schedule_adds_up(title: str) -> None:
    total, clock = 0, None
    for at, minutes, what, *_ in schedules()[title]:
        if not at:
            clock = None  # the next day
            continue
        hours, _, rest = at.partition(":")
        begin = 60 * int(hours) + int(rest)
        assert clock in (None, begin), f"{what} begins at {at}"
        clock = begin + int(minutes)
        total += int(minutes)
    assert total == DAYS[title]


@pytest.mark.parametrize("title", DAYS)
def test_a_schedule_names_sections_and_exercises_that_exist(title: str) -> None:
    for _, _, what, sections, *_ in schedules()[title]:
        kind, _, number = what.partition(" ")
        numbers = {int(it) for it in re.findall(r"\d+", sections)}
        if kind == "notebook":
            (path,) = glob.glob(f"{ROOT}/notebooks/{number}-*.ipynb")
            cells = nbformat.read(path, as_version=4).cells
            there = {int(it) for cell in cells for it in re.findall(r"(?m)^## (\d+) · ", cell.source)}
            assert numbers <= there, what
            assert numbers or sections == "all", what
        elif kind == "lab":
            (path,) = glob.glob(f"{ROOT}/labs/{number}-*.ipynb")
            lab = importlib.import_module(f"labs.checks.{os.path.basename(path)[3:-6]}").lab
            assert numbers, what
            assert max(numbers) <= len(lab.exercises), what


def test_every_chapter_has_its_troubles() -> None:
    with open(PAGE) as file:
        troubles = file.read().partition("\n## What goes wrong")[2].partition("\n## ")[0]
    labs = {os.path.basename(path)[:2] for path in glob.glob(f"{ROOT}/labs/[0-9]*.ipynb")}
    assert set(re.findall(r"(?m)^\*\*(\d\d)\.\*\*", troubles)) >= labs
