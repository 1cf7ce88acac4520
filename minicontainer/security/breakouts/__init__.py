"""Ways out of a container, to be tried: each one gets out of a container that lacks its defence, and not of Docker's.

Files: `frame` (what a break-out is), `roots` (chroot, leaked directories, the runtime's own program), `mounts` (links
where a mount goes), `kernel` (interfaces of the whole machine), `rights` (processes, setuid, sockets, capabilities),
`words` (what an image says of itself).

>>> with RawDisk(rootfs) as attack:
...     attack(attack.naive())
>>> with RawDisk(rootfs) as attack:
...     attack(attack.default())
"""

from minicontainer.security.breakouts.frame import BreakOut, Outcome, docker
from minicontainer.security.breakouts.kernel import CorePattern, KeyringTheft, RawDisk, ReleaseAgent, Shocker
from minicontainer.security.breakouts.mounts import MaskByLink, MountThroughLink
from minicontainer.security.breakouts.rights import (
    HostProcess,
    InheritedCapabilities,
    RawSocket,
    SetuidProgram,
)
from minicontainer.security.breakouts.roots import (
    ChrootEscape,
    LeakedDescriptor,
    LeakedDirectory,
    RuntimeInReach,
    RuntimeOverwrite,
)
from minicontainer.security.breakouts.words import HiddenVariable

ALL: tuple[type[BreakOut], ...] = (
    ChrootEscape,
    LeakedDescriptor,
    LeakedDirectory,
    RuntimeOverwrite,
    RuntimeInReach,
    MountThroughLink,
    MaskByLink,
    ReleaseAgent,
    CorePattern,
    RawDisk,
    Shocker,
    KeyringTheft,
    HostProcess,
    SetuidProgram,
    InheritedCapabilities,
    RawSocket,
    HiddenVariable,
)

__all__ = [
    "ALL",
    "BreakOut",
    "ChrootEscape",
    "CorePattern",
    "HiddenVariable",
    "HostProcess",
    "InheritedCapabilities",
    "KeyringTheft",
    "LeakedDescriptor",
    "LeakedDirectory",
    "MaskByLink",
    "MountThroughLink",
    "Outcome",
    "RawDisk",
    "RawSocket",
    "ReleaseAgent",
    "RuntimeInReach",
    "RuntimeOverwrite",
    "SetuidProgram",
    "Shocker",
    "docker",
]
