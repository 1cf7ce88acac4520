"""Which users a user namespace has: its two maps, written by whoever may.

A line says that `size` ids from `containerID` on are those from `hostID` on outside. Root writes what it likes.
Somebody who is not root may map one id: their own, and a group only once the namespace has given up setgroups(2), or
they could leave a group that keeps them out of something. For more there are newuidmap and newgidmap, programs with
root's rights that look up in /etc/subuid and /etc/subgid what this user was given. user_namespaces(7), newuidmap(1)
"""

from __future__ import annotations

import os

from minicontainer import linux
from minicontainer.errors import HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Lines = list[tuple[int, ...]]

_CAP_SETGID, _CAP_SETUID, _CAP_SYS_ADMIN = 6, 7, 21
_ALL_IDS = ["0", "0", "4294967295"]


def write(pid: int, uids: Lines, gids: Lines) -> None:
    """Write both maps of the user namespace that the process has made. Raises HostError, KernelError."""
    held = linux.capget()[0]
    if held >> _CAP_SETUID & 1 or _alone(uids, os.geteuid()):
        linux.write(f"/proc/{pid}/uid_map", as_lines(uids))
    else:
        _by_tool("newuidmap", pid, uids)
    if held >> _CAP_SETGID & 1:
        linux.write(f"/proc/{pid}/gid_map", as_lines(gids))
    elif _alone(gids, os.getegid()):
        linux.write(f"/proc/{pid}/setgroups", "deny")
        linux.write(f"/proc/{pid}/gid_map", as_lines(gids))
    else:
        _by_tool("newgidmap", pid, gids)


def made(uids: Lines, gids: Lines) -> int:
    """A descriptor of a user namespace with these maps and nobody in it: what an idmapped mount goes by."""
    waiting, end = os.pipe2(os.O_CLOEXEC)
    pid, pidfd = linux.clone3(linux.CLONE_NEWUSER)
    if pid == 0:
        os.close(end)
        os.read(waiting, 1)  # until we are done with it, or dead
        os._exit(0)
    try:
        write(pid, uids, gids)
        return linux.open(f"/proc/{pid}/ns/user", os.O_RDONLY)
    finally:
        for fd in (waiting, end, pidfd):
            os.close(fd)
        os.waitid(os.P_PID, pid, os.WEXITED)


def as_lines(ranges: Lines) -> str:
    """As the kernel reads them."""
    return "".join(f"{inside} {outside} {count}\n" for inside, outside, count in ranges)


def ranges(section: dict[str, Any], name: str) -> Lines:
    """`uidMappings` or `gidMappings` of a section of config.json."""
    return [(line["containerID"], line["hostID"], line["size"]) for line in section.get(name) or ()]


def has(ranges: Lines, number: int) -> bool:
    """Whether there is such an id inside."""
    return any(inside <= number < inside + count for inside, _, count in ranges)


def _alone(ranges: Lines, own: int) -> bool:
    return len(ranges) == 1 and ranges[0][1:] == (own, 1)


def _by_tool(tool: str, pid: int, ranges: Lines) -> None:
    import subprocess

    words = [tool, str(pid), *(str(number) for line in ranges for number in line)]
    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    except FileNotFoundError:
        raise HostError(
            f"user {os.geteuid()} may map no other user than itself: it takes {tool}, which is not there",
            hint="apt-get install uidmap, or map the own user alone, as `spec --rootless` does",
        ) from None
    if done.returncode:
        database = "/etc/subuid" if tool == "newuidmap" else "/etc/subgid"
        raise HostError(
            f"{' '.join(words)}: {done.stderr.strip() or f'exit status {done.returncode}'}",
            hint=f"{database} says which ids a user may map, subuid(5)",
        )


def restricted() -> bool:
    """Whether we are somebody who must expect to be refused: no root, or root of a user namespace only."""
    if os.geteuid():
        return True
    with open("/proc/self/uid_map") as file:
        return file.read().split() != _ALL_IDS


def may_mount() -> bool:
    """Whether we may make a container without a user namespace."""
    return bool(linux.capget()[0] >> _CAP_SYS_ADMIN & 1)


def groups_denied() -> bool:
    """Whether this user namespace has given up setgroups(2)."""
    with open("/proc/self/setgroups") as file:
        return file.read().startswith("deny")
