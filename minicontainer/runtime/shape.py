"""What kind of value each field of config.json has: told apart before any of them is used.

A number where text should be would otherwise come to light in the middle of a container, as whatever Python says of
it. Only kinds and ranges are looked at here, as Go's types have them in the specification; what a value means is for
those who use it. A field that is null is not there, as in Go; one that nobody knows is left alone. A name counts
without its case where no field has it exactly (`CPU`, `Cpus`): so Go reads JSON, hence runc, and every engine is tried
with that.
"""

from __future__ import annotations

from minicontainer.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FLAG = "flag"  # kinds that are no container of others: FLAG, TEXT, and a pair (lowest, highest) for a number
TEXT = "text"
ANYTHING = "anything"  # a field that is known, and refused whatever it is
U16, U32, U64 = (0, (1 << 16) - 1), (0, (1 << 32) - 1), (0, (1 << 64) - 1)
I32, I64 = (-(1 << 31), (1 << 31) - 1), (-(1 << 63), (1 << 63) - 1)


class Names:
    """An object whose names are data, all its values of one kind."""

    def __init__(self, kind: Any) -> None:
        self.kind = kind


_MAP = [{"containerID": U32, "hostID": U32, "size": U32}]
_RATE = [{"major": I64, "minor": I64, "rate": U64}]
_HOOKS = [{"path": TEXT, "args": [TEXT], "env": [TEXT], "timeout": I32}]
_CAPABILITIES = {kind: [TEXT] for kind in ("bounding", "effective", "permitted", "inheritable", "ambient")}
_MEMORY: dict[str, Any] = dict.fromkeys(("limit", "reservation", "swap", "kernel", "kernelTCP"), I64) | {
    "swappiness": U64
}
_MEMORY |= dict.fromkeys(("disableOOMKiller", "useHierarchy", "checkBeforeUpdate"), FLAG)
_CPU: dict[str, Any] = dict.fromkeys(("shares", "period", "burst", "realtimePeriod"), U64) | {
    "cpus": TEXT,
    "mems": TEXT,
}
_CPU |= dict.fromkeys(("quota", "realtimeRuntime", "idle"), I64)
_DEVICE = {"path": TEXT, "type": TEXT, "major": I64, "minor": I64, "fileMode": U32, "uid": U32, "gid": U32}

PROCESS = {
    "terminal": FLAG,
    "consoleSize": {"height": U16, "width": U16},
    "user": {"uid": U32, "gid": U32, "umask": U32, "additionalGids": [U32], "username": TEXT},
    "args": [TEXT],
    "env": [TEXT],
    "cwd": TEXT,
    "capabilities": _CAPABILITIES,
    "rlimits": [{"type": TEXT, "soft": U64, "hard": U64}],
    "oomScoreAdj": I32,
    "noNewPrivileges": FLAG,
    "apparmorProfile": TEXT,
    "selinuxLabel": TEXT,
    "scheduler": {"policy": TEXT, "flags": [TEXT], "nice": I32, "priority": I32}
    | dict.fromkeys(("runtime", "deadline", "period"), U64),
    "ioPriority": {"class": TEXT, "priority": I32},
    **dict.fromkeys(("commandLine", "execCPUAffinity"), ANYTHING),
}
RESOURCES = {
    "devices": [{"allow": FLAG, "type": TEXT, "major": I64, "minor": I64, "access": TEXT}],
    "memory": _MEMORY,
    "cpu": _CPU,
    "pids": {"limit": I64},
    "blockIO": {
        "weight": U16,
        "leafWeight": U16,
        "weightDevice": [{"major": I64, "minor": I64, "weight": U16, "leafWeight": U16}],
        **{f"throttle{which}Device": _RATE for which in ("ReadBps", "WriteBps", "ReadIOPS", "WriteIOPS")},
    },
    "hugepageLimits": [{"pageSize": TEXT, "limit": U64}],
    "network": {"classID": U32, "priorities": [{"name": TEXT, "priority": U32}]},
    "rdma": Names({"hcaHandles": U32, "hcaObjects": U32}),
    "unified": Names(TEXT),
}
_SECCOMP = {
    **dict.fromkeys(("defaultAction", "listenerPath", "listenerMetadata"), TEXT),
    "defaultErrnoRet": U32,
    "architectures": [TEXT],
    "flags": [TEXT],
    "syscalls": [
        {
            "names": [TEXT],
            "action": TEXT,
            "errnoRet": U32,
            "args": [{"index": U32, "value": U64, "valueTwo": U64, "op": TEXT}],
        }
    ],
}
_LINUX = {
    "devices": [_DEVICE],
    "uidMappings": _MAP,
    "gidMappings": _MAP,
    "namespaces": [{"type": TEXT, "path": TEXT}],
    "timeOffsets": Names({"secs": I64, "nanosecs": U32}),
    "resources": RESOURCES,
    **dict.fromkeys(("cgroupsPath", "rootfsPropagation", "mountLabel"), TEXT),
    "seccomp": _SECCOMP,
    "sysctl": Names(TEXT),
    "maskedPaths": [TEXT],
    "readonlyPaths": [TEXT],
    "personality": {"domain": TEXT, "flags": [TEXT]},
    "memoryPolicy": {"mode": TEXT, "nodes": TEXT, "flags": [TEXT]},
    "netDevices": Names({"name": TEXT}),
    "intelRdt": ANYTHING,
}
CONFIG = {
    **dict.fromkeys(("ociVersion", "hostname", "domainname"), TEXT),
    "process": PROCESS,
    "root": {"path": TEXT, "readonly": FLAG},
    "mounts": [
        {**dict.fromkeys(("destination", "type", "source"), TEXT), "options": [TEXT]}
        | {"uidMappings": _MAP, "gidMappings": _MAP}
    ],
    "hooks": dict.fromkeys(
        ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"), _HOOKS
    ),
    "annotations": Names(TEXT),
    "linux": _LINUX,
    **dict.fromkeys(("solaris", "windows", "vm", "zos", "freebsd"), ANYTHING),
}


