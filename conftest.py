"""Every test runs under the leak check: afterwards the host is as it was before, or the test fails and says how not.

The suite has data and exec roots of its own, never the user's. It is a "child subreaper": whatever process a test
leaves behind becomes a child of pytest (not of init), and so is found. Two runs on one machine take turns, test by
test, because each would see the other's containers.

MINICONTAINER_LEAK_CHECK=instance compares only what is this run's own, and takes no turn. A lab's checks ask for it:
other learners may be at work on the machine, and whoever runs the lab may have the turn already.

What fixtures of a wider scope make (a registry, an image) exists before the check begins and is theirs to remove.
"""

from __future__ import annotations

import fcntl
import glob
import os
import shutil
import signal
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from minicontainer import leaks, linux
from minicontainer.images import Store

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

LOCK = "/tmp/minicontainer-tests.lock"
ROOTS = "/var/tmp/minicontainer-tests-"
ALONE = os.environ.get("MINICONTAINER_LEAK_CHECK") == "instance"
_lock = -1
_roots = ""


def pytest_configure(config: pytest.Config) -> None:
    global _lock, _roots
    if os.geteuid() != 0:
        raise pytest.UsageError("the tests make containers, and root makes those: sudo .venv/bin/python -m pytest")
    linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
    # A shell's `make test &` has it ignored, for us and whatever we start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _lock = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    # Not below pytest's own directory, which is 0700: root in a user namespace is nobody there.
    for left in glob.glob(f"{ROOTS}*"):
        _remove(left)
    _roots = tempfile.mkdtemp(prefix=os.path.basename(ROOTS), dir=os.path.dirname(ROOTS))
    os.chmod(_roots, 0o755)
    fcntl.flock(os.open(_roots, os.O_RDONLY | os.O_CLOEXEC), fcntl.LOCK_EX)  # held until this process ends
    _use(_roots)


def pytest_unconfigure(config: pytest.Config) -> None:
    if _roots:
        leaks.reset(all=True)
        shutil.rmtree(_roots)


def _use(roots: str) -> None:
    os.environ["MINICONTAINER_DATA_ROOT"] = f"{roots}/data"
    os.environ["MINICONTAINER_EXEC_ROOT"] = f"{roots}/exec"


def _remove(roots: str) -> None:
    """Put back what a run of the suite has left that was killed; not one that still runs."""
    fd = os.open(roots, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _use(roots)
        leaks.reset(all=True)
        shutil.rmtree(roots)
    except BlockingIOError:
        pass
    finally:
        os.close(fd)


@contextmanager
def _turn() -> Iterator[None]:
    _take_turn()
    try:
        yield
    finally:
        fcntl.flock(_lock, fcntl.LOCK_UN)


def _take_turn() -> None:
    if not ALONE:
        fcntl.flock(_lock, fcntl.LOCK_EX)


def _snapshot() -> leaks.Snapshot:
    return leaks.snapshot("instance" if ALONE else "host")


def _reap() -> None:
    """Do init's work for the orphans that came to us: wait for those that have ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def _left(before: leaks.Snapshot) -> str:
    for _ in range(6):
        _reap()  # an orphan that was killed may still be on its way out
        if not (lines := leaks.left_since(before, 0.5)):
            break
    return "\n  ".join(["the test did not leave the host as it found it:", *lines]) if lines else ""


@pytest.fixture(autouse=True)
def nothing_leaks() -> Iterator[None]:
    """The check itself. The first fixture of every test, so the last to end."""
    with _turn():
        before, here = _snapshot(), os.getcwd()
        yield
        left = _left(before)
        if os.readlink("/proc/self/cwd") != here:  # which may be a directory that is gone
            os.chdir(here)
            left += "\nthe test did not come back to the directory in which it began"
        if left:
            pytest.fail(left, pytrace=False)


# A notebook's cells are no test functions, so they have no fixtures: there the check goes around the whole notebook,
# from before its kernel starts until after it has ended. The images it has pulled are to stay, and are removed here.


def _images() -> set[str]:
    """Every image, by its name, or by its id where a newer one has taken the name away."""
    store = Store()
    return {entry.name or store.id(entry) for entry in store.entries()}


_notebook: tuple[set[str], leaks.Snapshot] | None = None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, object, object]:
    global _notebook
    if isinstance(item, pytest.Function):
        return (yield)
    if _notebook is None:
        _take_turn()
        before = _snapshot()
        before.found.pop("descriptor", None)  # the client of the kernel keeps sockets for the next notebook
        _notebook = (_images(), before)
    result = yield
    if nextitem is None or nextitem.parent is not item.parent:
        images, before = _notebook
        for name in _images() - images:
            Store().remove(name)
        left = _left(before)
        _notebook = None
        fcntl.flock(_lock, fcntl.LOCK_UN)
        if left:
            report = pytest.TestReport(item.nodeid, item.location, {}, "failed", left, "teardown")
            item.ihook.pytest_runtest_logreport(report=report)
    return result
