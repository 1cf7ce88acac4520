"""Making an overlay: one directory tree out of many, of which only the uppermost is ever written.

    merged                 what the container sees
    upper    rw            what it has changed: new files, copies of changed ones, whiteouts for deleted ones
    layer 2  ro  ┐
    layer 1  ro  ├ lower   shared by every container of the image
    layer 0  ro  ┘

An image may have hundreds of layers with long names, and mount(2) takes its options in one string of one page. The
kernel's answer, since Linux 6.13, is to take each layer as an open directory (fsconfig(2), `lowerdir+` with
FSCONFIG_SET_FD): no string, so no limit, and no character in a path that needs escaping. For older kernels
(Debian 12 has 6.1, Debian 13 has 6.12) the layers get short names: a thread with a mount namespace of its own mounts
each of them on a directory `0`, `1`, `2`, … of a tmpfs, from where `lowerdir=2:1:0` fits the page 500 times over.

Either way the result is a *detached* mount: a descriptor of an overlay that hangs nowhere yet. When we are killed it
is gone.

Where the container has a user namespace, root inside must own the image's files, which on disk belong to root outside.
An overlay cannot be idmapped, its layers can (Linux 5.19, mount_setattr(2)).

Left out: overlays in a user namespace of one's own without root (`userxattr`), data-only layers, nfs_export.
"""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack, contextmanager

from minicontainer import linux
from minicontainer.errors import HostError, UsageError
from minicontainer.overlayfs.upper import make

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import TypeVar

    R = TypeVar("R")

MAX_LAYERS = 500
"""The kernel stacks no more (OVL_MAX_STACK, fs/overlayfs/params.h)."""

DIRECTORY = os.O_PATH | os.O_DIRECTORY

TOO_OLD = (errno.EINVAL, errno.EOPNOTSUPP, errno.EBADF)
"""What a kernel says that takes no open directory for a layer. EOPNOTSUPP before 6.5, where overlayfs knows the strings
of mount(2) alone; EBADF up to 6.12 at least (Debian 13), whose fsconfig wants files that are open for reading; EINVAL
before 6.13 for those, and before 6.15 for an idmapped layer."""

HINTS = {
    errno.ENOENT: "a layer or the upper directory does not exist",
    errno.ENOTDIR: "each layer, and the upper directory, must be a directory",
    errno.EPERM: "it takes root, with CAP_SYS_ADMIN, in the machine's first user namespace",
    errno.ENODEV: "this kernel has no overlayfs: modprobe overlay",
    errno.EINVAL: "upper must be on a filesystem that holds trusted.* attributes (ext4, xfs, btrfs, tmpfs; no overlay, "
    "no NFS), and one that was once mounted volatile cannot be mounted again",
    errno.EBUSY: "another overlay is using the same upper directory",
    errno.ELOOP: "the same directory is there twice, or one layer is inside another",
}


class Options:
    """What an overlay can be told. None leaves the choice to the kernel's own settings.

    `volatile`: never sync the upper filesystem, not even when asked; fast, and the upper directory cannot be used
    again. `metacopy`: chmod or chown copies a file's metadata up and leaves its content below. `redirect_dir`: "on"
    lets a directory that exists below be renamed (otherwise EXDEV, and mv(1) copies), "off" does not; "follow" and
    "nofollow" say whether an existing redirect is obeyed. <https://docs.kernel.org/filesystems/overlayfs.html>
    """

    def __init__(self, volatile: bool = False, metacopy: bool | None = None, redirect_dir: str | None = None) -> None:
        if redirect_dir not in (None, "on", "off", "follow", "nofollow"):
            raise UsageError(f"redirect_dir={redirect_dir!r} is no such mode", hint="on, off, follow or nofollow")
        self.volatile, self.metacopy, self.redirect_dir = volatile, metacopy, redirect_dir

    def pairs(self) -> list[tuple[str, str]]:
        """The options by the kernel's names; a flag has no value."""
        pairs = [("volatile", "")] if self.volatile else []
        if self.metacopy is not None:
            pairs.append(("metacopy", "on" if self.metacopy else "off"))
        if self.redirect_dir is not None:
            pairs.append(("redirect_dir", self.redirect_dir))
        return pairs


def mount(layers: Sequence[str], upper: str | None, target: str, options: Options | None = None) -> None:
    """Mount an overlay on the directory `target`, to be read and written there without any container.

    `layers` are directories, the base first. `upper` holds `upper/` and `work/`, made here if need be; None gives a
    read-only view. Raises HostError and UsageError.
    """
    layers = check(layers)
    if upper is not None:
        upper = os.path.abspath(upper)
        make(upper, layers)
    fd = detached(layers, upper, options)
    try:
        linux.move_mount(fd, "", linux.AT_FDCWD, target)
    finally:
        os.close(fd)


