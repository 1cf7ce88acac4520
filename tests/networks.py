"""What the network tests share: a machine of their own, neighbours outside it, and programs that talk.

`machine` moves the test into a fresh network namespace that plays the host, so nothing of the real one is touched and
nothing of it (its firewall, its routes) decides a test. `machine.neighbour()` is another machine on a cable.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from minicontainer import linux, state
from minicontainer.container import spawner

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from minicontainer.container import Container
    from minicontainer.network import Bridge

# Each answers every connection, or datagram, with the address it came from; "ready" says that it listens.
TCP_SERVER = """
import socket, sys
server = socket.create_server((sys.argv[1], int(sys.argv[2])))
print("ready", flush=True)
while True:
    client, address = server.accept()
    client.sendall(f"{sys.argv[3]} sees {address[0]}".encode())
    client.close()
"""
UDP_SERVER = """
import socket, sys
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind((sys.argv[1], int(sys.argv[2])))
print("ready", flush=True)
while True:
    _, address = server.recvfrom(100)
    server.sendto(f"{sys.argv[3]} sees {address[0]}".encode(), address)
"""
CALL = """
import socket, sys
kind = socket.SOCK_STREAM if sys.argv[1] == "tcp" else socket.SOCK_DGRAM
client = socket.socket(socket.AF_INET, kind)
client.settimeout(float(sys.argv[4]))
try:
    client.connect((sys.argv[2], int(sys.argv[3])))
    client.send(b"hello")
    print(client.recv(100).decode())
except OSError as error:
    print(type(error).__name__)
"""


class Place:
    """A network namespace in which programs can be run: the machine's own, a neighbour's, a container's."""

    def __init__(self, machine: Machine, pid: int | None = None, address: str = "") -> None:
        self.machine, self.pid, self.address = machine, pid, address

    def argv(self, *argv: str) -> list[str]:
        return [*argv] if self.pid is None else ["nsenter", "-t", str(self.pid), "-n", *argv]

    def run(self, *argv: str) -> str:
        done = subprocess.run(self.argv(*argv), capture_output=True, text=True, check=False, env=ENVIRONMENT)
        assert done.returncode == 0, f"{argv}: {done.stderr}{done.stdout}"
        return done.stdout

    def ip(self, *argv: str) -> Any:
        """The kernel's answer by iproute2."""
        return json.loads(self.run("ip", "-j", *argv) or "[]")

    def serve(self, protocol: str, port: int, name: str, address: str = "0.0.0.0") -> subprocess.Popen[str]:
        """Start a server here, which calls itself `name`; it ends with the test."""
        program = TCP_SERVER if protocol == "tcp" else UDP_SERVER
        return self.machine.keep(self.argv(sys.executable, "-c", program, address, str(port), name))

    def call(self, protocol: str, address: str, port: int, timeout: float = 3) -> str:
        """What a server answers, or the name of the error."""
        return self.run(sys.executable, "-c", CALL, protocol, address, str(port), str(timeout)).strip()


ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}


class Machine(Place):
    """The network namespace that the test itself is in."""

    def __init__(self) -> None:
        super().__init__(self)
        self.environment = ENVIRONMENT
        self.processes: list[subprocess.Popen[str]] = []
        self.containers: list[Container] = []

    def keep(self, argv: list[str]) -> subprocess.Popen[str]:
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, env=ENVIRONMENT)
        self.processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    def neighbour(self, subnet: str = "198.51.100", link: str = "eth0") -> Place:
        """Another machine, on a cable of its own: we are `subnet`.1, it is `subnet`.2 and knows no other way."""
        process = self.keep(["unshare", "-n", "sh", "-c", "ip link set lo up; echo ready; exec sleep 1000"])
        place = Place(self, process.pid, f"{subnet}.2")
        self.run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", str(process.pid))
        self.run("ip", "addr", "add", f"{subnet}.1/24", "dev", link)
        self.run("ip", "link", "set", link, "up")
        place.run("ip", "addr", "add", f"{subnet}.2/24", "dev", "eth0")
        place.run("ip", "link", "set", "eth0", "up")
        return place

    def start(self, bridge: Bridge, *parts: Any) -> Place:
        """A container that waits, with the given network; a place to run programs in its namespace."""
        from minicontainer.container import Container

        container = Container(["/bin/sleep", "1000"], bridge, *parts)
        container.start()
        self.containers.append(container)
        place = Place(self, container.pid, bridge.address)
        place.container = container  # type: ignore[attr-defined]
        return place

    def end(self, place: Place) -> None:
        container = place.container  # type: ignore[attr-defined]
        container.kill()
        container.wait()
        self.containers.remove(container)

    def nft(self, script: str) -> None:
        subprocess.run(["nft", "-f", "-"], input=script, text=True, check=True, env=ENVIRONMENT)

    def ruleset(self) -> str:
        return self.run("nft", "list", "ruleset")

    def view(self) -> dict[str, Any]:
        """Everything that a network could have left behind, as the kernel's own tools show it."""
        root = state.data_root()
        return {
            "links": sorted(link["ifname"] for link in self.ip("link")),
            "routes": self.run("ip", "-4", "route", "show", "table", "all"),
            "rules": self.ruleset(),
            "ip_forward": Path("/proc/sys/net/ipv4/ip_forward").read_text(),
            "files": sorted(
                os.path.join(folder, name)
                for folder, _, names in os.walk(root)
                for name in names
                if not name.endswith(".lock")
            ),
        }

    def close(self) -> None:
        for container in self.containers:
            container.kill()
            container.wait()
        for process in self.processes:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


@pytest.fixture
def roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An instance of the test's own."""
    monkeypatch.setenv("MINICONTAINER_DATA_ROOT", str(tmp_path / "data"))
    monkeypatch.setenv("MINICONTAINER_EXEC_ROOT", str(tmp_path / "exec"))


@pytest.fixture
def machine(roots: None) -> Iterator[Machine]:
    """A host of the test's own, with nothing but lo, and a spawner that is on it too."""
    before = os.open("/proc/self/ns/net", os.O_RDONLY)
    linux.unshare(linux.CLONE_NEWNET)
    elsewhere, spawner._shared = spawner._shared, None  # (by hand: a test may undo() its monkeypatch)
    machine = Machine()
    try:
        machine.run("ip", "link", "set", "lo", "up")
        linux.write("/proc/sys/net/ipv4/ip_forward", "0")  # a new namespace begins with what the real host has
        yield machine
    finally:
        machine.close()
        if there := spawner.current():
            there.release()
        spawner._shared = elsewhere
        linux.setns(before, linux.CLONE_NEWNET)
        os.close(before)


def eventually(condition: Callable[[], bool], seconds: float = 5) -> bool:
    """Whether it comes true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
