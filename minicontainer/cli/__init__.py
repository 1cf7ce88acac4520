"""The command line: `minicontainer run -m 64M -p 8080:80 IMAGE …`, without a daemon.

It stands above all chapters and holds nothing of the engine: each command reads its options, puts parts together and
calls what a notebook would call. A command's module is imported when it is called, so that `run` does not pay for
`pull`.

Exit statuses are Docker's: the container's own; 125 when the engine or the options failed, 126 when the command could
not be executed, 127 when there is none; 1 when another command failed.
"""

from __future__ import annotations

import argparse
import atexit
import os
import sys

from minicontainer.errors import CommandNotExecutable, CommandNotFound, ContainerError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, NoReturn

    AddArguments = Callable[[argparse.ArgumentParser], None]
    Execute = Callable[[argparse.Namespace], int]

# command → (module below this one, what it does); the module has a function of that name and one that adds arguments
COMMANDS = {
    "run": ("run", "run a command in a new container"),
    "exec": ("containers", "run a second command in a running container"),
    "ps": ("containers", "list containers"),
    "logs": ("containers", "show what a detached container has written"),
    "stop": ("containers", "ask containers to end, then kill them"),
    "kill": ("containers", "send a signal to containers"),
    "rm": ("containers", "remove containers"),
    "pull": ("images", "fetch an image from a registry"),
    "push": ("images", "put an image into a registry"),
    "login": ("login", "let a registry know who you are"),
    "logout": ("login", "forget who you are to a registry"),
    "images": ("images", "list images"),
    "rmi": ("images", "remove images"),
    "tag": ("images", "give an image another name"),
    "import": ("images", "make an image of a directory or a tar archive"),
    "export": ("moving", "write the files of a container into a tar archive"),
    "save": ("moving", "write images into an archive that docker, podman and others read"),
    "load": ("moving", "bring images in from an archive"),
    "copy": ("moving", "copy an image from one registry to another"),
    "history": ("looking", "show the steps an image was built with, and the layer of each"),
    "image": ("looking", "look into images and keep them sound: explain, shared, check, prune"),
    "system": ("looking", "show what takes up the disk: df"),
    "inspect": ("images", "show all about images or containers, as JSON"),
    "network": ("network", "networks of your own: create, inspect, ls, rm, prune, connect, disconnect"),
    "port": ("network", "show which ports of the host lead to a container"),
    "audit": ("audit", "say what a running container may do, and what that allows"),
    "doctor": ("doctor", "check that this machine can run containers"),
    "reset": ("reset", "remove everything that broken experiments left"),
}
ENGINE_FAILED = 125


class Help(argparse.HelpFormatter):
    """argparse's, told how wide the terminal is. It makes one for each option, to see whether it could be shown, and
    would ask `shutil`, which brings the compressors along: three milliseconds of a start."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_columns() - 2)


def _columns() -> int:
    try:
        return int(os.environ.get("COLUMNS") or os.get_terminal_size(1).columns) or 80
    except (OSError, ValueError):  # no terminal, no number
        return 80


class Parser(argparse.ArgumentParser):
    """argparse with Docker's exit status for a wrong option, and one line for it."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"formatter_class": Help, **kwargs})

    def error(self, message: str) -> NoReturn:
        self.exit(ENGINE_FAILED, f"{self.prog}: {message}. See '{self.prog} --help'.\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status. Without `argv` this is the program itself, and it ends here."""
    if argv is None:
        _leave(_main(sys.argv[1:]))
    return _main(list(argv))


def _leave(status: int) -> NoReturn:
    """End this process at once. Python would first take down every module, one by one: a tenth of a whole `run`."""
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and not stream.closed:  # None where the caller has closed the descriptor
            try:
                stream.flush()
            except BrokenPipeError:
                status = 141
    os._exit(status)


def _main(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if words[0] in ("-v", "--version", "version"):
        from importlib.metadata import version

        print(f"minicontainer {version('minicontainer')}")
        return 0
    command = words[0]
    if command not in COMMANDS:
        print(f"minicontainer: there is no command {command!r}. See 'minicontainer --help'.", file=sys.stderr)
        return ENGINE_FAILED
    module, summary = COMMANDS[command]
    found = __import__(f"minicontainer.cli.{module}", fromlist=["COMMANDS"])
    add_arguments, execute = found.COMMANDS[command]
    parser = Parser(prog=f"minicontainer {command}", description=summary[0].upper() + summary[1:], allow_abbrev=False)
    add_arguments(parser)
    arguments = parser.parse_args(words[1:])
    try:
        return _call(execute, arguments)
    except CommandNotFound as error:
        return _fail(error, 127)
    except CommandNotExecutable as error:
        return _fail(error, 126)
    except ContainerError as error:
        return _fail(error, ENGINE_FAILED if command in ("run", "exec") else 1)


def _call(execute: Execute, arguments: argparse.Namespace) -> int:
    try:
        return execute(arguments)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `minicontainer images | head -1`: the reader has enough
        sys.stderr.close()
        return 141


def _fail(error: ContainerError, status: int) -> int:
    from minicontainer.cli.table import plain

    hint = f" ({error.hint})" if error.hint else ""
    print(*map(plain, f"minicontainer: {error.message}{hint}".split("\n")), sep="\n", file=sys.stderr)
    return status


def _help() -> str:
    lines = ["usage: minicontainer COMMAND [OPTIONS]", "", "A container engine that reads like a book.", ""]
    lines += [f"  {name:<8} {summary}" for name, (_, summary) in COMMANDS.items()]
    return "\n".join([*lines, "", "'minicontainer COMMAND --help' shows the options of one command."])
