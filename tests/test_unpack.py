"""Unpacking layers: GNU tar and umoci unpack the same bytes, and what lies outside must stay as it is."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import random
import re
import stat
import subprocess
import tarfile
import tracemalloc
from pathlib import Path
from typing import Any, Literal

import pytest

from minicontainer import overlayfs
from minicontainer.errors import ConflictError, HostError, ImageError
from minicontainer.images.tar import Limits
from minicontainer.images.unpack import Unpacked, unpack
from minicontainer.overlayfs import whiteouts

Item = tuple[tarfile.TarInfo, bytes]


def item(name: str, kind: bytes = tarfile.REGTYPE, content: bytes = b"", **fields: Any) -> Item:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(content)
    for key, value in {"mode": 0o755 if kind == tarfile.DIRTYPE else 0o644, "mtime": 1_000_000_000, **fields}.items():
        setattr(info, key, value)
    return info, content


def link(name: str, target: str) -> Item:
    return item(name, tarfile.SYMTYPE, linkname=target)


def hard_link(name: str, target: str) -> Item:
    return item(name, tarfile.LNKTYPE, linkname=target)


def directory(name: str, **fields: Any) -> Item:
    return item(name, tarfile.DIRTYPE, **fields)


def pack(*items: Item, format: Literal[0, 1, 2] = tarfile.PAX_FORMAT) -> bytes:
    """A tar of exactly these headers; tarfile's own `add` would mend some of them."""
    parts = []
    for info, content in items:
        parts += [info.tobuf(format, "utf-8", "surrogateescape"), content, bytes(-len(content) % 512)]
    return b"".join(parts) + bytes(1024)


def put(tmp_path: Path, *items: Item, limits: Limits | None = None) -> Path:
    unpack(io.BytesIO(pack(*items)), str(tmp_path / "layer"), limits=limits)
    return tmp_path / "layer"


def tree(root: str | Path) -> dict[str, tuple[object, ...]]:
    """All that lstat, the attributes and the content say, and which names are one file."""
    seen: dict[str, tuple[object, ...]] = {}
    groups: dict[tuple[int, int], str] = {}
    for above, directories, files in os.walk(os.fsencode(root)):
        directories.sort()
        for name in sorted([*directories, *files, *([b"."] if above == os.fsencode(root) else [])]):
            path = os.path.join(above, name)
            entry = os.lstat(path)
            content: object = entry.st_rdev
            if stat.S_ISREG(entry.st_mode):
                content = hashlib.sha256(Path(os.fsdecode(path)).read_bytes()).hexdigest()
            elif stat.S_ISLNK(entry.st_mode):
                content = os.readlink(path)
            attributes = {
                key: os.getxattr(path, key, follow_symlinks=False) for key in os.listxattr(path, follow_symlinks=False)
            }
            relative = os.fsdecode(os.path.relpath(path, os.fsencode(root)))
            group = groups.setdefault((entry.st_dev, entry.st_ino), relative) if entry.st_nlink > 1 else relative
            owner = (entry.st_uid, entry.st_gid, 0 if stat.S_ISDIR(entry.st_mode) else entry.st_size)
            seen[relative] = (entry.st_mode, owner, entry.st_mtime_ns, content, attributes, group)
    return seen


