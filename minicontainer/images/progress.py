"""How far a pull or a push is: events, and bars made of them.

A function that takes `progress=` calls it with each event. Left alone, it shows bars: in a notebook, or on a terminal;
nothing where the output goes into a file.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    Progress: TypeAlias = "Callable[[Event], None]"


class Event:
    """A layer or another blob (`digest`) has got so far: `current` of `total` bytes.

    `status` is "waiting", "downloading", "unpacking", "uploading", "done", or "exists" for what was there before.
    """

    __slots__ = ("current", "digest", "status", "total")

    def __init__(self, digest: str, status: str, current: int, total: int) -> None:
        self.digest, self.status, self.current, self.total = digest, status, current, total

    def __repr__(self) -> str:
        return f"<{self.digest[7:19]} {self.status} {self.current}/{self.total}>"


class Bars:
    """Events as bars, one for each blob. tqdm draws them, in a terminal and in a notebook."""

    def __init__(self) -> None:
        self._bars: dict[str, Any] = {}

    def __call__(self, event: Event) -> None:
        bar = self._bars.get(event.digest)
        if bar is None:
            bar = self._bars[event.digest] = _kind()(
                total=event.total, unit="B", unit_scale=True, unit_divisor=1000, miniters=0, leave=True
            )
        bar.set_description_str(f"{event.digest.removeprefix('sha256:')[:12]} {event.status:<11}", refresh=False)
        bar.update(event.current - bar.n)
        if event.status in ("done", "exists"):
            bar.refresh()

    def close(self) -> None:
        """Leave the bars as they are."""
        for bar in self._bars.values():
            bar.close()


def begin(progress: Progress | None) -> tuple[Progress, Callable[[], None]]:
    """What to call with events, and what to call at the end."""
    if progress is not None:
        return progress, lambda: None
    if not (in_notebook() or sys.stderr.isatty()):
        return lambda event: None, lambda: None
    bars = Bars()
    return bars, bars.close


def in_notebook() -> bool:
    """Whether our output is a cell's."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return shell is not None and hasattr(shell, "kernel")


def _kind() -> Any:
    if in_notebook():
        from tqdm.notebook import tqdm as notebook_bar

        return notebook_bar
    from tqdm.std import tqdm

    return tqdm
