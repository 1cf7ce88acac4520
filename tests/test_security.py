"""Chapter 8: what a container may do. The kernel says it in /proc/PID/status; runc and crun say it beside us."""

from __future__ import annotations

import os
import resource
import shutil
from typing import TYPE_CHECKING

import compiled
import peers
import pytest

from minicontainer import linux
from minicontainer.chroot import PivotRoot, User
from minicontainer.container import Container
from minicontainer.errors import HostError, UsageError
from minicontainer.namespaces import Namespaces
from minicontainer.security import Capabilities, NoNewPrivs, OomScore, Rlimits, Seccomp, capabilities

if TYPE_CHECKING:
    from minicontainer.container import Part

STATUS = ["grep", "-E", "^(Cap|NoNewPrivs|Seccomp)", "/proc/self/status"]
VIEWS = ("pid", "uts", "ipc", "mount", "network", "cgroup")
DOCKERS = 0x00000000A80425FB
"""What `grep CapEff /proc/self/status` shows in every container of Docker's."""


def sets(text: str) -> dict[str, int]:
    lines = dict(line.split(":", 1) for line in text.splitlines())
    return {key: int(value, 16 if key.startswith("Cap") else 10) for key, value in lines.items()}


def inside(rootfs: str, *parts: Part, argv: list[str] = STATUS) -> dict[str, int]:
    return sets(Container(argv, Namespaces(*VIEWS), PivotRoot(rootfs), *parts).output())


def theirs(runtime: str, rootfs: str, kept: list[str], *, uid: int = 0, ambient: bool = False) -> dict[str, int]:
    if not shutil.which(runtime):
        pytest.skip(f"{runtime} is not installed")
    config = peers.spec(rootfs, STATUS)
    words = [f"CAP_{name}" for name in kept]
    config["process"]["capabilities"] = dict.fromkeys(("bounding", "effective", "permitted"), words)
    if ambient:
        config["process"]["capabilities"] |= {"inheritable": words, "ambient": words}
    config["process"]["user"] = {"uid": uid, "gid": uid}
    return sets(peers.run(runtime, config))


# ------------------------------------------------------------------------------------------------- capabilities


@pytest.mark.lab
def test_root_keeps_dockers_fourteen_capabilities(rootfs: str) -> None:
    found = inside(rootfs, Capabilities())
    assert found["CapBnd"] == found["CapEff"] == found["CapPrm"] == DOCKERS
    assert found["CapInh"] == found["CapAmb"] == 0


@pytest.mark.lab
def test_another_user_has_none_and_can_get_no_others(rootfs: str) -> None:
    for parts in ([Capabilities(), User("learner")], [User("learner"), Capabilities()]):  # in whichever order
        found = inside(rootfs, *parts)
        assert found["CapEff"] == found["CapPrm"] == found["CapInh"] == found["CapAmb"] == 0
        assert found["CapBnd"] == DOCKERS


@pytest.mark.parametrize("runtime", ["runc", "crun"])
@pytest.mark.parametrize("uid", [0, 1000])
def test_the_sets_are_those_of_runc_and_crun(rootfs: str, runtime: str, uid: int) -> None:
    kept = ["NET_RAW", "CHOWN", "SYS_ADMIN"]
    words = dict.fromkeys(("bounding", "effective", "permitted"), kept)
    ours = inside(rootfs, Capabilities.exactly(**words), User(f"{uid}:{uid}"))
    assert ours == theirs(runtime, rootfs, kept, uid=uid)
    assert ours["CapBnd"] == capabilities.bits(kept)


@pytest.mark.parametrize("runtime", ["runc", "crun"])
def test_ambient_ones_pass_to_another_user_as_with_runc_and_crun(rootfs: str, runtime: str) -> None:
    kept = ["NET_BIND_SERVICE", "KILL"]
    part = Capabilities.exactly(**dict.fromkeys(capabilities.SETS, kept))
    ours = inside(rootfs, part, User("1000:1000"))
    assert ours == theirs(runtime, rootfs, kept, uid=1000, ambient=True)
    assert ours["CapAmb"] == ours["CapEff"] == capabilities.bits(kept)


@pytest.mark.lab
@pytest.mark.parametrize(
    ("add", "drop", "kept"),
    [
        (["NET_ADMIN"], [], DOCKERS | capabilities.bits(["NET_ADMIN"])),
        (
            ["cap_net_admin"],
            ["NET_RAW"],
            (DOCKERS | capabilities.bits(["NET_ADMIN"])) & ~capabilities.bits(["NET_RAW"]),
        ),
        ([], ["ALL"], 0),
        (["CHOWN"], ["ALL"], capabilities.bits(["CHOWN"])),
        (["ALL"], ["SYS_ADMIN"], capabilities.of()["permitted"] & ~capabilities.SYS_ADMIN),
        (["ALL"], [], capabilities.of()["permitted"]),
    ],
)
def test_add_and_drop_mean_what_they_mean_in_docker(rootfs: str, add: list[str], drop: list[str], kept: int) -> None:
    found = inside(rootfs, Capabilities(add=add, drop=drop))
    assert found["CapBnd"] == found["CapEff"] == found["CapPrm"] == kept