def zoo(root: Path) -> None:
    """Something of everything that a layer can hold."""
    (root / "etc").mkdir(parents=True)
    (root / "etc/plain").write_text("plain")
    (root / "etc/empty").touch()
    os.chmod(root / "etc/empty", 0)
    (root / "etc/setuid").write_text("s")
    os.chown(root / "etc/setuid", 7, 8)
    os.chmod(root / "etc/setuid", 0o6755)
    (root / "tmp").mkdir()
    os.chmod(root / "tmp", 0o1777)
    (root / "mail").mkdir()
    os.chown(root / "mail", 0, 8)
    os.chmod(root / "mail", 0o2775)
    (root / "mail/box").write_text("m")
    os.chown(root / "mail/box", 3_000_000, 0)
    (root / "closed").mkdir()
    (root / "closed/in").write_text("i")
    os.chmod(root / "closed", 0)
    (root / "absolute").symlink_to("/etc/passwd")
    (root / "up").symlink_to("../../../..")
    (root / "loop").symlink_to("loop")
    os.chown(root / "loop", 5, 6, follow_symlinks=False)
    os.utime(root / "loop", ns=(1, 2_000_000_003), follow_symlinks=False)
    (root / "hard1").write_text("hard")
    os.link(root / "hard1", root / "etc/hard2")
    os.link(root / "absolute", root / "hard-symlink", follow_symlinks=False)
    os.mkfifo(root / "fifo", 0o640)
    os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.chmod(root / "null", 0o666)
    os.mknod(root / "disk", stat.S_IFBLK | 0o660, os.makedev(259, 70_000))
    deep = root / ("d" * 90) / ("e" * 90) / ("f" * 90)
    deep.mkdir(parents=True)
    (deep / ("g" * 200)).write_text("long")
    (deep / "link").symlink_to("t" * 300)
    for name in (b"latin-\xe4\xf6", "utf-8-äö€".encode(), b"new\nline", b" space ", b"back\\slash", b"a=b"):
        Path(os.fsdecode(os.fsencode(root) + b"/" + name)).write_bytes(name)
    os.setxattr(root / "etc/plain", "user.note", bytes(range(256)))
    os.setxattr(root / "etc/plain", "user.a=b%", b"odd key")
    os.setxattr(root / "tmp", "trusted.mark", b"directory")
    os.setxattr(root / "etc/setuid", "security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))
    os.chmod(root / "etc/setuid", 0o6755)
    with open(root / "holes", "wb") as file:
        for at in (0, 1 << 20, 5 << 20, (6 << 20) + 4096, 8 << 20, 9 << 20, 10 << 20):
            file.seek(at)
            file.write(b"data" * 1024)
        file.truncate(20 << 20)
    (root / "big").write_bytes(random.Random(1).randbytes(3_000_001))
    # (rglob of Python 3.11.2 stumbles over the link whose target's name is too long)
    paths = [Path(top, name) for top, folders, files in os.walk(root) for name in (*folders, *files)]
    for number, path in enumerate(sorted(paths)):
        if path.name != "loop":
            os.utime(path, ns=(1, 1_600_000_000_123_456_789 + number), follow_symlinks=False)
    os.utime(root, ns=(1, 1_500_000_000_000_000_001))


GNU = ["tar", "--numeric-owner", "--xattrs", "--xattrs-include=*"]
FORMATS = {
    "pax": ["--format=pax", "--pax-option=delete=atime,delete=ctime"],
    "gnu": ["--format=gnu"],
    "pax sparse 0.0": ["--format=pax", "--sparse", "--sparse-version=0.0"],
    "pax sparse 0.1": ["--format=pax", "--sparse", "--sparse-version=0.1"],
    "pax sparse 1.0": ["--format=pax", "--sparse", "--sparse-version=1.0"],
    "gnu sparse": ["--format=gnu", "--sparse"],
}


class TestPeers:
    @pytest.mark.parametrize("form", FORMATS)
    def test_the_tree_is_what_gnu_tar_unpacks(self, tmp_path: Path, form: str) -> None:
        zoo(tmp_path / "zoo")
        archive = tmp_path / "layer.tar"
        options = FORMATS[form]
        command = GNU if "pax" in form else GNU[:2]
        subprocess.run([*command, *options, "-cf", archive, "-C", tmp_path / "zoo", "."], check=True)
        (tmp_path / "theirs").mkdir()
        subprocess.run([*GNU, "-xpf", archive, "-C", tmp_path / "theirs"], check=True)
        with open(archive, "rb") as stream:
            result = unpack(stream, str(tmp_path / "ours"))
        assert tree(tmp_path / "ours") == tree(tmp_path / "theirs")
        assert result.diff_id == f"sha256:{hashlib.sha256(archive.read_bytes()).hexdigest()}"
        assert result.size == archive.stat().st_size
        if form.startswith("pax"):
            assert tree(tmp_path / "ours") == tree(tmp_path / "zoo")
        if "sparse" in form:
            assert os.stat(tmp_path / "ours/holes").st_blocks * 512 < 1 << 20

    def test_a_real_tree_is_what_gnu_tar_unpacks(self, tmp_path: Path) -> None:
        archive = tmp_path / "layer.tar"
        subprocess.run(
            [*GNU, "-cf", archive, "-C", "/", "etc", "usr/lib/apt", "usr/share/perl"],
            check=True,
            stderr=subprocess.DEVNULL,
        )
        (tmp_path / "theirs").mkdir()
        subprocess.run([*GNU, "-xpf", archive, "-C", tmp_path / "theirs"], check=True)
        with open(archive, "rb", buffering=0) as stream:
            unpack(stream, str(tmp_path / "ours"))
        ours, theirs = tree(tmp_path / "ours"), tree(tmp_path / "theirs")
        for implied in (".", "usr", "usr/lib", "usr/share"):
            del ours[implied], theirs[implied]
        assert ours == theirs
        assert len(ours) > 500

    def test_layers_stacked_are_what_umoci_unpacks(self, tmp_path: Path) -> None:
        """Three layers of `commit`, with whiteouts and opaque directories, through an OCI layout."""
        base, target = tmp_path / "l0", tmp_path / "merged"
        target.mkdir()
        zoo(base)
        os.unlink(base / "disk")  # umoci has no device numbers that large
        layers, blobs = [str(base)], [tmp_path / "0.tar"]
        scripts = [
            "rm etc/plain; rm -r mail; mkdir mail; echo new > mail/new; echo more >> etc/setuid; ln hard1 hard3",
            "rm -r tmp; echo file > tmp; rm big; mkdir big; echo x > big/x; rm mail/new; chmod 700 closed; touch etc",
        ]
        with open(blobs[0], "wb") as stream:
            overlayfs.commit(str(base), stream)
        for number, script in enumerate(scripts, 1):
            with overlayfs.mounted(layers, str(tmp_path / f"c{number}"), str(target)):
                subprocess.run(["sh", "-ec", script], cwd=target, check=True)
            blobs.append(tmp_path / f"{number}.tar")
            with open(blobs[-1], "wb") as stream:
                overlayfs.commit(str(tmp_path / f"c{number}/upper"), stream)
            with open(blobs[-1], "rb") as stream:
                unpack(stream, str(tmp_path / f"l{number}"))
            layers.append(str(tmp_path / f"l{number}"))
        with open(blobs[0], "rb") as stream:
            unpack(stream, str(tmp_path / "unpacked-base"))
        layers[0] = str(tmp_path / "unpacked-base")
        umoci(tmp_path / "oci", blobs, tmp_path / "bundle")
        with overlayfs.mounted(layers, None, str(target)):
            ours = tree(target)
        theirs = tree(tmp_path / "bundle/rootfs")
        assert ours.keys() == theirs.keys()
        for name in ours:
            # umoci writes no times of its own to the root; overlayfs breaks up no link here, but counts them apart
            assert ours[name][:2] == theirs[name][:2], name
            assert ours[name][3:5] == theirs[name][3:5], name
            if name != ".":
                assert ours[name][2] == theirs[name][2], name


def umoci(layout: Path, blobs: list[Path], bundle: Path) -> None:
    """Unpack plain tars as one image with umoci."""

    def blob(data: bytes) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        (layout / "blobs/sha256").mkdir(parents=True, exist_ok=True)
        (layout / "blobs/sha256" / digest).write_bytes(data)
        return {"digest": f"sha256:{digest}", "size": len(data)}

    oci = "application/vnd.oci.image"
    layers = [{"mediaType": f"{oci}.layer.v1.tar"} | blob(path.read_bytes()) for path in blobs]
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]},
    }
    described = {"mediaType": f"{oci}.config.v1+json"} | blob(json.dumps(config).encode())
    manifest = {"schemaVersion": 2, "mediaType": f"{oci}.manifest.v1+json", "config": described, "layers": layers}
    entry = {"mediaType": f"{oci}.manifest.v1+json"} | blob(json.dumps(manifest).encode())
    entry["annotations"] = {"org.opencontainers.image.ref.name": "x"}
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    subprocess.run(["umoci", "unpack", "--image", f"{layout}:x", bundle], check=True)


