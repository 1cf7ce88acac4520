"""Everything that can go wrong, as one small tree.

    ContainerError
    ├── UsageError              what was asked for makes no sense ("-m banana")
    ├── HostError               this machine cannot do it (no overlayfs, not root, v1 only)
    ├── StartError              the container's process could not be built
    │   ├── CommandNotFound     … there is no such command in its root (exit status 127)
    │   └── CommandNotExecutable … it is there, but cannot be executed (exit status 126)
    ├── TimeoutExpired          it ran longer than it was allowed to
    ├── ConflictError           a name, an address or a port is taken
    ├── NotFoundError           no such container, network or image
    └── ImageError              a reference, a registry, a manifest or a layer is bad

Every message says what failed, on what, the errno by name where there is one, and what to do next.
A later chapter hangs its own errors below one of these.
"""

from __future__ import annotations


class ContainerError(Exception):
    """The root of the tree. `hint` is the next step, and is part of the message."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(f"{message}\n  hint: {hint}" if hint else message)
        self.message = message
        self.hint = hint


class UsageError(ContainerError, ValueError):
    """What was asked for makes no sense, on any machine."""


class HostError(ContainerError):
    """This machine cannot do what was asked for."""


class StartError(ContainerError):
    """The container's process could not be built.

    `part` and `moment` say where ("PivotRoot", "mount"), `call` which system call, `errno` why.
    """

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        part: str = "",
        moment: str = "",
        call: str = "",
        errno: int = 0,
    ) -> None:
        super().__init__(message, hint=hint)
        self.part = part
        self.moment = moment
        self.call = call
        self.errno = errno


class CommandNotFound(StartError):
    """The command does not exist in the container's root."""


class CommandNotExecutable(StartError):
    """The command exists but the kernel will not execute it."""


class TimeoutExpired(ContainerError, TimeoutError):
    """The container did not end in the time it was given, and was killed."""


class ConflictError(ContainerError):
    """A name, an address or a port is taken."""


class NotFoundError(ContainerError, LookupError):
    """There is no such container, network or image."""


class ImageError(ContainerError):
    """A reference, a registry, a manifest or a layer is bad."""
