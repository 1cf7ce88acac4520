"""The oracle: trees made at random, and the course's images, are what GNU tar and umoci make of the same bytes.

Compared file by file: kind, mode, owner, size, time to the nanosecond, content or target, device numbers, extended
attributes (capabilities among them), and which names are one file.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import stat
import subprocess
import tarfile
from typing import TYPE_CHECKING, Any

import pytest
from stores import told
from test_unpack import FORMATS, GNU, tree, umoci

from minicontainer import overlayfs
from minicontainer.errors import ContainerError
from minicontainer.images import Image, get, pull, save, tag
from minicontainer.images.compression import decompress
from minicontainer.images.tar import Limits
from minicontainer.images.unpack import unpack
from tools import course_images

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SEEDS = range(int(os.environ.get("MINICONTAINER_TREES", "2")))
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")  # cap_net_bind_service+ep… version 2
XATTRS = {"user.one": b"1", "user.bytes": bytes(range(256)), "user.a=b": b"x\0y\n", "trusted.t": b"t"}


class Grower:
    """Makes a tree at random, the same for the same seed."""

    def __init__(self, seed: int, root: Path, *, text: bool = False) -> None:
        self.choose, self.text = random.Random(seed), text
        self.root = os.fsencode(root)
        self.files: list[bytes] = []
        os.mkdir(root)
        self.fill(self.root, 0)
        # Children first: what is made in a directory changes its time, and a mode can shut it.
        for place, directories, files in os.walk(self.root, topdown=False):
            for name in sorted([*directories, *files]):
                self.dress(os.path.join(place, name))
        self.dress(self.root)

    def name(self) -> bytes:
        kind = self.choose.randrange(8)
        length = self.choose.choice((1, 3, 8, 60, 99, 100, 101, 155, 200))
        if kind == 0 and not self.text:
            return bytes(self.choose.choice([b for b in range(1, 256) if b != 47]) for _ in range(length))
        if kind == 1:
            return ("ä€🐳"[self.choose.randrange(3)] * min(length, 60)).encode()
        return bytes(self.choose.choice(b"abcdefghijklmnopqrstuvwxyz0123456789.-_ ") for _ in range(length)) + b"x"

    def fill(self, place: bytes, depth: int) -> None:
        for _ in range(self.choose.randrange(3, 9) if depth else 24):
            path = os.path.join(place, self.name())
            if os.path.lexists(path) or os.path.basename(path).startswith(b".wh.") or len(path) > 3000:
                continue
            kind = self.choose.choice(
                ["file", "file", "file", "sparse", "directory", "directory", "link", "hard", "fifo", "device"]
            )
            if kind == "directory" and depth < 6:
                os.mkdir(path)
                self.fill(path, depth + 1)
            elif kind == "link":
                os.symlink(self.name() * self.choose.choice((1, 1, 3)), path)
            elif kind == "hard" and self.files:
                os.link(self.choose.choice(self.files), path, follow_symlinks=False)
            elif kind == "fifo":
                os.mkfifo(path)
            elif kind == "device":
                block = self.choose.choice((stat.S_IFCHR, stat.S_IFBLK))
                os.mknod(path, block | 0o600, os.makedev(self.choose.randrange(1, 255), self.choose.randrange(256)))
            else:
                self.file(path, sparse=kind == "sparse")

    def file(self, path: bytes, *, sparse: bool) -> None:
        with open(path, "wb") as file:
            if sparse:
                for _ in range(self.choose.randrange(8)):
                    file.seek(self.choose.randrange(8 << 20) // 4096 * 4096)
                    file.write(self.choose.randbytes(self.choose.randrange(1, 9000)))
                file.truncate(max(file.seek(0, 2), self.choose.randrange(9 << 20)))
            else:
                file.write(self.choose.randbytes(self.choose.choice((0, 1, 511, 512, 513, 1 << 20, (1 << 20) + 1))))
        self.files.append(path)

    def dress(self, path: bytes) -> None:
        entry = os.lstat(path)
        # 2_097_151 is the last that seven octal digits can say; 0xFFFFFFFF means "leave it"
        owner = [self.choose.choice((0, 0, 1, 1000, 2_097_151, 2_097_152, 4_000_000_000)) for _ in range(2)]
        os.chown(path, *owner, follow_symlinks=False)
        if not stat.S_ISLNK(entry.st_mode):
            os.chmod(path, self.choose.choice((0o644, 0o755, 0, 0o4755, 0o2755, 0o1777, 0o7777, 0o600)))
            if self.choose.randrange(3) == 0 and stat.S_IFMT(entry.st_mode) in (stat.S_IFREG, stat.S_IFDIR):
                for key in self.choose.sample(sorted(XATTRS), 2):
                    os.setxattr(path, key, XATTRS[key])
            if stat.S_ISREG(entry.st_mode) and self.choose.randrange(4) == 0:
                os.setxattr(path, "security.capability", CAPABILITY)
        seconds = self.choose.choice((0, 1, 1_000_000_000, 1_700_000_000, 2_000_000_000, 8_589_934_591))
        os.utime(path, ns=(0, seconds * 10**9 + self.choose.randrange(10**9)), follow_symlinks=False)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("form", FORMATS)
def test_a_tree_at_random_is_what_gnu_tar_makes_of_it(tmp_path: Path, seed: int, form: str) -> None:
    Grower(seed, tmp_path / "tree")
    command = GNU if "pax" in form else GNU[:2]
    told(*command, *FORMATS[form], "-cf", f"{tmp_path}/tar", "-C", f"{tmp_path}/tree", ".")
    (tmp_path / "theirs").mkdir()
    told(*GNU, "-xpf", f"{tmp_path}/tar", "-C", f"{tmp_path}/theirs")
    with open(tmp_path / "tar", "rb") as stream:
        unpack(stream, str(tmp_path / "ours"))
    ours = tree(tmp_path / "ours")
    assert ours == tree(tmp_path / "theirs")
    assert len(ours) > 20
    if form.startswith("pax"):
        assert ours == tree(tmp_path / "tree")
    if "sparse" in form:
        assert allocated(tmp_path / "ours") <= allocated(tmp_path / "tree") + (64 << 10)


def allocated(root: Path) -> int:
    return int(told("du", "-s", "--block-size=1", str(root)).split()[0])


@pytest.mark.parametrize("seed", SEEDS)
def test_a_tree_at_random_is_what_umoci_makes_of_it(tmp_path: Path, seed: int) -> None:
    Grower(seed, tmp_path / "tree")
    told(*GNU, *FORMATS["pax"], "-cf", f"{tmp_path}/tar", "-C", f"{tmp_path}/tree", ".")
    umoci(tmp_path / "oci", [tmp_path / "tar"], tmp_path / "bundle")
    with open(tmp_path / "tar", "rb") as stream:
        unpack(stream, str(tmp_path / "ours"))
    ours, theirs = tree(tmp_path / "ours"), tree(tmp_path / "bundle/rootfs")
    assert ours.keys() == theirs.keys()
    for name in ours:
        attributes = theirs[name][4]
        assert isinstance(attributes, dict)
        if "user.a%3Db" in attributes:  # GNU tar writes = in a name so, and umoci leaves it
            attributes["user.a=b"] = attributes.pop("user.a%3Db")
        assert ours[name] == theirs[name], name


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("maker", ["python", "bsdtar", "commit"])
def test_archives_of_other_makers_hold_the_tree(tmp_path: Path, seed: int, maker: str) -> None:
    # bsdtar loses hard links to names that are no text: GNU tar cannot unpack its archive either
    Grower(seed, tmp_path / "tree", text=maker == "bsdtar")
    archive = tmp_path / "tar"
    if maker == "python":
        with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as writer:
            writer.add(tmp_path / "tree", ".")
    elif maker == "commit":
        with open(archive, "wb") as file:
            overlayfs.commit(str(tmp_path / "tree"), file)
    elif shutil.which("bsdtar"):
        # its attributes come twice, as libarchive's and as star's; it makes all files sparse that are
        told("bsdtar", "--format=pax", "--xattrs", "-cf", str(archive), "-C", str(tmp_path / "tree"), ".")
    else:
        pytest.skip("bsdtar is not installed")
    with open(archive, "rb") as stream:
        unpack(stream, str(tmp_path / "ours"))
    ours, made = tree(tmp_path / "ours"), tree(tmp_path / "tree")
    if maker == "commit":  # it writes what is in the directory, not the directory itself
        del ours["."], made["."]
    if maker == "python":  # tarfile's times are floating point, and it knows no attributes
        ours, made = ({name: _without(found) for name, found in side.items()} for side in (ours, made))
    assert ours == made


def _without(found: tuple[Any, ...]) -> tuple[Any, ...]:
    mode, owner, _, content, _, group = found
    return (mode, owner, content, group)


# --- the course's images ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Image]]:
    """All of the course's images, in a store of their own."""
    directory = tmp_path_factory.mktemp("course")
    os.chmod(directory, 0o755)
    before = os.environ.get("MINICONTAINER_DATA_ROOT", "")
    os.environ["MINICONTAINER_DATA_ROOT"] = f"{directory}/data"
    found = {}
    try:
        for make in course_images.RECIPES:
            name = f"example.org/{make.__name__}:latest"
            try:
                if make is course_images.debian and _pulled(name):
                    found[make.__name__] = get(name)
                    continue
                make(directory / make.__name__, name)
            except ContainerError as error:
                if make is not course_images.debian:
                    raise
                print(f"without debian: {error}")  # no mirror here
                continue
            found[make.__name__] = get(name)
        yield found
    finally:
        os.environ["MINICONTAINER_DATA_ROOT"] = before
        shutil.rmtree(directory)


