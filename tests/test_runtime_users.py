"""User namespaces of a bundle: new ones and existing ones, and the other namespaces, which belong to one of them."""

from __future__ import annotations

import copy
import fcntl
import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from bundles import Bundle

NS_GET_USERNS = 0xB701  # ioctl_nsfs(2)
FIRST = 200000
MAP = [{"containerID": 0, "hostID": FIRST, "size": 65536}]
NAMES = {"network": "net", "mount": "mnt"}

needs_runc = pytest.mark.skipif(not shutil.which("runc"), reason="runc is the peer: apt-get install runc")


def namespace(pid: int | str, kind: str) -> int:
    return os.stat(f"/proc/{pid}/ns/{NAMES.get(kind, kind)}").st_ino


def owner(pid: int, kind: str) -> int:
    """The user namespace that a process's namespace belongs to, as the kernel tells it."""
    fd = os.open(f"/proc/{pid}/ns/{NAMES.get(kind, kind)}", os.O_RDONLY)
    found = fcntl.ioctl(fd, NS_GET_USERNS)
    try:
        return os.fstat(found).st_ino
    finally:
        os.close(found)
        os.close(fd)


def maps(bundle: Bundle, lines: list[dict[str, int]]) -> None:
    bundle.linux["uidMappings"] = bundle.linux["gidMappings"] = lines


def set_path(bundle: Bundle, kind: str, path: str) -> None:
    bundle.linux["namespaces"] = [entry for entry in bundle.linux["namespaces"] if entry["type"] != kind]
    bundle.linux["namespaces"].append({"type": kind, "path": path})


@pytest.fixture
def first(bundle: Bundle) -> tuple[Bundle, int]:
    """A bundle whose next containers join the user namespace of one that runs; and that one's pid."""
    before = copy.deepcopy(bundle.config)
    bundle.linux["namespaces"].append({"type": "user"})
    maps(bundle, MAP)
    pid: int = bundle.state(bundle.start("sleep", "100"))["pid"]
    bundle.config = before
    set_path(bundle, "user", f"/proc/{pid}/ns/user")
    return bundle, pid


def test_what_is_new_belongs_to_the_user_namespace_that_was_joined(first: tuple[Bundle, int]) -> None:
    bundle, pid = first
    bundle.linux["namespaces"].append({"type": "time"})
    name = bundle.start("sleep", "100")
    other = bundle.state(name)["pid"]
    assert namespace(other, "user") == namespace(pid, "user") != namespace("self", "user")
    for kind in ("mount", "uts", "ipc", "pid", "network", "cgroup", "time"):
        if kind in {entry["type"] for entry in bundle.linux["namespaces"]}:
            assert namespace(other, kind) != namespace(pid, kind)
            assert owner(other, kind) == namespace(pid, "user")
    assert f"Uid:\t{FIRST}\t" in Path(f"/proc/{other}/status").read_text()
    assert bundle.state(name)["status"] == "running"


@needs_runc
def test_what_is_mounted_belongs_to_the_root_that_is_mapped(bundle: Bundle) -> None:
    """/dev/mqueue, too, which belongs to whoever makes the namespace that it shows."""
    bundle.linux["namespaces"].append({"type": "user"})
    maps(bundle, MAP)
    places = ("/dev", "/dev/pts", "/dev/shm", "/dev/mqueue")
    words = ("stat", "-c", "%u %a %n", *places)
    ours = bundle.run(*words)
    assert [line.split()[0] for line in ours.splitlines()] == ["0"] * len(places)
    assert ours == bundle.by("runc").run(*words)


@pytest.mark.parametrize("kinds", [("network",), ("pid",), ("network", "ipc", "uts", "pid")])
def test_others_of_its_own_are_joined_by_path_with_it(first: tuple[Bundle, int], kinds: tuple[str, ...]) -> None:
    bundle, pid = first
    for kind in kinds:
        set_path(bundle, kind, f"/proc/{pid}/ns/{NAMES.get(kind, kind)}")
    name = bundle.start("sleep", "100")
    other = bundle.state(name)["pid"]
    for kind in ("user", "mount", "uts", "ipc", "pid", "network"):
        assert (namespace(other, kind) == namespace(pid, kind)) == (kind in {"user", *kinds})
    assert bundle.tell("exec", name, "readlink", "/proc/self/ns/user") == f"user:[{namespace(pid, 'user')}]\n"
    bundle.tell("delete", "--force", name)


