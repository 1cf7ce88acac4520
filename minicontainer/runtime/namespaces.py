"""Namespaces as config.json has them: new ones, and existing ones by path.

Chapter 3's part does the work. Three things are different here: where a user namespace is involved, it decides about
the others (`entering`), and is mapped by whoever may (`mapping`); a host name may be set in a namespace that was
joined; and nothing is set that was not asked for.
"""

from __future__ import annotations

import _socket
import fcntl
import struct

from minicontainer import linux
from minicontainer.container.part import Host, Inside, Part
from minicontainer.errors import UsageError
from minicontainer.namespaces import KINDS, Namespaces
from minicontainer.runtime import mapping

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_CLOCKS = ("monotonic", "boottime")


class Entered(Namespaces):
    """Chapter 3's part; with a user namespace among those that are new or joined, all that is joined is entered before
    the clone, but for two: a cgroup namespace shows what its process is in, and a mount namespace comes last."""

    def __init__(self, *kinds: str, **how: Any) -> None:
        super().__init__(*kinds, **how)
        self.own_users = "user" in kinds or "user" in self.joined

    def prepare(self, host: Host) -> None:
        super().prepare(host)
        if not self.own_users:
            if host.pid_namespace is not None and mapping.restricted():
                # root of a user namespace only: one that has been set for the clone could not be set back to the host's
                host.entrances.append((host.pid_namespace, linux.CLONE_NEWPID))
                host.pid_namespace = None
            return
        for kind in self.joined:
            if kind == "pid" and host.pid_namespace is not None:
                host.entrances.append((host.pid_namespace, linux.CLONE_NEWPID))
                host.pid_namespace = None
            elif kind not in ("mount", "cgroup"):
                host.entrances.append((host.gifts.pop(f"{kind} namespace"), KINDS[kind][0]))

    def attach(self, host: Host) -> None:
        if "user" in self.kinds:
            mapping.write(host.pid, self.uid_map, self.gid_map)

    def join(self, inside: Inside) -> None:
        if not self.own_users:
            super().join(inside)
            return
        if "cgroup" in self.joined:
            linux.setns(inside.fds["cgroup namespace"], linux.CLONE_NEWCGROUP)
        if "cgroup" in self.kinds:
            linux.unshare(linux.CLONE_NEWCGROUP)
        if "time" in self.kinds:
            self._make_time()
        if not mapping.groups_denied():
            linux.setgroups([])
        linux.setresgid(0)
        linux.setresuid(0)


