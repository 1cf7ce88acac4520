"""What can be asked of a runtime: one function for each verb, in the order of a container's life."""

from __future__ import annotations

import os
import sys
import time

from minicontainer import state
from minicontainer.errors import ConflictError, ContainerError, NotFoundError, TimeoutExpired, UsageError
from minicontainer.lean import dumps, signal
from minicontainer.runtime import log
from minicontainer.runtime.states import State, has_let_go, listed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Options = dict[str, Any]

KILLED_WITHIN = 10
"""Seconds after which a process that was killed and does not end is an error."""


def create(root: str, options: Options, words: list[str]) -> int:
    """Make a container that waits for `start`."""
    _make(root, options, words, keep=_kept(options), hold=True)
    return 0


def run(root: str, options: Options, words: list[str]) -> int:
    """Make a container, start it, wait for its end, delete it. With --detach only the first two."""
    from minicontainer.runtime import foreground

    keep = _kept(options)
    wake = -1 if options.get("detach") else foreground.catch()
    container, made = _make(root, options, words, keep=keep, hold=False)
    poststart(container)
    if options.get("detach"):
        return 0
    try:
        return foreground.stay(made, wake)
    finally:
        if not options.get("keep"):
            _destroy(container)


def _make(root: str, options: Options, words: list[str], *, keep: int, hold: bool) -> Any:
    from minicontainer.runtime import groups

    groups.expect_moves()
    from minicontainer.runtime import creating, translate

    (id,) = _words(words, 1)
    State(root, id)  # an id that is none is said first
    bundle = os.path.abspath(options.get("bundle") or ".")
    config = translate.load(os.path.join(bundle, options.get("config") or "config.json"))
    plan = translate.translate(config, id, bundle, pivot=not options.get("no-pivot"), lenient=options.get("lenient"))
    _check_terminal(plan.terminal, hold or bool(options.get("detach")), options.get("console-socket"))
    container = State.make(root, id)
    made = creating.create(
        plan,
        config,
        container,
        bundle,
        hold=hold,
        keep=keep,
        console_socket=_path(options, "console-socket"),
        pid_file=_path(options, "pid-file"),
    )
    return container, made


def _path(options: Options, name: str) -> str:
    """Absolute: hooks run in the bundle's directory."""
    return os.path.abspath(options[name]) if options.get(name) else ""


def _kept(options: Options) -> int:
    """How many descriptors after the standard streams go on to the process: those asked for, a service's sockets.

    Asked before we open any: those would take the numbers of what is missing. Raises UsageError.
    """
    sockets = os.environ.get("LISTEN_FDS", "")
    keep = (options.get("preserve-fds") or 0) + (int(sockets) if sockets.isdecimal() else 0)
    for fd in range(3, 3 + keep):
        try:
            os.fstat(fd)
        except OSError:
            raise UsageError(f"--preserve-fds {keep}: there is no descriptor {fd}") from None
    return keep


def _check_terminal(terminal: bool, detached: bool, socket: str | None) -> None:
    if terminal and detached and not socket:
        raise UsageError("cannot allocate tty if the runtime will detach without setting console socket")
    if socket and not (terminal and detached):
        raise UsageError("cannot use console socket if the runtime will not detach or allocate tty")


def start(root: str, options: Options, words: list[str]) -> int:
    """Let a created container become its command."""
    from minicontainer.runtime import hold, listeners

    container = State.open(root, _words(words, 1)[0])
    while (status := container.status()) == "creating":  # its `create` still runs: that will end, one way or the other
        time.sleep(0.001)
        container = State.open(root, container.id)
    if status != "created":
        raise ConflictError(f"cannot start a container in the {status} state")
    hold.go(
        container.directory,
        lambda fd: listeners.send(container.config, fd, container.pid, container.describe("created")),
    )
    poststart(container)
    return 0


def poststart(container: State) -> None:
    """Run the hooks of that name. One that fails ends the container, runtime-spec, runtime.md, "Lifecycle"."""
    try:
        if entries := _hooks(container, "poststart"):
            from minicontainer.runtime import hooks

            os.chdir(container.values["bundle"])
            hooks.run("poststart", entries, container.describe("running"))
    except Exception:
        _destroy(container)
        raise


def _hooks(container: State, kind: str) -> list[dict[str, Any]]:
    try:
        return (container.config.get("hooks") or {}).get(kind) or []
    except FileNotFoundError:
        return []  # it was killed while it was being made


def tell_state(root: str, options: Options, words: list[str]) -> int:
    """Print a container's state."""
    container = State.open(root, _words(words, 1)[0])
    print(_indented(container.tell()))
    return 0


def _indented(value: dict[str, Any]) -> str:
    """A JSON object with one member a line."""
    return "{\n" + ",\n".join(f"  {dumps(name)}: {dumps(member)}" for name, member in value.items()) + "\n}"


