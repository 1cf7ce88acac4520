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


def either(*names: str) -> Any:
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
