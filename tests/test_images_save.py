"""Save and load: what we write docker, podman, skopeo and umoci read, and the other way round."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from images import MadeImage, contents, digest_of, index_of, tar_of
from registry import data_root
from stores import grow, told

from minicontainer.errors import ConflictError, HostError, ImageError, NotFoundError, UsageError
from minicontainer.images import Image, Store, get, images, load, pull, remove, save, tag
from minicontainer.images.saving import FORMATS
from minicontainer.images.tar import Limits

if TYPE_CHECKING:
    from stores import Ask

NAME = "example.org/team/made:1"


@pytest.fixture
def made(root: str) -> Image:
    """Three layers: a shell, a change, a deletion."""
    return grow(
        f"{root}/..",
        NAME,
        {"srv/page": b"one\n", "srv/gone": b"x", "noise": os.urandom(400_000)},
        {"srv/page": b"two\n"},
        {"srv/gone": None},
        cmd=["/bin/sh", "-c", "cat /srv/page; ls /srv"],
        env={"PATH": "/bin"},
        labels={"a": "b"},
    )


def again(source: str, root: str, **how: Any) -> list[Image]:
    """Load in a store of its own."""
    with data_root(f"{root}/../{os.urandom(4).hex()}"):
        return load(source, **how)


@pytest.mark.parametrize("form", FORMATS)
def test_what_was_saved_is_loaded_with_all_its_digests(root: str, made: Image, form: str) -> None:
    save(NAME, f"{root}/../out", format=form)
    (image,) = again(f"{root}/../out", root)
    assert (image.name, image.id, image.digest) == (made.name, made.id, made.digest)
    assert image.store.document(image.digest) == made.store.document(made.digest)
    with open(f"{image.layers[1]}/srv/page") as file:
        assert file.read() == "two\n"


def test_the_same_image_makes_the_same_bytes(root: str, made: Image) -> None:
    save(NAME, f"{root}/../one")
    buffer = io.BytesIO()
    save([NAME], buffer)
    assert Path(f"{root}/../one").read_bytes() == buffer.getvalue()


def test_docker_loads_and_runs_what_we_saved(root: str, made: Image, docker: Ask) -> None:
    tag(NAME, "second/name:2")
    save([NAME, "second/name:2"], f"{root}/../out")
    said = docker("load", "-i", f"{root}/../out")
    assert f"Loaded image: {NAME}" in said
    assert "Loaded image: second/name:2" in said
    assert docker("image", "inspect", "--format", "{{.Id}}", NAME).strip() == made.id
    # neither is there a network in this place, nor may every test machine start containers in it: create and look
    container = docker("create", NAME).strip()
    docker("export", "-o", f"{root}/../tree.tar", container)
    docker("rm", container)
    assert told("tar", "-xOf", f"{root}/../tree.tar", "srv/page") == "two\n"
    assert "srv/gone" not in told("tar", "-tf", f"{root}/../tree.tar").split()


def test_what_docker_saved_is_loaded_under_its_id_and_names(root: str, made: Image, docker: Ask) -> None:
    save(NAME, f"{root}/../out")
    docker("load", "-i", f"{root}/../out")
    docker("tag", NAME, "other:3")
    docker("save", "-o", f"{root}/../theirs", NAME, "other:3")
    found = again(f"{root}/../theirs", root)
    assert sorted(image.name for image in found) == sorted([NAME, "other:3"])
    assert {image.id for image in found} == {made.id}
    assert found[0].manifest.layers == found[1].manifest.layers or found[0].digest == found[1].digest
    assert all(layer.media_type.endswith("gzip") for layer in found[0].manifest.layers)
    docker("save", "-o", f"{root}/../nameless", made.id)
    (image,) = again(f"{root}/../nameless", root)
    assert (image.name, image.id) == ("", made.id)


@pytest.mark.parametrize("form", FORMATS)
def test_podman_loads_what_we_saved(
    root: str, made: Image, podman: Ask, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DOCKER_CONFIG")  # podman wants the file to be there
    save(NAME, f"{root}/../out", format=form)
    if form == "oci-dir":  # its `load` would take the directory's name for the image's
        loaded = podman("pull", f"oci:{os.path.realpath(root + '/../out')}:{NAME}").split()[-1]
        assert loaded == made.id.removeprefix("sha256:")
        return
    podman("load", "-i", f"{root}/../out")
    assert podman("image", "inspect", "--format", "{{.Id}}", NAME).strip() == made.id.removeprefix("sha256:")
    assert podman("image", "inspect", "--format", "{{.Labels.a}}", NAME).strip() == "b"


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive", "oci-dir", "docker-dir"])
def test_what_podman_saved_is_loaded(root: str, made: Image, podman: Ask, form: str) -> None:
    save(NAME, f"{root}/../out")
    podman("load", "-i", f"{root}/../out")
    podman("save", "--format", form, "-o", f"{root}/../theirs", NAME)
    if form == "docker-dir":  # skopeo's own dir: format, which is nobody else's
        with pytest.raises(ImageError, match="neither"):
            again(f"{root}/../theirs", root)
        return
    (image,) = again(f"{root}/../theirs", root)
    assert image.name == NAME
    assert image.config.raw["rootfs"] == made.config.raw["rootfs"]
    assert image.id == made.id


@pytest.mark.parametrize("form", FORMATS)
def test_skopeo_finds_the_same_in_it(root: str, made: Image, form: str) -> None:
    save(NAME, f"{root}/../out", format=form)
    place = f"oci:{root}/../out" if form == "oci-dir" else f"{form}:{root}/../out"
    seen = json.loads(told("skopeo", "inspect", "--config", f"{place}:{NAME}"))
    assert seen == made.config.raw
    if form != "docker-archive":  # from that it makes a manifest of its own
        assert json.loads(told("skopeo", "inspect", f"{place}:{NAME}"))["Digest"] == made.digest
    told("skopeo", "copy", f"{place}:{NAME}", f"oci-archive:{root}/../theirs:{NAME}")
    (image,) = again(f"{root}/../theirs", root)
    # between Docker's types and OCI's skopeo writes the config anew
    assert (image.name, image.config.diff_ids, image.argv()) == (NAME, made.config.diff_ids, made.argv())
    assert form == "docker-archive" or image.id == made.id
    told("skopeo", "copy", f"{place}:{NAME}", f"docker-archive:{root}/../theirs.tar:{NAME}")
    (image,) = again(f"{root}/../theirs.tar", root)
    assert (image.name, image.config.diff_ids, image.argv()) == (NAME, made.config.diff_ids, made.argv())


def test_umoci_unpacks_what_we_saved(root: str, made: Image) -> None:
    tag(NAME, "short")
    remove(NAME)
    save("short", f"{root}/../out", format="oci-dir")
    # umoci takes a tag without a slash only
    path = f"{root}/../out/index.json"
    index = json.loads(Path(path).read_text())
    index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"] = "short"
    Path(path).write_text(json.dumps(index))
    told("umoci", "unpack", "--image", f"{root}/../out:short", f"{root}/../bundle")
    assert Path(f"{root}/../bundle/rootfs/srv/page").read_text() == "two\n"
    assert not os.path.exists(f"{root}/../bundle/rootfs/srv/gone")
    (image,) = again(f"{root}/../out", root)
    assert image.name == "short:latest"  # containerd's annotation has the whole name still


def test_an_image_that_came_with_dockers_types_keeps_its_digest(root: str, registry: str) -> None:
    grow(f"{root}/..", f"{registry}/typed:1", {"x": b"x"})
    from minicontainer.images import push

    push(f"{registry}/typed:1")
    theirs = f"docker://{registry}/typed"
    insecure = ("--src-tls-verify=false", "--dest-tls-verify=false")
    told("skopeo", "copy", *insecure, "--format", "v2s2", f"{theirs}:1", f"{theirs}:2")
    with data_root(f"{root}/../pulled"):
        image = pull(f"{registry}/typed:2")
        assert image.entry.verbatim
        save(image.name, f"{root}/../out")
    (back,) = again(f"{root}/../out", root)
    assert (back.digest, back.entry.verbatim) == (image.digest, image.entry.verbatim)


@pytest.mark.parametrize("pack", [("gzip", "-c"), ("zstd", "-c"), ("bzip2", "-c"), ("xz", "-c"), ("cat",)])
def test_a_compressed_archive_comes_through_a_pipe(root: str, made: Image, pack: tuple[str, ...]) -> None:
    if not shutil.which(pack[0]):
        pytest.skip(f"{pack[0]} is not here (apt-get install bzip2 xz-utils zstd)")
    save(NAME, f"{root}/../out")
    with data_root(f"{root}/../piped"):
        with open(f"{root}/../out", "rb") as file, subprocess.Popen(pack, stdin=file, stdout=subprocess.PIPE) as tool:
            assert tool.stdout is not None
            (image,) = load(tool.stdout)
        assert image.id == made.id


def test_several_images_share_what_they_share(root: str, made: Image) -> None:
    grow(f"{root}/..", "plain:1", {"other": b"x"})
    save([NAME, "plain:1"], f"{root}/../out")
    found = again(f"{root}/../out", root)
    assert [image.name for image in found] == [NAME, "plain:1"]
    with tarfile.open(f"{root}/../out") as archive:
        names = archive.getnames()
    assert len(names) == len(set(names))


def test_an_index_gives_the_manifest_for_the_platform(root: str) -> None:
    here, there = MadeImage({"a": b"here"}), MadeImage({"a": b"there"})
    there.config["architecture"] = "s390x"
    given = {"os": "linux", "architecture": here.config["architecture"]}
    inner = index_of((given, here.manifest), ({"os": "linux", "architecture": "s390x"}, there.manifest))
    parts = {f"blobs/sha256/{digest_of(inner)[7:]}": inner, "oci-layout": b'{"imageLayoutVersion":"1.0.0"}'}
    for image in (here, there):
        for blob in (image.manifest, image.config_document, *image.layers):
            parts[f"blobs/sha256/{digest_of(blob)[7:]}"] = blob
    line = {"mediaType": "application/vnd.oci.image.index.v1+json", "digest": digest_of(inner), "size": len(inner)}
    parts["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [line]}).encode()
    os.makedirs(root)
    Path(f"{root}/../out").write_bytes(tar_of(parts))
    (image,) = again(f"{root}/../out", root)
    assert (image.name, image.id) == ("", digest_of(here.config_document))
    (image,) = again(f"{root}/../out", root, platform="linux/s390x", name="other")
    assert (image.name, image.id) == ("other:latest", digest_of(there.config_document))
    with pytest.raises(ImageError, match="riscv64"):
        again(f"{root}/../out", root, platform="linux/riscv64")


def test_loading_twice_changes_nothing(root: str, made: Image) -> None:
    save(made.id, f"{root}/../out")
    before = [(image.name, image.digest) for image in images()]
    load(f"{root}/../out")
    assert [(image.name, image.digest) for image in images()] == before


# --- what must not work ----------------------------------------------------------------------------------------------


def test_what_is_not_there_or_makes_no_sense(root: str, made: Image) -> None:
    with pytest.raises(NotFoundError):
        save("nothing:here", f"{root}/../out")
    with pytest.raises(UsageError, match="format"):
        save(NAME, f"{root}/../out", format="zip")
    with pytest.raises(UsageError):
        save([], f"{root}/../out")
    with pytest.raises(UsageError, match="cannot be loaded"):
        load(f"{root}/../nothing")
    os.makedirs(f"{root}/../full/of")
    with pytest.raises(ConflictError, match="not empty"):
        save(NAME, f"{root}/../full", format="oci-dir")
    with pytest.raises(ImageError, match="neither"):
        load(f"{root}/../full")
    assert not os.path.exists(f"{root}/../out")


def test_a_damaged_blob_is_not_handed_on(root: str, made: Image) -> None:
    path = Store().blob(made.manifest.layers[0].digest)
    data = bytearray(Path(path).read_bytes())
    data[len(data) // 2] ^= 1
    Path(path).write_bytes(data)
    for form in FORMATS:
        with pytest.raises(ImageError, match="damaged"):
            save(NAME, f"{root}/../out", format=form)
    assert [name for name in os.listdir(f"{root}/..") if name.startswith("out")] == []


def docker_archive(change: dict[str, Any] | None = None, **files: bytes) -> bytes:
    """As old Docker writes it: plain layers, `manifest.json` at the end, a layer that is a link to another."""
    layer = tar_of({"hello": b"world\n"})
    config = json.dumps(
        {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [digest_of(layer)] * 2}}
    ).encode()
    listed = {"Config": "c.json", "RepoTags": ["old:1"], "Layers": ["a/layer.tar", "b/layer.tar"]} | (change or {})
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:

        def add(name: str, data: bytes) -> None:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))

        add("a/layer.tar", files.get("layer", layer))
        info = tarfile.TarInfo("b/layer.tar")
        info.type, info.linkname = tarfile.SYMTYPE, "../a/layer.tar"
        archive.addfile(info)
        add("c.json", files.get("config", config))
        add("manifest.json", files.get("listed", json.dumps([listed]).encode()))
    return buffer.getvalue()


def test_an_archive_of_old_docker(root: str) -> None:
    (image,) = load(io.BytesIO(docker_archive()))
    assert image.name == "old:1"
    with open(f"{image.layers[1]}/hello") as file:
        assert file.read() == "world\n"
    assert image.manifest.layers[0].digest == image.manifest.layers[1].digest
    with open(Store().blob(image.manifest.layers[0].digest), "rb") as file:
        assert gzip.decompress(file.read()) == tar_of({"hello": b"world\n"})


@pytest.mark.parametrize(
    ("archive", "match"),
    [
        (b"", "is empty"),
        (b"hello", "5 bytes"),
        (b"hello" * 1000, "no tar"),
        (bytes(1024), "neither"),
        (gzip.compress(b"x" * 2000), "no tar"),
        (docker_archive()[:3000], "cut off|neither"),
        (docker_archive(listed=b"{}"), "list"),
        (docker_archive(listed=b"["), "JSON"),
        (docker_archive(listed=b"[]"), "no image"),
        (docker_archive(listed=b"[1]"), "has 1"),
        (docker_archive({"Layers": "ab"}), "manifest.json"),
        (docker_archive({"Config": 5}), "manifest.json"),
        (docker_archive({"Config": "../../etc/passwd"}), "passwd"),
        (docker_archive({"Config": "/etc/passwd"}), "passwd"),
        (docker_archive({"Layers": ["a/layer.tar"]}), "diff_ids"),
        (docker_archive({"Layers": ["a/layer.tar", "no"]}), "no 'no'"),
        (docker_archive({"RepoTags": ["UPPER case"]}), "invalid reference"),
        (docker_archive(layer=tar_of({"hello": b"other\n"})), "config says"),
        (docker_archive(layer=gzip.compress(tar_of({"hello": b"other\n"}))), "config says"),
        (docker_archive(config=b"{}"), "rootfs"),
        (tar_of({"index.json": b"{}", "oci-layout": b"{}"}), "manifests"),
        (tar_of({"index.json": b'{"manifests":[{}]}', "oci-layout": b"{}"}), "media type"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_archive_of_images_leaves_nothing(root: str, archive: bytes, match: str) -> None:
    with pytest.raises(ImageError, match=match):
        load(io.BytesIO(archive))
    assert images() == []
    assert contents(root) == []


@pytest.mark.parametrize("what", ["manifest", "config", "layer"])
@pytest.mark.parametrize("damage", ["other", "gone", "longer"])
def test_a_layout_whose_blobs_are_not_what_they_are_called(root: str, made: Image, what: str, damage: str) -> None:
    save(NAME, f"{root}/../out", format="oci-dir")
    digest = {"manifest": made.digest, "config": made.id, "layer": made.manifest.layers[1].digest}[what]
    path = Path(f"{root}/../out/blobs/sha256/{digest[7:]}")
    data = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(data + b" " if damage == "longer" else data[:-1] + bytes([data[-1] ^ 1]))
    with data_root(f"{root}/../fresh"):
        with pytest.raises(ImageError, match="archive"):
            load(f"{root}/../out")
        assert images() == []
        assert contents(f"{root}/../fresh") == []


def test_nothing_is_read_outside_the_directory(root: str, made: Image) -> None:
    save(NAME, f"{root}/../out", format="oci-dir")
    path = f"{root}/../out/blobs/sha256/{made.id[7:]}"
    os.rename(path, f"{root}/../secret")
    os.symlink("../../../secret", path)
    with pytest.raises(ImageError, match="EXDEV"):
        again(f"{root}/../out", root)


def test_an_archive_larger_than_the_limit_is_left(root: str, made: Image) -> None:
    save(NAME, f"{root}/../out")
    with data_root(f"{root}/../fresh"):
        with pytest.raises(ImageError, match="larger"):
            load(f"{root}/../out", limits=Limits(size=100_000))
        assert contents(f"{root}/../fresh") == []


def test_a_full_disk_is_said_and_leaves_nothing(root: str, made: Image) -> None:
    save(NAME, f"{root}/../out")
    fresh = f"{root}/../small"
    os.mkdir(fresh)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", fresh], check=True)
    try:
        with data_root(fresh), pytest.raises(HostError, match="ENOSPC"):
            load(f"{root}/../out")
        assert contents(fresh) == []
    finally:
        subprocess.run(["umount", fresh], check=True)


LOAD = "import sys; from minicontainer.images import load; print('begin', flush=True); load(sys.argv[1])"


def test_a_load_killed_at_any_moment_leaves_a_store_that_opens_and_the_next_completes(root: str, made: Image) -> None:
    """Ten moments here; MINICONTAINER_KILLS says how many."""
    save(NAME, f"{root}/../out")
    count = int(os.environ.get("MINICONTAINER_KILLS", "10"))
    choose = random.Random(count)
    took = 0.5
    unfinished = 0
    for number in range(count):
        place = f"{root}/../kill{number}"
        with data_root(place):
            process = subprocess.Popen(
                [sys.executable, "-c", LOAD, f"{root}/../out"],
                stdout=subprocess.PIPE,
                cwd=os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
            )
            with process:
                assert process.stdout is not None
                process.stdout.readline()
                began = time.monotonic()
                try:
                    process.wait(timeout=choose.uniform(0, took) if number else None)
                    took = time.monotonic() - began if not number else took  # the first is let to its end
                except subprocess.TimeoutExpired:
                    process.send_signal(signal.SIGKILL)
                    unfinished += 1
            known = images()  # the store opens
            assert [image.name for image in known] in ([], [NAME])
            blobs = f"{place}/images/blobs/sha256"
            for name in os.listdir(blobs) if os.path.isdir(blobs) else []:
                assert hashlib.sha256(Path(blobs, name).read_bytes()).hexdigest() == name
            (image,) = load(f"{root}/../out")
            assert len(image.layers) == 3
            assert get(NAME).id == made.id
            deadline = time.monotonic() + 20
            while [entry for entry in contents(place) if entry.startswith("ingest/")]:
                assert time.monotonic() < deadline
                Store().collect()  # a killed one's workers need a moment to end
    assert unfinished > count // 5
