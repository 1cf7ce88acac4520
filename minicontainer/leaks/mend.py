"""Putting things back: what the records of dead containers name, then what bears our name and belongs to nobody."""

from __future__ import annotations

import os
import re
import shutil

from minicontainer import linux, network, state
from minicontainer.cgroups import Group
from minicontainer.container import records
from minicontainer.images.store import Store
from minicontainer.leaks.look import (
    SEALED,
    Mount,
    cgroup_directories,
    difference,
    everything_of_ours,
    firewall,
    links,
    members,
    mountinfo,
    paths,
)
from minicontainer.network import networks
from minicontainer.overlayfs import upper


def reset(all: bool = False) -> list[str]:
    """Remove every leftover of this instance, and nothing else; what was removed, in words.

    Running containers, groups in which something runs, and containers that have ended but were to be kept (they have a
    container.json) stay, unless `all` is true. Images stay in any case. Everything is listed before the records are
    read: what is found then and has no record belongs to nobody, even if containers start meanwhile.
    """
    before = everything_of_ours()
    for container in records.all_containers():
        try:
            records.mend([container])
        except (
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
        ):  # a record that nobody can read: its container is known by name
            linux.unlink(records.path(container))
    if all:
        _end_containers()
    _reset_mounts()
    _reset_cgroups(all)
    _reset_network()
    _reset_files(all)
    lines = difference(everything_of_ours(), before)
    return [line.replace("left behind:", "removed:") for line in lines] + _reset_sealed()


def _end_containers() -> None:
    """Kill what runs, whoever answers for it, and undo it."""
    for container in records.all_containers():
        with state.locked(f"{state.exec_root()}/mend.lock"):
            record = records.read(container)
            if record is None:
                continue
            process = record.get("process")
            if process and records.is_alive(process):
                linux.kill(process["pid"], 9)
            records.release(container, record)


def _living() -> set[str]:
    return set(records.all_containers())


def _container_in(path: str) -> str:
    """The id of the container that a path below our roots is for; empty if it is for none."""
    for top in (state.exec_root(), f"{state.data_root()}/containers"):
        found = re.fullmatch(r"/([0-9a-f]{64})(/.*)?", path.removeprefix(top)) if path.startswith(top) else None
        if found:
            return found[1]
    return ""


def _reset_mounts() -> None:
    # A disk that somebody mounted below our roots is not ours: only what is for a container, and pinned namespaces.
    found = [mount for mount in mountinfo() if _container_in(mount.point) or _is_pin(mount)]
    living = _living()
    for mount in reversed(found):  # what was mounted last lies on top
        if _container_in(mount.point) not in living:
            linux.umount2(mount.point, linux.MNT_DETACH)
            if _is_pin(mount):
                linux.unlink(mount.point)


def _reset_sealed() -> list[str]:
    """Take the runtime's interpreter out of its place; who executes it goes on, and the next start puts it back."""
    top = f"{state.exec_root()}/{SEALED}"
    found = sorted({mount.point for mount in mountinfo() if mount.point.startswith(f"{top}/")}, reverse=True)
    for point in found:  # what lies in a directory before the directory
        linux.umount2(point, linux.MNT_DETACH)
    shutil.rmtree(top, ignore_errors=True)
    return [f"removed: mount {point}" for point in found]


def _is_pin(mount: Mount) -> bool:
    return mount.fstype == "nsfs" and mount.point.startswith(f"{state.exec_root()}/")


def _reset_cgroups(all: bool) -> None:
    found: dict[str, list[int]] = {}
    for path in cgroup_directories():
        _, _, name = path.partition(f"/{state.instance()}/")
        if name:
            found.setdefault(name.partition("/")[0], []).extend(members(path))
    living = _living()
    for name, inside in found.items():
        if name not in living and (all or not inside):
            Group(f"{state.instance()}/{name}").remove()
    for path in list(cgroup_directories()):
        if path.endswith(f"/{state.instance()}") and not any(os.path.isdir(f"{path}/{it}") for it in os.listdir(path)):
            linux.rmdir(path)


def _reset_network() -> None:
    plan = f"{state.data_root()}/networks/bridge.json"
    planned = list(state.read_json(plan).get("containers", {})) if os.path.exists(plan) else []
    members = sorted({container for it in networks.everything() for container in it.members})
    there = [*planned, *members, *links(host=False), *firewall(host=False)]
    living = _living()
    if there and not living:
        network.reset()
    for container in planned if living else ():
        if container not in living:
            place = f"{state.data_root()}/containers/{container}"
            network.Bridge.recall({"network": "bridge", "container": container, "place": place}).release()
    for container in members if living else ():
        if container not in living:
            place = f"{state.data_root()}/containers/{container}"
            network.Join.recall({"container": container, "place": place}).release()


def _reset_files(all: bool) -> None:
    data, runtime = state.data_root(), state.exec_root()
    found = [*paths(runtime, images=True), *paths(data, images=True)]
    living = _living()
    for path in found:
        container, kept = _container_in(path), os.path.exists(f"{path}/container.json")
        if container and container not in living and (all or not kept):
            upper.remove(path)
            shutil.rmtree(path, ignore_errors=True)
        name, writer = state.attempt(os.path.basename(path))
        if name and not state.start_time(writer):  # it was killed between the two steps
            os.unlink(path)
    if os.path.isdir(f"{data}/images"):
        Store().collect()
