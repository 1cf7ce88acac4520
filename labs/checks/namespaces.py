"""The checks of lab 03: who shares what, a name, a PID 1 with its own /proc, a uid map, exec, and a part."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

from labs.checks.engine import module_tests
from labs.checks.frame import Lab, attempt, expect, until
from minicontainer import Container, Namespaces, PivotRoot, linux, namespaces
from minicontainer.namespaces import KINDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

lab = Lab("03-namespaces")

SLEEP = ["sleep", "1000"]
NAMES = [name for _, name in KINDS.values()]
"""The kernel's names: mnt, uts, …"""


@lab.exercise("who shares what")
def shared(answer: Callable[[int, int], Iterable[str]]) -> str:
    """Pairs of processes, among them containers that share some kinds, and one whose children will live elsewhere."""

    def moves_its_children() -> None:
        linux.unshare(linux.CLONE_NEWTIME)
        signal.pause()

    with (
        Container(SLEEP).start() as plain,
        Container(SLEEP, Namespaces("uts", "network", "pid")).start() as one,
        Container(SLEEP, Namespaces("pid", "ipc", join={"network": one, "uts": one})).start() as two,
        Container(moves_its_children).start() as mover,
    ):
        until(lambda: os.readlink(f"/proc/{mover.pid}/ns/time_for_children") != _links(mover.pid)["time"])
        pairs = [(plain.pid, os.getpid()), (plain.pid, one.pid), (one.pid, two.pid), (plain.pid, mover.pid)]
        wanted = [sorted(kind for kind in NAMES if _links(a)[kind] == _links(b)[kind]) for a, b in pairs]

        def ask() -> list[object]:
            found = [answer(a, b) for a, b in pairs]
            return [it if it is None or isinstance(it, str | int) else sorted(it) for it in found]

        seen = attempt(ask, answer).value
    for got, right in zip(seen, wanted, strict=True):
        expect(got == right, saw=f"two processes share {', '.join(right) or 'nothing'}", wanted=f"that, and not {got}")
    return "right for a plain process, a container, two that share a network, and one that moves only its children"


@lab.exercise("a name of its own")
def rename(answer: Callable[[str], object]) -> str:
    """The answer's process is in a uts namespace that plays the host's; it is gone back to, and looked at."""

    def ask() -> dict[str, Any]:
        before = namespaces.of()
        host = os.open("/proc/self/ns/uts", os.O_RDONLY)
        answer("box")
        name, after = os.uname().nodename, namespaces.of()
        linux.setns(host, linux.CLONE_NEWUTS)
        changed = [KINDS[kind][1] for kind in KINDS if before[kind] != after[kind]]
        return {"name": name, "host": os.uname().nodename, "changed": changed}

    seen = attempt(ask, answer, Namespaces("uts", "mount", hostname="the-host")).value
    expect(
        seen["host"] == "the-host",
        saw=f"outside, the host calls itself {seen['host']!r}",
        wanted="'the-host', as before",
    )
    expect(seen["name"] == "box", saw=f"the process calls itself {seen['name']!r}", wanted="'box'")
    expect(
        seen["changed"] == ["uts"],
        saw=f"new namespaces of the kinds {', '.join(seen['changed'])}",
        wanted="uts, and no other",
    )
    return "the process calls itself 'box', the host's name is as before, and every other kind is shared"


@lab.exercise("alone, and knowing it")
def alone(answer: Callable[[list[str]], int]) -> str:
    """A program says its pid and lists /proc. The mounts around are shared, as systemd makes them, and must not hear
    of anything. They are those of a namespace that plays the host's."""
    with tempfile.TemporaryDirectory(prefix="minicontainer-lab-") as folder:
        script = f"echo $$ > {folder}/pid; cd /proc; echo [0-9]* > {folder}/seen; readlink self > {folder}/self; exit 3"

        def ask() -> dict[str, Any]:
            linux.mount(None, "/", flags=linux.MS_REC | linux.MS_PRIVATE)
            linux.mount(None, "/", flags=linux.MS_REC | linux.MS_SHARED)
            with open("/proc/self/mountinfo") as mounts:  # of this namespace, wherever the answer takes us
                before = mounts.read()
                status = answer(["/bin/sh", "-c", script])
                mounts.seek(0)
                return {"status": status, "mounts": _points(mounts.read()) - _points(before)}

        seen = attempt(ask, answer, Namespaces("mount")).value
        expect(
            os.path.exists(f"{folder}/self"),
            saw="the program was not executed",
            wanted="that it runs, as a shell would",
        )
        pid, numbers, own = (_text(f"{folder}/{name}").split() for name in ("pid", "seen", "self"))
    expect(pid == ["1"], saw=f"the program is process {pid[0]} of its namespace", wanted="1")
    expect(
        not seen["mounts"],
        saw=f"the host has {seen['mounts']} more mount{'s' if seen['mounts'] > 1 else ''} on /proc",
        wanted="no mount outside the new process's own namespace",
    )
    expect(
        own != [] and len(numbers) < 10,
        saw=f"{len(numbers)} processes in the program's /proc, and {'its own' if own else 'no'} /proc/self",
        wanted="its own processes only",
    )
    expect(seen["status"] == 3, saw=f"{seen['status']!r} for a program that exits with 3", wanted="3")
    return "the program is process 1, sees only itself in /proc, and the host's mounts are as before"


