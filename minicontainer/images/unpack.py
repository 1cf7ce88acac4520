"""Unpacking a layer: other people's file names, written to our disk by root.

Everything in a tar is a wish of whoever made it: `../../etc/shadow`, a symbolic link to `/` and then a file "below"
it, a hard link to our password file. Checking names does not help, since what a name means changes from one entry to
the next. So no name is ever looked up from `/`: an entry's directory is opened with openat2(2), starting at the
layer's own root, and the kernel refuses to leave it (RESOLVE_BENEATH); what is made is made in that open directory by
its last name alone, which is never followed.

Where a directory on the way is a symbolic link that the same layer brought (`lib -> usr/lib`, then `lib/x`), it is
followed as long as it stays inside, as by GNU tar, umoci and containerd. One that leaves is an error: the others clip
it to the root, and so write to places that nobody meant.

The tree is left in overlayfs's form: whiteouts as devices 0:0, opaque directories by an attribute. OCI image-spec,
layer.md. Device nodes are made, as everywhere (what keeps a container from using them is a later chapter's device
filter), unless `Limits(devices=False)`; a character device 0:0 is refused because overlayfs would take it for
a whiteout, and so are attributes that are overlayfs's own. Sockets do not exist in a tar.
"""

from __future__ import annotations

import errno
import os
import stat

from minicontainer import linux
from minicontainer.errors import ConflictError, HostError, ImageError
from minicontainer.images.tar import (
    BLOCK_DEVICE,
    CHARACTER,
    DIRECTORY,
    FIFO,
    HARD_LINK,
    REGULAR,
    SYMLINK,
    Entry,
    Limits,
    Reader,
    Source,
    printable,
)
from minicontainer.overlayfs.upper import remove_tree
from minicontainer.overlayfs.whiteouts import (
    OCI_OPAQUE,
    OCI_PREFIX,
    PRIVATE,
    is_whiteout,
    make_opaque,
    make_whiteout,
)

_INSIDE = linux.RESOLVE_BENEATH | linux.RESOLVE_NO_MAGICLINKS | linux.RESOLVE_NO_XDEV
_LISTABLE = os.O_RDONLY | os.O_DIRECTORY
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_PREFIX, _OPAQUE, _PRIVATE = OCI_PREFIX.encode(), OCI_OPAQUE.encode(), PRIVATE.encode()
_NAMESPACES = (b"user.", b"trusted.", b"security.", b"system.")
_DEFAULT_ACL = b"system.posix_acl_default"
_KEPT_OPEN = 64
_PATH_MAX = 4096

_REASONS = {
    errno.EXDEV: "it leads out of the layer",
    errno.ELOOP: "its directories are a loop of symbolic links",
    errno.ENOTDIR: "something that is no directory is in its way",
    errno.ENAMETOOLONG: "its name is too long",
    errno.ENOENT: "a symbolic link that leads nowhere is in its way",
}


class Unpacked:
    """What was unpacked: `diff_id` ("sha256:…") and `size` in bytes are the tar's, `entries` its number of entries."""

    __slots__ = ("diff_id", "entries", "size")

    def __init__(self, diff_id: str, size: int, entries: int) -> None:
        self.diff_id, self.size, self.entries = diff_id, size, entries


