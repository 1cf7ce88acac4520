"""Chapter 9, called by those it is for: dockerd, containerd's shim for runc, buildah. (podman: test_runtime.py)

Each is one of our own, with state, sockets and namespaces of its own, that ends with the test.
"""

from __future__ import annotations

import os
import subprocess
import time
from typing import TYPE_CHECKING

import engines
import pytest
from engines import PREPARE, PRIVATE, Engine, groups, needs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MEGABYTE = 1 << 20


@pytest.fixture
def directory() -> Iterator[Path]:
    with engines.place() as place:
        yield place


@pytest.fixture
def runtime(directory: Path) -> str:
    return engines.script(directory)


def terminal(engine: Engine, *words: str) -> str:
    """What a command of the client prints on a terminal."""
    line = " ".join([*engine.client, *words])
    done = subprocess.run(
        engine.enter("script", "-qec", line, "/dev/null"),
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.replace("\0", "").replace("\r", "")


# ----------------------------------------------------------------------------------------------------------- docker


@pytest.fixture
def docker(directory: Path, runtime: str, rootfs: str) -> Iterator[Engine]:
    """A dockerd with our runtime as its default one, and a bridge, in a network namespace of its own."""
    with groups(f"minicontainer-test-{os.getpid()}") as parent:
        engine = engines.dockerd(directory, runtime, parent)
        try:
            archive = directory / "root.tar"
            subprocess.run(["tar", "-C", rootfs, "-cf", archive, "."], check=True)
            engine.tell("import", os.fspath(archive), "box")
            yield engine
            ids = engine.tell("ps", "-aq").split()
            if ids:
                engine.tell("rm", "--force", *ids)
        finally:
            engine.close()


@needs("dockerd", "docker.io")
def test_docker_runs_its_containers_with_it(docker: Engine) -> None:
    run = ("run", "--rm")
    assert docker.tell(*run, "box", "echo", "hello") == "hello\n"
    assert docker.tell(*run, "-i", "box", "cat", input="from outside") == "from outside"
    assert "/dev/pts/0" in terminal(docker, *run, "-t", "box", "tty")
    docker.tell(*run, "box", "sh", "-c", "exit 5", code=5)
    docker.tell(*run, "box", "sh", "-c", "kill -9 $$; sleep 1")  # PID 1 does not kill itself
    docker.tell(*run, "box", "/no/such/command", code=127)
    docker.tell(*run, "box", "no-such-command", code=127)
    docker.tell(*run, "box", "/etc", code=126)
    docker.tell(*run, "-m", "16m", "box", "sh", "-c", "x=$(tail -c 64000000 /dev/zero)", code=137)


@needs("dockerd", "docker.io")
def test_what_docker_asks_for_is_so_in_the_container(docker: Engine) -> None:
    def inside(*options: str, shell: str) -> str:
        return docker.tell("run", "--rm", *options, "box", "sh", "-c", shell)

    show = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max"
    assert inside("-m", "64m", shell=show) == f"{64 * MEGABYTE}\n"
    assert inside("--read-only", "--tmpfs", "/tmp", shell="touch /tmp/a; touch /b 2>/dev/null; echo $?") == "1\n"
    rights = inside("--cap-drop", "ALL", "--security-opt", "no-new-privileges", shell="cat /proc/self/status")
    assert "CapEff:\t0000000000000000\n" in rights
    assert "NoNewPrivs:\t1\n" in rights
    assert "Seccomp:\t2\n" in rights
    assert inside("--ulimit", "nofile=100:200", shell="ulimit -n; ulimit -Hn") == "100\n200\n"
    assert inside("--sysctl", "net.ipv4.ip_forward=1", shell="cat /proc/sys/net/ipv4/ip_forward") == "1\n"
    assert inside("--init", shell="readlink /proc/1/exe").endswith("docker-init\n")
    who = inside("-u", "1000:60", "-w", "/tmp", "-e", "A=b", shell="id -u; id -g; pwd; echo $A")
    assert who == "1000\n60\n/tmp\nb\n"
    count = "hostname; ip -o link | grep -c ether || true"
    assert inside("--hostname", "box1", "--network", "none", shell=count) == "box1\n0\n"
    assert "172.17." in inside(shell="ip addr")  # the default bridge
    assert (
        inside("--network", "host", shell="readlink /proc/self/ns/net")
        == os.readlink(f"/proc/{docker.process.pid}/ns/net") + "\n"
    )
    assert int(inside("--privileged", shell="ls /dev | wc -l")) > 20
    assert "/dev/fuse" in inside("--device", "/dev/null:/dev/fuse", shell="ls /dev/fuse")


@needs("dockerd", "docker.io")
def test_a_container_lives_its_whole_life_under_docker(docker: Engine) -> None:
    docker.tell("run", "-d", "--name", "one", "--health-cmd", "true", "--health-interval", "1s", "box", "sleep", "1000")
    ask = "{{.State.Status}} {{.HostConfig.Runtime}}"
    assert docker.tell("inspect", "-f", ask, "one") == "running ours\n"
    docker.tell("exec", "one", "sh", "-c", "exit 9", code=9)
    assert docker.tell("exec", "-u", "1000", "-w", "/tmp", "-e", "A=b", "one", "sh", "-c", "id -un; pwd; echo $A") == (
        "learner\n/tmp\nb\n"
    )
    assert "/dev/pts/0" in terminal(docker, "exec", "-t", "one", "tty")
    assert "sleep 1000" in docker.tell("top", "one")
    beside = docker.tell("run", "--rm", "--network", "container:one", "--pid", "container:one", "box", "ps")
    assert beside.count("sleep") == 1
    docker.tell("pause", "one")
    assert docker.tell("inspect", "-f", ask, "one") == "paused ours\n"
    docker.tell("unpause", "one")
    docker.tell("update", "-m", "32m", "--memory-swap", "-1", "one")
    show = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max"
    assert docker.tell("exec", "one", "sh", "-c", show) == f"{32 * MEGABYTE}\n"
    deadline = time.monotonic() + 30
    while docker.tell("inspect", "-f", "{{.State.Health.Status}}", "one") != "healthy\n":
        assert time.monotonic() < deadline, "it does not become healthy"
        time.sleep(0.2)
    docker.tell("restart", "-t", "0", "one")
    docker.tell("stop", "-t", "0", "one")
    assert docker.tell("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "one") == "exited 137\n"
    docker.tell("start", "one")
    docker.tell("kill", "one")
    docker.tell("rm", "--force", "one")
    assert docker.tell("ps", "-aq") == ""


# ------------------------------------------------------------------------------------------------------- containerd


@pytest.fixture
def containerd(directory: Path) -> Iterator[Engine]:
    """A containerd with ctr beside it. Its default namespace's containers have their group below /default."""
    settings = directory / "config.toml"
    settings.write_text(
        f"""
version = 2
root = "{directory}/root"
state = "{directory}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "{directory}/socket"
[ttrpc]
  address = "{directory}/ttrpc"
[plugins."io.containerd.internal.v1.opt"]
  path = "{directory}/opt"
"""
    )
    name = f"minicontainer-test-{os.getpid()}"
    with groups(name):
        client = ["ctr", "--address", f"{directory}/socket", "--namespace", name]
        engine = Engine(directory, ["containerd", "--config", os.fspath(settings)], client, ["version"])
        try:
            yield engine
        finally:
            engine.close()


@needs("ctr", "containerd")
def test_containerds_shim_runs_containers_with_it(containerd: Engine, runtime: str, rootfs: str) -> None:
    # BinaryName of its options for io.containerd.runc.v2
    options = ("--runc-binary", runtime, "--env", "PATH=/bin")

    def run(*more: str, command: list[str], code: int = 0, name: str = "c1") -> str:
        return containerd.tell("run", "--rm", *options, *more, "--rootfs", rootfs, name, *command, code=code)

    assert run(command=["echo", "hello"]) == "hello\n"
    run(command=["sh", "-c", "exit 5"], code=5)
    refused = containerd.ask("run", "--rm", *options, "--rootfs", rootfs, "c1", "/etc")
    assert "permission denied" in refused.stderr
    assert "Seccomp:\t2\n" in run("--seccomp", "--read-only", command=["cat", "/proc/self/status"])
    bind = f"type=bind,src={rootfs}/etc,dst=/tmp,options=rbind:ro"
    assert "passwd" in run("--mount", bind, "--memory-limit", str(64 * MEGABYTE), command=["ls", "/tmp"])

    containerd.tell("run", "--detach", *options, "--rootfs", rootfs, "one", "sleep", "1000")
    try:
        task = ("task", "exec", "--exec-id", "e1", "one")
        assert containerd.tell(*task, "cat", "/proc/1/cmdline") == "sleep\0001000\0"
        containerd.tell(*task, "sh", "-c", "exit 9", code=9)
        containerd.tell("task", "pause", "one")
        assert "PAUSED" in containerd.tell("task", "ls")
        containerd.tell("task", "resume", "one")
        assert "RUNNING" in containerd.tell("task", "ls")
        pid = containerd.tell("task", "ps", "one").splitlines()[1].split()[0]
        assert os.readlink(f"/proc/{pid}/exe").endswith("busybox")
    finally:
        containerd.tell("task", "kill", "--signal", "KILL", "one")
        deadline = time.monotonic() + 20
        while "RUNNING" in containerd.tell("task", "ls"):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        containerd.ask("task", "delete", "one")
        containerd.tell("container", "delete", "one")
    assert containerd.tell("container", "ls", "-q") == ""


# ---------------------------------------------------------------------------------------------------------- buildah


@pytest.fixture
def buildah(directory: Path, runtime: str) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Asks a buildah with storage of its own, whose containers are made by our runtime."""
    settings = directory / "containers.conf"
    # its defaults would raise the hard limits, which not every root may
    settings.write_text('[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]\n')
    base = ["buildah", "--root", f"{directory}/root", "--runroot", f"{directory}/run", "--storage-driver", "vfs"]

    def ask(verb: str, *words: str) -> subprocess.CompletedProcess[str]:
        how = ["--runtime", runtime, "--isolation", "oci"] if verb in ("run", "build") else []
        return subprocess.run(
            [*PRIVATE, *PREPARE, *base, verb, *how, *words],
            env={**os.environ, "CONTAINERS_CONF": os.fspath(settings), "TMPDIR": os.fspath(directory)},
            capture_output=True,
            text=True,
            timeout=120,
        )

    return ask


@needs("buildah", "buildah")
def test_buildah_builds_with_it(
    directory: Path, rootfs: str, buildah: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    context = directory / "context"
    context.mkdir()
    subprocess.run(["tar", "-C", rootfs, "-cf", context / "root.tar", "."], check=True)
    (context / "Dockerfile").write_text(
        "FROM scratch\nADD root.tar /\nRUN echo built > /made && id -u\nUSER learner\nRUN id -un && cat /made\n"
    )
    done = buildah("build", "--network", "none", "--tag", "box", os.fspath(context))
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if not line.startswith("STEP")][:3] == ["0", "learner", "built"]
    name = buildah("from", "box").stdout.strip()
    assert buildah("run", name, "--", "cat", "/made").stdout == "built\n"
    assert "exit status 5" in buildah("run", name, "--", "sh", "-c", "exit 5").stderr
    assert buildah("rm", "--all").returncode == 0
    assert buildah("rmi", "--all", "--force").returncode == 0
