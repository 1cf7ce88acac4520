"""Whatever arrives: our own error or a sound value, soon, and nothing else.

FUZZ_EXAMPLES=100000 makes it a longer search (`make fuzz`); what has failed once is kept in `.hypothesis` and tried
first.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any

import fuzzing
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minicontainer.errors import ImageError
from minicontainer.images import credentials
from minicontainer.images.challenge import MOST, parse
from minicontainer.images.manifest import (
    DOCKER_CONFIG,
    DOCKER_MANIFEST,
    INDEXES,
    LAYERS,
    OCI_CONFIG,
    OCI_MANIFEST,
    OCI_NAMES,
)

examples = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "300")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


def either(*names: str | bytes) -> Any:
    return st.sampled_from(names)


digests = st.one_of(
    st.just("sha256:" + "a" * 64), st.from_regex(r"sha(256|512):[0-9a-f]{60,70}", fullmatch=True), st.text()
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def objects(**fields: Any) -> Any:
    """Objects with these fields, some of them missing or of another kind."""
    each = {key: st.one_of(value, value, value, json_values) for key, value in fields.items()}
    return st.fixed_dictionaries({}, optional=each)


kinds = either(*LAYERS, *OCI_NAMES, *OCI_NAMES.values(), *INDEXES, OCI_MANIFEST, DOCKER_MANIFEST) | st.text()
descriptors = objects(
    mediaType=kinds, digest=digests, size=st.integers(-2, 1 << 70), urls=st.lists(st.text(), max_size=3)
)
manifests = objects(
    schemaVersion=st.just(2),
    mediaType=either(OCI_MANIFEST, DOCKER_MANIFEST),
    config=objects(
        mediaType=either(OCI_CONFIG, DOCKER_CONFIG) | st.text(), digest=digests, size=st.integers(0, 1 << 40)
    ),
    layers=st.lists(descriptors, max_size=4),
    artifactType=st.text(),
)
platforms = objects(os=either("linux", "windows"), architecture=either("amd64", "arm", "arm64"), variant=st.text())
indexes = objects(manifests=st.lists(descriptors.flatmap(lambda one: platforms.map(lambda p: {**one, "platform": p}))))
words = st.lists(st.text(), max_size=3)
configs = objects(
    os=st.just("linux"),
    architecture=st.text(),
    rootfs=objects(diff_ids=st.lists(digests, max_size=3)),
    config=objects(Env=words, Cmd=words, Entrypoint=words, User=st.text(), WorkingDir=st.text(), Labels=json_values),
)


@pytest.mark.parametrize("name", fuzzing.TARGETS)
def test_corpus_holds_no_surprise(name: str) -> None:
    seeds = fuzzing.corpus(name)
    assert seeds
    for seed in seeds:
        fuzzing.TARGETS[name](seed)


@examples
@given(st.one_of(st.text(), st.from_regex(r"[a-zA-Z0-9./:@_\[\]-]{1,80}", fullmatch=True)))
def test_any_text_is_a_name_or_is_refused(text: str) -> None:
    fuzzing.reference(text.encode("utf-8", "surrogatepass" if not text.isascii() else "strict"))


@examples
@given(
    st.from_regex(
        r"([a-z0-9.-]{1,12}(:[0-9]{1,6})?/)?[a-z0-9/._-]{1,30}(:[\w.-]{1,20})?(@sha256:[0-9a-f]{64})?", fullmatch=True
    )
)
def test_what_looks_like_a_name_is_one_or_is_refused(text: str) -> None:
    fuzzing.reference(text.encode())


@examples
@given(st.binary(max_size=400))
def test_any_bytes_are_a_challenge_or_none(data: bytes) -> None:
    fuzzing.wwwauthenticate(data)


tokens = st.from_regex(r"[A-Za-z0-9._~-]{1,12}", fullmatch=True)
quotable = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40)


@examples
@given(
    st.lists(st.tuples(tokens, st.dictionaries(tokens.map(str.lower), quotable, min_size=1, max_size=4)), max_size=4),
    st.sampled_from([", ", ",", " , ", ",,  "]),
)
def test_challenges_come_out_as_they_went_in(challenges: list[tuple[str, dict[str, str]]], comma: str) -> None:
    def quoted(value: str) -> str:
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'

    written = [
        scheme + " " + comma.join(f"{key}={quoted(value)}" for key, value in parameters.items())
        for scheme, parameters in challenges
    ]
    found = [(one.scheme, one.parameters) for one in parse([comma.join(written)])]
    assert found == [(scheme.lower(), parameters) for scheme, parameters in challenges]


@examples
@given(
    st.sampled_from(['a="', "=", " ,", '\\"', 'a="b" ', "x= ", "\t", 'a b="\\', '"', "é"]),
    st.sampled_from([" ", '"', "!", "x"]),
)
def test_challenge_takes_no_longer_than_its_length(piece: str, end: str) -> None:
    """A grammar that goes back and forth would take minutes for this, not milliseconds."""
    text = piece * (MOST // len(piece)) + end
    began = time.process_time()
    parse([text])
    assert time.process_time() - began < 5


@examples
@given(manifests)
def test_any_manifest_is_sound_or_is_refused(document: dict[str, Any]) -> None:
    fuzzing.manifest(json.dumps(document).encode())


@examples
@given(indexes)
def test_any_index_is_sound_or_is_refused(document: dict[str, Any]) -> None:
    fuzzing.index(json.dumps(document).encode())


@examples
@given(configs)
def test_any_config_is_sound_or_is_refused(document: dict[str, Any]) -> None:
    fuzzing.config(json.dumps(document).encode())


@examples
@given(st.binary(max_size=200))
def test_any_bytes_are_no_document(data: bytes) -> None:
    for name in ("manifest", "index", "config"):
        fuzzing.TARGETS[name](data)


entries = objects(auth=st.text() | st.from_regex(r"[A-Za-z0-9+/]{4,16}={0,2}", fullmatch=True), identitytoken=st.text())


@examples
@given(objects(auths=st.dictionaries(either("a.example", "https://a.example/v1/"), st.one_of(entries, json_values))))
def test_any_file_of_docker_has_a_password_or_is_refused(
    monkeypatch: pytest.MonkeyPatch, document: dict[str, Any]
) -> None:
    monkeypatch.setattr(credentials, "_read", lambda: document)
    try:
        found = credentials.configured("a.example")
    except ImageError:
        return
    assert found is None or all(isinstance(word, str) for word in found)


# Archives. Their headers get right checksums on the way (`fuzzing.checksummed`).

paths = st.lists(either(b"a", b"b", b"..", b".", b"", b".wh.a", b".wh..wh..opq", b"\xff\n", b"n" * 120), max_size=4)
places = paths.map(b"/".join) | st.binary(max_size=300)
numbers = st.integers(0, 0o777).map(lambda number: b"%o" % number) | st.binary(max_size=12)
kinds_of_entries = either(*(b"%d" % number for number in range(8)), b"\0", b"x", b"g", b"L", b"K", b"S", b"V")
pax_keys = either(b"path", b"linkpath", b"size", b"uid", b"mtime", b"SCHILY.xattr.user.x", b"GNU.sparse.major")
pax_keys |= either(b"GNU.sparse.name", b"GNU.sparse.realsize", b"GNU.sparse.map", b"GNU.sparse.size", b"charset")
pax_values = places | numbers | either(b"1", b"0,1", b"1.5", b"-1", b"99999999999999999999")


def record(key: bytes, value: bytes) -> bytes:
    """One of PAX's, whose length counts itself."""
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest) + 1
    while length != len(rest) + len(b"%d" % length):
        length = len(rest) + len(b"%d" % length)
    return b"%d" % length + rest


