"""`minicontainer reset`: put the machine back as it was before the experiments."""

from __future__ import annotations

from minicontainer import leaks

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse


def _reset_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-a", "--all", action="store_true", help="end the containers that still run, too")


def _reset(arguments: argparse.Namespace) -> int:
    removed = leaks.reset(all=arguments.all)
    print("\n".join(removed) if removed else "nothing to remove")
    return 0


COMMANDS = {"reset": (_reset_arguments, _reset)}
