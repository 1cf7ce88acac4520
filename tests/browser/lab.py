"""What a learner does in JupyterLab, in the words of a test: open, run all, type, drag, look."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Locator, Page

MINUTES = 60_000
NOTEBOOK = ".jp-NotebookPanel:not(.lm-mod-hidden)"
THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}


class Lab:
    """One browser tab on JupyterLab, and the notebook that is open in it."""

    def __init__(self, page: Page, link: str, pictures: Path) -> None:
        self.page, self.link, self.pictures = page, link, pictures

    # ------------------------------------------------------------------------------------------------------- opening

    def follow_link(self) -> None:
        """Open the link as `make lab` prints it, and wait until its notebook can be run."""
        self.page.goto(self.link, timeout=2 * MINUTES)
        self._ready()

    def open(self, path: str) -> None:
        """Open a notebook by its address; the token of the link lets us in."""
        parts = urlsplit(self.link)
        self.page.goto(f"{parts.scheme}://{parts.netloc}/lab/tree/{path}?{parts.query}", timeout=2 * MINUTES)
        self._ready()

    def _ready(self) -> None:
        self.page.wait_for_selector(f"{NOTEBOOK} .jp-Cell", timeout=2 * MINUTES)
        # the toolbar says idle before there is a kernel; the status bar tells of the real one
        self.page.wait_for_function(
            "[...document.querySelectorAll('.jp-StatusBar-Widget *')].some(it => / \\| Idle/.test(it.textContent))",
            timeout=2 * MINUTES,
        )

    # ------------------------------------------------------------------------------------------------------- running

    def command(self, name: str, arguments: dict[str, object] | None = None) -> None:
        """Execute one of JupyterLab's commands, as its menus do, and wait for its end."""
        self.page.evaluate(
            "([name, args]) => window.jupyterapp.commands.execute(name, args ?? {}).then(() => null)", [name, arguments]
        )

    def run_all(self, seconds: float = 240) -> None:
        """Run › Run All Cells, until the last one has ended. A cell that fails stops it."""
        self.page.evaluate("window.ended = false")
        self.page.evaluate(
            """() => { window.jupyterapp.commands.execute('notebook:run-all-cells')
                             .finally(() => { window.ended = true }) }"""
        )
        self.page.wait_for_function("window.ended", timeout=seconds * 1000)

    def cells(self) -> list[dict[str, Any]]:
        """The notebook as it stands in the browser: its cells with their outputs, also those that are not in sight."""
        cells: list[dict[str, Any]] = self.page.evaluate(
            "window.jupyterapp.shell.currentWidget.content.model.toJSON().cells"
        )
        return cells

    def errors(self) -> list[str]:
        """What failed: the first line of each cell that did, and its error."""
        return [
            f"{''.join(cell['source']).splitlines()[0]} → {output['ename']}: {output['evalue']}"
            for cell in self.cells()
            for output in cell.get("outputs", [])
            if output["output_type"] == "error"
        ]

    def number(self, text: str) -> int:
        """The place of the first code cell that contains `text`."""
        for number, cell in enumerate(self.cells()):
            if cell["cell_type"] == "code" and text in "".join(cell["source"]):
                return number
        raise AssertionError(f"no code cell contains {text!r}")

    def cell(self, number: int) -> Locator:
        """A cell as it is seen; it is scrolled into sight first."""
        self.page.evaluate(
            """number => { const notebook = window.jupyterapp.shell.currentWidget.content;
                           notebook.activeCellIndex = number;
                           return notebook.scrollToItem(number, 'center') }""",
            number,
        )
        found = self.page.locator(f"{NOTEBOOK} [data-windowed-list-index='{number}']")
        found.wait_for(timeout=MINUTES)
        return found

    def type(self, number: int, source: str) -> None:
        """Click into a code cell, and type `source` in place of what stands there."""
        self.cell(number).locator(".cm-content").click()
        self.page.keyboard.press("Control+a")
        self.page.keyboard.insert_text(source)

    def run(self, number: int, seconds: float = 60) -> str:
        """Run one cell by Shift+Enter; what it then shows, as text."""
        before = self.cells()[number]["execution_count"]
        self.cell(number).locator(".cm-content").click()
        self.page.keyboard.press("Shift+Enter")
        end = time.monotonic() + seconds
        while (now := self.cells()[number])["execution_count"] in (None, before):
            assert time.monotonic() < end, f"cell {number} did not end in {seconds} s"
            self.page.wait_for_timeout(100)
        return "\n".join(map(_text, now["outputs"]))

    # ------------------------------------------------------------------------------------------------------- looking

    def theme(self, name: str) -> None:
        """ "light" or "dark"."""
        self.command("apputils:change-theme", {"theme": THEMES[name]})
        self.page.wait_for_function(
            "light => document.body.dataset.jpThemeLight === light", arg=str(name == "light").lower(), timeout=MINUTES
        )
        self.page.locator("#jupyterlab-splash").wait_for(state="detached", timeout=MINUTES)

    def picture(self, name: str) -> None:
        """Keep what is in sight."""
        self.page.screenshot(path=self.pictures / f"{name}.png")

    def pictures_of_all(self, name: str) -> None:
        """Keep the whole notebook, page by page, from top to bottom."""
        inside = f"{NOTEBOOK} .jp-WindowedPanel-outer"
        self.page.evaluate("selector => document.querySelector(selector).scrollTo(0, 0)", inside)
        for number in range(60):
            self.page.wait_for_timeout(400)  # for cells that come into sight to be drawn
            self.picture(f"{name}-{number:02}")
            more = self.page.evaluate(
                """selector => { const it = document.querySelector(selector), before = it.scrollTop;
                                 it.scrollBy(0, it.clientHeight - 40); return it.scrollTop > before + 1 }""",
                inside,
            )
            if not more:
                return


def _text(output: dict[str, Any]) -> str:
    if output["output_type"] == "stream":
        return "".join(output["text"])
    if output["output_type"] == "error":
        return "\n".join(output["traceback"])
    return "".join(output["data"].get("text/plain", ""))
