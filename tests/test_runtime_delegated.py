"""A user's containers on a host with cgroup v2: limits below a group that the user was given.

systemd gives every user who logs in such a group (user@.service, Delegate=yes): an own directory, with the files
cgroup.procs and cgroup.subtree_control in it. So does the fixture here, through systemd where it is the first process.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import test_runtime_rootless
from bundles import Bundle
from programs import eventually
from test_runtime_rootless import USER, UserBundle, needs_runc, readable, refused

from minicontainer.cgroups import layout

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["readable"]

NAME = f"minicontainer-test-{os.getpid()}"
OWNED = ("", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads")  # cgroups(7), "Delegating a hierarchy"

pytestmark = [
    *test_runtime_rootless.pytestmark,
    pytest.mark.v2,
    pytest.mark.skipif(layout().version != "v2", reason="this host's controllers are on cgroup v1"),
]


@pytest.fixture
def given() -> Iterator[Path]:
    """A group that belongs to the user, with all controllers; what the user has started is in its `session`."""
    if Path("/proc/1/comm").read_text() == "systemd\n":
        run = ["systemd-run", "--quiet", "--unit", NAME, "--property", "Delegate=yes", "sleep", "infinity"]
        subprocess.run(run, check=True)
        words = ["systemctl", "show", "--property", "ControlGroup", "--value", NAME]
        place = subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()
        top, passed = Path(f"{layout().unified}{place}"), []
        waiting = (top / "cgroup.procs").read_text().split()
    else:
        above = Path(layout().unified)
        before = (above / "cgroup.subtree_control").read_text().split()
        passed = [name for name in (above / "cgroup.controllers").read_text().split() if name not in before]
        for name in passed:
            (above / "cgroup.subtree_control").write_text(f"+{name}")
        top, waiting = above / NAME, []
        top.mkdir()
    session = top / "session"
    try:
        session.mkdir()
        for pid in waiting:
            (session / "cgroup.procs").write_text(pid)
        for name in (top / "cgroup.controllers").read_text().split():
            (top / "cgroup.subtree_control").write_text(f"+{name}")
        for directory in (top, session):
            for name in OWNED:
                os.chown(directory / name, USER, USER)
        yield top
    finally:
        if waiting:
            subprocess.run(["systemctl", "stop", NAME], check=True)
        else:
            session.rmdir()
            top.rmdir()
        for name in passed:
            (Path(layout().unified) / "cgroup.subtree_control").write_text(f"-{name}")
    assert not top.exists()


class DelegatedBundle(UserBundle):
    """A bundle of the user's, who calls runtimes from inside of `session`."""

    def enter(self, session: Path) -> None:
        self.way = ["sh", "-c", f'echo $$ > {session}/cgroup.procs; exec setpriv {AS_USER} "$@"', "sh"]
        self.command = [*self.way, *self.ours]

    def by(self, runtime: str) -> Bundle:
        return super().by(runtime) if runtime == "ours" else self._by([*self.way, runtime])

    def _by(self, command: list[str]) -> Bundle:
        self.command = command
        return self

    def ask(self, *words: str, **how: Any) -> subprocess.CompletedProcess[str]:
        return Bundle.ask(self, *words, **{"env": self.env} | how)  # root, until it is where the user is


AS_USER = f"--reuid={USER} --regid={USER} --clear-groups"
LIMITS = {
    "pids": {"limit": 20},
    "memory": {"limit": 64 << 20},
    "cpu": {"quota": 50_000, "period": 100_000},
}


@pytest.fixture
def mine(shared_path: Path, rootfs: str, readable: list[str], given: Path) -> Iterator[DelegatedBundle]:
    """A bundle with limits."""
    made = DelegatedBundle(shared_path / "bundle", rootfs, readable)
    made.enter(given / "session")
    made.linux["resources"] = dict(LIMITS)
    try:
        yield made
    finally:
        made.close()


def read(group: Path, file: str) -> str:
    return (group / file).read_text().strip()


@needs_runc
@pytest.mark.parametrize("runtime", ["ours", "runc"])
def test_limits_are_set_in_a_group_beside_the_users_session(mine: DelegatedBundle, given: Path, runtime: str) -> None:
    if runtime != "ours":
        mine.by(runtime)
    name = mine.start("sleep", "100")
    group = given / name
    assert [read(group, file) for file in ("pids.max", "memory.max", "cpu.max")] == ["20", "67108864", "50000 100000"]
    pid = mine.state(name)["pid"]
    assert read(group, "cgroup.procs") == str(pid)
    assert (group.stat().st_uid, os.stat(f"/proc/{pid}").st_uid) == (USER, USER)
    mine.tell("exec", "--detach", name, "sleep", "100")
    found = read(group, "cgroup.procs").split()
    assert len(found) == 2
    assert sorted(json.loads(mine.tell("ps", "--format", "json", name))) == sorted(int(pid) for pid in found)
    mine.tell("delete", "--force", name)
    assert not group.exists()


