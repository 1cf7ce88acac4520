"""Out through the runtime itself: CVE-2019-5736, a container that wants to write to the program that made it (here a
copy of the interpreter), and a label that is written to what the image has put in /proc (CVE-2025-52881)."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import launching
import pytest
from bundles import MAIN, OURS, Bundle

from minicontainer.chroot import PivotRoot
from minicontainer.container import Container
from minicontainer.namespaces import Namespaces
from minicontainer.security import labels

if TYPE_CHECKING:
    from collections.abc import Iterator

NAIVE = f"""
import sys
sys.path.insert(0, {os.fspath(MAIN.parents[2])!r})
from minicontainer.runtime import cli, sealed
sealed.ensure = lambda: None
sys.exit(cli.main())
"""
OPEN_AND_WRITE = "for n in 1 2 3 4 5 6 7 8; do sleep 0.1; echo overwritten >/proc/self/fd/9 && break; done 2>/tmp/said"


class Decoy:
    """A copy of the interpreter, and the runtime started by it until the attack begins."""

    def __init__(self, bundle: Bundle, program: Path, command: list[str]) -> None:
        self.bundle, self.program, self.before = bundle, program, program.read_bytes()
        bundle.command = command

    def may_be_overwritten(self) -> None:
        """From here on the real interpreter is asked."""
        self.bundle.command = OURS
        self.bundle.names = [(OURS, name) for _, name in self.bundle.names]

    def overwritten(self) -> bool:
        return self.program.read_bytes() != self.before


@pytest.fixture(params=["naive", "default", "kept"])
def decoy(
    request: pytest.FixtureRequest, bundle: Bundle, shared_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Decoy]:
    """Without the defence; with it; and called as engines do, from the mount that an earlier start has kept."""
    monkeypatch.setenv("MINICONTAINER_EXEC_ROOT", os.fspath(shared_path / "exec"))
    for installed in launching.installed(shared_path / "installed", shared_path / "exec"):
        command = [
            os.fspath(shared_path / os.path.basename(OURS[0]))
        ]  # or its containers would be looked for elsewhere
        if request.param == "kept":
            Path(command[0]).symlink_to(installed.program)
        else:
            Path(command[0]).symlink_to(installed.python)
            command += ["-I", "-S", *(["-c", NAIVE] if request.param == "naive" else [os.fspath(MAIN)])]
        decoy = Decoy(bundle, installed.python, command)
        bundle.run("true")
        assert bool(installed.mounts()) == (request.param == "kept")
        yield decoy
    assert decoy.overwritten() == (request.param == "naive")


def ended(bundle: Bundle, name: str) -> None:
    deadline = time.monotonic() + 20
    while bundle.state(name)["status"] != "stopped":
        assert time.monotonic() < deadline, "the attack does not end"
        time.sleep(0.05)


def test_a_command_that_is_the_runtimes_own_program(decoy: Decoy) -> None:
    """The image has what the interpreter needs, and its command is /proc/self/exe."""
    bundle = decoy.bundle
    for place in ("/lib", "/lib64", "/usr/lib"):
        if os.path.exists(place):
            bundle.config["mounts"].append(
                {"destination": place, "type": "bind", "source": place, "options": ["bind", "ro"]}
            )
    steps = f"""