def unpack(stream: Source, directory: str, *, limits: Limits | None = None) -> Unpacked:
    """Unpack the tar in `stream` (not compressed) into `directory`, in overlayfs's form.

    `directory` is made; if it exists it must be empty. Owners, modes, times, attributes, links, devices and holes are
    kept; of two entries with one name the last one wins. Directories that the tar needs and does not name belong to
    root, with mode 0755. When anything fails `directory` is removed again.

    Raises ImageError for what is wrong with the tar, HostError for what is wrong here (no space, no root),
    ConflictError when `directory` is not empty.
    """
    directory = os.path.abspath(directory)
    parent = os.open(os.path.dirname(directory), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        name = os.path.basename(directory)
        try:
            os.mkdir(name, 0o755, dir_fd=parent)
        except FileExistsError:
            if os.listdir(directory):
                raise ConflictError(f"{directory} is not empty", hint="a layer is unpacked into a fresh one") from None
        try:
            root = os.open(name, _LISTABLE | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
            try:
                os.fchmod(root, 0o755)
                with Reader(stream, limits or Limits()) as reader:
                    return _Unpacker(root, reader).run()
            finally:
                os.close(root)
        except BaseException:
            remove_tree(name, parent)
            raise
    finally:
        os.close(parent)


class _Unpacker:
    def __init__(self, root: int, reader: Reader) -> None:
        self.root, self.reader, self.limits = root, reader, reader.limits
        self.open: dict[bytes, int] = {}
        """Directories that stay open, by their name in the layer, the first opened first."""
        self.spent: list[int] = []
        """Those that are closed before the next entry."""
        self.times: dict[bytes, int] = {}
        """A directory's time, which every new file in it would change, so it is set at the end; its default ACL, which
        every new file would inherit, likewise."""
        self.acls: dict[bytes, bytes] = {}
        self.umask = _umask()
        self.inherits = bool(os.fstat(root).st_mode & stat.S_ISGID)
        """Whether a directory may pass its group on to new files, so that the owner must be set on each."""

    def run(self) -> Unpacked:
        try:
            while entry := self.reader.next():
                try:
                    self.place(entry)
                except OSError as error:
                    if error is self.reader.broken:
                        raise
                    raise _explained(entry.name, error) from error
                if self.spent:
                    self.close_spent()
            self.finish()
            return Unpacked(self.reader.end(), self.reader.size, self.reader.entries)
        finally:
            self.forget()
            self.close_spent()

    def place(self, entry: Entry) -> None:
        path = self.clean(entry.name, "name")
        if not path:
            if entry.kind != DIRECTORY:
                raise ImageError("an entry for the layer's root that is no directory")
            self.dress(entry, self.root, b"", new=False)
            return
        above, _, name = path.rpartition(b"/")
        if name.startswith(_PREFIX):
            if entry.kind not in (REGULAR, HARD_LINK):
                raise ImageError(f"the whiteout {printable(path)} is no file")
            self.whiteout(above, name)
            return
        parent = self.directory(above)
        if entry.kind == REGULAR:
            if entry.name.endswith(b"/"):
                raise ImageError(f"{printable(entry.name)} is a file with the name of a directory")
            self.file(entry, parent, name, path)
        elif entry.kind == DIRECTORY:
            new = self.make_directory(parent, name, entry.mode, path)
            self.dress(entry, self.directory(path), path, new=new)
        elif entry.kind == HARD_LINK:
            self.link(entry, parent, name, path)
        else:
            self.node(entry, parent, name, path)

    def finish(self) -> None:
        """Set what had to wait until nothing more is made in a directory."""
        for path, time in self.times.items():
            try:
                fd = linux.openat2(self.root, path or b".", _LISTABLE | os.O_NOFOLLOW, _INSIDE)
            except OSError as error:
                if error.errno in _REASONS:  # a later entry has taken its place
                    continue
                raise _explained(path, error) from error
            try:
                if path in self.acls:
                    os.setxattr(fd, _DEFAULT_ACL, self.acls[path])
                os.utime(fd, ns=(time, time))
            except OSError as error:
                raise _explained(path, error) from error
            finally:
                os.close(fd)

    # --- names ---------------------------------------------------------------------------------------------------

    def clean(self, name: bytes, what: str) -> bytes:
        """The name without `./` and doubled slashes. Raises ImageError for one that means to leave the root."""
        plain = b"/" + name.removeprefix(b"./").rstrip(b"/")
        odd = b"/." in plain or b"//" in plain or b"\0" in plain
        if not odd and 1 < len(plain) < _PATH_MAX and plain.count(b"/") <= self.limits.depth:
            return plain[1:]  # as nearly all of them are; the others are looked at part by part
        if not name or b"\0" in name or len(name) >= _PATH_MAX:
            raise ImageError(f"the {what} {printable(name)!r} is empty, too long, or has a NUL in it")
        if name.startswith(b"/") and name.strip(b"/"):
            raise ImageError(f"the {what} {printable(name)} is absolute: a layer's names begin at its own root")
        parts = [part for part in name.split(b"/") if part not in (b"", b".")]
        if b".." in parts:
            raise ImageError(f"the {what} {printable(name)} has `..` in it")
        if len(parts) > self.limits.depth:
            raise ImageError(f"the {what} {printable(name)} is {len(parts)} deep: {self.limits.depth} at most")
        if any(part.startswith(_PREFIX) for part in parts[:-1]):
            raise ImageError(f"the {what} {printable(name)} is below a whiteout")
        return b"/".join(parts)

    def directory(self, path: bytes) -> int:
        """A descriptor of a directory of the layer, made if need be; it stays open until the next entry at least."""
        if not path:
            return self.root
        fd = self.open.get(path)
        if fd is None:
            try:
                fd = self.enter(path)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                    raise
                fd = self.make_parents(path)
        return fd

    def enter(self, path: bytes) -> int:
        """Open a directory that is there, beginning at the layer's root, and keep it open."""
        fd = linux.openat2(self.root, path, _LISTABLE, _INSIDE)
        if len(self.open) >= _KEPT_OPEN:
            self.spent.append(self.open.pop(next(iter(self.open))))
        self.open[path] = fd
        return fd

    def make_parents(self, path: bytes) -> int:
        """Make each directory of `path` that is not there, also where this layer has a whiteout so far."""
        at, fd = path.rfind(b"/"), self.root
        while at > 0 and path[:at] not in self.open:
            at = path.rfind(b"/", 0, at)
        if at > 0:
            fd = self.open[path[:at]]
        while at < len(path):
            start, at = at + 1, path.find(b"/", at + 1)
            at = len(path) if at < 0 else at
            name, here = path[start:at], path[:at]
            try:
                os.mkdir(name, 0o755, dir_fd=fd)
                new = True
            except FileExistsError:
                whiteout = is_whiteout(os.stat(name, dir_fd=fd, follow_symlinks=False))
                new = whiteout and self.make_directory(fd, name, 0o755, here)
            fd = self.enter(here)
            if new and (self.inherits or self.umask & 0o755):
                os.fchown(fd, 0, 0)
                os.fchmod(fd, 0o755)
        return fd

    def forget(self) -> None:
        """Keep no directory open: one of their names may mean something else now."""
        self.spent += self.open.values()
        self.open.clear()

    def close_spent(self) -> None:
        for fd in self.spent:
            os.close(fd)
        self.spent.clear()

    def clear(self, parent: int, name: bytes, path: bytes) -> os.stat_result:
        """Remove what an earlier entry made under this name, and return what it was."""
        was = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if stat.S_ISDIR(was.st_mode):
            self.times.pop(path, None)
            self.acls.pop(path, None)
            remove_tree(os.fsdecode(name), parent)
            self.forget()
        else:
            os.unlink(name, dir_fd=parent)
            if stat.S_ISLNK(was.st_mode):
                self.forget()
        return was

    # --- things --------------------------------------------------------------------------------------------------

    def file(self, entry: Entry, parent: int, name: bytes, path: bytes) -> None:
        mode = entry.mode & 0o777
        try:
            fd = os.open(name, _NEW_FILE, mode, dir_fd=parent)
        except FileExistsError:
            self.clear(parent, name, path)
            fd = os.open(name, _NEW_FILE, mode, dir_fd=parent)
        try:
            if entry.extents is None:
                self.reader.copy(fd, None, entry.size)
            else:
                os.ftruncate(fd, entry.size)
                for offset, length in entry.extents:
                    self.reader.copy(fd, offset, length)
            self.own(entry, fd)
            for key, value in entry.xattrs.items():
                _set_attribute(fd, key, value)
            os.utime(fd, ns=(entry.mtime, entry.mtime))
        finally:
            os.close(fd)

    def own(self, entry: Entry, fd: int) -> None:
        """Set owner and mode, unless the new file has them already."""
        owned = entry.uid or entry.gid or self.inherits
        if owned:
            os.fchown(fd, entry.uid, entry.gid)
        if owned or entry.mode & (self.umask | 0o7000):  # after the owner: chown(2) takes setuid away
            os.fchmod(fd, entry.mode)

    def make_directory(self, parent: int, name: bytes, mode: int, path: bytes) -> bool:
        """Make a directory; False when there is one already. In the place of a whiteout it is opaque."""
        try:
            os.mkdir(name, mode & 0o777, dir_fd=parent)
            return True
        except FileExistsError:
            if stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                return False
        was = self.clear(parent, name, path)
        os.mkdir(name, mode & 0o777, dir_fd=parent)
        if is_whiteout(was):
            self.hide(parent, name)
        return True

    def dress(self, entry: Entry, fd: int, path: bytes, *, new: bool) -> None:
        """Give a directory what its entry says; its time and default ACL wait."""
        if new:
            self.own(entry, fd)
        else:
            os.fchown(fd, entry.uid, entry.gid)
            os.fchmod(fd, entry.mode)
        self.inherits = self.inherits or bool(entry.mode & stat.S_ISGID)
        self.times[path] = entry.mtime
        for key, value in entry.xattrs.items():
            if key == _DEFAULT_ACL:
                self.acls[path] = value
            else:
                _set_attribute(fd, key, value)

    def link(self, entry: Entry, parent: int, name: bytes, path: bytes) -> None:
        target = self.clean(entry.link, "link target")
        above, _, source = target.rpartition(b"/")
        what = f"{printable(path)} is a hard link to {printable(target)}"
        if not target or target == path:
            raise ImageError(f"{what}, which cannot be")
        from_directory = self.directory(above)
        try:
            was = os.stat(source, dir_fd=from_directory, follow_symlinks=False)
        except FileNotFoundError:
            raise ImageError(f"{what}, which no earlier entry has made") from None
        if stat.S_ISDIR(was.st_mode) or is_whiteout(was):
            raise ImageError(f"{what}, which is no file")
        try:
            os.link(source, name, src_dir_fd=from_directory, dst_dir_fd=parent, follow_symlinks=False)
        except FileExistsError:
            if os.path.samestat(was, os.stat(name, dir_fd=parent, follow_symlinks=False)):
                return
            self.clear(parent, name, path)
            os.link(source, name, src_dir_fd=from_directory, dst_dir_fd=parent, follow_symlinks=False)

    def node(self, entry: Entry, parent: int, name: bytes, path: bytes) -> None:
        """A symbolic link, a device or a fifo."""
        if entry.kind == SYMLINK:
            if not entry.link or b"\0" in entry.link:
                raise ImageError(f"{printable(path)} is a symbolic link to nothing")
        elif entry.kind != FIFO:
            self.check_device(entry, path)

        def make() -> None:
            if entry.kind == SYMLINK:
                os.symlink(entry.link, name, dir_fd=parent)
            else:
                device = os.makedev(entry.major, entry.minor) if entry.kind != FIFO else 0
                os.mknod(name, _NODES[entry.kind] | 0o600, device, dir_fd=parent)

        try:
            make()
        except FileExistsError:
            self.clear(parent, name, path)
            make()
        os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
        if entry.kind != SYMLINK:
            os.chmod(name, entry.mode, dir_fd=parent)
        for key, value in entry.xattrs.items():
            _set_attribute(b"/proc/self/fd/%d/%b" % (parent, name), key, value)
        os.utime(name, ns=(entry.mtime, entry.mtime), dir_fd=parent, follow_symlinks=False)

    def check_device(self, entry: Entry, path: bytes) -> None:
        what = f"{printable(path)} is a device node {entry.major}:{entry.minor}"
        if not self.limits.devices:
            raise ImageError(f"{what}, and device nodes are not allowed here")
        if entry.major >= 1 << 12 or entry.minor >= 1 << 20:
            raise ImageError(f"{what}, which Linux cannot have")
        if entry.kind == CHARACTER and entry.major == entry.minor == 0:
            raise ImageError(f"{what}: overlayfs would take it for a whiteout")

    # --- whiteouts -----------------------------------------------------------------------------------------------

    def whiteout(self, above: bytes, name: bytes) -> None:
        """Hide what the layers below have. What this layer itself brings stays, whichever comes first."""
        hidden = name[len(_PREFIX) :]
        if name == _OPAQUE:
            if not above:
                raise ImageError("an opaque whiteout of the root: overlayfs always merges the roots of all layers")
            make_opaque(self.directory(above))
            return
        if hidden in (b"", b".", b"..") or hidden.startswith(_PREFIX):
            raise ImageError(f"a whiteout of {printable(hidden)!r}")
        parent = self.directory(above)
        try:
            make_whiteout(hidden, parent)
        except FileExistsError:
            if stat.S_ISDIR(os.stat(hidden, dir_fd=parent, follow_symlinks=False).st_mode):
                self.hide(parent, hidden)

    def hide(self, parent: int, name: bytes) -> None:
        fd = linux.openat2(parent, name, _LISTABLE, _INSIDE | linux.RESOLVE_NO_SYMLINKS)
        try:
            make_opaque(fd)
        finally:
            os.close(fd)


_NODES = {CHARACTER: stat.S_IFCHR, BLOCK_DEVICE: stat.S_IFBLK, FIFO: stat.S_IFIFO}


def _set_attribute(file: int | bytes, key: bytes, value: bytes) -> None:
    if key.startswith(_PRIVATE):
        raise ImageError(f"the attribute {printable(key)} is overlayfs's own: in a layer it could redirect a directory")
    if key.startswith(_NAMESPACES):  # other systems have others (com.apple.…), which mean nothing here
        os.setxattr(file, key, value, follow_symlinks=isinstance(file, int))


def _umask() -> int:
    """Our umask, without setting it for the other threads. proc_pid_status(5)"""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1], 8) for line in file if line.startswith("Umask:"))


def _explained(name: bytes, error: OSError) -> ImageError | HostError:
    reason = _REASONS.get(error.errno or 0)
    if reason:
        return ImageError(f"cannot unpack {printable(name)}: {reason} ({linux.errno_name(error.errno or 0)})")
    hint = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "is this root, on a Linux filesystem?"
    return HostError(f"cannot unpack {printable(name)}: {linux.errno_name(error.errno or 0)}", hint=hint)