def test_a_limit_bites(mine: DelegatedBundle) -> None:
    mine.linux["resources"]["pids"] = {"limit": 4}
    mine.says("sh", "-c", "for i in 1 2 3 4 5 6; do sleep 5 & done; kill %1 %2 %3")
    mine.write()
    assert "can't fork" in mine.ask("run", mine.name()).stderr


def test_the_verbs_of_a_group_are_the_users(mine: DelegatedBundle, given: Path) -> None:
    name = mine.start("sleep", "100")
    mine.tell("pause", name)
    assert mine.state(name)["status"] == "paused"
    assert "frozen 1" in read(given / name, "cgroup.events")
    mine.tell("resume", name)
    assert "frozen 0" in read(given / name, "cgroup.events")
    mine.tell("update", "--pids-limit", "30", "--memory", "32m", name)
    assert [read(given / name, file) for file in ("pids.max", "memory.max")] == ["30", str(32 << 20)]
    statistics = json.loads(mine.tell("events", "--stats", name))["data"]
    assert statistics["pids"] == {"current": 1, "limit": 30}
    mine.tell("kill", "--all", name, "KILL")
    assert eventually(lambda: mine.state(name)["status"] == "stopped")
    mine.tell("delete", name)
    assert not (given / name).exists()


@needs_runc
def test_the_container_sees_its_own_limits(mine: DelegatedBundle) -> None:
    options = ["nosuid", "noexec", "nodev", "relatime", "ro"]
    mine.config["mounts"] = [entry for entry in mine.config["mounts"] if entry["destination"] != "/sys"]
    mount = {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": options}
    mine.config["mounts"].append(mount)
    words = ("sh", "-c", "cd /sys/fs/cgroup; cat /proc/self/cgroup pids.max memory.max; mkdir x 2>&1")
    said = []
    for runtime in ("ours", "runc"):
        if runtime != "ours":
            mine.by(runtime)
        mine.says(*words)
        mine.write()
        done = mine.ask("run", mine.name())
        said.append(done.stdout)
    assert said[0] == said[1]
    assert said[0].splitlines()[:3] == ["0::/", "20", "67108864"]
    assert "Read-only file system" in said[0]


def test_a_path_names_a_place_below_what_the_user_was_given(mine: DelegatedBundle, given: Path) -> None:
    own = f"/{given.relative_to(layout().unified)}"
    for path, group in ((f"{own}/deep/one", given / "deep/one"), ("two", given / "two")):
        mine.linux["cgroupsPath"] = path
        name = mine.start("sleep", "100")
        assert read(group, "pids.max") == "20"
        assert read(group, "cgroup.procs") == str(mine.state(name)["pid"])
        mine.tell("delete", "--force", name)
        assert not group.exists()
    (given / "deep").rmdir()
    mine.linux["cgroupsPath"] = f"/{NAME}-elsewhere"
    refused(mine, f"the cgroup {layout().unified}/{NAME}-elsewhere cannot be made", "permission denied")


def test_from_outside_of_the_users_group_there_is_no_way_into_it(mine: DelegatedBundle, given: Path) -> None:
    name = mine.start("sleep", "100")
    inside, mine.command = mine.command, mine.ours
    how = {"user": USER, "group": USER, "extra_groups": []}
    root = f"{mine.root}-sh"
    words = [*mine.ours, "--root", root, "exec", name, "true"]
    done = subprocess.run(words, env=mine.env, **how, capture_output=True, text=True)
    assert done.returncode == 255
    assert f"the cgroup {given / name} cannot be entered from" in done.stderr
    mine.command = ["setpriv", *AS_USER.split(), *mine.ours]
    mine.linux["cgroupsPath"] = f"/{given.relative_to(layout().unified)}/one"
    said = refused(mine, f"the cgroup {given}/one cannot be entered from", "systemd-run --user --scope")
    assert "Permission denied" not in said
    assert not (given / "one").exists()
    del mine.linux["cgroupsPath"]
    refused(mine, "cannot set memory limit: container could not join or create cgroup")
    del mine.linux["resources"]
    pid = mine.state(mine.start("sleep", "100"))["pid"]
    assert Path(f"/proc/{pid}/cgroup").read_text() == Path("/proc/self/cgroup").read_text()
    mine.command = inside


def test_a_controller_that_was_not_given_is_named(mine: DelegatedBundle, given: Path) -> None:
    (given / "cgroup.subtree_control").write_text("-memory")
    os.chown(given / "cgroup.subtree_control", 0, 0)
    refused(mine, f"cannot set memory limit: {given} does not pass the controller on, and is not ours")
    del mine.linux["resources"]["memory"]
    name = mine.start("sleep", "100")
    assert read(given / name, "pids.max") == "20"
    mine.tell("delete", "--force", name)
