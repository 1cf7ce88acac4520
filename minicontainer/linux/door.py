"""The one door to the kernel: every system call of this package passes here.

A container is nothing but system calls in the right order, so a course on containers should be able to show
them. Each function that talks to the kernel wears `@syscall`; what has no function of its own (a netlink request,
a firewall change) goes through `announce()`. Both do three things and no more:

* an error becomes a `KernelError`: an `OSError` that knows the call and its arguments;
* while a `trace()` is open, the call is noted, with its duration and its man page;
* while a fault is armed, the n-th call fails without reaching the kernel, so that a test can walk through a
  container's life and break it at every single step.

Nothing is watching most of the time, and then the door costs one look at a context variable.
"""

from __future__ import annotations

import errno
import os
import time
from _contextvars import ContextVar

from minicontainer.lean import contextmanager, wraps

TYPE_CHECKING = False  # `typing` and `dataclasses` cost more to import than a container costs to start
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, ParamSpec, TypeVar

    P = ParamSpec("P")
    R = TypeVar("R")


class KernelError(OSError):
    """A system call that failed: `call`, `arguments` (as text), and everything an `OSError` has.

    It is also the subclass of OSError that Python has for its errno, so `except FileNotFoundError` works.
    """

    call: str = ""
    describe: Callable[[], str] = str
    """Makes the text of the arguments, when somebody asks: of most errors (a path that is not there) nobody does."""

    @property
    def arguments(self) -> str:
        return self.describe()

    def __str__(self) -> str:
        return f"{self.call}({self.arguments}): {errno_name(self.errno or 0)} ({os.strerror(self.errno or 0)})"


CALL_FIELDS = ("name", "arguments", "result", "errno", "start", "duration", "pid", "label", "man")


class Call:
    """One system call as it happened.

    `start` and `duration` are nanoseconds of CLOCK_MONOTONIC; `pid` is the caller as its own PID namespace numbers
    it; `label` is the part and moment on whose behalf it was made (`PivotRoot.mount`); `man` its manual page.
    """

    __slots__ = CALL_FIELDS

    def __init__(
        self,
        name: str,
        arguments: str,
        result: str,
        errno: int,
        start: int,
        duration: int,
        pid: int,
        label: str,
        man: str,
    ) -> None:
        self.name, self.arguments, self.result, self.errno = name, arguments, result, errno
        self.start, self.duration, self.pid, self.label, self.man = start, duration, pid, label, man

    def __str__(self) -> str:
        outcome = errno_name(self.errno) if self.errno else self.result
        return f"{self.duration / 1e6:8.3f} ms  {self.label:<22} {self.name}({self.arguments}) = {outcome}"

    def __repr__(self) -> str:
        return f"<{self.name}({self.arguments})>"


class Watch:
    """What watches the door: the calls seen so far, and the fault that is armed.

    `fail_at` makes the n-th call that passes (from 1; 0 never) fail with `fail_errno`. `report` is called with each
    call as it happens. `inside_fail_at` counts the calls of the container's own process instead.
    """

    def __init__(
        self,
        report: Callable[[Call], None] | None = None,
        fail_at: int = 0,
        fail_errno: int = errno.EIO,
        inside_fail_at: int = 0,
    ) -> None:
        self.calls: list[Call] = []
        self.label = ""
        self.report = report
        self.fail_at = fail_at
        self.fail_errno = fail_errno
        self.inside_fail_at = inside_fail_at
        self.seen = 0

    def next_fails(self) -> bool:
        self.seen += 1
        return self.seen == self.fail_at

    def note(self, call: Call, at: int | None = None) -> None:
        """Note a call that has come back; `at`: where in the list, for one that others were made during."""
        self.calls.insert(len(self.calls) if at is None else at, call)
        if self.report:
            self.report(call)


_watch: ContextVar[Watch | None] = ContextVar("minicontainer-watch", default=None)


def watching() -> Watch | None:
    """The watch at the door, if there is one."""
    return _watch.get()


@contextmanager
def watch(watcher: Watch | None) -> Iterator[Watch | None]:
    """Put `watcher` at the door for the length of a block (None: nobody)."""
    token = _watch.set(watcher)
    try:
        yield watcher
    finally:
        _watch.reset(token)


@contextmanager
def trace(report: Callable[[Call], None] | None = None) -> Iterator[list[Call]]:
    """List every system call that is made in the block, in this process and in the containers it starts.

    `report` is called with each one as it happens (those of a container's own process arrive together, at the
    moment it executes its command).
    """
    watcher = Watch(report)
    with watch(watcher):
        yield watcher.calls