class TestWhiteouts:
    @pytest.mark.lab
    def test_both_forms_become_overlayfs_own(self, tmp_path: Path) -> None:
        root = put(tmp_path, directory("d"), item("d/.wh..wh..opq"), item("d/new"), item(".wh.gone"))
        assert whiteouts.is_whiteout(os.lstat(root / "gone"))
        assert os.getxattr(root / "d", "trusted.overlay.opaque") == b"y"
        assert sorted(os.listdir(root)) == ["d", "gone"]
        assert os.listdir(root / "d") == ["new"]

    @pytest.mark.parametrize("order", [1, -1])
    def test_a_whiteout_hides_what_is_below_and_never_what_its_own_layer_brings(
        self, tmp_path: Path, order: int
    ) -> None:
        items = [item(".wh.file"), item("file", content=b"own")], [item(".wh.d"), directory("d")]
        root = put(tmp_path, *(entry for pair in items for entry in pair[::order]), item("d/in"))
        assert (root / "file").read_bytes() == b"own"
        assert os.getxattr(root / "d", "trusted.overlay.opaque") == b"y"

    def test_a_directory_that_is_only_implied_replaces_its_whiteout(self, tmp_path: Path) -> None:
        root = put(tmp_path, item("a/.wh.b"), item("a/b/c"))
        assert (root / "a/b/c").exists()
        assert os.getxattr(root / "a/b", "trusted.overlay.opaque") == b"y"

    @pytest.mark.parametrize(
        "name", [".wh.", ".wh..", ".wh...", "d/.wh...", ".wh..wh.x", ".wh..wh..wh..opq", ".wh..wh..opq", ".wh.d/x"]
    )
    def test_what_no_whiteout_can_mean_is_refused(self, tmp_path: Path, name: str) -> None:
        refused(tmp_path, directory("d"), item(name))


