"""The machine's JupyterLab in a real browser on the host: the first notebook opens, and its kernel is there.

usage: browser.py LINK PICTURE SECONDS
"""

from __future__ import annotations

import os
import sys

from playwright.sync_api import sync_playwright

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]


def main(link: str, picture: str, seconds: float) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"), args=FLAGS
        )
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        page.set_default_timeout(seconds * 1000)
        page.goto(link)
        page.wait_for_selector(".jp-NotebookPanel .jp-MarkdownOutput h1")
        # the status bar: the toolbar says idle before there is a kernel
        page.wait_for_function("document.querySelector('#jp-main-statusbar')?.textContent.includes('| Idle')")
        page.screenshot(path=picture)
        print(page.inner_text(".jp-NotebookPanel .jp-MarkdownOutput h1"))
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
