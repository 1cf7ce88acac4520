"""A runtime in the hands of somebody who is not root, beside runc in the same hands."""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from bundles import OURS, Bundle
from test_runtime import mount_table, status, wait_until

from minicontainer.errors import HostError
from minicontainer.runtime import cgroup, groups

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(__file__).resolve().parent.parent / "minicontainer"
PYTHON = os.path.realpath(sys.executable)
USER = next(number for number in range(61234, 65000) if number not in {entry.pw_uid for entry in pwd.getpwall()})
RANGE = 700000

needs_runc = pytest.mark.skipif(not shutil.which("runc"), reason="runc is the peer: apt-get install runc")
needs_nsenter = pytest.mark.skipif(not shutil.which("nsenter"), reason="nsenter comes with util-linux")
needs_uidmap = pytest.mark.skipif(
    not shutil.which("newuidmap") or not os.path.exists("/etc/subuid"),
    reason="ranges need newuidmap and /etc/subuid: apt-get install uidmap",
)
pytestmark = [
    pytest.mark.skipif(
        not int(Path("/proc/sys/user/max_user_namespaces").read_text()), reason="this host forbids user namespaces"
    ),
    pytest.mark.skipif(
        subprocess.run(["setpriv", f"--reuid={USER}", "--clear-groups", "unshare", "-U", "true"]).returncode != 0,
        reason="this host allows user namespaces to root alone",
    ),
    pytest.mark.skipif("MINICONTAINER_LAB_RUNTIME" in os.environ, reason="a learner's runtime is made for root"),
]


class UserBundle(Bundle):
    """A bundle that belongs to a user, who alone calls runtimes for it."""

    def __init__(self, directory: Path, rootfs: str, command: list[str]) -> None:
        super().__init__(directory, rootfs)
        self.ours = self.command = command
        self.env = {"PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": os.fspath(directory / "runtime")}
        (directory / "runtime").mkdir()
        self.hold(directory, Path(rootfs))
        self.as_user("spec", "--rootless", cwd=directory)
        self.config = json.loads((directory / "config.json").read_text())
        self.config["root"] = {"path": rootfs, "readonly": False}
        self.process["terminal"] = False

    @staticmethod
    def hold(*directories: Path) -> None:
        """Make the user the owner of all of them."""
        subprocess.run(["chown", "-R", f"{USER}:{USER}", *directories], check=True)

    def as_user(self, *words: str, **how: Any) -> subprocess.CompletedProcess[str]:
        """Our runtime without --root."""
        command = [*self.ours, *words]
        return subprocess.run(
            command,
            user=USER,
            group=USER,
            extra_groups=[],
            env=self.env,
            check=True,
            capture_output=True,
            text=True,
            **how,
        )

    def write(self) -> None:
        super().write()
        self.hold(self.directory)

    def ask(self, *words: str, **how: Any) -> subprocess.CompletedProcess[str]:
        return super().ask(*words, **{"user": USER, "group": USER, "extra_groups": [], "env": self.env} | how)

    def space(self, kind: str, **more: str) -> None:
        """One more namespace."""
        self.linux["namespaces"].append({"type": kind, **more})


@pytest.fixture(scope="module")
def readable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """The runtime where everybody may read it: a checkout may lie in somebody's home."""
    directory = Path("/var/tmp", f"minicontainer-test-{os.getpid()}-readable")
    shutil.copytree(PACKAGE, directory / "minicontainer")
    subprocess.run(["chmod", "-R", "go+rX", directory], check=True)
    command = [PYTHON, *OURS[1:3], os.fspath(directory / "minicontainer/runtime/__main__.py")]
    try:
        if subprocess.run([PYTHON, "-c", ""], user=USER, group=USER, stderr=subprocess.DEVNULL).returncode:
            pytest.skip(f"{PYTHON} cannot be executed by others than root")
        yield command
    finally:
        shutil.rmtree(directory)


@pytest.fixture
def mine(shared_path: Path, rootfs: str, readable: list[str]) -> Iterator[UserBundle]:
    """The user's bundle, by our runtime."""
    made = UserBundle(shared_path / "bundle", rootfs, readable)
    try:
        yield made
    finally:
        made.close()