def refused(
    tmp_path: Path, *items: Item, match: str | None = None, limits: Limits | None = None, data: bytes = b""
) -> None:
    """The layer is refused with an ImageError, nothing of it stays, nothing outside has changed."""
    outside = tmp_path / "outside"
    outside.mkdir(exist_ok=True)
    (outside / "file").write_text("outside")
    before = tree(tmp_path)
    with pytest.raises(ImageError, match=match):
        unpack(io.BytesIO(data or pack(*items)), str(tmp_path / "layer"), limits=limits)
    after = tree(tmp_path)
    for seen in (before, after):
        seen.pop(".")
    assert after == before


class TestEscapes:
    @pytest.mark.parametrize(
        "name",
        ["..", "../x", "a/../../x", "a/..", "./../x", "{outside}/x", "/{outside}/x", "a/b/../../../outside/file"],
    )
    @pytest.mark.lab
    def test_names_that_leave(self, tmp_path: Path, name: str) -> None:
        refused(tmp_path, directory("a"), item(name.format(outside=tmp_path / "outside")))

    @pytest.mark.parametrize("name", ["../x", "/etc/x"])
    def test_names_that_leave_are_named(self, tmp_path: Path, name: str) -> None:
        refused(tmp_path, item(name), match=rf"the name {re.escape(name)} (is absolute|has `\.\.`)")

    # Those come first that do no harm to a machine on which a learner's version is led out by them.
    @pytest.mark.lab
    @pytest.mark.parametrize("target", ["..", "../outside", "{outside}", "a/../../outside", "/proc/self/root", "/"])
    @pytest.mark.parametrize("name", ["link/file", "link/new/file", "link/.wh.file", "link/.wh..wh..opq"])
    def test_through_a_symbolic_link(self, tmp_path: Path, target: str, name: str) -> None:
        target = target.format(outside=tmp_path / "outside")
        refused(tmp_path, directory("a"), link("link", target), item(name, content=b"bad"))

    @pytest.mark.parametrize("target", ["../outside/file", "/etc/passwd", "link/file", "link", "d", "nothing", "h"])
    def test_through_a_hard_link(self, tmp_path: Path, target: str) -> None:
        items = [directory("d"), link("link", "../outside"), hard_link("h", target)]
        if target == "link":
            root = put(tmp_path, *items)
            assert os.readlink(root / "h") == "../outside"
        else:
            refused(tmp_path, *items)

    def test_a_hard_link_to_a_symbolic_link_is_not_written_through(self, tmp_path: Path) -> None:
        outside = tmp_path / "outside"
        outside.write_text("outside")
        root = put(tmp_path, link("s", "../outside"), hard_link("h", "s"), item("h", content=b"mine"))
        assert (root / "h").read_bytes() == b"mine"
        assert outside.read_text() == "outside"

    @pytest.mark.lab
    def test_a_directory_swapped_for_a_symbolic_link_between_two_entries(self, tmp_path: Path) -> None:
        refused(tmp_path, directory("d"), item("d/a"), link("d", "../outside"), item("d/file", content=b"bad"))
        refused(tmp_path, item("d/e/a"), link("d", ".."), item("d/e/file"), item("d/outside/file"))

    @pytest.mark.lab
    def test_a_symbolic_link_swapped_for_another_between_two_entries(self, tmp_path: Path) -> None:
        refused(tmp_path, directory("in"), link("d", "in"), item("d/a"), link("d", "../outside"), item("d/file"))

    def test_a_link_that_stays_inside_is_followed_like_gnu_tar_does(self, tmp_path: Path) -> None:
        items = [directory("usr/lib"), link("lib", "usr/lib"), item("lib/x"), link("usr/l", "lib"), item("usr/l/y")]
        data = pack(*items)
        unpack(io.BytesIO(data), str(tmp_path / "ours"))
        (tmp_path / "theirs").mkdir()
        subprocess.run(["tar", "-xpf", "-", "-C", tmp_path / "theirs"], input=data, check=True)
        assert sorted(os.listdir(tmp_path / "ours/usr/lib")) == ["x", "y"]
        assert tree(tmp_path / "ours").keys() == tree(tmp_path / "theirs").keys()

    @pytest.mark.lab
    def test_a_link_with_dots_that_stays_inside_is_followed_too(self, tmp_path: Path) -> None:
        root = put(tmp_path, directory("usr/lib"), link("usr/up", "../usr/lib"), item("usr/up/y"))
        assert (root / "usr/lib/y").exists()

    @pytest.mark.lab
    def test_a_symbolic_link_anywhere_is_only_a_name(self, tmp_path: Path) -> None:
        root = put(tmp_path, link("a", "/etc/passwd"), link("b", "../../../x"))
        assert [os.readlink(root / name) for name in "ab"] == ["/etc/passwd", "../../../x"]

    @pytest.mark.lab
    def test_a_file_in_the_place_of_a_link_replaces_the_link(self, tmp_path: Path) -> None:
        outside = tmp_path / "outside"
        outside.write_text("outside")
        root = put(tmp_path, link("a", "../outside"), item("a", content=b"mine", mode=0o600))
        assert (root / "a").read_bytes() == b"mine"
        assert outside.read_text() == "outside"

    def test_a_directory_in_the_place_of_a_link_replaces_the_link(self, tmp_path: Path) -> None:
        outside = tmp_path / "outside"
        outside.mkdir()
        mode = outside.stat().st_mode
        root = put(tmp_path, link("a", "../outside"), directory("a", mode=0o700), item("a/x"))
        assert (root / "a/x").exists()
        assert os.listdir(outside) == []
        assert outside.stat().st_mode == mode

    @pytest.mark.parametrize("key", ["opaque", "redirect", "metacopy", "origin"])
    def test_attributes_that_are_overlayfs_own(self, tmp_path: Path, key: str) -> None:
        headers = {f"SCHILY.xattr.trusted.overlay.{key}": "/etc"}
        refused(tmp_path, directory("d", pax_headers=headers), match="overlayfs's own")

    def test_devices(self, tmp_path: Path) -> None:
        device = item("null", tarfile.CHRTYPE, devmajor=1, devminor=3)
        refused(tmp_path, device, limits=Limits(devices=False), match="not allowed")
        refused(tmp_path, item("gone", tarfile.CHRTYPE), match="whiteout")
        assert stat.S_ISCHR(os.lstat(put(tmp_path, device) / "null").st_mode)

    def test_ten_thousand_directories_deep(self, tmp_path: Path) -> None:
        for name in ("d/" * 10_000 + "f", "d/" * 501 + "f"):
            refused(tmp_path, item(name))
        assert (put(tmp_path, item("d/" * 499 + "f")) / ("d/" * 499 + "f")).exists()

    def test_a_name_longer_than_the_filesystem_can_hold(self, tmp_path: Path) -> None:
        refused(tmp_path, item("n" * 256), match="ENAMETOOLONG")

    def test_a_file_where_a_directory_is_needed(self, tmp_path: Path) -> None:
        refused(tmp_path, item("f"), item("f/x"), match="ENOTDIR")
        refused(tmp_path, link("s", "nowhere"), item("s/x"), match="nowhere")
        refused(tmp_path, link("s", "s"), item("s/x"), match="ELOOP")

    def test_a_file_for_the_root(self, tmp_path: Path) -> None:
        refused(tmp_path, item("."))
        refused(tmp_path, link("./", "/etc"))


