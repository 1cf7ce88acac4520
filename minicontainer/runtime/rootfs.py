"""The root of a bundle: config.json's mounts in their order, devices, what is hidden, and the pivot.

Chapter 2's `PivotRoot` furnishes a root as it sees fit; here the bundle says what is mounted where. Each place is
found inside the root by openat2 (chapter 2's `within`), so that no link of the image's leads a mount astray
(CVE-2021-30465), and what is bound is copied on the host's side, where its path means what the engine meant.
"""

from __future__ import annotations

import os
import stat

from minicontainer import linux
from minicontainer.chroot import filesystems, within
from minicontainer.container.part import Host, Inside, Part
from minicontainer.errors import HostError, UsageError
from minicontainer.runtime import mapping
from minicontainer.runtime.mounting import labelled, make_link, mount_one
from minicontainer.runtime.mounts import PROPAGATION, Mount

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from minicontainer.runtime.cgroup import Cgroup
    from minicontainer.runtime.nodes import Nodes

# What lxcfs puts there is allowed; anything else inside /proc would deceive the kernel's own consumers
_IN_PROC = frozenset(
    f"/proc/{name}"
    for name in (
        *("cpuinfo", "diskstats", "meminfo", "stat", "swaps", "uptime", "loadavg", "slabinfo", "net/dev"),
        *("sys/kernel/ns_last_pid", "sys/crypto/fips_enabled"),
    )
)
_KINDS = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}
_LINKS = {name: target for name, target in filesystems.LINKS.items() if name != "ptmx"}


class Device:
    """A node of `linux.devices`."""

    def __init__(self, entry: dict[str, Any]) -> None:
        self.path: str = os.path.normpath(entry["path"])
        kind = entry.get("type")
        if kind not in _KINDS:
            raise UsageError(f"linux.devices: {kind!r} is no type of device", hint="c, b, u or p")
        if kind != "p" and not ("major" in entry and "minor" in entry):
            raise UsageError(f"linux.devices: {self.path} needs a major and a minor number")
        self.mode = _KINDS[kind] | entry.get("fileMode", 0o666)
        try:
            self.number = os.makedev(entry.get("major", 0), entry.get("minor", 0))
        except OverflowError:
            raise UsageError(f"linux.devices: {self.path}: no device has such a number") from None
        self.owner = (entry.get("uid", 0), entry.get("gid", 0))
        if not self.path.startswith("/"):
            raise UsageError(f"linux.devices: {self.path!r} is no absolute path")


