"""The runtime is killed in the middle of what it does; `delete --force` leaves nothing of the container."""

from __future__ import annotations

import os
import random
import subprocess
import time
from pathlib import Path

import pytest
from bundles import OURS, Bundle

TIMES = int(os.environ.get("MINICONTAINER_KILLS", "8"))
"""How often for each verb. By hand: more."""


def processes_of(mark: str) -> list[str]:
    """Those whose environment has the mark: the container's command, and all that came of it."""
    found = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark.encode() in environment.read_bytes():
                found.append((environment.parent / "cmdline").read_text())
        except OSError:
            continue  # it has just ended, or is none of ours
    return found


@pytest.mark.parametrize("verb", ["create", "start", "exec", "run", "delete"])
def test_a_verb_killed_at_any_moment_leaves_nothing_after_delete(bundle: Bundle, verb: str) -> None:
    mark = f"MARK={os.urandom(8).hex()}"
    bundle.process["env"] = ["PATH=/bin", mark]
    bundle.says("sleep", "1000")
    bundle.write()
    root = f"{bundle.root}-{os.path.basename(OURS[0])}"
    took = 0.1  # seconds; measured below, so that the moments are spread over all of it
    for attempt in range(TIMES + 1):
        name = bundle.name()
        if verb not in ("create", "run"):
            bundle.tell("create", name)
        if verb in ("exec", "delete"):
            bundle.tell("start", name)
        words = {
            "exec": ["exec", name, "true"],
            "run": ["run", "--detach", name],
            "delete": ["delete", "--force", name],
        }.get(verb, [verb, name])
        begun = time.monotonic()
        with (bundle.directory / "said").open("w") as said:
            killed = subprocess.Popen(
                [*OURS, "--root", root, *words],
                cwd=bundle.directory,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
            )
            if attempt:
                time.sleep(random.uniform(0.1, 1) * took)
                killed.kill()
            assert killed.wait() in (0, -9), (bundle.directory / "said").read_text()
            took = took if attempt else time.monotonic() - begun
        if os.path.exists(f"{root}/{name}") or verb != "delete":
            bundle.tell("delete", "--force", name)
        assert not os.path.exists(f"{root}/{name}")
        assert processes_of(mark) == []
        assert not [top for top, directories, _ in os.walk("/sys/fs/cgroup") if name in directories]
