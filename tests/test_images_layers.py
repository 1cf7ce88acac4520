"""What a manifest can hold: every kind of layer, index and platform, and what is no image at all."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import random
import resource
import subprocess
import sys
from typing import Any

import pytest
from images import FakeRegistry, MadeImage, digest_of, fake_registry, index_of

from minicontainer.cli import main
from minicontainer.errors import ContainerError, ImageError, UsageError
from minicontainer.images import Store, get, pull, push, tag
from minicontainer.images.compression import OUTPUT, decompress
from minicontainer.images.manifest import (
    DOCKER_FOREIGN_GZIP,
    DOCKER_LAYER,
    DOCKER_LAYER_GZIP,
    DOCKER_LAYER_ZSTD,
    OCI_FOREIGN,
    OCI_FOREIGN_GZIP,
    OCI_FOREIGN_ZSTD,
    OCI_INDEX,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    OCI_MANIFEST,
)
from minicontainer.images.platforms import Platform


def zstd(data: bytes, *options: str) -> bytes:
    """What the real program makes of it."""
    return subprocess.run(["zstd", "-q", "-c", *options], input=data, capture_output=True, check=True).stdout


SKIPPED = b"\x5a\x2a\x4d\x18" + (7).to_bytes(4, "little") + b"ignored"  # RFC 8878, 3.1.2


def text_in(layer: str, name: str = "hello") -> str:
    with open(f"{layer}/{name}") as file:
        return file.read()


@pytest.mark.parametrize(
    ("kind", "docker"),
    [
        (OCI_LAYER, False),
        (OCI_LAYER_GZIP, False),
        (OCI_LAYER_ZSTD, False),
        (DOCKER_LAYER, True),
        (DOCKER_LAYER_GZIP, True),
        (DOCKER_LAYER_ZSTD, True),
    ],
)
def test_layer_of_each_type_is_pulled_and_goes_into_a_layout_that_umoci_reads(
    root: str, fake: FakeRegistry, kind: str, docker: bool
) -> None:
    image = MadeImage(docker=docker)
    if kind.endswith("zstd"):
        image.layers = [zstd(image.tars[0])]
    elif kind.endswith("tar"):
        image.layers = [image.tars[0]]
    image.changes["layers"] = [image.document["layers"][0] | {"mediaType": kind}]
    pulled = pull(fake.serve(image))
    assert text_in(pulled.layers[0]) == "world\n"
    layout = f"{root}/images"
    found = subprocess.run(
        ["skopeo", "inspect", "--raw", f"oci:{layout}:{pulled.name}"], capture_output=True, check=True
    )
    assert json.loads(found.stdout)["layers"][0]["mediaType"].startswith("application/vnd.oci.image.layer.v1.tar")


@pytest.mark.parametrize(
    "make",
    [
        lambda tar: zstd(tar[:700]) + zstd(tar[700:]),
        lambda tar: SKIPPED + zstd(tar[:700]) + SKIPPED + zstd(tar[700:]) + SKIPPED,
        lambda tar: zstd(tar, "-19", "--long=27", "--no-check"),
        lambda tar: zstd(b"") + zstd(tar),
        lambda tar: gzip.compress(tar[:700]) + gzip.compress(b"") + gzip.compress(tar[700:]) + b"\0" * 512,
        lambda tar: lzma.compress(tar[:700]) + lzma.compress(tar[700:]) + b"\0" * 8,
        lambda tar: bz2.compress(tar),
        lambda tar: tar,
    ],
)
@pytest.mark.parametrize("kind", [OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD])
def test_compression_is_told_from_the_bytes_whatever_the_manifest_says(
    root: str, fake: FakeRegistry, make: Any, kind: str
) -> None:
    image = MadeImage()
    image.layers = [make(image.tars[0])]
    image.changes["layers"] = [image.document["layers"][0] | {"mediaType": kind}]
    assert text_in(pull(fake.serve(image)).layers[0]) == "world\n"


@pytest.mark.parametrize("compression", ["zstd", "zstd:chunked"])
def test_image_that_skopeo_has_compressed_with_zstd_is_the_same_image(
    root: str, busybox_image: str, compression: str
) -> None:
    gzipped = pull(busybox_image)
    plain, layout = f"dir:{os.path.dirname(root)}/plain", f"oci:{root}/images:zstd"
    subprocess.run(
        ["skopeo", "copy", "--src-tls-verify=false", "--dest-decompress", f"docker://{busybox_image}", plain],
        check=True,
        capture_output=True,
    )
    subprocess.run(
        ["skopeo", "copy", f"--dest-compress-format={compression}", plain, layout], check=True, capture_output=True
    )
    for layer in gzipped.layers:
        os.rename(layer, f"{layer}.away")  # or they would not be unpacked again
    compressed = get("zstd")
    assert {layer.media_type for layer in compressed.manifest.layers} == {OCI_LAYER_ZSTD}
    assert compressed.layers == gzipped.layers  # the same content under the same name
    assert all(map(os.path.isdir, compressed.layers))


@pytest.mark.parametrize(
    "data",
    [
        zstd(b"x" * 5000)[:-3],
        zstd(b"x" * 5000)[:5],
        zstd(b"x") + b"garbage",
        b"\x28\xb5\x2f\xfd" + b"\xff" * 100,
        SKIPPED[:-2],
        zstd(os.urandom(100_000))[:50_000],
    ],
)
def test_damaged_zstd_is_an_error(data: bytes) -> None:
    with pytest.raises(ImageError) as caught:
        for _ in decompress(iter([memoryview(data)])):
            pass
    assert "zstd" in str(caught.value)


COMPRESSIONS = {"gzip": gzip.compress, "zstd": zstd, "bzip2": bz2.compress, "xz": lzma.compress}


@pytest.mark.parametrize("kind", COMPRESSIONS)
def test_however_a_file_arrives_what_comes_out_is_the_same(kind: str) -> None:
    """In pieces of any length, of several streams, in steps that are bounded; and cut off anywhere it is an error."""
    source = random.Random(kind)
    for _ in range(6):
        parts = [
            source.randbytes(source.choice([0, 1, 5000])) + bytes(source.choice([0, 7, 2 << 20])) for _ in range(3)
        ]
        whole = b"".join(map(COMPRESSIONS[kind], parts))
        step = source.choice([1, 2, 7, 1000, 1 << 20])
        packed = memoryview(whole)
        pieces = [packed[at : at + step] for at in range(0, len(packed), step)]
        found = [bytes(piece) for piece in decompress(iter(pieces))]
        assert b"".join(found) == b"".join(parts)
        assert max(map(len, found)) <= OUTPUT
        last = len(COMPRESSIONS[kind](parts[-1]))
        with pytest.raises(ImageError, match="ends in the middle"):
            for _ in decompress(iter([packed[: len(whole) - source.randint(1, last - 1)]])):
                pass


def test_xz_archive_cannot_take_all_our_memory() -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 30}]
    greedy = lzma.compress(b"x", filters=filters)
    with pytest.raises(ImageError, match="xz"):
        for _ in decompress(iter([memoryview(greedy)])):
            pass


def test_worker_asks_the_kernel_for_memory_once(root: str, fake: FakeRegistry) -> None:
    """Not for each piece anew: 256 page faults for every MiB that is inflated."""
    name = fake.serve(MadeImage({"noise": random.Random(1).randbytes(24 << 20).hex().encode()}))
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_minflt
    pull(name)
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_minflt - before < 9_000


def test_bomb_of_zstd_comes_out_in_bounded_steps() -> None:
    bomb = zstd(b"\0" * (256 << 20))
    sizes = [len(piece) for piece in decompress(iter([memoryview(bomb)]))]
    assert len(bomb) < 64 << 10
    assert sum(sizes) == 256 << 20
    assert max(sizes) <= OUTPUT


def test_window_of_two_gigabytes_is_refused() -> None:
    big = subprocess.run(
        ["zstd", "-q", "-c", "--ultra", "-22", "--long=31"],
        input=os.urandom(1 << 20),
        capture_output=True,
        check=True,
    ).stdout
    with pytest.raises(ImageError):
        for _ in decompress(iter([memoryview(big)])):
            pass


@pytest.mark.parametrize("kind", [OCI_FOREIGN, OCI_FOREIGN_GZIP, OCI_FOREIGN_ZSTD, DOCKER_FOREIGN_GZIP])
def test_foreign_layer_comes_from_its_address_and_is_not_pushed(
    root: str, fake: FakeRegistry, registry: str, kind: str
) -> None:
    image = MadeImage()
    with fake_registry() as vendor:
        layer = image.layers[0]
        urls = [f"http://{vendor.host}/gone", f"http://{vendor.host}/v2/vendor/layer"]
        vendor.document("layer", "application/octet-stream", layer, "vendor")
        image.changes["layers"] = [image.document["layers"][0] | {"mediaType": kind, "urls": urls}]
        name = fake.serve(image)
        del fake.documents[f"/v2/test/blobs/{digest_of(layer)}"]
        pulled = pull(name, credentials=("ada", "secret"))
        assert text_in(pulled.layers[0]) == "world\n"
        assert vendor.asked == [("/gone", ""), ("/v2/vendor/layer", "")]  # and nothing of the password
    kept = json.loads(Store().document(pulled.entry.manifest.digest))["layers"][0]
    assert kept["mediaType"].startswith(OCI_FOREIGN)
    assert kept["urls"] == urls


def test_foreign_layer_is_not_fetched_over_plain_http_from_elsewhere(root: str, fake: FakeRegistry) -> None:
    image = MadeImage()
    urls = ["http://vendor.example/layer", "file:///etc/passwd", "https://"]
    image.changes["layers"] = [image.document["layers"][0] | {"mediaType": OCI_FOREIGN_GZIP, "urls": urls}]
    name = fake.serve(image)
    del fake.documents[f"/v2/test/blobs/{digest_of(image.layers[0])}"]
    with pytest.raises(ImageError) as caught:
        pull(name)
    assert "404" in str(caught.value)


def test_push_of_a_foreign_layer_sends_only_where_it_is(root: str, fake: FakeRegistry) -> None:
    image = MadeImage()
    urls = [f"http://{fake.host}/v2/test/blobs/{digest_of(image.layers[0])}"]
    image.changes["layers"] = [image.document["layers"][0] | {"mediaType": OCI_FOREIGN_GZIP, "urls": urls}]
    name = fake.serve(image)
    pull(name)
    sent: list[str] = []

    def take(handler: Any) -> bool:
        if handler.command not in ("POST", "PUT", "HEAD"):
            return False
        handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        sent.append(f"{handler.command} {handler.path.partition('?')[0]}")
        status = {"POST": 202, "PUT": 201, "HEAD": 404}[handler.command]
        handler.answer(status, b"", {"Location": "/upload"})
        return True

    fake.faults.append(take)
    tag(name, f"{fake.host}/second:latest")
    push(f"{fake.host}/second:latest")
    assert not any(digest_of(image.layers[0]) in line for line in sent)
    assert any("/manifests/latest" in line for line in sent)


def nested(fake: FakeRegistry, entries: list[tuple[dict[str, str] | None, str, bytes]]) -> bytes:
    """An index of (platform, media type, document)s, all of them served; its bytes."""
    value = json.loads(index_of(*[(platform, document) for platform, _, document in entries]))
    for entry, (_, kind, document) in zip(value["manifests"], entries, strict=True):
        entry["mediaType"] = kind
        fake.document(f"manifests/{digest_of(document)}", kind, document)
    return json.dumps(value).encode()


def for_platform(fake: FakeRegistry, text: str) -> MadeImage:
    platform = Platform.parse(text)
    image = MadeImage({"which": text.encode()})
    image.config |= {"os": platform.os, "architecture": platform.architecture, "variant": platform.variant}
    fake.serve(image)
    return image


def test_index_in_an_index_is_searched_with_and_without_a_platform(root: str, fake: FakeRegistry) -> None:
    arm, s390x = for_platform(fake, "linux/arm64"), for_platform(fake, "linux/s390x")
    inner = nested(fake, [({"os": "linux", "architecture": "arm64"}, OCI_MANIFEST, arm.manifest)])
    said = nested(fake, [({"os": "linux", "architecture": "arm64"}, OCI_INDEX, inner)])
    unsaid = nested(fake, [(None, OCI_INDEX, inner), (None, OCI_MANIFEST, s390x.manifest)])
    for index in (said, unsaid):
        name = fake.document("manifests/latest", OCI_INDEX, index)
        image = pull(name, platform="linux/arm64")
        assert text_in(image.layers[0], "which") == "linux/arm64"
        assert image.digest == digest_of(index)
    assert text_in(pull(name, platform="linux/s390x").layers[0], "which") == "linux/s390x"
    with pytest.raises(ImageError) as caught:
        pull(name, platform="linux/riscv64")
    assert "linux/arm64, linux/s390x" in caught.value.hint


def test_builders_statements_in_an_index_are_no_images(root: str, fake: FakeRegistry) -> None:
    statement = MadeImage()
    statement.changes |= {"artifactType": "application/vnd.in-toto+json"}
    fake.serve(statement)
    index = nested(
        fake,
        [
            ({"os": "unknown", "architecture": "unknown"}, OCI_MANIFEST, statement.manifest),
            (None, OCI_MANIFEST, statement.manifest),
            (None, "application/vnd.example.thing", b"{}"),
        ],
    )
    with pytest.raises(ImageError) as caught:
        pull(fake.document("manifests/latest", OCI_INDEX, index))
    assert "no platform at all" in caught.value.hint


def test_wide_tree_of_indexes_is_given_up_early(root: str, fake: FakeRegistry) -> None:
    level: list[tuple[dict[str, str] | None, str, bytes]] = []
    for i in range(30):
        empty = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [], "annotations": {"i": str(i)}})
        level.append((None, OCI_INDEX, empty.encode()))
    with pytest.raises(ImageError):
        pull(fake.document("manifests/latest", OCI_INDEX, nested(fake, level)))
    assert len(fake.asked) < 20


@pytest.mark.parametrize(
    ("wanted", "offered", "chosen"),
    [
        ("linux/amd64", ["linux/amd64/v3", "linux/amd64"], "linux/amd64"),
        ("linux/amd64", ["linux/amd64/v3", "linux/amd64/v1"], "linux/amd64/v1"),
        ("linux/amd64/v4", ["linux/amd64", "linux/amd64/v3", "linux/amd64/v2"], "linux/amd64/v3"),
        ("linux/amd64", ["linux/386"], None),
        ("linux/amd64", ["linux/amd64/v2"], None),
        ("linux/arm", ["linux/arm/v5", "linux/arm/v7", "linux/arm/v6"], "linux/arm/v7"),
        ("linux/arm/v6", ["linux/arm/v5", "linux/arm/v7", "linux/arm/v6"], "linux/arm/v6"),
        ("linux/arm/v6", ["linux/arm/v7"], None),
        ("linux/arm/v8", ["linux/arm/v5", "linux/arm"], "linux/arm"),
        ("linux/arm64", ["linux/arm/v7", "linux/arm64/v8"], "linux/arm64/v8"),
        ("linux/arm64/v8", ["linux/arm64"], "linux/arm64"),
        ("linux/arm64/v9", ["linux/arm64"], "linux/arm64"),
        ("linux/aarch64", ["windows/arm64", "linux/arm64"], "linux/arm64"),
        ("x86_64", ["linux/amd64"], "linux/amd64"),
        ("linux/riscv64", ["linux/riscv64"], "linux/riscv64"),
        ("windows/amd64", ["linux/amd64"], None),
    ],
)
def test_highest_variant_that_runs_is_chosen(wanted: str, offered: list[str], chosen: str | None) -> None:
    platform = Platform.parse(wanted)
    fits = [Platform.parse(text) for text in offered if platform.accepts(Platform.parse(text))]
    best = max(fits, key=platform.rank, default=None)
    assert (str(best) if best else None) == chosen


@pytest.mark.parametrize("text", ["", "/", "linux/", "a/b/c/d", "linux//v7"])
def test_what_is_no_platform_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        Platform.parse(text)


def test_skopeo_chooses_the_same_manifest_for_each_platform(root: str, registry: str) -> None:
    """The peer's own pick out of one index with variants, on a real registry."""
    with fake_registry() as fake:
        fake.documents["/v2/"] = ("application/json", b"{}")  # where skopeo begins
        names = ["linux/amd64", "linux/arm/v5", "linux/arm/v7", "linux/arm64/v8"]
        images = {text: for_platform(fake, text) for text in names}
        entries: list[tuple[dict[str, str] | None, str, bytes]] = []
        for text, image in images.items():
            platform = dict(zip(("os", "architecture", "variant"), text.split("/"), strict=False))
            entries.append((platform, OCI_MANIFEST, image.manifest))
        name = fake.document("manifests/latest", OCI_INDEX, nested(fake, entries))
        for asked in ("linux/amd64", "linux/arm/v6", "linux/arm/v7", "linux/arm64"):
            system, architecture, *variant = asked.split("/")
            choice = [f"--override-os={system}", f"--override-arch={architecture}"]
            choice += [f"--override-variant={word}" for word in variant]
            command = ["skopeo", *choice, "inspect", "--config", "--tls-verify=false", f"docker://{name}"]
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            config = json.loads(done.stdout)
            ours = pull(name, platform=asked).config
            assert ours.diff_ids == config["rootfs"]["diff_ids"], asked


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"config": {"mediaType": "application/vnd.cncf.helm.config.v1+json"}}, "a Helm chart"),
        (
            {
                "artifactType": "application/vnd.in-toto+json",
                "config": {"mediaType": "application/vnd.oci.empty.v1+json"},
            },
            "a builder's statement",
        ),
        (
            {"artifactType": "application/x-poem", "config": {"mediaType": "application/vnd.oci.empty.v1+json"}},
            "application/x-poem",
        ),
        ({"artifactType": ["x"], "config": {"mediaType": "x"}}, "artifact"),
    ],
)
def test_artifact_is_named_for_what_it_is(root: str, fake: FakeRegistry, changes: dict[str, Any], said: str) -> None:
    image = MadeImage()
    image.changes |= changes | {"config": image.document["config"] | changes["config"]}
    with pytest.raises(ImageError) as caught:
        pull(fake.serve(image))
    assert said in str(caught.value)
    assert "not an image" in str(caught.value)


def test_urls_of_a_descriptor_must_be_texts(root: str, fake: FakeRegistry) -> None:
    image = MadeImage()
    image.changes["layers"] = [image.document["layers"][0] | {"urls": [7]}]
    with pytest.raises(ContainerError):
        pull(fake.serve(image))


def test_platform_is_an_option_of_the_command(root: str, fake: FakeRegistry) -> None:
    image = for_platform(fake, "linux/s390x")
    name = fake.serve(image)
    assert main(["pull", "-q", name]) == 1
    assert main(["pull", "-q", "--platform", "linux/s390x", name]) == 0


@pytest.mark.skipif(sys.version_info < (3, 14), reason="Python has zstd of its own from 3.14 on")
def test_pythons_own_zstd_is_used_where_there_is_one() -> None:
    list(decompress(iter([memoryview(zstd(b"x"))])))
    assert "backports.zstd" not in sys.modules
