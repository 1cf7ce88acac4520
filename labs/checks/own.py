"""A learner's answer in a program of its own, where no notebook is: below an engine, or among a container's hooks.

    own.py runtime ANSWER words…     minicontainer-runtime, with the answer in the place of one of its own parts
    own.py hook ANSWER               a hook: calls the answer with the state that is on its standard input

ANSWER is a file that `store` has written. Engines and hooks give no environment that could be relied upon.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
COMMAND = [sys.executable, "-I", os.path.abspath(__file__)]


def store(path: str, answer: object, original: str = "") -> None:
    """Write an answer to a file. `original` is what it stands for: "minicontainer.runtime.hold:Hold"."""
    import cloudpickle  # type: ignore[import-untyped]

    with open(path, "wb") as file:
        cloudpickle.dump((original, answer), file)


def load(path: str) -> tuple[str, Any]:
    """What was stored: the original's name, and the answer."""
    import cloudpickle

    with open(path, "rb") as file:
        original, answer = cloudpickle.load(file)
    return original, answer


def put_in_place(original: str, answer: Any) -> None:
    """Put the answer wherever a module of the engine that is loaded by now holds the original. Raises RuntimeError."""
    where, _, name = original.partition(":")
    ours = functools.reduce(getattr, name.split("."), importlib.import_module(where))
    answer.__name__ = ours.__name__
    places = 0
    for module in list(sys.modules.values()):
        if module and module.__name__.partition(".")[0] == "minicontainer":
            for key in [key for key, value in vars(module).items() if value is ours]:
                setattr(module, key, answer)
                places += 1
    if not places:
        raise RuntimeError(f"nothing in the engine is {original}")


def _runtime(path: str, words: list[str]) -> int:
    from minicontainer.runtime import cli, creating, verbs  # noqa: F401 all that could hold the original is loaded

    put_in_place(*load(path))
    return cli.main(words)


def _hook(path: str) -> int:
    _, answer = load(path)
    try:
        answer(json.load(sys.stdin))
    except Exception as error:  # what it says is part of the runtime's own error
        print(f"{type(error).__name__}: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.path.insert(0, ROOT)
    kind, answer_file, *rest = sys.argv[1:]
    sys.exit(_runtime(answer_file, rest) if kind == "runtime" else _hook(answer_file))
