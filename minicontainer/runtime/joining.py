"""A second process in a container: `exec`.

It joins the namespaces of the first one, its cgroup and with its mounts its root, and is sealed as itself: its own
user, capabilities, limits. What it is comes from `--process`, or from the container's config.json and the options.
"""

from __future__ import annotations

import os

from minicontainer.errors import ConflictError, UsageError
from minicontainer.runtime import creating, translate
from minicontainer.runtime.cgroup import JoinCgroup
from minicontainer.runtime.identity import Unseen
from minicontainer.runtime.namespaces import Entered

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from minicontainer.container.part import Part
    from minicontainer.runtime.creating import Made
    from minicontainer.runtime.states import State


def join(
    container: State,
    process: dict[str, Any],
    *,
    config: dict[str, Any],
    keep: int = 0,
    console_socket: str = "",
    pid_file: str = "",
    ignore_paused: bool = False,
    cgroups: dict[str, str] | None = None,
) -> Made:
    """Make the process. Raises ConflictError when the container is not one that can be joined."""
    status = container.status()
    if status == "stopped":
        raise ConflictError("cannot exec in a stopped container")
    if status == "paused" and not ignore_paused:
        raise ConflictError("cannot exec in a paused container (use --ignore-paused to override)")
    section = config.get("linux") or {}
    translate.check_process(process)
    translate.check_mapped(process, section)
    kinds = [entry["type"] for entry in section.get("namespaces") or ()]
    parts: list[Part] = [
        JoinCgroup(container.values["cgroup"], cgroups or {}),
        Entered(join=dict.fromkeys(kinds, container.pid)),
        *translate.of_process(process, section),
        Unseen(),
    ]

    def cloned(pid: int) -> None:
        if pid_file:
            creating.write_pid_file(pid_file, pid)

    plan = translate.Plan(parts, process)
    return creating.make(
        plan,
        parts,
        container.id,
        keep=keep,
        console_socket=console_socket,
        cloned=cloned,
        answer=lambda question: {},
        listener=creating.listener(config, container),
    )


def process_of(config: dict[str, Any], options: dict[str, Any], argv: list[str]) -> dict[str, Any]:
    """What `exec ID COMMAND…` means: the container's own process, with another command and what the options say."""
    process: dict[str, Any] = dict(config["process"])
    process |= {"args": argv, "terminal": bool(options.get("tty"))}
    process.pop("consoleSize", None)
    if options.get("cwd"):
        process["cwd"] = options["cwd"]
    process["env"] = [*(process.get("env") or ()), *(options.get("env") or ())]
    if options.get("apparmor"):
        process["apparmorProfile"] = options["apparmor"]
    if options.get("process-label"):
        process["selinuxLabel"] = options["process-label"]
    if options.get("no-new-privs"):
        process["noNewPrivileges"] = True
    if options.get("cap"):
        from minicontainer.security.capabilities import bits

        bits(options["cap"])  # raises UsageError for a name that is none
        sets = {name: list(words or ()) for name, words in (process.get("capabilities") or {}).items()}
        for name in ("bounding", "effective", "permitted"):
            sets[name] = [*sets.get(name, ()), *options["cap"]]
        process["capabilities"] = sets
    user = dict(process.get("user") or {})
    if options.get("user"):
        uid, colon, gid = options["user"].partition(":")
        user["uid"] = translate.number(uid, "--user")
        user["gid"] = translate.number(gid, "--user") if colon else user.get("gid", 0)
    if options.get("additional-gids"):
        more = [translate.number(gid, "--additional-gids") for gid in options["additional-gids"]]
        user["additionalGids"] = [*(user.get("additionalGids") or ()), *more]
    process["user"] = user
    return process


def cgroup_option(values: list[str]) -> dict[str, str]:
    """`--cgroup PATH` and `--cgroup CONTROLLER[,…]:PATH`: which group inside of the container's, by controller."""
    found: dict[str, str] = {}
    for value in values:
        names, colon, path = value.rpartition(":")
        if ".." in path.split("/"):
            raise UsageError(f"--cgroup: {path} is not a sub cgroup path: `..` components are not allowed")
        for name in names.split(",") if colon else [""]:
            found[name] = os.path.normpath(f"/{path}").lstrip("/")
    return found
