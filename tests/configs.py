"""A config.json in which every field of the specification stands, and the ways to make each of them another one.

The field's names and meanings are those of the OCI runtime specification 1.2, config.md and config-linux.md.
"""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import strategies as st

_ALLOW = {
    "names": ["chmod"],
    "action": "SCMP_ACT_ERRNO",
    "errnoRet": 1,
    "args": [{"index": 1, "value": 2, "op": "SCMP_CMP_EQ"}],
}
_RATES = [{"major": 7, "minor": 0, "rate": 1 << 20}]
_HOOK = [{"path": "/bin/true", "args": ["true"], "env": ["A=b"], "timeout": 5}]


def full(rootfs: str) -> dict[str, Any]:
    """All at once, with values that this runtime takes, and none that it refuses by name."""
    return {
        "ociVersion": "1.2.0",
        "hostname": "all",
        "domainname": "fields",
        "annotations": {"org.example.a": "b"},
        "root": {"path": rootfs, "readonly": True},
        "process": {
            "terminal": False,
            "consoleSize": {"height": 25, "width": 80},
            "user": {"uid": 1000, "gid": 1000, "umask": 18, "additionalGids": [5]},
            "args": ["sleep", "100"],
            "env": ["PATH=/bin"],
            "cwd": "/",
            "capabilities": {kind: ["CAP_KILL"] for kind in ("bounding", "effective", "permitted")}
            | {"inheritable": [], "ambient": []},
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 64, "hard": 64}],
            "oomScoreAdj": 10,
            "scheduler": {"policy": "SCHED_OTHER", "nice": 1},
            "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 4},
            "noNewPrivileges": True,
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "size=64k", "mode=755"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro", "nosuid", "nodev"]},
            {"destination": "/tmp", "type": "bind", "source": rootfs, "options": ["rbind", "ro", "rprivate"]},
        ],
        "hooks": {
            kind: copy.deepcopy(_HOOK)
            for kind in ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
        },
        "linux": {
            "devices": [{"path": "/dev/one", "type": "c", "major": 1, "minor": 3, "fileMode": 438, "uid": 0, "gid": 0}],
            "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount", "cgroup", "time")],
            "timeOffsets": {"monotonic": {"secs": 10, "nanosecs": 5}},
            "resources": {
                "devices": [{"allow": False, "access": "rwm"}, {"allow": True, "type": "c", "major": 1, "access": "r"}],
                "memory": {"limit": 1 << 27, "reservation": 1 << 26, "swap": -1},
                "cpu": {"shares": 512, "quota": 50_000, "period": 100_000, "cpus": "0", "mems": "0"},
                "pids": {"limit": 100},
            },
            "rootfsPropagation": "private",
            "seccomp": {
                "defaultAction": "SCMP_ACT_ALLOW",
                "defaultErrnoRet": 1,
                "architectures": ["SCMP_ARCH_X86_64"],
                "flags": ["SECCOMP_FILTER_FLAG_LOG"],
                "syscalls": [copy.deepcopy(_ALLOW)],
            },
            "sysctl": {"net.ipv4.ip_forward": "1"},
            "maskedPaths": ["/proc/kcore"],
            "readonlyPaths": ["/proc/sys"],
            "personality": {"domain": "LINUX"},
        },
    }


