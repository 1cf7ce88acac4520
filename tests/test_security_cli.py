"""The options of `minicontainer run` about security, as a user's shell sees them."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from minicontainer.images import pull, remove

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CLI = [sys.executable, "-m", "minicontainer.cli"]
STATUS = ["sh", "-c", "grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status | cut -f 2"]


@pytest.fixture(scope="module")
def image(busybox_image: str) -> Iterator[str]:
    pull(busybox_image)
    yield busybox_image
    remove(busybox_image)


def mc(*words: str, status: int = 0) -> str:
    done = subprocess.run([*CLI, *words], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout if status == 0 else done.stderr


def run(image: str, *options: str, command: list[str] = STATUS) -> list[str]:
    return mc("run", "--rm", "--network", "none", *options, image, *command).split()


def test_a_plain_run_has_dockers_security(image: str) -> None:
    usual = "00000000a80425fb"
    assert run(image) == [usual, usual, "0", "2"]
    assert run(image, "-u", "1000") == ["0" * 16, usual, "0", "2"]
    assert run(image, "--init") == [usual, usual, "0", "2"]
    assert run(image, "--userns", "private") == [usual, usual, "0", "2"]


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (["--cap-drop", "ALL"], ["0" * 16, "0" * 16, "0", "2"]),
        (["--cap-drop", "ALL", "--cap-add", "chown"], ["0" * 15 + "1", "0" * 15 + "1", "0", "2"]),
        (["--security-opt", "no-new-privileges"], ["00000000a80425fb", "00000000a80425fb", "1", "2"]),
        (["--security-opt", "seccomp=unconfined"], ["00000000a80425fb", "00000000a80425fb", "0", "0"]),
    ],
)
def test_options_reach_the_kernel(image: str, options: list[str], wanted: list[str]) -> None:
    assert run(image, *options) == wanted


def test_privileged_takes_nothing_away(image: str) -> None:
    with open("/proc/self/status") as file:
        ours = next(line.split()[1] for line in file if line.startswith("CapPrm"))
    assert run(image, "--privileged") == [ours, ours, "0", "0"]
    script = "mount -t tmpfs none /tmp && test -w /proc/sys/kernel/hostname && ls /dev/loop-control"
    assert run(image, "--privileged", command=["sh", "-c", script]) == ["/dev/loop-control"]


def test_limits_settings_and_devices(image: str) -> None:
    options = ["--ulimit", "nofile=100:200", "--oom-score-adj", "300", "--sysctl", "net.ipv4.ip_forward=1"]
    script = "ulimit -n; ulimit -Hn; cat /proc/self/oom_score_adj /proc/sys/net/ipv4/ip_forward; ls /dev/loop-control"
    options += ["--device", "/dev/loop-control"]
    assert run(image, *options, command=["sh", "-c", script]) == ["100", "200", "300", "1", "/dev/loop-control"]


def test_a_profile_from_a_file(image: str, tmp_path: Path) -> None:
    rules = [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]
    (tmp_path / "profile").write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}))
    option = f"seccomp={tmp_path}/profile"
    said = run(image, "--security-opt", option, command=["sh", "-c", "mkdir /tmp/x 2>&1 || true"])
    assert "No space left on device" in " ".join(said)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--cap-add", "EVERYTHING"], "EVERYTHING"),
        (["--security-opt", "selinux"], "selinux"),
        (["--security-opt", "seccomp=/no/such/file"], "/no/such/file"),
        (["--ulimit", "nofile"], "nofile"),
        (["--sysctl", "kernel.core_pattern=|/bin/sh"], "kernel.core_pattern"),
        (["--sysctl", "net.ipv4.ip_forward=1", "--network", "host"], "net.ipv4.ip_forward"),
        (["--device", "/dev/nothing"], "/dev/nothing"),
        (["--oom-score-adj", "2000"], "2000"),
    ],
)
def test_what_makes_no_sense_is_one_clear_line(image: str, options: list[str], word: str) -> None:
    network = [] if "--network" in options else ["--network", "none"]
    text = mc("run", "--rm", *network, *options, image, "true", status=125)
    assert word in text
    assert text.count("\n") == 1


def test_exec_gets_no_more_than_the_container_unless_it_is_told_to(image: str) -> None:
    name = "security-exec"
    options = ["--cap-drop", "KILL", "--security-opt", "no-new-privileges", "-u", "1000", "--ulimit", "nofile=77"]
    mc("run", "-d", "--rm", "--network", "none", "--name", name, *options, image, "sleep", "1000")
    try:
        assert mc("exec", name, *STATUS).split() == ["0" * 16, "00000000a80425db", "1", "2"]
        assert mc("exec", name, "sh", "-c", "id -u; ulimit -n").split() == ["1000", "77"]
        assert mc("exec", "-u", "0", name, *STATUS).split() == ["00000000a80425db", "00000000a80425db", "1", "2"]
        assert mc("exec", "-u", "0", "--privileged", name, *STATUS).split()[3] == "0"
        told = mc("audit", name)
        assert "pids.max" in told
        weak = json.loads(mc("audit", "--quiet", "--json", name))
        assert {one["subject"] for one in weak} == {"pids.max", "memory.max"}
    finally:
        mc("rm", "-f", name)


def test_audit_wants_one_that_runs() -> None:
    assert "there is no container nobody" in mc("audit", "nobody", status=1)