def unmount(target: str) -> None:
    """Unmount what `mount` has mounted; it stays for those who have a file of it open. No error if it is gone."""
    try:
        linux.umount2(target, linux.MNT_DETACH)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOENT):
            raise


@contextmanager
def mounted(layers: Sequence[str], upper: str | None, target: str, options: Options | None = None) -> Iterator[str]:
    """An overlay on `target` for the length of a block."""
    mount(layers, upper, target, options)
    try:
        yield target
    finally:
        unmount(target)


def check(layers: Sequence[str]) -> list[str]:
    """The layers as absolute paths. Raises UsageError for more than the kernel can stack."""
    if len(layers) > MAX_LAYERS:
        raise UsageError(
            f"an overlay of {len(layers)} layers: the kernel stacks {MAX_LAYERS} at most",
            hint="put several layers into one: commit() the merged tree, or build the image with fewer instructions",
        )
    return [os.path.abspath(layer) for layer in layers]


def detached(layers: Sequence[str], upper: str | None, options: Options | None = None, pid: int = 0) -> int:
    """A descriptor of an overlay that is mounted nowhere yet: for move_mount, or as the directory of an openat.

    `layers` from the base up; `upper` a directory with `upper/` and `work/` on one filesystem, None: read-only.
    `pid` names a process in whose user namespace the files are to have the owners they have on disk. Raises
    HostError with the kernel's own words, UsageError.
    """
    lowers, options = check(layers), options or Options()
    if not lowers and upper is None:
        raise UsageError("an overlay of nothing", hint="give it a layer or an upper directory")
    owner = _Owner(pid) if pid else None
    try:
        try:
            if owner:
                fd = _in_thread(lambda: _by_descriptor(lowers, upper, options, owner))
            else:
                fd = _by_descriptor(lowers, upper, options, None)
        except OSError as error:
            if error.errno not in TOO_OLD:
                raise
            fd = _in_thread(lambda: _by_name(lowers, upper, options, owner))
    except OSError as error:
        what = f"cannot make an overlay of {len(lowers)} layers{f' and {upper}' if upper else ''}"
        words = "; ".join([str(error), *getattr(error, "__notes__", [])])
        raise HostError(f"{what}: {words}", hint=HINTS.get(error.errno or 0, "dmesg may say more")) from error
    finally:
        if owner:
            os.close(owner.namespace)
    if upper is not None and os.fstatvfs(fd).f_flag & os.ST_RDONLY:
        # The kernel mounts what it cannot write read-only, with a word in its log and no error.
        os.close(fd)
        raise HostError(f"the kernel made the overlay on {upper} read-only", hint="its filesystem cannot be written")
    return fd


class _Owner:
    """The user namespace of a process: who is root there, and the descriptor that idmaps a mount."""

    def __init__(self, pid: int) -> None:
        self.uid, self.gid = _host_root(pid, "uid_map"), _host_root(pid, "gid_map")
        self.namespace = linux.open(f"/proc/{pid}/ns/user", os.O_RDONLY)

    def idmap(self, tree: int) -> None:
        """Show a detached mount's files to that namespace with the owners they have on disk. mount_setattr(2)"""
        linux.mount_setattr(tree, "", linux.AT_EMPTY_PATH, linux.MOUNT_ATTR_IDMAP, userns_fd=self.namespace)

    def become(self) -> None:
        """Make files as that namespace's root, in this thread. The overlay makes its own (work/work) as the one who
        mounts it, and root outside has no number in an idmapped upper: EOVERFLOW, and a read-only mount. The
        capabilities that setfsuid takes away come back: the overlay keeps its maker's."""
        linux.setfsgid(self.gid)
        linux.setfsuid(self.uid)
        _, permitted, inheritable = linux.capget()
        linux.capset(permitted, permitted, inheritable)


def _host_root(pid: int, which: str) -> int:
    with open(f"/proc/{pid}/{which}") as file:
        lines = [[int(field) for field in line.split()] for line in file]
    if not lines:
        raise HostError(f"process {pid} has an empty {which}", hint="Namespaces(…) must come before Overlay(…)")
    return min(lines)[1]


def _in_thread(action: Callable[[], R]) -> R:
    """Do `action` in a thread that ends with it: a thread can have a mount namespace, a working directory and a
    file-system user of its own, and our own stay as they are however many threads we have. unshare(2), setfsuid(2)"""
    import contextvars
    import threading
    import time

    results: list[R] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(action())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(run,))
    thread.start()
    thread.join()
    # Python's join comes back a little before the thread has really ended, and clone3 wants a process without any.
    while os.path.exists(f"/proc/self/task/{thread.native_id}"):
        time.sleep(0.0001)
    if errors:
        raise errors[0]
    return results[0]


