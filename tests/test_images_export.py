"""Export: the archive of a container's files against the container itself, GNU tar and dockerd."""

from __future__ import annotations

import io
import json
import os
import stat
import subprocess
import sys
import tarfile
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from images import contents
from stores import grow, told

from minicontainer.errors import ConflictError, NotFoundError
from minicontainer.images import export, get, images, import_, prune, remove, save
from minicontainer.overlayfs import mounted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stores import Ask

CLI = [sys.executable, "-m", "minicontainer.cli"]
NAME = "example.org/exported:1"
CHANGES = (
    "cd /srv && echo more >> page && rm gone && rm -r old && mkdir old && echo new > old/new && ln page link"
    " && ln -s ../etc soft && mkfifo pipe && chmod 4755 page && chown 12:34 old"
    " && touch -d '2001-02-03 04:05:06' old && mkdir -m 1777 empty && echo held > /tmp/held"
)
DEVICE = f"{CHANGES} && mknod null c 1 3"


@pytest.fixture
def image(root: str) -> str:
    """Layers with a file to change, one to delete, a directory to replace, and places for mounts."""
    files: dict[str, bytes | None] = {"srv/page": b"one\n", "srv/gone": b"x", "srv/old/file": b"y"}
    empty: dict[str, bytes | None] = {"etc/passwd": b"root:x:0:0::/:/bin/sh\n", "tmp/here": b"", "proc/image": b"below"}
    grow(f"{root}/..", NAME, files, empty, cmd=["/bin/sh"], env={"PATH": "/bin"})
    applets = "chmod chown cp cat ls mkdir mkfifo mknod ln rm sleep touch sh tar true"
    os.makedirs(f"{root}/../links/bin")
    for applet in applets.split():
        if applet != "sh":
            os.symlink("sh", f"{root}/../links/bin/{applet}")
    import_(f"{root}/../links", NAME, base=NAME)
    return NAME


def mc(*words: str, status: int = 0) -> bytes:
    done = subprocess.run([*CLI, *words], capture_output=True, timeout=60, check=False)
    assert done.returncode == status, done.stderr
    return done.stdout + (done.stderr if status else b"")


@contextmanager
def running(image: str, *options: str, script: str = DEVICE) -> Iterator[dict[str, Any]]:
    """A container that has made its changes and goes on; what `inspect` says of it."""
    script += " && echo ready && sleep 600"
    mc("run", "-d", "--name", "changed", "--network", "none", *options, image, "sh", "-c", script)
    try:
        while mc("logs", "changed") != b"ready\n":
            assert mc("ps", "-q"), mc("logs", "changed")
        yield json.loads(mc("inspect", "changed"))[0]
    finally:
        mc("rm", "-f", "changed")


def members(archive: bytes) -> dict[str, tuple[Any, ...]]:
    """What a tar says of each name."""
    found: dict[str, tuple[Any, ...]] = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for one in tar:
            name = os.path.normpath(one.name)
            target = tar.getmember(one.linkname) if one.islnk() else one
            content = tar.extractfile(target) if target.isreg() else None
            data = content.read() if content else b""
            kind = "file" if target.isreg() else one.type
            link = one.linkname if one.issym() else ""
            device = (one.devmajor, one.devminor) if one.isdev() and not one.isfifo() else ()
            found[name] = (
                kind,
                stat.S_IMODE(target.mode),
                target.uid,
                target.gid,
                int(target.mtime),
                link,
                device,
                data,
            )
    found.pop(".", None)
    return found


def seen(pid: int) -> dict[str, tuple[Any, ...]]:
    """The same of a container's own file system, as GNU tar reads it through /proc; without what is mounted in it."""
    root = f"/proc/{pid}/root"
    command = ["tar", "-c", "--one-file-system", "--format=posix", "-C", root, "."]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    with open(f"/proc/{pid}/mountinfo") as file:
        mounts = {line.split()[4].strip("/") for line in file}
    return {name: what for name, what in members(done.stdout).items() if name not in mounts}


def test_export_of_a_running_container_is_what_it_sees(image: str) -> None:
    with running(image) as entry:
        ours, theirs = members(mc("export", "changed")), seen(entry["process"]["pid"])
    assert theirs["srv/page"][-1] == b"one\nmore\n"
    assert "srv/gone" not in ours
    assert {name: ours[name] for name in theirs} == theirs
    # Beside that only what mounts cover, as the image and the engine have made it.
    assert all(name.split("/")[0] in ("proc", "sys", "dev", "etc") for name in ours.keys() - theirs.keys())
    assert ours["proc/image"][-1] == b"below"


