"""Chapter 03: its own view. Asked from outside, by /proc, and from inside, by the command."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from minicontainer import linux, namespaces
from minicontainer.chroot import PivotRoot
from minicontainer.container import Container, child
from minicontainer.errors import ContainerError, NotFoundError, StartError, UsageError
from minicontainer.namespaces import DEFAULT_MAP, KINDS, Namespaces

if TYPE_CHECKING:
    from collections.abc import Callable

    from programs import Program

SLEEP = ["sleep", "1000"]


def links(pid: int | str) -> dict[str, str]:
    """What /proc says, by the kernel's names."""
    return {name: os.readlink(f"/proc/{pid}/ns/{name}") for _, name in KINDS.values()}


@pytest.mark.lab
@pytest.mark.parametrize("kind", KINDS)
def test_one_kind_is_new_and_the_others_are_the_hosts(kind: str) -> None:
    with Container(SLEEP, Namespaces(kind)).start(stdin=-3, stdout=-3) as container:
        ours, theirs = links("self"), links(container.pid)
        assert [name for name in ours if ours[name] != theirs[name]] == [KINDS[kind][1]]


@pytest.mark.lab
def test_all_together(rootfs: str) -> None:
    with Container(SLEEP, Namespaces(*KINDS), PivotRoot(rootfs)).start(stdin=-3, stdout=-3) as container:
        ours, theirs = links("self"), links(container.pid)
        assert all(ours[name] != theirs[name] for name in ours)


def test_of_and_tree_agree_with_proc() -> None:
    with Container(SLEEP, Namespaces("uts", "ipc")).start(stdin=-3, stdout=-3) as container:
        told = namespaces.of(container.pid)
        assert {KINDS[kind][1]: f"{KINDS[kind][1]}:[{inode}]" for kind, inode in told.items()} == links(container.pid)
        where = namespaces.tree()
        assert where["uts"][told["uts"]] == [container.pid]
        assert container.pid in where["network"][namespaces.of()["network"]]
        assert os.getpid() in where["network"][namespaces.of()["network"]]
    with pytest.raises(NotFoundError):
        namespaces.of(container.pid)


@pytest.mark.lab
def test_container_cannot_see_host_processes(rootfs: str) -> None:
    text = Container(["sh", "-c", "echo $$; ls /proc"], Namespaces("pid"), PivotRoot(rootfs)).output()
    numbers = [int(word) for word in text.split() if word.isdecimal()]
    assert numbers[0] == 1
    assert str(os.getpid()) not in text.split()
    assert max(numbers) < 10


def test_its_end_is_the_end_of_all_in_it(rootfs: str) -> None:
    script = "setsid sleep 1000 & (setsid sleep 1000 &); echo started; sleep 1000"
    container = Container(["sh", "-c", script], Namespaces("pid"), PivotRoot(rootfs)).start(stdin=-3, stdout=-1)
    assert container.stdout is not None
    assert container.stdout.readline() == b"started\n"
    inside = namespaces.tree()["pid"][namespaces.of(container.pid)["pid"]]
    assert len(inside) >= 3
    container.kill()
    assert container.wait() == 137
    container.stdout.close()
    deadline = time.monotonic() + 10
    while any(os.path.exists(f"/proc/{pid}") for pid in inside):  # orphans are reaped by whoever got them
        assert time.monotonic() < deadline
        try:
            os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            pass


@pytest.mark.lab
def test_host_name_is_its_own() -> None:
    before = os.uname()
    assert Container(["uname", "-n"], Namespaces("uts", hostname="box")).output() == "box\n"
    plain = Container(["uname", "-n"], Namespaces("uts"))
    assert plain.output().strip() == plain.id[:12]
    assert os.uname() == before


def test_domain_name_is_its_own() -> None:
    both = ["sh", "-c", "uname -n; cat /proc/sys/kernel/domainname"]
    assert Container(both, Namespaces("uts", hostname="box", domainname="example")).output().split() == [
        "box",
        "example",
    ]
    assert "example" not in Container(both).output()


@pytest.mark.lab
def test_network_is_empty() -> None:
    lines = Container(["cat", "/proc/net/dev"], Namespaces("network")).output().splitlines()[2:]
    assert [line.split(":")[0].strip() for line in lines] == ["lo"]


def test_message_queues_are_its_own() -> None:
    made = subprocess.run(["ipcmk", "-Q"], check=True, capture_output=True, text=True).stdout.split()[-1]
    try:
        count = ["sh", "-c", "tail -n +2 /proc/sysvipc/msg | wc -l"]
        assert Container(count, Namespaces("ipc")).output().strip() == "0"
        assert int(Container(count).output()) >= 1
    finally:
        subprocess.run(["ipcrm", "-q", made], check=True)


@pytest.mark.lab
def test_its_group_is_the_root_of_the_tree_it_sees() -> None:
    lines = Container(["cat", "/proc/self/cgroup"], Namespaces("cgroup")).output().splitlines()
    assert all(line.endswith(":/") for line in lines)


