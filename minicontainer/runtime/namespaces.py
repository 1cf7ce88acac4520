"""Namespaces as config.json has them: new ones, and existing ones by path.

Chapter 3's part does the work. Two things are different here: a host name may be set in a namespace that was joined,
and nothing is set that was not asked for.
"""

from __future__ import annotations

from minicontainer import linux
from minicontainer.container.part import Inside, Part
from minicontainer.errors import UsageError
from minicontainer.namespaces import KINDS, Namespaces

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_CLOCKS = ("monotonic", "boottime")


class OciNamespaces(Namespaces):
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
        if "user" in joined:
            raise UsageError("linux.namespaces: joining a user namespace by path is not supported")
        maps = {name: _map(section, name) for name in ("uidMappings", "gidMappings")}
        if "user" in new and not all(maps.values()):
            raise UsageError("linux.uidMappings and gidMappings have to be given for a new user namespace")
        if "user" not in new and any(maps.values()):
            raise UsageError("linux.uidMappings and gidMappings are of no use without a user namespace")
        super().__init__(*new, join=joined, uid_map=maps["uidMappings"], gid_map=maps["gidMappings"])
        self.names = (config.get("hostname"), config.get("domainname"))
        if any(self.names) and "uts" not in (*new, *joined):
            raise UsageError("unable to set hostname without a private UTS namespace")
        self.offsets = section.get("timeOffsets") or {}
        if self.offsets and "time" not in new:
            raise UsageError("linux.timeOffsets need a new time namespace")
        if set(self.offsets) - {*_CLOCKS}:
            raise UsageError("linux.timeOffsets: only monotonic and boottime can be offset, time_namespaces(7)")

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


def _map(section: dict[str, Any], name: str) -> list[tuple[int, int, int]]:
    return [(line["containerID"], line["hostID"], line["size"]) for line in section.get(name) or ()]


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
