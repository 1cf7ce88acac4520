"""The checks of lab 05: a stack, what is deleted, what has changed, a layer, and an overlay for the engine.

All of them mount in a mount namespace of the attempt's own, and compare with what the kernel shows in it.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

from labs.checks.engine import module_tests, private_mounts
from labs.checks.frame import Lab, attempt, expect
from minicontainer import Container, Namespaces, PivotRoot, overlayfs, state
from minicontainer.errors import ContainerError
from minicontainer.images.unpack import unpack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from minicontainer import Part

lab = Lab("05-overlayfs")


@lab.exercise("a stack")
def stack(answer: Callable[[list[str], str, str, str], None]) -> str:
    """Three layers with some names in common; what is merged, where a write goes, what it is in the mount table."""
    with _scratch() as top:
        layers = [
            _tree(f"{top}/base", {"one": "base", "two": "base", "three": "base", "d/base": ""}),
            _tree(f"{top}/middle", {"two": "middle", "three": "middle", "d/middle": ""}),
            _tree(f"{top}/top", {"three": "top", "d/top": ""}),
        ]
        names = [f"{top}/{name}" for name in ("upper", "work", "merged")]
        for name in names:
            os.mkdir(name)

        def ask() -> dict[str, object]:
            private_mounts()
            answer(list(layers), *names)
            if _type(names[2]) != "overlay":
                return {"type": _type(names[2])}
            seen: dict[str, object] = {"type": "overlay", "d": sorted(os.listdir(f"{names[2]}/d"))}
            seen["files"] = {name: _read(f"{names[2]}/{name}") for name in ("one", "two", "three")}
            _tree(names[2], {"one": "changed", "d/new": "new"})
            return seen

        seen = attempt(ask, answer).value
        expect(
            seen["type"] == "overlay", saw=f"merged is {seen['type'] or 'no mount'}", wanted="a mount of type overlay"
        )
        expect(
            seen["files"] == {"one": "base", "two": "middle", "three": "top"},
            saw=f"one, two and three come from {', '.join(seen['files'].values())}",
            wanted="base, middle, top: of layers with the same name, the last in the list covers those before it",
        )
        expect(
            seen["d"] == ["base", "middle", "top"], saw=f"d holds {seen['d']}", wanted="the files of all three layers"
        )
        expect(
            _files(names[0]) == {"one": "changed", "d/new": "new"},
            saw=f"after one was changed and d/new was made, upper holds {sorted(_files(names[0]))}",
            wanted="these two files",
        )
        expect(
            _read(f"{layers[0]}/one") == "base", saw="one in base has changed", wanted="layers that nobody writes to"
        )
    return "three layers in the right order, one root; what was written is in upper and nowhere else"


ERASED = {
    "a file": "motd",
    "a file in a directory": "etc/deep/password",
    "a directory": "srv",
    "a file that upper has changed": "changed",
    "a file that only upper has": "new",
    "a directory that upper has too": "var",
}


@lab.exercise("deleted by hand")
def erase(answer: Callable[[str, str], None]) -> str:
    """Names are erased in an upper directory that is mounted nowhere. Then it is mounted."""
    with _scratch() as top:
        below = {"motd": "", "etc/deep/password": "", "etc/deep/group": "", "etc/hosts": "", "srv/a/b": "", "var/x": ""}
        base = _tree(f"{top}/base", {**below, "changed": "", "stays": ""})
        upper = _tree(f"{top}/container/upper", {"changed": "changed", "new": "", "var/y": "", "mine": ""})
        os.mkdir(f"{top}/container/work")
        os.mkdir(f"{top}/merged")

        def ask() -> list[str]:
            private_mounts()
            for path in ERASED.values():
                answer(upper, path)
            with overlayfs.mounted([base], f"{top}/container", f"{top}/merged") as merged:
                return sorted(_files(merged, also_directories=True))

        seen = attempt(ask, answer).value
        for what, path in ERASED.items():
            expect(path not in seen, saw=f"{what}, {path}, is still in the merged tree", wanted="that it is gone")
        stays = ["etc", "etc/deep", "etc/deep/group", "etc/hosts", "mine", "stays"]
        lost = [name for name in stays if name not in seen]
        expect(not lost, saw=f"{', '.join(lost)} has gone too", wanted="that all the rest is still there")
        more = [name for name in seen if name not in stays]
        expect(not more, saw=f"{', '.join(more)} in the merged tree", wanted="nothing that was not there before")
        expect(_read(f"{base}/motd") == "", saw="the layer has changed", wanted="a layer that nobody writes to")
    return f"the kernel shows none of {', '.join(ERASED.values())}, and all the rest"


@lab.exercise("what has changed")
def changes(answer: Callable[[str, list[str]], dict[str, str]]) -> str:
    """A container has changed files. The kernel shows the tree before and after; the answer sees only the layers."""
    with _scratch() as top:
        base = _tree(f"{top}/base", {"etc/motd": "a", "etc/hosts": "b", "etc/gone": "c", "log": "d", "again": "e"})
        over = _tree(f"{top}/over", {"etc/motd": "A", "etc/app": "f"})
        os.mknod(f"{over}/again", stat.S_IFCHR)  # this layer has deleted it
        os.mknod(f"{over}/etc/gone", stat.S_IFCHR)
        layers, merged = [base, over], f"{top}/merged"
        os.mkdir(merged)

        def ask() -> dict[str, object]:
            private_mounts()
            with overlayfs.mounted(layers, None, merged):
                before = set(_files(merged))
            with overlayfs.mounted(layers, f"{top}/container", merged):
                _tree(merged, {"etc/motd": "mine", "etc/hosts": "mine", "again": "mine", "etc/new/file": "mine"})
                os.unlink(f"{merged}/log")
                os.unlink(f"{merged}/etc/app")
                _tree(merged, {"passing": ""})
                os.unlink(f"{merged}/passing")
                after = set(_files(merged))
            written = set(_files(f"{top}/container/upper"))
            kinds = {"added": after - before, "deleted": before - after, "changed": before & after & written}
            wanted = {f"/{path}": kind for kind, paths in kinds.items() for path in paths}
            got = answer(f"{top}/container/upper", list(layers))
            return {"wanted": wanted, "got": got if isinstance(got, dict) else repr(got)}

        value = attempt(ask, answer).value
        got, wanted = value["got"], value["wanted"]
        expect(isinstance(got, dict), saw=f"yours is {got}", wanted="a dict: path → added, changed or deleted")
        for path in sorted(wanted):
            yours = got.get(path, "nothing")
            expect(yours == wanted[path], saw=f"{path} was {wanted[path]}, yours says {yours}", wanted=wanted[path])
        for path in sorted(set(got) - set(wanted)):
            expect(
                False, saw=f"nothing has happened to {path}, yours says {got[path]}", wanted="files that have changed"
            )
    return f"{len(wanted)} files added, changed or deleted, as the kernel shows them"


@lab.exercise("a layer")
def pack(answer: Callable[[str, str], None]) -> str:
    """The archive is listed by tar(1), unpacked by the engine, and stacked: the kernel must show the same tree."""
    with _scratch() as top:
        files = {"motd": "a", "etc/hosts": "b", "etc/deep/old": "c", "srv/a": "d", "srv/b": "e"}
        base = _tree(f"{top}/base", files)
        merged, archive = f"{top}/merged", f"{top}/layer.tar"
        os.mkdir(merged)

        def change() -> dict[str, str]:
            private_mounts()
            with overlayfs.mounted([base], f"{top}/container", merged):
                _tree(merged, {"etc/new": "new", "etc/hosts": "changed"})
                os.chmod(f"{merged}/etc/new", 0o750)
                os.unlink(f"{merged}/motd")
                os.unlink(f"{merged}/etc/deep/old")
                for name in ("a", "b"):
                    os.unlink(f"{merged}/srv/{name}")
                os.rmdir(f"{merged}/srv")
                _tree(merged, {"srv/c": "made anew"})
                return _files(merged)

        def ask() -> dict[str, object]:
            answer(f"{top}/container/upper", archive)
            return {"written": os.path.exists(archive)}

        def look() -> dict[str, str]:
            private_mounts()
            with overlayfs.mounted([base, f"{top}/new"], None, merged):
                return {**_files(merged), "mode": oct(os.stat(f"{merged}/etc/new").st_mode & 0o7777)}

        wanted = attempt(change, change).value
        expect(attempt(ask, answer).value["written"], saw="no archive", wanted="a file at the path that `archive` is")
        with open(archive, "rb") as stream:
            begins = stream.read(2)
        expect(begins != b"\x1f\x8b", saw="an archive that is compressed", wanted="a plain tar: gzip comes later")
        listed = subprocess.run(["tar", "-tf", archive], capture_output=True, text=True)
        expect(
            listed.returncode == 0,
            saw=f"tar cannot read it: {listed.stderr.strip()}",
            wanted="a tar archive",
        )
        names = [name.removeprefix("./").rstrip("/") for name in listed.stdout.splitlines()]
        expect(names.count("etc/new") == 1, saw=f"etc/new {names.count('etc/new')} times in the archive", wanted="once")
        stray = [name for name in names if name in ("motd", "etc/deep/old")]
        expect(not stray, saw=f"an entry {', '.join(stray)}, which was deleted", wanted="the mark of OCI in its place")
        with open(archive, "rb") as stream:
            try:
                unpack(stream, f"{top}/new")
            except ContainerError as error:
                expect(False, saw=f"the engine refuses the archive: {error}", wanted="one that it can unpack")
        seen = attempt(look, answer).value
        mode = seen.pop("mode") if "etc/new" in seen else ""
        back = sorted(set(seen) - set(wanted))
        expect(not back, saw=f"with your layer on top, {', '.join(back)} is there", wanted="what was deleted is gone")
        lost = sorted(set(wanted) - set(seen))
        expect(
            not lost, saw=f"with your layer on top, {', '.join(lost)} is missing", wanted="all that the container saw"
        )
        expect(seen == wanted, saw="another content in a file", wanted="what the container saw")
        expect(mode == "0o750", saw=f"etc/new has the mode {mode[2:]}", wanted="750, as it had")
    return f"unpacked and stacked, your layer of {len(names)} entries shows what the container saw"


@lab.exercise("your Overlay, in the engine")
def overlay(answer: Callable[..., Part]) -> str:
    """Three containers with it; then the engine uses it, and the module's own tests run."""
    with _scratch() as top:
        base = _tree(f"{top}/base", {"motd": "of the image\n"})
        for name in ("bin", "dev", "proc", "sys"):
            os.mkdir(f"{base}/{name}")
        shutil.copy("/bin/busybox", f"{base}/bin/sh")
        over = _tree(f"{top}/over", {"app": ""})

        def run(part: Part, script: str) -> str:
            return Container(["/bin/sh", "-c", script], part, PivotRoot()).output()

        def ask() -> dict[str, object]:
            private_mounts()
            before = _read("/proc/self/mountinfo")
            seen: dict[str, object] = {
                "first": run(answer([base, over], f"{top}/kept"), "cat /motd; echo mine > /motd; echo /a*"),
                "again": run(answer([base, over], f"{top}/kept"), "cat /motd"),
                "other": run(answer([base, over]), "cat /motd; echo x > /motd"),
                "mounts": _read("/proc/self/mountinfo") == before,
            }
            place = f"{state.data_root()}/containers"
            return {**seen, "left": os.listdir(place) if os.path.isdir(place) else [], "image": _read(f"{base}/motd")}

        seen = attempt(ask, answer, Namespaces("mount")).value
        expect(seen["first"] == "of the image\n/app\n", saw=f"a container reads {seen['first']!r}", wanted="the layers")
        expect(seen["image"] == "of the image\n", saw="the layer has changed", wanted="a layer that nobody writes to")
        expect(
            seen["again"] == "mine\n",
            saw=f"the next container with the same upper reads {seen['again']!r}",
            wanted="what the one before it has written",
        )
        expect(
            seen["other"] == "of the image\n",
            saw=f"another container, with no upper given, reads {seen['other']!r}",
            wanted="the file of the image",
        )
        expect(
            seen["mounts"], saw="a mount that the containers' makers can see", wanted="mounts in the containers only"
        )
        expect(not seen["left"], saw="the changes of a container that has ended", wanted="no directory left of it")
    return module_tests(answer, "minicontainer.overlayfs.overlay:Overlay", "test_overlayfs.py")