def checked(value: Any, kind: Any = CONFIG, where: str = "") -> Any:
    """The value without what is null in it. Raises UsageError naming the first field that is of another kind."""
    if kind is TEXT:
        if not isinstance(value, str):
            raise _wrong(where, value, "no text")
        if "\0" in value:
            raise _wrong(where, value, "text with a NUL byte in it")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise _wrong(where, value, "text with half a character in it") from None
        return value
    if kind is FLAG:
        if not isinstance(value, bool):
            raise _wrong(where, value, "neither true nor false")
        return value
    if isinstance(kind, tuple):
        if not isinstance(value, int) or isinstance(value, bool) or not kind[0] <= value <= kind[1]:
            raise _wrong(where, value, f"no whole number from {kind[0]} to {kind[1]}")
        return value
    if isinstance(kind, list):
        if not isinstance(value, list):
            raise _wrong(where, value, "no list")
        return [checked(one, kind[0], f"{where}[{number}]") for number, one in enumerate(value)]
    if kind is ANYTHING:
        return value
    if not isinstance(value, dict):
        raise _wrong(where, value, "no object")
    known = dict.fromkeys(value, kind.kind) if isinstance(kind, Names) else kind
    front = f"{where}." if where else ""
    found = {}
    for name, one in value.items():
        if name not in known:
            return _by_case(value, known, front)
        if one is not None:
            found[name] = checked(one, known[name], front + name)
    return found


def _by_case(value: dict[str, Any], known: dict[str, Any], front: str) -> dict[str, Any]:
    """The same for an object with names that no field has exactly. Of a field that is there in several cases the last
    counts, part by part, as in Go."""
    names = {name.lower(): name for name in known}
    found: dict[str, Any] = {}
    for given, one in value.items():
        name = given if given in known else names.get(given.lower(), given)
        found[name] = _merged(found.get(name), one)
    return {
        name: checked(one, known[name], front + name) if name in known else one
        for name, one in found.items()
        if one is not None
    }


def _merged(first: Any, second: Any) -> Any:
    if not (isinstance(first, dict) and isinstance(second, dict)):
        return second
    return first | {name: _merged(first.get(name), one) for name, one in second.items()}


def _wrong(where: str, value: object, what: str) -> UsageError:
    shown = repr(value)
    return UsageError(f"{where or 'it'}: {shown if len(shown) < 80 else shown[:76] + '…'} is {what}")
