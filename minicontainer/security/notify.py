"""Calls that somebody else decides: a filter's third answer, beside yes and no, is to ask.

With SCMP_ACT_NOTIFY the kernel stops the caller and hands the call to a listener outside, which may make it in the
container's place (a mount that is harmless, a device node of a short list), refuse it, or let it go on. What pointers
point to lies in the caller's memory and may have changed when the kernel reads it again: going on is no security
decision. seccomp_unotify(2)

>>> rule = {"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}
>>> part = Seccomp({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]})
>>> container = Container(argv, PivotRoot(rootfs), part).start()
>>> with Listener(container) as listener:
...     for call in listener:
...         call.refuse(errno.EROFS)
"""

from __future__ import annotations

import errno
import os
import select

from minicontainer.errors import UsageError
from minicontainer.linux import listener as kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

    from minicontainer.container import Container


class Asked:
    """One call that waits: the caller's `pid` as we number it, the call's `number`, its six `arguments` as numbers."""

    def __init__(self, fd: int, id: int, pid: int, number: int, arch: int, arguments: list[int]) -> None:
        self._fd, self._id = fd, id
        self.pid, self.number, self.arch, self.arguments = pid, number, arch, arguments

    def text(self, which: int, limit: int = 4096) -> str:
        """The text that argument `which` points to, in the caller's memory. Raises ProcessLookupError: it is gone."""
        with open(f"/proc/{self.pid}/mem", "rb", buffering=0) as memory:
            memory.seek(self.arguments[which])
            data = memory.read(limit)
        if not kernel.valid(self._fd, self._id):
            raise ProcessLookupError(errno.ESRCH, "the caller has ended")
        return data.partition(b"\0")[0].decode(errors="surrogateescape")

    def refuse(self, number: int = errno.EPERM) -> None:
        """Let it fail with this errno."""
        self._answer(errno=number)

    def give(self, value: int = 0) -> None:
        """Let it return this, as if it had been made."""
        self._answer(value=value)

    def go_on(self) -> None:
        """Have the kernel make it after all."""
        self._answer(go_on=True)

    def _answer(self, *, value: int = 0, errno: int = 0, go_on: bool = False) -> None:
        try:
            kernel.answer(self._fd, self._id, value=value, errno=errno, go_on=go_on)
        except FileNotFoundError:
            return  # the caller was killed while it waited


class Listener:
    """Hears the calls that a container's filter asks about, until its last process has ended."""

    def __init__(self, container: Container) -> None:
        fd = container.host.given_back.pop("seccomp", None)
        if fd is None:
            raise UsageError(
                "nobody asks about this container's calls", hint="its Seccomp profile needs a rule with SCMP_ACT_NOTIFY"
            )
        self._fd = fd

    def __iter__(self) -> Iterator[Asked]:
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        while True:
            ((_, events),) = poll.poll()
            if not events & select.POLLIN:
                return  # nobody is left under the filter
            try:
                yield Asked(self._fd, *kernel.receive(self._fd))
            except FileNotFoundError:
                continue  # it was killed before we asked

    def close(self) -> None:
        """Stop listening: calls that the filter asks about fail with ENOSYS from now on."""
        os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
