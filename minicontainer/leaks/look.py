"""What there is: a snapshot of the machine, as the kernel tells it, and the difference of two."""

from __future__ import annotations

import gc
import json
import os
import re
import shutil
import socket
import subprocess
import time
from typing import TYPE_CHECKING, Literal

from minicontainer import state
from minicontainer.cgroups.layout import UNIT
from minicontainer.container import records, spawner

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Scope = Literal["instance", "host"]

SEALED = "sealed"
"""Below the exec root: the mounts from which chapter 9 executes its interpreter. They are there to stay."""

_BOTH_WAYS = ("mount", "cgroup", "link", "network namespace", "firewall", "sysctl")
"""What must not disappear either. (A process may end, a file may be removed, a descriptor may be closed.)"""


class Snapshot:
    """What there was at one moment: for each kind (mount, cgroup, link, …) the things by key, each in words."""

    def __init__(self, scope: Scope, found: dict[str, dict[str, str]]) -> None:
        self.scope: Scope = scope
        self.found = found

    def __repr__(self) -> str:
        counts = ", ".join(f"{len(things)} {kind}" for kind, things in self.found.items() if things)
        return f"<Snapshot of this {self.scope}: {counts or 'nothing'}>"


def snapshot(scope: Scope = "instance") -> Snapshot:
    """What there is now, of this instance or on the whole host. Takes some 10 to 30 ms, most of it nft(8)'s."""
    host = scope == "host"
    kinds: dict[str, Iterable[tuple[str, str]]] = {
        "mount": _mounts(host),
        "cgroup": _cgroups(host),
        "link": links(host),
        "firewall": firewall(host),
        "process": _processes(host),
        "file": _files(images=host),
    }
    if host:
        kinds["network namespace"] = _named_network_namespaces()
        kinds["sysctl"] = _sysctls()
        kinds["descriptor"] = _descriptors()
    return Snapshot(scope, {kind: _numbered(things) for kind, things in kinds.items()})


def difference(before: Snapshot, after: Snapshot) -> list[str]:
    """What `after` has and `before` had not, and what of the machine is gone, one line each."""
    lines = []
    for kind, old in before.found.items():
        new = after.found[kind]
        lines += [f"left behind: {kind} {new[key]}" for key in new if key not in old]
        if kind in _BOTH_WAYS:
            lines += [f"gone: {kind} {old[key]}" for key in old if key not in new]
    return lines


def left_since(before: Snapshot, patience: float = 3.0) -> list[str]:
    """The difference between `before` and now, given `patience` seconds to become empty.

    The kernel takes network namespaces, cgroups and processes away some milliseconds after their last user is gone.
    """
    deadline = time.monotonic() + patience
    pause = 0.005
    while lines := difference(before, snapshot(before.scope)):
        if time.monotonic() > deadline:
            return lines
        gc.collect()  # a descriptor may hang on an object that nobody can reach any more
        time.sleep(pause)
        pause = min(pause * 2, 0.25)
    return []


# ------------------------------------------------------------------------------------------------ what there is


def everything_of_ours() -> Snapshot:
    """A snapshot of the instance with its images, which `snapshot` takes for no leftover."""
    found = snapshot().found
    found["file"] = _numbered(_files(images=True))
    return Snapshot("instance", found)


def _numbered(things: Iterable[tuple[str, str]]) -> dict[str, str]:
    """As a dict; of things that are the same in all respects (a mount on top of its like) each counts."""
    found: dict[str, str] = {}
    for key, words in things:
        number = 1
        while (numbered := f"{key} #{number}") in found:
            number += 1
        found[numbered] = words
    return found


def _below(path: str, roots: Iterable[str]) -> bool:
    return any(path == root or path.startswith(f"{root}/") for root in roots)


class Mount:
    """One line of /proc/self/mountinfo. proc(5)"""

    def __init__(self, line: str) -> None:
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        self.device, self.root = fields[2], fields[3]
        self.point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[4])
        # of "shared:12" only that it is: peer groups are numbered anew
        self.options = " ".join([fields[5], *(option.partition(":")[0] for option in fields[6:])])
        self.fstype, self.source = after.split(" ")[:2]


