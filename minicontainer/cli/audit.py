"""`minicontainer audit`: what a running container may do, in words."""

from __future__ import annotations

import sys

from minicontainer.cli import entries
from minicontainer.security.audit import audit

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-q", "--quiet", action="store_true", help="only the weak points")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.add_argument("container", metavar="CONTAINER")


def _audit(arguments: argparse.Namespace) -> int:
    found = audit(entries.running(arguments.container)["process"]["pid"])
    if arguments.json:
        import json

        rows = [{"subject": one.subject, "is": one.what, "allows": one.allows} for one in found]
        print(json.dumps([row for row in rows if row["allows"] or not arguments.quiet], indent=2))
        return 0
    width = max(len(one.subject) for one in found)
    for one in found:
        if one.weak or not arguments.quiet:
            print(f"{'!' if one.weak else ' '} {one.subject:<{width}}  {one.what}")
            if one.weak:
                print(f"  {'':<{width}}  → {one.allows}")
    weak = sum(one.weak for one in found)
    print(f"{weak} weak point{'s' if weak != 1 else ''}", file=sys.stderr)
    return 0


COMMANDS = {"audit": (_arguments, _audit)}