@needs_runc
@pytest.mark.parametrize("users", ["joined", "new"])
def test_a_network_of_the_hosts_is_joined_before_rights_to_it_are_lost(first: tuple[Bundle, int], users: str) -> None:
    bundle, pid = first
    bundle.config["mounts"] = [entry for entry in bundle.config["mounts"] if entry["type"] not in ("sysfs", "cgroup")]
    set_path(bundle, "network", f"/proc/{os.getpid()}/ns/net")
    if users == "new":
        bundle.linux["namespaces"] = [entry for entry in bundle.linux["namespaces"] if entry["type"] != "user"]
        bundle.linux["namespaces"].append({"type": "user"})
        maps(bundle, MAP)
        words = ("readlink", "/proc/self/ns/net")
        bundle.config["ociVersion"] = "1.0.2"
        assert bundle.run(*words) == f"net:[{namespace('self', 'network')}]\n"
        assert bundle.by("runc").run(*words) == f"net:[{namespace('self', 'network')}]\n"
        return
    other = bundle.state(bundle.start("sleep", "100"))["pid"]
    assert namespace(other, "network") == namespace("self", "network")
    assert namespace(other, "user") == namespace(pid, "user")


@needs_runc
def test_it_looks_inside_as_it_does_with_runc(first: tuple[Bundle, int]) -> None:
    bundle, pid = first
    maps(bundle, MAP)  # runc wants them, too
    set_path(bundle, "network", f"/proc/{pid}/ns/net")
    bundle.config["ociVersion"] = "1.0.2"
    files = ("uid_map", "gid_map", "setgroups", "ns/user", "ns/net")
    text = "; ".join(f"readlink /proc/self/{name} || cat /proc/self/{name}" for name in files)
    text += "; grep -e Uid -e Gid -e Groups -e Cap /proc/self/status; stat -c %u:%g:%t:%T /dev/null /proc /sys /dev"
    ours = bundle.run("sh", "-c", text)
    assert ours == bundle.by("runc").run("sh", "-c", text)
    assert f"user:[{namespace(pid, 'user')}]" in ours


def test_maps_that_are_not_those_of_the_namespace_are_refused(first: tuple[Bundle, int]) -> None:
    bundle, pid = first
    maps(bundle, MAP)
    assert bundle.run("id", "-u") == "0\n"
    maps(bundle, [{"containerID": 0, "hostID": 300000, "size": 65536}])
    bundle.write()
    done = bundle.ask("run", bundle.name())
    assert done.returncode == 1
    assert f"linux.uidMappings are not those of /proc/{pid}/ns/user: there they are [(0, 200000, 65536)]" in done.stderr


def refusals() -> list[tuple[str, str]]:
    return [
        ("/proc/self/ns/user", "EINVAL"),
        ("/proc/self/ns/net", "EINVAL"),
        ("/no/such", "there is no user namespace"),
    ]


@pytest.mark.parametrize(("path", "word"), refusals())
def test_a_path_that_cannot_be_joined_is_said(bundle: Bundle, path: str, word: str) -> None:
    bundle.linux["namespaces"].append({"type": "user", "path": path})
    bundle.says("true")
    bundle.write()
    name = bundle.name()
    done = bundle.ask("run", name)
    assert (done.returncode, word in done.stderr, len(done.stderr.splitlines())) == (1, True, 1)
    assert bundle.ask("state", name).returncode == 1


CASES: list[tuple[dict[str, Any], str]] = [
    ({"user": {"uid": 70000, "gid": 0}}, "process.user.uid: 70000 is none"),
    ({"user": {"uid": 0, "gid": 0, "additionalGids": [5, 70000]}}, "process.user.additionalGids: 70000 is none"),
]


