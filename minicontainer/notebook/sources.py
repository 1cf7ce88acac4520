"""The source viewer: what a notebook shows of the engine is the engine.

A listing that somebody copied into a notebook is out of date after the next change. This one is read from the module
when the cell runs, and the notebooks' tests compare it with the stored output. It is handed over as Markdown, so
that the front end colours it in its own theme.
"""

from __future__ import annotations

import inspect
import os
from typing import TYPE_CHECKING

import minicontainer
from minicontainer.errors import UsageError
from minicontainer.notebook.show import Shown

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any


def source(thing: Callable[..., Any] | type | ModuleType) -> Shown:
    """The source of a function, class or module of this package, under the name of its file.

    Without line numbers: they change with every edit above. Raises UsageError for what is not in the package.
    """
    unwrapped = inspect.unwrap(thing) if callable(thing) else thing
    top = os.path.dirname(os.path.dirname(minicontainer.__file__))
    try:
        path = os.path.relpath(inspect.getsourcefile(unwrapped) or "", top)
        text = inspect.cleandoc("\n" + inspect.getsource(unwrapped))
    except (TypeError, OSError):
        path = text = ""
    if not path.startswith("minicontainer/"):
        raise UsageError(
            f"{thing!r} is not part of the package", hint="source() shows its functions, classes and modules"
        )
    return Shown("text/markdown", f"`{path}`\n\n```python\n{text}\n```", f"# {path}\n\n{text}")
