"""What is remembered of a container: one directory, `<root>/<id>`.

    state.json    its process, its bundle, what its parts took from the host
    config.json   the bundle's, as it was at create
    start.sock    there as long as it waits for `start`

There is no daemon that knows more: a status is worked out from these and from the kernel. A pid alone would mean
another process one day; with its start time it does not.
"""

from __future__ import annotations

import os

from minicontainer import state
from minicontainer.errors import ConflictError, NotFoundError, UsageError
from minicontainer.lean import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NAME = "minicontainer-runtime"
OCI_VERSION = "1.2.0"
SOCKET = "start.sock"
_IN_A_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+-.")


def default_root() -> str:
    """Where containers are remembered when nobody says: below /run, or in the user's own part of it.

    Raises UsageError for somebody who is not root and has none.
    """
    from minicontainer.runtime import mapping

    if not mapping.restricted():
        return f"/run/{NAME}"
    if own := os.environ.get("XDG_RUNTIME_DIR"):
        return f"{own}/{NAME}"
    if os.geteuid():
        raise UsageError(
            "a user who is not root has no place for what is remembered of containers: XDG_RUNTIME_DIR is not set",
            hint="--root names another",
        )
    return f"/run/{NAME}"


class State:
    """One container's directory."""

    def __init__(self, root: str, id: str) -> None:
        if not id or id in (".", "..") or len(id) > 1024 or not _IN_A_NAME.issuperset(id):
            strange = next((letter for letter in id if letter not in _IN_A_NAME), "")
            why = f": invalid character {strange!r} in container ID" if strange else ""
            raise UsageError(f"invalid container ID format: {id!r}{why}", hint="letters, digits and _ + - .")
        self.root, self.id = root, id
        self.directory = f"{root}/{id}"
        self.values: dict[str, Any] = {}
        self._config: dict[str, Any] | None = None

    @classmethod
    def make(cls, root: str, id: str) -> State:
        """The directory of a new container. Raises ConflictError when there is one of this id."""
        self = cls(root, id)
        os.makedirs(root, 0o711, exist_ok=True)
        try:
            os.mkdir(self.directory, 0o711)
        except FileExistsError:
            raise ConflictError(f"container with id {id} exists: container with given ID already exists") from None
        return self

    @classmethod
    def open(cls, root: str, id: str) -> State:
        """The container of this id. Raises NotFoundError, and ConflictError when its state cannot be read."""
        self = cls(root, id)
        try:
            self.values = state.read_json(f"{self.directory}/state.json")
            if not isinstance(self.values.get("pid"), int) or not isinstance(self.values.get("parts"), list):
                raise ValueError("no such state was written by this program")
        except (FileNotFoundError, NotADirectoryError):
            raise NotFoundError(f"container {id!r} does not exist: container does not exist") from None
        except (ValueError, AttributeError) as error:
            raise ConflictError(
                f"the state of container {id} is damaged: {error}", hint="delete --force removes it"
            ) from None
        return self

    def save(self) -> None:
        state.write_json(f"{self.directory}/state.json", self.values)

    @property
    def pid(self) -> int:
        pid: int = self.values["pid"]
        return pid

    @property
    def config(self) -> dict[str, Any]:
        """config.json as it was at create."""
        if self._config is None:
            self._config = state.read_json(f"{self.directory}/config.json")
        return self._config

    def save_config(self, config: dict[str, Any]) -> None:
        """Before its state is saved for the first time: until then nobody takes the directory for a container."""
        with open(f"{self.directory}/config.json", "xb") as file:
            file.write(dumps(config).encode())
        self._config = config

    def alive(self) -> bool:
        """Whether its process runs (a zombie does not, nor one that has nothing left but its number)."""
        running = self.pid > 0 and state.start_time(self.pid) == self.values["start_time"]
        return running and not has_let_go(self.pid, self.values["cgroup"])

    def status(self) -> str:
        """creating, created, running, paused or stopped."""
        if self.values.get("creating"):
            return "creating" if _runs(self.values["creating"]) else "stopped"
        if not self.alive():
            return "stopped"
        if os.path.exists(f"{self.directory}/{SOCKET}"):
            return "created"
        from minicontainer.runtime.groups import frozen

        return "paused" if frozen(self.values["cgroup"]) else "running"

    def describe(self, status: str = "") -> dict[str, Any]:
        """The state as the specification has it; hooks get it on their stdin. runtime-spec, runtime.md, "State" """
        status = status or self.status()
        described = {
            "ociVersion": OCI_VERSION,
            "id": self.id,
            "pid": 0 if status == "stopped" else self.pid,
            "status": status,
            "bundle": self.values["bundle"],
        }
        if self.values["annotations"]:
            described["annotations"] = self.values["annotations"]
        return described

    def tell(self) -> dict[str, Any]:
        """The state, and what runc says besides."""
        described = self.describe()
        more = {name: self.values[name] for name in ("rootfs", "created")} | {"owner": _user(self.values["owner"])}
        annotations = {"annotations": described.pop("annotations")} if "annotations" in described else {}
        return described | more | annotations

    def release(self) -> None:
        """Undo what its parts took from the host, and forget it. The first error is raised at the end."""
        from minicontainer.container import records

        failed: list[Exception] = []
        for entry in reversed(self.values.get("parts", [])):
            try:
                records.recall(entry).release()
            except Exception as error:
                failed.append(error)
        if failed:
            raise failed[0]
        self.forget()

    def forget(self) -> None:
        """Remove the directory, state.json last: until then it can be tried again."""
        try:
            names = os.listdir(self.directory)
            for name in sorted(names, key=lambda name: name == "state.json"):
                os.unlink(f"{self.directory}/{name}")
            os.rmdir(self.directory)
        except FileNotFoundError:
            pass  # somebody else is removing it, too


def _runs(process: dict[str, int]) -> bool:
    return 0 < process["start_time"] == state.start_time(process["pid"])


_EXITING = 0x4  # PF_EXITING in the kernel's sched.h


def has_let_go(pid: int, directories: dict[str, str]) -> bool:
    """Whether a process has ended, but for its number: its files, its namespaces and its groups are given back.

    The first process of a PID namespace stays in the table until all others of the namespace are buried, and one that
    joined from outside is buried by its own parent: an engine that takes its time. pid_namespaces(7), `flags` in
    proc_pid_stat(5)
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            flags = int(file.read().rpartition(b")")[2].split()[6])
    except (FileNotFoundError, ProcessLookupError):
        return True
    if not flags & _EXITING or not directories:
        return False
    from minicontainer.runtime.groups import processes

    return pid not in processes(directories, below=True)  # its groups are what it lets go of last


def _user(uid: int) -> str:
    if uid == 0:
        return "root"
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"#{uid}"


def listed(root: str) -> list[str]:
    """The ids below a root."""
    try:
        return sorted(os.listdir(root))
    except FileNotFoundError:
        return []
