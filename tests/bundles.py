"""A bundle and whichever runtime is to run it: ours, runc, crun. All speak the same command line."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from minicontainer.runtime import documents

if TYPE_CHECKING:
    from collections.abc import Iterator

MAIN = Path(__file__).resolve().parent.parent / "minicontainer/runtime/__main__.py"
OURS = shlex.split(os.environ.get("MINICONTAINER_LAB_RUNTIME", "")) or [sys.executable, "-I", "-S", os.fspath(MAIN)]
"""Our runtime; the one with a learner's part in it, where a lab's check runs the tests (labs/checks/engine.py)."""


class Bundle:
    """A directory with a config.json, and the containers that were made of it."""

    def __init__(self, directory: Path, rootfs: str) -> None:
        self.directory = directory
        self.config: dict[str, Any] = documents.default_config(rootless=False)
        self.config["root"] = {"path": rootfs, "readonly": False}
        self.process["terminal"] = False
        self.root = os.fspath(directory / "state")
        self.command = OURS
        self.names: list[tuple[list[str], str]] = []
        directory.mkdir(exist_ok=True)

    @property
    def process(self) -> dict[str, Any]:
        process: dict[str, Any] = self.config["process"]
        return process

    @property
    def linux(self) -> dict[str, Any]:
        section: dict[str, Any] = self.config["linux"]
        return section

    def says(self, *argv: str) -> None:
        """What its process is to be."""
        self.process["args"] = list(argv)

    def write(self) -> None:
        (self.directory / "config.json").write_text(json.dumps(self.config))

    def ask(self, *words: str, **how: Any) -> subprocess.CompletedProcess[str]:
        """Call the runtime, whatever becomes of it."""
        base = [*self.command, "--root", f"{self.root}-{os.path.basename(self.command[0])}"]
        how.setdefault("stdin", subprocess.DEVNULL)
        # files, not pipes: a container that goes on holds its streams open
        with open(self.directory / "said", "w+") as out, open(self.directory / "complained", "w+") as complaint:
            done = subprocess.run([*base, *words], stdout=out, stderr=complaint, timeout=60, cwd=self.directory, **how)
            out.seek(0)
            complaint.seek(0)
            return subprocess.CompletedProcess(done.args, done.returncode, out.read(), complaint.read())

    def tell(self, *words: str, **how: Any) -> str:
        """Call the runtime, which has to succeed; what it prints."""
        done = self.ask(*words, **how)
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout

    def name(self) -> str:
        """A name for a container of this bundle, which is removed after the test."""
        self.names.append((self.command, f"test-{uuid.uuid4().hex[:12]}"))
        return self.names[-1][1]

    def run(self, *argv: str) -> str:
        """What the command prints in the foreground."""
        self.says(*argv)
        self.write()
        return self.tell("run", self.name())

    def create(self, *argv: str, options: tuple[str, ...] = ()) -> str:
        self.says(*argv)
        self.write()
        name = self.name()
        self.tell("create", *options, name)
        return name

    def start(self, *argv: str) -> str:
        name = self.create(*argv)
        self.tell("start", name)
        return name

    def state(self, name: str) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(self.tell("state", name))
        return state

    def by(self, runtime: str) -> Bundle:
        """From now on by another runtime."""
        self.command = [runtime]
        return self

    def close(self) -> None:
        for command, name in reversed(self.names):  # one may live in another's namespaces
            self.command = command
            self.ask("delete", "--force", name)


@pytest.fixture
def bundle(shared_path: Path, rootfs: str) -> Iterator[Bundle]:
    """A bundle around a fresh root, by our runtime; its containers are deleted at the end."""
    made = Bundle(shared_path / "bundle", rootfs)
    try:
        yield made
    finally:
        made.close()