def refused(bundle: Bundle, *words: str) -> str:
    """What `run` says when it fails, as it has to; nothing of it stays."""
    bundle.says("true")
    bundle.write()
    name = bundle.name()
    done = bundle.ask("run", name)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr
    assert bundle.ask("state", name).returncode == 1
    return done.stderr


# ------------------------------------------------------------------------------------------------------ its life


def test_the_config_that_spec_writes_for_a_user_runs(mine: UserBundle) -> None:
    assert mine.linux["uidMappings"] == [{"containerID": 0, "hostID": USER, "size": 1}]
    name = mine.start("sleep", "100")
    pid = mine.state(name)["pid"]
    assert f"Uid:\t{USER}\t{USER}\t{USER}\t{USER}" in Path(f"/proc/{pid}/status").read_text()
    assert Path(f"/proc/{pid}/setgroups").read_text() == "deny\n"
    for kind in ("user", "pid", "mnt", "uts", "ipc"):
        assert os.readlink(f"/proc/{pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}")
    assert os.readlink(f"/proc/{pid}/ns/net") == os.readlink("/proc/self/ns/net")
    assert mine.tell("exec", name, "sh", "-c", "id -u; id -g; head -1 /proc/self/uid_map; hostname").split() == [
        *("0", "0", "0", str(USER), "1", "minicontainer")
    ]
    mine.tell("kill", name, "KILL")
    wait_until(lambda: mine.state(name)["status"] == "stopped", "its end")
    mine.tell("delete", name)
    assert mine.ask("state", name).returncode == 1


@needs_runc
def test_the_config_that_spec_writes_for_a_user_has_the_mounts_that_runcs_has(mine: UserBundle) -> None:
    place = mine.directory / "theirs"
    place.mkdir()
    subprocess.run(["runc", "spec", "--rootless"], cwd=place, check=True)
    theirs = json.loads((place / "config.json").read_text())
    assert mine.config["mounts"] == theirs["mounts"]
    kinds = [{entry["type"] for entry in config["linux"]["namespaces"]} for config in (mine.config, theirs)]
    assert kinds[0] == kinds[1]
    text = "for d in /sys/fs/cgroup /sys/fs/cgroup/*/; do mkdir $d/x 2>&1 && echo made; done; find /sys/fs/cgroup"
    ours = mine.run("sh", "-c", text)
    assert "/cgroup.procs" in ours
    assert "Read-only file system" in ours
    assert "made" not in ours


def test_without_a_root_it_is_remembered_in_the_users_own_place(mine: UserBundle) -> None:
    mine.says("sleep", "100")
    mine.write()
    command, mine.command = mine.command, [*mine.ours]
    name = mine.name()
    subprocess.run(
        [*command, "run", "--detach", name],
        user=USER,
        group=USER,
        extra_groups=[],
        env=mine.env,
        cwd=mine.directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        check=True,
    )
    place = mine.directory / "runtime/minicontainer-runtime" / name
    assert json.loads((place / "state.json").read_text())["owner"] == USER
    listed = mine.as_user("list").stdout
    assert name in listed
    assert "running" in listed
    mine.as_user("delete", "--force", name)
    assert not place.exists()


def test_a_user_without_a_place_is_told_so(mine: UserBundle) -> None:
    del mine.env["XDG_RUNTIME_DIR"]
    how = {"user": USER, "group": USER, "extra_groups": [], "env": mine.env}
    done = subprocess.run([*mine.ours, "list"], **how, capture_output=True, text=True)
    assert done.returncode == 1
    assert "XDG_RUNTIME_DIR is not set (--root names another)" in done.stderr


@needs_runc
@needs_nsenter
@pytest.mark.parametrize("runtime", ["ours", "runc"])
def test_the_user_may_enter_what_waits_for_its_start(mine: UserBundle, runtime: str) -> None:
    """To put a network there, as slirp4netns and pasta do."""
    if runtime == "runc":
        mine.by("runc")
    mine.space("network")
    name = mine.create("sleep", "100")
    pid = str(mine.state(name)["pid"])
    words = ["nsenter", "--target", pid, "--user", "--net", "--preserve-credentials", "ip", "address", "add"]
    how = {"user": USER, "group": USER, "extra_groups": [], "env": mine.env}
    subprocess.run([*words, "10.98.76.54", "dev", "lo"], **how, check=True)
    mine.tell("start", name)
    assert "10.98.76.54" in mine.tell("exec", name, "ip", "address")


