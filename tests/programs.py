"""Programs that use the package, to be watched and killed from outside; and who of a container is still there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TOP = Path(__file__).resolve().parent.parent
PREFACE = """
import os, sys, threading, time
from minicontainer import linux, state
from minicontainer.container import PIPE, DEVNULL, Container, Part, child
from minicontainer.chroot import Bind, Chroot, PivotRoot, Tmpfs, User
from minicontainer.namespaces import Namespaces
"""


class Program:
    """A fresh Python that runs `code`; what it prints can be read line by line."""

    def __init__(self, code: str, *arguments: str, **how: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PREFACE + code, *arguments],
            stdout=subprocess.PIPE,
            cwd=TOP,
            text=True,
            **how,  # type: ignore[call-overload]
        )
        self.pid: int = self.process.pid

    def line(self) -> str:
        """The next line it prints."""
        text = self.process.stdout.readline()
        assert text, f"the program printed no more, and ended with {self.process.wait()}"
        return str(text).rstrip("\n")

    def finish(self) -> str:
        """The rest of what it prints; it has to succeed."""
        text, _ = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, text
        return str(text)

    def kill(self, number: int = signal.SIGKILL) -> None:
        self.process.send_signal(number)
        self.process.wait()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture
def program() -> Iterator[Callable[..., Program]]:
    """Start programs; they are killed when the test ends."""
    started: list[Program] = []

    def start(code: str, *arguments: str, **how: object) -> Program:
        started.append(Program(code, *arguments, **how))
        return started[-1]

    yield start
    for it in started:
        it.close()


@pytest.fixture
def mark() -> str:
    """A word that no other command line has: `sh -c ': MARK; …'` is found by it."""
    return f"mark-{uuid.uuid4().hex}"


def marked(mark: str) -> dict[int, str]:
    """The living processes with `mark` in their command line, by the kernel's own list: pid → command line."""
    found = {}
    for name in os.listdir("/proc"):
        try:
            if name.isdecimal() and mark.encode() in (words := Path(f"/proc/{name}/cmdline").read_bytes()):
                found[int(name)] = words.replace(b"\0", b" ").decode()
        except (FileNotFoundError, ProcessLookupError):
            continue
    return {pid: words for pid, words in found.items() if pid != os.getpid() and "-c" + PREFACE[:8] not in words}


def eventually(question: Callable[[], bool], patience: float = 20) -> bool:
    """Whether it becomes true. What the kernel does after a kill takes a moment, and longer under load."""
    deadline = time.monotonic() + patience
    while not question():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True
