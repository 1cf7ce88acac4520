"""The checks of lab 02: a root for a program, a way out, mounts that nobody hears of, a /dev, a pivot, and the part.

Whatever a learner's function mounts or pivots, it does in a mount namespace of the check's own, from which nothing
propagates: also an answer that forgets to make one cannot move the host's mounts.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from labs.checks.engine import module_tests
from labs.checks.frame import Lab, NotYet, attempt, expect
from minicontainer import Chroot, Container, Namespaces, PivotRoot, linux
from minicontainer.errors import ContainerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from minicontainer import Part

lab = Lab("02-chroot")

BUSYBOX = "/bin/busybox"
PROGRAMS = (("/bin/ls", "/"), ("/bin/cat", "/bin/cat"), (BUSYBOX, "true"))
NODES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}
SETTINGS = {"shared": linux.MS_SHARED, "private": linux.MS_PRIVATE}


@lab.exercise("a root for a program")
def furnish(answer: Callable[[str, str], object]) -> str:
    """Dynamic programs and a static one are executed, each in the root that was made for it and nothing else."""
    for program, argument in PROGRAMS:
        with _folder() as folder:
            attempt(partial(_called, answer, folder, program), answer)
            said = _execute(folder, program, argument)
            expect(said == "", saw=f"{program} in its new root: {said}", wanted="that it runs, and ends with status 0")
            size = sum(len(names) for _, _, names in os.walk(folder))
            expect(size <= 40, saw=f"{size} files in the root of {program}", wanted="only those that it needs")
    return "in roots of their own run " + ", ".join(program for program, _ in PROGRAMS)


def _called(answer: Callable[..., object], *arguments: str) -> None:
    """What it returns does not matter."""
    answer(*arguments)


def _execute(root: str, program: str, argument: str) -> str:
    """Why the program does not run in this root; nothing if it does."""
    with tempfile.TemporaryFile() as file:
        try:
            status = Container([program, argument], Chroot(root)).run(
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=file, timeout=10
            )
        except ContainerError as error:
            return error.message
        file.seek(0)
        return f"status {status}, {file.read().decode().strip()}" if status else ""


@lab.exercise("the way out")
def escape(answer: Callable[[], object]) -> str:
    """The answer is called in a chroot; then it is looked at whose directory / is."""
    host = _identity("/")
    with _root() as root:

        def ask() -> dict[str, object]:
            linux.chroot(root)
            linux.chdir("/")
            answer()
            return {"root": _identity("/"), "here": _identity(".")}

        seen = attempt(ask, answer, Namespaces("mount")).value
        inner = _identity(root)
        deeper = [_identity(f"{root}/{name}") for name in sorted(os.listdir(root))]
    where = "elsewhere"
    if tuple(seen["root"]) == inner:
        where = "still the root that it was locked in"
    elif tuple(seen["root"]) in deeper:
        where = "a directory inside of the root that it was locked in"
    if tuple(seen["here"]) == host:
        where += ", though the current directory is the host's root"
    expect(tuple(seen["root"]) == host, saw=f"/ is {where}", wanted="a / that is the host's")
    return "its / was a directory of ours, and is the host's now"


@lab.exercise("mounts that nobody hears of")
def own_mounts(answer: Callable[[], object]) -> str:
    """Where / and a mount below it are shared, something is mounted on either side afterwards."""

    def ask() -> dict[str, object]:
        _world("shared")
        linux.mount("tmpfs", "/mnt", "tmpfs")
        linux.mount(None, "/mnt", flags=linux.MS_SHARED)
        for name in ("inside", "outside"):
            os.mkdir(f"/mnt/{name}")
        original = linux.open("/proc/self/ns/mnt", os.O_RDONLY)
        answer()
        same = os.path.samestat(os.fstat(original), os.stat("/proc/self/ns/mnt"))
        theirs = linux.open("/proc/self/ns/mnt", os.O_RDONLY)
        linux.mount("tmpfs", "/mnt/inside", "tmpfs")
        linux.setns(original, linux.CLONE_NEWNS)
        told = os.path.ismount("/mnt/inside")
        shared = {fields[4]: any(it.startswith("shared:") for it in fields[6:]) for fields in _table()}
        linux.mount("tmpfs", "/mnt/outside", "tmpfs")
        linux.setns(theirs, linux.CLONE_NEWNS)
        heard = os.path.ismount("/mnt/outside")
        return {"same": same, "told": told, "heard": heard, "shared": shared["/"] and shared["/mnt"]}

    seen = attempt(ask, answer, Namespaces("mount")).value
    expect(not seen["same"], saw="the process is in the mount namespace that it came from", wanted="one of its own")
    expect(seen["shared"], saw="the original mounts are no longer shared", wanted="that only the copy is changed")
    expect(
        not seen["told"],
        saw="what was mounted below /mnt afterwards appeared outside as well",
        wanted="that no mount of the copy appears outside, wherever it is",
    )
    expect(
        not seen["heard"],
        saw="what was mounted outside afterwards appeared in the copy",
        wanted="that neither side hears of the other",
    )
    return "a mount namespace of its own, and neither side hears of what the other mounts"


@lab.exercise("a /dev")
def furnish_dev(answer: Callable[[str], object]) -> str:
    """The nodes that it makes are looked at, and what is left on disk when its mount is gone."""
    with _folder() as folder:

        def ask() -> dict[str, object]:
            _world("private")
            os.umask(0o022)
            answer(folder)
            mounts = [fields for fields in _table() if fields[4] == folder]
            nodes = {}
            for name in os.listdir(folder):
                it = os.lstat(f"{folder}/{name}")
                kind = "a device" if stat.S_ISCHR(it.st_mode) else "no device"
                nodes[name] = [kind, [os.major(it.st_rdev), os.minor(it.st_rdev)], oct(stat.S_IMODE(it.st_mode))]
            try:
                os.close(os.open(f"{folder}/null", os.O_WRONLY))
                opened = "can be opened"
            except OSError as error:
                opened = linux.errno_name(error.errno or 0)
            last = mounts[-1] if mounts else []
            kind, options = (last[last.index("-") + 1], last[5].split(",")) if last else ("", [])
            return {"kind": kind, "options": options, "nodes": nodes, "opened": opened}

        seen = attempt(ask, answer, Namespaces("mount")).value
        left = sorted(os.listdir(folder))
    expect(left == [], saw=f"{', '.join(left)} on the disk, where the root is", wanted="nodes in memory only")
    expect(seen["kind"] == "tmpfs", saw=f"{seen['kind'] or 'no mount'} there", wanted="a tmpfs")
    nodes = seen["nodes"]
    missing = sorted(set(NODES) - set(nodes))
    expect(not missing, saw=f"no {', '.join(missing)}", wanted=f"nodes for {', '.join(NODES)}")
    for name, number in NODES.items():
        kind, numbers, mode = nodes[name]
        expect(kind == "a device", saw=f"{name} is no character device", wanted="a character device")
        expect(tuple(numbers) == number, saw=f"{name} is the device {numbers}", wanted=f"{list(number)}")
        expect(mode == "0o666", saw=f"{name} has the mode {mode}", wanted="0o666: everybody may read and write")
    expect(
        seen["opened"] == "can be opened",
        saw=f"null cannot be opened: {seen['opened']}; the mount's options are {','.join(seen['options'])}",
        wanted="a mount on which devices work",
    )
    expect("nosuid" in seen["options"], saw=f"the options {','.join(seen['options'])}", wanted="nosuid among them")
    return "a tmpfs with nosuid, six devices with the right numbers, and nothing on the disk"


@lab.exercise("the pivot")
def pivot(answer: Callable[[str], object]) -> str:
    """The answer is tried where / is shared and where it is private; then its mount table and its way out are seen."""
    with _root() as root:
        host, inner = _identity("/"), _identity(root)
        for setting in SETTINGS:
            os.makedirs(f"{root}/old", exist_ok=True)  # a tidy answer removes it
            try:
                attempted = attempt(partial(_pivoted, setting, root, answer), answer, Namespaces("mount"))
            except NotYet as verdict:
                verdict.text = f"Where / was {setting}: {verdict.text}"
                raise
            seen = attempted.value
            where = f"where / was {setting}: "
            expect(not seen["same"], saw=f"{where}it is in the namespace that it came from", wanted="one of its own")
            expect(tuple(seen["root"]) == inner, saw=f"{where}/ is another directory", wanted="/ is the new root")
            expect(not seen["told"], saw=f"{where}its mounts appeared outside: {seen['told']}", wanted="none")
            expect(
                seen["mounts"] == ["/"],
                saw=f"{where}{len(seen['mounts'])} mounts that it can name{_examples(seen['mounts'])}",
                wanted="one, and that is /",
            )
            expect(tuple(seen["here"]) == inner, saw=f"{where}the current directory is not /", wanted="that it is /")
            expect(
                tuple(seen["out"] or host) != host, saw=f"{where}the way out led to the host's root", wanted="nowhere"
            )
    return "shared or not: one mount is left, it is /, and the way out leads nowhere"


def _pivoted(setting: str, root: str, answer: Callable[[str], object]) -> dict[str, object]:
    _world(setting)
    original = linux.open("/proc/self/ns/mnt", os.O_RDONLY)
    before = {fields[0] for fields in _table()}
    proc = linux.open("/proc", os.O_RDONLY)
    answer(root)
    # The host's /proc, through the descriptor, still tells of this process, and only of what it can name.
    with os.fdopen(os.open("self/mountinfo", os.O_RDONLY, dir_fd=proc)) as file:
        mounts = [line.split()[4] for line in file]
    same = os.path.samestat(os.fstat(original), os.stat("self/ns/mnt", dir_fd=proc))
    seen = {"same": same, "root": _identity("/"), "here": _identity("."), "mounts": mounts}
    told = []
    if not same:
        theirs = os.open("self/ns/mnt", os.O_RDONLY, dir_fd=proc)
        linux.setns(original, linux.CLONE_NEWNS)
        told = [fields[4] for fields in _table() if fields[0] not in before]
        linux.setns(theirs, linux.CLONE_NEWNS)
    return {**seen, "told": told, "out": _way_out() if os.path.isdir("tmp") else None}


def _examples(mounts: list[str]) -> str:
    """A few of the mounts besides /, so that it can be guessed where they come from."""
    others = [mount for mount in mounts if mount != "/"][:3]
    return f": /, {', '.join(others)}, …" if others else ""


def _way_out() -> tuple[int, int]:
    linux.chroot("tmp")
    for _ in range(100):
        linux.chdir("..")
    linux.chroot(".")
    return _identity("/")


@lab.exercise("your root, in the engine")
def part(answer: type[Part]) -> str:
    """First in a namespace of the check's own, where it cannot hurt; then the engine's own tests of PivotRoot."""
    with _root() as root:

        def ask() -> dict[str, object]:
            _world("private")
            before = [fields[0] for fields in _table()]
            container = Container(lambda: _identity("/"), answer(root))  # type: ignore[call-arg]
            try:
                container.run()
            except ContainerError as error:
                if "NotImplementedError" in str(error):
                    raise NotImplementedError from None
                return {"said": error.message, "root": None, "outside": 0}
            changed = len(set(before) ^ {fields[0] for fields in _table()})
            return {"said": "", "root": container.returned, "outside": changed}

        seen = attempt(ask, answer, Namespaces("mount")).value
        expect(
            not seen["outside"],
            saw="its mounts are outside of the container, too",
            wanted="that the container has a mount namespace of its own (`namespaces`)",
        )
        expect(not seen["said"], saw=f"the engine says: {seen['said']}", wanted="a container that starts")
        expect(tuple(seen["root"]) == _identity(root), saw="/ is another directory", wanted="/ is the directory given")
    return module_tests(answer, f"{PivotRoot.__module__}:PivotRoot", "test_chroot.py")


# ------------------------------------------------------------------------------------------------- what they share


def _identity(path: str) -> tuple[int, int]:
    """Which directory this is, whatever its name."""
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _table() -> list[list[str]]:
    with open("/proc/self/mountinfo") as file:
        return [line.split() for line in file]


def _world(setting: str) -> None:
    """In a mount namespace of our own already: no news from and to the host, and / as on this kind of host."""
    linux.mount(None, "/", flags=linux.MS_REC | linux.MS_PRIVATE)
    linux.mount(None, "/", flags=linux.MS_REC | SETTINGS[setting])


@contextmanager
def _folder() -> Iterator[str]:
    """An empty directory."""
    with tempfile.TemporaryDirectory(prefix="minicontainer-lab-", dir="/var/tmp") as path:
        os.chmod(path, 0o755)
        yield path


@contextmanager
def _root() -> Iterator[str]:
    """A root with busybox in it, and the directories that mounts are hung on."""
    with _folder() as path:
        for name in ("bin", "dev", "etc", "old", "proc", "sys", "tmp"):
            os.mkdir(f"{path}/{name}")
        shutil.copy(BUSYBOX, f"{path}/bin/busybox")
        yield path
