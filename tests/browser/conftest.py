"""JupyterLab as a learner has it: started by `make lab`, seen in a real browser. `make test-browser` runs these.

The server serves a copy of notebooks/ and labs/, with settings, roots and a port of its own: nothing of the learner's
is touched, and no notebook of the repository is saved by accident. When all is over it is ended as by Ctrl-C, and the
host is as it was. What the pages looked like stays in .cache/browser.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from lab import Lab

from minicontainer import leaks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser

TOP = Path(__file__).resolve().parent.parent.parent
PICTURES = TOP / ".cache" / "browser"
FLAGS = [
    "--no-sandbox",  # chromium's own needs a user namespace, and we are root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """A plain `pytest` leaves these out: they need a browser, and minutes."""
    return None if any("browser" in argument for argument in config.args) else True


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The link that `make lab` prints; its settings are in LAB_HOME."""
    before = leaks.snapshot("instance")
    place = tmp_path_factory.mktemp("lab")
    for folder in ("notebooks", "labs"):
        if (TOP / folder).exists():
            shutil.copytree(TOP / folder, place / folder, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_*"))
    (place / "home" / "config").mkdir(parents=True)
    (place / "home" / "config" / "jupyter_lab_config.json").write_text('{"LabApp": {"expose_app_in_browser": true}}')
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    os.environ["LAB_HOME"] = str(place / "home")
    environment = {**os.environ, "LAB_DIR": str(place), "PORT": str(port)}
    with (
        open(place / "log", "wb") as log,
        subprocess.Popen(
            ["make", "--silent", "lab"],
            cwd=TOP,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        ) as process,
    ):
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if link := re.search(r"JupyterLab starts\. Open: (http://\S+)", line):
                break
        else:
            pytest.fail(f"`make lab` started nothing: {''.join(said)}{(place / 'log').read_text()}")
        _wait(port, process)
        yield link[1]
        os.killpg(process.pid, signal.SIGINT)
        process.stdout.read()
    _reap()
    assert leaks.left_since(before) == []


def _reap() -> None:
    """The suite is a subreaper: helpers that the browser has left behind come to us when they end."""
    end = time.monotonic() + 10
    try:
        while time.monotonic() < end:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.05)
    except ChildProcessError:
        pass


def _wait(port: int, process: subprocess.Popen[str]) -> None:
    """The link is printed at once; the server behind it takes some seconds."""
    end = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except ConnectionRefusedError:
            time.sleep(0.1)
    pytest.fail(f"nobody answers on port {port}; make has ended with {process.poll()}")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        program = playwright.chromium.launch(
            executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"), args=FLAGS
        )
        yield program
        program.close()


@pytest.fixture(scope="session")
def pictures() -> Path:
    """Where screenshots go; those of the last run are thrown away."""
    shutil.rmtree(PICTURES, ignore_errors=True)
    PICTURES.mkdir(parents=True)
    (PICTURES.parent / ".gitignore").write_text("*\n")
    return PICTURES


@pytest.fixture
def lab(server: str, browser: Browser, pictures: Path) -> Iterator[Lab]:
    """A fresh browser profile on JupyterLab, and its memory of what was open, and how it looked, gone."""
    for memory in ("workspaces", "user-settings"):
        shutil.rmtree(f"{os.environ['LAB_HOME']}/config/lab/{memory}", ignore_errors=True)
    context = browser.new_context(viewport={"width": 1280, "height": 1400})
    page = context.new_page()
    yield Lab(page, server, pictures)
    page.evaluate("window.jupyterapp?.serviceManager.sessions.shutdownAll()")
    context.close()


@pytest.fixture(autouse=True)
def nothing_leaks() -> None:
    """In place of the check around each test: server and browser come and go with the session, and so does theirs."""
