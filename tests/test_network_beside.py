"""Beside a live dockerd and podman: their containers and ours reach everybody, and nobody's rules are touched.

All of it on a host of the test's own (a network namespace), with daemons whose files are the test's own, too.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
from typing import TYPE_CHECKING

import pytest
from joins import eventually

from bench import ground, peers
from minicontainer import state
from minicontainer.chroot import PivotRoot
from minicontainer.container import Container
from minicontainer.network import Bridge, Join, networks

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from networks import Machine, Place

    from bench.peers import Engine

pytest_plugins = ["networks"]

SERVE = ["busybox", "httpd", "-f", "-p", "80", "-h"]


@pytest.fixture
def root(shared_path: Path) -> str:
    """A root whose web server has a page for each of the engines."""
    root = ground.busybox(str(shared_path / "root"))
    for name in ("docker", "podman", "bridge", "own"):
        (shared_path / "root" / name).mkdir()
        (shared_path / "root" / name / "index.html").write_text(f"{name}'s page\n")
    return root


@pytest.fixture(params=["docker", "podman"])
def engine(request: pytest.FixtureRequest, machine: Machine, shared_path: Path, root: str) -> Iterator[Engine]:
    program = {"docker": "dockerd", "podman": "podman"}[request.param]
    if not peers.there(program):
        pytest.skip(f"{program} is not installed (apt-get install {peers.PACKAGES[program]})")
    with (
        contextlib.chdir("/"),  # who changes his mount namespace is in its root
        peers.Place(str(shared_path)) as inner,
        getattr(peers, request.param)(str(shared_path / request.param), inner) as engine,
    ):
        archive = str(shared_path / "root.tar")
        subprocess.run(["tar", "-c", "-f", archive, "-C", root, "."], check=True)
        engine.ask("import", archive, "box")
        yield engine


def place(machine: Machine, pid: int) -> Place:
    from networks import Place

    return Place(machine, pid)


def theirs(machine: Machine) -> list[str]:
    """Every rule but ours, without counters, each with its place; and every address, route and switch but ours."""
    found = []
    for entry in json.loads(machine.run("nft", "-s", "-j", "list", "ruleset"))["nftables"]:
        (kind, it), *_ = entry.items()
        ours = state.instance() in (it.get("name", "") if kind == "table" else it.get("table", ""))
        if kind != "metainfo" and not ours and state.instance() not in it.get("comment", ""):
            it.pop("handle", None)
            found.append(json.dumps([kind, it], sort_keys=True))
    for link in machine.ip("addr"):
        if not link["ifname"].startswith(f"mc{state.tag()}"):
            addresses = [it["local"] for it in link["addr_info"] if it["family"] == "inet"]
            found.append(f"{link['ifname']} {link['address']} {addresses} {link.get('master')}")
    routes = [line for line in machine.run("ip", "route").splitlines() if f"mc{state.tag()}" not in line]
    return found + routes


def page(place: Place, url: str) -> str:
    """What a web server says, asked from there until it is up."""
    argv = ["curl", "-s", "--retry", "20", "--retry-connrefused", "--retry-delay", "1", "--max-time", "20", url]
    return place.run(*argv).strip()


def test_everybody_goes_on_working(machine: Machine, engine: Engine, root: str) -> None:
    near = machine.neighbour()
    near.serve("tcp", 7, "near")
    own = engine.name
    engine.ask("run", "-d", "--name", "first", "-p", "18080:80", "box", *SERVE, f"/{own}")
    assert page(near, "http://198.51.100.1:18080") == f"{own}'s page"
    before = theirs(machine)

    networks.create("own")
    ours = {"bridge": (18081, Bridge(publish={18081: 80})), "own": (18082, Join("own", publish={18082: 80}))}
    for name, (port, part) in ours.items():
        container = Container([*SERVE, f"/{name}"], PivotRoot(root), part)
        container.start()
        machine.containers.append(container)
        assert page(near, f"http://198.51.100.1:{port}") == f"{name}'s page"
        assert page(machine, f"http://127.0.0.1:{port}") == f"{name}'s page"
        assert place(machine, container.pid).call("tcp", near.address, 7) == "near sees 198.51.100.1"
    assert theirs(machine) == before

    # they come and go while ours are there
    first = place(machine, int(engine.ask("inspect", "--format", "{{.State.Pid}}", "first")))
    assert first.call("tcp", near.address, 7) == "near sees 198.51.100.1"
    engine.ask("run", "-d", "--name", "second", "-p", "18083:80", "box", *SERVE, f"/{own}")
    assert page(near, "http://198.51.100.1:18083") == f"{own}'s page"
    pages = {18080: own, 18081: "bridge", 18082: "own"}
    for port, name in pages.items():
        assert page(near, f"http://198.51.100.1:{port}") == f"{name}'s page"
    engine.ask("kill", "second")
    engine.ask("rm", "-f", "second")
    assert eventually(lambda: sum("veth" in it for it in theirs(machine)) == sum("veth" in it for it in before))
    for port, name in pages.items():
        assert page(near, f"http://198.51.100.1:{port}") == f"{name}'s page"

    before = theirs(machine)  # podman leaves an empty chain or two of its own
    for container in machine.containers:
        container.kill()
        container.wait()
    machine.containers.clear()
    assert theirs(machine) == before
    assert state.instance() not in machine.ruleset()
    assert page(near, "http://198.51.100.1:18080") == f"{own}'s page"
    engine.ask("kill", "first")
    engine.ask("rm", "-f", "first")
