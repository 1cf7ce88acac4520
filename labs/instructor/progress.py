"""Who has got how far: `make progress CLASS=folder`, or `.venv/bin/python -m labs.instructor.progress FOLDER`.

FOLDER holds a folder for each learner, and in it that learner's labs: FOLDER/anna/02-chroot.ipynb. What is counted are
the verdicts that stand in the notebooks, from the learner's own last run.

    --run            run each notebook here instead, with the checks as the course has them
    --chart FILE     draw it as well, into a PNG

`--run` executes what strangers wrote, as root: do that in the virtual machine, never on a machine that you need. Each
lab has a kernel and roots of its own and a limit of time, and whatever it leaves is removed before the next one.
"""

from __future__ import annotations

import argparse
import glob
import importlib
import os
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

import nbformat

from labs.checks import kernel

if TYPE_CHECKING:
    from labs.checks.frame import Lab

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SIGNS = {kernel.CORRECT: "✓", kernel.NOT_YET: "✗", kernel.NOT_ATTEMPTED: "…", "": "·"}
LEGEND = "✓ correct   ✗ not yet   … not attempted   · not run, or no such notebook"

Results = dict[str, dict[str, str]]
"""Learner → exercise ("02.3") → verdict; "" where there is none."""


def labs() -> dict[str, list[str]]:
    """Every lab's name, and its exercises' numbers."""
    found = {}
    for path in sorted(glob.glob(f"{ROOT}/labs/[0-9][0-9]-*.ipynb")):
        name = os.path.basename(path).removesuffix(".ipynb")
        lab: Lab = importlib.import_module(f"labs.checks.{name[3:]}").lab
        found[name] = [title.split()[0] for title in lab.exercises.values()]
    return found


def stored(path: str) -> dict[str, str]:
    """The verdicts that stand in a notebook. Raises ValueError for what is no notebook."""
    found = {}
    for cell in _read(path).cells:
        if cell.cell_type == "code" and (said := kernel.verdict(cell.outputs))[1]:
            found[said[1]] = said[0]
    return found


def tried(path: str, name: str, seconds: float) -> dict[str, str]:
    """The verdicts of the course's own checks on what a notebook defines. Raises ValueError for what is no notebook.

    The learner's cells run first, all but the checks: what has been done to those in the notebook does not matter.
    """
    learners = [cell.source for cell in _read(path).cells if cell.cell_type == "code"]
    answers = [source for source in learners if not kernel.CHECK.search(source)]
    course = nbformat.read(f"{ROOT}/labs/{name}.ipynb", as_version=4)
    asked = [course.cells[index].source for index, _, _ in kernel.checks(course)]
    with tempfile.TemporaryDirectory(prefix="minicontainer-progress-", dir="/var/tmp") as roots:
        os.chmod(roots, 0o755)
        own = {"MINICONTAINER_DATA_ROOT": f"{roots}/data", "MINICONTAINER_EXEC_ROOT": f"{roots}/exec"}
        sources = [*answers, f"from labs.checks import {name[3:]} as check", *asked]
        try:
            shown = kernel.run_cells(f"{ROOT}/labs", sources, seconds=seconds, environment=own)
        except (subprocess.TimeoutExpired, RuntimeError) as error:
            print(f"{path}: {type(error).__name__}, so none of it counts", file=sys.stderr)
            return {}
        finally:
            reset = [sys.executable, "-c", "from minicontainer import leaks; leaks.reset(all=True)"]
            subprocess.run(reset, env={**os.environ, **own}, stdout=subprocess.DEVNULL, check=True)
    verdicts = [kernel.verdict(outputs) for outputs in shown[len(answers) + 1 :]]
    return {number: said for said, number, _ in verdicts if number}


def read_class(folder: str, run: bool = False, seconds: float = 1800) -> Results:
    """Everybody's results. What is no notebook is named on stderr and counts as not there."""
    learners = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] != ".")
    results: Results = {}
    for learner in learners:
        results[learner] = {}
        for name, exercises in labs().items():
            path = f"{folder}/{learner}/{name}.ipynb"
            found: dict[str, str] = {}
            if os.path.exists(path):
                try:
                    found = tried(path, name, seconds) if run else stored(path)
                except ValueError as error:
                    print(f"{path}: {error}", file=sys.stderr)
            results[learner] |= {exercise: found.get(exercise, "") for exercise in exercises}
    return results


def table(results: Results) -> str:
    """One line for each learner, one sign for each exercise, and how many have solved each lab."""
    columns = labs()
    wide = max([len("learner"), *map(len, results)])
    head = "  ".join(f"{name[:2]:<{len(it)}}" for name, it in columns.items())
    lines = [f"{'learner':<{wide}}  {head}  solved"]
    for learner, found in results.items():
        signs = "  ".join("".join(SIGNS[found[it]] for it in exercises) for exercises in columns.values())
        solved = sum(verdict == kernel.CORRECT for verdict in found.values())
        lines.append(f"{learner:<{wide}}  {signs}  {solved} of {len(found)}")
    return "\n".join([*lines, "", LEGEND])


def chart(results: Results) -> bytes:
    """The same as a picture, a PNG: how many learners stand where, exercise by exercise."""
    from matplotlib.ticker import MaxNLocator

    from minicontainer.notebook import BLUE, ORANGE, Chart

    exercises = [it for found in labs().values() for it in found]
    picture = Chart(
        "How far the class has got", x="exercise", y="learners", wide=max(7.5, 0.32 * len(exercises)), high=3.4
    )
    bottom = [0] * len(exercises)
    for verdict, colour, hatch in ((kernel.CORRECT, BLUE, ""), (kernel.NOT_YET, ORANGE, "////")):
        counts = [sum(found[it] == verdict for found in results.values()) for it in exercises]
        picture.axes.bar(exercises, counts, bottom=bottom, color=colour, hatch=hatch, label=verdict)
        bottom = [one + other for one, other in zip(bottom, counts, strict=True)]
    picture.axes.set_ylim(0, max(1, len(results)))
    picture.axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    picture.axes.tick_params(axis="x", rotation=90)
    picture.axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0.6, 1.0), ncols=2)
    return picture.png()


def _read(path: str) -> nbformat.NotebookNode:
    try:
        notebook: nbformat.NotebookNode = nbformat.read(path, as_version=4)
        return notebook
    except Exception as error:  # nbformat raises what JSON, its schema and its converters raise
        raise ValueError(f"not a notebook: {type(error).__name__}") from None


def main() -> int:
    """Print the table; 2 if there is nobody."""
    parser = argparse.ArgumentParser(prog="progress", description="Who has solved what.")
    parser.add_argument("folder", help="a folder of learners' folders")
    parser.add_argument("--run", action="store_true", help="run the notebooks here (as root: in the virtual machine!)")
    parser.add_argument("--chart", metavar="FILE", help="write a PNG as well")
    parser.add_argument("--seconds", type=float, default=1800, help="with --run: how long one lab may take (1800)")
    asked = parser.parse_args()
    if not os.path.isdir(asked.folder):
        parser.error(f"{asked.folder} is no folder")
    results = read_class(asked.folder, asked.run, asked.seconds)
    if not results:
        parser.error(f"{asked.folder} holds no learner's folder, such as {asked.folder}/anna/02-chroot.ipynb")
    print(table(results))
    if asked.chart:
        with open(asked.chart, "wb") as file:
            file.write(chart(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