class TestDuplicates:
    def test_the_last_one_wins(self, tmp_path: Path) -> None:
        root = put(
            tmp_path,
            item("file", content=b"first", mode=0o4755),
            hard_link("same", "file"),
            item("file", content=b"last"),
            directory("d", mode=0o700),
            item("d/x"),
            directory("d", mode=0o755),
            directory("becomes-file"),
            item("becomes-file/x/y"),
            item("becomes-file"),
            link("becomes-directory", "anywhere"),
            directory("becomes-directory"),
            item("device", tarfile.FIFOTYPE),
            link("device", "d"),
        )
        assert (root / "file").read_bytes() == b"last"
        assert (root / "same").read_bytes() == b"first"
        assert stat.S_IMODE((root / "file").stat().st_mode) == 0o644
        assert (root / "d/x").exists()
        assert (root / "becomes-file").is_file()
        assert (root / "becomes-directory").is_dir()
        assert os.readlink(root / "device") == "d"

    def test_directories_keep_their_times_whatever_is_put_in_later(self, tmp_path: Path) -> None:
        root = put(tmp_path, directory("."), directory("d"), item("d/x"), item("y"), directory("d/e"), item("d/e/z"))
        for path in (root, root / "d", root / "d/e"):
            assert path.stat().st_mtime == 1_000_000_000