def mountinfo() -> list[Mount]:
    """This process's mounts, in the order in which they lie upon each other."""
    with open("/proc/self/mountinfo", errors="surrogateescape") as file:
        return [Mount(line) for line in file]


def _mounts(host: bool) -> Iterator[tuple[str, str]]:
    for mount in mountinfo():
        if mount.point == "/run/netns":  # ip(8) makes it a mount when it is first used, and leaves it
            continue
        if _below(mount.point, (f"{state.exec_root()}/{SEALED}",)):
            continue
        if host or _below(mount.point, (state.data_root(), state.exec_root())):
            words = f"{mount.point} ({mount.fstype}, {mount.options})"
            yield f"{words} {mount.source} {mount.root}", words


def cgroup_directories() -> Iterator[str]:
    """Every group in every tree, each tree once."""
    trees = {mount.device: mount.point for mount in reversed(mountinfo()) if mount.fstype in ("cgroup", "cgroup2")}
    for tree in trees.values():
        for top, names, _ in os.walk(tree):
            yield from (f"{top}/{name}" for name in names)


def _cgroups(host: bool) -> Iterator[tuple[str, str]]:
    """Our groups; of the host those that bear any instance's name, stand at the top of a tree or are inside our own.

    The others have an owner above them (systemd's slices, a Docker daemon, whoever started us) who makes and removes
    them as it likes.
    """
    tops = {mount.point for mount in mountinfo() if mount.fstype in ("cgroup", "cgroup2")}
    with open("/proc/self/cgroup") as file:
        own = {line.rstrip("\n").split(":", 2)[2] for line in file} - {"/"}
    for path in cgroup_directories():
        if path.endswith((f"/{UNIT}", f"/{UNIT}/keeper")):  # systemd's gift, for all instances, stays
            continue
        ours = f"/{state.instance()}/" in f"{path}/"
        if not ours and host:
            ours = (
                "/minicontainer" in path or os.path.dirname(path) in tops or any(f"{group}/" in path for group in own)
            )
        if ours:
            yield path, path


def links(host: bool) -> Iterator[tuple[str, str]]:
    """The links of this network namespace, or ours among them."""
    for _index, name in socket.if_nameindex():
        if host or name.startswith(f"mc{state.tag()}"):
            yield name, name


def _named_network_namespaces() -> Iterator[tuple[str, str]]:
    if os.path.isdir("/run/netns"):
        yield from ((name, name) for name in sorted(os.listdir("/run/netns")))


def firewall(host: bool) -> Iterator[tuple[str, str]]:
    """Tables, chains, rules and elements, or ours among them."""
    nft = shutil.which("nft", path="/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin")
    if nft is None or os.geteuid() != 0:
        return
    # -s leaves counters out; handles are given anew, and the version is no rule
    done = subprocess.run([nft, "-j", "-s", "list", "ruleset"], capture_output=True, text=True)
    if done.returncode != 0:  # a kernel without nf_tables has no rules
        return
    for entry in json.loads(done.stdout)["nftables"]:
        (kind, it), *_ = entry.items()
        if kind == "metainfo":
            continue
        it.pop("handle", None)
        elements = it.pop("elem", [])
        table = it["name"] if kind == "table" else it["table"]
        ours = (state.instance(), f"{state.instance()}.networks")
        if not host and table not in ours and it.get("comment", "").partition(" ")[0] not in ours:
            continue
        place = " ".join(str(it[part]) for part in ("family", "table", "chain", "name") if part in it)
        words = f"{kind} {place}" + (f" {json.dumps(it['expr'])}" if "expr" in it else "")
        yield json.dumps([kind, it], sort_keys=True), words
        for element in elements:
            text = json.dumps(element, sort_keys=True)
            yield f"{kind} {place} {text}", f"element of {place}: {text}"


def _sysctls() -> Iterator[tuple[str, str]]:
    with open("/proc/sys/net/ipv4/ip_forward") as file:
        yield (words := f"net.ipv4.ip_forward = {file.read().strip()}"), words


