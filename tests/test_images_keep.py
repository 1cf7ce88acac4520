"""Housekeeping: damage is found and mended, sizes are the disk's own, and what nobody needs goes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from images import MadeImage, contents, fake_registry
from stores import grow, told

from minicontainer.errors import NotFoundError
from minicontainer.images import Image, Store, check, disk_usage, get, images, import_, prune, pull, remove, tag

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from images import FakeRegistry

    from minicontainer.images.checking import Finding

CLI = [sys.executable, "-m", "minicontainer.cli"]


@pytest.fixture
def made(root: str) -> MadeImage:
    return MadeImage({"etc/motd": b"hello\n", "noise": os.urandom(300_000)}, {"more": b"more"}, docker=True)


@pytest.fixture
def image(root: str, fake: FakeRegistry, made: MadeImage) -> Image:
    return pull(fake.serve(made))


def bad(findings: Iterator[Finding]) -> list[tuple[str, str, str]]:
    return [(found.kind, found.digest, found.status) for found in findings if found.status != "good"]


def test_a_sound_store_is_found_so_and_nothing_is_fetched(image: Image, fake: FakeRegistry) -> None:
    before = len(fake.asked)
    found = list(check())
    assert [one.status for one in found] == ["good"] * 7  # a manifest and its twin, a config, two layers in two forms
    assert len(fake.asked) == before


def damage(path: str) -> None:
    data = bytearray(Path(path).read_bytes())
    data[len(data) // 2] ^= 1
    times = os.stat(path)
    Path(path).write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize("how", ["changed", "shorter", "gone"])
@pytest.mark.parametrize("which", ["layer", "config", "manifest", "verbatim"])
def test_one_damaged_blob_is_found_and_only_that_is_fetched(
    image: Image, fake: FakeRegistry, which: str, how: str
) -> None:
    digest = {
        "layer": image.manifest.layers[0].digest,
        "config": image.id,
        "manifest": image.entry.manifest.digest,
        "verbatim": image.entry.verbatim,
    }[which]
    path = Store().blob(digest)
    whole = Path(path).read_bytes()
    if how == "changed":
        damage(path)
    elif how == "shorter":
        os.truncate(path, len(whole) - 1)
    else:
        os.unlink(path)
    fake.asked.clear()
    assert [one for one in bad(check(repair=False)) if one[0] == "blob"] == [("blob", digest, "damaged")]
    assert fake.asked == []
    assert bad(check()) == [("blob", digest, "mended")]
    assert Path(path).read_bytes() == whole
    paths = [path for path, _ in fake.asked]
    # the twin is made of Docker's manifest, the others come by their digest, and nothing else does
    assert paths == (
        [] if which == "manifest" else [f"/v2/test/{'manifests' if which == 'verbatim' else 'blobs'}/{digest}"]
    )
    assert bad(check()) == []
    assert get(image.name).id == image.id


def test_blob_that_its_registry_has_no_longer_comes_from_another_images(
    root: str, image: Image, fake: FakeRegistry, made: MadeImage
) -> None:
    with fake_registry() as second:
        pull(second.serve(made, "again"))
        digest = image.manifest.layers[0].digest
        del fake.documents[f"/v2/test/blobs/{digest}"]
        damage(Store().blob(digest))
        assert bad(check()) == [("blob", digest, "mended")]
        assert second.asked[-1][0] == f"/v2/again/blobs/{digest}"


def packed(layer: str) -> str:
    """All that GNU tar sees in a layer, as one hash; but for the times of directories, which the image has none of."""
    command = "find . -not -type d -print0 | sort -z | tar -c --null -T - --format=pax --xattrs --xattrs-include='*'"
    command += " --pax-option=delete=atime,delete=ctime,exthdr.name=x | sha256sum"
    command += "; find . -type d -printf '%p %m %U:%G\\n' | sort"
    return told("sh", "-c", f"cd {layer} && {command}")


CHANGES: dict[str, Callable[[str], object]] = {
    "content": lambda layer: damage(f"{layer}/noise"),
    "gone": lambda layer: os.unlink(f"{layer}/noise"),
    "more": lambda layer: Path(f"{layer}/added").touch(),
    "mode": lambda layer: os.chmod(f"{layer}/noise", 0o777),
    "owner": lambda layer: os.chown(f"{layer}/etc/motd", 1, 0),
    "time": lambda layer: os.utime(f"{layer}/noise", ns=(0, 1)),
    "attribute": lambda layer: os.setxattr(f"{layer}/noise", "user.x", b"y"),
    "directory's": lambda layer: os.setxattr(f"{layer}/etc", "trusted.overlay.opaque", b"y"),
    "link": lambda layer: os.link(f"{layer}/noise", f"{layer}/../../linked"),
    "kind": lambda layer: (os.unlink(f"{layer}/noise"), os.symlink("/etc/shadow", f"{layer}/noise")),
    "all": lambda layer: shutil.rmtree(layer),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_layer_is_found_and_unpacked_again(root: str, image: Image, fake: FakeRegistry, change: str) -> None:
    layer = image.layers[0]
    before = packed(layer)
    CHANGES[change](layer)
    fake.asked.clear()
    chain_id = image.entry.layers[0]
    assert bad(check(image.name, repair=False)) == [("layer", chain_id, "damaged")]
    found = [one for one in check(image.name) if one.status != "good"]
    assert [(one.kind, one.digest, one.status) for one in found] == [("layer", chain_id, "mended")]
    assert found[0].reason
    assert fake.asked == []
    assert packed(layer) == before
    assert bad(check()) == []
    assert [entry for entry in contents(root) if entry.startswith("ingest/")] == []


def test_a_blob_and_its_layer_damaged_at_once(image: Image) -> None:
    damage(Store().blob(image.manifest.layers[0].digest))
    damage(f"{image.layers[0]}/noise")
    assert [kind for kind, _, status in bad(check()) if status == "mended"] == ["blob", "layer"]
    assert bad(check()) == []


def test_damage_that_cannot_be_mended_is_said_and_changes_nothing(image: Image, fake: FakeRegistry) -> None:
    blob, file = Store().blob(image.manifest.layers[0].digest), f"{image.layers[0]}/noise"
    damage(blob)
    damage(file)
    kept = Path(blob).read_bytes(), Path(file).read_bytes()
    fake.documents.clear()
    found = [one for one in check() if one.status != "good"]
    assert [(one.kind, one.status) for one in found] == [("blob", "damaged"), ("layer", "damaged")]
    assert "404" in found[0].reason
    assert "blob" in found[1].reason
    assert (Path(blob).read_bytes(), Path(file).read_bytes()) == kept


def test_a_registry_with_another_content_does_not_mend(image: Image, fake: FakeRegistry) -> None:
    layer = image.manifest.layers[0]
    damage(Store().blob(layer.digest))
    fake.document(f"blobs/{layer.digest}", "application/octet-stream", os.urandom(layer.size))
    assert bad(check())[0] == ("blob", layer.digest, "damaged")


def test_findings_come_one_by_one(image: Image) -> None:
    damage(Store().blob(image.manifest.layers[1].digest))
    findings = check()
    assert next(findings).status == "good"
    findings.close()  # type: ignore[attr-defined]  # it is a generator
    with pytest.raises(NotFoundError):
        check("nothing:here")


def test_a_layer_that_a_container_uses_is_left_alone(root: str, registry: str) -> None:
    image = grow(f"{root}/..", f"{registry}/used:1", {"x": b"x"})
    started = image.container(["/bin/sh", "-c", "while :; do read -t 1 x < /dev/zero; done"]).start()
    try:
        damage(f"{image.layers[0]}/x")
        (found,) = [one for one in check() if one.status != "good"]
        assert (found.kind, found.status) == ("layer", "damaged")
        assert "container" in found.reason
        assert [one.containers for one in disk_usage().images] == [1]
        assert disk_usage().reclaimable == 0
        assert prune(all=True).lines == []
    finally:
        started.kill()
        started.wait()
    assert bad(check()) == [("layer", image.entry.layers[0], "mended")]
    assert len(prune(all=True).lines) == 2


# --- sizes -----------------------------------------------------------------------------------------------------------


def du(*paths: str) -> int:
    return sum(int(line.split()[0]) for line in told("du", "-s", "--block-size=1", "--total", *paths).splitlines()[-1:])


def test_sizes_are_those_of_du_and_what_is_shared_counts_once(root: str) -> None:
    base = grow(f"{root}/..", "base:1", {"big": os.urandom(3_000_000)})
    os.makedirs(f"{root}/../more")
    Path(f"{root}/../more/file").write_bytes(os.urandom(1_000_000))
    child = import_(f"{root}/../more", "child:1", base="base:1", source_date_epoch=0)
    tag("child:1", "again:2")
    usage = disk_usage()
    blobs, layers = f"{root}/images/blobs/sha256", f"{root}/layers"
    everything = [f"{place}/{name}" for place in (blobs, layers) for name in os.listdir(place)]
    assert usage.total == du(*everything)
    Path(f"{root}/ingest/{'0' * 64}.partial").write_bytes(os.urandom(50_000))
    assert usage.leftovers == 0
    assert disk_usage().leftovers == du(f"{root}/ingest/{'0' * 64}.partial")
    one, other = sorted(usage.images, key=lambda found: found.unique)
    assert one.names == ["base:1"]
    assert sorted(other.names) == ["again:2", "child:1"]
    store = Store()
    common = [store.blob(base.manifest.layers[0].digest), base.layers[0]]
    assert one.shared == other.shared == du(*common)
    apart = [
        store.blob(child.id),
        store.blob(child.digest),
        store.blob(child.manifest.layers[1].digest),
        child.layers[1],
    ]
    assert other.unique == du(*apart)
    assert usage.total == one.unique + other.unique + one.shared
    # and that is what goes with it
    remove("again:2")
    remove("child:1")
    assert disk_usage().total == usage.total - other.unique


def test_nothing_weighs_nothing(root: str) -> None:
    for _ in range(2):
        usage = disk_usage()
        assert (usage.images, usage.total, usage.reclaimable, usage.leftovers) == ([], 0, 0, 0)
        with Store().session():  # which makes the store's directories
            pass


# --- prune -----------------------------------------------------------------------------------------------------------


def test_prune_takes_what_has_no_name_and_says_what_that_freed(root: str) -> None:
    old = grow(f"{root}/..", "app:1", {"old": os.urandom(500_000)})
    new = grow(f"{root}/..", "app:1", {"new": b"new"})
    assert sorted(image.name for image in images()) == ["", "app:1"]
    before = disk_usage().total
    done = prune()
    assert done.lines == [f"Deleted: {old.id}"]
    assert done.freed == before - disk_usage().total > 900_000
    assert [image.id for image in images()] == [new.id]
    assert bad(check()) == []
    assert prune() == ([], 0)
    tag("app:1", "other:1")
    assert prune(all=True).lines == ["Untagged: app:1", "Untagged: other:1", f"Deleted: {new.id}"]
    assert contents(root) == []


def test_the_command_line_checks_prunes_and_weighs(root: str, image: Image) -> None:
    damage(Store().blob(image.manifest.layers[0].digest))
    done = subprocess.run([*CLI, "image", "check", "--no-repair"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "damaged" in done.stdout
    assert "mended" in told(*CLI, "image", "check")
    assert told(*CLI, "image", "check", image.name) == "7 good\n"
    said = told(*CLI, "system", "df", "-v")
    assert image.name in said
    assert "Images" in said
    assert "Total reclaimed space: 0B" in told(*CLI, "image", "prune")
    assert f"Untagged: {image.name}" in told(*CLI, "image", "prune", "--all")
