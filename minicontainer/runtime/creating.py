"""The host's side of `create` and `run`: record, prepare, clone, attach, and answer until the process is done.

Chapter 1's `build` with three differences. The process is told when to go on where hooks have to run in between. It
stays when we end: nothing ties it to us once it is made. And what it took is written to a state directory, not below
the engine's exec root, for the next verb to find.
"""

from __future__ import annotations

import os
import time

from minicontainer import errors, linux, state
from minicontainer.container import cloning, inner, records
from minicontainer.container.channel import Channel
from minicontainer.container.failures import HINTS, as_error, named
from minicontainer.container.part import Host, Part
from minicontainer.runtime import groups, mapping

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from minicontainer.runtime.states import State
    from minicontainer.runtime.translate import ContainerPlan, Plan


class Made:
    """A process that was made: its pid, its pidfd, and the master of its terminal (-1: somebody else has it)."""

    def __init__(self) -> None:
        self.pid, self.pidfd, self.master = 0, -1, -1


def make(
    plan: Plan,
    parts: list[Part],
    id: str,
    *,
    keep: int,
    console_socket: str,
    cloned: Callable[[int], None],
    answer: Callable[[str], dict[str, Any]],
    listener: Callable[[int, int], None],
) -> Made:
    """Take the parts through their moments until the process holds, or has become its command.

    `cloned` is called with the pid as soon as there is one, `answer` with each question the process asks (it stays
    held while that runs), `listener` with what decides about its system calls, and the pid. Whatever fails kills it;
    what the parts took is the caller's to release.
    """
    made, host = Made(), Host(id, parts)
    ours, theirs = Channel.pair()
    process = inner.Plan(
        plan.argv,
        None,
        plan.env,
        plan.cwd,
        "",
        parts,
        init=False,
        traced=linux.watching() is not None,
        fail_at=0,
        fail_errno=0,
        keep=keep,
        outlives=True,
    )
    try:
        for part in parts:
            host.flags |= part.namespaces
        for part in parts:
            _moment(host, part, "prepare")
        myself = os.pidfd_open(os.getpid())
        groups.moves_expected()
        with named("Container", "clone"):
            pid, pidfd = _clone(host)
            if pid == 0:
                inner.become(process, theirs, (0, 1, 2), myself)
        made.pid = host.pid = pid
        made.pidfd = host.pidfd = pidfd
        theirs.close()
        cloned(pid)
        try:
            for part in parts:
                _moment(host, part, "attach")
            ours.send({"gifts": list(host.gifts)}, list(host.gifts.values()))
        except (BrokenPipeError, errors.StartError):
            if not ours.readable():
                raise
            # it failed before it was told to go, and has left word why
        _listen(ours, made, console_socket, answer, listener)
    except BaseException as error:
        if made.pid:
            _end(made)
        if isinstance(error, errors.StartError) and error.hint == HINTS["EPERM"] and mapping.restricted():
            raise _without_root(error) from None
        raise
    finally:
        host.close()
        ours.close()
    return made


def _without_root(error: errors.StartError) -> errors.StartError:
    """The same, with a hint for somebody who is not root, and need not be."""
    return type(error)(
        error.message,
        hint="a user who is not root may change only what their own user namespace owns, user_namespaces(7)",
        part=error.part,
        moment=error.moment,
        call=error.call,
        errno=error.errno,
    )


def _clone(host: Host) -> tuple[int, int]:
    if host.entrances:
        from minicontainer.runtime import entering

        return entering.clone_into(host)
    return cloning.clone_into(host.flags, host.cgroup, host.pid_namespace)


def _moment(host: Host, part: Part, moment: str) -> None:
    with named(type(part).__name__, moment):
        getattr(part, moment)(host)


