"""Who the command runs as, by the names of its own root.

The host's name service must not be asked: its users are others. Nor may libc look the name up after the root has
changed: it would load a library of the image into a process that is still root. So /etc/passwd and /etc/group are
read here as the text files they are. passwd(5), group(5)
"""

from __future__ import annotations

import os
import stat

from minicontainer import linux
from minicontainer.container.part import Host, Inside, Part
from minicontainer.errors import UsageError

MAX_DATABASE = 4 << 20  # bytes of /etc/passwd that are read; the image wrote it


class User(Part):
    """Run as `user`: `name`, `uid`, `name:group`, `uid:gid`, as Docker's -u takes it.

    A name takes its group and its supplementary groups from the root's /etc/group, a bare uid that /etc/passwd does
    not list gets group 0. HOME is the user's own unless the environment has one.
    """

    def __init__(self, user: str) -> None:
        self.user = user
        name, _, group = user.partition(":")
        if not name or group.startswith(":") or (":" in user and not group):
            raise UsageError(f"{user!r} is no user", hint="write NAME, UID, NAME:GROUP or UID:GID")

    def seal(self, inside: Inside) -> None:
        uid, gid, groups, home = resolve(self.user)
        inside.env.setdefault("HOME", home)
        linux.setgroups(groups)
        linux.setresgid(gid)
        linux.setresuid(uid)

    def second(self, host: Host) -> Part:
        return self


def resolve(user: str) -> tuple[int, int, list[int], str]:
    """(uid, gid, supplementary gids, home) of `user`, by the databases of the root we are in."""
    name, _, group = user.partition(":")
    entry = next((fields for fields in _database("/etc/passwd", 7) if fields[0] == name), None)
    if entry is None and name.isdecimal():
        entry = next((fields for fields in _database("/etc/passwd", 7) if fields[2] == name), None)
        if entry is None:
            entry = ["", "", name, "0", "", "/", ""]
    if entry is None:
        raise UsageError(f"the container's /etc/passwd has no user {name!r}", hint="give a number, or add the user")
    uid, gid, home = int(entry[2]), int(entry[3]), entry[5] or "/"
    if group:
        return uid, _group(group), [], home
    groups = [int(fields[2]) for fields in _database("/etc/group", 4) if entry[0] and entry[0] in fields[3].split(",")]
    return uid, gid, groups, home


def _group(group: str) -> int:
    for fields in _database("/etc/group", 4):
        if fields[0] == group:
            return int(fields[2])
    if group.isdecimal():
        return int(group)
    raise UsageError(f"the container's /etc/group has no group {group!r}", hint="give a number, or add the group")


def _database(path: str, width: int) -> list[list[str]]:
    """The lines of a colon-separated file that have `width` fields with a number in the third; none if it is none."""
    try:
        # not a fifo that would never answer: the image decides what lies here
        fd = linux.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        return []
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return []
        text = os.read(fd, MAX_DATABASE).decode(errors="surrogateescape")
    finally:
        os.close(fd)
    lines = [line.split(":") for line in text.splitlines()]
    numbers = (2, 3) if width == 7 else (2,)
    return [fields for fields in lines if len(fields) == width and all(fields[n].isdecimal() for n in numbers)]
