"""Chapter 9, across machines: two dockerd joined as a Swarm, whose services' containers our runtime makes.

Each node is a machine to look at (namespaces and a containerd of its own), a cable between them. The network that the
services share is Swarm's overlay, a vxlan. Names are answered with the containers' addresses (`dnsrr`), and ports are
published on each node: Swarm's other way for both, one address for all, is done by ip_vs, which not every kernel has.
"""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import ExitStack
from typing import TYPE_CHECKING

import engines
import pytest
from engines import groups, needs
from joins import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SERVE = "mkdir /www; hostname > /www/index.html; exec httpd -f -p 80 -h /www"
SAY = "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 %s 80 | tail -n 1"


class Node:
    """A dockerd of the Swarm."""

    def __init__(self, number: int, directory: Path, runtime: str, parent: str) -> None:
        self.name, self.address, self.parent = f"node{number}", f"192.0.2.{number}", parent
        self.directory, self.runtime = directory / str(number), runtime
        self.directory.mkdir()
        self.engine = engines.dockerd(self.directory, runtime, parent, whole=self.name)
        self.tell = self.engine.tell

    def plug(self) -> None:
        self.engine.run("ip", "addr", "add", f"{self.address}/24", "dev", "eth0")
        self.engine.run("ip", "link", "set", "eth0", "up")

    def containers(self) -> set[str]:
        """Those that docker says are running."""
        return set(self.tell("ps", "--quiet", "--no-trunc").split())

    def made(self) -> dict[str, int]:
        """Those that our runtime says are running, and their first processes, as the node sees them."""
        found: dict[str, int] = {}
        for root in self.directory.glob("exec/runtime-*/moby"):
            listed = self.engine.run(self.runtime, "--root", os.fspath(root), "list", "--format", "json")
            found |= {it["id"]: it["pid"] for it in json.loads(listed) or [] if it["status"] == "running"}
        return found

    def shell(self, container: str, line: str) -> str:
        """What a command in the container prints."""
        return self.tell("exec", container, "sh", "-c", line)

    def page(self, address: str) -> str:
        """What the web server there says, asked from the node itself."""
        return self.engine.run("curl", "-s", "--max-time", "5", f"http://{address}:8080")


class Swarm:
    """Two nodes, the first one the manager."""

    def __init__(self, one: Node, two: Node, image: str) -> None:
        self.one, self.two, self.image = one, two, image
        self.nodes = (one, two)

    def serve(self, name: str, *options: str) -> None:
        """A service of web servers, each of which says its host name."""
        how = ("--detach", "--network", "wide", "--endpoint-mode", "dnsrr", "--restart-delay", "0s")
        end = ("--stop-signal", "KILL")  # PID 1 does not hear another
        self.one.tell("service", "create", *how, *end, *options, "--name", name, self.image, "sh", "-c", SERVE)

    def tasks(self, name: str) -> list[str]:
        """On which nodes the service runs, as the manager says."""
        words = ("--filter", "desired-state=running", "--format", "{{.Node}} {{.CurrentState}}")
        lines = self.one.tell("service", "ps", name, *words).splitlines()
        return sorted(line.split()[0] for line in lines if " Running " in line)


@pytest.fixture
def swarm(rootfs: str) -> Iterator[Swarm]:
    with ExitStack() as stack:
        directory = stack.enter_context(engines.place())
        runtime = engines.script(directory)
        nodes = []
        for number in (1, 2):
            parent = stack.enter_context(groups(f"minicontainer-test-{os.getpid()}-{number}"))
            nodes.append(Node(number, directory, runtime, parent))
            stack.callback(nodes[-1].engine.close)
        one, two = nodes
        pids = [node.engine.process.pid for node in nodes]
        cable = ["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", str(pids[1])]
        subprocess.run(["nsenter", "-t", str(pids[0]), "--net", *cable], check=True)
        for node in nodes:
            node.plug()
        for applet in ("httpd", "nslookup"):
            os.symlink("busybox", f"{rootfs}/bin/{applet}")
        subprocess.run(["tar", "-C", rootfs, "-cf", directory / "root.tar", "."], check=True)
        # the same image, by its id, on both: no registry is asked
        image = one.tell("import", f"{directory}/root.tar", "box").strip()
        one.tell("save", "--output", f"{directory}/image.tar", "box")
        two.tell("load", "--input", f"{directory}/image.tar")
        one.tell("swarm", "init", "--advertise-addr", one.address)
        token = one.tell("swarm", "join-token", "--quiet", "worker").strip()
        two.tell("swarm", "join", "--token", token, "--advertise-addr", two.address, f"{one.address}:2377")
        one.tell("network", "create", "--driver", "overlay", "wide")
        yield Swarm(one, two, image)
        for service in one.tell("service", "ls", "--quiet").split():
            one.tell("service", "rm", service)
        assert eventually(lambda: all(node.tell("ps", "--all", "--quiet") == "" for node in nodes), 30)
        assert [node.made() for node in nodes] == [{}, {}]
        for node in (two, one):
            node.tell("swarm", "leave", "--force")


