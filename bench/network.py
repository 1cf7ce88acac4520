"""Row `network`: how fast is it inside, and how fast is one in?

Every engine has two containers on its bridge, and one of ours is a network of its own besides. The same programs talk
over each of four ways: to the other container, to the host, and from the host by a published port, once of the host's
address, once of 127.0.0.1 (where docker has a process copy every byte). Only the network of the containers is used:
client and server are this machine's, put into their network namespaces, so that they are the same for everybody.
"""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple

from bench import ground, measure, peers, report
from minicontainer.chroot import PivotRoot
from minicontainer.container import Container
from minicontainer.network import Bridge, Endpoint, Join, NoNetwork, networks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from bench.measure import Rounds
    from bench.peers import Engine
    from minicontainer.container import Part

TITLE = "network: the same programs over each engine's network, and the time of a join"
IMAGE = "bench/busybox"
HOST = "198.51.100.1"
STREAM, PONG = 5201, 5202
"""The ports of both servers, in every container and on the host."""
SECONDS = 1
"""How long each of the three quantities is measured at a time."""
WAYS = ("container", "host", "published", "127.0.0.1")
QUANTITIES = ("TCP Gbit/s", "UDP Gbit/s", "request µs")
WAIT = ["/bin/busybox", "sleep", "100000"]

PONG_SERVER = """
import socket, sys
server = socket.create_server(("0.0.0.0", int(sys.argv[1])), backlog=8)
while True:
    client, _ = server.accept()
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while data := client.recv(64):
        client.send(data)
    client.close()
"""
PING = """
import socket, sys, time
client = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=10)
client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
times, end = [], time.perf_counter() + float(sys.argv[3])
while (begun := time.perf_counter()) < end:
    client.send(b"hello")
    client.recv(64)
    times.append(time.perf_counter() - begun)
print(sorted(times)[len(times) // 2])
"""
ASK = """
import socket, struct, sys, time
name = b"".join(bytes([len(label)]) + label for label in sys.argv[2].encode().split(b"."))
message = b"\\x12\\x34\\x01\\x00\\x00\\x01\\x00\\x00\\x00\\x00\\x00\\x00" + name + b"\\x00\\x00\\x01\\x00\\x01"
asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
asking.settimeout(2)
asking.connect((sys.argv[1], 53))
answers, begun = 0, time.perf_counter()
while time.perf_counter() < begun + float(sys.argv[3]):
    for _ in range(32):
        asking.send(message)
    for _ in range(32):
        found = asking.recv(512)
        assert found[3] & 15 == 0 and found[7] == 1, found
        answers += 1
print(answers / (time.perf_counter() - begun))
"""


class Network(NamedTuple):
    """Two containers of one engine: the server's pid and address, the client's pid, its gateway, and the first of the
    two host ports that lead to the server."""

    name: str
    server: int
    address: str
    client: int
    gateway: str
    port: int


def row(directory: str, rounds: Rounds) -> None:
    """Measure and print."""
    report.title(TITLE)
    if not peers.there("iperf3"):
        report.skipped(*peers.missing("iperf3"))
        return
    root = ground.busybox(f"{directory}/root")
    with ExitStack() as stack:
        _address(stack)
        found = [_bridge(stack, root), _own(stack, root)]
        place = stack.enter_context(peers.Place(directory))
        engines = stack.enter_context(peers.engines(directory, place, "docker", "podman"))
        for count, engine in enumerate(engines):
            try:
                found.append(_theirs(stack, engine, root, directory, 6301 + 100 * count))
            except measure.Failed as error:
                print(f"   {engine.name} is left out: {error}")
        _serve(stack, None)
        for network in found:
            _serve(stack, network.server)
        time.sleep(0.5)  # the servers' start
        report.say(f"{rounds.blocks} rounds of {len(found) * len(WAYS)} ways, {3 * SECONDS} s each")
        taken = _measure(found, rounds.blocks)
        goals = _print(taken, [network.name for network in found])
        goals += _names(stack, root, engines, rounds.blocks)
    goals += _joins(root, rounds)
    report.goals(goals)
    report.skipped(*peers.missing("dockerd", "podman"))


def _address(stack: ExitStack) -> None:
    """Give the host an address of its own: on a cable with nobody at its other end."""
    stack.callback(subprocess.run, ["ip", "link", "del", "bench0"], check=True)
    for words in (
        "link add bench0 type veth peer name bench1",
        f"addr add {HOST}/24 dev bench0",
        "link set bench0 up",
        "link set bench1 up",
    ):
        subprocess.run(["ip", *words.split()], check=True)


def _ours(stack: ExitStack, root: str, part: Part) -> int:
    container = Container(WAIT, PivotRoot(root), part)
    container.start(stdin=-3, stdout=-3, stderr=-3)
    stack.callback(container.wait)
    stack.callback(container.kill)
    return container.pid