import os
os.dup2(os.open("/proc/self/exe", os.O_RDONLY), 9)
os.execv("/bin/sh", ["sh", "-c", {OPEN_AND_WRITE!r}])
"""
    bundle.says("/proc/self/exe", "-I", "-S", "-c", steps)
    bundle.write()
    name = bundle.name()
    bundle.tell("run", "--detach", name)
    decoy.may_be_overwritten()
    ended(bundle, name)


def test_a_neighbour_that_may_trace_looks_at_the_runtime_that_waits(decoy: Decoy) -> None:
    """Two containers share a PID namespace; one of them is created, and not yet started."""
    bundle = decoy.bundle
    sets: dict[str, Any] = bundle.process["capabilities"]
    bundle.process["capabilities"] = {kind: [*words, "CAP_SYS_PTRACE"] for kind, words in sets.items()}
    attempt = f"grep -q '[-]-root' $p/cmdline && ( exec 9<$p/exe; {OPEN_AND_WRITE}; true ) && exit"
    script = f"while :; do for p in /proc/[0-9]*; do {attempt}; done; sleep 0.02; done"
    attacker = bundle.start("sh", "-c", script)
    pid = bundle.state(attacker)["pid"]
    next(entry for entry in bundle.linux["namespaces"] if entry["type"] == "pid")["path"] = f"/proc/{pid}/ns/pid"
    neighbour = bundle.create("sleep", "100")
    time.sleep(0.3)
    bundle.tell("start", neighbour)
    decoy.may_be_overwritten()
    ended(bundle, attacker)


def test_a_container_that_waits_cannot_be_traced_by_a_neighbour(bundle: Bundle) -> None:
    """It has given its rights up and has no filter yet: whoever took it over would have none either."""
    first = bundle.start("sleep", "100")
    pid = bundle.state(first)["pid"]
    next(entry for entry in bundle.linux["namespaces"] if entry["type"] == "pid")["path"] = f"/proc/{pid}/ns/pid"
    second = bundle.create("sleep", "100")
    look = "for p in /proc/[0-9]*; do grep -q '[-]-root' $p/cmdline && exec readlink $p/exe; done"
    refused = bundle.ask("exec", first, "sh", "-c", look)
    assert refused.returncode == 1
    bundle.tell("start", second)
    inside = bundle.tell("exec", first, "sh", "-c", "for p in /proc/[0-9]*; do readlink $p/exe; done")
    assert inside.split().count("/bin/busybox") >= 2


def test_a_label_is_written_where_the_host_has_it(
    rootfs: str, shared_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for /proc/self/attr/apparmor: the container has one of its own at the same place."""
    for place in (shared_path / "attr", Path(f"{rootfs}{shared_path}/attr")):
        place.mkdir(parents=True)
        (place / "exec").touch()
    monkeypatch.setattr(labels, "has_apparmor", lambda: True)
    label = labels.AppArmor("strict")
    label.directory = os.fspath(shared_path / "attr")
    assert Container(["true"], Namespaces("pid"), PivotRoot(rootfs), label).run() == 0
    assert (shared_path / "attr/exec").read_text() == "exec strict"
    assert Path(f"{rootfs}{shared_path}/attr/exec").read_text() == ""


def test_a_terminal_is_not_looked_up_in_the_images_dev(bundle: Bundle, shared_path: Path, rootfs: str) -> None:
    """CVE-2025-52565: /dev is the attacker's volume, and its terminals' names lead to a protected file."""
    evil, decoy = shared_path / "evil", Path(rootfs, "etc/decoy")
    (evil / "pts").mkdir(parents=True)
    decoy.write_text("untouched\n")
    os.mknod(evil / "null", 0o020666, os.makedev(1, 3))
    (evil / "ptmx").symlink_to("/elsewhere/ptmx")
    for number in range(8):
        (evil / "pts" / str(number)).symlink_to("/etc/decoy")
    kept = [mount for mount in bundle.config["mounts"] if not mount["destination"].startswith("/dev")]
    bundle.config["mounts"] = [
        *kept,
        {"destination": "/dev", "type": "bind", "source": os.fspath(evil), "options": ["bind"]},
        {
            "destination": "/elsewhere",
            "type": "devpts",
            "source": "devpts",
            "options": ["newinstance", "ptmxmode=0666"],
        },
    ]
    bundle.linux["readonlyPaths"] = ["/etc/decoy"]
    bundle.process["terminal"] = True
    bundle.says("sh", "-c", "echo through > /dev/console; cat /etc/decoy")
    bundle.write()
    line = " ".join([*OURS, "--root", bundle.root, "run", bundle.name()])
    done = subprocess.run(
        ["script", "-qec", line, "/dev/null"],
        cwd=bundle.directory,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
    )
    said = done.stdout.replace("^@", "").split()  # script(1) has nothing to type
    assert said == ["through", "untouched"], done.stdout
