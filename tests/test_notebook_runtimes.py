"""What chapter 9's notebook and lab call runtimes and Podman with."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from minicontainer.errors import ContainerError
from minicontainer.notebook import podman, runtimes

if TYPE_CHECKING:
    from pathlib import Path

    from bundles import Bundle


def test_every_runtime_of_this_machine_makes_a_container(bundle: Bundle) -> None:
    bundle.says("echo", "hello")
    bundle.config["ociVersion"] = "1.0.2"
    bundle.write()
    every = runtimes.runtimes(os.fspath(bundle.directory))
    assert set(every) == {"ours"} | {name for name in ("crun", "runc") if shutil.which(name)}
    for name, runtime in every.items():
        assert runtime("run", "--bundle", os.fspath(bundle.directory), bundle.name()) == "hello\n", name


def test_a_runtime_that_fails_is_quoted(tmp_path: Path) -> None:
    ours = runtimes.runtimes(os.fspath(tmp_path))["ours"]
    with pytest.raises(ContainerError, match=r"ours state: status 1: .*does not exist"):
        ours.state("nobody")


def test_a_program_can_be_put_above_a_runtime(tmp_path: Path) -> None:
    for runtime in runtimes.runtimes(os.fspath(tmp_path)).values():
        argv = runtime.argv("state", "x", under=("strace", "-c"))
        assert argv[argv.index("strace") :][:2] == ["strace", "-c"]
        assert argv[-2:] == ["state", "x"]


def test_podman_that_is_not_here_is_said_to_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert "apt-get install podman" in podman.missing()


@pytest.mark.skipif(bool(podman.missing()), reason=podman.missing() or "podman is here")
def test_podman_leaves_nothing_of_its_storage(rootfs: str) -> None:
    with podman.Podman(runtimes.OURS, rootfs) as one:
        assert one("run", "--rm", "--network", "none", one.image, "echo", "hello") == "hello\n"
        with pytest.raises(ContainerError, match="status 5"):
            one("run", "--rm", "--network", "none", one.image, "sh", "-c", "exit 5")
    assert not os.path.exists(one.folder)
