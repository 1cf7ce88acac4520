"""Names: resolv.conf, hosts and hostname in the container. And the networks that are none of ours."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

import pytest

from minicontainer import linux
from minicontainer.chroot import PivotRoot
from minicontainer.container import Container
from minicontainer.errors import NotFoundError, StartError
from minicontainer.namespaces import Namespaces
from minicontainer.network import Bridge, HostNetwork, JoinNetwork, NoNetwork, files

if TYPE_CHECKING:
    from pathlib import Path

    from networks import Machine

    from minicontainer.container import Part

pytest_plugins = ["networks"]

BUSYBOX = "/bin/busybox"


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    """A root with a shell and an /etc."""
    root = tmp_path / "rootfs"
    for name in ("bin", "etc", "proc", "sys", "dev", "tmp"):
        (root / name).mkdir(parents=True)
    subprocess.run(["cp", BUSYBOX, root / "bin"], check=True)
    for name in ("sh", "cat", "ls", "stat", "readlink"):
        (root / "bin" / name).symlink_to("busybox")
    for name in files.NAMES:
        (root / "etc" / name).write_text("the image's own\n")
    return root


def read(network: Part, rootfs: Path, *names: str) -> list[str]:
    """What the container reads in its /etc."""
    program = "; echo ----; ".join(f"cat /etc/{name}" for name in names)
    return Container(["/bin/sh", "-c", program], PivotRoot(str(rootfs)), network).output().split("----\n")


def test_container_finds_itself_and_the_hosts_name_servers(
    machine: Machine, rootfs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _pretend(monkeypatch, {"/etc/resolv.conf": "search example.org\nnameserver 127.0.0.53\nnameserver 192.0.2.53\n"})
    bridge = Bridge()
    container = Container(
        ["/bin/sh", "-c", "cat /etc/hosts /etc/resolv.conf /etc/hostname"], PivotRoot(str(rootfs)), bridge
    )
    shown = container.output()
    assert f"{bridge.address}\t{container.id[:12]}\n" in shown
    assert "127.0.0.1\tlocalhost\n" in shown
    assert "search example.org\nnameserver 192.0.2.53\n" in shown
    assert "127.0.0.53" not in shown
    assert shown.endswith(f"\n{container.id[:12]}\n")
    assert all((rootfs / "etc" / name).read_text() == "the image's own\n" for name in files.NAMES)
    assert machine.view()["files"] == []


def test_stub_resolver_is_replaced_by_those_it_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend(
        monkeypatch,
        {
            "/etc/resolv.conf": "nameserver 127.0.0.53\noptions edns0\n",
            "/run/systemd/resolve/resolv.conf": "nameserver 192.0.2.1\n",
        },
    )
    assert files.resolver() == "nameserver 192.0.2.1\n"


def test_without_any_reachable_server_none_is_invented(monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend(monkeypatch, {"/etc/resolv.conf": "nameserver ::1\nsearch example.org\n"})
    assert files.resolver() == "search example.org\n"


def _pretend(monkeypatch: pytest.MonkeyPatch, texts: dict[str, str]) -> None:
    monkeypatch.setattr(files, "_lines", lambda path: texts.get(path, "").splitlines(keepends=True))


@pytest.mark.parametrize("link", ["{outside}", "../../../../../../../../{outside}"])
def test_link_in_the_image_does_not_lead_the_mount_out(
    machine: Machine, rootfs: Path, tmp_path: Path, link: str
) -> None:
    outside = tmp_path / "secret"
    outside.write_text("the host's own\n")
    (rootfs / "etc/hosts").unlink()
    (rootfs / "etc/hosts").symlink_to(link.format(outside=outside))
    before = mounts()
    shown = read(Bridge(), rootfs, "hosts")
    assert "localhost" in shown[0]
    assert outside.read_text() == "the host's own\n"
    assert mounts() == before


def test_link_through_proc_is_refused(machine: Machine, rootfs: Path) -> None:
    """/proc/1/root is no path but a jump to wherever process 1 is; openat2 jumps for nobody."""
    (rootfs / "etc/hosts").unlink()
    (rootfs / "etc/hosts").symlink_to("/proc/1/root/etc/hosts")
    before = machine.view(), mounts()
    with pytest.raises(StartError, match="Bridge could not mount"):
        read(Bridge(), rootfs, "hosts")
    assert (machine.view(), mounts()) == before


def mounts() -> str:
    with open("/proc/self/mountinfo") as file:
        return file.read()


def test_link_that_leads_nowhere_gets_the_file_at_its_end(machine: Machine, rootfs: Path) -> None:
    (rootfs / "etc/resolv.conf").unlink()
    (rootfs / "etc/resolv.conf").symlink_to("../run/systemd/resolve/stub-resolv.conf")
    shown = read(Bridge(), rootfs, "resolv.conf", "hosts")
    assert shown[0] == files.resolver()
    assert not (rootfs / "run/systemd/resolve/stub-resolv.conf").read_text()


def test_image_without_etc_gets_one(machine: Machine, rootfs: Path) -> None:
    for name in files.NAMES:
        (rootfs / "etc" / name).unlink()
    (rootfs / "etc").rmdir()
    assert "localhost" in read(Bridge(), rootfs, "hosts")[0]


def test_container_may_write_its_hosts_but_make_no_device_of_it(machine: Machine, rootfs: Path) -> None:
    program = "echo 192.0.2.7 there >> /etc/hosts && cat /etc/hosts && cat /proc/self/mountinfo"
    shown = Container(["/bin/sh", "-c", program], PivotRoot(str(rootfs)), Bridge()).output()
    assert "192.0.2.7 there\n" in shown
    line = next(line for line in shown.splitlines() if " /etc/hosts " in line)
    assert {"nosuid", "nodev", "noexec"} <= set(line.split()[5].split(","))


def test_host_network_is_the_hosts(machine: Machine, rootfs: Path) -> None:
    own = os.readlink("/proc/self/ns/net")
    network = HostNetwork()
    shown = Container(
        ["/bin/sh", "-c", "readlink /proc/self/ns/net; cat /etc/resolv.conf"], PivotRoot(str(rootfs)), network
    )
    with open("/etc/resolv.conf") as file:
        assert shown.output() == f"{own}\n{file.read()}"
    assert machine.view()["files"] == []


def test_no_network_is_a_loopback_that_is_up(machine: Machine, rootfs: Path) -> None:
    before = machine.view()
    container = Container(["/bin/sleep", "100"], NoNetwork())
    container.start()
    machine.containers.append(container)
    done = subprocess.run(
        ["nsenter", "-t", str(container.pid), "-n", "ip", "-o", "addr"], capture_output=True, text=True, check=True
    )
    assert {line.split()[1] for line in done.stdout.splitlines()} == {"lo"}
    assert "inet 127.0.0.1/8" in done.stdout
    assert machine.view()["links"] == before["links"]
    assert os.readlink(f"/proc/{container.pid}/ns/net") != os.readlink("/proc/self/ns/net")
    assert "localhost" in read(NoNetwork(), rootfs, "hosts")[0]


def test_joined_container_shares_address_ports_and_names(machine: Machine, rootfs: Path) -> None:
    bridge = Bridge(publish={8080: 80})
    first = Container(["/bin/sh", "-c", "read x"], PivotRoot(str(rootfs)), bridge)
    first.start(stdin=subprocess.PIPE)
    machine.containers.append(first)
    second = Container([sys.executable, "-m", "http.server", "-d", str(rootfs / "etc"), "80"], JoinNetwork(first.pid))
    second.start(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    machine.containers.append(second)
    assert os.readlink(f"/proc/{first.pid}/ns/net") == os.readlink(f"/proc/{second.pid}/ns/net")
    argv = ["curl", "-s", "--retry", "20", "--retry-connrefused", "--retry-delay", "1", "http://127.0.0.1:8080/hosts"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, env=machine.environment)
    assert done.stdout == "the image's own\n"
    assert f"{bridge.address}\t{first.id[:12]}\n" in read(JoinNetwork(first.pid), rootfs, "hosts")[0]
    assert first.stdin is not None
    first.stdin.close()


def test_network_namespace_kept_by_a_file_can_be_joined(machine: Machine, rootfs: Path, tmp_path: Path) -> None:
    holder = machine.keep(["unshare", "-n", "sh", "-c", "echo ready; exec sleep 1000"])
    path = f"/proc/{holder.pid}/ns/net"
    shown = Container(["/bin/readlink", "/proc/self/ns/net"], PivotRoot(str(rootfs)), JoinNetwork(path)).output()
    assert shown.strip() == os.readlink(path)


@pytest.mark.parametrize("target", [2**22 - 1, "/nowhere/netns"])
def test_network_that_is_not_there_cannot_be_joined(machine: Machine, target: int | str) -> None:
    before = machine.view()
    with pytest.raises(NotFoundError, match="no network namespace"):
        Container(["/bin/true"], JoinNetwork(target)).run()
    assert machine.view() == before


def test_joined_containers_link_does_not_show_us_a_file_of_the_host(
    machine: Machine, rootfs: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("the host's own\n")
    first = Container(["/bin/sh", "-c", "mount -t tmpfs none /etc; read x"], PivotRoot(str(rootfs)))
    for name in files.NAMES:
        (rootfs / "etc" / name).unlink()
    (rootfs / "etc/hosts").symlink_to(str(secret))
    first.start(stdin=subprocess.PIPE)
    machine.containers.append(first)
    assert files.read_inside(f"/proc/{first.pid}/root", "/etc/hosts") is None
    os.mkfifo(rootfs / "etc/hostname")
    assert files.read_inside(f"/proc/{first.pid}/root", "/etc/hostname") is None
    assert first.stdin is not None
    first.stdin.close()


def test_mapped_root_gets_address_and_files(machine: Machine, rootfs: Path) -> None:
    """In a user namespace of its own: its process may set up the network because that belongs to it."""
    mapped = [(0, 100000, 65536)]
    own_view = Namespaces("user", "pid", "ipc", "mount", "network", uid_map=mapped, gid_map=mapped)
    bridge = Bridge()
    with tempfile.TemporaryDirectory(dir="/var/tmp") as place:  # pytest's own directories let no other user through
        os.chmod(place, 0o755)
        shutil.copytree(rootfs, f"{place}/rootfs", symlinks=True)
        argv = ["/bin/sh", "-c", "cat /etc/hosts; /bin/busybox ip addr"]
        shown = Container(argv, own_view, PivotRoot(f"{place}/rootfs"), bridge).output()
    assert f"{bridge.address}\t" in shown
    assert f"inet {bridge.address}/16" in shown


def test_second_command_is_in_the_same_network(machine: Machine, rootfs: Path) -> None:
    bridge = Bridge()
    first = Container(["/bin/sleep", "100"], Namespaces("pid", "network"), bridge)
    first.start()
    machine.containers.append(first)
    with os.fdopen(os.memfd_create("output"), "w+b") as file:
        assert first.exec(["/usr/sbin/ip", "-o", "-4", "addr", "show", "eth0"], stdout=file) == 0
        file.seek(0)
        assert f"inet {bridge.address}/16".encode() in file.read()


@pytest.mark.parametrize("side", ["fail_at", "inside_fail_at"])
@pytest.mark.parametrize("network", [HostNetwork, NoNetwork, Bridge])
def test_fault_at_any_step_on_either_side_leaves_nothing(
    machine: Machine, rootfs: Path, network: type[Part], side: str
) -> None:
    before, step = (machine.view(), mounts()), 0
    while True:
        step += 1
        container = Container(["/bin/sh", "-c", "exit 0"], PivotRoot(str(rootfs)), network())
        with linux.watch(linux.Watch(**{side: step})):
            try:
                code = container.run()
            except (OSError, StartError):
                code = -1
        container.release()
        assert (machine.view(), mounts()) == before, f"step {step}"
        if code == 0:
            break
    assert step > (4 if side == "fail_at" else 30)