@needs("dockerd", "docker.io")
def test_a_service_runs_on_both_nodes_in_containers_of_ours(swarm: Swarm) -> None:
    swarm.serve("web", "--replicas", "4", "--replicas-max-per-node", "2")
    assert eventually(lambda: swarm.tasks("web") == ["node1", "node1", "node2", "node2"], 60)
    names: dict[str, tuple[Node, str]] = {}
    for node in swarm.nodes:
        containers, made = node.containers(), node.made()
        assert set(made) == containers
        assert len(made) == 2
        for container, pid in made.items():
            # its processes are those of the runtime's container, by the kernel's word
            assert node.engine.run("cat", f"/proc/{pid}/cmdline").split("\0")[:2] == ["httpd", "-f"]
            groups = node.engine.run("cat", f"/proc/{pid}/cgroup").splitlines()
            assert {line.split(":")[2] for line in groups if "pids" in line or line.startswith("0::")} == {
                f"{node.parent}/{container}"
            }
            assert node.tell("inspect", "--format", "{{.HostConfig.Runtime}}", container) == "ours\n"
            names[container[:12]] = (node, container)

    # each finds all of them by the service's name, and speaks with each
    for node, container in names.values():
        addresses: set[str] = set()

        def found(node: Node = node, container: str = container, into: set[str] = addresses) -> bool:
            answer = node.shell(container, "nslookup -type=a tasks.web").partition("Name:")[2]
            into |= {line.split()[1] for line in answer.splitlines() if line.startswith("Address:")}
            return len(into) == 4

        assert eventually(found, 20)
        said = [node.shell(container, SAY % address).strip() for address in addresses]
        assert set(said) == set(names)
        assert node.shell(container, SAY % "web").strip() in names


@needs("dockerd", "docker.io")
def test_swarm_makes_a_container_anew_and_moves_it(swarm: Swarm) -> None:
    swarm.serve("web", "--mode", "global", "--publish", "mode=host,target=80,published=8080")
    assert eventually(lambda: swarm.tasks("web") == ["node1", "node2"], 60)
    for node in swarm.nodes:
        for other in swarm.nodes:
            assert node.page(other.address).strip() in {container[:12] for container in other.containers()}

    # a process that ends is followed by another container
    (before, pid), *_ = swarm.two.made().items()
    swarm.two.engine.run("kill", "-9", str(pid))
    assert eventually(lambda: len(swarm.two.made()) == 1 and before not in swarm.two.made(), 30)
    assert eventually(lambda: swarm.tasks("web") == ["node1", "node2"], 30)
    assert swarm.one.page(swarm.two.address).strip() in {container[:12] for container in swarm.two.containers()}

    # a node that is drained has none, and its neighbour takes what may move
    swarm.serve("more", "--replicas", "2", "--replicas-max-per-node", "2", "--limit-memory", "32M")
    assert eventually(lambda: len(swarm.tasks("more")) == 2, 30)
    swarm.one.tell("node", "update", "--availability", "drain", "node2")
    assert eventually(lambda: swarm.tasks("more") == ["node1", "node1"], 30)
    assert eventually(lambda: swarm.two.made() == {}, 30)
    limits = [
        swarm.one.shell(container, "cat /sys/fs/cgroup/memory/memory.limit_in_bytes || cat /sys/fs/cgroup/memory.max")
        for container in swarm.one.tell("ps", "--quiet", "--filter", "name=more").split()
    ]
    assert limits == [f"{32 << 20}\n"] * 2
