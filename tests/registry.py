"""Real registries for the tests: Debian's docker-registry on a loopback port, open, with passwords, or with tokens.

`conftest.py` takes the fixtures from here:

    registry         "localhost:PORT" of an open one
    busybox_image    a reference to an image in it: Debian's busybox in three layers
"""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import os
import shutil
import subprocess
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest
from images import serving

from bench.registry import registry as docker_registry
from minicontainer.images import import_, push

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def scratch() -> Iterator[str]:
    """A directory of our own, outside pytest's."""
    directory = f"/var/tmp/minicontainer-registry-{os.urandom(4).hex()}"  # podman takes no name that ends with "_"
    os.mkdir(directory, 0o700)
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


@contextlib.contextmanager
def data_root(directory: str) -> Iterator[None]:
    """Use another data root for a while."""
    before = os.environ.get("MINICONTAINER_DATA_ROOT")
    os.environ["MINICONTAINER_DATA_ROOT"] = directory
    try:
        yield
    finally:
        if before is None:
            del os.environ["MINICONTAINER_DATA_ROOT"]
        else:
            os.environ["MINICONTAINER_DATA_ROOT"] = before


@pytest.fixture(scope="session")
def registry() -> Iterator[str]:
    """An open registry: "localhost:PORT"."""
    with scratch() as directory, docker_registry(directory) as host:
        yield host


@pytest.fixture(scope="session")
def password_registry() -> Iterator[tuple[str, str, str]]:
    """A registry that wants Basic credentials: its "localhost:PORT", a user and a password."""
    with scratch() as directory:
        line = subprocess.run(["htpasswd", "-nbB", "ada", "engine:1843"], check=True, capture_output=True, text=True)
        with open(f"{directory}/htpasswd", "w") as file:
            file.write(line.stdout.strip() + "\n")
        auth = {"htpasswd": {"realm": "the analytical engine", "path": f"{directory}/htpasswd"}}
        with docker_registry(directory, auth=auth) as host:
            yield host, "ada", "engine:1843"


class TokenServer(http.server.ThreadingHTTPServer):
    """Hands out tokens that a docker-registry believes: signed, and good for what was asked for."""

    daemon_threads = True

    def __init__(self, directory: str, port: int, credentials: tuple[str, str]) -> None:
        super().__init__(("127.0.0.1", port), _TokenHandler)
        self.directory = directory
        self.basic = "Basic " + base64.b64encode(":".join(credentials).encode()).decode()
        self.seen: list[tuple[str, str]] = []
        """(the scope asked for, the Authorization header shown) of each request."""

    def sign(self, claims: dict[str, Any]) -> str:
        with open(f"{self.directory}/token.crt") as file:
            certificate = "".join(line.strip() for line in file if "-----" not in line)
        header = {"typ": "JWT", "alg": "RS256", "x5c": [certificate]}
        text = ".".join(_url64(json.dumps(part).encode()) for part in (header, claims))
        command = ["openssl", "dgst", "-sha256", "-sign", f"{self.directory}/token.key"]
        return text + "." + _url64(subprocess.run(command, input=text.encode(), capture_output=True, check=True).stdout)


class _TokenHandler(http.server.BaseHTTPRequestHandler):
    server: TokenServer

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        scope = query.get("scope", [""])[0]
        shown = self.headers.get("Authorization", "")
        self.server.seen.append((scope, shown))
        if shown and shown != self.server.basic:
            self._answer(401, {"details": "incorrect username or password"})
            return
        access = []
        for one in query.get("scope", []):  # who only logs in asks for none
            kind, name, actions = one.split(":")
            allowed = actions.split(",") if shown else [action for action in actions.split(",") if action == "pull"]
            access.append({"type": kind, "name": name, "actions": allowed})
        now = int(time.time())
        claims = {
            "iss": "tests",
            "sub": "",
            "aud": query["service"][0],
            "nbf": now - 60,
            "iat": now,
            "exp": now + 300,
            "jti": os.urandom(8).hex(),
            "access": access,
        }
        self._answer(200, {"token": self.server.sign(claims), "expires_in": 300})

    def _answer(self, status: int, document: dict[str, Any]) -> None:
        data = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="session")
def token_registry() -> Iterator[tuple[str, TokenServer, tuple[str, str]]]:
    """A registry that wants Bearer tokens: its "localhost:PORT", the server that gives them, and who may push."""
    credentials = ("grace", "hopper1952")
    with scratch() as directory:
        key, certificate = f"{directory}/token.key", f"{directory}/token.crt"
        request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=tests", "-days", "2"]
        subprocess.run([*request, "-keyout", key, "-out", certificate], check=True, capture_output=True)
        server = TokenServer(directory, 0, credentials)
        token = {
            "realm": f"http://127.0.0.1:{server.server_port}/token",
            "service": "registry of the tests",
            "issuer": "tests",
            "rootcertbundle": certificate,
        }
        with serving(server), docker_registry(directory, auth={"token": token}) as host:
            yield host, server, credentials


def _url64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def busybox_tree(directory: str) -> None:
    """Debian's static busybox with a link for each of its applets, and the files that name users."""
    for name in ("bin", "etc", "tmp", "root", "home/web"):
        os.makedirs(f"{directory}/{name}")
    os.chmod(f"{directory}/tmp", 0o1777)
    os.chmod(f"{directory}/root", 0o700)
    os.chown(f"{directory}/home/web", 1000, 1000)
    shutil.copy("/bin/busybox", f"{directory}/bin/busybox")
    for applet in subprocess.run(["busybox", "--list"], check=True, capture_output=True, text=True).stdout.split():
        if applet != "busybox":
            os.symlink("busybox", f"{directory}/bin/{applet}")
    write = {
        "passwd": "root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1000:web:/home/web:/bin/sh\n",
        "group": "root:x:0:\nweb:x:1000:\naudio:x:29:web\n",
        "motd": "from the first layer\n",
    }
    for name, text in write.items():
        with open(f"{directory}/etc/{name}", "w") as file:
            file.write(text)


def push_busybox(name: str) -> None:
    """Make an image of three layers and push it: busybox, a file, and a change of the file and a deletion."""
    with scratch() as directory, data_root(f"{directory}/data"):
        busybox_tree(f"{directory}/1")
        import_(f"{directory}/1", name, cmd=["/bin/sh"], env={"PATH": "/bin"}, source_date_epoch=0)
        os.makedirs(f"{directory}/2/srv")
        with open(f"{directory}/2/srv/page", "w") as file:
            file.write("from the second layer\n")
        with open(f"{directory}/2/srv/gone", "w") as file:
            file.write("nobody shall see this\n")
        import_(f"{directory}/2", name, base=name, source_date_epoch=0)
        os.makedirs(f"{directory}/3/srv")
        with open(f"{directory}/3/srv/page", "w") as file:
            file.write("from the third layer\n")
        os.mknod(f"{directory}/3/srv/gone", 0o020000, 0)
        import_(f"{directory}/3", name, base=name, source_date_epoch=0)
        push(name)


@pytest.fixture(scope="session")
def busybox_image(registry: str) -> str:
    """A reference to an image with three layers: /bin/sh and all of busybox; users root and web (1000)."""
    name = f"{registry}/busybox:latest"
    push_busybox(name)
    return name
