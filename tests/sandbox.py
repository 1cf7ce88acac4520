"""A throw-away copy of this machine, made of this very engine's parts, for experiments whose limits are missing.

What runs in it sees the host's files, and what it changes is in memory; it has processes, interfaces, a host name and
a share of memory of its own. When it ends, all of that has gone. Only cgroups are the host's own tree: that is what
`leaks.reset` is for.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

from minicontainer import Bind, Cgroup, Container, Namespaces, NoNetwork, Part, PivotRoot, leaks, linux

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from minicontainer.container import Inside

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
NEEDED = sorted({sys.base_prefix, "/usr", "/run/systemd"})
"""What a program needs besides the project, whose environment is in its own folder."""


class Everything(Part):
    """The host's `/` as the root, under an overlay in memory. Below `scratch` are `root` and `changes`, both empty."""

    namespaces = linux.CLONE_NEWNS

    def __init__(self, scratch: str) -> None:
        self.scratch = scratch

    def mount(self, inside: Inside) -> None:
        linux.mount(None, "/", flags=linux.MS_REC | linux.MS_PRIVATE)
        changes, root = f"{self.scratch}/changes", f"{self.scratch}/root"
        linux.mount("tmpfs", changes, "tmpfs", 0, "mode=755,size=1g")
        for name in ("upper", "work"):
            linux.mkdir(f"{changes}/{name}", 0o755)
        options = f"lowerdir=/,upperdir={changes}/upper,workdir={changes}/work"
        linux.mount("overlay", root, "overlay", 0, options)
        inside.rootfs = root


class Copy(Part):
    """The project, where that copy of `/` does not show it: under an overlay of its own, for set-up writes there."""

    def __init__(self, scratch: str) -> None:
        self.scratch = scratch

    def mount(self, inside: Inside) -> None:
        assert inside.rootfs is not None
        changes = f"{self.scratch}/changes/project"
        for name in ("", "/upper", "/work"):
            linux.mkdir(changes + name, 0o755)
        os.makedirs(inside.rootfs + ROOT, exist_ok=True)
        options = f"lowerdir={ROOT},upperdir={changes}/upper,workdir={changes}/work"
        linux.mount("overlay", inside.rootfs + ROOT, "overlay", 0, options)


class Sandbox:
    """One such copy. `scratch` is a directory of the host's disk that is in it under the same name, and writable."""

    def __init__(self, scratch: str) -> None:
        self.scratch = scratch
        self.roots = {
            "MINICONTAINER_DATA_ROOT": f"{scratch}/shared/data",
            "MINICONTAINER_EXEC_ROOT": f"{scratch}/shared/exec",
        }

    def run(self, argv: Sequence[str], *, env: dict[str, str], timeout: float) -> tuple[int, str]:
        """Run a program in it: its status and what it wrote. Raises TimeoutExpired, having killed all of it."""
        binds = [
            Bind("/sys/fs/cgroup", "/sys/fs/cgroup"),
            *(Bind(f"{self.scratch}{place}", place) for place in ("/tmp", "/var/tmp")),
            Bind(f"{self.scratch}/shared", f"{self.scratch}/shared"),
            *(Bind(place, place, read_only=True) for place in NEEDED if _is_elsewhere(place)),
            *([Copy(self.scratch)] if _is_elsewhere(ROOT) else []),
        ]
        container = Container(
            argv,
            Namespaces("mount", "pid", "uts", "ipc"),
            Cgroup(memory="2G", pids=1000),
            Everything(self.scratch),
            PivotRoot(masked=(), read_only_paths=()),
            NoNetwork(),
            *binds,
            env={"PATH": f"{os.path.dirname(sys.executable)}:/usr/sbin:/usr/bin:/sbin:/bin", **self.roots, **env},
            init=True,
        )
        log = f"{self.scratch}/log"
        with open(log, "wb") as file:
            status = container.run(stdin=subprocess.DEVNULL, stdout=file, stderr=file, timeout=timeout)
        with open(log, errors="replace") as file:
            return status, file.read()


def _is_elsewhere(place: str) -> bool:
    """Whether the copy of `/` would not show it: it is not on the root's own filesystem, or where scratch is."""
    if not os.path.isdir(place):
        return False
    return os.stat(place).st_dev != os.stat("/").st_dev or place.startswith(("/tmp/", "/var/tmp/"))


@contextmanager
def sandbox() -> Iterator[Sandbox]:
    """A sandbox, and nothing of it afterwards."""
    scratch = tempfile.mkdtemp(prefix="minicontainer-sandbox-", dir="/var/tmp")
    try:
        os.chmod(scratch, 0o755)
        for name in ("root", "changes", "tmp", "var/tmp", "shared"):
            os.makedirs(f"{scratch}/{name}")
        it = Sandbox(scratch)
        try:
            yield it
        finally:
            _reset(it)
    finally:
        shutil.rmtree(scratch)


def _reset(it: Sandbox) -> None:
    """What has a name on the host still: cgroups, records. It is another instance's, so another process's to undo."""
    code = f"from {leaks.__name__} import reset; reset(all=True)"
    subprocess.run([sys.executable, "-c", code], env={**os.environ, **it.roots}, check=True)
