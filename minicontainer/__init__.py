"""minicontainer: build Docker, step by step.

A container is a process plus parts; each chapter adds one part, and one argument to the same line:

    Container(argv)                                              01 a process
    Container(argv, PivotRoot(rootfs))                           02 its own root
    Container(argv, Namespaces("pid", "uts"), PivotRoot(rootfs)) 03 its own view
    Container(argv, …, Cgroup(memory="64M", cpus=0.5))           04 its share
    Container(argv, …, Overlay(layers), PivotRoot())             05 its own copy
    Container(argv, …, Bridge(publish={8080: 80}))               06 its own address
    pull("alpine").container(argv, …)                            07 its own world
    Container(argv, …, Capabilities(), Seccomp(), Devices())     08 few rights

The names below are loaded when they are first used.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minicontainer.cgroups import Cgroup as Cgroup
    from minicontainer.chroot import Bind as Bind
    from minicontainer.chroot import Chroot as Chroot
    from minicontainer.chroot import PivotRoot as PivotRoot
    from minicontainer.chroot import Terminal as Terminal
    from minicontainer.chroot import Tmpfs as Tmpfs
    from minicontainer.chroot import User as User
    from minicontainer.container import Container as Container
    from minicontainer.container import Part as Part
    from minicontainer.container import child as child
    from minicontainer.errors import ContainerError as ContainerError
    from minicontainer.images import Image as Image
    from minicontainer.images import import_ as import_
    from minicontainer.images import pull as pull
    from minicontainer.images import push as push
    from minicontainer.namespaces import Namespaces as Namespaces
    from minicontainer.network import Bridge as Bridge
    from minicontainer.network import Endpoint as Endpoint
    from minicontainer.network import HostNetwork as HostNetwork
    from minicontainer.network import Join as Join
    from minicontainer.network import JoinNetwork as JoinNetwork
    from minicontainer.network import NoNetwork as NoNetwork
    from minicontainer.overlayfs import Overlay as Overlay
    from minicontainer.security import Capabilities as Capabilities
    from minicontainer.security import Devices as Devices
    from minicontainer.security import NoNewPrivs as NoNewPrivs
    from minicontainer.security import Rlimits as Rlimits
    from minicontainer.security import Seccomp as Seccomp

__all__ = [
    "Bind",
    "Bridge",
    "Capabilities",
    "Cgroup",
    "Chroot",
    "Container",
    "ContainerError",
    "Devices",
    "Endpoint",
    "HostNetwork",
    "Image",
    "Join",
    "JoinNetwork",
    "Namespaces",
    "NoNetwork",
    "NoNewPrivs",
    "Overlay",
    "Part",
    "PivotRoot",
    "Rlimits",
    "Seccomp",
    "Terminal",
    "Tmpfs",
    "User",
    "child",
    "import_",
    "pull",
    "push",
]

_HOMES = {
    "cgroups": ("Cgroup",),
    "chroot": ("Bind", "Chroot", "PivotRoot", "Terminal", "Tmpfs", "User"),
    "container": ("Container", "Part", "child"),
    "errors": ("ContainerError",),
    "images": ("Image", "import_", "pull", "push"),
    "namespaces": ("Namespaces",),
    "network": ("Bridge", "Endpoint", "HostNetwork", "Join", "JoinNetwork", "NoNetwork"),
    "overlayfs": ("Overlay",),
    "security": ("Capabilities", "Devices", "NoNewPrivs", "Rlimits", "Seccomp"),
}


def __getattr__(name: str) -> object:
    for module, names in _HOMES.items():
        if name in names:
            value = getattr(__import__(f"{__name__}.{module}", fromlist=[name]), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
