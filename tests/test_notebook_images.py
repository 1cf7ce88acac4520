"""What the notebook of chapter 07 shows images with: a registry that skopeo can pull from, a waterfall, a tree."""

from __future__ import annotations

import hashlib
import json
import subprocess
import time
from urllib.parse import unquote

import pytest
from images import MadeImage
from test_notebook import contrast

from minicontainer.errors import ImageError, UsageError
from minicontainer.images import Image, explain, get, import_, pull, push, remove, tag
from minicontainer.images.progress import Event
from minicontainer.notebook.anatomy import TINTS, anatomy, file_tree
from minicontainer.notebook.charts import INK
from minicontainer.notebook.pulls import Waterfall, bars, manifest_tree
from minicontainer.notebook.registry import TinyRegistry


def made(home: str, name: str, content: bytes = b"content", base: str = "") -> Image:
    import os

    os.makedirs(f"{home}/{hashlib.sha256(content).hexdigest()[:8]}/etc", exist_ok=True)
    directory = f"{home}/{hashlib.sha256(content).hexdigest()[:8]}"
    with open(f"{directory}/etc/file", "wb") as file:
        file.write(content)
    return import_(directory, name, base=base, source_date_epoch=0)


def test_what_is_pushed_is_what_skopeo_pulls(home: str) -> None:
    with TinyRegistry() as registry:
        image = made(home, f"{registry.host}/a")
        assert push(f"{registry.host}/a") == image.digest
        copy = ["skopeo", "copy", "--quiet", "--src-tls-verify=false", f"docker://{registry.host}/a", f"dir:{home}/a"]
        subprocess.run(copy, check=True)
        with open(f"{home}/a/manifest.json", "rb") as file:
            assert f"sha256:{hashlib.sha256(file.read()).hexdigest()}" == image.digest
        remove(f"{registry.host}/a")
        assert pull(f"{registry.host}/a", progress=lambda event: None).digest == image.digest


def test_requests_of_a_push_and_a_pull_are_remembered(home: str) -> None:
    with TinyRegistry() as registry:
        name = f"{registry.host}/a"
        image = made(home, name)
        push(name)
        assert [(asked.method, asked.status) for asked in registry.requests][-1] == ("PUT", 201)
        assert {asked.method for asked in registry.requests} == {"HEAD", "POST", "PUT"}
        remove(name)
        registry.requests.clear()
        pull(name, progress=lambda event: None)
        assert [asked.path.split("/")[3] for asked in registry.requests] == ["manifests", "blobs", "blobs"]
        assert registry.requests[-1].size == image.size


def test_a_lie_is_found_by_who_pulls(home: str) -> None:
    with TinyRegistry() as registry:
        name = f"{registry.host}/a"
        image = made(home, name)
        push(name)
        remove(name)
        path = f"/v2/a/blobs/{image.manifest.layers[0].digest}"
        kind, data = registry.documents[path]
        registry.put(path, kind, data[:-1] + bytes([data[-1] ^ 1]))
        with pytest.raises(ImageError):
            pull(name, progress=lambda event: None)


def test_a_push_of_other_bytes_or_without_its_blobs_is_refused(home: str) -> None:
    import http.client

    image = MadeImage()
    with TinyRegistry() as registry:
        connection = http.client.HTTPConnection(registry.host)
        for path, body, code in (
            ("/v2/a/blobs/uploads/1?digest=sha256:" + 64 * "0", b"x", "DIGEST_INVALID"),
            ("/v2/a/manifests/latest", image.manifest, "MANIFEST_BLOB_UNKNOWN"),
        ):
            connection.request("PUT", path, body, {"Content-Type": image.media_type})
            answer = connection.getresponse()
            assert (answer.status, json.loads(answer.read())["errors"][0]["code"]) == (400, code)
        connection.close()
        assert registry.documents == {}


def test_speed_is_a_limit_for_all_together(home: str) -> None:
    with TinyRegistry() as registry:
        name = f"{registry.host}/a"
        made(home, name, hashlib.shake_256(b"noise").digest(2 << 20))
        push(name)
        remove(name)
        registry.speed = 4 << 20
        begin = time.monotonic()
        pull(name, progress=lambda event: None)
        assert time.monotonic() - begin > 0.45  # half a second at the least, whatever else the machine does


