"""What the tests of user-defined networks share: containers in them, and what the kernel says of those.

(A helper that imports `networks` late: pytest wants to load that one itself, as a plugin.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from minicontainer.container import Container

if TYPE_CHECKING:
    from collections.abc import Callable

    from networks import Machine, Place

    from minicontainer.network import Join


def start(machine: Machine, join: Join, name: str = "") -> Place:
    """A container that waits, in the given networks."""
    from networks import Place

    container = Container(["/bin/sleep", "1000"], join, name=name)
    container.start()
    machine.containers.append(container)
    place = Place(machine, container.pid, join.address)
    place.container = container  # type: ignore[attr-defined]
    return place


def inet(place: Place, interface: str = "eth0", family: str = "inet") -> list[str]:
    """The addresses that the kernel shows, link-local ones apart."""
    (link,) = place.ip("addr", "show", "dev", interface)
    found = [it for it in link["addr_info"] if it["family"] == family and it["scope"] == "global"]
    return [f"{it['local']}/{it['prefixlen']}" for it in found]


def six(place: Place, interface: str = "eth0") -> str:
    """The IPv6 address."""
    (found,) = inet(place, interface, "inet6")
    return found.partition("/")[0]


def defaults(place: Place, *family: str) -> list[tuple[str, str]]:
    """The default routes, the first one to be taken first."""
    routes = [route for route in place.ip(*family, "route") if route["dst"] == "default"]
    return [(route["gateway"], route["dev"]) for route in sorted(routes, key=lambda it: it.get("metric", 0))]


def eventually(condition: Callable[[], bool], seconds: float = 5) -> bool:
    """Whether it comes true in time."""
    from networks import eventually

    return eventually(condition, seconds)
