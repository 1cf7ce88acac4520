"""Two documents: the config.json to begin with, and what this runtime can do (runtime-spec, features.md)."""

from __future__ import annotations

import os

from minicontainer.cgroups.layout import layout
from minicontainer.chroot.filesystems import MASKED, READ_ONLY
from minicontainer.namespaces import KINDS
from minicontainer.runtime import hooks
from minicontainer.runtime.mounts import FLAGS, PROPAGATION, SUPERBLOCK
from minicontainer.runtime.states import OCI_VERSION
from minicontainer.security.capabilities import NAMES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_QUIET = ["nosuid", "noexec", "nodev"]
_CAPABILITIES = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]


def default_config(*, rootless: bool) -> dict[str, Any]:
    """A shell in a read-only root with namespaces of its own; `rootless`: as somebody who is not root."""
    mounts: list[dict[str, Any]] = [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {
            "destination": "/dev",
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
        },
        {
            "destination": "/dev/pts",
            "type": "devpts",
            "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        },
        {
            "destination": "/dev/shm",
            "type": "tmpfs",
            "source": "shm",
            "options": [*_QUIET, "mode=1777", "size=65536k"],
        },
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": _QUIET},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*_QUIET, "ro"]},
        {
            "destination": "/sys/fs/cgroup",
            "type": "cgroup",
            "source": "cgroup",
            "options": [*_QUIET, "relatime", "ro"],
        },
    ]
    spaces = ["pid", "network", "ipc", "uts", "mount"]
    if not layout().legacy:
        spaces.append("cgroup")  # as the other runtimes do: on v1 an engine may count on the host's paths
    section: dict[str, Any] = {
        "resources": {"devices": [{"allow": False, "access": "rwm"}]},
        "namespaces": [{"type": kind} for kind in spaces],
        "maskedPaths": list(MASKED),
        "readonlyPaths": list(READ_ONLY),
    }
    if rootless:
        mounts[2]["options"].remove("gid=5")
        mounts[5] = {"destination": "/sys", "type": "none", "source": "/sys", "options": ["rbind", *_QUIET, "ro"]}
        section["namespaces"] = [{"type": kind} for kind in spaces if kind != "network"] + [{"type": "user"}]
        section["uidMappings"] = [{"containerID": 0, "hostID": os.geteuid(), "size": 1}]
        section["gidMappings"] = [{"containerID": 0, "hostID": os.getegid(), "size": 1}]
        del section["resources"]
    return {
        "ociVersion": OCI_VERSION,
        "process": {
            "terminal": True,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), _CAPABILITIES),
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "minicontainer",
        "mounts": mounts,
        "linux": section,
    }


def features() -> dict[str, Any]:
    """What can be asked for here without being refused."""
    options = {*FLAGS, *(f"r{name}" for name in FLAGS), *SUPERBLOCK, "bind", "rbind", "defaults"}
    options |= {*PROPAGATION, *(f"r{name}" for name in PROPAGATION), "idmap", "ridmap"}
    options |= {"tmpcopyup", "copy-symlink"}
    from minicontainer.runtime import memory_policy
    from minicontainer.security.policy import ACTIONS
    from minicontainer.security.policy import FLAGS as SECCOMP_FLAGS

    return {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": OCI_VERSION,
        "hooks": list(hooks.KINDS),
        "mountOptions": sorted(options),
        "linux": {
            "namespaces": sorted(KINDS),
            "capabilities": [f"CAP_{name}" for name in NAMES],
            "cgroup": {"v1": True, "v2": True, "systemd": False, "systemdUser": False, "rdma": True},
            "seccomp": {
                "enabled": True,
                "actions": sorted(set(ACTIONS) - {"SCMP_ACT_NOTIFY"}),
                "knownFlags": sorted(SECCOMP_FLAGS),
                "supportedFlags": sorted(SECCOMP_FLAGS),
            },
            "apparmor": {"enabled": True},
            "selinux": {"enabled": True},
            "intelRdt": {"enabled": False},
            "mountExtensions": {"idmap": {"enabled": True}},
            "memoryPolicy": {"modes": list(memory_policy.MODES), "flags": list(memory_policy.FLAGS)},
            "netDevices": {"enabled": True},
        },
        "potentiallyUnsafeConfigAnnotations": [],
    }
