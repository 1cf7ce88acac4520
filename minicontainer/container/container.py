"""The class that the whole course calls: a process with parts, from its start to the release of what they took."""

from __future__ import annotations

import atexit
import os
import warnings

from minicontainer import errors, linux, state
from minicontainer.container import records, spawner
from minicontainer.container.build import build, listen
from minicontainer.container.part import Host
from minicontainer.container.process import Process
from minicontainer.container.streams import DEVNULL, PIPE, Streams
from minicontainer.lean import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import IO, Any, Self

    from minicontainer.container.part import Part
    from minicontainer.container.streams import Target

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Container:
    """A process, made with the given parts.

    `argv` is the command, looked up in the PATH of `env` inside the container. `env` is its whole environment, apart
    from PATH, which it has in any case. `cwd` is where it starts, seen from its own root. `init=True` puts a small
    PID 1 above it that reaps orphans and forwards signals. `id` is 64 hex digits, made up if not given.

    In place of a command, `argv` may be a Python function without arguments: it is called where the command would be
    executed, and what it returns (anything JSON can say) is `returned` on this side.

    A container runs once. Until `start` nothing of it exists; after `wait` nothing of it is left.
    """

    def __init__(
        self,
        argv: Sequence[str] | Callable[[], object],
        *parts: Part,
        env: Mapping[str, str] | None = None,
        cwd: str = "/",
        name: str = "",
        id: str = "",
        init: bool = False,
    ) -> None:
        self.function = argv if callable(argv) else None
        argv = [getattr(argv, "__name__", "function")] if callable(argv) else argv
        if isinstance(argv, str) or not argv or not argv[0]:
            raise errors.UsageError(
                f"argv is {argv!r}, not a list of words", hint='write ["/bin/sh", "-c", "echo hello"]'
            )
        self.argv = [os.fspath(word) for word in argv]
        self.env = {"PATH": DEFAULT_PATH, **(env or {})}
        _check_words(self.argv, self.env)
        self.cwd = cwd
        self.init = init
        self.host = Host(id or state.new_id(), parts, name=name)
        self.stdin: IO[bytes] | None = None
        """Our end of the process's standard input, when it is PIPE; likewise `stdout` and `stderr`."""
        self.stdout: IO[bytes] | None = None
        self.stderr: IO[bytes] | None = None
        self.returned: Any = None
        self._process: Process | None = None
        self._released = False

    @property
    def id(self) -> str:
        """64 hex digits."""
        return self.host.id

    @property
    def pid(self) -> int:
        """The process as the host numbers it; 0 before the start."""
        return self.host.pid

    @property
    def parts(self) -> list[Part]:
        """The parts it is made with."""
        return self.host.parts

    # ------------------------------------------------------------------------------------------------ its life

    def run(
        self,
        *,
        stdin: Target = None,
        stdout: Target = None,
        stderr: Target = None,
        timeout: float | None = None,
        explain: bool | Callable[[linux.Call], None] = False,
    ) -> int:
        """Start it, let its output through as it comes, wait, release: the exit status, 128 + n after signal n.

        After `timeout` seconds it is killed and TimeoutExpired raised. `explain=True` prints every system call, or
        calls a function with each. Whatever happens (an error, Ctrl-C), nothing of the container is left.
        """
        if PIPE in (stdin, stdout, stderr):
            raise errors.UsageError(
                "run() returns when all is over: nobody would be at our end of a pipe",
                hint="use output(), or start() and wait(), or give a file",
            )
        if explain:
            with linux.trace(print if explain is True else explain):
                return self.run(stdin=stdin, stdout=stdout, stderr=stderr, timeout=timeout)
        self.start(stdin=stdin, stdout=stdout, stderr=stderr)
        try:
            return self.wait(timeout)
        except errors.TimeoutExpired as error:
            raise errors.TimeoutExpired(f"{error.message}, and was killed") from None
        finally:
            self.remove()

    def output(self, *, stdin: Target = DEVNULL, timeout: float | None = None) -> str:
        """Run it and return what it wrote to its standard output. Raises ContainerError when it fails."""
        with open(os.memfd_create("output", os.MFD_CLOEXEC), "w+b") as file:
            code = self.run(stdin=stdin, stdout=file, timeout=timeout)
            file.seek(0)
            text = file.read().decode(errors="replace")
        if code:
            raise errors.ContainerError(f"{self.argv[0]} ended with status {code}, having written {text!r}")
        return text

    def start(
        self,
        *,
        stdin: Target = None,
        stdout: Target = None,
        stderr: Target = None,
        detach: bool = False,
    ) -> Self:
        """Start it and return as soon as its command executes.

        Streams are PIPE, DEVNULL, a file or a descriptor; None is our own stream, copied while `wait` runs where it
        is not a plain descriptor (in a notebook). Unless detached, the container ends when this program does. A
        detached one is kept by a process of its own, which releases its parts when it ends; its streams should be
        files. Raises StartError (CommandNotFound, CommandNotExecutable) with nothing left behind.
        """
        if self._process is not None:
            raise errors.UsageError("this container has been started already", hint="make a new one: they run once")
        _mend_once()
        if detach:
            stdin = DEVNULL if stdin is None else stdin
            stdout = DEVNULL if stdout is None else stdout
            stderr = DEVNULL if stderr is None else stderr
        self._process = process = Process(Streams(stdin, stdout, stderr))
        if not detach:
            _live[id(self)] = self  # so that also what an interrupted start leaves is removed at our end
        try:
            build(self, process, detach)
        except BaseException as error:
            self._give_up(error)
            raise
        self.stdin, self.stdout, self.stderr = process.streams.files
        return self

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end, then release its parts; the exit status. Raises TimeoutExpired, and it runs on."""
        process = self._started()
        if not process.ended(timeout):
            raise errors.TimeoutExpired(f"{self.argv[0]} ran longer than {timeout:g} s")
        self.release()
        if process.channel is not None:
            channel, process.channel = process.channel, None
            try:
                if process.code in (0, 70):
                    listen(self, process, channel)
            finally:
                channel.close()
        return process.code

    def poll(self) -> int | None:
        """The exit status if it has ended, else None."""
        return self.wait() if self._started().ended(0) else None

    def kill(self, signal: int = signal.SIGKILL) -> None:
        """Send a signal to its first process; one that has ended gets none, and that is no error."""
        process = self._started()
        if self.host.pid and not process.reaped:
            try:
                linux.pidfd_send_signal(self.host.pidfd, signal)
            except ProcessLookupError:
                return

    def stop(self, timeout: float = 10) -> int:
        """Ask it to end (SIGTERM), and kill it if it has not after `timeout` seconds; the exit status."""
        self.kill(signal.SIGTERM)
        try:
            return self.wait(timeout)
        except errors.TimeoutExpired:
            self.kill()
            return self.wait()

    def exec(
        self,
        argv: Sequence[str],
        *parts: Part,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        **how: Any,
    ) -> int:
        """Run a second command in the running container: in its namespaces, its cgroup, its root.

        `parts` are added to those that the container's own parts give for it; `how` is what `run` takes.
        """
        return self.second(argv, *parts, env=env, cwd=cwd).run(**how)

    def second(
        self, argv: Sequence[str], *parts: Part, env: Mapping[str, str] | None = None, cwd: str | None = None
    ) -> Container:
        """The container that `exec` runs: one whose parts join this one's."""
        if self._started().ended(0):
            raise errors.ContainerError(f"container {self.host.name} has ended", hint="exec needs a running one")
        seconds = [part.second(self.host) for part in self.parts]
        joining = [part for part in seconds if part is not None]
        return Container(argv, *joining, *parts, env={**self.env, **(env or {})}, cwd=cwd or self.cwd)

    def release(self) -> None:
        """Undo all its parts, the last first. Harmless at any time and any number of times.

        An error does not keep the other parts from being released; the first one is raised at the end, and calling
        it again tries again what is left.
        """
        if self._released:
            return
        while self.host.given_back:
            os.close(self.host.given_back.popitem()[1])
        failed: list[BaseException] = []
        for part in reversed(self.parts):
            with linux.labelled(f"{type(part).__name__}.release"):
                try:
                    part.release()
                except Exception as error:
                    failed.append(error)
        if failed:
            raise failed[0]
        if self._process is not None and self._process.recorded:
            records.remove(self.id)
        self._released = True
        _live.pop(id(self), None)

    def remove(self) -> None:
        """Kill it if it runs, and release it."""
        if self._process is not None:
            self._end()
        self.release()
        if self._process is not None and self._process.channel is not None:
            self._process.channel.close()
            self._process.channel = None

    def __enter__(self) -> Self:
        return self if self._process is not None else self.start()

    def __exit__(self, *exception: object) -> None:
        self.remove()

    def __repr__(self) -> str:
        return f"<Container {self.host.name} {self.argv}>"

    def _give_up(self, error: BaseException) -> None:
        """Undo a start that failed. What fails now is tried once more, then added to the error that is on its way."""
        process = self._started()
        for undo in (self._end, process.close, self.release):
            try:
                undo()
            except Exception:
                try:
                    undo()
                except Exception as second:
                    error.add_note(f"while undoing it: {second}; `minicontainer reset` removes the rest")
        for file in process.streams.files:
            if file is not None:
                file.close()

    def _end(self) -> None:
        """Kill it, if it was ever cloned and runs, and wait for its end."""
        process = self._started()
        if self.host.pid and not process.reaped:
            self.kill()
            process.ended(None)

    def _started(self) -> Process:
        if self._process is None:
            raise errors.UsageError("this container has not been started", hint="call start() or run() first")
        return self._process


