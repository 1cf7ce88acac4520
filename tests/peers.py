"""The same container by runc and by crun: a bundle around a root, its config changed as a test says."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import uuid
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# crun 1.8 does not take a host with both kinds of cgroups, unless its v2 tree offers nothing
HIDE = "[ ! -e /sys/fs/cgroup/unified ] || mount --bind /dev/null /sys/fs/cgroup/unified/cgroup.controllers; "


def spec(rootfs: str, argv: Sequence[str]) -> dict[str, Any]:
    """runc's own example config, around this root and command."""
    with tempfile.TemporaryDirectory() as bundle:
        subprocess.run(["runc", "spec"], cwd=bundle, check=True)
        with open(f"{bundle}/config.json") as file:
            config: dict[str, Any] = json.load(file)
    config["process"]["args"] = list(argv)
    config["process"]["terminal"] = False
    config["process"]["env"] = [PATH]
    config["process"].pop("rlimits", None)
    config["process"]["noNewPrivileges"] = False
    config["root"] = {"path": rootfs, "readonly": False}
    return config


def run(runtime: str, config: dict[str, Any], during: Callable[[int], Any] | None = None) -> Any:
    """What the container prints; or, with `during`, what that returns, called with the pid while it runs."""
    with tempfile.TemporaryDirectory(prefix="minicontainer-peer-", dir="/var/tmp") as bundle:
        with open(f"{bundle}/config.json", "w") as file:
            json.dump(config, file)
        name = f"peer-{uuid.uuid4().hex[:12]}"
        base = [runtime, "--root", f"{bundle}/state"]
        words = [*base, "run", "--bundle", bundle, *(["--detach"] if during else []), name]
        quoted = " ".join(words)
        command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", f"{HIDE}exec {quoted}"]
        with open(f"{bundle}/said", "w+") as said:
            done = subprocess.run(command, stdout=said, stderr=said, stdin=subprocess.DEVNULL, timeout=60)
            said.seek(0)
            text = said.read()
        assert done.returncode == 0, f"{runtime}: {text}"
        if during is None:
            return text
        try:
            state = json.loads(subprocess.run([*base, "state", name], check=True, capture_output=True).stdout)
            return during(int(state["pid"]))
        finally:
            subprocess.run([*base, "delete", "--force", name], check=True, capture_output=True)
            _wait_for_end(f"{bundle}/state/{name}")


def _wait_for_end(path: str) -> None:
    assert not os.path.exists(path)