@pytest.mark.lab
def test_the_kernel_refuses_what_was_taken_away(rootfs: str) -> None:
    script = "mount -t tmpfs none /tmp; mknod /tmp/null c 1 3; chown 7 /tmp/null; hostname other"
    said = os.memfd_create("said")
    Container(["sh", "-c", script], Namespaces(*VIEWS), PivotRoot(rootfs), Capabilities()).run(stdout=said, stderr=said)
    text = os.pread(said, 4096, 0).decode()
    os.close(said)
    assert text.count("denied") + text.count("not permitted") == 2  # mount and hostname, not mknod and chown
    assert "mount" in text
    assert "hostname" in text


@pytest.mark.lab
def test_a_python_function_is_bound_as_well(rootfs: str) -> None:
    container = Container(capabilities_here, Namespaces("pid"), PivotRoot(rootfs), Capabilities(drop=["CHOWN"]))
    assert container.run() == 0
    bounding, effective = container.returned
    assert bounding == effective == DOCKERS & ~1


def capabilities_here() -> list[int]:
    bounding = 0
    for number in range(41):
        bounding |= linux.prctl(linux.PR_CAPBSET_READ, number) << number
    return [bounding, linux.capget()[0]]


def test_what_this_process_lacks_it_cannot_give(rootfs: str) -> None:
    lacking = capabilities.names(((1 << 41) - 1) & ~capabilities.of()["permitted"])
    if not lacking:
        pytest.skip("this root lacks no capability")
    with pytest.raises(HostError, match=f"no CAP_{lacking[0]}"):
        Container(["true"], PivotRoot(rootfs), Capabilities(add=lacking[:1])).run()


def test_a_name_that_is_none_is_refused_at_once() -> None:
    with pytest.raises(UsageError, match="SYS_ADMINN"):
        Capabilities(add=["SYS_ADMINN"])
    with pytest.raises(UsageError, match="list of names"):
        Capabilities(drop="ALL")


@pytest.mark.lab
def test_a_second_process_gets_no_more(rootfs: str) -> None:
    parts = [Namespaces(*VIEWS), PivotRoot(rootfs), Capabilities(drop=["KILL"]), NoNewPrivs(), Seccomp()]
    with Container(["sleep", "1000"], *parts).start() as container:
        found = sets(container.second(STATUS).output())
    assert found["CapBnd"] == found["CapEff"] == DOCKERS & ~capabilities.bits(["KILL"])
    assert found["NoNewPrivs"] == 1
    assert found["Seccomp"] == 2


@pytest.mark.lab
def test_in_a_user_namespace_its_root_keeps_the_same_fourteen(rootfs: str) -> None:
    text = Container(STATUS, Namespaces(*VIEWS, "user"), PivotRoot(rootfs), Capabilities(), Seccomp()).output()
    assert sets(text)["CapBnd"] == sets(text)["CapEff"] == DOCKERS


# ------------------------------------------------------------------------- no_new_privs, limits, the OOM killer


def test_no_new_privs_makes_setuid_mean_nothing(rootfs: str) -> None:
    tool = compiled.build(compiled.WHO, f"{rootfs}/bin/who-am-i")
    os.chmod(tool, 0o4755)
    parts = [Namespaces(*VIEWS), PivotRoot(rootfs), User("learner"), Capabilities()]
    assert Container(["who-am-i"], *parts).output() == "1000 0\n"
    assert Container(["who-am-i"], *parts, NoNewPrivs()).output() == "1000 1000\n"


def test_resource_limits_hold(rootfs: str) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    part = Rlimits.parse(["nofile=64:128", "core=0", "fsize=1048576:-1"])
    text = Container(["cat", "/proc/self/limits"], Namespaces(*VIEWS), PivotRoot(rootfs), part).output()
    rows = {line[:26].strip(): line[26:].split()[:2] for line in text.splitlines()}
    assert hard >= 128
    assert rows["Max open files"] == ["64", "128"]
    assert rows["Max core file size"] == ["0", "0"]
    assert rows["Max file size"] == ["1048576", "unlimited"]


@pytest.mark.parametrize("runtime", ["runc", "crun"])
def test_resource_limits_are_those_of_runc_and_crun(rootfs: str, runtime: str) -> None:
    config = peers.spec(rootfs, ["cat", "/proc/self/limits"])
    config["process"]["rlimits"] = [
        {"type": "RLIMIT_NOFILE", "soft": 200, "hard": 300},
        {"type": "RLIMIT_STACK", "soft": 1 << 20, "hard": 2 << 20},
    ]
    limits = Rlimits(nofile=(200, 300), stack=(1 << 20, 2 << 20))
    ours = Container(["cat", "/proc/self/limits"], Namespaces(*VIEWS), PivotRoot(rootfs), limits).output()
    assert ours == peers.run(runtime, config)


@pytest.mark.parametrize("text", ["nofile", "nofile=", "nofile=x", "files=3", "nofile=3:2", "nofile=-2"])
def test_a_limit_that_makes_no_sense_is_refused_at_once(text: str) -> None:
    with pytest.raises(UsageError):
        Rlimits.parse([text])


def test_the_oom_killer_is_told(rootfs: str) -> None:
    argv = ["cat", "/proc/self/oom_score_adj"]
    assert Container(argv, Namespaces(*VIEWS), PivotRoot(rootfs), OomScore(500)).output() == "500\n"
    with pytest.raises(UsageError):
        OomScore(1001)
