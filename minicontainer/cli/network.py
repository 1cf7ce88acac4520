"""`minicontainer network`: networks of the user's own, as Docker's command has them."""

from __future__ import annotations

import json
import sys

from minicontainer.cli import entries
from minicontainer.cli.table import table
from minicontainer.errors import UsageError
from minicontainer.network import bridge, connecting, networks
from minicontainer.network.membership import Endpoint
from minicontainer.network.ports import ANY, ANY6, Port

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any


def _arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    create = verbs.add_parser("create", help="make a network").add_argument
    create("-d", "--driver", default="bridge", metavar="NAME", help="bridge, overlay or macvlan (bridge)")
    create("--subnet", action="append", default=[], metavar="CIDR", help="10.9.0.0/24; once more for IPv6")
    create("--gateway", action="append", default=[], metavar="ADDRESS", help="the first address of the subnet")
    create(
        "--ip-range", action="append", default=[], metavar="CIDR", help="addresses from this part of the subnet only"
    )
    create("--ipv6", action="store_true", help="IPv6, too; without a --subnet of it in a private one (fd…)")
    create("--internal", action="store_true", help="no way out, and none in")
    create("--no-icc", action="store_true", help="its members do not reach each other")
    create("--host-access", action="store_true", help="its members reach what the host listens on")
    create("--mtu", type=int, default=0, metavar="BYTES", help="how much a frame may carry (1500)")
    create("--download", default="0", metavar="RATE", help="bits per second for all members together: 100M")
    create("--upload", default="0", metavar="RATE", help="and from all of them (see connect --share)")
    create("-o", "--opt", action="append", default=[], metavar="KEY=VALUE", help="an option of its driver")
    create("name", metavar="NAME")
    listing = verbs.add_parser("ls", help="list networks").add_argument
    listing("-q", "--quiet", action="store_true", help="only their names")
    verbs.add_parser("inspect", help="show all about networks, as JSON").add_argument(
        "names", nargs="+", metavar="NAME"
    )
    verbs.add_parser("rm", help="remove networks without members").add_argument("names", nargs="+", metavar="NAME")
    verbs.add_parser("prune", help="remove all networks without members")
    connect = verbs.add_parser("connect", help="bring a running container into a network").add_argument
    connect("--ip", default="", metavar="ADDRESS", help="its address there")
    connect("--ip6", default="", metavar="ADDRESS", help="its IPv6 address there")
    connect("--alias", action="append", default=[], metavar="NAME", help="another name for it there")
    connect("--download", default="0", metavar="RATE", help="at most so many bits per second towards it: 10M")
    connect("--upload", default="0", metavar="RATE", help="at most so many away from it")
    connect("--share", default="1", metavar="NUMBER", help="so many parts of the network's limit, where others get one")
    connect("--delay", default="0", metavar="TIME", help="what goes to it waits so long: 20ms")
    connect("--loss", default="0", metavar="PART", help="so much of what goes to it gets lost: 1%%")
    connect("network", metavar="NETWORK")
    connect("container", metavar="CONTAINER")
    disconnect = verbs.add_parser("disconnect", help="take a container out of a network").add_argument
    disconnect("network", metavar="NETWORK")
    disconnect("container", metavar="CONTAINER")


def _port_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("container", metavar="CONTAINER")


def _port(arguments: argparse.Namespace) -> int:
    container = entries.find(arguments.container)["id"]
    found = [(port, port.host_ip) for port in bridge.ports_of(container)]
    for network in networks.of(container):
        member = network.members[container]
        for port in (Port(**record) for record in member.ports):
            found.append((port, port.host_ip))
            if port.host_ip == ANY and member.address6:
                found.append((port, ANY6))
    for port, host in found:
        address = f"[{host}]" if ":" in host else host
        print(f"{port.container_port}/{port.protocol} -> {address}:{port.host_port}")
    return 0


