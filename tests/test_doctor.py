"""doctor must be right in both directions: on a machine that can do it, and on one that lacks this or that."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from minicontainer import linux
from minicontainer.cli.doctor import Check, doctor

if TYPE_CHECKING:
    from pathlib import Path

DOCTOR = [sys.executable, "-I", "-m", "minicontainer.cli", "doctor"]


def diagnosis(*before: str) -> tuple[int, dict[str, str]]:
    """Exit status of the command, run by way of another one, and its lines that do not say OK, by name."""
    done = subprocess.run([*before, *DOCTOR], capture_output=True, text=True)
    assert done.stderr == ""
    lines = [line for line in done.stdout.splitlines() if line.startswith(("FAIL", "LACKS", " " * 26))]
    found: dict[str, str] = {}
    for line in lines:
        if line.startswith(" "):
            found[list(found)[-1]] += line.strip()
        else:
            found[line[6:26].strip()] = line
    return done.returncode, found


def test_this_machine_can_do_all_that_is_needed() -> None:
    checks = {check.name: check for check in doctor()}
    assert {name: str(check) for name, check in checks.items() if check.needed and not check.ok} == {}
    assert {f"namespace {kind}" for kind in ("mnt", "uts", "ipc", "pid", "net", "user", "cgroup", "time")} <= set(
        checks
    )
    status, complaints = diagnosis()
    assert status == 0
    assert not [line for line in complaints.values() if line.startswith("FAIL")]


def test_it_may_be_asked_by_a_program_with_threads_and_changes_nothing_of_it() -> None:
    import os
    import threading

    ended = threading.Event()
    thread = threading.Thread(target=ended.wait)
    thread.start()
    namespaces = {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in os.listdir("/proc/self/ns")}
    try:
        assert doctor()
        assert namespaces == {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in os.listdir("/proc/self/ns")}
    finally:
        ended.set()
        thread.join()


@pytest.mark.parametrize(
    ("capability", "also"),
    [
        ("net_admin", {"bridge and veth", "firewall"}),
        ("sys_admin", {"namespace uts", "pivot_root", "overlayfs", "kernel"}),
        ("mknod", set()),
    ],
)
def test_a_missing_capability_is_named_and_so_is_what_it_breaks(capability: str, also: set[str]) -> None:
    status, complaints = diagnosis("setpriv", f"--bounding-set=-{capability}")
    assert status == 1
    assert f"CAP_{capability.upper()}" in complaints["root"]
    assert "sudo" in complaints["root"]
    assert also <= set(complaints)


def test_a_filesystem_that_cannot_carry_an_upper_directory_is_found_by_mounting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("lower", "upper", "work", "merged"):
        (tmp_path / name).mkdir()
    options = f"lowerdir={tmp_path}/lower,upperdir={tmp_path}/upper,workdir={tmp_path}/work"
    linux.mount("overlay", str(tmp_path / "merged"), "overlay", 0, options)
    monkeypatch.setenv("MINICONTAINER_DATA_ROOT", str(tmp_path / "merged" / "data"))
    try:
        status, complaints = diagnosis()
    finally:
        linux.umount2(str(tmp_path / "merged"))
    assert status == 1
    assert "EINVAL" in complaints["overlayfs"]
    assert "MINICONTAINER_DATA_ROOT" in complaints["overlayfs"]


def test_a_missing_nft_is_named_with_its_package() -> None:
    hide = 'mount -t tmpfs none /usr/sbin 2>/dev/null; exec "$@"'
    status, complaints = diagnosis("unshare", "--mount", "sh", "-c", hide, "sh")
    assert status == 1
    assert "apt-get install nftables" in complaints["firewall"]


def test_a_check_reads_as_one_line_and_its_mend() -> None:
    assert str(Check("root", True, "yes")) == "OK    root                yes"
    assert str(Check("root", False, "no", "sudo")).splitlines() == [
        "FAIL  root                no",
        "                          mend: sudo",
    ]
    assert str(Check("space", False, "1 MiB", "free some", needed=False)).startswith("LACKS space")
