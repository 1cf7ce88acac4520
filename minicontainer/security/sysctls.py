"""Kernel settings of a container's own, below /proc/sys.

Most of them are the whole machine's. Those that belong to a namespace may be set for a container, because they end
with it: everything of the network, System V messages and shared memory, POSIX message queues. A container that has
not got that namespace of its own would set them for the host, and is refused. proc_sys(5), namespaces(7)
"""

from __future__ import annotations

import os

from minicontainer import linux
from minicontainer.container.part import Host, Inside, Part
from minicontainer.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

OF_IPC = [f"kernel.{name}" for name in ("msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni")]
OF_IPC += ["kernel.shm_rmid_forced"]


class Sysctls(Part):
    """Set what is a namespace's: `Sysctls({"net.ipv4.ip_forward": "1"})`. Raises UsageError for what is not."""

    def __init__(self, settings: Mapping[str, str | int]) -> None:
        self.settings = {name: str(value) for name, value in settings.items()}
        for name in self.settings:
            namespace_of(name)
        self.ours: dict[str, int] = {}

    def prepare(self, host: Host) -> None:
        self.ours = {kind: _namespace(kind) for kind in ("net", "ipc")}

    def mount(self, inside: Inside) -> None:
        # through the host's /proc, which shows each process its own namespaces; the container's will be read-only
        for name, value in self.settings.items():
            kind = namespace_of(name)
            if _namespace(kind) == self.ours[kind]:
                raise UsageError(
                    f"sysctl {name} would change the host: the container shares its {kind} namespace",
                    hint="give it one of its own",
                )
            try:
                linux.write(f"/proc/sys/{name.replace('.', '/')}", value)
            except FileNotFoundError:
                raise UsageError(f"this kernel has no sysctl {name}", hint="sysctl -a lists those it has") from None
            except OSError as error:
                number = linux.errno_name(error.errno or 0)
                raise UsageError(f"sysctl {name} does not take {value!r}: {number}") from None


def namespace_of(name: str) -> str:
    """Which namespace it belongs to, `net` or `ipc`. Raises UsageError for one of the whole machine."""
    parts = name.split(".")
    if all(part and "/" not in part for part in parts):
        if name in OF_IPC or name.startswith("fs.mqueue."):
            return "ipc"
        if name.startswith("net."):
            return "net"
    raise UsageError(
        f"sysctl {name!r} is not a container's own: it would change the whole machine",
        hint="net.*, fs.mqueue.*, kernel.msg*, kernel.sem and kernel.shm* belong to a namespace",
    )


def _namespace(kind: str) -> int:
    return os.stat(f"/proc/self/ns/{kind}").st_ino
