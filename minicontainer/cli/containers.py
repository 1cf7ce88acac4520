"""Commands on containers that exist: exec, ps, logs, stop, kill, rm."""

from __future__ import annotations

import os
import signal
import sys
import time

from minicontainer import linux, namespaces
from minicontainer.chroot import Terminal, User
from minicontainer.cli import entries
from minicontainer.cli.table import age, table
from minicontainer.container import DEVNULL, Container, Host, Part, records
from minicontainer.errors import ConflictError, ContainerError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any


def _ps_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-a", "--all", action="store_true", help="those that have ended, too")
    parser.add_argument("-q", "--quiet", action="store_true", help="only their ids")


def _ps(arguments: argparse.Namespace) -> int:
    shown = [entry for entry in entries.everything() if arguments.all or entry["status"] == "running"]
    if arguments.quiet:
        for entry in shown:
            print(entry["id"][:12])
        return 0
    rows = [("CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "NAME")]
    for entry in reversed(shown):
        created = f"{age(time.time() - entry['created'])} ago"
        status = "running" if entry["status"] == "running" else _exited(entry)
        rows.append((entry["id"][:12], entry["image"], _command(entry), created, status, entry["name"]))
    print(table(rows))
    return 0


def _exited(entry: dict[str, Any]) -> str:
    return "exited" if entry["exit_code"] is None else f"exited ({entry['exit_code']})"


def _command(entry: dict[str, Any]) -> str:
    text = " ".join(entry.get("argv", ()))
    return f'"{text[:20]}…"' if len(text) > 20 else f'"{text}"'


def _exec_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("-i", "--interactive", action="store_true", help="keep standard input open")
    add("-t", "--tty", action="store_true", help="give it a terminal")
    add("-e", "--env", action="append", default=[], metavar="KEY=VALUE", help="set an environment variable")
    add("-w", "--workdir", default="/", metavar="DIR", help="the directory it starts in")
    add("-u", "--user", metavar="USER", help="NAME, UID, NAME:GROUP or UID:GID")
    add("--privileged", action="store_true", help="with all capabilities and system calls")
    add("container", metavar="CONTAINER")
    add("command", nargs="...", metavar="COMMAND")


def _exec(arguments: argparse.Namespace) -> int:
    if not arguments.command:
        raise UsageError("no command to execute", hint="minicontainer exec CONTAINER COMMAND")
    parts = joining(entries.running(arguments.container))
    if arguments.tty:
        parts.append(Terminal())
    if arguments.user:
        parts = [*(part for part in parts if not isinstance(part, User)), User(arguments.user)]
    if arguments.privileged:
        from minicontainer.security import Capabilities, Seccomp

        parts = [part for part in parts if not isinstance(part, (Capabilities, Seccomp))]
    env = dict(word.partition("=")[::2] for word in arguments.env)
    container = Container(arguments.command, *parts, env=env, cwd=arguments.workdir)
    if arguments.tty:
        from minicontainer.cli import screen

        return screen.run(container, interactive=arguments.interactive)
    return container.run(stdin=0 if arguments.interactive else DEVNULL, stdout=1, stderr=2)


def joining(entry: dict[str, Any]) -> list[Part]:
    """The parts with which a process joins a running container that another program started."""
    pid = entry["process"]["pid"]
    theirs, ours = namespaces.of(pid), namespaces.of()
    host = Host(entry["id"], [records.recall(part) for part in entry["parts"]])
    host.pid = pid
    seconds = [part.second(host) for part in host.parts]
    kinds = [kind for kind in theirs if theirs[kind] != ours[kind]]
    return [
        namespaces.Namespaces(join=dict.fromkeys(kinds, pid)),
        *(part for part in seconds if part is not None),
    ]


def _stop_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-t", "--time", type=float, default=10, metavar="S", help="seconds before it is killed (10)")
    parser.add_argument("containers", nargs="+", metavar="CONTAINER")


def _stop(arguments: argparse.Namespace) -> int:
    for name in arguments.containers:
        entry = entries.find(name)
        if entry["status"] == "running":
            end(entry["process"], arguments.time)
        print(name)
    return 0


def end(process: dict[str, int], patience: float) -> None:
    """SIGTERM, and after `patience` seconds SIGKILL, to the process of a record; returns when it has ended."""
    import select

    pidfd = linux.pidfd_open(process["pid"])
    try:
        if not records.is_alive(process):
            return
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        linux.pidfd_send_signal(pidfd, signal.SIGTERM)
        if not poll.poll(patience * 1000):
            linux.pidfd_send_signal(pidfd, signal.SIGKILL)
            poll.poll()
    finally:
        os.close(pidfd)


def _kill_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-s", "--signal", default="KILL", metavar="SIGNAL", help="a name or a number (KILL)")
    parser.add_argument("containers", nargs="+", metavar="CONTAINER")


def _kill(arguments: argparse.Namespace) -> int:
    number = _signal_number(arguments.signal)
    for name in arguments.containers:
        process = entries.running(name)["process"]
        linux.kill(process["pid"], number)
        print(name)
    return 0


def _signal_number(text: str) -> int:
    names = {name.removeprefix("SIG"): member for name, member in signal.Signals.__members__.items()}
    name = text.upper().removeprefix("SIG")
    if name in names:
        return int(names[name])
    if text.isdecimal() and 0 < int(text) < signal.NSIG:
        return int(text)
    raise UsageError(f"there is no signal {text!r}", hint="a name such as TERM, or a number, signal(7)")


def _rm_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-f", "--force", action="store_true", help="kill it first if it runs")
    parser.add_argument("containers", nargs="+", metavar="CONTAINER")


def _rm(arguments: argparse.Namespace) -> int:
    for name in arguments.containers:
        entry = entries.find(name)
        if entry["status"] == "running":
            if not arguments.force:
                raise ConflictError(f"container {name} still runs", hint="stop it first, or use -f")
            end(entry["process"], 0)
        _wait_until_released(entry["id"])
        entries.remove_files(entry["id"])
        print(name)
    return 0


def _wait_until_released(container: str) -> None:
    """Its keeper, or the program that runs it, takes a moment to undo its parts; if that one is dead we do it."""
    for _ in range(1000):
        record = records.read(container)
        if record is None:
            return
        if not records.is_alive(record["owner"]):
            records.mend([container])
            return
        time.sleep(0.01)
    raise ContainerError(f"container {container[:12]} is not released by the process that keeps it")


def _logs_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("container", metavar="CONTAINER")


def _logs(arguments: argparse.Namespace) -> int:
    entry = entries.find(arguments.container)
    try:
        with open(f"{entries.directory(entry['id'])}/log", "rb") as log:
            while data := log.read(65536):
                sys.stdout.buffer.write(data)
    except FileNotFoundError:
        raise ContainerError(
            f"container {arguments.container} has no log", hint="one that was not detached wrote to its terminal"
        ) from None
    sys.stdout.flush()
    return 0


COMMANDS = {
    "ps": (_ps_arguments, _ps),
    "exec": (_exec_arguments, _exec),
    "stop": (_stop_arguments, _stop),
    "kill": (_kill_arguments, _kill),
    "rm": (_rm_arguments, _rm),
    "logs": (_logs_arguments, _logs),
}
