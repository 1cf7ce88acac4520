"""Containers by name: what `ps`, `exec` and `rm` find.

    <data root>/containers/<id>/container.json   what it was started with
    <data root>/containers/<id>/ended.json       how it ended, once it has

beside the container's own `upper/` and `log`. A container of `run --rm` has its entry only while it runs. Whether it
runs is not written down anywhere: the process in its record (chapter 01) is alive or it is not.
"""

from __future__ import annotations

import os
import time

from minicontainer import state
from minicontainer.container import Host, Part, records
from minicontainer.errors import ConflictError, NotFoundError, UsageError
from minicontainer.overlayfs import upper

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FILES = ("container.json", "ended.json", "log")


class Entry(Part):
    """The part that gives a container its name and its line in `ps`. First in the list: the last to be released."""

    def __init__(self, name: str, image: str, argv: list[str], layers: list[str], *, keep: bool) -> None:
        if name and not name.replace("_", "").replace("-", "").replace(".", "").isalnum():
            raise UsageError(f"{name!r} cannot be a container's name", hint="letters, digits, _ . and -")
        self.name, self.image, self.argv, self.layers, self.keep = name, image, argv, layers, keep
        self.id = ""

    def record(self, host: Host) -> dict[str, Any]:
        return {"id": host.id, "keep": self.keep}

    def prepare(self, host: Host) -> None:
        with state.locked(f"{state.data_root()}/containers.lock"):
            for other in everything():
                if self.name and other["name"] == self.name:
                    raise ConflictError(
                        f"the name {self.name} is taken by container {other['id'][:12]}",
                        hint=f"`minicontainer rm {self.name}` frees it",
                    )
            self.id = host.id
            entry: dict[str, Any] = {"id": host.id, "name": host.name, "image": self.image, "argv": self.argv}
            entry |= {"layers": self.layers, "created": time.time()}
            state.write_json(f"{directory(host.id)}/container.json", entry)

    def release(self) -> None:
        if self.id and not self.keep:
            remove_files(self.id)


def directory(container: str) -> str:
    """A container's directory below the data root."""
    return f"{state.data_root()}/containers/{container}"


def ended(container: str, code: int) -> None:
    """Note the exit status of a container that is kept."""
    records.write_end(container, code)


def everything() -> list[dict[str, Any]]:
    """All entries, the oldest first, each with `status` ("running", or "exited" with `exit_code`)."""
    found = []
    try:
        names = os.listdir(f"{state.data_root()}/containers")
    except FileNotFoundError:
        return []
    for name in names:
        entry = _read(f"{directory(name)}/container.json")
        if entry is None:
            continue
        record = records.read(name)
        end = _read(f"{directory(name)}/ended.json")
        if record is not None and records.is_alive(record.get("process")):
            entry |= {"status": "running", "process": record["process"], "parts": record["parts"]}
        else:
            entry |= {"status": "exited", "exit_code": end["exit_code"] if end else None}
        found.append(entry)
    return sorted(found, key=lambda entry: float(entry["created"]))


def find(name: str) -> dict[str, Any]:
    """The container with this name, or whose id begins so. Raises NotFoundError and ConflictError."""
    entries = everything()
    for entry in entries:
        if name in (entry["name"], entry["id"]):
            return entry
    matches = [entry for entry in entries if name and entry["id"].startswith(name)]
    if len(matches) > 1:
        raise ConflictError(f"{len(matches)} containers have an id that begins with {name}", hint="give more of it")
    if not matches:
        raise NotFoundError(f"there is no container {name}", hint="`minicontainer ps -a` lists them")
    return matches[0]


def running(name: str) -> dict[str, Any]:
    """The same, for one that must run. Raises ConflictError when it does not."""
    entry = find(name)
    if entry["status"] != "running":
        raise ConflictError(f"container {name} does not run", hint="`minicontainer ps` lists those that do")
    return entry


def remove_files(container: str) -> None:
    """Remove all that a container has below the data root; what is gone is no error."""
    for name in FILES:
        try:
            os.unlink(f"{directory(container)}/{name}")
        except FileNotFoundError:
            continue
    upper.remove(directory(container))


def _read(path: str) -> dict[str, Any] | None:
    try:
        value: dict[str, Any] = state.read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return value
