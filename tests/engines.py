"""Engines of others, to run with our runtime: each is the test's own, in namespaces and with a state of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from bundles import OURS

if TYPE_CHECKING:
    from collections.abc import Iterator

# what an engine sees: the loopback is up, its files below /run are its own, and what it mounts ends with it
PRIVATE = ["unshare", "--net", "--mount", "--propagation", "private"]
PREPARE = ["sh", "-c", 'ip link set lo up; mount -t tmpfs -o mode=755 tmpfs /run; exec "$@"', "sh"]
DOCKER = "/usr/bin/docker" if os.path.exists("/usr/bin/docker") else "docker"


def needs(program: str, package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not shutil.which(program), reason=f"{program} is the engine: apt-get install {package}")


class Engine:
    """A daemon in namespaces of its own, and its client beside it in the same.

    A `whole` one is a machine of its own to look at: it has a host name, and is the first process of a PID namespace.
    With it ends whatever it has started, and it ends with us, also when we are killed.
    """

    def __init__(
        self, directory: Path, daemon: list[str], client: list[str], ready: list[str], whole: str = ""
    ) -> None:
        self.client, self.log, self.whole = client, directory / "log", bool(whole)
        place = [*PRIVATE, *PREPARE]
        if whole:
            own = ["--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
            name = ["sh", "-c", f'hostname {whole}; exec "$@"', "sh"]
            place = ["setpriv", "--pdeathsig", "KILL", *PRIVATE, *own, *name, *PREPARE]
        with self.log.open("w") as log:
            self.process = subprocess.Popen([*place, *daemon], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while self.ask(*ready).returncode:
            if self.process.poll() is not None:
                pytest.skip(f"{daemon[0]} does not start here: {self.log.read_text()[-400:]}")
            if time.monotonic() > deadline:
                self.close()
                pytest.fail(f"{daemon[0]} does not answer: {self.ask(*ready).stderr}")
            time.sleep(0.1)

    def enter(self, *words: str) -> list[str]:
        """The command, beside the daemon."""
        pid = self.process.pid
        own = ["--uts", f"--pid=/proc/{pid}/ns/pid_for_children"] if self.whole else []
        return ["nsenter", "-t", str(pid), "--mount", "--net", *own, *words]

    def run(self, *words: str) -> str:
        """What a program beside it prints, which has to succeed."""
        done = subprocess.run(self.enter(*words), capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{words}: {done.returncode}, {done.stderr}"
        return done.stdout

    def ask(self, *words: str, **how: Any) -> subprocess.CompletedProcess[str]:
        """Call the client, whatever becomes of it."""
        how = {"stdin": subprocess.DEVNULL} | how if "input" not in how else how
        return subprocess.run(self.enter(*self.client, *words), capture_output=True, text=True, timeout=120, **how)

    def tell(self, *words: str, code: int = 0, **how: Any) -> str:
        """Call the client; its exit status has to be `code`. What it prints."""
        done = self.ask(*words, **how)
        assert done.returncode == code, f"{words}: {done.returncode}, {done.stderr}\n{self.log.read_text()[-2000:]}"
        return done.stdout

    def close(self) -> None:
        """End it; a second time, nothing."""
        if self.process.poll() is not None:
            return
        pid = self.process.pid
        try:
            if self.whole:  # unshare(1) waits for it, and hears no SIGTERM meanwhile
                pid = int(Path(f"/proc/{pid}/task/{pid}/children").read_text())
            os.kill(pid, signal.SIGTERM)
            self.process.wait(60)
        finally:
            self.process.kill()
            self.process.wait()


@contextmanager
def place() -> Iterator[Path]:
    """A directory with a short name: the path of a socket has 107 bytes at most."""
    with tempfile.TemporaryDirectory(prefix="mc-", dir="/var/tmp") as name:
        os.chmod(name, 0o755)
        yield Path(name)


def script(directory: Path) -> str:
    """Our runtime as one file in there, as engines want it."""
    path = directory / "minicontainer-runtime"
    installed = Path(sys.executable).with_name(path.name)
    words = [os.fspath(installed)] if OURS[0] == sys.executable and installed.exists() else OURS
    path.write_text(f'#!/bin/sh\nexec {" ".join(words)} "$@"\n')
    path.chmod(0o755)
    return os.fspath(path)


@contextmanager
def groups(name: str) -> Iterator[str]:
    """A group for the engine's containers, which is gone afterwards: whatever is left in it is a leak."""
    left = []
    try:
        yield f"/{name}"
    finally:
        tree = Path("/sys/fs/cgroup")
        for parent in (tree, *tree.iterdir()):
            for group in (parent / name, parent / "system.slice" / name):
                below = [inner for inner, _, _ in os.walk(group, topdown=False)]
                left += below[:-1]
                for inner in below:
                    os.rmdir(inner)
    assert left == []


def dockerd(directory: Path, runtime: str, parent: str, whole: str = "") -> Engine:
    """A dockerd with our runtime as its default one. Its containers' groups come below `parent`."""
    settings = directory / "daemon.json"
    settings.write_text(json.dumps({"deprecated-key-path": os.fspath(directory / "key.json")}))
    socket = f"unix://{directory}/socket"
    options = {
        "config-file": os.fspath(settings),
        "host": socket,
        "cgroup-parent": parent,
        "data-root": f"{directory}/data",
        "exec-root": f"{directory}/exec",
        "pidfile": f"{directory}/pid",
        "add-runtime": f"ours={runtime}",
        "default-runtime": "ours",
    }
    daemon = ["dockerd", *(f"--{name}={value}" for name, value in options.items())]
    return Engine(directory, daemon, [DOCKER, "--config", os.fspath(directory), "--host", socket], ["version"], whole)