class TestBrokenArchives:
    def test_cut_off_anywhere(self, tmp_path: Path) -> None:
        entry = item("n" * 150, content=b"x" * 1500, pax_headers={"SCHILY.xattr.user.x": "y" * 600})
        data = pack(entry, item("second", content=b"y"))[:-1024]
        ends = (0, len(pack(entry)) - 1024, len(data))  # between two entries: only the digest can tell
        for length in sorted(
            {*range(1, len(data), 61), *(at + by for at in range(512, len(data), 512) for by in (-1, 0, 1))}
        ):
            if length not in ends:
                refused(tmp_path, data=data[:length])
        for length in ends[1:]:
            unpack(io.BytesIO(data[:length]), str(tmp_path / str(length)))

    @pytest.mark.parametrize(
        "field",
        [
            (124, b"-0000000001\0"),
            (124, b"\xff" * 12),
            (124, b"\x80" + b"\xff" * 11),
            (124, b"0x000000000\0"),
            (124, b"1_0\0\0\0\0\0\0\0\0\0"),
            (124, b"99999999999\0"),
            (124, b"77777777777\0"),
            (108, b"\xff" * 8),
            (108, b"\x80\0\0\0\xff\xff\xff\xff"),
            (156, b"Z"),
            (156, b"M"),
        ],
    )
    def test_header_fields_that_lie(self, tmp_path: Path, field: tuple[int, bytes]) -> None:
        block = bytearray(pack(item("x")))
        at, value = field
        block[at : at + len(value)] = value
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block[:512])
        refused(tmp_path, data=bytes(block))

    def test_no_tar_at_all(self, tmp_path: Path) -> None:
        refused(tmp_path, data=random.Random(1).randbytes(4096), match="no tar|checksum")
        refused(tmp_path, data=b"\x1f\x8b" + bytes(2000), match="no tar|checksum")

    @pytest.mark.parametrize(
        "records",
        [
            b"30 size=1\n",
            b"0 size=1\n",
            b"11 size=-10\n",
            b"-1 size=1\n",
            b"10 size=1\n",
            b"9 size1\n\n\n",
            b"x size=1\n",
            b"28 size=99999999999999999999\n",
            b"12 size=1e3\n\n",
            b"15 uid=4294967295\n",
            b"12 path=a\0b\n",
            b"18 mtime=tomorrow\n",
            b"5 =x\n",
            b"12 path=../x\n",
            b"12 path=/etc\n",
        ],
    )
    def test_pax_records_that_lie(self, tmp_path: Path, records: bytes) -> None:
        header, _ = item("x", b"x", records)
        refused(tmp_path, data=pack((header, records), item("f", content=b"x" * 2000)))

    def test_pax_size_counts_and_not_the_headers(self, tmp_path: Path) -> None:
        """An entry hidden in another's data must not be seen, whichever size is believed elsewhere."""
        hidden = pack(item("hidden"))
        entry, _ = item("f", content=b"")
        header, _ = item("x", b"x", b"13 size=1536\n")
        assert len(hidden) == 1536
        data = pack((header, b"13 size=1536\n"))[:-1024] + pack((entry, b""))[:-1024] + hidden + pack(item("after"))
        unpack(io.BytesIO(data), str(tmp_path / "layer"))
        assert sorted(os.listdir(tmp_path / "layer")) == ["after", "f"]
        assert (tmp_path / "layer/f").read_bytes() == hidden

    def test_records_without_an_entry_and_too_many_of_them(self, tmp_path: Path) -> None:
        header, _ = item("x", b"x", b"10 path=a\n")
        refused(tmp_path, data=pack((header, b"10 path=a\n")), match="before the entry")
        for kind in (b"x", b"L"):
            header, content = item("x", kind, b"a" * (1 << 21))
            refused(tmp_path, data=pack((header, content)), match="at most")

    def test_a_global_header_cannot_change_entries(self, tmp_path: Path) -> None:
        comment = b"17 comment=hello\n"
        header, _ = item("x", b"g", comment)
        unpack(io.BytesIO(pack((header, comment), item("f"))), str(tmp_path / "good"))
        header, _ = item("x", b"g", b"9 size=5\n")
        refused(tmp_path, data=pack((header, b"9 size=5\n"), item("f")), match="global")

    @pytest.mark.parametrize(
        "records",
        [
            {"GNU.sparse.size": "10", "GNU.sparse.map": "0,5,3,5"},
            {"GNU.sparse.size": "10", "GNU.sparse.map": "0,5,8,5"},
            {"GNU.sparse.size": "10", "GNU.sparse.map": "0"},
            {"GNU.sparse.size": "10", "GNU.sparse.map": "0,9"},
            {"GNU.sparse.map": "0,10"},
            {"GNU.sparse.size": str(1 << 50), "GNU.sparse.map": "0,10"},
            {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "10"},
        ],
    )
    def test_maps_of_holes_that_lie(self, tmp_path: Path, records: dict[str, str]) -> None:
        refused(tmp_path, item("f", content=b"x" * 10, pax_headers=records))

    def test_random_damage_never_gets_out_and_never_crashes(self, tmp_path: Path) -> None:
        zoo(tmp_path / "zoo")
        os.unlink(tmp_path / "zoo/big")
        os.unlink(tmp_path / "zoo/holes")
        stream = io.BytesIO()
        overlayfs.commit(str(tmp_path / "zoo"), stream)
        choose = random.Random(7)
        (tmp_path / "in").mkdir()
        before = tree(tmp_path)
        failed = 0
        for _ in range(300):
            data = bytearray(stream.getvalue())
            for _ in range(choose.randrange(1, 4)):
                at = choose.randrange(len(data))
                data[at] = choose.randrange(256)
                block = at // 512 * 512
                total = sum(data[block : block + 512]) - sum(data[block + 148 : block + 156]) + 256
                data[block + 148 : block + 156] = b"%06o\0 " % total
            try:
                unpack(io.BytesIO(data), str(tmp_path / "in/layer"))
                subprocess.run(["rm", "-rf", tmp_path / "in/layer"], check=True)
            except (ImageError, HostError):
                failed += 1
            assert os.listdir(tmp_path / "in") == []
        after = tree(tmp_path)
        for seen in (before, after):
            seen.pop("in")
        assert after == before
        assert failed > 50


