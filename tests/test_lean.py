"""What replaces the standard library on the way of a start does what the standard library does."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minicontainer import lean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
VALUES = st.recursive(PLAIN, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)


@given(VALUES)
def test_json_is_written_as_the_standard_library_writes_it(value: Any) -> None:
    assert lean.dumps(value) == json.dumps(value)
    assert lean.dumps(value, compact=True) == json.dumps(value, separators=(",", ":"))


@given(VALUES)
def test_json_is_read_as_the_standard_library_reads_it(value: Any) -> None:
    for text in (json.dumps(value), json.dumps(value, indent=2), f" \n{json.dumps(value, ensure_ascii=False)}\t"):
        assert lean.loads(text) == value
        assert lean.loads(text.encode("utf-8", "surrogatepass")) == value if "\\ud" not in text else True


@pytest.mark.parametrize("text", ["", " ", "{", "[1,]", "nul", "1 2", '{"a" 1}', '"\x01"', "[1", '{"a":1,}', "'a'"])
def test_what_is_no_json_is_a_value_error(text: str) -> None:
    for read in (json.loads, lean.loads):
        with pytest.raises(ValueError):
            read(text)


@pytest.mark.parametrize("text", ["", "{", "[1,]", '{"a" 1}', '"x'])
def test_what_is_no_json_is_a_value_error_also_when_json_was_never_imported(text: str) -> None:
    code = """
import sys
sys.path.insert(0, sys.argv[2])
from minicontainer import lean
assert "json" not in sys.modules
try:
    lean.loads(sys.argv[1])
except ValueError:
    print("refused")
"""
    top = os.path.dirname(os.path.dirname(os.path.abspath(lean.__file__)))
    words = [sys.executable, "-I", "-S", "-c", code, text, top]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == "refused\n"


def test_what_json_cannot_say_is_a_type_error() -> None:
    with pytest.raises(TypeError):
        lean.dumps(object())


def blocks(contextmanager: Callable[..., Any]) -> list[str]:
    """What happens in blocks that end in every possible way."""
    seen: list[str] = []

    @contextmanager
    def block(swallow: type[BaseException] | None = None, instead: BaseException | None = None) -> Iterator[int]:
        seen.append("in")
        try:
            yield 7
        except Exception as error:
            seen.append(f"caught {error!r}")
            if instead is not None:
                raise instead from error
            if swallow is None or not isinstance(error, swallow):
                raise
        finally:
            seen.append("out")

    for arguments in ((), (KeyError,), (None, OSError("second"))):
        for error in (None, ValueError("v"), KeyError("k"), StopIteration("s"), RuntimeError("r")):
            try:
                with block(*arguments) as value:
                    seen.append(str(value))
                    if error is not None:
                        raise error
            except Exception as raised:
                seen.append(f"came out: {raised!r} from {raised.__cause__!r}")
    return seen


def test_a_block_ends_as_with_contextlib() -> None:
    assert blocks(lean.contextmanager) == blocks(contextlib.contextmanager)


def test_a_function_that_stands_for_another_looks_like_it() -> None:
    def original(one: int) -> str:
        """The text."""
        return str(one)

    found = []
    for wraps in (lean.wraps, functools.wraps):

        @wraps(original)
        def other(*arguments: Any) -> Any:
            return arguments

        found.append({name: getattr(other, name) for name in (*functools.WRAPPER_ASSIGNMENTS, "__wrapped__")})
    assert found[0] == found[1]
