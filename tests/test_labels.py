"""Labels: written where the kernel looks for them, in time; and obeyed, on a kernel that has AppArmor.

`make test-v2` boots one: Debian's. There the profile is a real one; anywhere else the kernel's file is one of ours.
tests/test_selinux.py has the same for SELinux.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from minicontainer import Container, Namespaces, PivotRoot, linux
from minicontainer.errors import HostError, UsageError
from minicontainer.security import AppArmor, Capabilities, NoNewPrivs, SELinux, labels

if TYPE_CHECKING:
    from collections.abc import Iterator

MAIN = Path(__file__).resolve().parent.parent / "minicontainer/runtime/__main__.py"
PARSER = shutil.which("apparmor_parser", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
NAME = "minicontainer-test"
PROFILE = f"""
profile {NAME} flags=(attach_disconnected,mediate_deleted) {{
  file,
  capability,
  mount,
  signal,
  ptrace,
  network,
  unix,
  deny /**/forbidden rw,
  deny /forbidden rw,
}}
"""

without_apparmor = pytest.mark.skipif(labels.has_apparmor(), reason="this kernel runs AppArmor")
with_apparmor = pytest.mark.skipif(
    not (labels.has_apparmor() and PARSER),
    reason="needs a kernel that runs AppArmor, and its apparmor_parser (make test-v2 boots one)",
)


# ------------------------------------------------------------------------------------------ the way it is written


@pytest.fixture
def attributes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In place of /proc/self/attr: a directory with a file `exec`; the kernel says that it runs both."""
    enabled = tmp_path / "enabled"
    enabled.write_text("Y\n")
    (tmp_path / "filesystems").write_text("nodev\tproc\nnodev\tselinuxfs\n\text4\n")
    (tmp_path / "current").write_text("system_u:system_r:kernel_t:s0\0")
    (tmp_path / "exec").write_text("")
    monkeypatch.setattr(labels, "_APPARMOR", os.fspath(enabled))
    monkeypatch.setattr(labels, "_FILESYSTEMS", os.fspath(tmp_path / "filesystems"))
    monkeypatch.setattr(labels, "_CURRENT", os.fspath(tmp_path / "current"))
    return tmp_path


def part(kind: str, attributes: Path) -> AppArmor | SELinux:
    made = AppArmor(NAME) if kind == "apparmor" else SELinux("system_u:system_r:container_t:s0:c1,c2")
    made.directory = os.fspath(attributes)  # travels with the part; the class's own would not
    return made


TEXTS = {"apparmor": f"exec {NAME}", "selinux": "system_u:system_r:container_t:s0:c1,c2"}


@without_apparmor
@pytest.mark.parametrize("kind", TEXTS)
def test_a_label_is_written_to_the_hosts_file_from_inside_of_another_root(
    attributes: Path, rootfs: str, kind: str
) -> None:
    """By then a path means what the image has there: the directory was opened before (CVE-2019-16884)."""
    label = part(kind, attributes)
    calls: list[linux.Call] = []
    with linux.trace(calls.append):
        assert Container(["true"], PivotRoot(rootfs), label).run() == 0
    assert (attributes / "exec").read_text() == TEXTS[kind]
    writes = [call for call in calls if call.name == "write" and TEXTS[kind] in call.arguments]
    assert [call.label for call in writes] == [f"{type(label).__name__}.seal"]
    names = [call.name for call in calls]
    assert calls.index(writes[0]) < names.index("execve")


@without_apparmor
@pytest.mark.parametrize("kind", TEXTS)
def test_a_label_that_the_kernel_refuses_is_said_with_its_name(attributes: Path, kind: str) -> None:
    (attributes / "exec").unlink()
    (attributes / "exec").mkdir()  # EISDIR, for want of a kernel that says ENOENT
    with pytest.raises(HostError, match=rf"{NAME if kind == 'apparmor' else 'container_t'}.* cannot be used: EISDIR"):
        Container(["true"], Namespaces("mount"), part(kind, attributes)).run()


def test_a_kernel_without_a_policy_does_not_run_selinux(attributes: Path) -> None:
    """It would take whatever context is written for the only one it has."""
    assert labels.has_selinux()
    (attributes / "current").write_text("kernel\0")
    with pytest.raises(HostError, match="this kernel does not run SELinux"):
        Container(["true"], part("selinux", attributes)).run()
    (attributes / "filesystems").write_text("nodev\tproc\n")
    assert not labels.has_selinux()


@pytest.mark.parametrize("context", ["container_t", "a:b", "a::c", 'a:b:c",size=1', "a:b:c d"])
def test_what_is_no_context_under_any_policy_is_refused(context: str) -> None:
    with pytest.raises(UsageError, match="is no SELinux context"):
        SELinux(context)


@pytest.mark.skipif(labels.has_selinux(), reason="this kernel runs SELinux")
def test_a_second_process_gets_no_context_where_there_are_none(bundle: Path) -> None:
    run(bundle, "run", "--detach", "four", args=["sleep", "1000"])
    try:
        said = run(bundle, "exec", "--process-label", "a:b:c:s0", "four", "true", code=255).stdout
        assert "process.selinuxLabel: the SELinux context a:b:c:s0 cannot be used" in said
        assert "this kernel does not run SELinux" in said
    finally:
        run(bundle, "delete", "--force", "four")


# -------------------------------------------------------------------------------------------- a kernel that has it


