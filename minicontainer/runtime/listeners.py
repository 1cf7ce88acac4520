"""The descriptor on which somebody else decides about a container's system calls: it goes to whoever listens.

A rule of SCMP_ACT_NOTIFY makes the kernel stop the caller and ask. Who answers is outside, at `linux.seccomp`'s
listenerPath, and gets the descriptor with a word on whose calls it is. runtime-spec, config-linux.md, "The Container
Process State"; seccomp_unotify(2)
"""

from __future__ import annotations

import _socket
import os
import struct

from minicontainer.errors import UsageError
from minicontainer.lean import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PROCESS_STATE_VERSION = "0.2.0"  # of this message alone, which the specification counts apart


def send(config: dict[str, Any], fd: int, pid: int, container: dict[str, Any]) -> None:
    """Send the descriptor, and close it here. Raises UsageError when nobody listens."""
    profile = config["linux"]["seccomp"]
    state = {"ociVersion": PROCESS_STATE_VERSION, "fds": ["seccompFd"], "pid": pid, "state": container}
    if profile.get("listenerMetadata"):
        state["metadata"] = profile["listenerMetadata"]
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    try:
        connection.connect(profile["listenerPath"])
        rights = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack("i", fd))
        connection.sendmsg([dumps(state).encode()], [rights])
    except OSError as error:
        where = profile["listenerPath"]
        raise UsageError(
            f"linux.seccomp.listenerPath: failed to connect with seccomp agent at {where}: {error}"
        ) from None
    finally:
        connection.close()
        os.close(fd)