def _create(stack: ExitStack, name: str, *, host_access: bool = False) -> None:
    networks.create(name, host_access=host_access)
    stack.callback(networks.remove, name)


def _publish(port: int) -> list[str]:
    return [f"{port}:{STREAM}", f"{port}:{STREAM}/udp", f"{port + 1}:{PONG}"]


def _bridge(stack: ExitStack, root: str) -> Network:
    server, client = Bridge(publish=_publish(6101)), Bridge()
    pids = [_ours(stack, root, part) for part in (server, client)]
    return Network("minicontainer", pids[0], server.address, pids[1], server.gateway, 6101)


def _own(stack: ExitStack, root: str) -> Network:
    _create(stack, "bench", host_access=True)
    server, client = Join("bench", publish=_publish(6201)), Join("bench")
    pids = [_ours(stack, root, part) for part in (server, client)]
    return Network("minicontainer, own network", pids[0], server.address, pids[1], networks.get("bench").gateway, 6201)


def _theirs(stack: ExitStack, engine: Engine, root: str, directory: str, port: int) -> Network:
    _import(engine, root, directory)
    publish = [word for it in _publish(port) for word in ("-p", it)]
    for name, options in (("server", publish), ("client", [])):
        engine.ask("run", "-d", "--name", name, *options, IMAGE, *WAIT)
        stack.callback(_end, engine, name)
    (server, address, gateway), (client, _, _) = (
        engine.ask(
            "inspect",
            "--format",
            "{{.State.Pid}} {{.NetworkSettings.IPAddress}} {{.NetworkSettings.Gateway}}",
            name,
        ).split()
        for name in ("server", "client")
    )
    return Network(engine.name, int(server), address, int(client), gateway, port)


def _import(engine: Engine, root: str, directory: str) -> None:
    archive = f"{directory}/{engine.name}.tar"
    subprocess.run(["tar", "-c", "-f", archive, "-C", root, "."], check=True)
    engine.ask("import", archive, IMAGE)


def _end(engine: Engine, name: str) -> None:
    engine.ask("kill", name)
    engine.ask("rm", "-f", name)


def _in(pid: int | None, argv: Sequence[str]) -> list[str]:
    """A command in the network namespace of a process; None: in the host's."""
    return [*argv] if pid is None else ["nsenter", "-t", str(pid), "-n", *argv]


