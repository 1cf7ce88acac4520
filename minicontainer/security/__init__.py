"""Chapter 8. What a container may do.

So far a container's root was root: it saw little, but whatever it could name it could change. This chapter takes
rights away, each part one kind of them: its capabilities, the calls it may make, the devices it may open, the limits
of each process. None of them is a wall; together they are the difference between a view and a prison. What happens
without each of them, the break-outs show.

Files of this chapter: `capabilities`, `no_new_privs`, `limits` (Rlimits, OomScore), `seccomp` (the part), `policy`
(profiles, Docker's default) and `notify` (calls that somebody else decides), `devices` and `device_rules`,
`cgroup_files`, `shield` (of the engine's own program), `sysctls`, `labels` (AppArmor, SELinux), `landlock`, `defaults`
(Docker's set), `audit` (what a container may do, in words), and `breakouts`.

The names below are loaded when they are first used.
"""

from __future__ import annotations

import os

from minicontainer.lean import lazily

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minicontainer.security.capabilities import Capabilities as Capabilities
    from minicontainer.security.cgroup_files import CgroupFiles as CgroupFiles
    from minicontainer.security.devices import Devices as Devices
    from minicontainer.security.labels import AppArmor as AppArmor
    from minicontainer.security.labels import SELinux as SELinux
    from minicontainer.security.landlock import Landlock as Landlock
    from minicontainer.security.limits import OomScore as OomScore
    from minicontainer.security.limits import Rlimits as Rlimits
    from minicontainer.security.no_new_privs import NoNewPrivs as NoNewPrivs
    from minicontainer.security.seccomp import Seccomp as Seccomp
    from minicontainer.security.shield import Shield as Shield
    from minicontainer.security.sysctls import Sysctls as Sysctls

__all__ = [
    "AppArmor",
    "Capabilities",
    "CgroupFiles",
    "Devices",
    "Landlock",
    "NoNewPrivs",
    "OomScore",
    "Rlimits",
    "SELinux",
    "Seccomp",
    "Shield",
    "Sysctls",
]

DEFAULT_POLICY = os.path.join(os.path.dirname(__file__), "default_policy.json")

_HOMES = {
    "capabilities": ("Capabilities",),
    "cgroup_files": ("CgroupFiles",),
    "devices": ("Devices",),
    "labels": ("AppArmor", "SELinux"),
    "landlock": ("Landlock",),
    "limits": ("OomScore", "Rlimits"),
    "no_new_privs": ("NoNewPrivs",),
    "seccomp": ("Seccomp",),
    "shield": ("Shield",),
    "sysctls": ("Sysctls",),
}


__getattr__ = lazily(__name__, _HOMES)


def __dir__() -> list[str]:
    return __all__