@pytest.mark.parametrize(("clock", "name"), [("boottime", time.CLOCK_BOOTTIME), ("monotonic", time.CLOCK_MONOTONIC)])
def test_clocks_are_offset(clock: str, name: int) -> None:
    def now() -> float:
        return time.clock_gettime(name)

    inside = child(now, Namespaces("time", clock_offsets={clock: 100_000.5}))
    assert 100_000 < inside - now() < 100_060
    assert child(now, Namespaces("time", clock_offsets={clock: -1.25})) < now()


# --------------------------------------------------------------------------------------------------- users


@pytest.mark.lab
def test_root_inside_is_nobody_outside(rootfs: str, shared_path: Path) -> None:
    for path in (Path(rootfs), *Path(rootfs).rglob("*")):
        os.lchown(path, 100_000, 100_000)
    container = Container(["sh", "-c", "id -u; touch /made; exec sleep 1000"], Namespaces(
        "user", "pid", "mount", "ipc", "network"
    ), PivotRoot(rootfs))  # fmt: skip
    with container.start(stdin=-3, stdout=-1):
        assert container.stdout is not None
        assert container.stdout.readline() == b"0\n"
        status = Path(f"/proc/{container.pid}/status").read_text()
        assert "\nUid:\t100000\t100000\t100000\t100000\n" in status
        assert "\nGid:\t100000\t100000\t100000\t100000\n" in status
        assert "\nGroups:\t \n" in status
        assert Path(f"/proc/{container.pid}/uid_map").read_text().split() == [str(n) for n in DEFAULT_MAP[0]]
        deadline = time.monotonic() + 10
        while not os.path.exists(f"{rootfs}/made"):
            assert time.monotonic() < deadline
        assert os.stat(f"{rootfs}/made").st_uid == 100_000
        container.stdout.close()


def test_root_of_a_user_namespace_may_not_touch_the_hosts(shared_path: Path) -> None:
    secret = shared_path / "secret"
    secret.write_text("of the host's root")
    secret.chmod(0o600)

    def attempts() -> list[str]:
        found = []
        for attempt in (
            lambda: secret.read_text(),
            lambda: os.kill(1, 0),
            lambda: linux.mount("none", "/mnt", "tmpfs"),
            lambda: linux.sethostname("taken"),
            lambda: os.mknod(f"/var/tmp/device-{os.getpid()}", 0o20600, os.makedev(1, 3)),
            lambda: os.setuid(200_000),
        ):
            try:
                attempt()
                found.append("done")
            except OSError as error:
                found.append(linux.errno_name(error.errno or 0))
        return found

    assert child(attempts, Namespaces("user")) == ["EACCES", "EPERM", "EPERM", "EPERM", "EPERM", "EINVAL"]
    assert child(lambda: [os.getuid(), os.getgid(), os.getgroups()], Namespaces("user")) == [0, 0, []]


def test_groups_of_the_host_are_given_up(program: Callable[..., Program]) -> None:
    """A group that is not mapped would still open what it may open outside."""
    code = """
os.setgroups([7, 8])
print(child(os.getgroups, Namespaces("user", "pid")), child(os.getgroups, Namespaces("user")))
"""
    assert program(code).finish() == "[] []\n"


def test_maps_can_have_several_ranges() -> None:
    ranges = [(0, 1000, 1), (1, 200_000, 10)]
    text = Container(["cat", "/proc/self/uid_map"], Namespaces("user", uid_map=ranges, gid_map=ranges)).output()
    assert [tuple(map(int, line.split())) for line in text.splitlines()] == ranges


def test_a_map_that_the_kernel_refuses_is_one_clear_error() -> None:
    overlapping = [(0, 100_000, 10), (5, 200_000, 10)]
    with pytest.raises(StartError, match=r"Namespaces could not attach.*uid_map.*EINVAL"):
        Container(["true"], Namespaces("user", uid_map=overlapping)).run()


# ------------------------------------------------------------------------------------------------- joining


@pytest.mark.lab
def test_join_by_pid_and_by_container() -> None:
    with Container(SLEEP, Namespaces("uts", "network", "ipc")).start(stdin=-3, stdout=-3) as first:
        for whose in (first.pid, first):
            with Container(SLEEP, Namespaces(join={"network": whose, "uts": whose})).start(
                stdin=-3, stdout=-3
            ) as second:
                theirs = links(second.pid)
                assert theirs["net"] == links(first.pid)["net"]
                assert theirs["uts"] == links(first.pid)["uts"]
                assert theirs["ipc"] == links("self")["ipc"]


