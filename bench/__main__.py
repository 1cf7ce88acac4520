"""`python -m bench`: the rows, one after the other."""

from __future__ import annotations

import argparse
import importlib
import os
import sys

from bench import ground
from bench.measure import Rounds
from minicontainer import leaks

ROWS = ("start", "runtime", "command", "pull", "moving", "unpack", "hundred", "network", "imports")


def main() -> int:
    """Measure the rows asked for; 1 if something was left behind."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="How fast is it, beside others?")
    parser.add_argument("--only", choices=ROWS, action="append", help="this row alone (may be repeated)")
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--rounds", type=int, metavar="N", help="exactly so many")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("it makes containers, and root makes those")
    rounds = Rounds(cold=10, blocks=2, block=10) if arguments.quick else Rounds(cold=40, blocks=5, block=20)
    if arguments.rounds:
        rounds = Rounds(cold=arguments.rounds, blocks=1, block=arguments.rounds)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # every start of Python would compile everything anew
    ground.isolate()
    system = os.uname()
    print(f"{system.sysname} {system.release}, {os.cpu_count()} CPUs, Python {sys.version.split()[0]}")
    for name in arguments.only or ROWS:
        with ground.scratch() as directory, ground.disk(directory):
            before = leaks.snapshot()
            importlib.import_module(f"bench.{name}").row(directory, rounds)
            left = leaks.left_since(before)
        if left:
            print("left behind:", *left, sep="\n   ")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
