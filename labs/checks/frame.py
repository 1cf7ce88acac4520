"""What every check shares: three verdicts, an attempt that cannot hurt, and the host put back afterwards.

    lab = Lab("02-chroot")

    @lab.exercise("an empty root")
    def empty(answer):
        seen = attempt(answer, path).value
        expect(seen == [], saw=f"/ holds {seen}", wanted="a / with nothing in it")
        return "the root is empty"                     # what the kernel showed, for the verdict "correct"

In a cell, `empty(answer)` then shows **correct**, or raises one of the other two: NotYet says what the kernel shows
and what was expected (never the solution), NotAttempted that the stub still stands there. They are exceptions so that
nbval and pytest see a failure, and show themselves in a few plain lines instead of a traceback.

What the learner wrote runs in a process of its own, in a cgroup of its own, for a limited time. What it leaves on the
host is removed before the next exercise.
"""

from __future__ import annotations

import functools
import html
import json
import os
import time
from typing import TYPE_CHECKING

from minicontainer import Cgroup, Container, leaks
from minicontainer.container import DEVNULL
from minicontainer.errors import ContainerError, StartError, TimeoutExpired
from minicontainer.notebook import Shown
from minicontainer.notebook.show import inline

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from minicontainer import Part

SECONDS = float(os.environ.get("MINICONTAINER_LAB_SECONDS", 30))
"""How long one attempt may take. A stuck answer is far beyond it, on a slow virtual machine too."""
MEMORY, PIDS = "512M", 200
"""How much of the machine one attempt may take."""
STRAY = 99
"""The exit status of a copy of the answer's process that came back from it, where only the original should."""


class Verdict(Exception):
    """What a check says when it does not say "correct". Shows itself without a traceback."""

    head = ""

    def __init__(self, text: str, exercise: str = "") -> None:
        super().__init__(text)
        self.text, self.exercise = text, exercise

    def __str__(self) -> str:
        return f"{self.head} · {self.exercise}\n{self.text}"

    def _render_traceback_(self) -> list[str]:  # what IPython asks an exception for
        return str(self).splitlines()


class NotYet(Verdict):
    """The answer was tried, and the kernel shows something else than what was asked for."""

    head = "✗ not yet"


class NotAttempted(Verdict):
    """There is no answer yet."""

    head = "… not attempted"


class Correct(Shown):
    """The answer does what was asked for. `text` says what the kernel showed."""

    def __init__(self, exercise: str, said: str) -> None:
        head = f"✓ correct · {exercise}"
        super().__init__("text/html", f"<b>{html.escape(head)}</b><br>{inline(said)}", f"{head}\n{said}")


