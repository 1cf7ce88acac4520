"""The heat map of processes × namespaces: it shows what the kernel says, in letters, colours and words."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from minicontainer import Container, Namespaces, notebook
from minicontainer.errors import NotFoundError, UsageError
from minicontainer.notebook import charts, heat

if TYPE_CHECKING:
    from collections.abc import Iterator

KINDS = ["mnt", "uts", "ipc", "pid", "net", "cgroup", "time", "user"]


@pytest.fixture(scope="module", autouse=True)
def fonts() -> None:
    """matplotlib opens its fonts once and keeps them: before the leak check begins."""
    notebook.heat_map({"we": os.getpid()}).png()


@pytest.fixture
def three() -> Iterator[dict[str, int | Container]]:
    with (
        Container(["sleep", "60"], Namespaces("uts", "network")).start() as first,
        Container(["sleep", "60"], Namespaces("uts", join={"network": first})).start() as second,
    ):
        yield {"we": os.getpid(), "first": first, "second": second.pid}


def test_letters_are_equal_where_the_kernel_says_it_is_one_namespace(three: dict[str, int | Container]) -> None:
    letters = notebook.heat_map(three).letters
    assert letters["we"] == dict.fromkeys(KINDS, "A")
    assert [row["uts"] for row in letters.values()] == ["A", "B", "C"]
    assert [row["net"] for row in letters.values()] == ["A", "B", "B"]
    for kind in KINDS:
        links = [
            os.readlink(f"/proc/{it if isinstance(it, int) else it.pid}/ns/{kind}")
            for it in three.values()
        ]  # fmt: skip
        column = [row[kind] for row in letters.values()]
        for one in range(3):
            for other in range(3):
                assert (links[one] == links[other]) == (column[one] == column[other])


def test_picture_has_every_letter_and_one_colour_for_each(three: dict[str, int | Container]) -> None:
    chart = notebook.heat_map(three)
    assert [text.get_text() for text in chart.axes.texts] == [
        letter for row in chart.letters.values() for letter in row.values()
    ]
    colours = [patch.get_facecolor() for patch in chart.axes.patches]
    assert len(colours) == 24
    pairs = {(text.get_text(), colour) for text, colour in zip(chart.axes.texts, colours, strict=True)}
    assert len(pairs) == 3
    assert [label.get_text() for label in chart.axes.get_xticklabels()] == KINDS
    assert [label.get_text() for label in chart.axes.get_yticklabels()] == list(three)


def test_words_say_what_the_picture_says(three: dict[str, int | Container]) -> None:
    text = repr(notebook.heat_map(three, "Two share a network"))
    assert "Two share a network" in text
    assert "second: mnt=A uts=C ipc=A pid=A net=B" in text
    assert str(three["second"]) not in text  # what differs from run to run is not in it


@pytest.mark.parametrize(("fill", "ink"), heat.TINTS)
def test_letters_can_be_read_on_their_colour(fill: str, ink: str) -> None:
    def luminance(colour: str) -> float:
        channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [it / 12.92 if it <= 0.04045 else ((it + 0.055) / 1.055) ** 2.4 for it in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(fill), luminance(ink)), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 4.5  # WCAG 2.2, 1.4.3
    assert fill != charts.PAPER


def test_letters_do_not_run_out() -> None:
    assert [heat._letter(number) for number in (0, 25, 26, 51, 52)] == ["A", "Z", "A1", "Z1", "A2"]


def test_nothing_and_nobody_are_refused() -> None:
    with pytest.raises(UsageError, match="no process"):
        notebook.heat_map({})
    with pytest.raises(NotFoundError, match=str(2**22 - 1)):
        notebook.heat_map({"nobody": 2**22 - 1})
