"""Slides: everything of a notebook is on one of them, and a page needs nothing from anywhere."""

from __future__ import annotations

import glob
import os
import re
from html import unescape
from html.parser import HTMLParser

import nbformat
import pytest
from test_labs import ROOT

from labs.instructor import slides

NOTEBOOKS = sorted(glob.glob(f"{ROOT}/notebooks/*.ipynb"))
notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=os.path.basename)


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.sections, self.sources, self.text = 0, [], ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sections += tag == "section"
        # a link is followed by who clicks on it; all else a browser would fetch by itself
        self.sources += [value for name, value in attrs if name in ("src", "href") and tag != "a"]

    def handle_data(self, data: str) -> None:
        self.text += data


def _words(text: str) -> str:
    return re.sub(r"\W+", "", unescape(text))


@notebook
def test_all_code_and_every_heading_is_on_a_slide(path: str) -> None:
    cells = nbformat.read(path, as_version=4).cells
    page = _Page(slides.slides(path))
    shown = _words(page.text)
    for cell in cells:
        if cell.cell_type == "code" and not slides._is_only_set_up(cell):
            assert _words(cell.source) in shown, cell.id
        for heading in re.findall(r"(?m)^#{1,3} (.+)$", cell.source if cell.cell_type == "markdown" else ""):
            assert _words(re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading)) in shown, heading
    assert page.sections > 10


@notebook
def test_a_page_loads_nothing(path: str) -> None:
    text = slides.slides(path)
    assert all(source and source.startswith("data:") for source in _Page(text).sources)
    assert not re.search(r"@import|url\((?!['\"]?data:)", text.split("<body>")[0])


def test_a_picture_keeps_its_words_for_who_cannot_see_it() -> None:
    (path,) = (it for it in NOTEBOOKS if "/01-" in it)
    assert re.search(r'<img alt="Chart\. [^"]+" src="data:image/png', slides.slides(path))
