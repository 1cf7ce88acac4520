"""Images made in memory, and a registry that misbehaves on demand: for the tests of chapter 07."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.server
import io
import json
import os
import socketserver
import tarfile
import threading
import time
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from minicontainer.errors import ContainerError, ImageError
from minicontainer.images import pull, transport
from minicontainer.images.manifest import (
    DOCKER_CONFIG,
    DOCKER_LAYER_GZIP,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
)
from minicontainer.images.platforms import Platform

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    Fault = Callable[["Handler"], bool]

S = TypeVar("S", bound=socketserver.BaseServer)


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def tar_of(files: dict[str, bytes]) -> bytes:
    """A tar archive with these files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


class MadeImage:
    """An image as bytes, any of which a test may change before it asks for `manifest`."""

    def __init__(self, *layers: dict[str, bytes], docker: bool = False) -> None:
        self.tars = [tar_of(files) for files in layers or ({"hello": b"world\n"},)]
        self.layers = [gzip.compress(data, mtime=0) for data in self.tars]
        self.docker = docker
        host = Platform.host()
        self.config: dict[str, Any] = {
            "architecture": host.architecture,
            "os": "linux",
            "config": {"Cmd": ["/hello"]},
            "rootfs": {"type": "layers", "diff_ids": [digest_of(data) for data in self.tars]},
        }
        self.changes: dict[str, Any] = {}
        """What replaces fields of the manifest."""

    @property
    def config_document(self) -> bytes:
        return json.dumps(self.config).encode()

    @property
    def media_type(self) -> str:
        return DOCKER_MANIFEST if self.docker else OCI_MANIFEST

    @property
    def document(self) -> dict[str, Any]:
        kinds = (DOCKER_CONFIG, DOCKER_LAYER_GZIP) if self.docker else (OCI_CONFIG, OCI_LAYER_GZIP)
        return {
            "schemaVersion": 2,
            "mediaType": self.media_type,
            "config": descriptor(kinds[0], self.config_document),
            "layers": [descriptor(kinds[1], layer) for layer in self.layers],
        } | self.changes

    @property
    def manifest(self) -> bytes:
        return json.dumps(self.document).encode()


def descriptor(media_type: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data)}


def index_of(*entries: tuple[dict[str, str] | None, bytes]) -> bytes:
    """An index of manifests, each with its platform."""
    manifests = []
    for platform, manifest in entries:
        entry = descriptor(OCI_MANIFEST, manifest)
        if platform is not None:
            entry["platform"] = platform
        manifests.append(entry)
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests}).encode()


class FakeRegistry(http.server.ThreadingHTTPServer):
    """Serves what it is given; `faults` are asked before each answer, and one that returns True has answered itself."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self.server_port}"
        self.documents: dict[str, tuple[str, bytes]] = {}
        self.faults: list[Fault] = []
        self.asked: list[tuple[str, str]] = []
        """(path, Authorization) of each request."""
        self.sent = 0

    def serve(self, image: MadeImage, name: str = "test") -> str:
        """Offer an image; its reference."""
        self.document("manifests/latest", image.media_type, image.manifest, name)
        self.document(f"manifests/{digest_of(image.manifest)}", image.media_type, image.manifest, name)
        for blob in (image.config_document, *image.layers):
            self.document(f"blobs/{digest_of(blob)}", "application/octet-stream", blob, name)
        return f"{self.host}/{name}:latest"

    def document(self, path: str, media_type: str, data: bytes, name: str = "test") -> str:
        self.documents[f"/v2/{name}/{path}"] = (media_type, data)
        return f"{self.host}/{name}:latest"

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that hangs up is what these tests are about


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeRegistry

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers.get("Authorization", "")))
        for fault in self.server.faults:
            if fault(self):
                return
        if self.path not in self.server.documents:
            self.answer(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}')
            return
        media_type, data = self.server.documents[self.path]
        self.answer(200, data, {"Content-Type": media_type})

    do_HEAD = do_POST = do_PATCH = do_PUT = do_GET

    def answer(self, status: int, data: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.send(data)

    def send(self, data: bytes) -> None:
        self.wfile.write(data)
        self.server.sent += len(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextlib.contextmanager
def serving(server: S) -> Iterator[S]:
    """A server, in a thread of its own, for the length of a block."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def fake_registry() -> AbstractContextManager[FakeRegistry]:
    """A registry of the test's own."""
    return serving(FakeRegistry())


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeRegistry]:
    """One for which nobody waits long when it fails."""
    monkeypatch.setattr(transport, "PAUSE", 0.001)
    with fake_registry() as server:
        yield server


def refused(reference: str, kind: type[ContainerError] = ImageError, **how: Any) -> ContainerError:
    """The error that a pull ends with; it names the next step."""
    with pytest.raises(kind) as caught:
        pull(reference, **how)
    assert caught.value.hint
    return caught.value


def once(answer: Callable[[Handler], None], path: str = "/blobs/") -> Fault:
    """A fault that happens at the first request for such a path."""
    return times(1, answer, path)


def times(count: int, answer: Callable[[Handler], None], path: str = "") -> Fault:
    """A fault that happens at the first `count` requests for such a path."""
    left = [count]
    lock = threading.Lock()

    def fault(handler: Handler) -> bool:
        with lock:
            if path not in handler.path or left[0] == 0:
                return False
            left[0] -= 1
        answer(handler)
        return True

    return fault


def always(answer: Callable[[Handler], None], path: str = "") -> Fault:
    """A fault that never ends."""
    return times(-1, answer, path)


def wait_for(condition: Callable[[], object]) -> None:
    """Wait until something is so; it must not take longer than half a minute."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def contents(root: str) -> list[str]:
    """What is in a data root: blobs, layers, and what is arriving; lock files are no content."""
    found = []
    for place in ("images/blobs/sha256", "layers", "ingest"):
        with contextlib.suppress(FileNotFoundError):
            found += [f"{place}/{name}" for name in os.listdir(f"{root}/{place}") if name != "lock"]
    return sorted(found)