def kill(root: str, options: Options, words: list[str]) -> int:
    """Send a signal (SIGTERM) to a container's first process, or to all of them."""
    from minicontainer import linux
    from minicontainer.runtime import groups

    id, text = (_words(words, 1)[0], "SIGTERM") if len(words) == 1 else _words(words, 2)
    number = signal_number(text)
    container = State.open(root, id)
    if options.get("all"):
        _check_group(container)
        for pid in groups.processes(container.values["cgroup"], below=True):
            try:
                linux.kill(pid, number)
            except ProcessLookupError:
                continue
        return 0
    if container.status() in ("stopped", "creating"):
        raise ConflictError("container not running")
    _signal(container, number)
    if number == signal.SIGKILL:
        groups.thaw(container.values["cgroup"])
    return 0


def _check_group(container: State) -> None:
    """Raise ConflictError for a container without a cgroup: one that was made by somebody who may make none."""
    if not container.values["cgroup"]:
        raise ConflictError(f"container {container.id} has no cgroup: nobody knows which processes are its own")


def _signal(container: State, number: int) -> None:
    from minicontainer import linux

    try:
        pidfd = linux.pidfd_open(container.pid)
    except ProcessLookupError:
        return
    try:
        if container.alive():  # the descriptor means it, and no later process of its number
            linux.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return
    finally:
        os.close(pidfd)


def signal_number(text: str) -> int:
    """`9`, `KILL`, `SIGKILL`, `RTMIN+3`. Raises UsageError."""
    name = text.upper().removeprefix("SIG")
    base, plus, offset = name.partition("+") if "+" in name else name.partition("-")
    try:
        if text.isdecimal():
            number = int(text)
        elif base in ("RTMIN", "RTMAX"):
            number = getattr(signal, f"SIG{base}") + (int(offset) * (1 if "+" in name else -1) if plus else 0)
        else:
            number = int(getattr(signal, f"SIG{name}"))
    except (AttributeError, ValueError, TypeError):
        raise UsageError(f"unknown signal {text!r}") from None
    if not 0 <= number <= 64:
        raise UsageError(f"unknown signal {text!r}")
    return number


def delete(root: str, options: Options, words: list[str]) -> int:
    """Remove a container that has stopped, or was never started; with --force, any."""
    (id,) = _words(words, 1)
    try:
        container = State.open(root, id)
    except NotFoundError:
        if not options.get("force"):
            raise
        State(root, id).forget()  # a directory without a state: `create` was killed at its very beginning
        return 0
    except ConflictError:
        if not options.get("force"):
            raise
        State(root, id).forget()
        return 0
    status = container.status()
    if status not in ("stopped", "created") and not options.get("force"):
        raise ConflictError(f"cannot delete container {id} that is not stopped: {status}")
    _destroy(container)
    return 0


def _destroy(container: State) -> None:
    """End what runs of it, and remove all of it."""
    if container.values.get("creating"):
        _end_process(container.values["creating"]["pid"], container.values["creating"]["start_time"], {})
    _end_process(container.pid, container.values["start_time"], container.values["cgroup"])
    entries = _hooks(container, "poststop")
    described = container.describe("stopped") if entries else {}
    container.release()
    for entry in entries:
        from minicontainer.runtime import hooks

        try:
            hooks.run("poststop", [entry], described)
        except ContainerError as error:  # it is gone all the same, and the others run
            log.warn(str(error))


def _end_process(pid: int, start_time: int, directories: dict[str, str]) -> None:
    """Kill a process, if it is still that one, and wait until it is gone (a zombie is: its parent's to bury)."""
    if pid <= 0 or not start_time or pid == os.getpid() or state.start_time(pid) != start_time:
        return
    from minicontainer import linux
    from minicontainer.runtime import groups

    deadline = time.monotonic() + KILLED_WITHIN
    while state.start_time(pid) == start_time and not has_let_go(pid, directories):
        if time.monotonic() > deadline:
            raise TimeoutExpired(f"process {pid} did not end in {KILLED_WITHIN} s after SIGKILL")
        try:
            pidfd = linux.pidfd_open(pid)
            try:
                if state.start_time(pid) == start_time:
                    linux.pidfd_send_signal(pidfd, 9)
            finally:
                os.close(pidfd)
        except ProcessLookupError:
            return
        groups.thaw(directories)
        groups.thaw(groups.of_process(pid))
        time.sleep(0.001)


def pause(root: str, options: Options, words: list[str]) -> int:
    """Have all processes of a container stand still."""
    from minicontainer.runtime import groups

    container = State.open(root, _words(words, 1)[0])
    if (status := container.status()) not in ("running", "created"):
        raise ConflictError(f"container not running: it is {status}")
    groups.freeze(container.values["cgroup"], True)
    return 0


def resume(root: str, options: Options, words: list[str]) -> int:
    """Let a paused container go on."""
    from minicontainer.runtime import groups

    container = State.open(root, _words(words, 1)[0])
    if (status := container.status()) != "paused":
        raise ConflictError(f"container not paused: it is {status}")
    groups.freeze(container.values["cgroup"], False)
    return 0