@contextmanager
def labelled(label: str) -> Iterator[None]:
    """Note the calls of this block as made on behalf of `label`."""
    watcher = _watch.get()
    if watcher is None:
        yield
        return
    before, watcher.label = watcher.label, label
    try:
        yield
    finally:
        watcher.label = before


def syscall(
    *, man: str = "", show: dict[str, str] | None = None, name: str = ""
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Mark a function as a system call. `show` names a prefix for an argument that is a set of flags."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        call_name = name or function.__name__
        page = man or f"{call_name}(2)"

        @wraps(function)
        def through(*args: P.args, **kwargs: P.kwargs) -> R:
            watcher = _watch.get()
            if watcher is None:
                try:
                    return function(*args, **kwargs)
                except KernelError:
                    raise
                except OSError as error:
                    raise kernel_error(
                        error.errno or 0, call_name, lambda: _arguments(function, args, kwargs, show)
                    ) from None
            text = _arguments(function, args, kwargs, show)
            return _watched(watcher, call_name, text, page, lambda: function(*args, **kwargs))

        return through

    return decorate


def announce(name: str, arguments: str, man: str, action: Callable[[], R]) -> R:
    """Let `action` pass through the door under `name`: for requests to the kernel that are no system call."""
    watcher = _watch.get()
    if watcher is None:
        try:
            return action()
        except KernelError:
            raise
        except OSError as error:
            raise kernel_error(error.errno or 0, name, arguments) from None
    return _watched(watcher, name, arguments, man, action)


def _watched(watcher: Watch, name: str, text: str, man: str, action: Callable[[], R]) -> R:
    # Noted before the call as well: clone3 and execve do not come back in one of the two processes.
    start, pid, number, result, at = time.monotonic_ns(), os.getpid(), 0, "", len(watcher.calls)
    try:
        if watcher.next_fails():
            raise kernel_error(watcher.fail_errno, name, text)
        value = action()
        result = _show(value)
        return value
    except OSError as error:
        number = error.errno or 0
        if isinstance(error, KernelError):
            raise
        raise kernel_error(number, name, text) from None
    finally:
        if os.getpid() == pid:
            duration = time.monotonic_ns() - start
            watcher.note(Call(name, text, result, number, start, duration, pid, watcher.label, man), at)


_kinds: dict[type[OSError], type[KernelError]] = {}


def kernel_error(number: int, call: str, arguments: str | Callable[[], str]) -> KernelError:
    """A `KernelError` that is also the OSError subclass for its errno; `arguments` as text, or what makes it."""
    base = type(OSError(number, ""))
    kind = _kinds.get(base)
    if kind is None:
        bases = (KernelError,) if base is OSError else (KernelError, base)
        kind = _kinds[base] = type("KernelError", bases, {})
    error = kind(number, os.strerror(number))
    error.call, error.describe = call, arguments if callable(arguments) else lambda: arguments
    return error


def errno_name(number: int) -> str:
    """`ENOENT` for 2."""
    return errno.errorcode.get(number, f"errno {number}")


def _arguments(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], show: dict[str, str] | None
) -> str:
    names = function.__code__.co_varnames[: function.__code__.co_argcount + function.__code__.co_kwonlyargcount]
    given = dict(zip(names, args, strict=False)) | kwargs
    shown = []
    for key, value in given.items():
        if value is None:
            continue
        prefix = (show or {}).get(key)
        if prefix:
            text = flags(prefix, value, vars(os) if prefix == "O_" else function.__globals__)
        else:
            text = oct(value) if key == "mode" else _show(value)
        shown.append(text if key in names[: len(args)] else f"{key}={text}")
    return ", ".join(shown)


def flags(prefix: str, value: int, constants: dict[str, Any]) -> str:
    """`CLONE_NEWNS|CLONE_NEWPID` for a number, from the constants that begin with `prefix` (or one of several)."""
    rest, names = value, list[str]()
    for name, number in constants.items():
        if name.startswith(tuple(prefix.split())) and isinstance(number, int) and number == value and value:
            return name  # prctl's options are numbers, not bits
    for name, bit in constants.items():
        if name.startswith(tuple(prefix.split())) and isinstance(bit, int) and bit and bit & rest == bit:
            names.append(name)
            rest &= ~bit
    if rest:
        names.append(hex(rest))
    return "|".join(names) or "0"


def _show(value: object) -> str:
    if isinstance(value, bytes):
        value = value.decode(errors="backslashreplace")
    elif isinstance(value, int):
        value = int(value)  # not signal.SIGKILL's own, long, way of showing itself
    text = repr(value)
    return text if len(text) <= 160 else text[:157] + "…" + text[-1]