@needs_runc
def test_the_process_has_the_rights_that_runc_gives_a_user(mine: UserBundle) -> None:
    mine.process["user"]["umask"] = 0o27
    ours = mine.run("cat", "/proc/self/status")
    assert status(ours) == status(mine.by("runc").run("cat", "/proc/self/status"))


@needs_runc
def test_the_mounts_are_those_that_runc_makes_for_a_user(mine: UserBundle) -> None:
    source = mine.directory / "source"
    source.mkdir()
    for options in (["rbind", "ro"], ["bind", "nosuid", "noexec"], ["rbind", "rw", "rprivate"]):
        target = "/" + "-".join(options)
        os.mkdir(mine.config["root"]["path"] + target)
        mount = {"destination": target, "type": "bind", "source": os.fspath(source), "options": options}
        mine.config["mounts"].append(mount)
    ours = mount_table(mine.run("cat", "/proc/self/mountinfo"))
    theirs = mount_table(mine.by("runc").run("cat", "/proc/self/mountinfo"))
    # hidden by both, by what is a matter of taste; a device of the host's can here not be executed, either; and runc
    # 1.1 leaves the directory above v1's trees writable, although its mount is to be read-only
    taste = {*mine.linux["maskedPaths"], *(row[0] for row in ours if row[0].startswith("/dev/") and row[1] != "tmpfs")}
    taste |= {"/sys/fs/cgroup"}
    assert [row for row in ours if row[0] not in taste] == [row for row in theirs if row[0] not in taste]
    assert {row[0] for row in ours} == {row[0] for row in theirs}


@needs_runc
@pytest.mark.parametrize("runtime", ["ours", "runc"])
def test_what_is_locked_on_the_hosts_mount_stays_so(mine: UserBundle, runtime: str) -> None:
    if runtime == "runc":
        mine.by("runc")
    options = ["rbind", "noatime"]
    entry = {"destination": "/etc", "type": "bind", "source": os.fspath(mine.directory), "options": options}
    mine.config["mounts"].append(entry)
    said = refused(mine, os.fspath(mine.directory), "/etc", "peration not permitted")
    assert ("the options that the host's mount has cannot be taken away" in said) == (runtime == "ours")


@needs_runc
def test_a_network_of_its_own_has_a_loopback_and_its_sysctls(mine: UserBundle) -> None:
    mine.space("network")
    mine.linux["sysctl"] = {"net.ipv4.ip_forward": "1"}
    words = ("sh", "-c", "cat /proc/sys/net/ipv4/ip_forward; ip -4 addr show lo | grep -o 127.0.0.1/8")
    ours = mine.run(*words)
    assert ours == mine.by("runc").run(*words) == "1\n127.0.0.1/8\n"


def test_sysfs_needs_a_network_of_its_own(mine: UserBundle) -> None:
    mine.config["mounts"] = [entry for entry in mine.config["mounts"] if not entry["destination"].startswith("/sys")]
    mine.config["mounts"].append({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]})
    refused(mine, "sysfs cannot be mounted on /sys", "it takes a network namespace of its own")
    mine.space("network")
    assert "net" in mine.run("ls", "/sys/class")


def test_devices_are_those_of_the_host(mine: UserBundle) -> None:
    mine.linux["devices"] = [{"path": "/dev/queue", "type": "p"}]
    said = mine.run(
        "sh", "-c", "echo x > /dev/null; stat -c %F:%t:%T /dev/zero /dev/queue; mknod /dev/x c 1 3; echo $?"
    )
    assert said.split("\n")[:2] == ["character special file:1:5", "fifo:0:0"]
    assert said.split()[-1] == "1"
    mine.linux["devices"] = [{"path": "/dev/no-such", "type": "c", "major": 1, "minor": 3}]
    refused(mine, "the host has no /dev/no-such")


