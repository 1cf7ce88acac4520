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

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

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

    def record(self, host: Host) -> dict[str, Any]:
        return {"user": self.user}

    def seal(self, inside: Inside) -> None:
        uid, gid, groups, home = resolve(self.user)
        inside.env.setdefault("HOME", home)
        give_streams(uid)
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
    uid, gid, home = _number(entry[2]), _number(entry[3]), entry[5] or "/"
    if group:
        return uid, _group(group), [], home
    groups = [_number(line[2]) for line in _database("/etc/group", 4) if entry[0] and entry[0] in line[3].split(",")]
    return uid, gid, groups, home


def _number(text: str) -> int:
    """A uid or gid. The one that is -1 in 32 bits means "leave it as it is" to setresuid(2): as root, that is."""
    number = int(text)
    if number >= 0xFFFFFFFF:
        raise UsageError(f"{text} is no user or group", hint="they are numbers below 4294967295")
    return number


def _group(group: str) -> int:
    for fields in _database("/etc/group", 4):
        if fields[0] == group:
            return _number(fields[2])
    if group.isdecimal():
        return _number(group)
    raise UsageError(f"the container's /etc/group has no group {group!r}", hint="give a number, or add the group")


def give_streams(uid: int) -> None:
    """Make `uid` the owner of those standard streams that are pipes, or a terminal of the container's own.

    Or it could write to them but not open them anew, as `echo > /dev/stdout` does. The host's terminals and files,
    named pipes among them, stay whose they are: what may be given away lies on a filesystem that no directory shows,
    or that only this container has.
    """
    ours = _devices()
    for fd in (0, 1, 2):
        if os.fstat(fd).st_dev in ours:
            try:
                linux.chown(fd, uid, -1)
            except PermissionError:
                pass  # in a user namespace, where the pipe is of one that is not mapped


def _devices() -> set[int]:
    """The kernel's pipes, and the container's own terminals."""
    ends = os.pipe()
    found = {os.fstat(ends[0]).st_dev}
    for end in ends:
        os.close(end)
    try:
        if os.path.ismount("/dev/pts"):
            found.add(os.stat("/dev/pts/ptmx").st_dev)
    except OSError:
        pass  # a root without terminals
    return found


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