class OciNamespaces(Entered):
    """Chapter 3's part, made from config.json's `linux` and host names."""

    def __init__(self, config: dict[str, Any]) -> None:
        section = config.get("linux") or {}
        new, joined = [], {}
        for entry in section.get("namespaces") or ():
            kind = entry.get("type")
            if kind not in KINDS:
                raise UsageError(f"linux.namespaces: there is no namespace of type {kind!r}")
            if kind in new or kind in joined:
                raise UsageError(f"linux.namespaces: {kind} is there twice")
            if path := entry.get("path"):
                if not path.startswith("/"):
                    raise UsageError(f"linux.namespaces: {path!r} is no absolute path")
                joined[kind] = path
            else:
                new.append(kind)
        if "mount" not in new:
            raise UsageError("linux.namespaces: a container without a new mount namespace is not supported")
        maps = {name: mapping.ranges(section, name) for name in ("uidMappings", "gidMappings")}
        if "user" in new and not all(maps.values()):
            raise UsageError("linux.uidMappings and gidMappings have to be given for a new user namespace")
        if not {"user"} & {*new, *joined}:
            if any(maps.values()):
                raise UsageError("linux.uidMappings and gidMappings are of no use without a user namespace")
            if not mapping.may_mount():
                raise UsageError(
                    "linux.namespaces: a container of a user who is not root needs a user namespace",
                    hint="`spec --rootless` writes such a config.json",
                )
        for name, ranges in maps.items():
            if ranges and not mapping.has(ranges, 0):
                raise UsageError(f"linux.{name}: nothing is mapped to 0: the namespace would have no root to build in")
        super().__init__(*new, join=joined, uid_map=maps["uidMappings"], gid_map=maps["gidMappings"])
        # /dev/mqueue belongs to whoever makes the namespace that it shows, and it is to be the mapped root
        self.ipc_last = {"user", "ipc"} <= {*new}
        if self.ipc_last:
            self.namespaces &= ~linux.CLONE_NEWIPC
        self.names = (config.get("hostname"), config.get("domainname"))
        if any(self.names) and "uts" not in (*new, *joined):
            raise UsageError("unable to set hostname without a private UTS namespace")
        self.offsets = section.get("timeOffsets") or {}
        if self.offsets and "time" not in new:
            raise UsageError("linux.timeOffsets need a new time namespace")
        if set(self.offsets) - {*_CLOCKS}:
            raise UsageError("linux.timeOffsets: only monotonic and boottime can be offset, time_namespaces(7)")

    def join(self, inside: Inside) -> None:
        super().join(inside)
        if self.ipc_last:
            linux.unshare(linux.CLONE_NEWIPC)
        if "user" in self.joined:
            for name, asked in (("uid", self.uid_map), ("gid", self.gid_map)):
                with open(f"/proc/self/{name}_map") as file:
                    there = sorted(tuple(map(int, line.split())) for line in file)
                if asked and sorted(asked) != there:
                    raise UsageError(
                        f"linux.{name}Mappings are not those of {self.joined['user']}: there they are {there}",
                        hint="leave them out: a namespace that exists has its own",
                    )
        if "network" in self.kinds:
            linux.announce("ioctl", "SIOCSIFFLAGS, 'lo', IFF_UP", "netdevice(7)", _loopback_up)

    def enter(self, inside: Inside) -> None:
        name, domain = self.names
        if name:
            linux.sethostname(name)
        if domain:
            linux.setdomainname(domain)

    def _make_time(self) -> None:
        linux.unshare(linux.CLONE_NEWTIME)
        for clock, offset in self.offsets.items():
            text = f"{clock} {offset.get('secs', 0)} {offset.get('nanosecs', 0)}\n"
            linux.write("/proc/self/timens_offsets", text)
        fd = linux.open("/proc/self/ns/time_for_children", 0)
        linux.setns(fd, linux.CLONE_NEWTIME)
        linux.close(fd)


_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1  # <linux/sockios.h>, <linux/if.h>


def _loopback_up() -> None:
    """A new network namespace has a loopback that is down; every program expects 127.0.0.1."""
    sock = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    try:
        fcntl.ioctl(sock.fileno(), _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", _IFF_UP))
    finally:
        sock.close()


_IPC = frozenset(f"kernel.{name}" for name in ("msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni"))
_IPC |= {"kernel.shm_rmid_forced"}


class Sysctls(Part):
    """Kernel parameters that belong to one of the container's own namespaces; any other is the host's, and refused.

    Written while the host's /proc is still there: what a file of /proc/sys shows goes by who opens it. proc_sys(5)
    """

    def __init__(self, sysctls: dict[str, str], config: dict[str, Any]) -> None:
        own = {entry["type"]: entry.get("path") for entry in config["linux"].get("namespaces") or ()}
        self.files = {}
        for given, value in sysctls.items():
            # both forms are known: kernel.sem, net/ipv4/conf/eth0.1/forwarding. sysctl(8)
            first = min((at for at in (given.find("."), given.find("/")) if at >= 0), default=-1)
            path = given if first >= 0 and given[first] == "/" else given.translate({46: "/", 47: "."})
            name = path.translate({46: "/", 47: "."})
            kind = ""
            if name in _IPC or name.startswith("fs.mqueue."):
                kind = "ipc"
            elif name.startswith("net."):
                kind = "network"
            elif name == "kernel.domainname":
                kind = "uts"
            if not kind or ".." in path:
                raise UsageError(f"linux.sysctl: {given} is not in a separate kernel namespace")
            if kind not in own:
                raise UsageError(f"linux.sysctl: {given} is not allowed in the host's {kind} namespace")
            if kind == "uts" and config.get("domainname", value) != value:
                raise UsageError(f"linux.sysctl: {given} is {value!r}, and domainname is {config['domainname']!r}")
            self.files[f"/proc/sys/{path}"] = value

    def mount(self, inside: Inside) -> None:
        for path, value in self.files.items():
            linux.write(path, value)
