"""Questions that check themselves, in plain HTML.

Each answer unfolds and says whether it is right, and why. There is no script and no widget behind it, so a question
also works in a stored notebook, on a web page and before the first cell has run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from minicontainer.errors import UsageError
from minicontainer.notebook.show import Shown, inline

if TYPE_CHECKING:
    from collections.abc import Mapping

_QUESTION = '<div style="border-left: 4px solid #2F7FB8; padding: 2px 12px; margin: 6px 0">{}</div>'
_ANSWER = '<details style="margin: 4px 0"><summary style="cursor: pointer">{}</summary>{}</details>'
_VERDICT = '<div style="margin: 2px 0 6px 18px">{}</div>'


def question(text: str, answers: Mapping[str, str], right: str) -> Shown:
    """Ask `text`; `answers` maps each answer to why it is right or wrong; `right` is the one that is right.

    In all of them, what stands in backquotes is code.
    """
    if right not in answers or len(answers) < 2:
        raise UsageError(f"{right!r} is not one of at least two answers", hint="the right answer is one of the keys")
    rich = [f"<p><b>{inline(text)}</b></p>"]
    plain, reasons = [text], []
    for letter, (answer, why) in zip("abcdefgh", answers.items(), strict=False):
        verdict = "Right" if answer == right else "Not quite"
        mark = "✓" if answer == right else "✗"
        verdict_html = _VERDICT.format(f"{mark} <b>{verdict}.</b> {inline(why)}")
        rich.append(_ANSWER.format(inline(answer), verdict_html))
        plain.append(f"  ({letter}) {answer}")
        reasons.append(f"  ({letter}) {verdict}. {why}")
    return Shown("text/html", _QUESTION.format("".join(rich)), "\n".join([*plain, "Answers:", *reasons]))
