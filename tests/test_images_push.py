"""Push into real registries: blobs that another repository has, and blobs in parts."""

from __future__ import annotations

import hashlib
import http.server
import os
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest
from images import serving
from registry import TokenServer, data_root
from stores import grow, skopeo, told

from minicontainer.errors import ImageError
from minicontainer.images import Store, pull, push, tag
from minicontainer.images import registry as api

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from minicontainer.images.progress import Event


def statuses(events: list[Event]) -> set[str]:
    return {event.status for event in events}


def test_blobs_of_another_repository_are_not_sent_again(root: str, registry: str) -> None:
    grow(f"{root}/..", f"{registry}/team/base:1", {"noise": os.urandom(300_000)}, {"more": b"more"})
    push(f"{registry}/team/base:1")
    tag(f"{registry}/team/base:1", f"{registry}/other/app:1")
    events: list[Event] = []
    digest = push(f"{registry}/other/app:1", progress=events.append)
    assert statuses(events) == {"exists"}
    assert skopeo(f"docker://{registry}/other/app:1")["Digest"] == digest
    with data_root(f"{root}/../second"):
        assert len(pull(f"{registry}/other/app:1").layers) == 2


def test_a_repository_that_has_them_not_costs_nothing(root: str, registry: str) -> None:
    grow(f"{root}/..", f"{registry}/only/here:1", {"noise": os.urandom(300_000)})
    tag(f"{registry}/only/here:1", f"{registry}/never/pushed:1")
    events: list[Event] = []
    push(f"{registry}/only/here:1", progress=events.append)
    assert "uploading" in statuses(events)
    assert told("skopeo", "copy", "--src-tls-verify=false", f"docker://{registry}/only/here:1", f"dir:{root}/copy")


def test_a_token_for_both_repositories_is_asked_for(
    root: str, token_registry: tuple[str, TokenServer, tuple[str, str]]
) -> None:
    host, _, credentials = token_registry
    grow(f"{root}/..", f"{host}/from/here:1", {"noise": os.urandom(300_000)})
    push(f"{host}/from/here:1", credentials=credentials)
    tag(f"{host}/from/here:1", f"{host}/to/there:1")
    events: list[Event] = []
    push(f"{host}/to/there:1", credentials=credentials, progress=events.append)
    assert statuses(events) == {"exists"}


def test_a_large_blob_is_sent_in_parts(root: str, registry: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "CHUNK", 100_000)
    noise = os.urandom(1_234_567)
    grow(f"{root}/..", f"{registry}/in/parts:1", {"noise": noise})
    digest = push(f"{registry}/in/parts:1")
    assert skopeo(f"docker://{registry}/in/parts:1")["Digest"] == digest
    with data_root(f"{root}/../second"), open(f"{pull(f'{registry}/in/parts:1').layers[0]}/noise", "rb") as file:
        assert file.read() == noise


class Parts(http.server.ThreadingHTTPServer):
    """A registry that keeps what has arrived of a part when the line breaks, and tells how much that is."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _PartsHandler)
        self.host = f"127.0.0.1:{self.server_port}"
        self.uploads: dict[str, bytearray] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.cuts: list[int] = []
        """After so many bytes of a part the line breaks, one number for each time."""
        self.tells = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # the lines that break are the tests'


class _PartsHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Parts

    def answer(self, status: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": "0", **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()

    def place(self, name: str) -> dict[str, str]:
        size = len(self.server.uploads[name])
        return {"Location": f"/v2/test/blobs/uploads/{name}", "Range": f"0-{max(size - 1, 0)}"}

    def route(self) -> None:
        self.server.requests.append((self.command, self.headers.get("Content-Range", "")))
        path = urlsplit(self.path)
        found = re.fullmatch("/v2/test/blobs/uploads/([0-9a-f]+)", path.path)
        if self.command == "POST":
            name = os.urandom(8).hex()
            self.server.uploads[name] = bytearray()
            self.answer(202, self.place(name))
        elif self.command == "HEAD":
            self.answer(404)
        elif self.command == "PUT" and "/manifests/" in path.path:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.answer(201)
        elif found and self.command == "GET":
            self.answer(*((204, self.place(found[1])) if self.server.tells else (404, {})))
        elif found:
            self.take(found[1], parse_qs(path.query).get("digest", [""])[0])

    def take(self, name: str, digest: str) -> None:
        data = self.server.uploads[name]
        if "Content-Range" in self.headers:
            first, last = (int(number) for number in self.headers["Content-Range"].split("-"))
            if first != len(data) or last - first + 1 != int(self.headers["Content-Length"]):
                self.rfile.read(int(self.headers["Content-Length"]))
                self.answer(416, self.place(name))
                return
        left = int(self.headers["Content-Length"])
        if self.command == "PATCH" and self.server.cuts and (cut := self.server.cuts.pop(0)) < left:
            data += self.rfile.read(cut)
            self.connection.shutdown(2)
            self.close_connection = True
            return
        data += self.rfile.read(left)
        if self.command == "PATCH":
            self.answer(202, self.place(name))
        else:
            assert digest == f"sha256:{hashlib.sha256(data).hexdigest()}"
            self.server.blobs[digest] = bytes(data)
            self.answer(201)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = route

    def log_message(self, format: str, *args: Any) -> None:
        pass


def parts() -> AbstractContextManager[Parts]:
    return serving(Parts())


def test_a_part_that_was_cut_goes_on_where_it_broke(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "CHUNK", 1_000_000)
    with parts() as server:
        name = f"{server.host}/test:1"
        image = grow(f"{root}/..", name, {"noise": os.urandom(2_500_000)})
        server.cuts = [400_000, 0, 1]
        push(name)
        blob = image.manifest.layers[0]
        with open(Store().blob(blob.digest), "rb") as file:
            assert server.blobs[blob.digest] == file.read()
        ranges = [found for command, found in server.requests if command == "PATCH"]
        assert ranges[:2] == ["0-999999", "400000-1399999"]
        assert len([command for command, _ in server.requests if command == "GET"]) >= 2


def test_a_registry_that_cannot_tell_gets_all_of_it_again(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "CHUNK", 1_000_000)
    with parts() as server:
        server.tells = False
        name = f"{server.host}/test:1"
        image = grow(f"{root}/..", name, {"noise": os.urandom(2_500_000)})
        server.cuts = [400_000]
        push(name)
        assert image.manifest.layers[0].digest in server.blobs
        ranges = [found for command, found in server.requests if command == "PATCH"]
        assert ranges[:2] == ["0-999999", "0-999999"]


def test_a_line_that_always_breaks_is_given_up(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "CHUNK", 1_000_000)
    with parts() as server:
        name = f"{server.host}/test:1"
        grow(f"{root}/..", name, {"noise": os.urandom(2_500_000)})
        server.cuts = [0] * 100
        with pytest.raises(ImageError, match=r"broke|ECONN|EPIPE"):
            push(name)
        assert not any(command == "PUT" and found for command, found in server.requests)