@pytest.mark.parametrize("tokens", [True, False])
def test_who_has_no_password_is_kept_out_and_who_has_one_is_let_in(home: str, tokens: bool) -> None:
    """skopeo is the judge: it answers challenges in its own way."""
    with TinyRegistry() as registry:
        name = f"{registry.host}/a"
        image = made(home, name)
        push(name)
        registry.users["ada"], registry.tokens = "engine:1843", tokens
        copy = ["skopeo", "copy", "--quiet", "--src-tls-verify=false"]
        source, wrong = f"docker://{name}", ["--src-creds", "ada:engine"]
        for extra in ([], wrong):
            refused = subprocess.run([*copy, *extra, source, f"dir:{home}/no"], capture_output=True, text=True)
            assert refused.returncode
            assert "unauthorized" in refused.stderr.lower() or "authentication required" in refused.stderr.lower()
        subprocess.run([*copy, "--src-creds", "ada:engine:1843", source, f"dir:{home}/a"], check=True)
        with open(f"{home}/a/manifest.json", "rb") as file:
            assert f"sha256:{hashlib.sha256(file.read()).hexdigest()}" == image.digest
        assert {asked.status for asked in registry.requests} >= {200, 401}
        assert bool(registry.granted) == tokens


def test_a_token_is_good_for_what_it_was_given_for(home: str) -> None:
    import http.client

    with TinyRegistry() as registry:
        registry.users["ada"] = "engine:1843"
        registry.granted["mine"] = "repository:a:pull"
        connection = http.client.HTTPConnection(registry.host)
        for method, path, status in (
            ("GET", "/v2/", 200),
            ("GET", "/v2/a/manifests/latest", 404),
            ("GET", "/v2/b/manifests/latest", 401),
            ("POST", "/v2/a/blobs/uploads/", 401),
        ):
            connection.request(method, path, headers={"Authorization": "Bearer mine"})
            answer = connection.getresponse()
            answer.read()
            assert answer.status == status, path
            assert status != 401 or f'scope="repository:{path[4]}:' in answer.headers["WWW-Authenticate"]
        connection.close()


def test_a_part_of_a_blob_is_what_curl_gets(home: str) -> None:
    with TinyRegistry() as registry:
        path = "/v2/a/blobs/sha256:x"
        registry.put(path, "application/octet-stream", b"0123456789")
        url = f"http://{registry.host}{path}"
        for ranges, asked, got in (
            (True, "3-5", "345/206"),
            (True, "7-", "789/206"),
            (True, "0-99", "0123456789/206"),
            (True, "10-", "/416"),
            (False, "3-5", "0123456789/200"),
        ):
            registry.ranges = ranges
            command = ["curl", "--silent", "--noproxy", "*", "--range", asked, "--write-out", "/%{http_code}", url]
            assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == got


def test_a_cut_line_ends_an_answer_early_and_a_pull_goes_on_from_there(home: str) -> None:
    with TinyRegistry() as registry:
        name = f"{registry.host}/a"
        image = made(home, name, hashlib.shake_256(b"noise").digest(1 << 20))
        push(name)
        remove(name)
        registry.requests.clear()
        path = f"/v2/a/blobs/{image.manifest.layers[0].digest}"
        registry.cuts[path] = [100_000, 300_000]
        assert pull(name, progress=lambda event: None).digest == image.digest
        sent = [(asked.status, asked.size, asked.headers.get("range")) for asked in registry.requests]
        assert sent[-3:] == [
            (200, 100_000, None),
            (206, 300_000, "bytes=100000-"),
            (206, image.manifest.layers[0].size - 400_000, "bytes=400000-"),
        ]
        registry.cuts[path] = [3]
        command = ["curl", "--silent", "--noproxy", "*", f"http://{registry.host}{path}"]
        assert subprocess.run(command, capture_output=True).returncode == 18  # a transfer closed with data outstanding