@contextmanager
def _scratch() -> Iterator[str]:
    """A directory where the engine keeps its own: a filesystem that can hold an upper directory."""
    os.makedirs(state.data_root(), exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="lab-05-", dir=state.data_root()) as folder:
        yield folder


def _tree(top: str, files: dict[str, str]) -> str:
    for path, text in files.items():
        os.makedirs(os.path.dirname(f"{top}/{path}"), exist_ok=True)
        with open(f"{top}/{path}", "w") as file:
            file.write(text)
    return top


def _read(path: str) -> str:
    with open(path) as file:
        return file.read()


def _files(top: str, *, also_directories: bool = False) -> dict[str, str]:
    """The regular files below, and what is in them; anything else that is no directory is named, too, as ""."""
    found = {}
    for directory, directories, names in os.walk(top):
        for name in names:
            path = os.path.join(directory, name)
            if not os.path.lexists(path):  # a whiteout in an opaque directory is listed, and cannot be found
                continue
            regular = stat.S_ISREG(os.lstat(path).st_mode)
            if regular or also_directories:
                found[os.path.relpath(path, top)] = _read(path) if regular else ""
        if also_directories:
            found |= {os.path.relpath(os.path.join(directory, name), top): "" for name in directories}
    return found


def _type(place: str) -> str:
    """The type of the filesystem that is mounted on a directory; "" if none is. proc_pid_mountinfo(5)"""
    with open("/proc/self/mountinfo") as file:
        table = [line.split() for line in file]
    return next((fields[fields.index("-") + 1] for fields in reversed(table) if fields[4] == place), "")