class Lab:
    """The exercises of one lab, in their order. `name` is the notebook's: "02-chroot"."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.exercises: dict[str, str] = {}
        """Each check's name, and its exercise's as the verdict gives it: "02.1 an empty root"."""

    def exercise(self, title: str) -> Callable[[Callable[..., str]], Callable[..., Correct]]:
        """Make a function the check of the next exercise. It takes the answer, and returns what the kernel showed."""

        def decorate(check: Callable[..., str]) -> Callable[..., Correct]:
            label = f"{self.name[:2]}.{len(self.exercises) + 1} {title}"
            self.exercises[check.__name__] = label

            @functools.wraps(check)
            def judge(answer: Callable[..., Any]) -> Correct:
                before = leaks.snapshot()
                try:
                    return Correct(label, check(answer))
                except Verdict as verdict:
                    verdict.exercise = label
                    raise verdict from None
                except ContainerError as error:
                    raise _of_the_engine(error, label) from None
                finally:
                    if leaks.left_since(before, 0.5):
                        leaks.reset()

            return judge

        return decorate


class Attempt:
    """What became of an answer: `value` is what it returned, `output` what it wrote, if that was asked for."""

    def __init__(self, value: Any, output: str) -> None:
        self.value, self.output = value, output


def attempt(
    function: Callable[[], object], answer: Callable[..., object], *parts: Part, capture: bool = False
) -> Attempt:
    """Call `function`, which calls the learner's `answer`, in a container with these parts, within SECONDS, MEMORY
    and PIDS.

    What it returns must be something JSON can say. With `capture` its output is kept from the cell and returned.
    Raises NotAttempted for a stub, NotYet for an answer that raises, does not end or does not come back.
    """

    def guarded() -> object:
        pid = os.getpid()
        try:
            value = function()
            if os.getpid() != pid:  # a clone of the answer's that went on as if it were the original
                os._exit(STRAY)
            return {"value": value} if _can_be_said(value) else {"strange": _name_of(value)}
        except NotImplementedError as error:
            return {"missing": _stub(error, answer) or guarded.__name__}
        except Exception as error:
            raised = {"raised": f"{type(error).__name__}: {error}", "line": _line(error, answer)}
            return {**raised, "by the answer": _was_in(error, answer)}

    guarded.__name__ = getattr(answer, "__name__", "answer")
    container = Container(guarded, *parts, Cgroup(memory=MEMORY, pids=PIDS), cwd=os.getcwd())
    output, status = "", None
    try:
        if capture:
            with open(os.memfd_create("output", os.MFD_CLOEXEC), "w+b") as file:
                status = container.run(stdin=DEVNULL, stdout=file, timeout=SECONDS)
                file.seek(0)
                output = file.read().decode(errors="replace")
        else:
            status = container.run(stdin=DEVNULL, timeout=SECONDS)
    except TimeoutExpired:
        raise NotYet(f"It had not ended after {SECONDS:g} s, and was killed.") from None
    except StartError as error:
        if error.part:  # a part of the check's could not be built
            raise
        status = None  # it became another program, and so could not say that it was there
    returned = container.returned
    if not isinstance(returned, dict):
        how = "became another program" if status is None else f"ended with status {status}"
        raise NotYet(f"The process never came back from {guarded.__name__}: it {how}.")
    if "missing" in returned:
        if returned["missing"] not in (guarded.__name__, "<module>"):
            raise NotAttempted(
                f"{guarded.__name__} calls {returned['missing']}, which is not written yet: "
                "that one first, then this cell again."
            )
        raise NotAttempted(f"Write {guarded.__name__} in the cell above, run it, then run this one again.")
    if "strange" in returned:
        raise NotYet(
            f"{guarded.__name__} returned {returned['strange']}: return text, numbers, lists or dicts of them."
        )
    if "raised" in returned and not returned["by the answer"]:
        raise NotYet(
            f"{guarded.__name__} came back, and what it returned or left is not what was asked for. What came of it: "
            f"{returned['raised']}"
        )
    if "raised" in returned:
        raise NotYet(f"{guarded.__name__} raised {returned['raised']}{returned['line']}")
    return Attempt(returned["value"], output)


def _can_be_said(value: object) -> bool:
    """Whether it can be handed from the answer's process to ours."""
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def _name_of(value: object) -> str:
    """What an answer returned, where that cannot be shown as it is: the innermost thing that is no JSON."""
    inner: Iterable[object] = ()
    if isinstance(value, dict):
        inner = value.values()
    elif isinstance(value, list | tuple):
        inner = value
    strange = next((it for it in inner if not _can_be_said(it)), None)
    return f"something of type {type(value).__name__}" if strange is None else _name_of(strange)


def _stub(error: NotImplementedError, answer: Callable[..., object]) -> str:
    """The function of the learner's that is not written; "" where it is a method, or a check that says so."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    if trace is None or not hasattr(answer, "__code__"):
        return ""
    code = trace.tb_frame.f_code
    return "" if os.path.dirname(code.co_filename) == os.path.dirname(__file__) else code.co_name


def _was_in(error: Exception, answer: Callable[..., object]) -> bool:
    """Whether the answer's own code was running (or called what was) when it was raised; True where none can tell."""
    code, trace = getattr(answer, "__code__", None), error.__traceback__
    while code and trace:
        if trace.tb_frame.f_code is code:
            return True
        trace = trace.tb_next
    return code is None


def _line(error: Exception, answer: Callable[..., object]) -> str:
    """Where in the answer it was raised, counted from its `def`."""
    found, code, trace = "", getattr(answer, "__code__", None), error.__traceback__
    while code and trace:
        frame = trace.tb_frame.f_code
        if frame.co_filename == code.co_filename:
            found = f" (line {trace.tb_lineno - frame.co_firstlineno + 1} of {frame.co_name})"
        trace = trace.tb_next
    return found


def expect(holds: bool, *, saw: str, wanted: str) -> None:
    """Raise NotYet unless it holds. `saw` is what the kernel shows, `wanted` what was asked for (not how to do it)."""
    if not holds:
        raise NotYet(f"The kernel shows: {saw}\nExpected:         {wanted}")


def until(holds: Callable[[], bool], seconds: float = 4) -> bool:
    """Wait, for at most so long, until it holds: a copy of us is not yet the program that is to be looked at."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if holds():
            return True
        time.sleep(0.005)
    return False


def _of_the_engine(error: ContainerError, exercise: str) -> Verdict:
    """What the engine says of a container with the learner's part in it."""
    if "NotImplementedError" in str(error):
        return NotAttempted("Write the part in the cell above, run it, then run this one again.", exercise)
    return NotYet(f"The engine says: {error}", exercise)