MORE: dict[tuple[str, ...], Any] = {
    ("process", "apparmorProfile"): "some",
    ("process", "selinuxLabel"): "a:b:c:d",
    ("process", "commandLine"): "true",
    ("process", "execCPUAffinity"): {"initial": "0", "final": "0"},
    ("linux", "uidMappings"): [{"containerID": 0, "hostID": 200_000, "size": 65_536}],
    ("linux", "gidMappings"): [{"containerID": 0, "hostID": 200_000, "size": 65_536}],
    ("linux", "netDevices"): {"lo": {"name": "lo1"}},
    ("linux", "mountLabel"): "a:b:c:d",
    ("linux", "intelRdt"): {"closID": "a", "l3CacheSchema": "L3:0=f", "enableCMT": True},
    ("linux", "memoryPolicy"): {"mode": "MPOL_DEFAULT", "nodes": "0", "flags": []},
    ("linux", "cgroupsPath"): "minicontainer-fuzz",
    ("linux", "resources", "blockIO"): {
        "weight": 100,
        "leafWeight": 100,
        "weightDevice": [{"major": 7, "minor": 0, "weight": 100}],
        **{f"throttle{which}Device": _RATES for which in ("ReadBps", "WriteBps", "ReadIOPS", "WriteIOPS")},
    },
    ("linux", "resources", "hugepageLimits"): [{"pageSize": "2MB", "limit": 1 << 21}],
    ("linux", "resources", "network"): {"classID": 1, "priorities": [{"name": "lo", "priority": 1}]},
    ("linux", "resources", "rdma"): {"none": {"hcaHandles": 1, "hcaObjects": 1}},
    ("linux", "resources", "unified"): {"pids.max": "50"},
    ("linux", "resources", "memory", "kernel"): 1 << 26,
    ("linux", "resources", "memory", "kernelTCP"): 1 << 26,
    ("linux", "resources", "memory", "swappiness"): 10,
    ("linux", "resources", "memory", "disableOOMKiller"): True,
    ("linux", "resources", "memory", "useHierarchy"): True,
    ("linux", "resources", "memory", "checkBeforeUpdate"): True,
    ("linux", "resources", "cpu", "realtimeRuntime"): 10_000,
    ("linux", "resources", "cpu", "realtimePeriod"): 100_000,
    ("linux", "resources", "cpu", "burst"): 1000,
    ("linux", "resources", "cpu", "idle"): 1,
    ("linux", "seccomp", "listenerPath"): "/nowhere",
    ("linux", "seccomp", "listenerMetadata"): "text",
    ("solaris",): {"milestone": "a"},
    ("windows",): {"layerFolders": ["a"]},
    ("vm",): {"kernel": {"path": "/a"}},
    ("zos",): {"namespaces": []},
    ("x-nobody-knows",): {"a": [1]},
}
"""Fields that are not in `full`: most hosts lack something that they need, or they are refused by name."""

_NUMBERS = st.sampled_from([0, 1, -1, 2, 7, 65_535, 1 << 31, -(1 << 31), 1 << 32, 1 << 63, (1 << 64) - 1, 1 << 70, 0.5])
_WORDS = st.sampled_from(
    ["", "a", ".", "..", "../x", "a b", "ü", "a\n", "\0", "x" * 300, "%s", "-1", "0-3", "ro", "rbind", "idmap", "user"]
)
_SMALL: st.SearchStrategy[Any] = st.one_of(st.none(), st.booleans(), _NUMBERS, _WORDS, st.just([]), st.just({}))
ANYTHING = st.one_of(_SMALL, st.lists(_SMALL, max_size=3), st.dictionaries(_WORDS, _SMALL, max_size=2))


def paths(value: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value inside of one."""
    found = [above] if above else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += paths(inner, (*above, key))
    return found


@st.composite
def configs(draw: st.DrawFn, rootfs: str) -> dict[str, Any]:
    """`full`, with up to two of `MORE`, and up to three values replaced by anything, or taken out, or there twice."""
    config = full(rootfs)
    for place in draw(st.lists(st.sampled_from(sorted(MORE)), max_size=2, unique=True)):
        at = config
        for key in place[:-1]:
            at = at[key]
        at[place[-1]] = copy.deepcopy(MORE[place])
    # a root elsewhere would be the host's files, and a hook's program is executed on the host: those only of `full`
    ways = [way for way in paths(config) if way[:2] != ("root", "path") and way[-1] != "path" and way[-1] != "source"]
    for way in draw(st.lists(st.sampled_from(ways), max_size=3)):
        *above, last = way
        at = config
        try:
            for key in above:
                at = at[key]
            at[last]
        except (KeyError, IndexError, TypeError):
            continue  # another change has taken it away
        if isinstance(at, str):
            continue  # or has put a word there, and a number finds a letter in it
        kind = draw(st.sampled_from(["other", "other", "other", "out", "twice"]))
        if kind == "other":
            at[last] = draw(ANYTHING)
        elif kind == "out":
            del at[last]
        elif isinstance(at, list):
            at.append(copy.deepcopy(at[last]))
    return config
