"""The learner's part in the engine, in place of ours, and the module's own tests on it.

The tests run in a pytest of their own. There the plugin below puts the learner's class or function wherever the
engine holds the original, before any test is collected. Only the tests marked `lab` run: those that a part has to
pass to be the chapter's part; what ours can do besides is not asked of a learner.

What is put in place is named "minicontainer.chroot:PivotRoot". A function (chapter 01's) is known to the process that
has been given it and not to a spawner, so then every container is cloned by that process itself. Tests of chapter 09
call a runtime that is a program of its own: their environment has the command line of one with the answer in it.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import shlex
import signal
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

from labs.checks import frame, own
from minicontainer import linux

if TYPE_CHECKING:
    from typing import Any

    import pytest

ANSWER, RESULTS, RUNTIME = "MINICONTAINER_LAB_ANSWER", "MINICONTAINER_LAB_RESULTS", "MINICONTAINER_LAB_RUNTIME"
SECONDS = 10 * frame.SECONDS
"""How long all of a module's tests may take."""


def module_tests(answer: object, original: str, tests: str) -> str:
    """Run those tests of `tests` ("test_chroot.py") that are marked `lab`, with `answer` in place of `original`.

    Returns that they pass, in words. Raises NotYet with the first that has failed, and why.
    """
    with tempfile.TemporaryDirectory(prefix="minicontainer-lab-") as folder:
        own.store(f"{folder}/answer", answer, original)
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-x",
            "--color=no",
            "-m",
            "lab",
            "-p",
            "labs.checks.engine",
            "-p",
            "no:cacheprovider",
        ]
        pytest = subprocess.Popen(
            [*command, f"tests/{tests}"],
            cwd=own.ROOT,
            env={
                **_environment(),
                ANSWER: f"{folder}/answer",
                RESULTS: f"{folder}/results",
                RUNTIME: shlex.join([*own.COMMAND, "runtime", f"{folder}/answer"]),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            process_group=0,  # Ctrl-C is for the cell; what it interrupts is then ended in order, below
        )
        try:
            said, _ = pytest.communicate(timeout=SECONDS)
        except BaseException as error:
            _end(pytest)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            raise frame.NotYet(f"The tests of {tests} had not ended after {SECONDS:g} s, and were stopped.") from None
        if not os.path.exists(f"{folder}/results"):
            raise RuntimeError(f"the tests of {tests} could not be run:\n{said}")
        with open(f"{folder}/results") as file:
            results: dict[str, str] = json.load(file)
    if not results:
        raise RuntimeError(f"no test in {tests} is marked lab:\n{said}")
    for name, why in results.items():
        if why:
            raise frame.NotYet(f"With your version in the engine, {name} of tests/{tests} fails:\n{why}")
    return f"with your version in the engine, its own tests pass (those marked lab in tests/{tests})"


def private_mounts() -> None:
    """Go where what is mounted is heard of nowhere else."""
    linux.unshare(linux.CLONE_NEWNS)
    linux.mount(None, "/", flags=linux.MS_REC | linux.MS_PRIVATE)


def _environment() -> dict[str, str]:
    """Ours, without what makes a pytest think it were part of the one that may be running us; see conftest.py."""
    ours = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    return {**ours, "MINICONTAINER_LEAK_CHECK": "instance"}


def _end(pytest: subprocess.Popen[str]) -> None:
    """Interrupt it, so that it puts back what its test has changed; kill it if it does not listen."""
    pytest.send_signal(signal.SIGINT)
    try:
        pytest.communicate(timeout=30)
    except subprocess.TimeoutExpired:
        os.killpg(pytest.pid, signal.SIGKILL)
        pytest.communicate()


# --------------------------------------------------------------------------------- the plugin, in the other pytest


def pytest_configure(config: pytest.Config) -> None:
    """Put the answer in the original's place, in every module that has it.

    What a wrong answer mounts is to end with it: where systemd shares /, the host would have it too.
    """
    private_mounts()
    original, answer = own.load(os.environ[ANSWER])
    package = importlib.import_module("minicontainer")
    for found in pkgutil.walk_packages(package.__path__, "minicontainer."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)
    own.put_in_place(original, answer)
    if not isinstance(answer, type):
        from minicontainer.container import spawner

        spawner.choose = lambda own_pids: None


_results: dict[str, str] = {}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note each test once, with the line that says why it failed (before, in or after the test itself)."""
    if report.passed and report.when == "call":
        _results[report.location[2]] = ""
    elif report.failed:
        _results[report.location[2]] = _reason(report)


def _reason(report: Any) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    return str(crash.message if crash else report.longrepr)[:1000]


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Hand the results to who has started us."""
    if exitstatus in (0, 1):
        with open(os.environ[RESULTS], "w") as file:
            json.dump(_results, file)