def entry_of(name: bytes, kind: bytes, link: bytes, data: bytes, fields: list[bytes], *, lie: bool) -> bytes:
    """A header and its data; with `lie` the header says another size."""
    mode, uid, gid, mtime = (field[:7].ljust(8, b"\0") for field in fields[:4])
    size = b"%011o\0" % (len(data) + (513 if lie else 0))
    block = name[:100].ljust(100, b"\0") + mode + uid + gid + size + mtime[:8].ljust(12, b"\0") + b" " * 8 + kind
    block += link[:100].ljust(100, b"\0") + b"ustar\x0000" + bytes(64) + fields[4][:8].ljust(8, b"\0") + bytes(8)
    return block.ljust(512, b"\0")[:512] + data + bytes(-len(data) % 512)


pax_data = st.lists(st.tuples(pax_keys, pax_values), max_size=4).map(lambda pairs: b"".join(record(*p) for p in pairs))
tar_entries = st.builds(
    entry_of,
    places,
    kinds_of_entries,
    places,
    st.binary(max_size=700) | pax_data | places,
    st.lists(numbers, min_size=5, max_size=5),
    lie=st.sampled_from([False] * 9 + [True]),
)
tars = st.lists(tar_entries, max_size=8).map(lambda found: b"".join(found) + bytes(1024))


@examples
@given(tars)
def test_any_tar_is_read_within_its_limits(data: bytes) -> None:
    fuzzing.tar(data)


@examples
@given(tars)
def test_any_layer_stays_in_its_directory(data: bytes) -> None:
    fuzzing.layer(data)


@examples
@given(st.sampled_from(fuzzing.corpus("layer") + fuzzing.corpus("tar")), st.data())
def test_any_change_of_a_layer_stays_in_its_directory(seed: bytes, data: st.DataObject) -> None:
    changed = bytearray(seed)
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, max(len(changed) - 1, 0)))
        changed[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    fuzzing.layer(bytes(changed))


documents = st.one_of(manifests, indexes, configs, json_values).map(lambda value: json.dumps(value).encode())
listed = st.lists(
    objects(
        Config=either("c", "../c", "/etc/passwd", "blobs/sha256/" + "a" * 64),
        RepoTags=st.none() | st.lists(either("a:1", "", "A B") | st.text(), max_size=2),
        Layers=st.lists(either("l", "c", "nothing", ".."), max_size=3),
    ),
    max_size=2,
).map(lambda value: json.dumps(value).encode())
members = st.tuples(
    either(b"manifest.json", b"index.json", b"oci-layout", b"c", b"l", b"blobs/sha256/" + b"a" * 64) | places,
    either(b"0", b"0", b"0", b"1", b"2", b"5"),
    either(b"c", b"l", b"manifest.json", b"/etc/passwd", b"../../etc/passwd") | places,
    documents | listed | tars | st.just(b'{"imageLayoutVersion":"1.0.0"}'),
)
archives = st.lists(members, max_size=6).map(
    lambda found: b"".join(entry_of(*one, [b"644", b"0", b"0", b"0", b"0"], lie=False) for one in found) + bytes(1024)
)


@examples
@given(archives)
def test_any_archive_brings_images_or_nothing(data: bytes) -> None:
    fuzzing.archive(data)