@pytest.mark.lab
def test_join_a_pid_namespace(rootfs: str) -> None:
    with Container(SLEEP, Namespaces("pid"), PivotRoot(rootfs)).start(stdin=-3, stdout=-3) as first:
        view = Container(["sh", "-c", "echo $$; ps"], Namespaces("mount", join={"pid": first}), PivotRoot(rootfs))
        text = view.output()
        assert 1 < int(text.split()[0]) < 10
        assert "sleep 1000" in text
        assert os.readlink("/proc/self/ns/pid_for_children") == os.readlink("/proc/self/ns/pid")


@pytest.mark.parametrize("kind", ["network", "uts", "ipc", "user"])
def test_a_pinned_namespace_outlives_its_processes(kind: str, tmp_path: Path) -> None:
    path = str(tmp_path / "pin")
    container = Container(SLEEP, Namespaces(kind)).start(stdin=-3, stdout=-3)
    inode = namespaces.of(container.pid)[kind]
    namespaces.pin(container, kind, path)
    try:
        container.kill()
        container.wait()
        assert os.stat(path).st_ino == inode
        with Container(SLEEP, Namespaces(join={kind: path})).start(stdin=-3, stdout=-3) as later:
            assert namespaces.of(later.pid)[kind] == inode
    finally:
        namespaces.unpin(path)
    assert not os.path.exists(path)
    namespaces.unpin(path)  # again is no error
    with pytest.raises(NotFoundError, match="pin"):
        Container(["true"], Namespaces(join={kind: path})).run()


@pytest.mark.lab
def test_exec_is_in_all_of_them(rootfs: str) -> None:
    parts = [Namespaces(*[kind for kind in KINDS if kind != "user"], hostname="first"), PivotRoot(rootfs)]
    with Container(SLEEP, *parts, env={"A": "1"}).start(stdin=-3, stdout=-3) as first:
        with first.second(SLEEP).start(stdin=-3, stdout=-3) as second:
            assert links(second.pid) == links(first.pid)
            assert os.stat(f"/proc/{second.pid}/root").st_ino == os.stat(f"/proc/{first.pid}/root").st_ino
        text = first.second(["sh", "-c", "hostname; ps; echo $A; ls /bin/busybox"]).output()
        assert text.split()[0] == "first"
        assert "sleep 1000" in text
        assert text.split()[-2:] == ["1", "/bin/busybox"]
        assert first.exec(["sh", "-c", "exit 7"], stdin=-3) == 7
    with pytest.raises(ContainerError, match="ended"):
        first.exec(["true"])


@pytest.mark.lab
def test_exec_into_a_user_namespace(rootfs: str) -> None:
    for path in (Path(rootfs), *Path(rootfs).rglob("*")):
        os.lchown(path, 100_000, 100_000)
    with (
        Container(SLEEP, Namespaces(*KINDS), PivotRoot(rootfs)).start(stdin=-3, stdout=-3) as first,
        first.second(SLEEP).start(stdin=-3, stdout=-3) as second,
    ):
        assert links(second.pid) == links(first.pid)
        assert "\nUid:\t100000\t" in Path(f"/proc/{second.pid}/status").read_text()


def test_two_containers_of_one_network_meet_on_loopback(rootfs: str) -> None:
    def up_and_listen() -> None:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        with socket.create_server(("127.0.0.1", 8099)) as server:
            print("up", flush=True)
            with server.accept()[0] as peer:
                peer.sendall(b"met")

    with Container(up_and_listen, Namespaces("network")).start(stdin=-3, stdout=-1) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"up\n"

        def call() -> str:
            with socket.create_connection(("127.0.0.1", 8099), timeout=10) as peer:
                return peer.recv(10).decode()

        assert child(call, Namespaces(join={"network": first})) == "met"
        first.stdout.close()
        assert first.wait(10) == 0


# ------------------------------------------------------------------------------------------------ bad input


def test_what_makes_no_sense() -> None:
    for wrong, word in (
        (lambda: Namespaces("nonesuch"), "nonesuch"),
        (lambda: Namespaces(join={"nonesuch": 1}), "nonesuch"),
        (lambda: Namespaces("uts", join={"uts": 1}), "not both"),
        (lambda: Namespaces("pid", hostname="x"), "uts"),
        (lambda: Namespaces("uts", hostname="x" * 65), "64"),
        (lambda: Namespaces("pid", clock_offsets={"boottime": 1}), "time"),
        (lambda: Namespaces("time", clock_offsets={"realtime": 1}), "boottime"),
        (lambda: Namespaces(join={"uts": Container(["true"])}), "start it first"),
    ):
        with pytest.raises(UsageError, match=word):
            wrong()  # type: ignore[no-untyped-call]


def test_joining_what_is_gone() -> None:
    with pytest.raises(NotFoundError, match="has the process ended"):
        Container(["true"], Namespaces(join={"network": 2**22 - 1})).run()
    with pytest.raises(StartError, match=r"setns.*EINVAL"):
        Container(["true"], Namespaces(join={"network": "/proc/self/ns/uts"})).run()