def _listen(
    channel: Channel,
    made: Made,
    console_socket: str,
    answer: Callable[[str], dict[str, Any]],
    listener: Callable[[int, int], None],
) -> None:
    """Hear the process until it holds (`created`) or has executed its command."""
    told = False
    while (received := channel.receive()) is not None:
        message, fds, _ = received
        note(message)
        if "failed" in message:
            raise as_error(message["failed"])
        if message.get("gift") == "seccomp":
            listener(fds[0], made.pid)
        elif "gift" in message and console_socket:
            from minicontainer.runtime import console

            console.send(console_socket, fds[0])
            os.close(fds[0])
        elif "gift" in message:
            made.master = fds[0]
        elif "ask" in message:
            reply = answer(message["ask"])
            channel.send(reply)
            if message["ask"] == "created":
                return
        told = told or "execve" in message
    if not told:
        raise errors.StartError("the container's process died while it was being made")


def note(message: dict[str, Any]) -> None:
    """Show the system calls that a process has made to whoever watches (--debug)."""
    if watcher := linux.watching():
        for call in message.get("failed", message).get("calls", ()):
            watcher.note(linux.Call(*call))


def _end(made: Made) -> None:
    try:
        linux.pidfd_send_signal(made.pidfd, 9)
    except ProcessLookupError:
        pass
    os.waitid(os.P_PID, made.pid, os.WEXITED)


def create(
    plan: ContainerPlan,
    config: dict[str, Any],
    container: State,
    bundle: str,
    *,
    hold: bool,
    keep: int = 0,
    console_socket: str = "",
    pid_file: str = "",
) -> Made:
    """Make the container in its state directory, which is removed again when that fails.

    `hold`: until `start`. Without it the command runs when this returns.
    """
    given = config.get("hooks") or {}
    parts = list(plan.parts)
    container.values = {
        "pid": 0,
        "start_time": 0,
        "creating": records.this_process(),
        "bundle": bundle,
        "rootfs": os.path.normpath(os.path.join(bundle, config["root"]["path"])),
        "created": _now(),
        "owner": os.geteuid(),
        "annotations": config.get("annotations") or {},
        "cgroup": plan.cgroup.directories,
        "parts": [],
    }
    if hold:
        from minicontainer.runtime.hold import Hold

        parts.append(Hold(container.directory))
    if given.get("startContainer"):
        from minicontainer.runtime import hooks

        parts.append(hooks.StartHooks(given, container.describe("created")))
    host = Host(container.id, parts)
    # what has to be undone in another process, and that is nothing but the group: the rest ends with the process
    container.values["parts"] = [records.describe(plan.cgroup, plan.cgroup.record(host))]

    def cloned(pid: int) -> None:
        container.values["pid"], container.values["start_time"] = pid, state.start_time(pid)
        if not plan.cgroup.directories:
            container.save()  # else whoever cleans up after us finds it by its group, until it is made

    def answer(question: str) -> dict[str, Any]:
        described = container.describe("creating")
        if question == "mounted":
            from minicontainer.runtime import hooks

            os.chdir(bundle)
            hooks.run("prestart", given.get("prestart") or [], described)
            hooks.run("createRuntime", given.get("createRuntime") or [], described)
        elif question == "created":
            _created(container, pid_file)
        return described

    try:
        plan.cgroup.check()
    except BaseException:
        container.forget()
        raise
    try:
        container.save_config(config)
        container.save()
        made = make(
            plan,
            parts,
            container.id,
            keep=keep,
            console_socket=console_socket,
            cloned=cloned,
            answer=answer,
            listener=listener(config, container),
        )
        if not hold:
            _created(container, pid_file)
    except BaseException:
        container.release()
        raise
    return made


def listener(config: dict[str, Any], container: State) -> Callable[[int, int], None]:
    """What hands on the descriptor that decides about a process's system calls."""

    def send(fd: int, pid: int) -> None:
        from minicontainer.runtime import listeners

        listeners.send(config, fd, pid, container.describe())

    return send


def _created(container: State, pid_file: str) -> None:
    del container.values["creating"]
    container.save()
    if pid_file:
        write_pid_file(pid_file, container.pid)


def write_pid_file(path: str, pid: int) -> None:
    """In one step: whoever waits for it sees all of it."""
    temporary = f"{os.path.dirname(path) or '.'}/.{os.path.basename(path)}"
    with open(temporary, "w") as file:
        file.write(str(pid))
    os.rename(temporary, path)


def _now() -> str:
    seconds, nanoseconds = divmod(time.time_ns(), 10**9)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{nanoseconds:09}Z"
