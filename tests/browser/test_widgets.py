"""Sliders, dragged with the mouse: the kernel's limits move, and what is shown follows."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lab import Lab
    from playwright.sync_api import Locator

SECONDS = 1000


def drag(lab: Lab, slider: Locator, share: float) -> None:
    """Drag a slider's handle to this share of its way, 0 to 1."""
    slider.scroll_into_view_if_needed()
    way, handle = slider.locator(".noUi-base").bounding_box(), slider.locator(".noUi-handle").bounding_box()
    assert way is not None
    assert handle is not None
    lab.page.mouse.move(handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2)
    lab.page.mouse.down()
    lab.page.mouse.move(way["x"] + way["width"] * share, way["y"] + way["height"] / 2, steps=8)
    lab.page.mouse.up()


def test_a_larger_limit_in_00_lets_the_program_live(lab: Lab) -> None:
    lab.follow_link()
    lab.run_all()
    play = lab.cell(lab.number("IntSlider("))
    said = play.locator(".jp-OutputArea-output", has_text=re.compile("killed|got what it wanted")).last
    assert "killed: out of memory" in said.inner_text()
    drag(lab, play.locator(".widget-hslider"), 1.0)
    lab.page.wait_for_function("document.body.innerText.includes('it got what it wanted')", timeout=60 * SECONDS)
    lab.picture("00-slider")


def test_the_plot_of_04_follows_the_cpu_slider(lab: Lab) -> None:
    lab.open("notebooks/04-cgroups.ipynb")
    lab.run_all()
    assert lab.errors() == []
    dashboard = lab.cell(lab.number("dashboard = Dashboard("))
    cpu = dashboard.locator(".widget-hslider", has_text="CPU limit")
    status, picture = dashboard.locator(".widget-label").last, dashboard.locator("img.widget-image")

    def settled(limit: int) -> float:
        """The percentage in use, when the chart has shown some seconds of a limit of `limit` percent."""
        pattern = re.compile(rf"CPU (\d+) % of {limit} %")
        status.filter(has_text=pattern).wait_for(timeout=60 * SECONDS)
        lab.page.wait_for_timeout(4 * SECONDS)
        found = pattern.search(status.inner_text())
        assert found, status.inner_text()
        return float(found[1])

    drag(lab, cpu, 0.0)  # the container of Run All has ended: this starts another one, at 5 %
    little, drawn = settled(5), picture.get_attribute("src")
    drag(lab, cpu, 0.5)
    much = settled(int(cpu.locator(".widget-readout").inner_text()))
    assert much > 3 * little, f"{little} % at a limit of 5 %, {much} % after the slider was dragged"
    assert picture.get_attribute("src") != drawn
    for theme in ("light", "dark"):
        lab.theme(theme)
        lab.picture(f"04-dashboard-{theme}")
    dashboard.get_by_text("Stop the container").click()
    status.filter(has_text="has ended").wait_for(timeout=60 * SECONDS)
    lab.theme("light")
    for theme in ("light", "dark"):
        lab.theme(theme)
        lab.pictures_of_all(f"04-{theme}")
