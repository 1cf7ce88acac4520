"""Between `create` and `start` (chapter 9): what a process that waits has to be, whoever has written the waiting.

All are marked `lab`: they hold for a learner's own part in a runtime's place, too.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from bundles import OURS

if TYPE_CHECKING:
    from collections.abc import Callable

    from bundles import Bundle

pytestmark = pytest.mark.lab
SECONDS = 10


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come"
        time.sleep(0.005)


def directory(bundle: Bundle, name: str) -> str:
    """Where the runtime remembers this container."""
    return f"{bundle.root}-{os.path.basename(OURS[0])}/{name}"


def program(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text().partition("\0")[0]


def test_created_process_waits_and_becomes_its_command_at_start(bundle: Bundle) -> None:
    name = bundle.create("sh", "-c", "echo ran > /tmp/mark; exec sleep 100")
    mark = Path(bundle.config["root"]["path"], "tmp/mark")
    state = bundle.state(name)
    time.sleep(0.1)
    assert state["status"] == "created"
    assert not mark.exists(), "the command ran before start"
    bundle.tell("start", name)
    wait_until(mark.exists, "the command")
    assert bundle.state(name)["status"] == "running"
    assert bundle.state(name)["pid"] == state["pid"], "the command is another process than the one that was created"


def test_created_process_outlives_create(bundle: Bundle) -> None:
    name = bundle.create("sleep", "100")
    time.sleep(0.2)  # a process that dies with its parent would be dead by now
    assert bundle.state(name)["status"] == "created", "it was there, and is gone"


def test_created_process_has_the_rights_of_its_command_already(bundle: Bundle) -> None:
    bundle.process["user"], bundle.process["capabilities"] = {"uid": 1000, "gid": 1000}, {}
    pid = bundle.state(bundle.create("sleep", "100"))["pid"]
    status = Path(f"/proc/{pid}/status").read_text()
    assert re.search(r"^Uid:\t1000\t", status, re.MULTILINE), "the process that waits is not yet the command's user"
    assert re.search(r"^CapPrm:\t0+$", status, re.MULTILINE), "the process that waits has more rights than its command"


def test_of_two_starts_one_wins(bundle: Bundle) -> None:
    name = bundle.create("sleep", "100")
    words = [*OURS, "--root", os.path.dirname(directory(bundle, name)), "start", name]
    both = [subprocess.Popen(words, stderr=subprocess.PIPE) for _ in range(2)]
    assert sorted((one.communicate(timeout=60), one.returncode)[1] for one in both) == [0, 1]
    assert bundle.state(name)["status"] == "running"


def test_caller_that_goes_without_a_word_starts_nothing(bundle: Bundle) -> None:
    """A `start` that is killed after it has connected."""
    name = bundle.create("sleep", "100")
    pid = bundle.state(name)["pid"]
    held = program(pid)
    place = os.open(directory(bundle, name), os.O_PATH | os.O_DIRECTORY)
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(f"/proc/self/fd/{place}/start.sock")
    os.close(place)
    time.sleep(0.2)
    assert bundle.state(name)["status"] == "created"
    assert program(pid) == held, "nobody has said go, and the command runs"
    bundle.tell("start", name)
    wait_until(lambda: program(pid) == "sleep", "the command")


def test_start_is_told_why_the_command_cannot_be_executed(bundle: Bundle) -> None:
    script = Path(bundle.config["root"]["path"], "bin/vanishing")
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    name = bundle.create("/bin/vanishing")
    script.unlink()
    done = bundle.ask("start", name)
    assert done.returncode == 1, "start has succeeded, and there is nothing that it could have started"
    assert "no such file" in done.stderr.lower()


def test_state_directory_may_have_a_long_name(bundle: Bundle) -> None:
    """The address of a Unix socket has 108 bytes."""
    bundle.root += f"/{'long' * 30}"
    name = bundle.create("sleep", "100")
    bundle.tell("start", name)
    assert bundle.state(name)["status"] == "running"
    bundle.tell("delete", "--force", name)
    os.rmdir(os.path.dirname(directory(bundle, name)))


def test_command_gets_no_descriptor_of_the_runtimes(bundle: Bundle) -> None:
    pid = bundle.state(bundle.start("sleep", "100"))["pid"]
    wait_until(lambda: program(pid) == "sleep", "the command")
    assert sorted(os.listdir(f"/proc/{pid}/fd")) == ["0", "1", "2"]
