"""Control groups as directories: where this host has its trees, who is in a group, how it stands still and ends.

Apart from the part that makes them (`cgroup`), because every verb asks, and most have to ask for nothing else.
"""

from __future__ import annotations

import _thread
import errno
import os
import time

from minicontainer.errors import ConflictError, HostError, TimeoutExpired

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _thread import LockType

_OPTIONS = frozenset(("rw", "ro", "noprefix", "clone_children", "xattr", "all", "none", "nosuid", "nodev", "noexec"))


class Tree:
    """One mounted hierarchy and the container's directory in it. The v2 tree has no `controllers` of its own.

    Not `joined`: the container has none here, and is where its caller is. Not `whole`: it is mounted from somewhere
    below its root, and `own` need not be the path of what is there.
    """

    def __init__(self, top: str, controllers: tuple[str, ...], own: str, *, whole: bool = True) -> None:
        self.top, self.controllers, self.own, self.whole = top, controllers, own, whole
        self.name = os.path.basename(top)
        self.directory = ""
        self.joined = True


def trees() -> list[Tree]:
    """The hierarchies mounted here, with this process's own path in each. cgroups(7)"""
    own: dict[tuple[str, ...], str] = {}
    with open("/proc/self/cgroup") as file:
        for line in file:
            _, controllers, path = line.rstrip("\n").split(":", 2)
            own[tuple(controllers.split(",")) if controllers else ()] = path
    found: dict[tuple[str, ...], Tree] = {}
    with open("/proc/self/mountinfo") as file:
        for line in file:
            before, _, after = line.partition(" - ")
            fstype, _, options = after.rstrip("\n").split(" ", 2)
            if fstype not in ("cgroup", "cgroup2"):
                continue
            words = set(options.split(",")) - _OPTIONS
            names: tuple[str, ...] = ()
            if fstype == "cgroup":
                names = next((key for key in own if key and words >= set(key)), ())
                if not names or (names[0].startswith("name=") and names != ("name=systemd",)):
                    continue  # a hierarchy without controllers is its maker's; systemd's shows whose a process is
            if names not in found:
                root, top = before.split(" ")[3:5]
                found[names] = Tree(top, names, own.get(names, "/"), whole=root == "/")
    return list(found.values())


def check_entry(directory: str) -> None:
    """Raise HostError where one who is not root cannot have a process born in a v2 group: whose way there leads through
    a group that is somebody else's. cgroups(7), "Cgroup delegation containment"."""
    if not os.geteuid():
        return
    tree = next(tree for tree in trees() if not tree.controllers)
    if "/.." in tree.own:  # a group outside of what is mounted here has no path to look at
        return
    shared = os.path.commonpath([f"{tree.top}{tree.own}", directory])
    if not os.access(f"{shared}/cgroup.procs", os.W_OK, effective_ids=True):
        raise HostError(
            f"the cgroup {directory} cannot be entered from {tree.top}{tree.own}: {shared} is not ours",
            hint="who is not root has to be in the group that was given to them: systemd-run --user --scope",
        )


_moving: list[LockType] = []
_seen: list[Tree] = []


def expect_moves() -> None:
    """Have the kernel get ready for moves between groups, while we do something else: `moves_expected` waits for it.

    Who moves a process on v1 waits until no processor is amid a fork: an RCU grace period, some ten milliseconds, once
    for all moves that follow each other closely. So a thread moves this process, first of all, to where it is.
    """
    if _moving:
        return
    _seen[:] = trees()
    tree = next((tree for tree in _seen if tree.controllers and tree.whole), None)
    if tree is None:  # on v2 a process is born in its group
        return
    _moving.append(_thread.allocate_lock())
    _moving[0].acquire()
    _thread.start_new_thread(_move, (f"{tree.top}{tree.own}/cgroup.procs", _moving[0]))


def trees_seen() -> list[Tree]:
    """The trees, without a second look if `expect_moves` has just had one."""
    found = list(_seen) or trees()
    _seen.clear()
    return found


def moves_expected() -> None:
    """Wait until the thread is gone: what comes next is a clone, which is for processes with a single one."""
    if _moving:
        _moving.pop().acquire()


def _move(path: str, done: LockType) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, b"0")
        finally:
            os.close(fd)
    except OSError:
        pass  # not a tree that we may write to: those who will have to will say so
    finally:
        done.release()


def by_controller(found: list[Tree]) -> dict[str, str]:
    """controller → directory; the v2 tree is called `unified`."""
    directories = {}
    for tree in found:
        for controller in tree.controllers or ("unified",):
            directories[controller] = tree.directory
    return directories