class TestLimits:
    def test_bytes_of_the_archive(self, tmp_path: Path) -> None:
        refused(tmp_path, item("f", content=b"x" * 5000), limits=Limits(size=4000), match="larger than 4000")
        refused(tmp_path, data=pack(item("f")) + bytes(1 << 21), limits=Limits(size=1 << 20), match="larger")

    def test_bytes_of_one_file(self, tmp_path: Path) -> None:
        refused(tmp_path, item("f", content=b"x" * 5000), limits=Limits(file_size=4999), match="5000 bytes")

    def test_entries(self, tmp_path: Path) -> None:
        items = [item(str(number)) for number in range(11)]
        refused(tmp_path, *items, limits=Limits(entries=10), match="more than 10 entries")

    def test_holes_count(self, tmp_path: Path) -> None:
        records = {"GNU.sparse.size": "1000000", "GNU.sparse.map": "0,1"}
        bomb = [item(str(number), content=b"x", pax_headers=dict(records)) for number in range(20)]
        refused(tmp_path, *bomb, limits=Limits(size=10_000_000), match="more than 10000000")
        refused(tmp_path, bomb[0], limits=Limits(file_size=999_999), match="1000000 bytes")

    def test_an_endless_stream_is_left_at_the_limit(self, tmp_path: Path) -> None:
        class Endless:
            def __init__(self) -> None:
                self.read_bytes = 0
                self.first = item("f")[0]
                self.first.size = 1 << 40

            def read(self, size: int, /) -> bytes:
                data = self.first.tobuf(tarfile.GNU_FORMAT) if not self.read_bytes else bytes(size)
                self.read_bytes += len(data)
                return data

        stream = Endless()
        with pytest.raises(ImageError, match="at most"):
            unpack(stream, str(tmp_path / "layer"))
        assert stream.read_bytes < 4 << 20
        assert os.listdir(tmp_path) == []