@pytest.mark.parametrize(("process", "words"), CASES)
def test_who_is_not_mapped_is_refused_by_name(bundle: Bundle, process: dict[str, Any], words: str) -> None:
    bundle.linux["namespaces"].append({"type": "user"})
    maps(bundle, MAP)
    bundle.process.update(process)
    bundle.write()
    done = bundle.ask("create", bundle.name())
    assert (done.returncode, words in done.stderr) == (1, True)


def test_a_device_has_its_mode_and_its_owner_also_in_a_user_namespace(bundle: Bundle) -> None:
    bundle.linux["namespaces"].append({"type": "user"})
    maps(bundle, MAP)
    bundle.linux["devices"] = [
        {"path": "/dev/nothing", "type": "c", "major": 1, "minor": 5, "fileMode": 0o604, "uid": 7, "gid": 8},
        {"path": "/dev/deep/disk", "type": "b", "major": 7, "minor": 77},  # the host need not have it
        {"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o622},
        {"path": "/dev/queue", "type": "p", "fileMode": 0o600, "uid": 7, "gid": 8},
    ]
    before = Path("/proc/self/mountinfo").read_text()
    files = "/dev/nothing /dev/deep/disk /dev/null /dev/queue"
    text = f"stat -c '%F %a %u %g %t:%T' {files}; head -c 3 /dev/nothing | od -An -tx1; echo > /dev/null; ls /0 /dev/0"
    name = bundle.start("sh", "-c", f"({text}) > /tmp/said 2>&1; sleep 100")
    said = Path(bundle.config["root"]["path"], "tmp/said")
    deadline = time.monotonic() + 20
    while not (said.exists() and said.read_text().count("No such file") == 2):
        assert time.monotonic() < deadline, said.read_text() if said.exists() else "nothing"
        time.sleep(0.01)
    assert said.read_text().splitlines()[:5] == [
        "character special file 604 7 8 1:5",
        "block special file 666 0 0 7:4d",
        "character special file 622 0 0 1:3",
        "fifo 600 7 8 0:0",
        " 00 00 00",
    ]
    inside = Path(f"/proc/{bundle.state(name)['pid']}/mountinfo").read_text().splitlines()
    assert [line.split()[4] for line in inside].count("/") == 1, "the nodes' own filesystem is still on the root"
    assert Path("/proc/self/mountinfo").read_text() == before
    nodes = Path(f"/proc/{bundle.state(name)['pid']}/root/dev/nothing").stat()
    assert (nodes.st_uid, nodes.st_gid) == (FIRST + 7, FIRST + 8)


def test_a_device_of_somebody_who_is_not_mapped_is_refused(bundle: Bundle) -> None:
    bundle.linux["namespaces"].append({"type": "user"})
    maps(bundle, MAP)
    bundle.linux["devices"] = [{"path": "/dev/nothing", "type": "c", "major": 1, "minor": 5, "uid": 70_000}]
    bundle.says("true")
    bundle.write()
    done = bundle.ask("run", bundle.name())
    assert (done.returncode, "uid 70000 is none in the container's user namespace" in done.stderr) == (1, True)


def test_a_namespace_without_a_root_is_refused(bundle: Bundle) -> None:
    bundle.linux["namespaces"].append({"type": "user"})
    maps(bundle, [{"containerID": 5, "hostID": FIRST, "size": 10}])
    bundle.write()
    done = bundle.ask("create", bundle.name())
    assert (done.returncode, "linux.uidMappings: nothing is mapped to 0" in done.stderr) == (1, True)


def test_the_way_in_can_be_watched(first: tuple[Bundle, int]) -> None:
    bundle, _ = first
    bundle.says("true")
    bundle.write()
    log = bundle.directory / "log"
    bundle.tell("--debug", "--log", os.fspath(log), "run", bundle.name())
    calls = log.read_text()
    assert calls.index("CLONE_NEWUSER") < calls.index("CLONE_PARENT")