class Rootfs(Part):
    """The root, furnished as config.json says, and entered by pivot_root (`pivot=False`: by moving it onto /)."""

    namespaces = linux.CLONE_NEWNS
    seal_order = -30  # what is read-only in the end was needed until now: the console lies in /dev

    def __init__(self, config: dict[str, Any], bundle: str, cgroup: Cgroup | None, *, pivot: bool = True) -> None:
        root, section = config["root"], config.get("linux") or {}
        self.rootfs = os.path.normpath(os.path.join(bundle, root["path"]))
        self.read_only = bool(root.get("readonly"))
        self.pivot = pivot
        self.cgroup = cgroup
        kinds = {entry["type"]: entry.get("path") for entry in section.get("namespaces") or ()}
        self.own_cgroup_view = "cgroup" in kinds
        self.user_namespace = "user" in kinds
        self.mounts = []
        for entry in config.get("mounts") or ():
            self.mounts.append(Mount(entry))
            self._check(self.mounts[-1])
            _check_owner(self.mounts[-1], section)
        self.devices = [Device(entry) for entry in section.get("devices") or ()]
        self.nodes: Nodes | None = None
        if self.user_namespace and self.devices:
            from minicontainer.runtime.nodes import Nodes

            self.nodes = Nodes([device for device in self.devices if not stat.S_ISFIFO(device.mode)])
        named = {device.path for device in self.devices}
        for name, (major, minor) in filesystems.DEVICES.items():
            if f"/dev/{name}" not in named:
                self.devices.append(Device({"path": f"/dev/{name}", "type": "c", "major": major, "minor": minor}))
        self.label: str = section.get("mountLabel") or ""
        if self.label:
            from minicontainer.security import labels

            labels.need_selinux(self.label, "linux.mountLabel")
        self.masked = section.get("maskedPaths") or []
        self.read_only_paths = section.get("readonlyPaths") or []
        name = section.get("rootfsPropagation") or ""
        if name and name.removeprefix("r") not in PROPAGATION:
            raise UsageError(f"linux.rootfsPropagation: no propagation is called {name!r}")
        self.propagation = PROPAGATION.get(name.removeprefix("r"), 0)

    def _check(self, mount: Mount) -> None:
        if not mount.destination.startswith("/"):
            mount.destination = f"/{mount.destination}"  # runtime-spec 1.0 had it relative to the root
        mount.destination = os.path.normpath(mount.destination)
        inside = mount.destination.startswith("/proc/")
        if inside and mount.destination not in _IN_PROC:
            raise UsageError(f"{mount.destination!r} cannot be mounted because it is inside /proc")
        if mount.destination == "/proc" and mount.type not in ("proc", "bind"):
            raise UsageError(f"{mount.destination!r} cannot be mounted because it is not of type proc")
        if mount.idmap and not (any(mount.mappings.values()) or self.user_namespace):
            raise UsageError(f"mounts: {mount.destination} is to be idmapped, but by no mapping")

    # ------------------------------------------------------------------------------------------------ on the host

    def prepare(self, host: Host) -> None:
        try:
            is_directory = stat.S_ISDIR(os.stat(self.rootfs).st_mode)
        except OSError as error:
            raise UsageError(f"the root {self.rootfs} cannot be used: {error.strerror}") from None
        if not is_directory:
            raise UsageError(f"the root {self.rootfs} is not a directory")
        self.links = {
            number: os.readlink(mount.source)
            for number, mount in enumerate(self.mounts)
            if mount.copy_link and os.path.islink(mount.source)
        }
        self.is_directory = {
            number: stat.S_ISDIR(_source(mount).st_mode)
            for number, mount in enumerate(self.mounts)
            if mount.bind and number not in self.links
        }

    def attach(self, host: Host) -> None:
        for number, mount in enumerate(self.mounts):
            if number in self.is_directory:
                try:
                    host.give(f"mount {number}", self._copy(mount, host.pid))
                except PermissionError as error:
                    if mount.idmap:
                        raise _not_idmapped(mount, error) from None
                    if not self.user_namespace:
                        raise
                    # whoever is not root copies no mounts: the process, root of its own mount namespace, may
        if self.nodes:
            self.nodes.give(host)

    def _copy(self, mount: Mount, pid: int = 0) -> int:
        """A detached copy of what is to be bound, with the attributes it will have."""
        recursive = linux.AT_RECURSIVE if mount.recursive else 0
        tree = linux.open_tree(
            linux.AT_FDCWD, mount.source, linux.OPEN_TREE_CLONE | linux.OPEN_TREE_CLOEXEC | recursive
        )
        try:
            if mount.idmap:
                self._idmap(mount, tree, pid)
            kind, all_below = mount.propagation[-1] if mount.propagation else (linux.MS_PRIVATE, True)
            if kind != linux.MS_SHARED or mount.propagation:
                below = linux.AT_RECURSIVE if all_below else 0
                linux.mount_setattr(tree, "", linux.AT_EMPTY_PATH | below, propagation=kind)
            for attributes, below in ((mount.attributes, 0), (mount.everywhere, linux.AT_RECURSIVE)):
                if attributes:
                    linux.mount_setattr(
                        tree,
                        "",
                        linux.AT_EMPTY_PATH | below,
                        set_attributes=attributes.set,
                        clear_attributes=attributes.clear,
                    )
        except BaseException:
            os.close(tree)
            raise
        return tree

    def _copy_inside(self, mount: Mount) -> int:
        try:
            return self._copy(mount)
        except PermissionError as error:
            raise HostError(
                f"mounts: {mount.source} cannot be bound to {mount.destination}: {error}",
                hint="in a user namespace the options that the host's mount has cannot be taken away, nor its atime "
                "changed, and what has mounts below it is bound by rbind; mount_namespaces(7)",
            ) from None

    def _idmap(self, mount: Mount, tree: int, pid: int) -> None:
        """Have the copy show other owners: those of its own maps, or of the container's user namespace."""
        maps = [mapping.ranges(mount.mappings, name) for name in ("uidMappings", "gidMappings")]
        try:
            namespace = mapping.made(*maps) if any(maps) else linux.open(f"/proc/{pid}/ns/user", os.O_RDONLY)
            try:
                below = linux.AT_RECURSIVE if mount.idmap == "ridmap" else 0
                flags = linux.AT_EMPTY_PATH | below
                linux.mount_setattr(tree, "", flags, set_attributes=linux.MOUNT_ATTR_IDMAP, userns_fd=namespace)
            finally:
                os.close(namespace)
        except OSError as error:
            raise _not_idmapped(mount, error) from None

    # -------------------------------------------------------------------------------------------- in the process

    def join(self, inside: Inside) -> None:
        # an unbindable root could not be bound here: it becomes one in the end
        kind = self.propagation if self.propagation != linux.MS_UNBINDABLE else 0
        linux.mount(None, "/", flags=linux.MS_REC | (kind or linux.MS_SLAVE))

    def mount(self, inside: Inside) -> None:
        _make_parent_private(self.rootfs)
        linux.mount(self.rootfs, self.rootfs, flags=linux.MS_BIND | linux.MS_REC)
        inside.rootfs = self.rootfs
        if self.nodes:
            self.nodes.take(inside, self.rootfs)
        root = linux.open(self.rootfs, os.O_PATH | os.O_DIRECTORY)
        try:
            for number, mount in enumerate(self.mounts):
                if number in self.links:
                    make_link(root, mount.destination, self.links[number])
                elif mount.bind:
                    tree = inside.fds.get(f"mount {number}", -1)
                    tree = tree if tree >= 0 else self._copy_inside(mount)
                    with within.place(root, mount.destination, directory=self.is_directory[number]) as target:
                        within.hang(tree, target)
                elif mount.type in ("cgroup", "cgroup2"):
                    self._mount_cgroup(root, mount)
                else:
                    mount_one(root, mount, self.rootfs, self.label)
                if mount.destination == "/":  # what comes next goes into the new root, on top of the old one
                    os.close(root)
                    root = linux.open(self.rootfs, os.O_PATH | os.O_DIRECTORY)
            if not any(mount.bind and mount.destination == "/dev" for mount in self.mounts):
                self._make_devices(root)
            if inside.cwd != "/":
                within.make(root, inside.cwd)
        finally:
            os.close(root)

    def enter(self, inside: Inside) -> None:
        with within.root(self.rootfs) as root:
            for path in self.read_only_paths:
                filesystems.make_read_only(root, path)
            if self.masked:
                filesystems.mask(root, self.masked, labelled("", self.label))
            if self.read_only:
                linux.mount_setattr(root, "", linux.AT_EMPTY_PATH, set_attributes=linux.MOUNT_ATTR_RDONLY)
            linux.fchdir(root)
        if self.pivot:
            old = linux.open("/", os.O_PATH | os.O_DIRECTORY)
            linux.pivot_root(".", ".")
            # what is unmounted here must not be unmounted on the host. By its descriptor: "." is the new root, below
            # which there are binds that shall be shared
            linux.fchdir(old)
            os.close(old)
            linux.mount(None, ".", flags=linux.MS_SLAVE | linux.MS_REC)
            linux.umount2(".", linux.MNT_DETACH)
        else:
            _uncover(self.rootfs)
            linux.mount(self.rootfs, "/", flags=linux.MS_MOVE)
            linux.chroot(".")
        linux.chdir("/")
        if self.propagation == linux.MS_SHARED:
            linux.mount(None, "/", flags=linux.MS_REC | linux.MS_SHARED)
        elif self.propagation == linux.MS_UNBINDABLE:  # alone: a terminal is still to be bound from /dev/pts
            linux.mount(None, "/", flags=linux.MS_UNBINDABLE)

    def seal(self, inside: Inside) -> None:
        for mount in self.mounts:
            if not mount.bind and mount.read_only and mount.type == "tmpfs":
                linux.mount_setattr(linux.AT_FDCWD, mount.destination, set_attributes=linux.MOUNT_ATTR_RDONLY)

    # ---------------------------------------------------------------------------------------------------- helpers

    def _make_devices(self, root: int) -> None:
        before = linux.umask(0)
        try:
            for device in self.devices:
                parent, _, name = device.path.rpartition("/")
                within.make(root, parent)
                directory = linux.openat2(root, parent.lstrip("/") or ".", os.O_PATH | os.O_DIRECTORY)
                try:
                    self._make_device(directory, name, device)
                finally:
                    os.close(directory)
            directory = linux.openat2(root, "dev", os.O_PATH | os.O_DIRECTORY)
            try:
                for name, target in (_LINKS | {"ptmx": "pts/ptmx"}).items():
                    try:
                        linux.symlink(target, name, dir_fd=directory)
                    except FileExistsError:
                        if name == "ptmx":  # a root that brings a node of the host's
                            linux.unlink(name, dir_fd=directory)
                            linux.symlink(target, name, dir_fd=directory)
            finally:
                os.close(directory)
        finally:
            linux.umask(before)

    def _make_device(self, directory: int, name: str, device: Device) -> None:
        """A node; where a user namespace may make none, one of the host's side, or the host's own, is bound in its
        place. mknod(2)"""
        is_queue = stat.S_ISFIFO(device.mode)
        if self.user_namespace and not is_queue:
            self._bind_device(directory, name, device)
            return
        try:
            linux.mknod(name, device.mode, device.number, dir_fd=directory)
        except PermissionError:  # the runtime itself is in a user namespace
            if is_queue or not mapping.restricted():
                raise
            self._bind_device(directory, name, device)
            return
        except FileExistsError:
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if stat.S_IFMT(status.st_mode) != stat.S_IFMT(device.mode) or status.st_rdev != device.number:
                raise HostError(f"{device.path} is there already, and is not the device it should be") from None
            return
        if any(device.owner):
            os.chown(name, *device.owner, dir_fd=directory, follow_symlinks=False)

    def _bind_device(self, directory: int, name: str, device: Device) -> None:
        os.close(linux.open(name, os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW, 0o666, dir_fd=directory))
        try:
            made = self.nodes.of(device.path) if self.nodes else -1
            tree = made if made >= 0 else linux.open_tree(linux.AT_FDCWD, device.path)
        except FileNotFoundError:
            raise HostError(
                f"linux.devices: the host has no {device.path}, and in a user namespace no device can be made"
            ) from None
        quiet = linux.MOUNT_ATTR_NOSUID | linux.MOUNT_ATTR_NOEXEC
        linux.mount_setattr(tree, "", linux.AT_EMPTY_PATH, set_attributes=quiet)
        with within.place(directory, name) as target:
            within.hang(tree, target)

    def _mount_cgroup(self, root: int, mount: Mount) -> None:
        """The container's cgroups: one tree on v2, a directory of trees on v1; only its own part of each."""
        trees = self.cgroup.trees if self.cgroup else []
        legacy = [tree for tree in trees if tree.controllers]
        with within.place(root, mount.destination) as target:
            path = within.path_of(target)
            if not legacy:
                try:
                    linux.mount("cgroup", path, "cgroup2", mount.flags, mount.data or None)
                except PermissionError:  # a user namespace in the cgroup namespace of its maker
                    linux.mount(trees[0].directory, path, flags=linux.MS_BIND)
                    linux.mount(None, path, flags=linux.MS_BIND | linux.MS_REMOUNT | mount.flags)
                return
            linux.mount("tmpfs", path, "tmpfs", mount.flags & ~linux.MS_RDONLY, labelled("mode=755", self.label))
        top = linux.openat2(root, mount.destination.lstrip("/"), os.O_PATH | os.O_DIRECTORY)
        try:
            for tree in legacy:
                self._mount_tree(top, tree.name, ",".join(tree.controllers), tree.directory, mount.flags)
                for controller in tree.controllers:
                    if controller != tree.name and "=" not in controller:
                        linux.symlink(tree.name, controller, dir_fd=top)
            if mount.read_only:
                linux.mount_setattr(top, "", linux.AT_EMPTY_PATH, set_attributes=linux.MOUNT_ATTR_RDONLY)
        finally:
            os.close(top)

    def _mount_tree(self, top: int, name: str, controllers: str, directory: str, flags: int) -> None:
        with within.place(top, name) as target:
            if self.own_cgroup_view:
                options = f"none,{controllers}" if "=" in controllers else controllers
                linux.mount("cgroup", within.path_of(target), "cgroup", flags, options)
            else:
                linux.mount(directory, within.path_of(target), flags=linux.MS_BIND)
        if not self.own_cgroup_view:
            fd = linux.openat2(top, name, os.O_PATH)
            everything = linux.MOUNT_ATTR_RDONLY | linux.MOUNT_ATTR_NOSUID | linux.MOUNT_ATTR_NODEV
            everything |= linux.MOUNT_ATTR_NOEXEC  # the same bits as those of mount(2), for these four
            linux.mount_setattr(fd, "", linux.AT_EMPTY_PATH, set_attributes=flags & everything)
            os.close(fd)


