"""The OCI runtimes of this machine, called as an engine calls them: ours, and runc and crun where they are installed.

    every = runtimes(folder)                     "ours", "crun", "runc", each with its state below `folder`
    every["runc"]("create", "--bundle", bundle, "one")
    every["runc"].state("one")["pid"]

A container that goes on holds the streams that it was given, so what a runtime writes goes to a file, never to a pipe.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

from minicontainer import runtime
from minicontainer.cgroups.layout import layout
from minicontainer.errors import ContainerError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

OURS = [sys.executable, "-I", "-S", os.path.dirname(runtime.__file__)]
"""How `minicontainer-runtime` is called without a script: Python starts the package's folder."""
SCRIPT = os.path.join(os.path.dirname(sys.executable), "minicontainer-runtime")
"""And how engines call it, where pip has installed it."""
PEERS = ("crun", "runc")


class Runtime:
    """One runtime. Called with a verb and its words, it returns what was written, the container's own output too.

    `first` are words that come before the command line, such as `unshare …`.
    """

    def __init__(self, name: str, command: Sequence[str], state: str, first: Sequence[str] = ()) -> None:
        self.name, self.command, self.root, self.first = name, list(command), state, list(first)

    def argv(self, *words: str, under: Sequence[str] = ()) -> list[str]:
        """The command line for these words; `under` is a program that is to start it, `("strace", "-f")`."""
        return [*self.first, *under, *self.command, "--root", self.root, *words]

    def __call__(self, *words: str) -> str:
        """Raises ContainerError with what the runtime says when it fails."""
        with (
            open(os.memfd_create("said", os.MFD_CLOEXEC), "w+b") as said,
            open(os.memfd_create("complaint", os.MFD_CLOEXEC), "w+b") as complaint,
        ):
            done = subprocess.run(self.argv(*words), stdin=subprocess.DEVNULL, stdout=said, stderr=complaint)
            texts = []
            for file in (said, complaint):
                file.seek(0)
                texts.append(file.read().decode(errors="replace"))
        if done.returncode:
            raise ContainerError(f"{self.name} {words[0]}: status {done.returncode}: {texts[1].strip() or 'no word'}")
        return texts[0]

    def state(self, id: str) -> dict[str, Any]:
        """What `state` says of a container."""
        described: dict[str, Any] = json.loads(self("state", id))
        return described


def runtimes(folder: str) -> dict[str, Runtime]:
    """Those of this machine: name → Runtime. The files that they remember their containers by lie below `folder`."""
    found = {"ours": Runtime("ours", [SCRIPT] if os.path.exists(SCRIPT) else OURS, f"{folder}/state-ours")}
    for name in PEERS:
        if shutil.which(name):
            found[name] = Runtime(name, [name], f"{folder}/state-{name}", _surroundings(name, folder))
    return found


def _surroundings(name: str, folder: str) -> list[str]:
    """On a host with both kinds of cgroups, crun 1.8 takes the v2 tree's few controllers for all there are, and
    refuses to work: so where it works, that tree has none."""
    machine = layout()
    if name != "crun" or machine.version != "hybrid":
        return []
    empty = f"{folder}/none"
    open(empty, "w").close()
    script = f'mount --bind {empty} {machine.unified}/cgroup.controllers && exec "$@"'
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"]