def processes(directories: dict[str, str], *, below: bool = False) -> list[int]:
    """The processes in the container's group; `below`: also in groups inside of it."""
    found: set[int] = set()
    for directory in dict.fromkeys(directories.values()):
        if below and _has_inner(directory):
            for inner, _, _ in os.walk(directory):
                found.update(members(inner))
        else:
            found.update(members(directory))
    return sorted(found)


def _has_inner(directory: str) -> bool:
    """Whether there are groups inside, without a look at its files: they have no links, and a directory has its `..`"""
    try:
        return os.stat(directory).st_nlink > 2
    except FileNotFoundError:
        return False


def frozen(directories: dict[str, str]) -> bool:
    """Whether the group stands still, or has been told to."""
    for controller, file in (("freezer", "freezer.state"), ("unified", "cgroup.events")):
        if controller in directories:
            try:
                content = read(f"{directories[controller]}/{file}")
            except FileNotFoundError:
                continue
            return "THAWED" not in content if controller == "freezer" else "frozen 1" in content
    return False


def freeze(directories: dict[str, str], on: bool, timeout: float = 10) -> None:
    """Have the group stand still, or go on. Raises TimeoutExpired."""
    from minicontainer import linux

    if "freezer" in directories:
        wanted, file = "FROZEN" if on else "THAWED", f"{directories['freezer']}/freezer.state"
        linux.write(file, wanted)
    elif "unified" not in directories:
        raise ConflictError("the container stands in no cgroup of its own, and only those can be frozen")
    else:
        wanted, file = f"frozen {int(on)}", f"{directories['unified']}/cgroup.events"
        linux.write(f"{directories['unified']}/cgroup.freeze", str(int(on)))
    deadline = time.monotonic() + timeout
    while wanted not in read(file):
        if time.monotonic() > deadline:
            raise TimeoutExpired(f"{file} did not become {wanted} in {timeout:g} s")
        time.sleep(0.001)


def thaw(directories: dict[str, str]) -> None:
    """Let the group go on if it is frozen: what is frozen on v1 does not even die."""
    from minicontainer import linux

    for controller, file, text in (("freezer", "freezer.state", "THAWED"), ("unified", "cgroup.freeze", "0")):
        if controller in directories and os.path.exists(path := f"{directories[controller]}/{file}"):
            linux.write(path, text)


def of_process(pid: int) -> dict[str, str]:
    """v1's groups that a process is in now: somebody may have moved it. Empty when it is gone.

    Not v2's: what is frozen there dies all the same, and the group may be one that we have no business with.
    """
    try:
        lines = read(f"/proc/{pid}/cgroup").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    found = {
        tuple(names.split(",")) if names else (): path for _, names, path in (line.split(":", 2) for line in lines)
    }
    return {
        controller: tree.top + found[tree.controllers]
        for tree in trees()
        if tree.controllers and tree.controllers in found
        for controller in tree.controllers
    }


def kill(directories: dict[str, str], timeout: float = 10) -> None:
    """SIGKILL all that is in the group and in groups inside of it, and wait until it is gone."""
    from minicontainer import linux

    deadline, pause = time.monotonic() + timeout, 0.0005
    while pids := processes(directories, below=True):
        unified = directories.get("unified", "")
        if os.path.exists(f"{unified}/cgroup.kill"):
            linux.write(f"{unified}/cgroup.kill", "1")
        for pid in pids:
            try:
                linux.kill(pid, 9)
            except ProcessLookupError:
                continue
        thaw(directories)
        if time.monotonic() > deadline:
            raise TimeoutExpired(f"processes {pids} of the container did not die in {timeout:g} s")
        time.sleep(pause)
        pause = min(pause * 2, 0.05)


def make(directory: str) -> None:
    """Make a directory, and those above it that are missing. Raises FileExistsError, as mkdir(2) does."""
    from minicontainer import linux

    try:
        linux.mkdir(directory, 0o755)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(directory), exist_ok=True)
        linux.mkdir(directory, 0o755)


def remove(directory: str) -> None:
    """Remove a directory and those inside of it, as soon as the kernel lets it go."""
    from minicontainer import linux

    deadline = time.monotonic() + 10
    while not linux.rmdir_unless_used(directory):
        if time.monotonic() > deadline:
            raise TimeoutExpired(f"{directory} cannot be removed: somebody is in it")
        for name in os.listdir(directory):
            if os.path.isdir(f"{directory}/{name}"):
                remove(f"{directory}/{name}")
        time.sleep(0.0005)


def members(directory: str) -> list[int]:
    """The processes in one directory's group; none where there is no such group."""
    try:
        return [pid for word in read(f"{directory}/cgroup.procs").split() if (pid := int(word))]
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP):
            return []
        raise


def read(path: str) -> str:
    """What a file of a group says."""
    with open(path, "rb", buffering=0) as file:  # half of what a text file costs, and there are many
        return file.readall().decode()
