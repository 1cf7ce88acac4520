"""The notebooks, run by Run All in a browser."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from lab import Lab


def test_the_link_with_the_token_leads_to_00_which_runs_from_top_to_bottom(lab: Lab) -> None:
    lab.follow_link()
    assert lab.page.title().startswith("00-start")
    lab.run_all()
    assert lab.errors() == []
    code = [cell for cell in lab.cells() if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    for theme in ("light", "dark"):
        lab.theme(theme)
        lab.pictures_of_all(f"00-{theme}")


def test_without_the_token_nobody_gets_in(lab: Lab) -> None:
    lab.page.goto(lab.link.partition("?")[0])
    lab.page.wait_for_selector("input[name=password]")
    assert lab.page.locator(".jp-Notebook").count() == 0
    lab.page.goto(lab.link)  # so that there is an application to be left


def test_the_file_list_shows_what_a_learner_needs(lab: Lab) -> None:
    lab.follow_link()
    shown = lab.page.locator(".jp-DirListing-itemText")
    shown.first.wait_for()
    names = shown.all_inner_texts()
    assert {"00-start-here.ipynb", "01-container.ipynb"} <= set(names)
    assert "CLAIMS.md" not in names
    lab.page.locator(".jp-BreadCrumbs-home").click()
    lab.page.get_by_text("labs", exact=True).first.wait_for()
    assert "notebooks" in lab.page.locator(".jp-DirListing-itemText").all_inner_texts()


@pytest.mark.parametrize("chapter", [1])
def test_a_link_between_chapters_leads_there(lab: Lab, chapter: int) -> None:
    lab.follow_link()
    last = len(lab.cells()) - 1
    lab.cell(last).get_by_role("link", name=f"chapter {chapter:02}").click()
    lab.page.wait_for_function(f"document.title.startsWith('{chapter:02}-')", timeout=60_000)
