"""config.json → parts.

Everything that the specification knows is either done, by a part of this chapter or of an earlier one, or refused by
its name: a limit that is silently not there is worse than none. What the specification does not know is ignored, as
it demands (config.md, "Extensibility").
"""

from __future__ import annotations

import os

from minicontainer import linux, state
from minicontainer.errors import UsageError
from minicontainer.runtime import log, mapping, shape
from minicontainer.runtime.identity import Identity, Personality, Unseen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from minicontainer.container.part import Part
    from minicontainer.runtime.cgroup import Cgroup
    from minicontainer.security.capabilities import Capabilities
    from minicontainer.security.limits import Rlimits

# known to the specification, and not done here: refused unless empty
_REFUSED = {
    "": ("solaris", "windows", "vm", "zos", "freebsd"),
    "process": ("commandLine", "execCPUAffinity"),
    "linux": ("intelRdt",),
}


class Plan:
    """What a process's description means: the parts, and what it is called with."""

    def __init__(self, parts: list[Part], process: dict[str, Any]) -> None:
        self.parts = parts
        self.argv: list[str] = process["args"]
        self.env = environment(process)
        if listen := os.environ.get("LISTEN_FDS"):  # sockets for it are among what is preserved, sd_listen_fds(3)
            self.env |= {"LISTEN_FDS": listen, "LISTEN_PID": "1"}
        self.cwd: str = process["cwd"]
        self.terminal = bool(process.get("terminal"))


class ContainerPlan(Plan):
    """What a config.json means."""

    def __init__(self, parts: list[Part], process: dict[str, Any], cgroup: Cgroup) -> None:
        super().__init__(parts, process)
        self.cgroup = cgroup


def load(path: str) -> dict[str, Any]:
    """A config.json. Raises UsageError for one that is none."""
    try:
        config = state.read_json(path)
    except OSError as error:
        raise UsageError(f"{path}: {(error.strerror or '').lower()}", hint="`spec` writes one") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise UsageError(f"{path} is no JSON object")
    try:
        found: dict[str, Any] = shape.checked(config)
    except UsageError as error:
        raise UsageError(f"{path} is not what the OCI runtime specification wants: {error.message}") from None
    return found


def translate(
    config: dict[str, Any], id: str, bundle: str, *, pivot: bool = True, lenient: bool | None = None
) -> ContainerPlan:
    """The parts that make what `config` describes. Raises UsageError naming the first field that cannot be.

    `lenient`: go on without a cgroup that cannot be made and was not asked for; None: if we are not root.
    """
    try:
        return _translate(config, id, bundle, pivot, lenient)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise UsageError(f"{bundle}/config.json is not what the OCI runtime specification wants: {what}") from error


def _translate(config: dict[str, Any], id: str, bundle: str, pivot: bool, lenient: bool | None) -> ContainerPlan:
    version = config.get("ociVersion")
    if not isinstance(version, str) or not version.startswith("1."):
        raise UsageError(f"ociVersion: {version!r} is not supported", hint="1.0.0 to 1.2.0")
    _refuse(config, "")
    section = config.get("linux")
    if section is None:
        raise UsageError("linux: a config.json without this section is not supported")
    _refuse(section, "linux")
    process = config.get("process")
    if process is None:
        raise UsageError("process: a container without a process is not supported")
    check_process(process)
    if not config.get("root"):
        raise UsageError("root: a container without a root filesystem is not supported")
    for name, value in (config.get("annotations") or {}).items():
        if not name or not isinstance(value, str):
            raise UsageError(f"annotations: {name!r} is {value!r}: names are not empty, values are text")

    from minicontainer.runtime.cgroup import Cgroup  # what only a container needs: `exec` has none of it
    from minicontainer.runtime.namespaces import OciNamespaces, Sysctls
    from minicontainer.runtime.rootfs import Rootfs

    limits = section.get("resources") or {}
    cgroup = Cgroup(section.get("cgroupsPath") or "", id, limits, lenient=lenient)
    spaces = OciNamespaces(config)
    check_mapped(process, section)
    parts: list[Part] = [cgroup]
    parts.append(spaces)
    if section.get("netDevices"):
        from minicontainer.runtime.net_devices import NetDevices

        parts.append(NetDevices(section))
    if sysctls := section.get("sysctl"):
        parts.append(Sysctls(sysctls, config))
    given = config.get("hooks") or {}
    if given:
        from minicontainer.runtime import hooks

        hooks.check(given)
    if any(given.get(kind) for kind in ("prestart", "createRuntime", "createContainer")):
        parts.append(hooks.CreateHooks(given))
    parts.append(Rootfs(config, bundle, cgroup, pivot=pivot))
    if section.get("personality"):
        parts.append(Personality(section["personality"]))
    parts += of_process(process, section)
    if spaces.joined or "pid" not in spaces.kinds:
        parts.append(Unseen())
    return ContainerPlan(parts, process, cgroup)


def check_mapped(process: dict[str, Any], section: dict[str, Any]) -> None:
    """Raise UsageError for a user or a group that the container's user namespace does not have."""
    user = process.get("user") or {}
    for field, name in (("uid", "uidMappings"), ("gid", "gidMappings"), ("additionalGids", "gidMappings")):
        ranges, given = mapping.ranges(section, name), user.get(field, 0)
        for number in given if isinstance(given, list) else [given]:
            if ranges and not mapping.has(ranges, number):
                raise UsageError(
                    f"process.user.{field}: {number} is none in the container's user namespace",
                    hint="linux.uidMappings and gidMappings say which there are",
                )


