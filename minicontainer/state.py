"""Where things are on disk, and how a file of ours changes: state is files that a reader can open.

    data root   /var/lib/minicontainer    images/ layers/ containers/ volumes/ networks/
    exec root   /run/minicontainer        <container id>/…: gone after a reboot

`MINICONTAINER_DATA_ROOT` and `MINICONTAINER_EXEC_ROOT` move them. Two different data roots are two *instances*: they
share the machine and see nothing of each other, because every name that the kernel sees (cgroup, link, table) begins
with the instance's own.
"""

from __future__ import annotations

import binascii
import fcntl
import os

from minicontainer.lean import contextmanager, dumps, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

DEFAULT_DATA_ROOT = "/var/lib/minicontainer"
DEFAULT_EXEC_ROOT = "/run/minicontainer"


def data_root() -> str:
    """The directory of what outlives a reboot: images, layers, containers, networks."""
    return os.path.abspath(os.environ.get("MINICONTAINER_DATA_ROOT") or DEFAULT_DATA_ROOT)


def exec_root() -> str:
    """The directory of what a reboot ends: running containers."""
    default = DEFAULT_EXEC_ROOT if instance() == "minicontainer" else f"/run/{instance()}"
    return os.path.abspath(os.environ.get("MINICONTAINER_EXEC_ROOT") or default)


def instance() -> str:
    """The name of this instance: `minicontainer`, or `minicontainer-1a2b3c4d` for a data root of its own."""
    root = data_root()
    return "minicontainer" if root == DEFAULT_DATA_ROOT else f"minicontainer-{tag()}"


def tag() -> str:
    """Eight hex digits for the instance, for names that must be short (a link's has 15 characters at most)."""
    return f"{binascii.crc32(os.fsencode(data_root())):08x}"


def new_id() -> str:
    """A container id as Docker's: 64 hex digits, the first 12 of which people use."""
    return os.urandom(32).hex()


def start_time(pid: int) -> int:
    """When the process began, in clock ticks after boot; 0 if it is none any more, or a zombie.

    Together with the pid it names one process only. proc_pid_stat(5)
    """
    try:
        fields = read_file(f"/proc/{pid}/stat").rpartition(")")[2].split()
        return 0 if fields[0] in ("Z", "X") else int(fields[19])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def boot() -> str:
    """Which start of this machine it is: a pid means nothing after the next one. random(4)"""
    return read_file("/proc/sys/kernel/random/boot_id").strip()


def read_file(path: str) -> str:
    """The whole of a kernel file. Leaner than `open`, which asks four questions more: they are read often."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = b""
        while piece := os.read(fd, 65536):
            text += piece
    finally:
        os.close(fd)
    return text.decode(errors="surrogateescape")


def read_json(path: str) -> Any:
    """The value in `path`. Raises FileNotFoundError, and ValueError when it is not JSON."""
    with open(path, "rb") as file:
        return loads(file.read())


def write_json(path: str, value: Any, *, alone: bool = False) -> None:
    """Replace `path` by this value, as `write_file` does."""
    write_file(path, (dumps(value) + "\n").encode(), alone=alone)


def write_file(path: str, content: bytes, *, alone: bool = False) -> None:
    """Replace `path` in one step: a reader, or a machine that loses power, sees the old content or the new one.

    `alone`: the caller holds the lock under which everybody writes this file. What a killed one has left of its
    attempt is nobody's then, and goes.
    """
    directory, name = os.path.split(path)
    os.makedirs(directory, exist_ok=True)
    for other in os.listdir(directory) if alone else ():
        if attempt(other)[0] == name:
            os.unlink(f"{directory}/{other}")
    temporary = f"{path}.{os.getpid()}.{os.urandom(4).hex()}"
    try:
        with open(temporary, "wb") as file:
            file.write(content)
        os.rename(temporary, path)
    except BaseException:
        try:
            os.unlink(temporary)
        except FileNotFoundError:
            pass
        raise


def attempt(name: str) -> tuple[str, int]:
    """The file that a temporary one of `write_file` is to replace, and the pid of its writer; ("", 0) for another."""
    parts = name.rsplit(".", 2)
    if len(parts) == 3 and parts[1].isdigit() and len(parts[2]) == 8 and parts[2].isalnum():
        return parts[0], int(parts[1])
    return "", 0


@contextmanager
def locked(path: str, *, shared: bool = False) -> Iterator[None]:
    """Hold the lock file `path` (made if need be); it is freed by the kernel when the process dies. flock(2)"""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