@lab.exercise("root inside, nobody outside")
def as_root(answer: Callable[[list[str], int], int]) -> str:
    """A caller with supplementary groups starts a program; /proc tells who it is."""

    def ask() -> dict[str, Any]:
        os.setgroups([7, 8])
        pid = answer(["/bin/sleep", "1000"], 300_000)
        if not isinstance(pid, int):
            return {"pid": repr(pid)}
        if not until(lambda: _text(f"/proc/{pid}/cmdline").startswith("/bin/sleep")):
            return {"never": True}
        status = dict(line.split(":", 1) for line in _text(f"/proc/{pid}/status").splitlines())
        maps = {file: [line.split() for line in _text(f"/proc/{pid}/{file}").splitlines()] for file in MAPS}
        own = os.readlink(f"/proc/{pid}/ns/user") != os.readlink("/proc/self/ns/user")
        os.kill(pid, signal.SIGKILL)
        return {"own": own, "maps": maps, **{key: status[key].split() for key in ("Uid", "Gid", "Groups", "PPid")}}

    seen = attempt(ask, answer).value
    expect("pid" not in seen, saw=f"{seen.get('pid')} came back", wanted="the program's pid, a number")
    expect("never" not in seen, saw="a process that does not become the program", wanted="/bin/sleep, running")
    expect(seen["own"], saw="its user namespace is the host's", wanted="one of its own")
    for file in MAPS:
        expect(
            seen["maps"][file] == [["0", "300000", "65536"]],
            saw=f"its {file} is {seen['maps'][file] or 'empty'}",
            wanted="65536 numbers from 0 on inside, from 300000 on outside",
        )
    for key, what in {"Uid": "user", "Gid": "group"}.items():
        expect(
            seen[key] == ["300000"] * 4, saw=f"on the host it runs as {what} {seen[key][0]}", wanted="300000, 0 inside"
        )
    expect(not seen["Groups"], saw=f"it is still in the host's groups {', '.join(seen['Groups'])}", wanted="no group")
    return "both maps are there; inside it is user 0 and group 0, on the host 300000, and in no other group"


MAPS = ("uid_map", "gid_map")


@lab.exercise("exec")
def enter(answer: Callable[[int, list[str]], int]) -> str:
    """A container with every kind and its own root is entered; what was brought in says where and who it is."""
    with _root() as rootfs:
        everything = Namespaces(*KINDS, hostname="box")
        with Container(SLEEP, everything, PivotRoot(rootfs)).start() as container:
            pid, wanted, ours = container.pid, _links(container.pid), _links("self")
            script = "id -u; echo $PPID; for kind in %s; do readlink /proc/self/ns/$kind || echo none; done; exit 7"
            argv = ["/bin/sh", "-c", script % " ".join(NAMES)]
            attempted = attempt(lambda: answer(pid, argv), answer, capture=True)
    lines = attempted.output.split()
    expect(len(lines) == len(NAMES) + 2, saw=f"the program says {attempted.output!r}", wanted="what the script prints")
    user, parent, *links = lines
    for kind, link in zip(NAMES, links, strict=True):
        where = "ours" if link == ours[kind] else "unknown to the /proc that it sees" if link == "none" else "another"
        expect(link == wanted[kind], saw=f"the program's {kind} namespace is {where}", wanted="the container's")
    expect(user == "0", saw=f"in the container it is user {user}", wanted="0, the container's root")
    expect(
        parent == "0", saw=f"its parent is process {parent} of the container", wanted="one that nobody sees in there"
    )
    expect(
        attempted.value == 7, saw=f"{attempted.value!r} for a program that exits with 7", wanted="7, when it has ended"
    )
    return "the program is in all eight of the container's namespaces, root there, and its status came back"


@lab.exercise("your namespaces, in the engine")
def part(answer: Callable[..., Any]) -> str:
    """First where it can do no harm; then the engine uses it, and the module's own tests run."""

    def ask() -> str:
        for kinds in ((), ("ipc",), ("mount",), ("uts",)):
            Container(["true"], answer(*kinds)).run()
        Container(["true"], answer("uts", hostname="box")).run()
        return os.uname().nodename

    name = attempt(ask, answer, Namespaces("uts", "mount", hostname="the-host")).value
    expect(
        name == "the-host",
        saw=f"after some containers, with and without a uts namespace, the host calls itself {name!r}",
        wanted="'the-host', as before",
    )
    return module_tests(answer, "minicontainer.namespaces:Namespaces", "test_namespaces.py")


# ------------------------------------------------------------------------------------------------------- helpers


def _links(pid: int | str) -> dict[str, str]:
    return {name: os.readlink(f"/proc/{pid}/ns/{name}") for name in NAMES}


def _text(path: str) -> str:
    with open(path) as file:
        return file.read()


def _points(mountinfo: str) -> int:
    return len(mountinfo.splitlines())


@contextmanager
def _root() -> Iterator[str]:
    """Busybox and empty directories, that belong to the user whom the engine maps root to."""
    folder = tempfile.mkdtemp(prefix="minicontainer-lab-")
    try:
        os.chmod(folder, 0o755)
        for name in ("bin", "dev", "etc", "proc", "sys"):
            os.makedirs(f"{folder}/rootfs/{name}")
        shutil.copy("/bin/busybox", f"{folder}/rootfs/bin/busybox")
        for name in ("sh", "id", "readlink", "sleep"):
            os.symlink("busybox", f"{folder}/rootfs/bin/{name}")
        for top, folders, files in os.walk(f"{folder}/rootfs"):
            for name in (".", *folders, *files):
                os.lchown(f"{top}/{name}", 100_000, 100_000)
        yield f"{folder}/rootfs"
    finally:
        shutil.rmtree(folder)
