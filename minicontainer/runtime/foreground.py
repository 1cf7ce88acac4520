"""Staying with a process until it ends: `run` and `exec` without --detach.

Signals that reach us are handed on, its terminal is shown on ours, its exit status becomes ours: whoever called us
need not know that there is a container in between.
"""

from __future__ import annotations

import os
import select

from minicontainer.lean import signal

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
    if made.master >= 0:
        _show(made, wake, poll)
    else:
        while made.pidfd not in _ready(made, wake, poll):
            pass
    ended = os.waitid(os.P_PIDFD, made.pidfd, os.WEXITED)
    assert ended is not None
    return ended.si_status if ended.si_code == os.CLD_EXITED else 128 + ended.si_status


def _show(made: Made, wake: int, poll: select.poll) -> None:
    """Until it has ended, its terminal on ours."""
    from minicontainer.runtime.console import Raw, Relay, resize

    with Raw():
        relay = Relay(made.master, poll)
        resize(made.master)
        while made.pidfd not in (ready := _ready(made, wake, poll)):
            relay.step(ready)
        relay.step(ready)
        relay.finish()


def _ready(made: Made, wake: int, poll: select.poll) -> list[int]:
    """Wait for what comes next; signals are handed on at once."""
    ready = [fd for fd, _ in poll.poll()]
    if wake in ready:
        _hand_on(os.read(wake, 64), made)
    return ready


def _hand_on(numbers: bytes, made: Made) -> None:
    for number in numbers:
        if number == signal.SIGWINCH:
            if made.master >= 0:
                from minicontainer.runtime.console import resize

                resize(made.master)
            continue
        try:
            signal.pidfd_send_signal(made.pidfd, number)
        except ProcessLookupError:
            return
