"""Staying with a process until it ends: `run` and `exec` without --detach.

Signals that reach us are handed on, its terminal is shown on ours, its exit status becomes ours: whoever called us
need not know that there is a container in between.
"""

from __future__ import annotations

import os
import select

from minicontainer.lean import signal
from minicontainer.runtime.console import Raw, Relay, resize

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minicontainer.runtime.creating import Made

_OURS = {signal.SIGCHLD, signal.SIGURG, signal.SIGWINCH, signal.SIGKILL, signal.SIGSTOP, signal.SIGTSTP}
_OURS |= {signal.SIGTTIN, signal.SIGTTOU, signal.SIGPIPE}


def catch() -> int:
    """From here on keep the signals that reach us, for `stay` to hand on; a descriptor on which they arrive.

    Asked for before there is a process: one that comes in between must not end us, and leave it behind.
    """
    wake, wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    for number in signal.valid_signals() - _OURS | {signal.SIGWINCH}:
        try:
            signal.signal(number, lambda number, frame: None)
        except OSError:
            continue  # one that libc keeps for itself
    return wake


def stay(made: Made, wake: int) -> int:
    """Wait for its end; the exit status, 128 + n after signal n."""
    poll = select.poll()
    poll.register(wake, select.POLLIN)
    poll.register(made.pidfd, select.POLLIN)
    with Raw() if made.master >= 0 else _Nothing():
        relay = Relay(made.master, poll) if made.master >= 0 else None
        if relay:
            resize(made.master)
        while True:
            ready = [fd for fd, _ in poll.poll()]
            if wake in ready:
                _hand_on(os.read(wake, 64), made)
            if relay:
                relay.step(ready)
            if made.pidfd in ready:
                break
        if relay:
            relay.finish()
    ended = os.waitid(os.P_PIDFD, made.pidfd, os.WEXITED)
    assert ended is not None
    return ended.si_status if ended.si_code == os.CLD_EXITED else 128 + ended.si_status


def _hand_on(numbers: bytes, made: Made) -> None:
    for number in numbers:
        if number == signal.SIGWINCH:
            if made.master >= 0:
                resize(made.master)
            continue
        try:
            signal.pidfd_send_signal(made.pidfd, number)
        except ProcessLookupError:
            return


class _Nothing:
    def __enter__(self) -> None:
        pass

    def __exit__(self, *exception: object) -> None:
        pass
