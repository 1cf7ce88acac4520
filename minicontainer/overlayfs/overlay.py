"""The part: a container's own copy of an image, made in no time because nothing is copied.

The overlay is made on the host's side, where the layers can be reached and idmapped, as a detached mount; the
container's process hangs it into its own mount namespace. So the host's mount table never shows it, and all containers
can use the same directory to hang it on.
"""

from __future__ import annotations

import errno
import os

from minicontainer import linux, state
from minicontainer.container.part import Host, Inside, Part
from minicontainer.errors import HostError
from minicontainer.overlayfs.mounts import Options, check, detached
from minicontainer.overlayfs.upper import make, remove

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any


class Overlay(Part):
    """A root of many layers, the changes on top.

    `layers` are directories in overlayfs's own form, the base first. `upper` is a directory that keeps the changes,
    in its `upper/` (`work/` is the kernel's): it can be given to the next container, one at a time. None: a fresh
    one, which `release` removes. `volatile`, `metacopy`, `redirect_dir`: see `Options`.

    Put it after `Namespaces` (whose user namespace decides who owns the files) and before the part that changes the
    root.
    """

    namespaces = linux.CLONE_NEWNS
    meanwhile = True

    def __init__(
        self,
        layers: Sequence[str],
        upper: str | None = None,
        *,
        volatile: bool = False,
        metacopy: bool | None = None,
        redirect_dir: str | None = None,
    ) -> None:
        self.layers = check(layers)
        self.options = Options(volatile, metacopy, redirect_dir)
        self.directory = "" if upper is None else os.path.abspath(upper)
        self.ephemeral = upper is None
        self.rootfs = ""

    @property
    def upperdir(self) -> str:
        """The tree of changes, for `diff` and `commit`; empty until the container is being made."""
        return f"{self.directory}/upper" if self.directory else ""

    def record(self, host: Host) -> dict[str, Any] | None:
        """Where the ephemeral directory will be; nothing for one that is kept."""
        self.rootfs = f"{state.exec_root()}/rootfs"
        if not self.ephemeral:
            return None
        self.directory = f"{state.data_root()}/containers/{host.id}"
        return {"directory": self.directory, "ephemeral": True}

    def prepare(self, host: Host) -> None:
        """Make the directories, and the overlay, mounted nowhere. `<exec root>/rootfs` is made once and stays: every
        container hangs its own there."""
        os.makedirs(self.rootfs, exist_ok=True)
        make(self.directory, self.layers)
        if not host.flags & linux.CLONE_NEWUSER:
            host.give("overlay", detached(self.layers, self.directory, self.options))

    def attach(self, host: Host) -> None:
        """The same where the owners of the files depend on the process: on its user namespace."""
        if host.flags & linux.CLONE_NEWUSER:
            host.give("overlay", detached(self.layers, self.directory, self.options, host.pid))

    def mount(self, inside: Inside) -> None:
        """Hang it into the container's mount namespace, of which nobody else must hear."""
        linux.mount(None, "/", None, linux.MS_REC | linux.MS_PRIVATE)
        try:
            linux.move_mount(inside.fds["overlay"], "", linux.AT_FDCWD, self.rootfs)
        except OSError as error:
            if error.errno == errno.EACCES:
                hint = f"root in a user namespace is nobody here: chmod a+x on each directory above {self.rootfs}"
                raise HostError(str(error), hint=hint) from error
            raise
        inside.rootfs = self.rootfs

    def release(self) -> None:
        """Remove what was made for this one container."""
        if self.ephemeral and self.directory:
            remove(self.directory)
