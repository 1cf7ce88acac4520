"""How a layer says "this is gone": in overlayfs's words and in OCI's.

                               overlayfs (on disk)                     OCI (in the tar)
    `x` is deleted             character device 0:0 named `x`          empty file `.wh.x`
    all below `d` is deleted   xattr trusted.overlay.opaque=y on `d`   empty file `d/.wh..wh..opq`

Sources: <https://docs.kernel.org/filesystems/overlayfs.html>, OCI image-spec, layer.md, "Whiteouts". Left out: the
kernel's second form (xattr overlay.whiteout), which exists for overlays inside overlays.
"""

from __future__ import annotations

import os
import stat

PRIVATE = "trusted.overlay."
"""The attributes in which overlayfs keeps its own notes. A layer that could bring some could redirect a directory."""

OPAQUE = "trusted.overlay.opaque"
REDIRECT = "trusted.overlay.redirect"
METACOPY = "trusted.overlay.metacopy"

OCI_PREFIX = ".wh."
OCI_OPAQUE = ".wh..wh..opq"


def is_whiteout(entry: os.stat_result) -> bool:
    """Whether overlayfs takes this file for a whiteout."""
    return stat.S_ISCHR(entry.st_mode) and entry.st_rdev == 0


def make_whiteout(name: str | bytes, dir_fd: int | None = None) -> None:
    """Write down that `name` is deleted. mknod(2)"""
    os.mknod(name, stat.S_IFCHR, 0, dir_fd=dir_fd)


def is_opaque(directory: int | str) -> bool:
    """Whether the directory (a descriptor or a path) hides what the layers below have at its place."""
    return attribute(directory, OPAQUE) == b"y"


def make_opaque(directory: int | str) -> None:
    """Hide what the layers below have at this directory's place."""
    os.setxattr(directory, OPAQUE, b"y")


def attribute(file: int | str, name: str) -> bytes | None:
    """An extended attribute, or None: not there, or not on this filesystem. getxattr(2)"""
    try:
        return os.getxattr(file, name, follow_symlinks=isinstance(file, int))
    except OSError as error:
        import errno

        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return None
        raise