def test_it_ends_and_leaves_its_port() -> None:
    import socket

    registry = TinyRegistry()
    registry.stop()
    registry.stop()
    with socket.socket() as again:
        again.bind(("127.0.0.1", int(registry.host.rpartition(":")[2])))


def test_waterfall_shows_each_layer_from_begin_to_end(home: str) -> None:
    with TinyRegistry() as registry:
        base = made(home, f"{registry.host}/base", b"base")
        image = made(home, f"{registry.host}/a", b"more", base=f"{registry.host}/base")
        for name in ("base", "a"):
            push(f"{registry.host}/{name}")
            remove(f"{registry.host}/{name}")
        pull(f"{registry.host}/base", progress=lambda event: None)
        watched = Waterfall()
        pull(f"{registry.host}/a", progress=watched)
    lower, upper = (layer.digest for layer in image.manifest.layers)
    assert watched.there == {lower} == {base.manifest.layers[0].digest}
    assert watched.bars[upper].seconds > 0
    assert watched.bars[upper].size == image.manifest.layers[1].size
    chart = watched.chart("A title", {lower: "base", upper: "a"})
    assert [label.get_text() for label in chart.axes.get_yticklabels()] == ["base", "a"]
    assert len(chart.axes.patches) == 1
    assert "was here" in [text.get_text() for text in chart.axes.texts]
    assert "base, a" in repr(chart)


def test_waterfall_of_nothing_says_how_to_watch() -> None:
    with pytest.raises(UsageError, match="progress"):
        Waterfall().chart("A title", {})


def test_waterfall_counts_a_layer_from_its_first_event_to_its_last() -> None:
    watched = Waterfall()
    for status, current in (("waiting", 0), ("downloading", 5), ("done", 10)):
        watched(Event("sha256:a", status, current, 10))
        time.sleep(0.002)
    assert watched.bars["sha256:a"].seconds >= 0.004


def test_tree_has_one_card_for_what_two_images_share(home: str) -> None:
    one = made(home, "localhost:1/one", b"one")
    two = made(home, "localhost:1/two", b"two", base="localhost:1/one")
    tag("localhost:1/two", "localhost:1/three")
    shown = manifest_tree([one, two, get("localhost:1/three")])
    page = unquote(shown._repr_mimebundle_()["text/html"])
    assert page.count("<rect") == 3 + 2 + 2 + 2  # names, manifests, configs, layers
    assert page.count("<path") == 3 + 2 + 3 + 3
    assert repr(shown).count("shared with the one above") == 1 + 3
    assert one.manifest.layers[0].digest[:15] in page


@pytest.fixture
def three_layers(home: str) -> Image:
    """A base with seven commands and a folder; a file of it replaced and another added; the folder deleted."""
    import os
    import stat

    for path in (*(f"0/bin/c{number}" for number in range(7)), "0/tools/a", "0/tools/deep/b", "0/etc/one", "1/etc/one"):
        os.makedirs(os.path.dirname(f"{home}/{path}"), exist_ok=True)
        with open(f"{home}/{path}", "w") as file:
            file.write("content")
    os.makedirs(f"{home}/1/empty")
    os.makedirs(f"{home}/2")
    os.mknod(f"{home}/2/tools", stat.S_IFCHR)
    base = ""
    for number in range(3):
        image = import_(f"{home}/{number}", "localhost:1/a", base=base, source_date_epoch=0, cmd=["c1"])
        base = "localhost:1/a"
    return image


def test_anatomy_has_a_card_for_each_document_and_the_step_of_each_layer(three_layers: Image) -> None:
    shown = anatomy(explain("localhost:1/a"))
    page = unquote(shown._repr_mimebundle_()["text/html"])
    assert page.count("<rect") == page.count("<path") + 1 == 1 + 1 + 3  # manifest, config, layers
    lines = repr(shown).splitlines()
    assert [line.split(" · ")[0].strip() for line in lines[::2]] == [
        "manifest",
        "config",
        *(f"layer {n}" for n in range(3)),
    ]
    for number, layer in enumerate(three_layers.manifest.layers):
        head, size = lines[4 + 2 * number :][:2]
        assert head.endswith(f"{layer.digest[7:15]} · import {number}")
        assert size.strip().startswith(f"{layer.size} bytes travel")
    assert [line.partition("; ")[2] for line in lines[5::2]] == ["21 bytes hidden", "", ""]
    assert lines[3].strip() == "runs c1"


