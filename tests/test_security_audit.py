"""`minicontainer audit` says what is weak about a container, and nothing of one that is not."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import peers
import pytest

from minicontainer.cgroups import Cgroup
from minicontainer.chroot import Bind, PivotRoot, User
from minicontainer.container import Container
from minicontainer.errors import NotFoundError
from minicontainer.namespaces import Namespaces
from minicontainer.security import Capabilities, Devices, NoNewPrivs, Seccomp
from minicontainer.security.audit import Finding, audit

if TYPE_CHECKING:
    from minicontainer.container import Part

VIEWS = ("pid", "uts", "ipc", "mount", "network", "cgroup")
SLEEP = ["sleep", "1000"]


def found(*parts: Part) -> dict[str, Finding]:
    with Container(SLEEP, *parts).start(stdin=-3) as container:
        return {one.subject: one for one in audit(container.pid)}


def weak(found: dict[str, Finding]) -> set[str]:
    return {subject for subject, one in found.items() if one.weak}


def limited() -> Cgroup:
    return Cgroup(memory="64M", pids=50)


def test_a_tight_container_has_no_weak_point(rootfs: str) -> None:
    parts = [limited(), PivotRoot(rootfs), Devices(), Capabilities(), Seccomp(), NoNewPrivs(), User("learner")]
    told = found(Namespaces(*VIEWS), *parts)
    assert weak(told) == set()
    assert told["user"].what == "1000"
    assert told["memory.max"].what == str(64 << 20)


def test_root_of_a_user_namespace_is_told_by_both_its_names(rootfs: str) -> None:
    parts = [limited(), PivotRoot(rootfs), Devices(), Capabilities(), Seccomp()]
    told = found(Namespaces(*VIEWS, "user"), *parts)
    assert weak(told) == set()
    assert told["user"].what == "0 inside, 100000 on the host"


@pytest.mark.parametrize("what", ["capability", "seccomp", "devices", "limits", "paths", "namespaces", "disk"])
def test_each_part_that_is_missing_is_named(rootfs: str, what: str) -> None:
    parts: dict[str, Part] = {
        "namespaces": Namespaces(*VIEWS),
        "limits": limited(),
        "paths": PivotRoot(rootfs),
        "devices": Devices(),
        "capability": Capabilities(),
        "seccomp": Seccomp(),
        "user": User("learner"),
    }
    changed: dict[str, list[Part]] = {
        "capability": [Capabilities(add=["SYS_ADMIN", "SYS_MODULE"])],
        "limits": [Cgroup()],
        "paths": [PivotRoot(rootfs, masked=(), read_only_paths=())],
        "namespaces": [Namespaces("uts", "mount", "cgroup")],
    }
    told_of = {
        "capability": {"CAP_SYS_ADMIN", "CAP_SYS_MODULE"},
        "seccomp": {"seccomp"},
        "devices": {"devices"},
        "limits": {"memory.max", "pids.max"},
        "paths": {"/proc/sys", "/proc/keys"},
        "namespaces": {"pid namespace", "ipc namespace", "network namespace"},
        "disk": {"/run/docker.sock"},
    }
    given: list[Part] = []
    for name, part in parts.items():
        given += changed.get(what, []) if name == what else [part]
    if what == "disk":
        given.append(Bind("/dev/null", "/run/docker.sock"))
    told = found(*given)
    assert told_of[what] <= weak(told)
    others = set().union(*(names for name, names in told_of.items() if name != what))
    assert not others & weak(told)
    assert all(one.allows for one in told.values() if one.subject in told_of[what])


def test_it_looks_at_runcs_containers_as_well(rootfs: str) -> None:
    config = peers.spec(rootfs, SLEEP)
    words = ["CAP_CHOWN", "CAP_SYS_MODULE"]
    config["process"]["capabilities"] = dict.fromkeys(("bounding", "effective", "permitted"), words)
    told = {one.subject: one for one in peers.run("runc", config, audit)}
    assert {"user", "CAP_SYS_MODULE", "seccomp"} <= weak(told)
    assert not {"/proc/sys", "devices", "pid namespace"} & weak(told)


def test_a_process_that_has_ended_is_no_container() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    with pytest.raises(NotFoundError):
        audit(pid)
