"""Chapter 06, the network: an address of its own.

A network namespace is a network stack with nothing plugged in. This chapter plugs something in:

>>> from minicontainer import Container                                             # doctest: +SKIP
>>> from minicontainer.network import Bridge                                        # doctest: +SKIP
>>> Container(["httpd", "-f"], PivotRoot(rootfs), Bridge(publish={8080: 80})).run()   # doctest: +SKIP

Read it in this order: `netlink` (how the kernel is asked), `links` (bridge, cable, address, route), `addresses` (who
has which), `ports`, `firewall` and `conntrack` (in from outside, out to it), `files` (names), `arrival` (when the
cable is ready), `bridge` (the part that does it all), `modes` (the three networks that are none of ours). In a
container's list of parts the network stands behind the one that brings the root: the files for names are mounted into
it.

Then come networks of the user's own, in which containers know each other by name:

>>> networks.create("shop", ipv6=True)                                               # doctest: +SKIP
>>> Container(["httpd", "-f"], PivotRoot(rootfs), Join("shop", aliases=["web"])).run()   # doctest: +SKIP

`networks` with `definition` and `subnets` (the plan), `drivers` with `overlay` and `macvlan` (what they are built of),
`interfaces`, `forwarding` and `moving` (more netlink), `membership` and `join` (who comes and goes), `connecting` (a
running container), `rules`, `elements`, `publishing` and `ruleset` (who may reach whom, and who is who), `dns`,
`names`, `forward` and `answering` (the name server), `shaping`, `sharing` and `counters` (bandwidth).
"""

from minicontainer.network.modes import HostNetwork, JoinNetwork, NoNetwork

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minicontainer.network.bridge import Bridge, bridge_name
    from minicontainer.network.definition import Network
    from minicontainer.network.join import Join
    from minicontainer.network.membership import Endpoint
    from minicontainer.network.ports import Port

__all__ = [
    "Bridge",
    "Endpoint",
    "HostNetwork",
    "Join",
    "JoinNetwork",
    "Network",
    "NoNetwork",
    "Port",
    "bridge_name",
    "reset",
]

_LATER = {
    "Bridge": "bridge",
    "bridge_name": "bridge",
    "Endpoint": "membership",
    "Join": "join",
    "Network": "definition",
    "Port": "ports",
}


def __getattr__(name: str) -> object:
    """What a container without a network does not need is imported when it is asked for."""
    if name in _LATER:
        return getattr(__import__(f"{__name__}.{_LATER[name]}", fromlist=[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def reset() -> list[str]:
    """Remove all that this instance has in the kernel's network, and the members from its plans; what was removed.

    For after a crash that left no records; containers that still run lose their network.
    """
    from minicontainer.network import bridge, membership

    return bridge.reset() + membership.reset()
