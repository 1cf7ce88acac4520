"""The options of a mount, as config.json and fstab(5) write them, in the kernel's three forms.

mount(2) takes flags for a new filesystem, a string for the filesystem itself, and a propagation in a call of its own.
A bind mount is different: it inherits the flags of what it shows, and mount_setattr(2) sets or clears single ones.
"""

from __future__ import annotations

from minicontainer import linux
from minicontainer.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# option: (flag of mount(2), attribute of mount_setattr(2), set or clear)
FLAGS = {
    "ro": (linux.MS_RDONLY, linux.MOUNT_ATTR_RDONLY, True),
    "rw": (linux.MS_RDONLY, linux.MOUNT_ATTR_RDONLY, False),
    "nosuid": (linux.MS_NOSUID, linux.MOUNT_ATTR_NOSUID, True),
    "suid": (linux.MS_NOSUID, linux.MOUNT_ATTR_NOSUID, False),
    "nodev": (linux.MS_NODEV, linux.MOUNT_ATTR_NODEV, True),
    "dev": (linux.MS_NODEV, linux.MOUNT_ATTR_NODEV, False),
    "noexec": (linux.MS_NOEXEC, linux.MOUNT_ATTR_NOEXEC, True),
    "exec": (linux.MS_NOEXEC, linux.MOUNT_ATTR_NOEXEC, False),
    "noatime": (linux.MS_NOATIME, linux.MOUNT_ATTR_NOATIME, True),
    "atime": (linux.MS_NOATIME, linux.MOUNT_ATTR_NOATIME, False),
    "nodiratime": (linux.MS_NODIRATIME, linux.MOUNT_ATTR_NODIRATIME, True),
    "diratime": (linux.MS_NODIRATIME, linux.MOUNT_ATTR_NODIRATIME, False),
    "relatime": (linux.MS_RELATIME, 0, True),  # the attribute whose value is nothing: no other atime is set
    "norelatime": (linux.MS_RELATIME, 0, False),
    "strictatime": (linux.MS_STRICTATIME, linux.MOUNT_ATTR_STRICTATIME, True),
    "nostrictatime": (linux.MS_STRICTATIME, linux.MOUNT_ATTR_STRICTATIME, False),
    "nosymfollow": (linux.MS_NOSYMFOLLOW, linux.MOUNT_ATTR_NOSYMFOLLOW, True),
    "symfollow": (linux.MS_NOSYMFOLLOW, linux.MOUNT_ATTR_NOSYMFOLLOW, False),
}
SUPERBLOCK = {
    "sync": (linux.MS_SYNCHRONOUS, True),
    "async": (linux.MS_SYNCHRONOUS, False),
    "dirsync": (linux.MS_DIRSYNC, True),
    "mand": (linux.MS_MANDLOCK, True),
    "nomand": (linux.MS_MANDLOCK, False),
    "silent": (linux.MS_SILENT, True),
    "loud": (linux.MS_SILENT, False),
    "iversion": (linux.MS_I_VERSION, True),
    "noiversion": (linux.MS_I_VERSION, False),
    "lazytime": (linux.MS_LAZYTIME, True),
    "nolazytime": (linux.MS_LAZYTIME, False),
    "remount": (linux.MS_REMOUNT, True),
}
PROPAGATION = {
    "private": linux.MS_PRIVATE,
    "slave": linux.MS_SLAVE,
    "shared": linux.MS_SHARED,
    "unbindable": linux.MS_UNBINDABLE,
}
_ATIMES = linux.MOUNT_ATTR_NOATIME | linux.MOUNT_ATTR_STRICTATIME


class Attributes:
    """What mount_setattr(2) is to set and to clear."""

    __slots__ = ("clear", "set")

    def __init__(self) -> None:
        self.set = self.clear = 0

    def add(self, name: str) -> None:
        """One of FLAGS. The three kinds of access times exclude each other: setting one clears the field."""
        _, bit, on = FLAGS[name]
        if "relatime" in name or bit & _ATIMES:
            self.set &= ~_ATIMES
            self.clear |= linux.MOUNT_ATTR__ATIME
            self.set |= bit if on else 0
        elif on:
            self.set, self.clear = self.set | bit, self.clear & ~bit
        else:
            self.set, self.clear = self.set & ~bit, self.clear | bit

    def __bool__(self) -> bool:
        return bool(self.set | self.clear)


class Mount:
    """One entry of config.json's `mounts`, understood.

    `attributes` are for a bind's own mount, `everywhere` (options that begin with r: `rro`) for all below it too.
    `propagation` is (type, recursive) or None. `idmap` is None, "idmap" or "ridmap"; by `mappings`, if there are any.
    `copy_up`: a tmpfs begins with what it hides. `copy_link`: of a source that is a symbolic link the link is made, and
    nothing mounted (crun's `copy-symlink`, which podman's `no-dereference` becomes).
    """

    def __init__(self, entry: dict[str, Any]) -> None:
        self.destination: str = entry["destination"]
        options: list[str] = entry.get("options") or []
        self.bind = any(option in ("bind", "rbind") for option in options) or entry.get("type") == "bind"
        self.recursive = "rbind" in options
        self.type: str = "bind" if self.bind else entry.get("type") or "none"
        self.source: str = entry.get("source") or self.type
        self.flags = 0
        self.attributes, self.everywhere = Attributes(), Attributes()
        self.propagation: list[tuple[int, bool]] = []
        self.idmap: str | None = None
        self.copy_up = self.copy_link = False
        self.mappings = {name: entry.get(name) or [] for name in ("uidMappings", "gidMappings")}
        data: list[str] = []
        for option in options:
            self._take(option, data)
        self.data = ",".join(data)
        if self.bind and data:  # they would go to a filesystem, and none is mounted: the kernel does not read them
            raise UsageError(f"mounts: {self.destination} is a bind mount, which has no option {data[0]!r}")
        if self.copy_up and self.type != "tmpfs":
            raise UsageError(f"mounts: tmpcopyup is for a tmpfs, and {self.destination} is none")
        if self.copy_link and not self.bind:
            raise UsageError(f"mounts: copy-symlink is for a bind mount, and {self.destination} is none")
        if any(self.mappings.values()):
            self.idmap = self.idmap or "idmap"
            if not all(self.mappings.values()):
                raise UsageError(f"mounts: {self.destination} has mappings for users or for groups only, not for both")
        if self.idmap and not self.bind:
            raise UsageError(f"mounts: {self.destination} is no bind mount, and only those can be idmapped")

    @property
    def read_only(self) -> bool:
        return bool(self.flags & linux.MS_RDONLY)

    def _take(self, option: str, data: list[str]) -> None:
        if option in ("bind", "rbind", "defaults"):
            return
        if option == "tmpcopyup":
            self.copy_up = True
        elif option == "copy-symlink":
            self.copy_link = True
        elif option in FLAGS:
            flag, _, on = FLAGS[option]
            self.flags = self.flags | flag if on else self.flags & ~flag
            self.attributes.add(option)
        elif option in SUPERBLOCK:
            flag, on = SUPERBLOCK[option]
            self.flags = self.flags | flag if on else self.flags & ~flag
        elif option in PROPAGATION:
            self.propagation.append((PROPAGATION[option], False))
        elif option[:1] == "r" and option[1:] in PROPAGATION:
            self.propagation.append((PROPAGATION[option[1:]], True))
        elif option[:1] == "r" and option[1:] in FLAGS:
            self.everywhere.add(option[1:])
        elif option in ("idmap", "ridmap"):
            self.idmap = option
        else:
            data.append(option)
