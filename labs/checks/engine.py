"""The learner's part in the engine, in place of ours, and the module's own tests on it.

The tests run in a pytest of their own. There the plugin below puts the learner's class or function wherever the
engine holds the original, before any test is collected. Only the tests marked `lab` run: those that a part has to
pass to be the chapter's part; what ours can do besides is not asked of a learner.

What is put in place is named "minicontainer.chroot:PivotRoot". A function (chapter 01's) is known to the process that
has been given it and not to a spawner, so then every container is cloned by that process itself.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import pkgutil
import signal
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

from labs.checks import frame

if TYPE_CHECKING:
    from typing import Any

    import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
ANSWER, RESULTS = "MINICONTAINER_LAB_ANSWER", "MINICONTAINER_LAB_RESULTS"
SECONDS = 10 * frame.SECONDS
"""How long all of a module's tests may take."""


def module_tests(answer: object, original: str, tests: str) -> str:
    """Run those tests of `tests` ("test_chroot.py") that are marked `lab`, with `answer` in place of `original`.

    Returns that they pass, in words. Raises NotYet with the first that has failed, and why.
    """
    import cloudpickle  # type: ignore[import-untyped]

    with tempfile.TemporaryDirectory(prefix="minicontainer-lab-") as folder:
        with open(f"{folder}/answer", "wb") as file:
            cloudpickle.dump((original, answer), file)
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
            cwd=ROOT,
            env={**_environment(), ANSWER: f"{folder}/answer", RESULTS: f"{folder}/results"},
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
    """Put the answer in the original's place, in every module that has it."""
    import cloudpickle

    with open(os.environ[ANSWER], "rb") as file:
        original, answer = cloudpickle.load(file)
    package = importlib.import_module("minicontainer")
    for found in pkgutil.walk_packages(package.__path__, "minicontainer."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)
    where, _, name = original.partition(":")
    ours = functools.reduce(getattr, name.split("."), importlib.import_module(where))
    answer.__name__ = ours.__name__
    places = 0
    for module in list(sys.modules.values()):
        if module and module.__name__.partition(".")[0] == "minicontainer":
            for key in [key for key, value in vars(module).items() if value is ours]:
                setattr(module, key, answer)
                places += 1
    if not places:
        raise RuntimeError(f"nothing in the engine is {original}")
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
