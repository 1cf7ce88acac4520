"""Podman with one of our runtimes below it, and with storage of its own that is gone afterwards.

    with Podman(["/path/to/a/runtime"], rootfs) as podman:
        podman("run", "--rm", "--network", "none", podman.image, "echo", "hello")

Podman is an engine as Docker's is, without a daemon: so it can be tried from a cell, without touching what the machine
has of it. It calls the runtime by the command line that all of them share.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
from typing import TYPE_CHECKING

from minicontainer.errors import ContainerError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

# Its defaults would raise the hard limits, which not every root may.
SETTINGS = """[containers]
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
[engine]
events_logger = "none"
"""
SECONDS = 120


def missing() -> str:
    """Why podman cannot be tried here; "" where it can."""
    absent = [name for name in ("podman", "conmon") if not shutil.which(name)]
    return f"{' and '.join(absent)} not installed: apt-get install podman" if absent else ""


class Podman:
    """Call it with the words of a podman command line: what that writes to stdout.

    `runtime` is the command line of a runtime, `rootfs` the directory that becomes its only `image`.
    """

    image = "box"

    def __init__(self, runtime: Sequence[str], rootfs: str) -> None:
        self.folder = tempfile.mkdtemp(prefix="minicontainer-podman-", dir="/var/tmp")  # it takes 50 characters
        os.chmod(self.folder, 0o755)
        self.runtime = f"{self.folder}/runtime"  # podman wants one word: a script
        with open(self.runtime, "w") as file:
            file.write(f'#!/bin/sh\nexec {shlex.join(runtime)} "$@"\n')
        os.chmod(self.runtime, 0o755)
        with open(f"{self.folder}/containers.conf", "w") as file:
            file.write(SETTINGS)
        self.rootfs = rootfs

    def __call__(self, *words: str) -> str:
        """Raises ContainerError with what podman says when its status is not 0."""
        places = {name: f"{self.folder}/{name}" for name in ("root", "runroot", "tmpdir")}
        base = ["podman", *(word for name, path in places.items() for word in (f"--{name}", path))]
        base += ["--cgroup-manager", "cgroupfs", "--storage-driver", "vfs", "--runtime", self.runtime]
        done = subprocess.run(
            [*base, *words],
            env={**os.environ, "CONTAINERS_CONF": f"{self.folder}/containers.conf"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        if done.returncode:
            raise ContainerError(f"podman {words[0]}: status {done.returncode}: {done.stderr.strip()[-1000:]}")
        return done.stdout

    def __enter__(self) -> Self:
        try:
            archive = f"{self.folder}/rootfs.tar"
            subprocess.run(["tar", "-C", self.rootfs, "-cf", archive, "."], check=True)
            self("import", archive, self.image)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove its containers, and all that it has stored."""
        try:
            self("rm", "--all", "--force")
        finally:
            for path in ("root/vfs", "root", "runroot"):  # podman keeps them mounted on themselves
                subprocess.run(["umount", "--quiet", f"{self.folder}/{path}"], stderr=subprocess.DEVNULL)
            shutil.rmtree(self.folder, ignore_errors=True)
