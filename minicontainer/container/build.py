"""How a container is built, on the host's side: record, prepare, clone, attach, go, and then listen.

The other side of the same conversation is `inner`.
"""

from __future__ import annotations

import os

from minicontainer import errors, linux, state
from minicontainer.container import records, spawner
from minicontainer.container.channel import Channel
from minicontainer.container.failures import as_error, named
from minicontainer.container.inner import MOMENTS, Plan
from minicontainer.container.part import Part

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minicontainer.container import Container
    from minicontainer.container.part import Host
    from minicontainer.container.process import Process


def build(container: Container, process: Process, detach: bool) -> None:
    """Take the container's parts through their moments until its command executes. What a failure leaves is the
    caller's to undo."""
    host, watcher = container.host, linux.watching()
    if detach:
        process.keeper = spawner.Spawner(keep=True)
    _record(container, process)
    ours, theirs = Channel.pair()
    try:
        host.flags = 0
        for part in container.parts:
            host.flags |= part.namespaces
        _prepare(host, meanwhile=False)
        plan = Plan(
            container.argv,
            container.function,
            container.env,
            container.cwd,
            host.hostname,
            [part for part in container.parts if _goes_inside(part)],
            init=container.init,
            traced=watcher is not None,
            fail_at=watcher.inside_fail_at if watcher else 0,
            fail_errno=watcher.fail_errno if watcher else 0,
        )
        with named("Container", "clone"):
            process.clone(host, plan, ours, theirs, lambda: _prepare(host, meanwhile=True))
        theirs.close()
        process.streams.handed_over()
        if process.recorded:
            records.write_process(container.id, host.pid)
        try:
            for part in container.parts:
                _moment(host, part, "attach")
            ours.send({"gifts": list(host.gifts)}, list(host.gifts.values()))
        except (BrokenPipeError, errors.StartError):
            if not ours.readable():
                raise
            # it failed before it was told to go, and has left word why
        listen(container, process, ours)
    finally:
        if process.channel is None:
            ours.close()
        theirs.close()
        host.close()


def _goes_inside(part: Part) -> bool:
    """Whether the process has anything to do with it; a cgroup, say, is the host's business alone."""
    return any(getattr(type(part), moment) is not getattr(Part, moment) for moment in MOMENTS)


def _prepare(host: Host, *, meanwhile: bool) -> None:
    for part in host.parts:
        if part.meanwhile is meanwhile:
            _moment(host, part, "prepare")


def _moment(host: Host, part: Part, moment: str) -> None:
    with named(type(part).__name__, moment):
        getattr(part, moment)(host)


def _record(container: Container, process: Process) -> None:
    """Write down what the parts are going to take, before they take it."""
    entries = []
    for part in container.parts:
        with named(type(part).__name__, "record"):
            entries.append((part, part.record(container.host)))
    described = [records.describe(part, entry) for part, entry in entries if entry is not None]
    process.recorded = bool(described) or process.keeper is not None
    if process.recorded:
        keeper = process.keeper.pid if process.keeper else os.getpid()
        record = {
            "id": container.id,
            "name": container.host.name,
            "argv": container.argv,
            "owner": {"pid": keeper, "start_time": state.start_time(keeper)},
            "parts": described,
        }
        records.write(container.id, record)


def listen(container: Container, process: Process, channel: Channel) -> None:
    """Hear the process out: the calls it made, what it hands out, how it failed, and that it is about to exec.

    Silence after that means that the exec succeeded: the process's end of the channel is close-on-exec.
    """
    watcher = linux.watching()
    execve: linux.Call | None = None
    while (received := channel.receive()) is not None:
        message, fds, _ = received
        failure = message.get("failed")
        if watcher:
            if execve is not None:  # an earlier candidate in PATH that was not there
                watcher.note(execve)
            for call in (failure or message).get("calls", ()):
                watcher.note(linux.Call(*call))
        if "execve" in message:
            arguments, pid = message["execve"], message["pid"]
            execve = linux.Call("execve", arguments, "", 0, 0, 0, pid, "Container.exec", "execve(2)")
        if "calling" in message:
            process.channel = channel
            return
        if "returned" in message:
            container.returned = message["returned"]
            return
        if "gift" in message:
            container.host.given_back[message["gift"]] = fds[0]
        if failure:
            raise as_error(failure)
    if execve is None:
        raise errors.StartError(
            "the container's process died while it was being built",
            hint="did something kill it? A memory limit below what Python needs would (see dmesg)",
        )
    if watcher:
        watcher.note(execve)
