"""SELinux: a command in its type, and held to it; asked of a kernel that runs SELinux by tests/v2/policy.cil.

`make test-v2` boots one. No other policy has the types that these tests ask for, and they load none: it would be in
place of the host's own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from minicontainer import Container, Namespaces, PivotRoot
from minicontainer.container import PIPE
from minicontainer.errors import ContainerError, HostError
from minicontainer.security import Capabilities, NoNewPrivs, SELinux, defaults, labels

if TYPE_CHECKING:
    from bundles import Bundle

DOMAIN = "system_u:system_r:container_t:s0:c1,c2"
FILES = "system_u:object_r:container_file_t:s0:c1,c2"
PLAIN = "system_u:object_r:container_file_t:s0"
SECRET = "system_u:object_r:secret_t:s0"
OURS = "system_u:system_r:kernel_t:s0-s0:c0.c3"


def enforced() -> bool:
    """Whether the kernel has our policy, and keeps to it."""
    try:
        Path("/sys/fs/selinux/context").write_text(SECRET)
        return Path("/sys/fs/selinux/enforce").read_text() == "1"
    except OSError:
        return False


pytestmark = pytest.mark.skipif(
    not enforced(), reason="needs a kernel that runs SELinux by the tests' own policy (make test-v2 boots one)"
)


def label_of(path: str | Path) -> str:
    """What a file is labelled."""
    return os.getxattr(path, "security.selinux").rstrip(b"\0").decode()


def labelled(path: Path, label: str) -> Path:
    """Label a file."""
    os.setxattr(path, "security.selinux", label.encode())
    return path


def said(container: Container) -> str:
    """What it prints, through a pipe: a file in memory, as `output` has it, is one that the domain may not write."""
    with container.start(stdout=PIPE):
        assert container.stdout is not None
        with container.stdout as pipe:
            return pipe.read().decode().replace("\0", "\n")  # a context ends with one


def domain(pid: int | str) -> str:
    """What a process is labelled, seen from outside."""
    return Path(f"/proc/{pid}/attr/current").read_text().rstrip("\0\n")


@pytest.fixture
def secret(shared_path: Path) -> Path:
    """A file that the containers' domain may not read, although its mode lets everybody."""
    path = shared_path / "secret"
    path.write_text("the secret\n")
    path.chmod(0o644)
    return labelled(path, SECRET)


def test_the_kernel_is_asked_whether_it_runs_it() -> None:
    assert labels.has_selinux()
    assert not labels.has_apparmor()
    assert domain("self") == OURS


# ------------------------------------------------------------------------------------------------------- the part


@pytest.mark.parametrize("more", [[], [Capabilities(), NoNewPrivs()]], ids=["alone", "with no new privileges"])
def test_the_command_runs_in_its_context_and_is_held_to_it(secret: Path, more: list[Capabilities | NoNewPrivs]) -> None:
    with Container(["sleep", "1000"], Namespaces("mount", "pid"), SELinux(DOMAIN), *more) as container:
        assert domain(container.pid) == DOMAIN
        second = container.second(["sh", "-c", f"cat /proc/self/attr/current; cat {secret} 2>&1"])
        assert said(second).splitlines() == [DOMAIN, f"cat: {secret}: Permission denied"]
    without = Container(["cat", os.fspath(secret)], Namespaces("mount", "pid"), *more)
    assert said(without) == "the secret\n"


def test_levels_keep_containers_apart(shared_path: Path) -> None:
    """Two containers of one type: what one writes the other cannot read, because it lacks the category."""
    mine = shared_path / "mine"
    mine.write_text("mine\n")
    labelled(mine, FILES)
    command = ["sh", "-c", f"cat {mine} 2>&1 || true"]
    assert said(Container(command, Namespaces("mount"), SELinux(DOMAIN))) == "mine\n"
    other = SELinux("system_u:system_r:container_t:s0:c2,c3")
    assert "Permission denied" in said(Container(command, Namespaces("mount"), other))