def _serve(stack: ExitStack, pid: int | None) -> None:
    for argv in (["iperf3", "-s", "-p", str(STREAM)], [sys.executable, "-I", "-c", PONG_SERVER, str(PONG)]):
        server = subprocess.Popen(_in(pid, argv), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        stack.callback(server.wait)
        stack.callback(server.kill)


def _ask(pid: int | None, argv: Sequence[str]) -> str:
    done = subprocess.run(_in(pid, argv), capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise measure.Failed(f"{' '.join(argv[:6])}: {done.stderr.strip()[-300:]}{done.stdout.strip()[-300:]}")
    return done.stdout


def _ends(network: Network, way: str) -> tuple[int | None, str, int, int]:
    """Where the client is, whom it calls, and on which ports."""
    if way == "container":
        return network.client, network.address, STREAM, PONG
    if way == "host":
        return network.client, network.gateway, STREAM, PONG
    return None, HOST if way == "published" else way, network.port, network.port + 1


def _measure(found: Sequence[Network], rounds: int) -> dict[tuple[str, str, str], list[float]]:
    """Each quantity in every round, by network and way; a round's ways are shuffled."""
    taken: dict[tuple[str, str, str], list[float]] = {}
    cells = [(network, way) for network in found for way in WAYS]
    for _ in range(rounds):
        for network, way in random.sample(cells, len(cells)):
            pid, address, stream, pong = _ends(network, way)
            values = (
                _iperf(pid, address, stream),
                _iperf(pid, address, stream, "-u", "-b", "0", "-l", "1400"),
                float(_ask(pid, [sys.executable, "-I", "-c", PING, address, str(pong), str(SECONDS)])) * 1e6,
            )
            for quantity, value in zip(QUANTITIES, values, strict=True):
                taken.setdefault((quantity, network.name, way), []).append(value)
    return taken


def _iperf(pid: int | None, address: str, port: int, *options: str) -> float:
    """Gbit/s that arrive.

    Raises Failed when iperf3 has failed three times: with -J it tells so in its answer only, its status is 0.
    """
    argv = ["iperf3", "-J", "-c", address, "-p", str(port), "-t", str(SECONDS), *options]
    for attempt in range(3):
        time.sleep(attempt)  # a server that has just lost a client wants to notice it first
        found = json.loads(_ask(pid, argv))
        if "error" not in found:
            total = found["end"]["sum" if "-u" in options else "sum_received"]
            arrived: float = total["bits_per_second"] * (1 - total.get("lost_percent", 0) / 100)
            return arrived / 1e9
        print(f"   … {' '.join(argv[4:])}: {found['error']}", flush=True)
    raise measure.Failed(f"{' '.join(argv)}: {found['error']}")


def _print(taken: dict[tuple[str, str, str], list[float]], names: Sequence[str]) -> list[report.Goal]:
    goals = []
    middle = {key: statistics.median(values) for key, values in taken.items()}
    for quantity in QUANTITIES:
        head = [quantity, *(way if way != "published" else f"published on {HOST}" for way in WAYS)]
        digits = 1 if "µs" in quantity else 2
        lines = [[name, *(f"{middle[quantity, name, way]:.{digits}f}" for way in WAYS)] for name in names]
        report.table(head, lines)
        for way in WAYS if "docker" in names else ():
            one, other = ("minicontainer", "docker") if "µs" in quantity else ("docker", "minicontainer")
            what = "ours / docker's" if "µs" in quantity else "docker's / ours"
            pairs = zip(taken[quantity, one, way], taken[quantity, other, way], strict=True)
            low, value, high = statistics.quantiles([one / other for one, other in pairs], n=4, method="inclusive")
            goals.append(report.Goal(f"{quantity.rpartition(' ')[0]}, {way}, {what}", value, 1.0, spread=(low, high)))
    return goals


def _names(stack: ExitStack, root: str, engines: Sequence[Engine], rounds: int) -> list[report.Goal]:
    """How many questions for a name are answered in a second."""
    pid = _ours(stack, root, Join(Endpoint("bench", aliases=["web"])))
    askers: list[tuple[str, int, str]] = [("minicontainer", pid, networks.get("bench").gateway)]
    for engine in engines:
        if engine.name == "docker":  # podman has a plugin for it, which may be there or not
            engine.ask("network", "create", "bench")
            stack.callback(engine.ask, "network", "rm", "bench")
            engine.ask("run", "-d", "--name", "web", "--network", "bench", IMAGE, *WAIT)
            stack.callback(_end, engine, "web")
            askers.append((engine.name, int(engine.ask("inspect", "--format", "{{.State.Pid}}", "web")), "127.0.0.11"))
    taken: dict[str, list[float]] = {name: [] for name, _, _ in askers}
    for _ in range(rounds):
        for name, pid, server in random.sample(askers, len(askers)):
            taken[name].append(float(_ask(pid, [sys.executable, "-I", "-c", ASK, server, "web", str(SECONDS)])))
    medians = {name: statistics.median(values) for name, values in taken.items()}
    report.table(["names", "answers/s"], [[name, f"{value:.0f}"] for name, value in medians.items()])
    return [report.Goal("10 000 / answers per second", 10_000 / medians["minicontainer"], 1.0)]


def _joins(root: str, rounds: Rounds) -> list[report.Goal]:
    """Until the command runs, in a network that stands, against the same without any network."""
    kinds: dict[str, Callable[[], Part]] = {
        "none": NoNetwork,
        "bridge": Bridge,
        "bridge, a port": lambda: Bridge(publish=["0:80"]),
        "own": lambda: Join("front"),
        "own, a port": lambda: Join("front", publish=["0:80"]),
        "two of one's own": lambda: Join("front", "back"),
    }
    with ExitStack() as stack:
        for name in ("front", "back"):
            _create(stack, name)
        for part in (Bridge(), Join("front", "back")):
            _ours(stack, root, part)
        contestants = [measure.Contestant(name, _join(root, make)) for name, make in kinds.items()]
        cold = measure.cold(contestants, max(2, rounds.cold // 2))
        hot = measure.hot(contestants, rounds)
    lines = [
        [name, *(report.milliseconds(took) for took in (cold[name], hot[name])), *_more(cold, hot, name)]
        for name in kinds
    ]
    report.table(["ms until the command runs", "cold", "hot", "the join, cold", "hot"], lines)
    return [
        report.Goal(f"joining {name}, {kind}", (times[name] - times["none"]) * 1000, 15, " ms")
        for name in ("bridge", "bridge, a port", "own", "own, a port")
        for kind, times in (("cold", cold), ("hot", hot))
    ]


def _more(cold: dict[str, float], hot: dict[str, float], name: str) -> Iterator[str]:
    for times in (cold, hot):
        yield report.milliseconds(max(0.0, times[name] - times["none"]))


def _join(root: str, make: Callable[[], Part]) -> Callable[[], float]:
    def once() -> float:
        container = Container(["/bin/true"], PivotRoot(root), make())
        begun = time.perf_counter()
        container.start(stdin=-3, stdout=-3, stderr=-3)
        took = time.perf_counter() - begun
        if container.wait():
            raise measure.Failed("/bin/true failed")
        return took

    return once
