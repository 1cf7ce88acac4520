"""A registry in memory, to be looked into: it remembers what it was asked, can be slow, and can be made to lie.

    with TinyRegistry() as registry:
        tag("localhost:5000/web", f"{registry.host}/web")
        push(f"{registry.host}/web")
        registry.documents        path → (media type, bytes): change one, and it lies
        registry.requests         method, path, status, bytes, headers: in the order of their answers
        registry.speed = 10e6     bytes a second, of all connections together
        registry.cuts[path] = [5] the line breaks after five bytes of the next answer to this path
        registry.users["ada"] = "engine:1843"      from now on it asks who somebody is

It speaks what a pull and a push need of the OCI distribution specification, and no more: no TLS, no deletion, no
pieces of blobs when it is pushed to. Like every registry it verifies what is pushed, and nothing of what it serves.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qs, urlsplit

PIECE = 64 << 10
"""Bytes that travel at a time."""


class Request(NamedTuple):
    """One request that was answered; `size` is the bytes that travelled, in whichever direction they did, `headers`
    what was sent along, by their names in small letters."""

    method: str
    path: str
    status: int
    size: int
    headers: dict[str, str]


class TinyRegistry:
    """A registry on a free port of this machine, for as long as the `with` block, or until `stop()`."""

    def __init__(self) -> None:
        self.documents: dict[str, tuple[str, bytes]] = {}
        """What it has: path → (media type, bytes). A tag and the digest of its manifest are two paths."""
        self.requests: list[Request] = []
        """What it was asked, in the order of its answers."""
        self.speed = 0.0
        """Bytes a second that it sends at most, to all its clients together; 0 for no limit."""
        self.cuts: dict[str, list[int]] = {}
        """Where the line breaks: path → after how many bytes of its next answer, of the one after that, …"""
        self.ranges = True
        """Whether it can send a part of a blob, as registries may and need not."""
        self.users: dict[str, str] = {}
        """Name → password of those whom it lets in; everybody when there are none."""
        self.tokens = True
        """Whether it wants a token (from its own `/token`), as Docker Hub does, or the password with each request."""
        self.granted: dict[str, str] = {}
        """The tokens that it has given away, and the scope of each."""
        self._free_at = 0.0
        self._lock = threading.Lock()
        self._server = _Server(self)
        self.host = f"127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it. It may have ended already."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def put(self, path: str, media_type: str, data: bytes) -> None:
        """Have a document, as somebody with access to the registry's disk could: nothing is checked."""
        self.documents[path] = (media_type, data)

    def pace(self, size: int) -> None:
        """Wait until the line has room for so many bytes."""
        if self.speed:
            with self._lock:
                self._free_at = max(self._free_at, time.monotonic()) + size / self.speed
                until = self._free_at
            time.sleep(max(0.0, until - time.monotonic()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, registry: TinyRegistry) -> None:
        self.registry = registry
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that has seen enough hangs up


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_GET(self) -> None:
        found = self.server.registry.documents.get(self.path)
        if urlsplit(self.path).path == "/token":
            self.token()
        elif not self.is_let_in():
            return
        elif self.path == "/v2/":
            self.answer(200, b"{}")
        elif found is None:
            code = "MANIFEST_UNKNOWN" if "/manifests/" in self.path else "BLOB_UNKNOWN"
            self.refuse(404, code)
        else:
            media_type, data = found
            target = self.path.rpartition("/")[2]  # what was asked for by digest is said to be it, as everywhere
            digest = target if target.startswith("sha256:") else _digest(data)
            headers = {"Content-Type": media_type, "Docker-Content-Digest": digest}
            asked = re.fullmatch(r"bytes=(\d{1,18})-(\d{0,18})", self.headers.get("Range", ""))
            if not asked or not self.server.registry.ranges:
                self.answer(200, data, headers)
                return
            begin, end = int(asked[1]), min(int(asked[2] or len(data)), len(data) - 1)
            if begin > end:
                self.answer(416, headers={"Content-Range": f"bytes */{len(data)}"})
            else:
                headers["Content-Range"] = f"bytes {begin}-{end}/{len(data)}"
                self.answer(206, data[begin : end + 1], headers)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        """Where to send a blob to: any address will do, this one is counted."""
        if not self.is_let_in():
            return
        self.answer(202, headers={"Location": f"{self.path}{len(self.server.registry.requests)}"})

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if not self.is_let_in():
            return
        parts = urlsplit(self.path)
        repository, _, target = parts.path.rpartition("/manifests/")
        digest = _digest(data)
        have = self.server.registry.documents
        if not repository:  # a blob
            repository = parts.path.partition("/blobs/")[0]
            if digest != parse_qs(parts.query)["digest"][0]:
                self.refuse(400, "DIGEST_INVALID", len(data))
                return
            have[f"{repository}/blobs/{digest}"] = ("application/octet-stream", data)
        elif not all(f"{repository}/blobs/{blob}" in have for blob in _pointers(data)):
            self.refuse(400, "MANIFEST_BLOB_UNKNOWN", len(data))
            return
        else:
            for name in (target, digest):
                have[f"{repository}/manifests/{name}"] = (self.headers["Content-Type"], data)
        self.answer(201, headers={"Docker-Content-Digest": digest}, received=len(data))

    # --- who somebody is ------------------------------------------------------------------------------------------

    def is_let_in(self) -> bool:
        """Whether this request may have its answer; if not, a challenge has been sent. RFC 9110, 11"""
        registry = self.server.registry
        scheme, _, shown = self.headers.get("Authorization", "").partition(" ")
        if not registry.users:
            return True
        if registry.tokens:
            scope = self.scope()
            granted = registry.granted.get(shown) if scheme == "Bearer" else None
            if granted is not None and scope in ("", *granted.split(" ")):
                return True
            realm = f'Bearer realm="http://{registry.host}/token",service="{registry.host}"'
            challenge = realm + (f',scope="{scope}"' if scope else "")
        elif scheme == "Basic" and self.is_user(shown):
            return True
        else:
            challenge = 'Basic realm="a tiny registry"'
        body = json.dumps({"errors": [{"code": "UNAUTHORIZED", "message": "who are you?"}]}).encode()
        self.answer(401, body, {"WWW-Authenticate": challenge})
        return False

    def scope(self) -> str:
        """What this request needs a token for; "" for `/v2/` itself."""
        repository = re.match(r"/v2/(.+)/(?:manifests|blobs|tags)/", self.path)
        action = "pull" if self.command in ("GET", "HEAD") else "push"
        return f"repository:{repository[1]}:{action}" if repository else ""

    def is_user(self, encoded: str) -> bool:
        """Whether that is a known user's name and password, as base64 of `name:password`."""
        try:
            name, colon, password = base64.b64decode(encoded, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return False
        return bool(colon) and self.server.registry.users.get(name) == password

    def token(self) -> None:
        """A new token for the scopes that are asked for, if the password is right. `r:pull,push` is two of them."""
        scheme, _, shown = self.headers.get("Authorization", "").partition(" ")
        if scheme != "Basic" or not self.is_user(shown):
            self.refuse(401, "UNAUTHORIZED")
            return
        scopes = []
        for scope in parse_qs(urlsplit(self.path).query).get("scope", []):
            name, _, actions = scope.rpartition(":")
            scopes += [f"{name}:{action}" for action in actions.split(",")]
        token = os.urandom(12).hex()
        self.server.registry.granted[token] = " ".join(scopes)
        self.answer(200, json.dumps({"token": token, "expires_in": 300}).encode(), {"Content-Type": "application/json"})

    # --- answers --------------------------------------------------------------------------------------------------

    def refuse(self, status: int, code: str, received: int = 0) -> None:
        self.answer(status, json.dumps({"errors": [{"code": code}]}).encode(), received=received)

    def answer(self, status: int, data: bytes = b"", headers: dict[str, str] | None = None, received: int = 0) -> None:
        body = b"" if self.command == "HEAD" else data
        registry, cuts = self.server.registry, self.server.registry.cuts.get(self.path) if body else None
        end = min(cuts.pop(0), len(body)) if cuts else len(body)
        sent = {name.lower(): value for name, value in self.headers.items()}
        registry.requests.append(Request(self.command, self.path, status, received or end, sent))
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        for at in range(0, end, PIECE):
            piece = body[at : min(at + PIECE, end)]
            registry.pace(len(piece))
            self.wfile.write(piece)
        self.close_connection |= end < len(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass  # `requests` is the log


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _pointers(manifest: bytes) -> list[str]:
    document = json.loads(manifest)
    return [part["digest"] for part in (*document.get("layers", ()), *filter(None, [document.get("config")]))]
