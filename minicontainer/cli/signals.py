"""While a container runs in the foreground, the signals we get are meant for it."""

from __future__ import annotations

import sys

from minicontainer.lean import contextmanager, signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from minicontainer.container import Container

FORWARDED = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGCONT,
    signal.SIGWINCH,
)
PATIENCE = 3
"""PID 1 of a container ignores a signal it has no handler for; who insists so often gets it killed, as with Docker."""


@contextmanager
def forwarded_to(container: Container) -> Iterator[None]:
    """Hand on every signal for the length of the block."""
    insisted = 0

    def forward(number: int, frame: FrameType | None) -> None:
        nonlocal insisted
        if not container.pid:
            raise KeyboardInterrupt  # there is nothing yet that could take it
        if number in (signal.SIGINT, signal.SIGTERM):
            insisted += 1
            if insisted == PATIENCE:
                print("minicontainer: it does not listen, killing it", file=sys.stderr)
                number = signal.SIGKILL
        container.kill(number)

    before = {number: signal.signal(number, forward) for number in FORWARDED}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