def endpoint(text: str) -> Endpoint:
    """`--network` of `run`: a name, or in Docker's long form what is wished there, `name=shop,alias=web,upload=5M`."""
    if "=" not in text:
        return Endpoint(text)
    found: dict[str, str] = {}
    aliases = []
    for word in text.split(","):
        key, equals, value = word.partition("=")
        if not equals or not value:
            raise UsageError(f"--network {text}: {word!r} has no value", hint="name=NETWORK,KEY=VALUE,…")
        if key == "alias":
            aliases.append(value)
        elif key not in ("name", "ip", "ip6", *_SHAPES):
            known = ", ".join(("name", "alias", "ip", "ip6", *_SHAPES))
            raise UsageError(f"--network {text}: {key} is not known", hint=f"KEY is one of {known}")
        elif key in found:
            raise UsageError(f"--network {text}: {key} is given twice")
        else:
            found[key] = value
    if "name" not in found:
        raise UsageError(f"--network {text} names no network", hint="name=NETWORK,KEY=VALUE,…")
    if found["name"] in networks.RESERVED:
        raise UsageError(f"--network {text}: {found['name']} is no network of your own", hint="its name alone")
    shapes = {name: found[name] for name in _SHAPES if name in found}
    return Endpoint(found["name"], found.get("ip", ""), found.get("ip6", ""), aliases, **shapes)


_SHAPES = ("download", "upload", "share", "delay", "loss")
"""What `Endpoint` calls the limits."""


def _network(arguments: argparse.Namespace) -> int:
    return {
        "create": _create,
        "ls": _ls,
        "inspect": _inspect,
        "rm": _rm,
        "prune": _prune,
        "connect": _connect,
        "disconnect": _disconnect,
    }[arguments.verb](arguments)


def _create(arguments: argparse.Namespace) -> int:
    four, six = _by_family("--subnet", arguments.subnet)
    gateway, gateway6 = _by_family("--gateway", arguments.gateway)
    range, range6 = _by_family("--ip-range", arguments.ip_range)
    options = {}
    for word in arguments.opt:
        key, equals, value = word.partition("=")
        if not equals:
            raise UsageError(f"-o {word}: no value", hint="KEY=VALUE")
        options[key] = value
    network = networks.create(
        arguments.name,
        driver=arguments.driver,
        subnet=four,
        gateway=gateway,
        range=range,
        ipv6=arguments.ipv6,
        subnet6=six,
        range6=range6,
        gateway6=gateway6,
        internal=arguments.internal,
        icc=not arguments.no_icc,
        host_access=arguments.host_access,
        mtu=arguments.mtu,
        download=arguments.download,
        upload=arguments.upload,
        options=options,
    )
    print(network.name)
    return 0


def _by_family(option: str, written: list[str]) -> tuple[str, str]:
    four = [text for text in written if ":" not in text]
    six = [text for text in written if ":" in text]
    if len(four) > 1 or len(six) > 1:
        raise UsageError(f"{option} is given twice for one family", hint="once for IPv4 and once for IPv6")
    return "".join(four), "".join(six)


def _ls(arguments: argparse.Namespace) -> int:
    found = networks.everything()
    if arguments.quiet:
        print("".join(f"{network.name}\n" for network in found), end="")
        return 0
    rows = [("NAME", "DRIVER", "SUBNET", "MEMBERS")]
    for network in found:
        subnets = ", ".join(map(str, network.subnets))
        rows.append((network.name, network.driver, subnets, str(len(network.members))))
    print(table(rows))
    return 0


def _inspect(arguments: argparse.Namespace) -> int:
    found: list[dict[str, Any]] = []
    for name in arguments.names:
        network = networks.get(name)
        found.append({"name": network.name, "link": network.link, **network.record()})
    json.dump(found, sys.stdout, indent=2)
    print()
    return 0


def _rm(arguments: argparse.Namespace) -> int:
    for name in arguments.names:
        networks.remove(name)
        print(name)
    return 0


def _prune(arguments: argparse.Namespace) -> int:
    for name in networks.prune():
        print(name)
    return 0


def _connect(arguments: argparse.Namespace) -> int:
    container = entries.running(arguments.container)["id"]
    wishes = {name: getattr(arguments, name) for name in _SHAPES}
    connecting.connect(container, Endpoint(arguments.network, arguments.ip, arguments.ip6, arguments.alias, **wishes))
    return 0


def _disconnect(arguments: argparse.Namespace) -> int:
    connecting.disconnect(entries.find(arguments.container)["id"], arguments.network)
    return 0


COMMANDS = {"network": (_arguments, _network), "port": (_port_arguments, _port)}