def test_a_terminal_is_the_users(mine: UserBundle) -> None:
    mine.process["terminal"] = True
    mine.says("sh", "-c", "tty; test -w /dev/console && echo writable")
    mine.write()
    words = ["script", "-qec", " ".join([*mine.command, "--root", mine.root, "run", mine.name()]), "/dev/null"]
    how = {"user": USER, "group": USER, "extra_groups": [], "env": mine.env, "cwd": mine.directory}
    done = subprocess.run(words, **how, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.stdout.replace("^@", "").split() == ["/dev/pts/0", "writable"]  # the end of its own input


def test_a_command_is_started_in_what_was_made_and_fails_like_any(mine: UserBundle) -> None:
    mine.says("sh", "-c", "exit 7")
    mine.write()
    assert mine.ask("run", mine.name()).returncode == 7
    mine.says("/no/such")
    mine.write()
    assert "no such file or directory" in mine.ask("run", mine.name()).stderr


def test_a_second_container_joins_the_user_namespace_of_the_first(mine: UserBundle) -> None:
    first = mine.start("sleep", "100")
    pid = mine.state(first)["pid"]
    mine.linux["namespaces"] = [entry for entry in mine.linux["namespaces"] if entry["type"] not in ("user", "ipc")]
    for kind in ("user", "ipc"):
        mine.space(kind, path=f"/proc/{pid}/ns/{kind}")
    del mine.linux["uidMappings"], mine.linux["gidMappings"]
    second = mine.start("sleep", "100")
    other = mine.state(second)["pid"]
    for kind in ("user", "ipc", "pid", "mnt"):
        same = os.readlink(f"/proc/{pid}/ns/{kind}") == os.readlink(f"/proc/{other}/ns/{kind}")
        assert same == (kind in ("user", "ipc"))
    assert mine.tell("exec", second, "id", "-u") == "0\n"


def test_a_users_own_interpreter_cannot_be_written_through_a_container(mine: UserBundle) -> None:
    """CVE-2019-5736 without root: what the container overwrites, its maker would execute outside of it."""
    own = mine.directory / "python3"
    shutil.copy(PYTHON, own)
    mine.hold(own)
    mine.ours = mine.command = [os.fspath(own), *mine.command[1:]]
    name = mine.create("sleep", "100")  # which waits with our program in memory
    pid = mine.state(name)["pid"]
    assert os.readlink(f"/proc/{pid}/exe") == "/memfd:python (deleted)"
    with open(f"/proc/{pid}/exe", "rb") as program:  # kept open, until nobody executes it
        mine.tell("delete", "--force", name)
        wait_until(lambda: not os.path.exists(f"/proc/{pid}") or os.waitpid(pid, os.WNOHANG)[0], "its end")
        with pytest.raises(PermissionError), open(f"/proc/self/fd/{program.fileno()}", "r+b", buffering=0) as again:
            again.write(b"overwritten")
    assert own.read_bytes() == Path(PYTHON).read_bytes()


# ----------------------------------------------------------------------------------------------- what is refused


def test_a_user_needs_a_user_namespace(mine: UserBundle) -> None:
    mine.linux["namespaces"] = [entry for entry in mine.linux["namespaces"] if entry["type"] != "user"]
    del mine.linux["uidMappings"], mine.linux["gidMappings"]
    refused(mine, "needs a user namespace", "spec --rootless")


def test_what_only_the_kernel_refuses_is_not_blamed_on_who_calls(mine: UserBundle) -> None:
    mine.config["mounts"].append({"destination": "/mnt", "type": "debugfs", "source": "debugfs"})
    said = refused(mine, "EPERM", "what their own user namespace owns")
    assert "made by root" not in said


def test_a_namespace_of_the_hosts_is_not_joined(mine: UserBundle) -> None:
    mine.space("network", path="/proc/1/ns/net" if os.access("/proc/1/ns/net", os.R_OK) else "/proc/self/ns/net")
    refused(mine, "permi")


def test_a_user_who_is_not_mapped_is_named(mine: UserBundle) -> None:
    mine.process["user"] = {"uid": 5, "gid": 0}
    refused(mine, "process.user.uid: 5 is none in the container's user namespace")
    mine.process["user"] = {"uid": 0, "gid": 5}
    refused(mine, "process.user.gid: 5 is none")
    mine.process["user"] = {"uid": 0, "gid": 0, "additionalGids": [0]}
    refused(mine, "process.user: additionalGids cannot be set: this user namespace has given up setgroups(2)")
    mine.process["user"] = {"uid": 0, "gid": 0}
    name = mine.start("sleep", "100")
    done = mine.ask("exec", "--user", "5", name, "true")
    assert (done.returncode, "process.user.uid: 5 is none" in done.stderr) == (255, True)


def test_an_owner_of_a_mount_who_is_not_mapped_is_named(mine: UserBundle) -> None:
    terminals = next(entry for entry in mine.config["mounts"] if entry["destination"] == "/dev/pts")
    terminals["options"].append("gid=5")
    refused(mine, "mounts: gid=5 of /dev/pts is none in the container's user namespace")


@needs_runc
def test_who_is_to_be_spared_when_memory_runs_out_is_for_root_to_say(mine: UserBundle) -> None:
    mine.process["oomScoreAdj"] = 500
    assert mine.run("cat", "/proc/self/oom_score_adj") == "500\n"
    mine.process["oomScoreAdj"] = -500
    refused(mine, "oom_score_adj cannot be lowered to -500")
    refused(mine.by("runc"), "oom_score_adj")


@needs_runc
@pytest.mark.parametrize("runtime", ["ours", "runc"])
def test_a_cgroup_that_was_asked_for_is_not_passed_over(mine: UserBundle, runtime: str) -> None:
    if runtime == "runc":
        mine.by("runc")
    mine.linux["cgroupsPath"] = f"/minicontainer-test-{os.getpid()}"
    refused(mine, "permission denied")
    del mine.linux["cgroupsPath"]
    mine.linux["resources"] = {"pids": {"limit": 20}}
    said = refused(mine)
    assert "cannot set pids limit" in said or "rootless needs no limits" in said
    del mine.linux["resources"]
    pid = mine.state(mine.start("sleep", "100"))["pid"]
    assert Path(f"/proc/{pid}/cgroup").read_text() == Path("/proc/self/cgroup").read_text()


def test_a_controller_that_the_host_has_not_is_named(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu pids\n")
    (tmp_path / "cgroup.subtree_control").write_text("pids\n")
    tree = groups.Tree(os.fspath(tmp_path), (), "/")
    tree.directory = f"{tmp_path}/one"
    with pytest.raises(HostError, match=rf"cannot set memory limit: {tmp_path} has no such controller to pass on"):
        cgroup._enable(tree, set(), {"memory", "pids"})
    cgroup._enable(tree, set(), {"pids"})


def test_what_needs_a_cgroup_says_so(mine: UserBundle) -> None:
    name = mine.start("sleep", "100")
    for words in (
        ("ps", name),
        ("kill", "--all", name),
        ("update", "--memory", "64m", name),
        ("events", "--stats", name),
    ):
        done = mine.ask(*words)
        assert (done.returncode, "has no cgroup" in done.stderr) == (1, True)
    done = mine.ask("pause", name)
    assert (done.returncode, "stands in no cgroup" in done.stderr) == (1, True)


def test_cgroups_are_passed_over_only_for_whom_it_is_right(mine: UserBundle) -> None:
    mine.says("true")
    mine.write()
    done = mine.ask("--rootless", "false", "run", mine.name())
    assert (done.returncode, "permission denied" in done.stderr) == (1, True)
    assert mine.ask("--rootless=true", "run", mine.name()).returncode == 0
    done = mine.ask("--rootless", "perhaps", "run", mine.name())
    assert (done.returncode, "true, false or auto" in done.stderr) == (1, True)


@pytest.fixture
def given(mine: UserBundle) -> Iterator[Path]:
    """A group of the v1 tree for pids that the user was given."""
    place = Path(f"/sys/fs/cgroup/pids/minicontainer-test-{os.getpid()}")
    place.mkdir()
    try:
        mine.hold(place)
        yield place
    finally:
        mine.close()
        place.rmdir()


@pytest.mark.skipif(not os.path.exists("/sys/fs/cgroup/pids"), reason="this host has no v1 tree for pids")
def test_a_group_that_the_user_was_given_is_used(mine: UserBundle, given: Path) -> None:
    mine.linux["resources"] = {"pids": {"limit": 20}}
    mine.says("sleep", "100")
    mine.write()
    name = mine.name()
    way = f'echo $$ > {given}/cgroup.procs; exec setpriv --reuid={USER} --regid={USER} --clear-groups "$@"'
    words = [*mine.command, "--root", f"{mine.root}-{os.path.basename(mine.command[0])}", "run", "--detach", name]
    subprocess.run(
        ["sh", "-c", way, "sh", *words], env=mine.env, cwd=mine.directory, check=True, stdout=subprocess.DEVNULL
    )
    assert (given / name / "pids.max").read_text() == "20\n"
    assert mine.tell("ps", "--format", "json", name) == f"[{mine.state(name)['pid']}]\n"
    mine.tell("update", "--pids-limit", "30", name)
    assert (given / name / "pids.max").read_text() == "30\n"
    mine.tell("delete", "--force", name)
    assert not (given / name).exists()


# ------------------------------------------------------------------------------------------------------- ranges


def named(mine: UserBundle, ids: str, command: list[str], **env: str) -> subprocess.CompletedProcess[str]:
    """A command of the user's where the user has a name, and /etc/subuid and /etc/subgid say `ids`."""
    files = {"subuid": ids, "subgid": ids, "group": Path("/etc/group").read_text() + f"tester:x:{USER}:\n"}
    files["passwd"] = Path("/etc/passwd").read_text() + f"tester:x:{USER}:{USER}::{mine.directory}:/bin/sh\n"
    for name, content in files.items():
        (mine.directory / name).write_text(content)
    steps = [f"mount --bind {mine.directory / name} /etc/{name}" for name in files]
    steps.append(f'exec setpriv --reuid={USER} --regid={USER} --clear-groups "$@"')
    return subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", " && ".join(steps), "sh", *command],
        env=mine.env | env,
        cwd=mine.directory,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


def with_ranges(mine: UserBundle, ids: str, *words: str) -> subprocess.CompletedProcess[str]:
    """What the bundle's runtime does then."""
    mine.write()
    root = f"{mine.root}-{os.path.basename(mine.command[0])}"
    return named(mine, ids, [*mine.command, "--root", root, *words])


def ranged(mine: UserBundle) -> None:
    lines = [{"containerID": 0, "hostID": USER, "size": 1}, {"containerID": 1, "hostID": RANGE, "size": 65536}]
    mine.linux["uidMappings"] = mine.linux["gidMappings"] = lines


@needs_runc
@needs_uidmap
def test_a_range_is_mapped_by_newuidmap(mine: UserBundle) -> None:
    ranged(mine)
    mine.process["user"] = {"uid": 1000, "gid": 1000, "additionalGids": [60]}
    text = (
        "cat /proc/self/uid_map /proc/self/gid_map /proc/self/setgroups; id; touch /tmp/file; stat -c %u:%g /tmp/file"
    )
    mine.says("sh", "-c", text)
    ours = with_ranges(mine, f"tester:{RANGE}:65536\n", "run", mine.name())
    assert ours.returncode == 0, ours.stderr
    assert ours.stdout.split()[:6] == ["0", str(USER), "1", "1", str(RANGE), "65536"]
    assert "allow" in ours.stdout
    assert ours.stdout.endswith("1000:1000\n")
    made = Path(mine.config["root"]["path"], "tmp/file")
    assert made.stat().st_uid == RANGE + 999
    made.unlink()
    del mine.process["user"]["additionalGids"]  # which runc gives nobody who is not root
    ours = with_ranges(mine, f"tester:{RANGE}:65536\n", "run", mine.name())
    made.unlink()
    mine.by("runc")
    theirs = with_ranges(mine, f"tester:{RANGE}:65536\n", "run", mine.name())
    assert theirs.stdout.replace(",65534(nobody)", "") == ours.stdout


@needs_uidmap
def test_a_range_that_is_not_the_users_is_refused(mine: UserBundle) -> None:
    ranged(mine)
    mine.says("true")
    done = with_ranges(mine, "tester:1:1\n", "run", mine.name())
    assert done.returncode == 1
    assert "newuidmap" in done.stderr
    assert "/etc/subuid says which ids a user may map" in done.stderr


def test_without_newuidmap_a_range_is_refused(mine: UserBundle) -> None:
    ranged(mine)
    mine.env["PATH"] = "/nowhere"
    refused(mine, "it takes newuidmap, which is not there", "apt-get install uidmap")


def test_nothing_stays_of_a_create_that_was_killed(mine: UserBundle) -> None:
    mine.says("sleep", "100")
    mine.write()
    for milliseconds in range(0, 120, 15):
        name = mine.name()
        command = [*mine.command, "--root", f"{mine.root}-{os.path.basename(mine.command[0])}", "create", name]
        how = {"user": USER, "group": USER, "extra_groups": [], "env": mine.env, "cwd": mine.directory}
        process = subprocess.Popen(command, **how, stdin=subprocess.DEVNULL)
        try:
            process.wait(milliseconds / 1000)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        mine.tell("delete", "--force", name)
    assert not re.search(r"test-", mine.tell("list"))


# ---------------------------------------------------------------------------------------------------- an engine


@needs_uidmap
@pytest.mark.skipif(not shutil.which("podman"), reason="podman is the engine: apt-get install podman")
def test_podman_of_a_user_runs_its_containers_with_it(mine: UserBundle, rootfs: str) -> None:
    runtime, settings, archive = (mine.directory / name for name in ("runtime.sh", "containers.conf", "root.tar"))
    runtime.write_text(f'#!/bin/sh\nexec {" ".join(mine.ours)} "$@"\n')
    runtime.chmod(0o755)
    settings.write_text('[containers]\ndefault_ulimits = []\n[engine]\nevents_logger = "none"\n')
    subprocess.run(["tar", "-C", rootfs, "-cf", archive, "."], check=True)
    short = Path(tempfile.mkdtemp(prefix="mc-", dir="/var/tmp"))  # it takes no runroot of more than 50 characters
    places = {name: short / name for name in ("root", "runroot", "tmpdir", "own")}
    own = places.pop("own")
    own.mkdir(0o700)
    base = ["podman", *(word for name, path in places.items() for word in (f"--{name}", os.fspath(path)))]
    base += ["--cgroup-manager", "cgroupfs", "--storage-driver", "vfs", "--runtime", os.fspath(runtime)]
    mine.hold(mine.directory, short)
    env = {"CONTAINERS_CONF": os.fspath(settings), "HOME": os.fspath(mine.directory), "XDG_RUNTIME_DIR": os.fspath(own)}

    def podman(*words: str, code: int = 0) -> str:
        done = named(mine, f"tester:{RANGE}:65536\n", [*base, *words], **env)
        assert done.returncode == code, f"{words}: {done.stderr}"
        return done.stdout

    alone = ("run", "--rm", "--network", "none")
    try:
        podman("import", os.fspath(archive), "box")
        said = podman(*alone, "box", "sh", "-c", "id -u; cat /proc/self/uid_map; grep Seccomp: /proc/self/status")
        assert said.split() == ["0", "0", str(USER), "1", "1", str(RANGE), "65536", "Seccomp:", "2"]
        assert podman("run", "--rm", "--network", "host", "box", "readlink", "/proc/self/ns/net") == (
            os.readlink("/proc/self/ns/net") + "\n"
        )
        assert podman(*alone, "--userns", "keep-id", "box", "id", "-u") == f"{USER}\n"
        assert podman(*alone, "--user", "1000:60", "--group-add", "5", "box", "id", "-G").split() == ["60", "5"]
        podman(*alone, "box", "sh", "-c", "exit 5", code=5)
        podman(*alone, "box", "/no/such/command", code=127)
        podman(*alone, "--read-only", "box", "touch", "/file", code=1)
        assert podman(*alone, "--privileged", "box", "grep", "CapBnd", "/proc/self/status").endswith("ffff\n")
        podman("run", "--detach", "--name", "one", "--network", "none", "box", "sleep", "100")
        assert podman("exec", "one", "hostname")
        podman("exec", "one", "sh", "-c", "exit 9", code=9)
        beside = podman(
            "run", "--rm", "--pid", "container:one", "--network", "container:one", "box", "ps", "-o", "args"
        )
        assert "sleep 100" in beside
        assert podman("inspect", "one", "--format", "{{.OCIRuntime}}").strip() == os.fspath(runtime)
        podman("stop", "--time", "0", "one")
    finally:
        podman("rm", "--all", "--force", "--time", "0")
        podman("system", "migrate")  # which ends the process that keeps the user namespace
        shutil.rmtree(short)
        Path(f"/dev/shm/libpod_rootless_lock_{USER}").unlink(missing_ok=True)