def _check_owner(mount: Mount, section: dict[str, Any]) -> None:
    """Raise UsageError for an owner of a filesystem that the container's user namespace does not have."""
    for word in mount.data.split(","):
        kind, _, number = word.partition("=")
        ranges = mapping.ranges(section, f"{kind}Mappings") if kind in ("uid", "gid") else []
        if ranges and number.isdecimal() and not mapping.has(ranges, int(number)):
            raise UsageError(
                f"mounts: {word} of {mount.destination} is none in the container's user namespace",
                hint="`spec --rootless` writes /dev/pts without gid=5",
            )


def _not_idmapped(mount: Mount, error: OSError) -> HostError:
    return HostError(
        f"mounts: {mount.source} cannot be idmapped: {error}",
        hint='it takes root, and a filesystem that knows how; mount_setattr(2), "ID-mapped mounts"',
    )


def _source(mount: Mount) -> os.stat_result:
    try:
        return os.stat(mount.source)
    except OSError as error:
        raise UsageError(f"mounts: {mount.source}, to be bound to {mount.destination}: {error.strerror}") from None


def _uncover(rootfs: str) -> None:
    """Take the old root's /proc and /sys away, which a moved root leaves behind in the namespace.

    With them there, a user namespace inside could mount /proc anew with nothing masked: the kernel allows what can be
    seen already. mount_namespaces(7), "Restrictions on mount namespaces"
    """
    with open("/proc/self/mountinfo") as file:
        lines = [line.split() for line in file]
    for fields in reversed(lines):
        kind, place = fields[fields.index("-") + 1], fields[4]
        if kind in ("proc", "sysfs") and place != rootfs and not place.startswith(f"{rootfs}/"):
            try:
                linux.mount(None, place, flags=linux.MS_PRIVATE | linux.MS_REC)
                linux.umount2(place, linux.MNT_DETACH)
            except (FileNotFoundError, OSError):
                continue  # it was below one that is gone


def _make_parent_private(rootfs: str) -> None:
    """The mount that the root lies on must not be shared: pivot_root would refuse, pivot_root(2)."""
    with open("/proc/self/mountinfo") as file:
        lines = [line.split() for line in file]
    on = max(
        (fields for fields in lines if rootfs == fields[4] or rootfs.startswith(f"{fields[4].rstrip('/')}/")),
        key=lambda fields: len(fields[4]),
    )
    if any(field.startswith("shared:") for field in on[6 : on.index("-")]):
        linux.mount(None, on[4], flags=linux.MS_PRIVATE)
