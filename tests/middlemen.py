"""What stands between us and a registry, for the tests: a test CA, a proxy, a credential helper, a mirror."""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import os
import socket
import socketserver
import stat
import subprocess
import sys
import textwrap
import threading
import urllib.request
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator


def settings(directory: str, monkeypatch: Any, **values: Any) -> None:
    """Write the engine's settings of this test; `insecure_registries=[…]` is `insecure-registries`."""
    document = {key.replace("_", "-"): value for key, value in values.items()}
    with open(f"{directory}/settings.json", "w") as file:
        json.dump(document, file)
    monkeypatch.setenv("MINICONTAINER_CONFIG", f"{directory}/settings.json")


class Authority:
    """A certificate authority made by openssl."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        os.makedirs(directory)
        self.certificate = f"{directory}/ca.crt"
        self._key = f"{directory}/ca.key"
        new = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        command = [*new, "-days", "2", "-subj", "/CN=authority of the tests", "-keyout", self._key]
        subprocess.run([*command, "-out", self.certificate], check=True, capture_output=True)

    def sign(self, name: str, *alternatives: str) -> tuple[str, str]:
        """A certificate for `name` with subjectAltNames ("DNS:localhost"), and its key: two files."""
        key, request, certificate = (f"{self.directory}/{name}.{end}" for end in ("key", "csr", "crt"))
        new = ["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        subprocess.run([*new, "-subj", f"/CN={name}", "-keyout", key, "-out", request], check=True, capture_output=True)
        extensions = f"{self.directory}/{name}.ext"
        with open(extensions, "w") as file:
            file.write(f"subjectAltName={','.join(alternatives)}\n" if alternatives else "")
        sign = ["openssl", "x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self._key]
        command = [*sign, "-CAcreateserial", "-days", "2", "-extfile", extensions, "-out", certificate]
        subprocess.run(command, check=True, capture_output=True)
        return certificate, key


class _Proxy(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


class Proxy:
    """An HTTP proxy: CONNECT and plain requests, perhaps with a password; it knows its own names for addresses."""

    def __init__(self, names: dict[str, int], credentials: str = "") -> None:
        self.names = names
        """Which port of 127.0.0.1 a host's name means."""
        self.wanted = "Basic " + base64.b64encode(credentials.encode()).decode() if credentials else ""
        self.cut_after = 0
        """Bytes of an answer after which it hangs up; 0 for never."""
        self.asked: list[str] = []
        """The first line of each request."""
        self.shown: list[bytes] = []
        """The headers of each request."""
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _begin(self) -> bool:
                proxy.asked.append(self.requestline)
                proxy.shown.append(bytes(self.headers))
                if proxy.wanted and self.headers.get("Proxy-Authorization") != proxy.wanted:
                    self.send_response(407)
                    self.send_header("Proxy-Authenticate", 'Basic realm="the proxy"')
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return False
                return True

            def do_CONNECT(self) -> None:
                if not self._begin():
                    return
                host = self.path.rpartition(":")[0]
                with socket.create_connection(("127.0.0.1", proxy.names[host])) as there:
                    self.send_response(200)
                    self.end_headers()
                    back = threading.Thread(target=_copy, args=(there, self.connection), daemon=True)
                    back.start()
                    _copy(self.connection, there)
                    back.join()
                self.close_connection = True

            def do_GET(self) -> None:
                if not self._begin():
                    return
                parts = urlsplit(self.path)
                url = f"http://127.0.0.1:{proxy.names[parts.hostname or '']}{parts.path}"
                opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
                passed = {name: self.headers[name] for name in ("Accept", "Range") if name in self.headers}
                with opener.open(urllib.request.Request(url, headers=passed), timeout=20) as answer:
                    data = answer.read()
                    self.send_response(answer.status)
                    for name in ("Content-Type", "Content-Range"):
                        if name in answer.headers:
                            self.send_header(name, answer.headers[name])
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    if proxy.cut_after and len(data) > proxy.cut_after:
                        data = data[: proxy.cut_after]
                        self.close_connection = True
                    self.wfile.write(data)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = _Proxy(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def proxy(names: dict[str, int], credentials: str = "") -> Iterator[Proxy]:
    made = Proxy(names, credentials)
    try:
        yield made
    finally:
        made.close()


HELPER = '''
    #!{python} -IS
    """A credential helper that keeps everything in one JSON file, as the protocol has it."""
    import json, os, sys
    place = os.path.join(os.path.dirname(os.path.abspath(__file__)), "secrets.json")
    try:
        with open(place) as file:
            known = json.load(file)
    except FileNotFoundError:
        known = {{}}
    with open(place + ".calls", "a") as calls:
        calls.write(sys.argv[1] + "\\n")
    text = sys.stdin.read()
    if sys.argv[1] == "get":
        if text.strip() not in known:
            sys.exit(print("credentials not found in native keychain") or 1)
        name, secret = known[text.strip()]
        print(json.dumps({{"ServerURL": text.strip(), "Username": name, "Secret": secret}}))
    elif sys.argv[1] == "store":
        given = json.loads(text)
        known[given["ServerURL"]] = [given["Username"], given["Secret"]]
    elif sys.argv[1] == "erase":
        known.pop(text.strip(), None)
    elif sys.argv[1] == "list":
        print(json.dumps({{server: pair[0] for server, pair in known.items()}}))
    else:
        sys.exit("unknown")
    with open(place, "w") as file:
        json.dump(known, file)
'''


def credential_helper(directory: str, name: str, text: str = HELPER) -> str:
    """Write a program `docker-credential-NAME`; the file of its secrets."""
    os.makedirs(directory, exist_ok=True)
    program = f"{directory}/docker-credential-{name}"
    with open(program, "w") as file:
        file.write(textwrap.dedent(text).strip().format(python=os.path.realpath(sys.executable)) + "\n")
    os.chmod(program, os.stat(program).st_mode | stat.S_IXUSR)
    return f"{directory}/secrets.json"