def _pulled(name: str) -> bool:
    """Whether the course's registry runs here and has it: to make it takes a minute and a mirror."""
    try:
        tag(pull("localhost:5000/debian:latest", progress=lambda event: None).name, name)
    except ContainerError:
        return False
    return True


@pytest.mark.parametrize("name", [make.__name__ for make in course_images.RECIPES])
def test_an_image_of_the_course_is_what_umoci_and_gnu_tar_make_of_it(
    course: dict[str, Image], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    if name not in course:
        pytest.skip("a Debian mirror is needed to make it")
    image = course[name]
    monkeypatch.setenv("MINICONTAINER_DATA_ROOT", image.store.root)
    save(image.name, str(tmp_path / "oci"), format="oci-dir")
    index = json.loads((tmp_path / "oci/index.json").read_text())
    index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"] = "x"
    (tmp_path / "oci/index.json").write_text(json.dumps(index))
    told("umoci", "unpack", "--image", f"{tmp_path}/oci:x", f"{tmp_path}/bundle")
    (tmp_path / "merged").mkdir()
    with overlayfs.mounted(image.layers, None, str(tmp_path / "merged")):
        ours = tree(tmp_path / "merged")
    theirs = tree(tmp_path / "bundle/rootfs")
    assert ours.keys() == theirs.keys()
    for path in ours:
        if path != ".":  # umoci writes no time of its own to the root
            assert _timed(ours[path]) == _timed(theirs[path]), path
    for number, layer in enumerate(image.manifest.layers):
        (tmp_path / f"gnu{number}").mkdir()
        with open(image.store.blob(layer.digest), "rb") as blob:
            plain = tmp_path / "plain"
            with open(plain, "wb") as file:
                for data in decompress(iter([memoryview(blob.read())])):
                    file.write(data)
        told(*GNU, "-xpf", str(plain), "-C", f"{tmp_path}/gnu{number}")
        with open(plain, "rb") as stream:
            unpack(stream, f"{tmp_path}/again{number}", limits=Limits())
        fresh = tree(tmp_path / f"gnu{number}")
        hidden = [path for path in fresh if os.path.basename(path).startswith(".wh.")]
        for path in hidden:
            del fresh[path]
        mine = {path: found for path, found in tree(image.layers[number]).items() if not _is_whiteout(found)}
        # no devices: in a user namespace, where a box may be baked, not even root makes one
        assert not [path for path, found in mine.items() if stat.S_ISCHR(found[0]) or stat.S_ISBLK(found[0])]
        assert _named(mine) == _named(tree(tmp_path / f"again{number}"), mine)
        assert _named(mine) == _named(fresh)
        subprocess.run(["rm", "-rf", f"{tmp_path}/gnu{number}", f"{tmp_path}/again{number}"], check=True)


def _is_whiteout(found: tuple[Any, ...]) -> bool:
    return stat.S_ISCHR(found[0]) and found[3] == 0


def _timed(found: tuple[Any, ...]) -> tuple[Any, ...]:
    return found if not stat.S_ISDIR(found[0]) else (*found[:2], *found[3:])


def _named(found: dict[str, tuple[Any, ...]], like: dict[str, tuple[Any, ...]] | None = None) -> dict[str, Any]:
    """Without the times of directories, which the archive need not name."""
    return {path: _timed(one) for path, one in found.items() if path != "." and (like is None or path in like)}
