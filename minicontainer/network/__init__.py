"""Chapter 06, the network: an address of its own.

A network namespace is a network stack with nothing plugged in. This chapter plugs something in:

>>> from minicontainer import Container                                             # doctest: +SKIP
>>> from minicontainer.network import Bridge                                        # doctest: +SKIP
>>> Container(["httpd", "-f"], PivotRoot(rootfs), Bridge(publish={8080: 80})).run()   # doctest: +SKIP

Read it in this order: `netlink` (how the kernel is asked), `links` (bridge, cable, address, route), `addresses` (who
has which), `ports`, `firewall` and `conntrack` (in from outside, out to it), `files` (names), `bridge` (the part that
does it all), `modes` (the three networks that are none of ours). In a container's list of parts the network stands
behind the one that brings the root: the files for names are mounted into it.
"""

from minicontainer.network.bridge import Bridge, bridge_name, reset
from minicontainer.network.modes import HostNetwork, JoinNetwork, NoNetwork
from minicontainer.network.ports import Port

__all__ = ["Bridge", "HostNetwork", "JoinNetwork", "NoNetwork", "Port", "bridge_name", "reset"]
