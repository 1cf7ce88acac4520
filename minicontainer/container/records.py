"""What a running container has taken from the host, written down before it is taken.

    <exec root>/<container id>/state.json
    <exec root>/<container id>/process.json

names the process that answers for the container (its owner, or its keeper when it is detached) and what each part
needs in order to be released; beside it, once there is one, stands the container's own first process. If whoever
answers for it is killed at any moment, any other process of this instance can read the record and undo everything:
the spawner when its program dies, the next start, or `minicontainer reset`.
"""

from __future__ import annotations

import os
import select
import time

from minicontainer import state
from minicontainer.container import cloning
from minicontainer.lean import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import AbstractContextManager
    from typing import Any

    from minicontainer.container.part import Part


def directory(container: str) -> str:
    """The container's directory below the exec root."""
    return f"{state.exec_root()}/{container}"


def path(container: str) -> str:
    """The container's record."""
    return f"{directory(container)}/state.json"


def describe(part: Part, record: dict[str, Any]) -> dict[str, Any]:
    """How one part's record stands in the file."""
    return {"part": f"{type(part).__module__}:{type(part).__qualname__}", "record": record}


def recall(entry: dict[str, Any]) -> Part:
    """A part again from its entry. Raises ValueError for what is no entry, or no part of this package."""
    try:
        module, _, name = entry["part"].partition(":")
        package = __name__.split(".")[0]
        if module.split(".")[0] != package:
            raise ValueError(f"{entry['part']} is not part of {package}")
        found = __import__(module, fromlist=[name])
        part: Part = getattr(found, name).recall(entry["record"])
    except (AttributeError, ImportError, KeyError, TypeError) as error:
        raise ValueError(f"{entry!r} names no part: {type(error).__name__}: {error}") from error
    return part


def write(container: str, record: dict[str, Any]) -> None:
    """Write down, or replace, a container's record."""
    with _mending(shared=True):  # or a directory that has no record yet would be taken for a dead one's
        state.write_json(path(container), record)


def write_process(container: str, pid: int) -> None:
    """Write down the container's first process, once it exists."""
    process = {"pid": pid, "start_time": state.start_time(pid), "boot": state.boot()}
    state.write_json(f"{directory(container)}/process.json", process)


def read(container: str) -> dict[str, Any] | None:
    """A container's record, with its "process" if it has got so far; None when there is none (any more).

    Raises ValueError for what is no record.
    """
    record = _read(path(container))
    if record is not None:
        if not isinstance(record.get("parts"), list) or not _is_process(record.get("owner")):
            raise ValueError(f"{path(container)} is no container's record")
        record["process"] = process = _read(f"{directory(container)}/process.json")
        if process is not None and not _is_process(process):
            raise ValueError(f"{directory(container)}/process.json names no process")
    return record


def _is_process(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(value.get(key), int) for key in ("pid", "start_time"))


def _read(path: str) -> dict[str, Any] | None:
    try:
        value = state.read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not isinstance(value, dict):
        raise ValueError(f"{path} is no JSON object")
    return value


def remove(container: str) -> None:
    """Remove the record and its directory, if they are still there."""
    try:
        for name in os.listdir(directory(container)):
            os.unlink(f"{directory(container)}/{name}")
        os.rmdir(directory(container))
    except FileNotFoundError:
        pass  # somebody else is removing it, too


def all_containers() -> list[str]:
    """The ids of all containers of this instance that have a record."""
    return [name for name in _directories() if os.path.exists(path(name))]


def _directories() -> list[str]:
    try:
        names = os.listdir(state.exec_root())
    except FileNotFoundError:
        return []
    return sorted(name for name in names if len(name) == 64)  # an id: there are locks and other things, too


def _mending(shared: bool = False) -> AbstractContextManager[None]:
    return state.locked(f"{state.exec_root()}/mend.lock", shared=shared)


def is_alive(process: dict[str, int] | None) -> bool:
    """Whether the very process {"pid", "start_time"} still runs."""
    return bool(process) and process is not None and 0 < process["start_time"] == state.start_time(process["pid"])


def this_process() -> dict[str, int]:
    """This process, in the form that a record has it."""
    return {"pid": os.getpid(), "start_time": state.start_time(os.getpid())}


def release(container: str, record: dict[str, Any]) -> None:
    """Undo all that the record names, the last part first, and remove it. The first error is raised at the end."""
    errors = []
    for entry in reversed(record["parts"]):
        try:
            recall(entry).release()
        except Exception as error:
            errors.append(error)
    if errors:
        raise errors[0]
    remove(container)


def mend(containers: Iterable[str] | None = None) -> list[str]:
    """Release every container (of those named, or of all) that nobody answers for any more; their ids.

    A container of which the owner is dead and the process is alive is killed first: it was not detached, so it was
    to end with its owner. What cannot be mended (a record that is no record, say) keeps none of the others from
    being so: its record stays, and the first such error is raised at the end.
    """
    mended, errors = [], []
    for container in list(_directories() if containers is None else containers):
        with _mending():
            try:
                record = read(container)
                if record is None:  # killed before it had one, or when it had no more
                    remove(container)
                    continue
                if is_alive(record["owner"]):
                    continue
                _end(record["process"])
                release(container, record)
            except Exception as error:
                error.add_note(f"while mending what container {container} left")
                errors.append(error)
            else:
                mended.append(container)
    if errors:
        raise errors[0]
    return mended


def _end(process: dict[str, Any] | None) -> None:
    """Kill a process, if it is still the one on record, and wait for its end: until then its mounts are in use.

    Then what it has left in its session: nobody else gets the number of a session as long as somebody is in it.
    """
    if process is None or state.start_time(process["pid"]) not in (0, process["start_time"]):
        return  # none was made, or the number is another one's by now
    if is_alive(process):
        try:
            pidfd = os.pidfd_open(process["pid"])
        except ProcessLookupError:
            return
        try:
            if is_alive(process):  # still: from here on the descriptor means it, whatever becomes of the number
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                poll = select.poll()
                poll.register(pidfd, select.POLLIN)
                poll.poll()
        except ProcessLookupError:
            pass
        finally:
            os.close(pidfd)
    if process.get("boot") == state.boot():  # after another start of the machine, the number is anybody's
        cloning.kill_session(process["pid"])


def ended(container: str, code: int) -> None:
    """A keeper's last duty: its container ended with `code`."""
    write_end(container, code)
    record = read(container)
    if record is not None:
        release(container, record)


def write_end(container: str, code: int) -> None:
    """Note how a container ended, if something of it is kept below the data root."""
    kept = f"{state.data_root()}/containers/{container}"
    if os.path.isdir(kept):
        state.write_json(f"{kept}/ended.json", {"exit_code": code, "time": time.time()})
