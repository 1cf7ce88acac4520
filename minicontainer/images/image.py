"""An image of the store, and the container it wants to be.

An image is a stack of layers and a config that says how to run them: which command, as whom, where, in which
environment. `Image.container` turns that into the parts of the earlier chapters. Looking one up reads three small
files and hashes nothing: what the store has was verified when it came.
"""

from __future__ import annotations

import os

from minicontainer import linux
from minicontainer.chroot import within
from minicontainer.container.part import Host, Inside, Part
from minicontainer.errors import UsageError
from minicontainer.images.manifest import Config, Manifest
from minicontainer.images.reference import Reference

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from minicontainer.container import Container
    from minicontainer.images.store import Entry, Store


class Image:
    """One image of the store. It stays what it is, even if its name goes to another one."""

    def __init__(self, store: Store, entry: Entry) -> None:
        self.store = store
        self.entry = entry
        self.manifest = Manifest.parse(store.document(entry.manifest.digest), entry.manifest.media_type)
        self.config = Config.parse(store.document(self.manifest.config.digest), len(self.manifest.layers))

    @property
    def name(self) -> str:
        """Its name as people write it, `alpine:latest`; "" when that has gone to another image."""
        return Reference.parse(self.entry.name).familiar if self.entry.name else ""

    @property
    def id(self) -> str:
        """Its id as Docker's: the digest of its config."""
        return self.manifest.config.digest

    @property
    def digest(self) -> str:
        """What a registry knows it by: `name@digest` is this image for ever."""
        return self.entry.digest

    @property
    def size(self) -> int:
        """Bytes of its layers as they travel."""
        return sum(layer.size for layer in self.manifest.layers)

    @property
    def layers(self) -> list[str]:
        """Its unpacked layers, directories in overlayfs's form, the base first.

        An image that another tool has put into the store is unpacked now.
        """
        paths = [self.store.layer(chain_id) for chain_id in self.entry.layers]
        if len(paths) != len(self.manifest.layers) or not all(map(os.path.isdir, paths)):
            from minicontainer.images.pulling import unpack_layers

            self.entry = unpack_layers(self.store, self.entry)
            paths = [self.store.layer(chain_id) for chain_id in self.entry.layers]
        return paths

    def argv(self, argv: Sequence[str] | None = None, entrypoint: Sequence[str] | None = None) -> list[str]:
        """The command: ENTRYPOINT and then `argv`, or CMD if there is none. Another `entrypoint` drops CMD too.

        Raises UsageError when that is nothing at all.
        """
        if isinstance(argv, str) or isinstance(entrypoint, str):
            raise UsageError("a command is a list of words, not one string", hint='write ["ls", "-l"]')
        first = self.config.entrypoint if entrypoint is None else entrypoint
        rest = argv if argv is not None else self.config.cmd if entrypoint is None else []
        if not first and not rest:
            raise UsageError(
                f"the image {self.name or self.id} names no command, and none is given", hint='give one: ["/bin/sh"]'
            )
        return [*first, *rest]

    def container(
        self,
        argv: Sequence[str] | None = None,
        *parts: Part,
        entrypoint: Sequence[str] | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str = "",
        user: str = "",
        name: str = "",
        id: str = "",
        init: bool = False,
    ) -> Container:
        """A container of this image, its config applied; `env` is added to it, `cwd` and `user` are instead of it.

        It has namespaces of its own (mount, uts, ipc, pid, cgroup, and a network with nothing but a loopback), the
        image's layers with a fresh writable one above, and that as its root. Each of these is left out when `parts`
        bring one of the same kind: `Namespaces(…)`, `Overlay(image.layers, upper)`, `PivotRoot(read_only=True)`,
        `Bridge(publish={8080: 80})`, `User("www-data")`.
        """
        from minicontainer.container import Container

        return Container(
            self.argv(argv, entrypoint),
            *self.parts(parts, user=user, cwd=cwd),
            env={**self.config.env, **(env or {})},
            cwd=cwd or self.config.working_dir or "/",
            name=name,
            id=id,
            init=init,
        )

    def parts(self, given: Sequence[Part] = (), *, user: str = "", cwd: str = "") -> list[Part]:
        """The parts of such a container, those that are `given` among them, in the order they need."""
        from minicontainer.chroot import Chroot, PivotRoot, User
        from minicontainer.linux import CLONE_NEWNET
        from minicontainer.namespaces import Namespaces
        from minicontainer.network import HostNetwork, JoinNetwork, NoNetwork
        from minicontainer.overlayfs import Overlay

        def first(*kinds: type[Part]) -> list[Part]:
            return [part for part in given if isinstance(part, kinds)]

        layers = self.layers
        views = first(Namespaces) or [Namespaces("mount", "uts", "ipc", "pid", "cgroup")]
        root = first(Overlay, Chroot, PivotRoot)
        if not first(Overlay) and not first(Chroot):
            root.insert(0, Overlay(layers, volatile=True))  # it is removed in the end, so it need not reach the disk
        if not first(Chroot, PivotRoot):
            root.append(PivotRoot())
        own = [part for part in given if part.namespaces & CLONE_NEWNET and not isinstance(part, Namespaces)]
        network = own or first(HostNetwork, JoinNetwork)
        joined = any("network" in (*part.kinds, *part.joined) for part in views if isinstance(part, Namespaces))
        if not network and not joined:
            network = [NoNetwork()]
        owner = first(User) or [User(user or self.config.user or "0")]
        placed = {id(part) for part in (*views, *root, *network, *owner)}
        others = [part for part in given if id(part) not in placed]
        content = ImageContent(self.entry.name, layers, cwd or self.config.working_dir)
        return [*views, *root, content, *network, *others, *owner]

    def __repr__(self) -> str:
        return f"<Image {self.name or '<none>'} {self.id[7:19]}>"


class ImageContent(Part):
    """Notes in the container's record which layers it uses, so that nobody removes them. Makes its working directory,
    which an image may name without having it."""

    def __init__(self, image: str, layers: list[str], working_dir: str) -> None:
        self.image, self.layers, self.working_dir = image, layers, working_dir

    def record(self, host: Host) -> dict[str, Any]:
        return {"image": self.image, "layers": self.layers}

    def mount(self, inside: Inside) -> None:
        if self.working_dir.strip("/") and inside.rootfs is not None:
            with within.root(inside.rootfs) as root:
                try:
                    os.close(linux.openat2(root, self.working_dir.lstrip("/"), os.O_PATH | os.O_DIRECTORY))
                except FileNotFoundError:
                    self._make(root)

    def _make(self, root: int) -> None:
        try:
            within.make(root, self.working_dir)
        except OSError as error:
            raise UsageError(
                f"the image {self.image} has no working directory {self.working_dir!r}, and it cannot be made: {error}",
                hint="name another one (`minicontainer run -w /tmp …`)",
            ) from error
