"""config.json as nobody would write it: an error that says so, or a container; never a rest, never a wait."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import roots
from bundles import OURS
from configs import MORE, configs, full
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minicontainer.errors import ContainerError
from minicontainer.runtime import translate

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLES = int(os.environ.get("MINICONTAINER_FUZZ_EXAMPLES", "40"))
"""Containers to make; a hundred times as many configurations are only translated."""
OURSELVES = ("TypeError", "KeyError", "ValueError", "AttributeError", "IndexError", "AssertionError", "OverflowError")


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A bundle for all of them."""
    with tempfile.TemporaryDirectory(prefix="minicontainer-test-", dir="/var/tmp") as name:
        os.chmod(name, 0o755)
        roots.build(Path(name) / "rootfs")
        yield Path(name)


def ask(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    with (place / "said").open("w+") as said:  # no pipe: a container that waits holds it open
        done = subprocess.run(
            [*OURS, "--root", place / "state", *words],
            cwd=place,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            timeout=30,
        )
        said.seek(0)
        return subprocess.CompletedProcess(done.args, done.returncode, said.read(), "")


def groups() -> set[str]:
    return {
        os.fspath(path)
        for name in ("fuzz-*", "minicontainer-fuzz*")
        for path in Path("/sys/fs/cgroup").glob(f"*/{name}")
    }


def attempt(place: Path, config: Any) -> subprocess.CompletedProcess[str]:
    """create and delete; whatever comes of the first, nothing is there afterwards."""
    (place / "config.json").write_text(json.dumps(config))
    name = f"fuzz-{os.getpid()}"
    before = groups()
    made = ask(place, "create", name)
    assert made.returncode in (0, 1), made.stdout
    if made.returncode:
        assert made.stdout.startswith("minicontainer-runtime: "), made.stdout
        assert not any(f"minicontainer-runtime: {word}" in made.stdout for word in OURSELVES), made.stdout
        assert ask(place, "state", name).returncode == 1, "half of it is there"
    else:
        removed = ask(place, "delete", "--force", name)
        assert removed.returncode == 0, removed.stdout
    assert groups() == before
    assert not (place / "state" / name).exists()
    return made


def test_a_config_with_every_field_makes_a_container(place: Path) -> None:
    made = attempt(place, full(os.fspath(place / "rootfs")))
    assert made.returncode == 0, made.stdout


@pytest.mark.parametrize("way", sorted(MORE), ids=".".join)
def test_each_other_field_is_done_or_refused_by_its_name(place: Path, way: tuple[str, ...]) -> None:
    config = full(os.fspath(place / "rootfs"))
    at = config
    for key in way[:-1]:
        at = at[key]
    at[way[-1]] = MORE[way]
    made = attempt(place, config)
    assert (
        made.returncode == 0
        or way[-1].rstrip("s").lower() in made.stdout.lower().replace(" ", "")
        or "cgroup" in made.stdout
    ), made.stdout


@settings(max_examples=EXAMPLES * 100, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_config_is_translated_or_refused(place: Path, data: st.DataObject) -> None:
    config = data.draw(configs(os.fspath(place / "rootfs")))
    (place / "config.json").write_text(json.dumps(config))
    with contextlib.suppress(ContainerError):
        translate.translate(translate.load(os.fspath(place / "config.json")), "fuzz", os.fspath(place))


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_config_makes_a_container_or_leaves_nothing(place: Path, data: st.DataObject) -> None:
    attempt(place, data.draw(configs(os.fspath(place / "rootfs"))))