def child(function: Callable[[], object], *parts: Part, timeout: float | None = 60) -> Any:
    """Call `function` in a fresh single-threaded process, and return what it returns (anything JSON can say).

    Whatever the function does to its process (unshare, chroot, setns) ends with it: the caller's own namespaces, root
    and directory stay as they are. Raises ContainerError when it raises.
    """
    container = Container(function, *parts, cwd=os.getcwd())
    code = container.run(timeout=timeout)
    if code:
        raise errors.ContainerError(f"{container.argv[0]} returned nothing: its process ended with status {code}")
    return container.returned


def _check_words(argv: list[str], env: dict[str, str]) -> None:
    for word in [*argv, *env, *env.values()]:
        if "\0" in word:
            raise errors.UsageError(f"{word!r} has a NUL byte in it", hint="the kernel ends a word there, execve(2)")
    for key in env:
        if not key or "=" in key:
            raise errors.UsageError(f"{key!r} cannot be the name of an environment variable")


# ------------------------------------------------------------------------------------- what a program's end undoes

_live: dict[int, Container] = {}
_mended = 0


def _mend_once() -> None:
    """Once in each program: undo what a killed one of this instance left."""
    global _mended
    if _mended != os.getpid():
        _mended = os.getpid()
        _live.clear()  # in a process that was forked: those are its parent's
        atexit.register(_end_all, os.getpid())
        try:
            records.mend()
        except Exception as error:
            message = f"what a killed program left is not all undone: {error} (`minicontainer reset` removes the rest)"
            warnings.warn(message, stacklevel=4)


def _end_all(owner: int) -> None:
    if os.getpid() == owner:
        for container in list(_live.values()):
            container.remove()
        if there := spawner.current():
            there.close()