def _processes(host: bool) -> Iterator[tuple[str, str]]:
    """This program's descendants; for the instance also whatever runs in its groups or stands in its records.

    The spawner is a part of this program: it is not listed, its containers are.
    """
    parents: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if name.isdecimal() and (fields := _stat(int(name))):
            parents[int(name)] = int(fields[1])
    own = spawner.current()
    wanted = {pid for pid in parents if os.getpid() in _ancestors(pid, parents)} - {own.pid if own else 0}
    if not host:
        for path in cgroup_directories():
            if f"/{state.instance()}/" in f"{path}/":
                wanted.update(members(path))
        for container in records.all_containers():
            try:
                process = (records.read(container) or {}).get("process")
            except (ValueError, TypeError, AttributeError):  # no JSON, or none of ours: a record by name only
                continue
            if process and records.is_alive(process):
                wanted.add(process["pid"])
    for pid in sorted(wanted):
        if fields := _stat(pid):
            yield f"{pid} {fields[19]}", f"{pid}: {_command(pid)}{' (a zombie)' if fields[0] == 'Z' else ''}"


def _ancestors(pid: int, parents: dict[int, int]) -> Iterator[int]:
    while pid := parents.get(pid, 0):
        yield pid


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the command: state, parent, …; none if there is no such process. proc(5)"""
    try:
        with open(f"/proc/{pid}/stat", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _command(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", errors="replace") as file:
            words = file.read().replace("\0", " ").strip()
        with open(f"/proc/{pid}/comm", errors="replace") as file:
            return words[:200] or f"[{file.read().strip()}]"
    except (FileNotFoundError, ProcessLookupError):
        return "[ended]"


def members(group: str) -> list[int]:
    """The processes in the group in this directory."""
    try:
        with open(f"{group}/cgroup.procs") as file:
            return [pid for pid in map(int, file.read().split()) if pid]
    except OSError:  # it went away while we looked, or is threaded and does not say
        return []


def _descriptors() -> Iterator[tuple[str, str]]:
    """This program's open descriptors; of a socket or a pipe its number in the kernel says nothing."""
    own = spawner.current()
    for name in os.listdir("/proc/self/fd"):
        if own and int(name) == own.fileno():
            continue
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # the one through which the directory was read
            continue
        words = f"{name} → {target.partition(':[')[0]}"
        yield words, words


_ENTRIES = ("containers", "layers", "ingest", "volumes")
"""Folders of the data root of which each entry is one thing, however much is in it."""


def _files(images: bool) -> Iterator[tuple[str, str]]:
    """What is below our roots, apart from folders as such, lock files, and the lists that are there when empty."""
    for top in (state.data_root(), state.exec_root()):
        for path in paths(top, images):
            yield path, path


def paths(top: str, images: bool) -> Iterator[str]:
    """What `_files` names, below one directory."""
    try:
        names = sorted(os.listdir(top))
    except (FileNotFoundError, NotADirectoryError):
        return
    data, runtime = state.data_root(), state.exec_root()
    for name in names:
        path = f"{top}/{name}"
        if name == "lock" or name.endswith(".lock") or path in (data, runtime):
            continue
        if path == f"{runtime}/rootfs":  # chapter 5 hangs every container's root there, in the container's own view
            continue
        if path in (f"{runtime}/seccomp", f"{runtime}/{SEALED}"):  # chapters 8 and 9 keep what they need again
            continue
        if not images and top == data and name in ("images", "layers", "volumes"):
            continue
        if top == f"{data}/images" and name in ("oci-layout", "index.json"):
            continue
        if not images and top == f"{data}/ingest" and name.endswith(".partial"):  # chapter 7 keeps it for the next pull
            continue
        one_thing = top == runtime or (os.path.dirname(top) == data and os.path.basename(top) in _ENTRIES)
        if one_thing or os.path.islink(path) or not os.path.isdir(path):
            yield path
        else:
            yield from paths(path, images)