def _needs_ground(lowers: list[str], upper: str | None) -> bool:
    """Whether an empty tmpfs must lie below: the kernel wants one lower layer, and two where there is no upper."""
    return not lowers or (upper is None and len(lowers) == 1)


def _tmpfs() -> int:
    context = linux.fsopen("tmpfs")
    try:
        linux.fsconfig(context, linux.FSCONFIG_CMD_CREATE)
        return linux.fsmount(context)
    finally:
        os.close(context)


def _tree(path: str, owner: _Owner | None) -> int:
    """A detached copy of the mount that `path` is in, from `path` on."""
    tree = linux.open_tree(linux.AT_FDCWD, f"{path}/")  # with the slash it must be a directory
    if owner:
        try:
            owner.idmap(tree)
        except OSError:
            os.close(tree)
            raise
    return tree


def _by_descriptor(lowers: list[str], upper: str | None, options: Options, owner: _Owner | None) -> int:
    """The new way: each layer is an open directory. Linux 6.13, idmapped ones 6.15."""
    with ExitStack() as opened:
        if owner:
            owner.become()

        def keep(fd: int) -> int:
            opened.callback(os.close, fd)
            return fd

        context = keep(linux.fsopen("overlay"))
        try:
            linux.fsconfig(context, linux.FSCONFIG_SET_STRING, "source", "overlay")
            for lower in reversed(lowers):
                if owner:  # a detached mount lives as long as its descriptor: it is needed until the overlay exists
                    linux.fsconfig(context, linux.FSCONFIG_SET_FD, "lowerdir+", aux=keep(_tree(lower, owner)))
                else:
                    directory = linux.open(lower, DIRECTORY)
                    try:
                        linux.fsconfig(context, linux.FSCONFIG_SET_FD, "lowerdir+", aux=directory)
                    finally:
                        os.close(directory)
            if _needs_ground(lowers, upper):
                linux.fsconfig(context, linux.FSCONFIG_SET_FD, "lowerdir+", aux=keep(_tmpfs()))
            if upper is not None:
                parent = keep(_tree(upper, owner) if owner else linux.open(upper, DIRECTORY))
                for key, name in (("upperdir", "upper"), ("workdir", "work")):
                    directory = keep(linux.open(name, DIRECTORY | os.O_NOFOLLOW, dir_fd=parent))
                    linux.fsconfig(context, linux.FSCONFIG_SET_FD, key, aux=directory)
            for key, value in options.pairs():
                if value:
                    linux.fsconfig(context, linux.FSCONFIG_SET_STRING, key, value)
                else:
                    linux.fsconfig(context, linux.FSCONFIG_SET_FLAG, key)
            linux.fsconfig(context, linux.FSCONFIG_CMD_CREATE)
        except OSError as error:
            if words := _log(context):
                error.add_note(words)
            raise
        return linux.fsmount(context)


def _by_name(lowers: list[str], upper: str | None, options: Options, owner: _Owner | None) -> int:
    """The old way, in a thread of its own: short names in a mount namespace that ends with the thread."""
    linux.unshare(linux.CLONE_NEWNS)
    linux.mount(None, "/", None, linux.MS_REC | linux.MS_PRIVATE)
    # Over "/" a mount hides nothing: this thread's own root stays the directory below, so its paths work as before.
    ground = _tmpfs()
    try:
        linux.move_mount(ground, "", linux.AT_FDCWD, "/")
        linux.fchdir(ground)
    finally:
        os.close(ground)

    def place(path: str, name: str) -> None:
        linux.mkdir(name, 0o755)
        tree = _tree(path, owner)
        try:
            linux.move_mount(tree, "", linux.AT_FDCWD, name)
        finally:
            os.close(tree)

    for number, lower in enumerate(lowers):
        place(lower, str(number))
    names = [str(number) for number in reversed(range(len(lowers)))]
    for name in ("merged", "ground"):
        linux.mkdir(name, 0o755)
    if _needs_ground(lowers, upper):
        names.append("ground")
    words = [f"lowerdir={':'.join(names)}"]
    if upper is not None:
        place(upper, "u")
        words += ["upperdir=u/upper", "workdir=u/work"]
    words += [f"{key}={value}" if value else key for key, value in options.pairs()]
    if owner:
        owner.become()
    linux.mount("overlay", "merged", "overlay", 0, ",".join(words))
    return linux.open_tree(linux.AT_FDCWD, "merged")


def _log(context: int) -> str:
    """What the kernel has to say about a filesystem context: fsopen(2) gives one message for each read."""
    words = []
    while True:
        try:
            words.append(os.read(context, 4096).decode(errors="replace").strip())
        except OSError:  # ENODATA: that was all
            return "; ".join(words)