@pytest.fixture(scope="module")
def loaded() -> Iterator[str]:
    """A profile that lets its processes do all but touch files called `forbidden`."""
    place = Path("/sys/kernel/security/apparmor")
    mounted = not place.exists()
    if mounted:
        linux.mount("securityfs", "/sys/kernel/security", "securityfs")
    try:
        subprocess.run([str(PARSER), "--replace", "--skip-cache"], input=PROFILE, text=True, check=True)
        yield NAME
        subprocess.run([str(PARSER), "--remove"], input=PROFILE, text=True, check=True)
    finally:
        if mounted:
            linux.umount2("/sys/kernel/security", 0)


SHOW = "cat /proc/self/attr/current; echo x > /tmp/allowed && echo allowed; echo x > /tmp/forbidden && echo forbidden"


@with_apparmor
def test_the_command_runs_under_its_profile_and_is_held_to_it(loaded: str) -> None:
    for more in ([], [Capabilities(), NoNewPrivs()]):
        said = Container(["sh", "-c", f"{SHOW}; true"], Namespaces("mount", "pid"), AppArmor(loaded), *more).output()
        assert said == f"{loaded} (enforce)\nallowed\n"
    said = Container(["sh", "-c", f"{SHOW}; rm /tmp/forbidden"], Namespaces("mount"), AppArmor("unconfined")).output()
    assert said == "unconfined\nallowed\nforbidden\n"


@with_apparmor
def test_a_profile_that_is_not_loaded_is_said(loaded: str) -> None:
    with pytest.raises(HostError, match="the AppArmor profile no-such cannot be used: ENOENT"):
        Container(["true"], Namespaces("mount"), AppArmor("no-such")).run()


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A root of the host's own programs, and a config.json."""
    root = tmp_path / "rootfs"
    for name in ("usr", "proc", "dev", "tmp", "etc"):
        (root / name).mkdir(parents=True)
    for name in ("bin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    subprocess.run([sys.executable, "-I", "-S", MAIN, "spec"], cwd=tmp_path, check=True)
    return tmp_path


def run(bundle: Path, *words: str, code: int = 0, **process: Any) -> subprocess.CompletedProcess[str]:
    """Call the runtime, with these fields in config.json's `process`."""
    path = bundle / "config.json"
    config = json.loads(path.read_text())
    config["process"] |= {"terminal": False} | process
    config["root"] = {"path": os.fspath(bundle / "rootfs")}
    if all(entry["destination"] != "/usr" for entry in config["mounts"]):
        bind = {"destination": "/usr", "type": "bind", "source": "/usr", "options": ["rbind", "ro"]}
        config["mounts"].append(bind)
    path.write_text(json.dumps(config))
    command = [sys.executable, "-I", "-S", os.fspath(MAIN), "--root", os.fspath(bundle / "state"), *words]
    with (bundle / "said").open("w+") as said:  # no pipe: a container that goes on holds it open
        done = subprocess.run(command, cwd=bundle, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
        said.seek(0)
        done.stdout = said.read()
    assert done.returncode == code, done.stdout
    return done


@with_apparmor
def test_a_bundle_runs_under_its_profile_and_exec_under_its_own(loaded: str, bundle: Path) -> None:
    said = run(bundle, "run", "one", args=["sh", "-c", f"{SHOW}; true"], apparmorProfile=loaded).stdout
    assert said.splitlines()[:2] == [f"{loaded} (enforce)", "allowed"]
    assert "Permission denied" in said
    assert not (bundle / "rootfs/tmp/forbidden").exists()
    run(bundle, "run", "--detach", "two", args=["sleep", "1000"])
    try:
        state = json.loads(run(bundle, "state", "two").stdout)
        assert Path(f"/proc/{state['pid']}/attr/current").read_text() == f"{loaded} (enforce)\n"
        assert run(bundle, "exec", "two", "cat", "/proc/self/attr/current").stdout == f"{loaded} (enforce)\n"
    finally:
        run(bundle, "delete", "--force", "two")
    run(bundle, "run", "--detach", "three", args=["sleep", "1000"], apparmorProfile="unconfined")
    try:
        said = run(bundle, "exec", "--apparmor", loaded, "three", "cat", "/proc/self/attr/current").stdout
        assert said == f"{loaded} (enforce)\n"
        said = run(bundle, "exec", "--apparmor", "no-such", "three", "true", code=255).stdout
        assert "the AppArmor profile no-such cannot be used: ENOENT" in said
    finally:
        run(bundle, "delete", "--force", "three")


@with_apparmor
def test_a_root_cannot_lead_the_label_elsewhere(loaded: str, bundle: Path) -> None:
    """A tmpfs of the bundle's on the way would take the write, and the command run as it likes (CVE-2019-16884)."""
    config = json.loads((bundle / "config.json").read_text())
    config["mounts"] = [entry for entry in config["mounts"] if entry["destination"] != "/proc"]
    (bundle / "config.json").write_text(json.dumps(config))
    for name in ("self/attr/apparmor", "self/fd"):
        (bundle / "rootfs/proc" / name).mkdir(parents=True)
    (bundle / "rootfs/proc/self/attr/apparmor/exec").write_text("")
    said = run(
        bundle, "run", "one", args=["sh", "-c", "echo x > /tmp/forbidden"], apparmorProfile=loaded, code=2
    ).stdout
    assert "Permission denied" in said
    assert (bundle / "rootfs/proc/self/attr/apparmor/exec").read_text() == ""
