"""The grids of rights and of break-outs: they show what the kernel says, in signs, words and colours."""

from __future__ import annotations

import pytest

from minicontainer import Capabilities, Container, notebook
from minicontainer.errors import UsageError
from minicontainer.notebook import rights
from minicontainer.security import capabilities

TITLE = "What it may do"


@pytest.fixture(scope="module", autouse=True)
def fonts() -> None:
    """matplotlib opens its fonts once and keeps them: before the leak check begins."""
    notebook.rights_map({"we": capabilities.of()}, TITLE).png()


def test_signs_are_what_the_kernel_says_of_each_capability() -> None:
    part = Capabilities.exactly(bounding=["CHOWN", "KILL"], permitted=["KILL"], effective=["KILL"])
    with Container(["sleep", "60"], part).start() as container:
        sets = capabilities.of(container.pid)
        chart = notebook.rights_map({"it": container, "we": capabilities.of()}, TITLE)
    # root gets what is in the bounding set, at the exec
    assert sets["effective"] == sets["bounding"] == capabilities.bits(["CHOWN", "KILL"])
    assert {name for name, sign in chart.signs["it"].items() if sign == rights.NOW} == {"CHOWN", "KILL"}
    assert set(chart.signs["we"]) == set(capabilities.names(capabilities.of()["bounding"]))
    assert "it: 2 effective, 0 in reach" in repr(chart)


def test_what_an_exec_can_still_give_is_a_ring() -> None:
    sets = {"effective": 0, "bounding": capabilities.bits(["CHOWN"])}
    chart = notebook.rights_map({"user": sets}, TITLE)
    assert chart.signs == {"user": {"CHOWN": rights.REACH}}
    assert [text.get_text() for text in chart.axes.texts] == [rights.REACH]


def test_outcomes_are_said_in_words() -> None:
    chart = notebook.outcomes({"a way": (True, False), "another": (False, False)}, ["naive", "default"], TITLE)
    assert [text.get_text() for text in chart.axes.texts] == ["out", "held", "held", "held"]
    assert "a way: out, held; another: held, held" in repr(chart)
    assert [label.get_text() for label in chart.axes.get_yticklabels()] == ["a way", "another"]


def test_nothing_to_draw_is_refused() -> None:
    with pytest.raises(UsageError, match="no process"):
        notebook.rights_map({}, TITLE)
    with pytest.raises(UsageError, match="no attack"):
        notebook.outcomes({}, [], TITLE)
