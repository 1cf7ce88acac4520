"""A seccomp profile as OCI writes it, made into a filter; and Docker's default policy.

A profile says what happens to each system call: an action by default, and rules that name calls, perhaps with
conditions on their arguments, and another action (runtime-spec, config-linux.md, "Seccomp"). Docker's own format is
that with a few words more, in the file that `--security-opt seccomp=FILE` takes: `archMap` in place of
`architectures`, and rules that count only for some capabilities, machines and kernels (`includes`, `excludes`).

The default policy lists what is allowed, some 360 calls, and refuses the rest: what the list does not know (a call
that is younger than it) is refused too.
"""

from __future__ import annotations

import os

from minicontainer import linux, state
from minicontainer.errors import HostError, UsageError
from minicontainer.linux import filters, libseccomp
from minicontainer.security import DEFAULT_POLICY
from minicontainer.security.capabilities import bits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    Profile = dict[str, Any]

EPERM, ENOSYS = 1, 38

ACTIONS: dict[str, int] = {
    "SCMP_ACT_KILL": filters.SECCOMP_RET_KILL_THREAD,
    "SCMP_ACT_KILL_THREAD": filters.SECCOMP_RET_KILL_THREAD,
    "SCMP_ACT_KILL_PROCESS": filters.SECCOMP_RET_KILL_PROCESS,
    "SCMP_ACT_TRAP": filters.SECCOMP_RET_TRAP,
    "SCMP_ACT_ERRNO": filters.SECCOMP_RET_ERRNO,
    "SCMP_ACT_TRACE": filters.SECCOMP_RET_TRACE,
    "SCMP_ACT_ALLOW": filters.SECCOMP_RET_ALLOW,
    "SCMP_ACT_LOG": filters.SECCOMP_RET_LOG,
    "SCMP_ACT_NOTIFY": filters.SECCOMP_RET_USER_NOTIF,
}
_WITH_NUMBER = (filters.SECCOMP_RET_ERRNO, filters.SECCOMP_RET_TRACE)
_PERMISSIVE = ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE")
FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": filters.SECCOMP_FILTER_FLAG_TSYNC,
    "SECCOMP_FILTER_FLAG_LOG": filters.SECCOMP_FILTER_FLAG_LOG,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": filters.SECCOMP_FILTER_FLAG_SPEC_ALLOW,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": filters.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV,
}
# what a filter finds in struct seccomp_data, <linux/audit.h>
AUDIT_ARCH = {"x86_64": 0xC000003E, "x86": 0x40000003, "x32": 0xC000003E, "aarch64": 0xC00000B7, "arm": 0x40000028}
X32_BIT = 0x40000000
_GO_ARCH = {"x86_64": "amd64", "aarch64": "arm64"}
_FIELDS = {
    "defaultAction", "defaultErrnoRet", "architectures", "archMap", "flags", "syscalls", "listenerPath",
    "listenerMetadata",
}  # fmt: skip
_RULE = {"names", "name", "action", "errnoRet", "args", "comment", "includes", "excludes"}


def default(kept: int) -> Profile:
    """Docker's default policy as an OCI profile, for a container with these capabilities on this machine."""
    policy = state.read_json(DEFAULT_POLICY)
    machine = os.uname().machine
    names = [name for group in policy["allow"].values() for name in group.split()]
    names += policy["allow_on"].get(machine, "").split()
    for version, words in policy["allow_since"].items():
        names += words.split() if _kernel() >= _version(version) else []
    for capability, words in policy["allow_with"].items():
        names += words.split() if kept & bits([capability]) else []
    rules: list[dict[str, Any]] = [{"names": sorted(set(names)), "action": "SCMP_ACT_ALLOW"}]
    for condition in policy["conditions"]:
        if not ("without" in condition and kept & bits([condition["without"]])):
            values = condition["value"] if isinstance(condition["value"], list) else [condition["value"]]
            for value in values:
                argument = {"index": condition["index"], "op": condition["op"], "value": value}
                argument["valueTwo"] = condition.get("value_two", 0)
                rules.append({"names": [condition["call"]], "action": "SCMP_ACT_ALLOW", "args": [argument]})
    for refused in policy["refuse"]:
        if not kept & bits([refused["without"]]):
            rules.append({"names": [refused["call"]], "action": "SCMP_ACT_ERRNO", "errnoRet": refused["errno"]})
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": EPERM,
        "architectures": policy["machines"].get(machine, []),
        "syscalls": rules,
    }


