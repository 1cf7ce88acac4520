"""Row `imports`: what `import minicontainer` adds to the start of Python."""

from __future__ import annotations

import subprocess
import sys

from bench import measure, report
from bench.measure import Contestant, Rounds

TITLE = "imports: what the package adds to the start of Python"
BARE = "bare Python"
STATEMENTS = {
    "import minicontainer": "import minicontainer",
    "all that a container takes": "from minicontainer import Bridge, Cgroup, Container, Namespaces, Overlay, PivotRoot",
    "all that the command `run` takes": "import minicontainer.cli.run",
    "every public name": "from minicontainer import *",
}
THIRD_PARTY = """
import sys
before = set(sys.modules)
{}
found = {{name.partition(".")[0] for name in set(sys.modules) - before}}
print(*sorted(found - set(sys.stdlib_module_names) - {{"minicontainer"}}))
"""


def row(directory: str, rounds: Rounds) -> None:
    """Measure and print."""
    report.title(TITLE)

    def contestant(name: str, statement: str) -> Contestant:
        return Contestant(name, lambda: measure.command([sys.executable, "-c", statement]))

    contestants = [contestant(BARE, "pass"), *(contestant(*pair) for pair in STATEMENTS.items())]
    cold = measure.cold(contestants, rounds.cold)
    hot = measure.hot(contestants, rounds)
    lines = []
    for name, took in hot.items():
        added = [report.milliseconds(times[name] - times[BARE]) if name != BARE else "" for times in (cold, hot)]
        lines.append([name, report.milliseconds(cold[name]), report.milliseconds(took), *added])
    report.table(["ms, median", "cold", "hot", "added, cold", "added, hot"], lines)
    goals = []
    for name in ("import minicontainer", "all that a container takes"):
        goals.append(report.Goal(f"{name}, over {BARE}, cold,", (cold[name] - cold[BARE]) * 1000, 30, " ms"))
    report.goals(goals)
    for name, statement in STATEMENTS.items():
        found = subprocess.run(
            [sys.executable, "-c", THIRD_PARTY.format(statement)], check=True, capture_output=True, text=True
        )
        print(f"   third-party modules of {name}: {found.stdout.strip() or 'none'}")
