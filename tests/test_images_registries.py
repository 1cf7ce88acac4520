"""Registries as they are out there: behind TLS, proxies and mirrors, slow, cut off, and counting what we ask."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import socket
import ssl
import subprocess
import threading
import time
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

import pytest
from images import FakeRegistry, Handler, MadeImage, always, digest_of, fake_registry, refused, times, wait_for
from middlemen import Authority, proxy, settings
from registry import docker_registry, push_busybox

from minicontainer.cli import main
from minicontainer.errors import ImageError, NotFoundError, UsageError
from minicontainer.images import pull, pull_all, push, tag, transport
from minicontainer.images.login import login
from minicontainer.images.proxies import proxy_for
from minicontainer.images.reference import Reference
from minicontainer.images.registry import origin
from minicontainer.images.settings import is_insecure, mirrors

if TYPE_CHECKING:
    from collections.abc import Iterator


# Names


@pytest.mark.parametrize(
    "text",
    [
        "alpine",
        "alpine:3.20",
        "library/alpine",
        "docker.io/alpine",
        "index.docker.io/alpine",
        "grafana/grafana",
        "localhost/x",
        "a.b/c",
        "a:1/c",
        "a/b/c/d",
        "a__b/c.d-e",
        "a--b",
        "quay.io/team/app:v1@sha256:" + "a" * 64,
        "Alpine",
        "a..b",
        "a._b",
        "-a/b",
        "a-.b/c",
        "a.b:port/c",
        "a/B",
        "x:",
        "x:.y",
        "x@sha256:abc",
        "x//y",
        "/x",
        "x/",
        "a" * 64,
        "a" * 65,
    ],
)
def test_name_is_taken_or_refused_as_skopeo_does(text: str, home: str) -> None:
    """skopeo reads names with Docker's own package, before it connects to anything: here a proxy that is not there."""
    nowhere = {"HTTPS_PROXY": "http://127.0.0.1:1", "HTTP_PROXY": "http://127.0.0.1:1", "NO_PROXY": ""}
    command = ["skopeo", "inspect", "--retry-times=0", f"docker://{text.partition('@')[0] if ':v1@' in text else text}"]
    said = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **nowhere})
    theirs = "invalid reference" not in said.stderr and "repository name must be" not in said.stderr
    theirs = theirs and "cannot specify 64-byte" not in said.stderr
    try:
        Reference.parse(text)
        ours = True
    except ImageError:
        ours = False
    assert ours == theirs, said.stderr


# TLS


@contextlib.contextmanager
def tls_registry(directory: str, authority: Authority, *, clients: bool = False) -> Iterator[int]:
    """A docker-registry behind TLS, for localhost and registry.test; its port. `clients` must show a certificate."""
    certificate, key = authority.sign("server", "DNS:localhost", "DNS:registry.test", "IP:127.0.0.1")
    os.makedirs(f"{directory}/tls", exist_ok=True)
    settings: dict[str, Any] = {"certificate": certificate, "key": key}
    if clients:
        settings["clientcas"] = [authority.certificate]
    with docker_registry(f"{directory}/tls", tls=settings) as host:
        yield int(host.rpartition(":")[2])