def test_a_context_that_the_policy_does_not_have_is_said() -> None:
    for context in ("system_u:system_r:no_such_t:s0", "system_u:system_r:container_t:s9"):
        with pytest.raises(HostError, match=rf"the SELinux context {context} cannot be used: EINVAL") as caught:
            Container(["true"], Namespaces("mount"), SELinux(context)).run()
        assert "the loaded policy has no such context" in str(caught.value)


def test_a_context_that_nobody_may_enter_is_not_entered() -> None:
    with pytest.raises(ContainerError, match=r"(?i)permission denied|EACCES"):
        Container(["true"], Namespaces("mount"), SELinux("system_u:system_r:lonely_t:s0")).run()


def test_a_root_of_its_own_does_not_lead_the_label_elsewhere(rootfs: str, secret: Path) -> None:
    shutil.copy(secret, Path(rootfs, "tmp/secret"))
    labelled(Path(rootfs, "tmp/secret"), SECRET)
    words = ["sh", "-c", "cat /proc/self/attr/current; cat /tmp/secret 2>&1"]
    label, *rest = said(Container(words, PivotRoot(rootfs), SELinux(DOMAIN))).splitlines()
    assert (label, "Permission denied" in rest[0]) == (DOMAIN, True)
    assert said(Container(["cat", "/tmp/secret"], PivotRoot(rootfs))) == "the secret\n"


def test_security_options_say_the_context_field_by_field(rootfs: str) -> None:
    words = ["cat", "/proc/self/attr/current"]
    for texts, expected in (
        (["label=type:container_t", "label=level:s0:c1,c2"], DOMAIN),
        (["label=level:s0:c3"], "system_u:system_r:container_t:s0:c3"),
        (["label=disable"], OURS),
        (["label=type:container_t", "label=disable"], OURS),
    ):
        parts = [part for part in defaults.default(options=defaults.Options(texts)) if isinstance(part, SELinux)]
        assert said(Container(words, PivotRoot(rootfs), *parts)) == f"{expected}\n"


# ----------------------------------------------------------------------------------------------------- the runtime

PEERS = ["ours", *(name for name in ("runc", "crun") if shutil.which(name))]


@pytest.fixture
def labelled_bundle(bundle: Bundle) -> Bundle:
    """A bundle that asks for both labels."""
    bundle.process["selinuxLabel"] = DOMAIN
    bundle.linux["mountLabel"] = FILES
    for name in ("said", "complained"):  # its streams: the kernel takes away what a domain may not use
        (bundle.directory / name).touch()
        labelled(bundle.directory / name, PLAIN)
    bundle.config["ociVersion"] = "1.0.2"  # which all of them know
    return bundle


SHOW = "tr -d '\\0' < /proc/self/attr/current; echo; cat /tmp/secret 2>&1; echo x > /dev/shm/x && echo written"


def by(bundle: Bundle, runtime: str) -> None:
    if runtime != "ours":
        bundle.by(runtime)


@pytest.fixture
def secretive(labelled_bundle: Bundle, secret: Path) -> Bundle:
    """Its root has a file that its domain may not read."""
    place = Path(labelled_bundle.config["root"]["path"], "tmp/secret")
    shutil.copy(secret, place)
    labelled(place, SECRET)
    return labelled_bundle


@pytest.mark.parametrize("runtime", PEERS)
def test_a_bundle_runs_in_its_context(secretive: Bundle, runtime: str) -> None:
    by(secretive, runtime)
    lines = secretive.run("sh", "-c", SHOW).splitlines()
    assert (lines[0], "Permission denied" in lines[1], lines[2]) == (DOMAIN, True, "written")
    del secretive.process["selinuxLabel"]
    lines = secretive.run("sh", "-c", SHOW).splitlines()
    assert lines == [OURS, "the secret", "written"]


