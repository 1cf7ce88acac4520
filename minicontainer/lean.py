"""What the standard library has too, without what it brings along.

A container starts in some milliseconds, and the interpreter that starts it should not take much longer. `contextlib`
imports `collections` and `functools`, `json` imports `re`, and that `enum`: together ten milliseconds of a start, for
one decorator and two functions. The C code behind them is all that is needed here.
"""

from __future__ import annotations

import sys

__all__ = ["contextmanager", "dumps", "lazily", "loads", "signal", "wraps"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    import json
    import signal
    from collections.abc import Callable, Mapping
    from contextlib import contextmanager
    from functools import wraps
    from typing import Any

    loads = json.loads

    def dumps(value: object, *, compact: bool = False) -> str: ...

else:
    import _json
    import _signal as signal

    def wraps(original: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Give a function the name, the text and the annotations of the one it stands for, as functools.wraps does."""

        def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
            for name in ("__module__", "__name__", "__qualname__", "__doc__", "__annotations__"):
                setattr(function, name, getattr(original, name))
            function.__dict__.update(original.__dict__)
            function.__wrapped__ = original
            return function

        return decorate

    class _Block:
        """A generator with one `yield` as the block of a `with`."""

        def __init__(self, generator: Any) -> None:
            self.generator = generator

        def __enter__(self) -> Any:
            return next(self.generator)

        def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
            if error is None:
                for _ in self.generator:
                    raise RuntimeError("a block's generator has more than one yield")
                return False
            try:
                self.generator.throw(error)
            except BaseException as raised:
                if raised is error or (isinstance(raised, RuntimeError) and raised.__cause__ is error):
                    error.__traceback__ = trace
                    return False  # the error itself goes on, not a second one
                if isinstance(raised, StopIteration):
                    return True  # the generator has dealt with it
                raise
            raise RuntimeError("a block's generator has more than one yield")

    def contextmanager(function: Callable[..., Any]) -> Callable[..., Any]:
        """contextlib.contextmanager, for `with` alone (it does not decorate)."""

        @wraps(function)
        def begin(*args: Any, **kwargs: Any) -> _Block:
            return _Block(function(*args, **kwargs))

        return begin

    class _Plain:
        """How JSON is read: as json.loads does by default."""

        strict = True
        object_hook = object_pairs_hook = None
        parse_float, parse_int = float, int
        parse_constant = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": -float("inf")}.__getitem__

    _scan = _json.make_scanner(_Plain())
    _SPACE = " \t\n\r"

    def loads(text: str | bytes) -> Any:
        """The value of a JSON text. Raises ValueError when it is none."""
        if isinstance(text, (bytes, bytearray)):
            text = text.decode("utf-8")
        begin = len(text) - len(text.lstrip(_SPACE))
        try:
            value, end = _scan(text, begin)
        except StopIteration as error:
            raise ValueError(f"no JSON value at character {error.value}") from None
        except SystemError:  # the C code looks for json's exception, finds it not imported, and raises nothing
            import json

            json.loads(text)
            raise
        if text[end:].strip(_SPACE):
            raise ValueError(f"more than one JSON value: another begins at character {end}")
        return value

    def _refuse(value: object) -> None:
        raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")

    def dumps(value: object, *, compact: bool = False) -> str:
        """The value as JSON, in ASCII; `compact`: without a space. Raises TypeError for what JSON cannot say."""
        between = (":", ",") if compact else (": ", ", ")
        encode = _json.make_encoder({}, _refuse, _json.encode_basestring_ascii, None, *between, False, False, True)
        return "".join(encode(value, 0))


def lazily(package: str, homes: Mapping[str, tuple[str, ...]]) -> Callable[[str], object]:
    """A package's `__getattr__`: each name comes from the module that is its home when it is first used. PEP 562"""

    def find(name: str) -> object:
        for module, names in homes.items():
            if name in names:
                value: object = getattr(__import__(f"{package}.{module}", fromlist=[name]), name)
                setattr(sys.modules[package], name, value)
                return value
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return find