def test_registry_with_a_certificate_of_its_own_authority(home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority(f"{home}/authority")
    with tls_registry(home, authority) as port:
        host = f"localhost:{port}"
        place = f"{home}/certs.d/{host}"
        os.makedirs(place)
        settings(home, monkeypatch, registry_certificates=f"{home}/certs.d")
        with pytest.raises(ImageError) as caught:
            push_busybox(f"{host}/tls:v1")
        assert "certificate" in str(caught.value)
        assert "ca.crt" in caught.value.hint
        os.symlink(authority.certificate, f"{place}/ca.crt")
        push_busybox(f"{host}/tls:v1")
        assert len(pull(f"{host}/tls:v1").layers) == 3
        seen = subprocess.run(
            ["skopeo", "inspect", f"--cert-dir={place}", f"docker://{host}/tls:v1"], capture_output=True, check=True
        )
        assert json.loads(seen.stdout)["Digest"] == pull(f"{host}/tls:v1").digest


def test_registry_that_asks_for_a_client_certificate(home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority(f"{home}/authority")
    with tls_registry(home, authority, clients=True) as port:
        host = f"localhost:{port}"
        place = f"{home}/certs.d/{host}"
        os.makedirs(place)
        os.symlink(authority.certificate, f"{place}/ca.crt")
        settings(home, monkeypatch, registry_certificates=f"{home}/certs.d")
        refused(f"{host}/tls:v1")
        certificate, key = authority.sign("client")
        os.symlink(certificate, f"{place}/client.cert")
        assert "client.key" in str(refused(f"{host}/tls:v1"))
        os.symlink(key, f"{place}/client.key")
        push_busybox(f"{host}/tls:v1")
        assert len(pull(f"{host}/tls:v1").layers) == 3
        with open(f"{place}/ca.crt.new", "w") as file:
            file.write("no certificate\n")
        os.rename(f"{place}/ca.crt.new", f"{place}/ca.crt")
        assert "ca.crt cannot be used" in str(refused(f"{host}/tls:v1"))


def test_certificate_for_another_name_is_refused(home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority(f"{home}/authority")
    certificate, key = authority.sign("server", "DNS:other.test")
    os.makedirs(f"{home}/tls")
    with docker_registry(f"{home}/tls", tls={"certificate": certificate, "key": key}) as host:
        os.makedirs(f"{home}/certs.d/{host}")
        os.symlink(authority.certificate, f"{home}/certs.d/{host}/ca.crt")
        settings(home, monkeypatch, registry_certificates=f"{home}/certs.d")
        assert "localhost" in str(refused(f"{host}/x"))


def test_plain_http_only_to_this_machine_and_to_who_is_listed(home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = ["registry.test:5000", "bare.test", "10.1.0.0/16"]
    settings(home, monkeypatch, insecure_registries=listed)
    http = ["localhost", "localhost:5000", "127.0.0.1:80", "127.9.9.9", "[::1]:5000"]
    http += ["registry.test:5000", "bare.test", "bare.test:81", "10.1.2.3:5000"]
    https = ["registry.test", "registry.test:5001", "x.bare.test", "10.2.0.1", "docker.io", "127.0.0.1.example"]
    assert [is_insecure(host) for host in (*http, *https)] == [True] * len(http) + [False] * len(https)
    assert origin("docker.io") == "https://registry-1.docker.io"


@pytest.mark.parametrize(
    "document",
    [
        "[]",
        "{",
        '{"insecure-registries": "x"}',
        '{"insecure-registries": [7]}',
        '{"registry-mirrors": ["https://x"]}',
        '{"registry-mirrors": {"r.example": ["ftp://x"]}}',
        '{"registry-mirrors": {"r.example": ["http://x.example"]}}',
        '{"registry-certificates": 7}',
    ],
)
def test_settings_that_make_no_sense_are_named(home: str, document: str) -> None:
    with open(f"{home}/settings.json", "w") as file:
        file.write(document)
    with pytest.raises(ImageError) as caught:
        print(is_insecure("r.example"), mirrors("r.example"))
    assert f"{home}/settings.json" in str(caught.value)


# Proxies


def test_registry_behind_a_proxy_is_reached_by_connect(home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority(f"{home}/authority")
    with tls_registry(home, authority) as port, proxy({"registry.test": port}, "ada:engine 1843") as gate:
        os.makedirs(f"{home}/certs.d/registry.test")
        os.symlink(authority.certificate, f"{home}/certs.d/registry.test/ca.crt")
        settings(home, monkeypatch, registry_certificates=f"{home}/certs.d")
        monkeypatch.setenv("https_proxy", gate.url)
        assert "407" in str(refused("registry.test/proxied"))
        monkeypatch.setenv("https_proxy", gate.url.replace("//", "//ada:engine%201843@"))
        push_busybox("registry.test/proxied")
        assert len(pull("registry.test/proxied").layers) == 3
        assert {line.rpartition(" ")[0] for line in gate.asked} == {"CONNECT registry.test:443"}


def test_plain_registry_behind_a_proxy_is_asked_by_the_proxy(home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    image = MadeImage()
    with fake_registry() as fake, proxy({"plain.test": int(fake.host.rpartition(":")[2])}, "ada:x") as gate:
        fake.serve(image)
        settings(home, monkeypatch, insecure_registries=["plain.test"])
        monkeypatch.setenv("HTTP_PROXY", gate.url.replace("//", "//ada:x@"))
        assert pull("plain.test/test").layers
        assert gate.asked[0] == "GET http://plain.test/v2/test/manifests/latest HTTP/1.1"
        assert all(b"Proxy-Authorization" in headers for headers in gate.shown)


@pytest.mark.parametrize(
    ("no_proxy", "host", "port", "direct"),
    [
        ("", "r.example", 443, False),
        ("*", "r.example", 443, True),
        ("example", "r.example", 443, True),
        (".example", "r.example", 443, True),
        ("*.example", "r.example", 443, True),
        (".r.example", "r.example", 443, False),
        ("r.example", "r.example", 443, True),
        ("ample", "r.example", 443, False),
        ("other, R.EXAMPLE", "r.example", 443, True),
        ("r.example:5000", "r.example", 443, False),
        ("r.example:443", "r.example", 443, True),
        ("10.0.0.0/8", "10.1.2.3", 443, True),
        ("10.0.0.0/8", "11.1.2.3", 443, False),
        ("10.1.2.3", "10.1.2.3", 443, True),
        ("fd00::/8", "fd00::1", 443, True),
        ("10.1.2.3:80", "10.1.2.3", 443, False),
        ("", "localhost", 443, True),
        ("", "127.0.0.2", 443, True),
    ],
)
def test_no_proxy_is_read_as_docker_reads_it(
    home: str, monkeypatch: pytest.MonkeyPatch, no_proxy: str, host: str, port: int, direct: bool
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "proxy.test:3128")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    found = proxy_for("https", host, port)
    assert (found is None) is direct
    if found:
        assert (found.host, found.port, found.authorization) == ("proxy.test", 3128, "")


@pytest.mark.parametrize("text", ["socks5://x:1", "https://x", "http://", "http://x:99999", "http://x:port"])
def test_proxy_that_we_cannot_use_is_refused_by_name(home: str, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("HTTPS_PROXY", text)
    with pytest.raises(UsageError) as caught:
        pull("r.example/x")
    assert "HTTPS_PROXY" in str(caught.value)


@pytest.mark.parametrize(
    ("url", "why"), [("http://127.0.0.1:1", "does not answer"), ("http://proxy.invalid:3128", "cannot be resolved")]
)
def test_proxy_that_is_not_there_is_to_blame(home: str, monkeypatch: pytest.MonkeyPatch, url: str, why: str) -> None:
    monkeypatch.setenv("HTTPS_PROXY", url)
    error = refused("registry.example/test")
    assert f"the proxy {url[7:]} {why}" in error.message
    assert "HTTPS_PROXY" in error.hint


# Mirrors


def test_mirror_that_pulls_through_serves_what_only_the_registry_had(
    home: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fake_registry() as upstream:
        os.makedirs(f"{home}/mirror")
        upstream.documents["/v2/"] = ("application/json", b"{}")
        image = MadeImage({"a": b"1"}, {"b": b"2"})
        upstream.serve(image, "library/thing")
        settings(home, monkeypatch, insecure_registries=["hub.test"])
        with docker_registry(f"{home}/mirror", proxy={"remoteurl": f"http://{upstream.host}"}) as mirror:
            settings(home, monkeypatch, registry_mirrors={"docker.io": [f"http://{mirror}"]})
            first = pull("thing")
            assert first.entry.name == "docker.io/library/thing:latest"
            assert first.digest == digest_of(image.manifest)
            links = f"{home}/mirror/storage/docker/registry/v2/repositories/library/thing/_layers/sha256"
            deadline = time.monotonic() + 30
            while not all(os.path.exists(f"{links}/{digest_of(data)[7:]}/link") for data in image.layers):
                assert time.monotonic() < deadline, "the mirror keeps nothing"  # it writes while it sends, or later
                time.sleep(0.05)
            before = len([path for path, _ in upstream.asked if "/blobs/" in path])
            monkeypatch.setenv("MINICONTAINER_DATA_ROOT", f"{home}/second")
            assert len(pull("thing").layers) == 2
            assert len([path for path, _ in upstream.asked if "/blobs/" in path]) == before  # the mirror has them now


def test_mirrors_are_asked_in_order_and_the_registry_last(
    home: str, fake: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fake_registry() as empty, fake_registry() as prefixed:
        image = MadeImage()
        name = fake.serve(image)
        said: list[str] = []
        table = {fake.host: ["http://127.0.0.1:1", f"http://{empty.host}"]}
        settings(home, monkeypatch, registry_mirrors=table)
        assert pull(name, notice=said.append).layers
        assert "ECONNREFUSED" in said[0]
        assert "has no image" in said[1]
        prefixed.serve(image, "cache/test")
        settings(home, monkeypatch, registry_mirrors={fake.host: [f"http://{prefixed.host}/cache/"]})
        asked = len(fake.asked)
        assert pull(name).layers
        assert len(fake.asked) == asked
        assert prefixed.asked[0][0] == "/v2/cache/test/manifests/latest"


def test_password_for_a_registry_does_not_go_to_its_mirror(
    home: str, fake: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fake_registry() as mirror:
        image = MadeImage()
        name = fake.serve(image)
        for server in (fake, mirror):
            server.faults.append(
                lambda handler: (
                    not handler.headers.get("Authorization")
                    and (handler.answer(401, b"", {"WWW-Authenticate": "Basic realm=x"}) or True)
                )
            )
        settings(home, monkeypatch, registry_mirrors={fake.host: [f"http://{mirror.host}"]})
        os.makedirs(f"{home}/docker")
        assert pull(name, credentials=("ada", "x")).layers
        assert {shown for _, shown in mirror.asked} == {""}


def test_layer_that_a_mirror_has_lost_comes_from_the_registry(
    home: str, fake: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fake_registry() as mirror:
        image = MadeImage({"noise": os.urandom(300_000)}, {"more": os.urandom(300_000)})
        name = fake.serve(image)
        fake.faults.append(always(lambda handler: part(handler, 1), "/blobs/"))
        mirror.serve(image)
        del mirror.documents[f"/v2/test/blobs/{digest_of(image.layers[0])}"]
        mirror.faults.append(times(1, half, digest_of(image.layers[1])))
        mirror.faults.append(always(lambda handler: handler.answer(404), digest_of(image.layers[1])))
        settings(home, monkeypatch, registry_mirrors={fake.host: [f"http://{mirror.host}"]})
        assert len(pull(name).layers) == 2
        layers = {digest_of(layer) for layer in image.layers}
        assert {path.rpartition("/")[2] for path, _ in fake.asked} == layers
        assert fake.sent < len(image.layers[0]) + len(image.layers[1]) * 0.6  # of the second the rest only


# Lines that are cut


def half(handler: Handler) -> None:
    """Half of what was asked for, with `Range` understood."""
    part(handler, 0.5)


def part(handler: Handler, share: float, *, ranges: bool = True) -> None:
    _, data = handler.server.documents[handler.path]
    start = int(handler.headers.get("Range", "bytes=0-")[6:-1]) if ranges else 0
    rest = data[start:]
    handler.send_response(206 if start else 200)
    if start:
        handler.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
    handler.send_header("Content-Length", str(len(rest)))
    handler.end_headers()
    handler.send(rest[: max(int(len(rest) * share), 1)])
    handler.close_connection = True


def test_cut_download_goes_on_where_it_stopped(home: str, fake: FakeRegistry) -> None:
    image = MadeImage({"noise": os.urandom(2_000_000)})
    layer = image.layers[0]
    name = fake.serve(image)
    cuts = times(3, half, digest_of(layer))
    fake.faults.append(cuts)
    fake.faults.append(always(lambda handler: part(handler, 1), digest_of(layer)))
    before = fake.sent
    pulled = pull(name)
    with open(f"{pulled.layers[0]}/noise", "rb") as file:
        assert len(file.read()) == 2_000_000
    assert sum(digest_of(layer) in path for path, _ in fake.asked) == 4
    assert fake.sent - before < len(layer) + 10_000  # nothing came twice


def test_registry_that_ignores_ranges_is_read_again_and_the_known_part_passed_over(
    home: str, fake: FakeRegistry
) -> None:
    image = MadeImage({"noise": os.urandom(1_000_000)})
    name = fake.serve(image)
    fake.faults.append(times(1, lambda handler: part(handler, 0.4, ranges=False), digest_of(image.layers[0])))
    fake.faults.append(times(1, lambda handler: part(handler, 0.8, ranges=False), digest_of(image.layers[0])))
    assert pull(name).layers


@pytest.mark.parametrize("answered", ["bytes 0-9/10", "", "bytes */10", "items 5-6/7"])
def test_other_range_than_was_asked_for_is_refused(home: str, fake: FakeRegistry, answered: str) -> None:
    image = MadeImage({"noise": os.urandom(500_000)})

    def lie(handler: Handler) -> None:
        if "Range" not in handler.headers:
            half(handler)
        else:
            handler.answer(206, b"x" * 10, {"Content-Range": answered})

    fake.faults.append(always(lie, digest_of(image.layers[0])))
    assert "from byte" in str(refused(fake.serve(image)))


def test_rest_of_another_blob_is_found_out_by_the_digest(home: str, fake: FakeRegistry) -> None:
    image = MadeImage({"noise": os.urandom(500_000)})

    def lie(handler: Handler) -> None:
        if "Range" not in handler.headers:
            half(handler)
        else:
            start = int(handler.headers["Range"][6:-1])
            rest = os.urandom(len(image.layers[0]) - start)
            handler.answer(206, rest, {"Content-Range": f"bytes {start}-{len(image.layers[0]) - 1}/*"})

    fake.faults.append(always(lie, digest_of(image.layers[0])))
    assert "digest" in str(refused(fake.serve(image)))


def test_real_registry_behind_a_line_that_is_cut(home: str, registry: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """docker-registry behind a proxy that lets 400 kB through and then hangs up, again and again."""
    image = MadeImage({"noise": os.urandom(2_000_000)})
    with fake_registry() as fake:
        name = fake.serve(image)
        pull(name)
        tag(name, f"{registry}/cut:latest")
        push(f"{registry}/cut:latest")
    monkeypatch.setenv("MINICONTAINER_DATA_ROOT", f"{home}/second")
    with proxy({"cut.test": int(registry.rpartition(":")[2])}) as gate:
        gate.cut_after = 400_000
        settings(home, monkeypatch, insecure_registries=["cut.test"])
        monkeypatch.setenv("HTTP_PROXY", gate.url)
        pulled = pull("cut.test/cut")
        ranges = [headers for headers in gate.shown if b"Range: bytes=" in headers]
        assert len(ranges) >= 4
    with open(f"{pulled.layers[0]}/noise", "rb") as file:
        assert len(file.read()) == 2_000_000


# Patience


@contextlib.contextmanager
def silent(home: str, monkeypatch: pytest.MonkeyPatch, backlog: int) -> Iterator[tuple[socket.socket, str]]:
    """Somebody who listens, and never says a word to those whom the kernel lets in; the name of such a registry."""
    monkeypatch.setattr(transport, "CONNECT", 0.3)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(backlog)
        host = f"127.0.0.1:{listener.getsockname()[1]}"
        os.makedirs(f"{home}/certs.d/{host}")  # so TLS is meant
        settings(home, monkeypatch, registry_certificates=f"{home}/certs.d")
        yield listener, host


def test_who_never_speaks_tls_is_asked_once_and_not_for_long(home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with silent(home, monkeypatch, 20) as (listener, host):
        error = refused(f"{host}/test")
        assert "does not speak TLS" in error.message
        assert "insecure-registries" in error.hint
        listener.setblocking(False)
        listener.accept()[0].close()
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_who_answers_nothing_at_all_is_named(home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with silent(home, monkeypatch, 0) as (_, host), contextlib.ExitStack() as stack:
        for _ in range(3):  # the queue is full, and the kernel drops who comes now
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.1", int(host.rpartition(":")[2])))
        assert f"{host}: nobody answers there" in str(refused(f"{host}/test"))


def test_registry_that_speaks_tls_where_plain_http_is_meant(home: str) -> None:
    with tls_registry(home, Authority(f"{home}/authority")) as port:
        error = refused(f"localhost:{port}/test")
        assert "HTTP 400" in error.message
        assert f"/localhost:{port}/ca.crt" in error.hint


def test_retry_after_is_waited_for_as_seconds_or_as_a_date(
    home: str, fake: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr("minicontainer.images.transport.time.sleep", waited.append)
    answers = iter(["7", formatdate(time.time() + 20, usegmt=True), "soon"])
    fake.faults.append(times(3, lambda handler: handler.answer(429, b"", {"Retry-After": next(answers)}), "manifests"))
    pull(fake.serve(MadeImage()))
    assert waited[0] == 7
    assert 15 < waited[1] <= 20
    assert 0 < waited[2] < 5


def test_who_asks_for_an_hour_is_not_asked_again(home: str, fake: FakeRegistry) -> None:
    headers = {"Retry-After": "3600", "RateLimit-Limit": "100;w=21600", "RateLimit-Remaining": "0;w=21600"}
    fake.faults.append(always(lambda handler: handler.answer(429, b"", headers), "manifests"))
    error = refused(fake.serve(MadeImage()))
    assert len(fake.asked) == 1
    assert "wait 3600 seconds" in error.hint
    assert "0 of 100 pulls in 6 hours are left" in error.hint


def test_few_pulls_that_are_left_are_told(home: str, fake: FakeRegistry, capsys: pytest.CaptureFixture[str]) -> None:
    name = fake.serve(MadeImage())
    left = {"count": "80"}

    def count(handler: Handler) -> bool:
        if "/manifests/" not in handler.path:
            return False
        kind, data = handler.server.documents[handler.path]
        limit = {"RateLimit-Limit": "100;w=21600", "RateLimit-Remaining": f"{left['count']};w=21600"}
        handler.answer(200, data, {"Content-Type": kind, **limit})
        return True

    fake.faults.append(count)
    assert main(["pull", "-q", name]) == 0
    assert "left" not in capsys.readouterr().err
    left["count"] = "9"
    assert main(["pull", "-q", name]) == 0
    assert "9 of 100 pulls in 6 hours are left" in capsys.readouterr().err


# All tags


def test_all_tags_of_a_repository_are_pulled(
    home: str, registry: str, busybox_image: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pull(busybox_image)
    for name in ("one", "two", "three"):
        tag(busybox_image, f"{registry}/many:{name}")
        push(f"{registry}/many:{name}")
    found = pull_all(f"{registry}/many")
    assert {image.name for image in found} == {f"{registry}/many:{name}" for name in ("one", "two", "three")}
    assert main(["pull", "-q", "--all-tags", f"{registry}/many"]) == 0
    assert len(capsys.readouterr().out.split()) == 3
    for wrong in (f"{registry}/many:one", f"{registry}/many@sha256:{'0' * 64}"):
        with pytest.raises(UsageError):
            pull_all(wrong)


def pages(fake: FakeRegistry, *found: tuple[str, str]) -> None:
    """Pages of a list of tags: each its tags, and what its link says."""
    tags = dict(enumerate(found))

    def answer(handler: Handler) -> bool:
        if "/tags/list" not in handler.path:
            return False
        number = int(handler.path.rpartition("=")[2]) if "=" in handler.path else 0
        names, link = tags[number % len(tags)]
        handler.answer(200, names.encode(), {"Link": link} if link else {})
        return True

    fake.faults.append(answer)


def test_list_of_tags_comes_in_pages(home: str, fake: FakeRegistry) -> None:
    image = MadeImage()
    fake.serve(image)
    for name in ("a", "b", "c"):
        fake.document(f"manifests/{name}", image.media_type, image.manifest)
    more = '</v2/test/tags/list?last=1>; rel="next"'
    pages(fake, ('{"tags": ["a", "b"]}', more), ('{"tags": ["c"]}', ""))
    assert len(pull_all(f"{fake.host}/test")) == 3


@pytest.mark.parametrize(
    ("document", "link"),
    [
        ("[]", ""),
        ('{"tags": "abc"}', ""),
        ('{"tags": ["../../etc/passwd"]}', ""),
        ('{"tags": ["a b"]}', ""),
        ('{"tags": [7]}', ""),
        ("[" * 10_000, ""),
        ('{"tags": ["a"]}', '<http://127.0.0.1:1/v2/test/tags/list>; rel="next"'),
        ('{"tags": ["a"]}', '</v2/other/tags/list>; rel="next"'),
        ('{"tags": ["a"]}', '</v2/test/tags/list?last=0>; rel="next"'),  # for ever
    ],
)
def test_list_of_tags_that_is_none_is_refused(
    home: str, fake: FakeRegistry, document: str, link: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("minicontainer.images.registry.MAX_PAGES", 5)
    pages(fake, (document, link))
    with pytest.raises(ImageError):
        pull_all(f"{fake.host}/test")
    assert len(fake.asked) <= 5


def test_repository_without_tags_is_not_found(home: str, fake: FakeRegistry) -> None:
    pages(fake, ('{"tags": null}', ""))
    with pytest.raises(NotFoundError):
        pull_all(f"{fake.host}/test")


# At the same time


def test_threads_that_pull_two_images_with_one_layer_download_it_once(home: str, fake: FakeRegistry) -> None:
    shared = os.urandom(1_000_000)
    first, second = MadeImage({"shared": shared}, {"own": b"1"}), MadeImage({"shared": shared}, {"own": b"2"})
    names = [fake.serve(first, "first"), fake.serve(second, "second")]
    errors: list[BaseException] = []

    def one(name: str) -> None:
        try:
            pull(name, progress=lambda event: None)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=one, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert sum(digest_of(first.layers[0]) in path for path, _ in fake.asked) == 1


def test_layers_arrive_together_and_are_files_before_they_are_here(home: str, fake: FakeRegistry) -> None:
    """Each line stops in the middle, until the first file of all three layers is on the disk."""
    image = MadeImage(*({"first": bytes([number]), "noise": os.urandom(3_000_000)} for number in range(3)))
    layers = {f"/v2/test/blobs/{digest_of(layer)}" for layer in image.layers}
    met: list[str] = []

    def stop(handler: Handler) -> bool:
        if handler.path not in layers:
            return False
        _, data = handler.server.documents[handler.path]
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.send(data[: len(data) // 2])
        wait_for(lambda: len(glob.glob(f"{home}/data/ingest/*/*/first")) == 3)
        met.append(handler.path)
        handler.send(data[len(data) // 2 :])
        return True

    fake.faults.append(stop)
    pull(fake.serve(image))
    assert set(met) == layers


# What leads elsewhere


@pytest.mark.parametrize("location", ["http://[", "ftp://x/y", "http://", "//", "http://x:99999/", "http://\u00e4/"])
def test_redirect_to_nowhere_is_an_error(home: str, fake: FakeRegistry, location: str) -> None:
    def lead(handler: Handler) -> None:
        handler.send_response(307)
        handler.wfile.write(b"".join(handler._headers_buffer))  # type: ignore[attr-defined]
        handler._headers_buffer = []  # type: ignore[attr-defined]
        handler.wfile.write(b"Location: " + location.encode("utf-8") + b"\r\nContent-Length: 0\r\n\r\n")

    fake.faults.append(always(lead))
    refused(f"{fake.host}/test")


def test_redirect_from_tls_to_plain_http_is_refused(home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority(f"{home}/authority")
    certificate, key = authority.sign("server", "IP:127.0.0.1")
    with fake_registry() as secure, fake_registry() as plain:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        secure.socket = context.wrap_socket(secure.socket, server_side=True)
        os.makedirs(f"{home}/certs.d/{secure.host}")
        os.symlink(authority.certificate, f"{home}/certs.d/{secure.host}/ca.crt")
        settings(home, monkeypatch, registry_certificates=f"{home}/certs.d")
        secure.faults.append(
            always(lambda handler: handler.answer(307, b"", {"Location": f"http://{plain.host}{handler.path}"}))
        )
        assert "TLS" in refused(f"{secure.host}/test").hint
        assert plain.asked == []


def test_login_goes_through_the_same_settings(home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority(f"{home}/authority")
    with tls_registry(home, authority) as port:
        os.makedirs(f"{home}/certs.d/localhost:{port}")
        settings(home, monkeypatch, registry_certificates=f"{home}/certs.d")
        with pytest.raises(ImageError):
            login(f"localhost:{port}", "ada", "x")
        os.symlink(authority.certificate, f"{home}/certs.d/localhost:{port}/ca.crt")
        assert login(f"localhost:{port}", "ada", "x").endswith("config.json")  # an open registry takes everybody
