"""Copy between real registries, compared with what skopeo finds there."""

from __future__ import annotations

import json
import os
import urllib.request
from typing import TYPE_CHECKING

import pytest
from images import MadeImage, always, contents, digest_of, index_of
from registry import TokenServer, docker_registry, scratch
from stores import grow, skopeo, told

from minicontainer.errors import ImageError, NotFoundError
from minicontainer.images import copy, push
from minicontainer.images import registry as api
from minicontainer.images.manifest import OCI_INDEX

if TYPE_CHECKING:
    from collections.abc import Iterator

    from images import FakeRegistry, Handler

    from minicontainer.images.progress import Event


@pytest.fixture
def other() -> Iterator[str]:
    """A second registry."""
    with scratch() as directory, docker_registry(directory) as host:
        yield host


def test_a_copy_has_the_same_digest_and_nothing_comes_here(root: str, registry: str, other: str) -> None:
    grow(f"{root}/..", f"{registry}/copied:1", {"noise": os.urandom(500_000)}, {"b": b"b"})
    digest = push(f"{registry}/copied:1")
    before = contents(root)
    assert copy(f"{registry}/copied:1", f"{other}/there/it:2") == digest
    assert contents(root) == before
    assert skopeo(f"docker://{other}/there/it:2")["Digest"] == digest
    told("skopeo", "copy", "--src-tls-verify=false", f"docker://{other}/there/it:2", f"dir:{root}/copy")


def test_all_platforms_go_along_or_one(root: str, registry: str, other: str, fake: FakeRegistry) -> None:
    images = {name: MadeImage({"a": name.encode()}) for name in ("amd64", "arm64", "s390x")}
    for name, image in images.items():
        image.config["architecture"] = name
        fake.serve(image)
    inner = index_of(({"os": "linux", "architecture": "s390x"}, images["s390x"].manifest))
    entries = [({"os": "linux", "architecture": name}, images[name].manifest) for name in ("amd64", "arm64")]
    index = json.loads(index_of(*entries))
    index["manifests"].append({"mediaType": OCI_INDEX, "digest": digest_of(inner), "size": len(inner)})
    outer = json.dumps(index).encode()
    fake.document(f"manifests/{digest_of(inner)}", OCI_INDEX, inner)
    name = fake.document("manifests/latest", OCI_INDEX, outer)
    assert copy(name, f"{other}/many:1") == digest_of(outer)
    request = urllib.request.Request(
        f"http://{other}/v2/many/manifests/{digest_of(inner)}", headers={"Accept": OCI_INDEX}
    )
    with urllib.request.urlopen(request) as answer:
        assert answer.read() == inner
    for architecture, image in images.items():
        if architecture != "s390x":  # skopeo 1.9 does not look into inner indexes
            seen = json.loads(
                told("skopeo", "--override-arch", architecture, "inspect", "--config", "--tls-verify=false",
                     f"docker://{other}/many:1")
            )  # fmt: skip
            assert seen["architecture"] == architecture
        one = copy(name, f"{other}/one:{architecture}", platform=f"linux/{architecture}")
        assert one == digest_of(image.manifest)
        assert skopeo(f"docker://{other}/one:{architecture}", "--raw")["layers"] == image.document["layers"]


def test_what_is_no_image_is_copied_too(root: str, other: str, fake: FakeRegistry) -> None:
    artifact = MadeImage({"Chart.yaml": b"name: x"})
    kind = "application/vnd.cncf.helm.config.v1+json"
    artifact.changes["config"] = {**artifact.document["config"], "mediaType": kind}
    assert copy(fake.serve(artifact), f"{other}/chart:1") == digest_of(artifact.manifest)


def test_within_one_registry_no_blob_is_sent(root: str, registry: str) -> None:
    grow(f"{root}/..", f"{registry}/mine/a:1", {"noise": os.urandom(500_000)})
    digest = push(f"{registry}/mine/a:1")
    events: list[Event] = []
    assert copy(f"{registry}/mine/a:1", f"{registry}/mine/b:1", progress=events.append) == digest
    assert {event.status for event in events} == {"exists"}


def test_each_registry_sees_its_own_credentials_only(
    root: str,
    token_registry: tuple[str, TokenServer, tuple[str, str]],
    password_registry: tuple[str, str, str],
) -> None:
    tokens, server, credentials = token_registry
    host, user, password = password_registry
    grow(f"{root}/..", f"{tokens}/secret/thing:1", {"noise": os.urandom(100_000)})
    digest = push(f"{tokens}/secret/thing:1", credentials=credentials)
    with pytest.raises(ImageError, match="401"):
        copy(f"{tokens}/secret/thing:1", f"{host}/thing:1", credentials=credentials)
    server.seen.clear()
    found = copy(
        f"{tokens}/secret/thing:1",
        f"{host}/thing:1",
        credentials=credentials,
        destination_credentials=(user, password),
    )
    assert found == digest
    assert {shown for _, shown in server.seen} == {server.basic}


def test_large_blobs_flow_in_parts(root: str, registry: str, other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    grow(f"{root}/..", f"{registry}/large:1", {"noise": os.urandom(1_234_567)})
    digest = push(f"{registry}/large:1")
    monkeypatch.setattr(api, "CHUNK", 100_000)
    assert copy(f"{registry}/large:1", f"{other}/large:1") == digest
    told("skopeo", "copy", "--src-tls-verify=false", f"docker://{other}/large:1", f"dir:{root}/copy")


@pytest.mark.parametrize("chunk", [1 << 20, 1000])
def test_a_source_that_lies_leaves_no_tag(
    root: str, other: str, fake: FakeRegistry, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(api, "CHUNK", chunk)
    image = MadeImage({"noise": os.urandom(5000)})
    data = bytearray(image.layers[0])
    data[2000] ^= 1

    def lie(handler: Handler) -> None:
        handler.answer(200, bytes(data))

    fake.faults.append(always(lie, digest_of(image.layers[0])))
    with pytest.raises(ImageError, match="sends is"):
        copy(fake.serve(image), f"{other}/lie:1")
    with pytest.raises(NotFoundError):
        copy(f"{other}/lie:1", f"{other}/other:1")


def test_what_is_not_there(root: str, registry: str, other: str) -> None:
    with pytest.raises(NotFoundError, match="no image"):
        copy(f"{registry}/never:1", f"{other}/never:1")