class TestHere:
    def test_a_directory_that_is_in_use_is_left_alone(self, tmp_path: Path) -> None:
        (tmp_path / "layer").mkdir()
        (tmp_path / "layer/precious").touch()
        with pytest.raises(ConflictError):
            unpack(io.BytesIO(pack(item("x"))), str(tmp_path / "layer"))
        assert os.listdir(tmp_path / "layer") == ["precious"]

    def test_a_full_disk_is_said_and_leaves_nothing(self, tmp_path: Path) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path], check=True)
        try:
            with pytest.raises(HostError, match="ENOSPC"):
                unpack(io.BytesIO(pack(item("d/f", content=bytes(2 << 20)))), str(tmp_path / "layer"))
            assert os.listdir(tmp_path) == []
        finally:
            subprocess.run(["umount", tmp_path], check=True)

    def test_a_stream_that_breaks_leaves_nothing(self, tmp_path: Path) -> None:
        class Breaks(io.BytesIO):
            def read(self, size: int | None = -1, /) -> bytes:
                if self.tell() > 1 << 20:
                    raise OSError(errno.ECONNRESET, "reset")
                return super().read(size)

        with pytest.raises(OSError):
            unpack(Breaks(pack(item("f", content=bytes(5 << 20)))), str(tmp_path / "layer"))
        assert os.listdir(tmp_path) == []

    def test_modes_do_not_depend_on_our_umask(self, tmp_path: Path) -> None:
        before = os.umask(0o077)
        try:
            root = put(tmp_path, directory("."), directory("d", mode=0o777), item("d/f", mode=0o666), item("i/f"))
        finally:
            os.umask(before)
        assert [stat.S_IMODE((root / name).stat().st_mode) for name in (".", "d", "d/f", "i")] == [
            0o755,
            0o777,
            0o666,
            0o755,
        ]

    def test_memory_does_not_grow_with_the_layer(self, tmp_path: Path) -> None:
        class Zeros:
            """A hundred files of 8 MiB."""

            def __init__(self) -> None:
                header = [pack(item(str(number)))[:-1024] for number in range(100)]
                self.parts = [part for head in header for part in (self.sized(head), bytes(8 << 20))]
                self.parts = [part for part in self.parts if len(part) == 512]
                self.number = 0

            def sized(self, header: bytes) -> bytes:
                block = bytearray(header)
                block[124:136] = b"%011o\0" % (8 << 20)
                block[148:156] = b" " * 8
                block[148:156] = b"%06o\0 " % sum(block)
                return bytes(block)

            def read(self, size: int, /) -> bytes:
                self.number += 1
                part, rest = divmod(self.number - 1, 9)
                if part >= 20:
                    return b""
                return self.parts[part] if rest == 0 else bytes(1 << 20)

        source = Zeros()
        tracemalloc.start()
        try:
            result = unpack(source, str(tmp_path / "layer"))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert isinstance(result, Unpacked)
        assert result.size == 20 * (512 + (8 << 20))
        assert peak < 16 << 20
