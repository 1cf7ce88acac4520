"""Kernel settings of a container's own, labels, Landlock; and the set that every container gets."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from minicontainer.cgroups import Cgroup
from minicontainer.chroot import PivotRoot, User
from minicontainer.container import Container
from minicontainer.errors import HostError, UsageError
from minicontainer.linux import landlock
from minicontainer.namespaces import Namespaces
from minicontainer.security import (
    AppArmor,
    Capabilities,
    CgroupFiles,
    Landlock,
    NoNewPrivs,
    Seccomp,
    SELinux,
    Shield,
    Sysctls,
    defaults,
    labels,
)

if TYPE_CHECKING:
    from minicontainer.container import Part

VIEWS = ("pid", "uts", "ipc", "mount", "network", "cgroup")


def output(rootfs: str, script: str, *parts: Part) -> str:
    return Container(["sh", "-c", f"exec 2>&1; {script}"], Namespaces(*VIEWS), PivotRoot(rootfs), *parts).output()


# ------------------------------------------------------------------------------------------------------ sysctls


def test_a_setting_of_its_own_is_not_the_hosts(rootfs: str) -> None:
    names = ("net/ipv4/ip_forward", "kernel/shmmni", "fs/mqueue/msg_max")
    before = [Path(f"/proc/sys/{name}").read_text() for name in names]
    part = Sysctls({"net.ipv4.ip_forward": 1, "kernel.shmmni": "123", "fs.mqueue.msg_max": "17"})
    text = output(rootfs, "cd /proc/sys; cat net/ipv4/ip_forward kernel/shmmni fs/mqueue/msg_max", part)
    assert text == "1\n123\n17\n"
    assert [Path(f"/proc/sys/{name}").read_text() for name in names] == before


@pytest.mark.parametrize(
    "name", ["kernel.core_pattern", "vm.swappiness", "kernel.sem.x", "net..ipv4", "fs.file-max", "net./x"]
)
def test_a_setting_of_the_whole_machine_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="sysctl"):
        Sysctls({name: "1"})


def test_a_setting_of_a_shared_namespace_is_refused(rootfs: str) -> None:
    before = Path("/proc/sys/net/ipv4/ip_forward").read_text()
    with pytest.raises(UsageError, match="would change the host"):
        Container(["true"], Namespaces("pid", "ipc"), PivotRoot(rootfs), Sysctls({"net.ipv4.ip_forward": 1})).run()
    with pytest.raises(UsageError, match="does not take"):
        Container(["true"], Namespaces(*VIEWS), PivotRoot(rootfs), Sysctls({"kernel.shmmni": "many"})).run()
    assert Path("/proc/sys/net/ipv4/ip_forward").read_text() == before


# ------------------------------------------------------------------------------------------------------- labels


@pytest.mark.skipif(labels.has_apparmor(), reason="this kernel runs AppArmor")
def test_a_profile_without_apparmor_is_an_error(rootfs: str) -> None:
    with pytest.raises(HostError, match="does not run AppArmor"):
        Container(["true"], PivotRoot(rootfs), AppArmor("docker-default")).run()
    assert Container(["true"], PivotRoot(rootfs), AppArmor("unconfined")).run() == 0


@pytest.mark.skipif(labels.has_selinux(), reason="this kernel runs SELinux")
def test_a_context_without_selinux_is_an_error(rootfs: str) -> None:
    with pytest.raises(HostError, match="does not run SELinux"):
        Container(["true"], PivotRoot(rootfs), SELinux("system_u:system_r:container_t:s0")).run()


# ----------------------------------------------------------------------------------------------------- landlock


def test_what_is_not_allowed_is_refused_even_to_root(rootfs: str) -> None:
    if not landlock.landlock_abi():
        pytest.skip("this kernel runs no Landlock")
    Path(f"{rootfs}/etc/secret").write_text("secret\n")
    Path(f"{rootfs}/var/data").write_text("data\n")
    script = "cat /etc/secret; cat /var/data; echo x >/var/data; echo y >/tmp/new; cat /tmp/new"
    for more in ([Capabilities()], [NoNewPrivs(), User("root")], [Capabilities(), Seccomp(), NoNewPrivs()]):
        lines = output(rootfs, script, Landlock(read=["/bin", "/var"], write=["/tmp"]), *more).splitlines()
        assert lines[0].endswith("Permission denied")
        assert lines[1] == "data"
        assert lines[2].endswith("Permission denied")
        assert lines[3] == "y"
    assert "secret" in output(rootfs, script)


def test_a_path_that_is_not_there_is_an_error(rootfs: str) -> None:
    if not landlock.landlock_abi():
        pytest.skip("this kernel runs no Landlock")
    with pytest.raises(UsageError, match="/nowhere"):
        Container(["true"], PivotRoot(rootfs), Landlock(read=["/nowhere"])).run()


# -------------------------------------------------------------------------------------------------- its own cgroup


def test_it_reads_its_own_group_and_cannot_write_it(rootfs: str) -> None:
    script = "cd /sys/fs/cgroup; find . -name pids.max -exec cat {} +; find . -name pids.max >/tmp/found; "
    script += "for file in $(cat /tmp/found); do echo 5 >$file; done; touch new; mkdir new; true"
    shown = output(rootfs, script, Cgroup(pids=77), CgroupFiles()).splitlines()
    assert shown[0] == "77"
    assert len(shown) >= 4
    assert all("Read-only" in line for line in shown[1:]), shown
    shown = output(rootfs, script.partition("touch")[0], cgroup := Cgroup(pids=77), CgroupFiles(writable=True)).split()
    assert shown == ["77"]
    assert cgroup.limits


def test_the_same_parts_make_a_second_container(rootfs: str) -> None:
    parts = [Cgroup(pids=77), CgroupFiles()]
    script = "find /sys/fs/cgroup -name pids.max -exec cat {} +"
    assert [output(rootfs, script, *parts).split() for _ in range(2)] == [["77"]] * 2


def test_nothing_of_the_groups_beside_it_is_seen(rootfs: str) -> None:
    with Container(["sleep", "1000"], Cgroup(), PivotRoot(rootfs)).start(stdin=-3) as other:
        names = output(rootfs, "find /sys/fs/cgroup -type d", Cgroup(), CgroupFiles()).split()
        assert not any(other.id in name for name in names)
        assert len(names) >= 1
        depth = max(name.count("/") for name in names)
        assert depth <= len(["", "sys", "fs", "cgroup", "tree"]) - 1


# ------------------------------------------------------------------------------------------- the runtime's program


@pytest.mark.parametrize("how", ["itself", "a link", "a script", "a script of a script", "by PATH"])
def test_the_engines_own_program_is_not_executed_inside(rootfs: str, how: str) -> None:
    os.symlink("/proc/self/exe", f"{rootfs}/bin/link")
    for name, interpreter in (("script", "/proc/self/exe"), ("another", "/bin/script")):
        Path(f"{rootfs}/bin/{name}").write_text(f"#! {interpreter} -x\n")
        Path(f"{rootfs}/bin/{name}").chmod(0o755)
    command = {"itself": "/proc/self/exe", "a link": "/bin/link", "a script": "/bin/script", "by PATH": "link"}
    argv = [command.get(how, "/bin/another")]
    with pytest.raises(UsageError, match="CVE-2019-5736"):
        Container(argv, Namespaces(*VIEWS), PivotRoot(rootfs), Shield()).run()


def test_our_own_init_cannot_be_looked_into(rootfs: str) -> None:
    script = "readlink /proc/1/exe; cat /proc/1/environ; true"
    parts = [Namespaces(*VIEWS), PivotRoot(rootfs), Capabilities()]
    naked = Container(["sh", "-c", script], *parts, init=True).output()
    assert os.path.realpath(sys.executable) in naked
    assert Container(["sh", "-c", script], *parts, Shield(), init=True).output() == ""
    everything = [Namespaces(*VIEWS, "user"), Cgroup(), PivotRoot(rootfs), *defaults.default(), User("learner")]
    assert Container(["true"], *everything).run() == 0


# ------------------------------------------------------------------------------------------------ Docker's set


def kinds(parts: list[Part]) -> set[str]:
    return {type(part).__name__ for part in parts}


def test_every_container_gets_dockers_set(rootfs: str) -> None:
    assert kinds(defaults.default()) == {"Capabilities", "CgroupFiles", "Devices", "Shield", "Seccomp"}
    script = "grep -E '^(CapEff|Seccomp:)' /proc/self/status; mknod /tmp/mem c 1 1; head -c 1 /tmp/mem; true"
    lines = output(rootfs, script, Cgroup(), *defaults.default()).splitlines()
    assert lines[0].endswith("a80425fb")
    assert lines[1].endswith("2")
    assert lines[2].endswith("Operation not permitted")


def test_privileged_is_the_absence_of_it(rootfs: str) -> None:
    parts = defaults.default(privileged=True)
    assert kinds(parts) == {"Capabilities", "CgroupFiles", "Devices", "Shield"}
    lines = output(rootfs, "grep CapEff /proc/self/status; mount -t tmpfs t /tmp && echo mounted", Cgroup(), *parts)
    assert lines.splitlines()[1] == "mounted"


def test_security_options_are_dockers() -> None:
    options = defaults.Options(["no-new-privileges", "seccomp=unconfined", "systempaths=unconfined", "label=disable"])
    assert kinds(defaults.default(options=options)) == {
        "Capabilities",
        "CgroupFiles",
        "Devices",
        "Shield",
        "NoNewPrivs",
    }
    assert options.open_paths
    assert "NoNewPrivs" not in kinds(defaults.default(options=defaults.Options(["no-new-privileges:false"])))
    assert "AppArmor" in kinds(defaults.default(options=defaults.Options(["apparmor:mine"])))
    for text in ("seccomp", "seccomp=", "no-new-privileges=maybe", "writable-cgroups=x", "label"):
        with pytest.raises(UsageError, match="security-opt"):
            defaults.Options([text])