def check_process(process: dict[str, Any]) -> None:
    """Raise UsageError for a process that cannot be, or not here."""
    _refuse(process, "process")
    args, cwd = process.get("args"), process.get("cwd")
    if not args or not all(isinstance(word, str) and "\0" not in word for word in args) or not args[0]:
        raise UsageError(f"process.args: {args!r}: it needs a command")
    if not isinstance(cwd, str) or not cwd.startswith("/"):
        raise UsageError(f"process.cwd: {cwd!r} is no absolute path")
    if any("\0" in word for word in process.get("env") or ()):
        raise UsageError("process.env: there is a NUL byte in it")


def of_process(process: dict[str, Any], section: dict[str, Any]) -> list[Part]:
    """The parts of config.json's `process`, which are those of `exec` too."""
    parts: list[Part] = []
    if process.get("terminal"):
        from minicontainer.runtime.console import Console

        parts.append(Console(process.get("consoleSize")))
    if (score := process.get("oomScoreAdj")) is not None:
        from minicontainer.security.limits import OomScore

        parts.append(OomScore(score))
    if limits := process.get("rlimits"):
        parts.append(_rlimits(limits))
    if process.get("scheduler"):
        from minicontainer.runtime.scheduling import Scheduler

        parts.append(Scheduler(process["scheduler"]))
    if process.get("ioPriority"):
        from minicontainer.runtime.scheduling import IoPriority

        parts.append(IoPriority(process["ioPriority"]))
    if section.get("memoryPolicy") is not None:
        from minicontainer.runtime.memory_policy import MemoryPolicy

        parts.append(MemoryPolicy(section["memoryPolicy"]))
    if profile := process.get("apparmorProfile"):
        from minicontainer.security.labels import AppArmor

        parts.append(AppArmor(profile))
    if context := process.get("selinuxLabel"):
        from minicontainer.security import labels

        labels.need_selinux(context, "process.selinuxLabel")
        parts.append(labels.SELinux(context))
    if process.get("noNewPrivileges"):
        from minicontainer.security.no_new_privs import NoNewPrivs

        parts.append(NoNewPrivs())
    parts.append(Identity(process.get("user") or {}))
    if (sets := process.get("capabilities")) is not None:
        in_user_namespace = any(entry.get("type") == "user" for entry in section.get("namespaces") or ())
        parts.append(_capabilities(sets, in_user_namespace))
    parts += _seccomp(section)
    return parts


def _capabilities(sets: dict[str, list[str]], in_user_namespace: bool) -> Capabilities:
    """Those that exist and that we have ourselves: what cannot be granted is a warning (config.md, "Linux Process")."""
    from minicontainer.security.capabilities import ALL, NAMES, SETS, Capabilities

    held = ALL if in_user_namespace else linux.capget()[1]
    kept, left_out = {}, set()
    for kind in SETS:
        words = [word.upper().removeprefix("CAP_") for word in sets.get(kind) or ()]
        kept[kind] = [word for word in words if word in NAMES and held >> NAMES.index(word) & 1]
        left_out |= {*words} - {*kept[kind]}
    if left_out:
        log.warn(f"cannot grant CAP_{', CAP_'.join(sorted(left_out))}")
    # buildah asks for all to be ambient and for none to be inheritable: the kernel grants no such, capabilities(7)
    possible = {*kept["inheritable"]} & {*kept["permitted"]}
    ambient = [word for word in kept["ambient"] if word in possible]
    if impossible := len(kept["ambient"]) - len(ambient):
        log.warn(f"{impossible} capabilities are not ambient: they are not both permitted and inheritable")
    kept["ambient"] = ambient
    return Capabilities.exactly(**kept)


def _seccomp(section: dict[str, Any]) -> list[Part]:
    profile = section.get("seccomp")
    if not profile:
        return []
    from minicontainer.security.seccomp import Seccomp

    actions = {rule.get("action") for rule in profile.get("syscalls") or ()}
    if "SCMP_ACT_NOTIFY" in actions and not profile.get("listenerPath"):
        raise UsageError("linux.seccomp: SCMP_ACT_NOTIFY needs a listenerPath")
    for rule in profile.get("syscalls") or ():
        if rule.get("action") == "SCMP_ACT_NOTIFY" and "write" in rule.get("names", ()):
            raise UsageError("linux.seccomp: SCMP_ACT_NOTIFY cannot be used for the write syscall: a start writes")
    return [Seccomp(profile)]


def _rlimits(entries: list[dict[str, Any]]) -> Rlimits:
    from minicontainer.security.limits import KINDS, Rlimits

    limits: dict[str, int | tuple[int | None, int | None] | None] = {}
    for entry in entries:
        name = entry["type"].removeprefix("RLIMIT_").lower()
        if name not in KINDS or not entry["type"].startswith("RLIMIT_"):
            raise UsageError(f"process.rlimits: there is no {entry['type']!r}")
        if name in limits:
            raise UsageError(f"process.rlimits: {entry['type']} is there twice")
        limits[name] = (entry["soft"], entry["hard"])
    return Rlimits(**limits)


def environment(process: dict[str, Any]) -> dict[str, str]:
    """`process.env`; of a name that is there twice the last counts."""
    return dict(line.split("=", 1) for line in process.get("env") or () if "=" in line)


def _refuse(section: dict[str, Any], name: str) -> None:
    for field in _REFUSED[name]:
        if section.get(field):
            raise UsageError(f"{f'{name}.' if name else ''}{field} is not supported")


def absolute(bundle: str) -> str:
    """The bundle's directory, absolute."""
    return os.path.abspath(bundle or ".")


def number(text: str, where: str) -> int:
    """A number that was written in an option. Raises UsageError."""
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"{where}: {text!r} is no number") from None
