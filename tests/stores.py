"""Stores of the tests' own, and the engines that judge what comes out of them: dockerd and podman.

root      a data root, and settings and a user's files, of the test's own; no proxy
home      the directory that all of these are in; programs in its bin/ are found
docker    a function that asks a dockerd of our own: docker("images", "-q")
podman    the same with podman
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

import pytest
from registry import scratch

from bench import peers
from bench.measure import Failed
from minicontainer.images import import_

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from minicontainer.images import Image

    Ask = Callable[..., str]


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A data root of the test's own."""
    with scratch() as directory:
        os.chmod(directory, 0o755)
        monkeypatch.setenv("MINICONTAINER_DATA_ROOT", f"{directory}/data")
        monkeypatch.setenv("MINICONTAINER_EXEC_ROOT", f"{directory}/exec")
        monkeypatch.setenv("MINICONTAINER_CONFIG", f"{directory}/settings.json")
        monkeypatch.setenv("DOCKER_CONFIG", f"{directory}/docker")
        monkeypatch.setenv("PATH", f"{directory}/bin:{os.environ['PATH']}")
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
            monkeypatch.delenv(name.lower(), raising=False)
        yield f"{directory}/data"


@pytest.fixture
def home(root: str) -> str:
    """The directory with all that is the test's own."""
    return os.path.dirname(root)


@pytest.fixture
def docker() -> Iterator[Ask]:
    """Asks a dockerd of our own, which has no network. It ends with the test."""
    yield from _engine("dockerd", partial(peers.docker, network=False))


@pytest.fixture
def podman() -> Iterator[Ask]:
    """Asks a podman with a storage of its own."""
    yield from _engine("podman", peers.podman)


def _engine(program: str, make: Callable[[str, peers.Place], AbstractContextManager[peers.Engine]]) -> Iterator[Ask]:
    if not peers.there(program):
        pytest.skip(f"{program} is not installed")
    with ExitStack() as stack:
        # not pytest's own: a socket's path has 107 bytes at most
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="mc-", dir="/var/tmp"))
        place = stack.enter_context(peers.Place(directory))
        try:
            engine = stack.enter_context(make(f"{directory}/{program}", place))
        except Failed as error:
            pytest.skip(f"{program} does not start here: {str(error)[-300:]}")
        yield engine.ask


def told(*command: str) -> str:
    """What another tool prints."""
    done = subprocess.run(command, check=False, capture_output=True, text=True, errors="backslashreplace")
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def grow(directory: str, name: str, *steps: dict[str, bytes | None], **how: object) -> Image:
    """An image of so many layers, the first with busybox as its shell; None as content is a whiteout."""
    image = None
    for number, files in enumerate(steps):
        place = f"{directory}/{os.urandom(4).hex()}"
        if number == 0:
            os.makedirs(f"{place}/bin")
            told("cp", "/bin/busybox", f"{place}/bin/sh")
        for path, content in files.items():
            os.makedirs(os.path.dirname(f"{place}/{path}"), exist_ok=True)
            if content is None:
                os.mknod(f"{place}/{path}", 0o020000, 0)
            else:
                with open(f"{place}/{path}", "wb") as file:
                    file.write(content)
        more = how if number == len(steps) - 1 else {}
        image = import_(place, name, base=name if number else "", source_date_epoch=0, **more)  # type: ignore[arg-type]
    assert image is not None
    return image


def skopeo(*words: str) -> dict[str, object]:
    """What `skopeo inspect` says."""
    found: dict[str, object] = json.loads(told("skopeo", "inspect", "--tls-verify=false", *words))
    return found
