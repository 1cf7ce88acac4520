"""The other end of a filter that asks: calls arrive as numbers, and wait for an answer. seccomp_unotify(2)"""

from __future__ import annotations

import fcntl
import struct

from minicontainer.linux.door import announce

# struct seccomp_notif, struct seccomp_notif_resp, <linux/seccomp.h>
_ASKED, _ANSWER = struct.Struct("=QIIiIQ6Q"), struct.Struct("=QqiI")
SECCOMP_IOCTL_NOTIF_RECV = 0xC0502100
SECCOMP_IOCTL_NOTIF_SEND = 0xC0182101
SECCOMP_IOCTL_NOTIF_ID_VALID = 0x40082102
SECCOMP_USER_NOTIF_FLAG_CONTINUE = 1


def receive(listener: int) -> tuple[int, int, int, int, list[int]]:
    """Wait for a call: (its id, the caller's pid, the call's number, the architecture, the six arguments)."""
    buffer = bytearray(_ASKED.size)
    announce("ioctl", "SECCOMP_IOCTL_NOTIF_RECV", "seccomp_unotify(2)", lambda: _ioctl(listener, buffer))
    id, pid, _, number, arch, _, *arguments = _ASKED.unpack(buffer)
    return id, pid, number, arch, arguments


def _ioctl(listener: int, buffer: bytearray) -> None:
    fcntl.ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, buffer, True)


def valid(listener: int, id: int) -> bool:
    """Whether the caller still waits: asked after whatever was read by its pid, which may be another's by then."""
    try:
        fcntl.ioctl(listener, SECCOMP_IOCTL_NOTIF_ID_VALID, struct.pack("=Q", id))
    except FileNotFoundError:
        return False
    return True


def answer(listener: int, id: int, *, value: int = 0, errno: int = 0, go_on: bool = False) -> None:
    """Let the call return `value`, fail with `errno`, or be made after all. Raises FileNotFoundError: it is gone."""
    flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE if go_on else 0
    reply = bytearray(_ANSWER.pack(id, value, -errno, flags))
    announce(
        "ioctl",
        "SECCOMP_IOCTL_NOTIF_SEND",
        "seccomp_unotify(2)",
        lambda: fcntl.ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, reply, True),
    )