def test_anatomy_shows_an_index_and_what_of_it_is_not_here(home: str) -> None:
    image = made(home, "localhost:1/a")
    with TinyRegistry() as registry:
        name = f"{registry.host}/a"
        tag("localhost:1/a", name)
        push(name)
        _, document = registry.documents["/v2/a/manifests/latest"]
        here = {"mediaType": image.manifest.media_type, "digest": image.digest, "size": len(document)}
        entries = [here | {"platform": {"os": "linux", "architecture": "amd64"}}]
        entries += [here | {"digest": "sha256:" + 64 * "5", "platform": {"os": "linux", "architecture": "s390x"}}]
        kind = "application/vnd.oci.image.index.v1+json"
        index = json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": entries}).encode()
        registry.put("/v2/a/manifests/latest", kind, index)
        pull(name, platform="linux/amd64", progress=lambda event: None)
    lines = repr(anatomy(explain(name))).splitlines()
    assert lines[0].startswith("index · ")
    assert [line.strip() for line in lines[-2:]] == ["manifest · 55555555", "linux/s390x, not here"]
    assert unquote(anatomy(explain(name))._repr_mimebundle_()["text/html"]).count("<rect") == 5


def test_file_tree_says_of_each_file_which_layer_it_comes_from_and_what_hides_it(three_layers: Image) -> None:
    shown = file_tree(explain("localhost:1/a"), most=3)
    assert repr(shown).splitlines() == [
        "bin/",
        "    c0  7 bytes  layer 0",
        "    c1  7 bytes  layer 0",
        "    … 5 more  layer 0",
        "empty/  layer 1",
        "etc/",
        "    one  7 bytes  layer 1",
        "    one  7 bytes  layer 0  replaced by layer 1",
        "tools/",
        "    a  7 bytes  layer 0  deleted by layer 2",
        "    deep/",
        "        b  7 bytes  layer 0  deleted by layer 2",
    ]
    page = unquote(shown._repr_mimebundle_()["text/html"])
    assert page.count("line-through") == page.count("stroke-dasharray") == 3


def test_file_tree_shows_a_name_that_is_no_utf8(home: str) -> None:
    import os

    os.makedirs(f"{home}/odd")
    with open(f"{home}/odd/\udcff<b>", "w") as file:
        file.write("x")
    import_(f"{home}/odd", "localhost:1/odd")
    shown = file_tree(explain("localhost:1/odd"))
    assert repr(shown).startswith("\\udcff<b>  1 bytes  layer 0")
    assert "\\udcff&lt;b&gt;" in unquote(shown._repr_mimebundle_()["text/html"])


@pytest.mark.parametrize("tint", TINTS)
def test_words_on_a_layers_colour_can_be_read(tint: str) -> None:
    assert contrast(tint, INK) > 7


def test_bars_stand_below_one_another_or_end_to_end() -> None:
    rows = {"ours": {"all": 3.0}, "theirs": {"fetch": 1.0, "unpack": 2.0}}
    beside, stacked = (bars("A title", rows, x="time (s)", stacked=stacked) for stacked in (False, True))
    assert [bar.get_x() for bar in beside.axes.patches] == [0, 0, 0]  # type: ignore[attr-defined]
    assert [bar.get_x() for bar in stacked.axes.patches] == [0, 0, 1]  # type: ignore[attr-defined]
    for chart in (beside, stacked):
        assert [bar.get_width() for bar in chart.axes.patches] == [3, 1, 2]  # type: ignore[attr-defined]
        assert len({bar.get_hatch() for bar in chart.axes.patches}) == 3
        legend = chart.axes.get_legend()
        assert legend
        assert [text.get_text() for text in legend.get_texts()] == ["all", "fetch", "unpack"]


def test_bars_of_nothing_are_refused() -> None:
    with pytest.raises(UsageError, match="nothing to chart"):
        bars("A title", {}, x="time (s)")
