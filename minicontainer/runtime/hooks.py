"""Hooks: programs of the engine's that run at fixed points of a container's life, with its state on their stdin.

    create   prestart, createRuntime   in the runtime's namespaces, all mounts are made, the root is the old one
             createContainer           in the container's namespaces, the root is the old one still
    start    startContainer            in the container, right before its command
             poststart                 in the runtime's namespaces, the command runs
    delete   poststop                  in the runtime's namespaces, the process is gone

How a network is put into a container by an engine that knows nothing of namespaces, how a GPU gets its libraries: all
hooks. runtime-spec, config.md, "POSIX-platform Hooks".
"""

from __future__ import annotations

import os
import select
import time

from minicontainer import linux
from minicontainer.container.part import Inside, Part
from minicontainer.errors import ContainerError, UsageError
from minicontainer.lean import dumps, signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

KINDS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
MAX_OUTPUT = 4096  # bytes of what a hook has said that its error quotes
_SIGKILL = 9


def check(hooks: dict[str, Any]) -> None:
    """Raise UsageError for hooks that could not be run."""
    for kind, entries in hooks.items():
        if kind not in KINDS:
            continue
        for entry in entries or ():
            if not entry.get("path", "").startswith("/"):
                raise UsageError(f"hooks.{kind}: {entry.get('path')!r} is no absolute path")
            if "timeout" in entry and entry["timeout"] <= 0:
                raise UsageError(f"hooks.{kind}: a timeout of {entry['timeout']} s: it has to be more than 0")


def run(kind: str, entries: list[dict[str, Any]], container: dict[str, Any]) -> None:
    """Run hooks one after the other, in our working directory; the first that fails is raised."""
    for number, entry in enumerate(entries):
        _run(f"error running hook #{number} of {kind}, {entry['path']}", entry, container)


def _run(what: str, entry: dict[str, Any], container: dict[str, Any]) -> None:
    given, output = os.memfd_create("state", os.MFD_CLOEXEC), os.memfd_create("output", os.MFD_CLOEXEC)
    try:
        os.write(given, dumps(container).encode())
        os.lseek(given, 0, os.SEEK_SET)
        env = os.environ if entry.get("env") is None else dict(line.split("=", 1) for line in entry["env"])
        streams = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate((given, output, output))]
        try:
            pid = os.posix_spawn(entry["path"], entry.get("args") or [entry["path"]], env, file_actions=streams)
        except OSError as error:
            raise ContainerError(f"{what}: {error.strerror}") from None
        code = _wait(pid, entry.get("timeout"))
        if code is None:
            raise ContainerError(f"{what}: it ran longer than {entry['timeout']} s, and was killed")
        if code:
            said = os.pread(output, MAX_OUTPUT, 0).decode(errors="replace").strip()
            how = f"exit status {code}" if code > 0 else f"signal: {(signal.strsignal(-code) or str(-code)).lower()}"
            raise ContainerError(f"{what}: {how}, having said {said!r}")
    finally:
        os.close(given)
        os.close(output)


def _wait(pid: int, timeout: float | None) -> int | None:
    """Its exit status, -n after signal n; None if it has been killed for taking longer than `timeout` seconds."""
    late = False
    if timeout is not None:
        pidfd = os.pidfd_open(pid)
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        late = not poll.poll(timeout * 1000)
        if late:
            os.kill(pid, _SIGKILL)
        os.close(pidfd)
    while True:
        try:
            _, status = os.waitpid(pid, 0)
        except InterruptedError:
            time.sleep(0)
            continue
        code = os.waitstatus_to_exitcode(status)
        return None if late else code


class CreateHooks(Part):
    """The hooks of `create`. Belongs before the part that leaves the old root: all mounts are made then."""

    def __init__(self, hooks: dict[str, Any]) -> None:
        self.in_container = hooks.get("createContainer") or []

    def enter(self, inside: Inside) -> None:
        container = inside.ask("mounted")  # prestart and createRuntime run on that side meanwhile
        assert inside.rootfs is not None
        linux.chdir(inside.rootfs)  # where the other runtimes run them
        run("createContainer", self.in_container, container)


class StartHooks(Part):
    """The hook of `start` that runs in the container, right before its command."""

    seal_order = 91

    def __init__(self, hooks: dict[str, Any], container: dict[str, Any]) -> None:
        self.hooks = hooks.get("startContainer") or []
        self.container = container

    def seal(self, inside: Inside) -> None:
        inside.at_exec.append(self._run)  # what the command may not do, its hook may not either

    def _run(self) -> None:
        run("startContainer", self.hooks, self.container | {"pid": os.getpid(), "status": "created"})