@pytest.mark.parametrize("runtime", PEERS)
def test_without_a_label_of_its_mounts_the_domain_cannot_write_there(labelled_bundle: Bundle, runtime: str) -> None:
    by(labelled_bundle, runtime)
    del labelled_bundle.linux["mountLabel"]
    assert "written" not in labelled_bundle.run("sh", "-c", f"({SHOW}) 2>&1; true")


@pytest.mark.parametrize("runtime", PEERS)
def test_a_second_process_has_the_label_of_the_first_or_its_own(labelled_bundle: Bundle, runtime: str) -> None:
    by(labelled_bundle, runtime)
    name = labelled_bundle.start("sleep", "1000")
    assert domain(labelled_bundle.state(name)["pid"]) == DOMAIN
    read = ("cat", "/proc/self/attr/current")
    assert labelled_bundle.tell("exec", name, *read).rstrip("\0\n") == DOMAIN
    other = "system_u:system_r:container_t:s0:c3"
    assert labelled_bundle.tell("exec", "--process-label", other, name, *read).rstrip("\0\n") == other
    refused = labelled_bundle.ask("exec", "--process-label", "system_u:system_r:no_such_t:s0", name, "true")
    assert refused.returncode in (1, 255)
    if runtime == "ours":
        assert "the SELinux context system_u:system_r:no_such_t:s0 cannot be used: EINVAL" in refused.stderr


@pytest.mark.parametrize("users", ["the host's", "its own"])
def test_the_mounts_are_labelled_as_by_other_runtimes(labelled_bundle: Bundle, users: str) -> None:
    """Of the root's own files none, of the kernel's own filesystems none; and quotes hold a level's comma."""
    if users == "its own":  # where the kernel takes an option for tmpfs and devpts only
        labelled_bundle.linux["namespaces"].append({"type": "user"})
        for name in ("uidMappings", "gidMappings"):
            labelled_bundle.linux[name] = [{"containerID": 0, "hostID": 100_000, "size": 65_536}]
    found = {}
    places = ("", "dev", "dev/pts", "dev/shm", "dev/mqueue", "sys", "sys/firmware", "proc", "proc/acpi", "tmp", "bin")
    for runtime in PEERS:
        by(labelled_bundle, runtime)
        name = labelled_bundle.start("sleep", "1000")
        root = f"/proc/{labelled_bundle.state(name)['pid']}/root"
        found[runtime] = {place: label_of(f"{root}/{place}") for place in places if os.path.exists(f"{root}/{place}")}
    assert found["ours"]["dev"] == found["ours"]["dev/mqueue"] == found["ours"]["dev/shm"] == FILES
    assert found["ours"][""] == found["ours"]["bin"] == "system_u:object_r:file_t:s0"
    for runtime in PEERS:
        assert found[runtime] == found["ours"]


def test_a_context_that_the_policy_does_not_have_is_said_by_the_runtime(labelled_bundle: Bundle) -> None:
    labelled_bundle.process["selinuxLabel"] = "system_u:system_r:no_such_t:s0"
    labelled_bundle.says("true")
    labelled_bundle.write()
    name = labelled_bundle.name()
    done = labelled_bundle.ask("create", name)
    assert done.returncode == 1
    assert "the SELinux context system_u:system_r:no_such_t:s0 cannot be used: EINVAL" in done.stderr
    assert labelled_bundle.ask("state", name).returncode == 1
    labelled_bundle.process["selinuxLabel"] = DOMAIN
    labelled_bundle.linux["mountLabel"] = "system_u:object_r:no_such_t:s0"
    labelled_bundle.write()
    done = labelled_bundle.ask("create", labelled_bundle.name())
    assert done.returncode == 1
    assert "no_such_t" in done.stderr


def test_features_say_that_there_are_labels() -> None:
    command = [sys.executable, "-m", "minicontainer.runtime", "features"]
    done = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert done["linux"]["selinux"] == {"enabled": True}