def read(path: str) -> Profile:
    """A profile from a file. Raises UsageError when it is none."""
    try:
        profile = state.read_json(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(
            f"the seccomp profile {path} cannot be read: {reason}", hint="a JSON file, or `unconfined`"
        ) from None
    if not isinstance(profile, dict):
        raise UsageError(f"the seccomp profile {path} is no JSON object", hint="runtime-spec, config-linux.md, Seccomp")
    return profile


def resolved(profile: Profile, kept: int) -> Profile:
    """The same in OCI's words alone: Docker's conditions are decided, for these capabilities and this machine.

    Raises UsageError for what is no profile: a word that would be passed over might be the one that protects.
    """
    if unknown := set(profile) - _FIELDS:
        raise _wrong(f"{', '.join(sorted(unknown))} is not known")
    if "defaultAction" not in profile:
        raise _wrong("it has no defaultAction")
    _action(profile["defaultAction"], profile.get("defaultErrnoRet"))
    architectures = list(profile.get("architectures") or ())
    for entry in profile.get("archMap") or ():
        if entry["architecture"] == f"SCMP_ARCH_{os.uname().machine.upper()}":
            architectures += [entry["architecture"], *(entry.get("subArchitectures") or ())]
    rules = []
    for rule in profile.get("syscalls") or ():
        if unknown := set(rule) - _RULE:
            raise _wrong(f"a rule's {', '.join(sorted(unknown))} is not known")
        if _counts(rule, kept):
            names = rule.get("names") or ([rule["name"]] if rule.get("name") else [])
            if not names or "action" not in rule:
                raise _wrong("a rule lacks its names or its action")
            _action(rule["action"], rule.get("errnoRet"))
            _comparisons(rule.get("args") or ())
            kept_words = {key: rule[key] for key in ("action", "errnoRet", "args") if rule.get(key) is not None}
            rules.append({"names": list(names), **kept_words})
    plain: Profile = {key: profile[key] for key in ("defaultAction", "defaultErrnoRet", "flags") if key in profile}
    return {**plain, "architectures": architectures, "syscalls": rules}


def flags(profile: Profile) -> int:
    """The flags for seccomp(2). Raises UsageError for one that is none."""
    found = 0
    for name in profile.get("flags") or ():
        if name not in FLAGS:
            raise _wrong(f"there is no flag {name!r}")
        found |= FLAGS[name]
    return found


def compiled(profile: Profile) -> bytes:
    """The filter of an OCI profile, for seccomp(2). Raises UsageError, and HostError without libseccomp."""
    default = _action(profile["defaultAction"], profile.get("defaultErrnoRet"))
    architectures = [_architecture(name) for name in profile.get("architectures") or ()]
    rules = []
    for rule in profile["syscalls"]:
        action = _action(rule["action"], rule.get("errnoRet"))
        if action == default:
            continue  # libseccomp refuses a rule that says what happens anyway
        for comparisons in _comparisons(rule.get("args") or ()):
            rules += [(action, name, comparisons) for name in rule["names"]]
    try:
        program = libseccomp.compile(default, architectures, rules)
        if profile["defaultAction"] in _PERMISSIVE or default == filters.SECCOMP_RET_ERRNO | ENOSYS:
            return program
        names = [name for rule in profile["syscalls"] for name in rule["names"]]
        return _unknown_is_enosys(architectures or [os.uname().machine], names) + program
    except libseccomp.Missing:
        raise HostError(
            "a seccomp profile needs libseccomp, and there is no libseccomp.so.2 here",
            hint="apt-get install libseccomp2; or go without: --security-opt seccomp=unconfined",
        ) from None
    except linux.KernelError as error:
        raise _wrong(f"libseccomp refuses it at {error.arguments}: {linux.errno_name(error.errno or 0)}") from None
    except (ValueError, OverflowError) as error:
        raise _wrong(str(error)) from None


def _unknown_is_enosys(architectures: list[str], names: list[str]) -> bytes:
    """The beginning of a filter: a call with a higher number than any that the profile names does not exist.

    The profile's author has never heard of it, so it is not forbidden but unknown, and that is what libc understands:
    it tries the new call, and takes the old one on ENOSYS, but gives up on EPERM.
    """
    last: dict[tuple[int, bool], int] = {}
    for name in architectures:
        number = max((libseccomp.number_of(name, call) for call in names), default=-1)
        if number >= 0:
            key = AUDIT_ARCH.get(name, 0), name == "x32"
            last[key] = max(last.get(key, 0), number)
    code: list[tuple[int, int, int, int]] = []
    answer = (0x06, 0, 0, filters.SECCOMP_RET_ERRNO | ENOSYS)  # BPF_RET | BPF_K
    for (audit, x32), number in last.items():
        if not audit:
            continue
        code.append((0x20, 0, 0, 4))  # BPF_LD | BPF_W | BPF_ABS: the architecture
        if audit == AUDIT_ARCH["x86_64"]:
            # two tables under one name: bit 30 of the number tells them apart
            code += [(0x15, 0, 4, audit), (0x20, 0, 0, 0)]
            code += (
                [(0x35, 0, 2, X32_BIT), (0x25, 0, 1, number)] if x32 else [(0x35, 2, 0, X32_BIT), (0x25, 0, 1, number)]
            )
        else:
            code += [(0x15, 0, 3, audit), (0x20, 0, 0, 0), (0x25, 0, 1, number)]
        code.append(answer)
    import struct

    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def _comparisons(arguments: Sequence[dict[str, Any]]) -> list[list[tuple[int, str, int, int]]]:
    """Conditions on different arguments must all hold. On the same argument twice libseccomp cannot say "and": then
    each is a rule of its own, and one of them suffices, as in runc."""
    found = []
    for argument in arguments:
        operator, index = argument.get("op"), argument.get("index")
        if operator not in libseccomp.OPERATORS or not isinstance(index, int) or not 0 <= index <= 5:
            raise _wrong(f"an argument's condition makes no sense: {argument}")
        found.append((index, operator, int(argument["value"]), int(argument.get("valueTwo", 0))))
    indices = [index for index, *_ in found]
    return [[one] for one in found] if len(set(indices)) < len(indices) else [found]


def _action(name: str, number: int | None) -> int:
    if name not in ACTIONS:
        raise _wrong(f"there is no action {name!r}")
    action: int = ACTIONS[name]
    if action not in _WITH_NUMBER:
        if number is not None and name != "SCMP_ACT_ALLOW":
            raise _wrong(f"{name} takes no errno")
        return action
    number = EPERM if number is None else number
    if not 0 <= number <= 0xFFFF:
        raise _wrong(f"{number} is no errno")
    return action | number


def _architecture(name: str) -> str:
    short = name.removeprefix("SCMP_ARCH_").lower()
    if not name.startswith("SCMP_ARCH_"):
        raise _wrong(f"there is no architecture {name!r}")
    return short


def _counts(rule: dict[str, Any], kept: int) -> bool:
    """Whether a rule is meant for these capabilities, this machine and this kernel."""
    machine = os.uname().machine
    here = {machine, _GO_ARCH.get(machine, machine)}
    inc, exc = rule.get("includes") or {}, rule.get("excludes") or {}
    if unknown := (set(inc) | set(exc)) - {"caps", "arches", "minKernel"}:
        raise _wrong(f"a rule's condition {', '.join(unknown)} is not known")
    if any(not kept & bits([name]) for name in inc.get("caps") or ()):
        return False
    if any(kept & bits([name]) for name in exc.get("caps") or ()):
        return False
    if inc.get("arches") and not here & set(inc["arches"]):
        return False
    if here & set(exc.get("arches") or ()):
        return False
    if inc.get("minKernel") and _kernel() < _version(inc["minKernel"]):
        return False
    return not (exc.get("minKernel") and _kernel() >= _version(exc["minKernel"]))


def _kernel() -> tuple[int, ...]:
    return _version(os.uname().release.partition("-")[0])


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2])


def _wrong(what: str) -> UsageError:
    return UsageError(f"the seccomp profile: {what}", hint="runtime-spec, config-linux.md, Seccomp")