def test_export_of_one_that_has_ended_is_what_it_has_left(root: str, image: str) -> None:
    mc("run", "--name", "ended", "--network", "none", image, "sh", "-c", DEVICE)
    mc("export", "-o", f"{root}/../out.tar", "ended")
    with open(f"{root}/../out.tar", "rb") as file:
        archive = file.read()
    assert mc("export", "ended") == archive
    entry = json.loads(mc("inspect", "ended"))[0]
    upper = f"{root}/containers/{entry['id']}"
    os.makedirs(f"{root}/../merged")
    with mounted(get(image).layers, upper, f"{root}/../merged"):
        command = ["tar", "-c", "--format=posix", "-C", f"{root}/../merged", "."]
        theirs = members(subprocess.run(command, capture_output=True, check=True).stdout)
    assert members(archive) == theirs
    mc("rm", "ended")


def test_owners_are_those_that_the_container_sees(image: str) -> None:
    with running(image, "--userns", "private", script=CHANGES):
        ours = members(mc("export", "changed"))
    assert ours["srv/page"][2:4] == (0, 0)
    assert ours["srv/old"][2:4] == (12, 34)


def test_export_comes_back_by_import(root: str, image: str) -> None:
    mc("run", "--name", "ended", "--network", "none", image, "sh", "-c", CHANGES)
    mc("export", "-o", f"{root}/../out.tar", "ended")
    mc("rm", "ended")
    (layer,) = import_(f"{root}/../out.tar", "flat").layers
    page = os.stat(f"{layer}/srv/page")
    assert (stat.S_IMODE(page.st_mode), page.st_nlink) == (0o4755, 2)
    assert os.listdir(f"{layer}/srv/old") == ["new"]
    assert get("flat").container(["sh", "-c", "cat /srv/link"], env={"PATH": "/bin"}).output() == "one\nmore\n"


def test_docker_exports_the_same(root: str, image: str, docker: Ask) -> None:
    """A container that has not run, since not every test machine lets dockerd run one: what both have of the image."""
    save(image, f"{root}/../image.tar")
    docker("load", "-i", f"{root}/../image.tar")
    container = docker("create", image).strip()
    docker("export", "-o", f"{root}/../theirs.tar", container)
    docker("rm", container)
    with open(f"{root}/../theirs.tar", "rb") as file:
        theirs = members(file.read())
    buffer = io.BytesIO()
    os.makedirs(f"{root}/../nothing")
    export(get(image).layers, f"{root}/../nothing", buffer)
    ours = members(buffer.getvalue())
    assert {name: theirs[name] for name in ours if name not in ("etc", "proc", "dev", "sys")} == {
        name: what for name, what in ours.items() if name not in ("etc", "proc", "dev", "sys")
    }
    assert {name.split("/")[0] for name in theirs.keys() - ours.keys()} <= {".dockerenv", "dev", "etc", "proc", "sys"}


def test_tree_that_changes_meanwhile_is_exported(root: str, image: str) -> None:
    upper = f"{root}/../upper"
    os.makedirs(f"{upper}/churn")
    end = threading.Event()

    def churn() -> None:
        number = 0
        while not end.is_set():
            number += 1
            os.makedirs(f"{upper}/churn/{number}")
            with open(f"{upper}/churn/{number}/file", "w") as file:
                file.write("x")
            os.link(f"{upper}/churn/{number}/file", f"{upper}/churn/{number}-link")
            if number > 20:
                os.unlink(f"{upper}/churn/{number - 20}/file")
                os.unlink(f"{upper}/churn/{number - 20}-link")
                os.rmdir(f"{upper}/churn/{number - 20}")

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(20):
            buffer = io.BytesIO()
            export(get(image).layers, upper, buffer)
            assert "srv/page" in members(buffer.getvalue())
    finally:
        end.set()
        thread.join()


def test_nothing_is_left_when_the_disk_is_full_or_layers_are_gone(root: str, image: str) -> None:
    mc("run", "--name", "ended", "--network", "none", image, "true")
    try:
        said = mc("export", "-o", "/dev/full", "ended", status=1)
        assert b"ENOSPC" in said
        os.makedirs(f"{root}/../small")
        told("mount", "-t", "tmpfs", "-o", "size=16k", "small", f"{root}/../small")
        try:
            assert b"ENOSPC" in mc("export", "-o", f"{root}/../small/x.tar", "ended", status=1)
            assert os.listdir(f"{root}/../small") == []
        finally:
            told("umount", f"{root}/../small")
    finally:
        mc("rm", "ended")
    with pytest.raises(NotFoundError) as caught:
        export([f"{root}/layers/{'0' * 64}"], f"{root}/..", io.BytesIO())
    assert "pull" in (caught.value.hint or "")
    assert b"no container nobody" in mc("export", "nobody", status=1)


def test_image_of_a_container_that_has_ended_stays(root: str, image: str) -> None:
    """Its files are the changes only; without the layers they would be half a tree."""
    mc("run", "--name", "ended", "--network", "none", image, "true")
    before = contents(root)
    with pytest.raises(ConflictError):
        remove(image)
    assert contents(root) == before
    prune(all=True)
    assert [one.name for one in images()] == [image]
    assert b"one" in mc("export", "ended")
    mc("rm", "ended")
    assert prune(all=True).lines[0] == f"Untagged: {image}"
    assert contents(root) == []
