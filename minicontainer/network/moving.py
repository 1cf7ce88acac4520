"""A link that goes to another network namespace, with what it is to keep.

The kernel takes care of most: the hardware address, the MTU, the kind. A link that arrives is down, and its addresses
stay behind with the routes that hung on them; so those that were set for good, and are for everybody (global scope),
are noted before and given back behind. Left out: routes, which are for whoever owns the other namespace.

Sources: rtnetlink(7), network_namespaces(7), <linux/if_addr.h>.
"""

from __future__ import annotations

import errno
import os

from minicontainer import linux
from minicontainer.errors import ConflictError, HostError, NotFoundError
from minicontainer.lean import contextmanager
from minicontainer.network.interfaces import IFA_F_NODAD, IFA_FLAGS, up_by_index_request
from minicontainer.network.links import (
    IFA_ADDRESS,
    IFA_BROADCAST,
    IFA_LOCAL,
    IFLA_IFNAME,
    RT_SCOPE_UNIVERSE,
    RTM_GETADDR,
    RTM_NEWADDR,
    RTM_NEWLINK,
    _ifaddrmsg,
    _ifinfomsg,
    all_links,
    find_link,
)
from minicontainer.network.netlink import NLM_F_CREATE, NLM_F_EXCL, Netlink, attribute, attributes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

IFLA_NET_NS_FD = 28
IFA_F_PERMANENT = 0x80
_KEPT = (IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST)


@contextmanager
def netlink_of(namespace: int) -> Iterator[Netlink]:
    """A netlink socket of another network namespace: a socket belongs to the one in which it was made."""
    own = linux.open("/proc/self/ns/net", os.O_RDONLY)
    try:
        linux.setns(namespace, linux.CLONE_NEWNET)
        try:
            netlink = Netlink()
        finally:
            linux.setns(own, linux.CLONE_NEWNET)
    finally:
        os.close(own)
    with netlink:
        yield netlink


def move(here: Netlink, name: str, there: Netlink, namespace: int, new: str) -> None:
    """Move the link `name` into the namespace, as `new` (`eth%d`: the kernel finds a number), and set it up there.

    Raises NotFoundError, ConflictError when there is one of the new name, HostError for a link that cannot be moved.
    """
    link = find_link(here, name)
    if link is None:
        raise NotFoundError(f"there is no network device {name}", hint="`ip link` shows those there are")
    addresses = lasting_addresses(here, link.index)
    before = {one.index for one in all_links(there)}
    # asked first: the kernel moves, and gives the name afterwards; a veth whose new namespace then goes is lost
    if find_link(there, new) is not None:
        raise ConflictError(f"the network device {name} cannot become {new}: there is one of that name")
    words = f"{name} to another netns, as {new}"
    try:
        here.change("RTM_NEWLINK", words, RTM_NEWLINK, 0, move_request(link.index, namespace, new))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise HostError(
            f"the network device {name} cannot be moved: {error}",
            hint="some belong to their network namespace, lo and bridges with ports among them, and a name has at most "
            "15 letters, ip-link(8)",
        ) from None
    arrived = next(one for one in all_links(there) if one.index not in before)
    for address in addresses:
        words = f"an address of {name} on {arrived.name}"
        there.change(
            "RTM_NEWADDR", words, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, same_address_request(address, arrived.index)
        )
    there.change("RTM_NEWLINK", f"{arrived.name} up", RTM_NEWLINK, 0, up_by_index_request(arrived.index))


def lasting_addresses(netlink: Netlink, index: int) -> list[bytes]:
    """The addresses of a link, of every family, that were set for good and are global; as the kernel describes them."""
    found = []
    for answer in netlink.dump("RTM_GETADDR", "all", RTM_GETADDR, _ifaddrmsg.pack(0, 0, 0, 0, 0)):
        _family, _length, flags, scope, owner = _ifaddrmsg.unpack_from(answer)
        if wide := attributes(answer[_ifaddrmsg.size :]).get(IFA_FLAGS):
            flags = int.from_bytes(wide, "little")
        if owner == index and scope == RT_SCOPE_UNIVERSE and flags & IFA_F_PERMANENT:
            found.append(answer)
    return found


def move_request(index: int, namespace: int, name: str) -> bytes:
    return _ifinfomsg.pack(0, 0, index, 0, 0) + attribute(IFLA_NET_NS_FD, namespace) + attribute(IFLA_IFNAME, name)


def same_address_request(message: bytes, index: int) -> bytes:
    """The address that the kernel has described, for another link; known to be free, so nobody is asked (DAD)."""
    family, length, _flags, scope, _index = _ifaddrmsg.unpack_from(message)
    found = attributes(message[_ifaddrmsg.size :])
    request = _ifaddrmsg.pack(family, length, 0, scope, index)
    for number in _KEPT:
        if number in found:
            request += attribute(number, found[number])
    return request + attribute(IFA_FLAGS, IFA_F_NODAD)