def exec_(root: str, options: Options, words: list[str]) -> int:
    """Run a second process in a container."""
    from minicontainer.runtime import groups

    groups.expect_moves()
    from minicontainer.runtime import foreground, joining, shape

    if not words:
        raise UsageError("exec: which container?")
    container = State.open(root, words[0])
    config = container.config
    if options.get("process"):
        process = shape.checked(state.read_json(options["process"]), shape.PROCESS, "process")
    elif len(words) < 2:
        raise UsageError("process args cannot be empty")
    else:
        process = joining.process_of(config, options, words[1:])
    _check_terminal(bool(process.get("terminal")), bool(options.get("detach")), options.get("console-socket"))
    keep = _kept(options)
    wake = -1 if options.get("detach") else foreground.catch()
    made = joining.join(
        container,
        process,
        config=config,
        keep=keep,
        console_socket=_path(options, "console-socket"),
        pid_file=_path(options, "pid-file"),
        ignore_paused=bool(options.get("ignore-paused")),
        cgroups=joining.cgroup_option(options.get("cgroup") or []),
    )
    return 0 if options.get("detach") else foreground.stay(made, wake)


def list_(root: str, options: Options, words: list[str]) -> int:
    """List the containers of this root."""
    rows = []
    for id in listed(root):
        try:
            container = State.open(root, id)
            rows.append(container.tell())
        except (NotFoundError, ConflictError, UsageError) as error:
            print(f"{id}: {error}", file=sys.stderr)
            continue
    if options.get("quiet"):
        for row in rows:
            print(row["id"])
    elif options.get("format", "table") == "json":
        print(dumps(rows or None, compact=True))
    elif options.get("format", "table") == "table":
        fields = ("id", "pid", "status", "bundle", "created", "owner")
        table = [[field.upper() for field in fields], *([str(row[field]) for field in fields] for row in rows)]
        widths = [max(len(line[column]) for line in table) for column in range(len(fields))]
        for line in table:
            print("   ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())
    else:
        raise UsageError(f"invalid format option: {options['format']!r}", hint="table or json")
    return 0


def ps(root: str, options: Options, words: list[str]) -> int:
    """Show the processes of a container, as the host's ps shows them."""
    from minicontainer.runtime import groups

    if not words:
        raise UsageError("ps: which container?")
    container = State.open(root, words[0])
    _check_group(container)
    pids = groups.processes(container.values["cgroup"], below=True)
    if options.get("format", "table") == "json":
        print(dumps(pids))
        return 0
    if options.get("format", "table") != "table":
        raise UsageError(f"invalid format option: {options['format']!r}", hint="table or json")
    import subprocess

    done = subprocess.run(["ps", *(words[1:] or ["-ef"])], capture_output=True, text=True)
    if done.returncode:
        raise UsageError(f"ps: {done.stderr.strip() or done.stdout.strip()}")
    head, *lines = done.stdout.splitlines()
    column = head.split().index("PID")
    print(head)
    for line in lines:
        fields = line.split()
        if len(fields) > column and fields[column].isdecimal() and int(fields[column]) in pids:
            print(line)
    return 0


def update(root: str, options: Options, words: list[str]) -> int:
    """Change the limits of a container."""
    from minicontainer.runtime import updating

    container = State.open(root, _words(words, 1)[0])
    if container.status() == "stopped":
        raise ConflictError("container not running: it is stopped")
    _check_group(container)
    updating.update(container, options)
    return 0


def events(root: str, options: Options, words: list[str]) -> int:
    """Print what a container uses, once (--stats) or every --interval, and when the kernel kills in it for memory.

    One JSON object a line.
    """
    from minicontainer.runtime import usage

    container = State.open(root, _words(words, 1)[0])
    if (status := container.status()) == "stopped":
        raise ConflictError(f"container with id {container.id} is not running: it is {status}")
    _check_group(container)
    interval = usage.seconds(options.get("interval") or "5s")
    killed = usage.killed(container)
    while container.status() != "stopped":
        print(dumps({"type": "stats", "id": container.id, "data": usage.stats(container)}, compact=True), flush=True)
        if options.get("stats"):
            return 0
        deadline = time.monotonic() + interval
        while time.monotonic() < deadline and container.status() != "stopped":
            time.sleep(min(usage.LOOK, interval))
            if (now := usage.killed(container)) > killed:
                killed = now
                print(dumps({"type": "oom", "id": container.id}, compact=True), flush=True)
    return 0


def features(root: str, options: Options, words: list[str]) -> int:
    """Print what this runtime can do, as the specification's features document."""
    import json

    from minicontainer.runtime.documents import features

    print(json.dumps(features(), indent=2))
    return 0


def spec(root: str, options: Options, words: list[str]) -> int:
    """Write a config.json to begin with."""
    import json

    from minicontainer.runtime.documents import default_config

    path = f"{options.get('bundle') or '.'}/config.json"
    if os.path.exists(path):
        raise ConflictError(f"File {path} exists. Remove it first")
    with open(path, "x") as file:
        file.write(json.dumps(default_config(rootless=bool(options.get("rootless"))), indent="\t") + "\n")
    return 0


def _words(words: list[str], count: int) -> list[str]:
    if len(words) != count:
        raise UsageError(f"it takes {count} argument{'s' if count > 1 else ''}, and not {len(words)}: {words}")
    return words
