"""Born in namespaces that are there already, where a user namespace decides who may enter them.

Whoever joins or makes a namespace is asked for CAP_SYS_ADMIN in the user namespace that owns it. Inside of a user
namespace that is only what it owns itself, outside (for somebody who is not root) nothing. So there is an order: what
we may join as we are, then the user namespace, then what that owns; and what is new has to be made after it, or would
be owned by the wrong one. There is no way back out of a user namespace. Therefore a second process goes that way and
makes the container's: as its sibling (CLONE_PARENT), so that it is our child. user_namespaces(7), setns(2), clone(2)
"""

from __future__ import annotations

import os

from minicontainer import linux
from minicontainer.container.channel import Channel
from minicontainer.container.failures import as_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from minicontainer.container.part import Host


def clone_into(host: Host) -> tuple[int, int]:
    """clone3, the child to be born in `host.entrances`; (pid, pidfd), in the child (0, -1).

    Raises StartError with what the kernel refused.
    """
    ours, theirs = Channel.pair()
    guide, guide_fd = linux.clone3()
    if guide == 0:
        return _guide(host, theirs)
    os.close(guide_fd)
    theirs.close()
    try:
        received = ours.receive()
    finally:
        ours.close()
        os.waitid(os.P_PID, guide, os.WEXITED)
    message, fds, _ = received or (_failed(OSError("the process that enters them died")), [], b"")
    if "failed" in message:
        raise as_error(message["failed"])
    return message["pid"], fds[0]


def _guide(host: Host, channel: Channel) -> tuple[int, int]:
    """Enter the namespaces and make the process; returns in that one only."""
    made = -1
    try:
        user = [entrance for entrance in host.entrances if entrance[1] == linux.CLONE_NEWUSER]
        owned = []
        for fd, kind in host.entrances:
            try:
                if kind != linux.CLONE_NEWUSER:
                    linux.setns(fd, kind)
            except PermissionError:
                owned.append((fd, kind))
        for fd, kind in user + owned:
            linux.setns(fd, kind)
        made, pidfd = linux.clone3(host.flags | linux.CLONE_PARENT, host.cgroup)
        if made:
            channel.send({"pid": made}, [pidfd])
    except Exception as error:
        channel.send(_failed(error))
    finally:
        if made:
            os._exit(0)
    return 0, -1


def _failed(error: Exception) -> dict[str, Any]:
    number, call = getattr(error, "errno", None) or 0, getattr(error, "call", "")
    failure = {"part": "OciNamespaces", "moment": "join", "kind": type(error).__name__}
    return {"failed": failure | {"message": str(error), "errno": number, "call": call}}
