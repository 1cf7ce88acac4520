"""HTTP to registries: kept connections, redirects, and patience within limits.

A registry hands out its blobs from wherever it likes: it redirects to a storage service, and what we show to the
registry (a password, a token) must not travel on to that other host. It asks callers to slow down (429, Retry-After)
and fails now and then (500, 503): then the same request is made again, a few times, with growing pauses. What has
side effects is never repeated here.

TLS everywhere, but for registries on this very machine and those that `MINICONTAINER_INSECURE_REGISTRIES` names
(`host:port`, separated by commas). Proxies are taken from the environment as everywhere (`https_proxy`, `no_proxy`).
"""

from __future__ import annotations

import http.client
import os
import random
import threading
import time
from typing import TYPE_CHECKING, Self
from urllib.parse import urljoin, urlsplit

from minicontainer.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from io import FileIO

TIMEOUT = 60.0
"""Seconds without a byte after which a connection is given up."""

ATTEMPTS = 4
"""How often one request is made."""

PAUSE = 0.3
"""Seconds before the second attempt; twice as many before each further one."""

LONGEST_PAUSE = 30.0
"""Seconds that `Retry-After` can make us wait."""

BLOCK = 256 << 10
"""Bytes of a file that are sent at a time."""

_REDIRECTS = (301, 302, 303, 307, 308)
_PASSING = (429, 500, 502, 503, 504)
_USER_AGENT = "minicontainer"

Origin = tuple[str, str, int]  # scheme, host, port


class RegistryError(ImageError):
    """A registry did not do what it was asked for. `status` is HTTP's, 0 where none came."""

    def __init__(self, message: str, *, hint: str = "", status: int = 0) -> None:
        super().__init__(message, hint=hint)
        self.status = status


class BrokenConnection(RegistryError):
    """The connection could not be made, or broke. Another attempt may succeed."""


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine, by its writing alone: no name is resolved."""
    return host in ("localhost", "::1") or (host.startswith("127.") and not host.strip("0123456789."))


def is_insecure(registry: str) -> bool:
    """Whether plain HTTP is spoken to this `host[:port]`."""
    listed = os.environ.get("MINICONTAINER_INSECURE_REGISTRIES", "").replace(",", " ").split()
    return registry in listed or is_loopback(urlsplit(f"//{registry}").hostname or "")


class Transport:
    """Makes requests. May be used by several threads."""

    def __init__(self) -> None:
        self._idle: dict[Origin, list[http.client.HTTPConnection]] = {}
        self._lock = threading.Lock()

    def request(
        self,
        method: str,
        url: str,
        headers: dict[str, str] | None = None,
        body: bytes | None = None,
        *,
        stream: tuple[Callable[[], FileIO], int] | None = None,
    ) -> Answer:
        """Make one request and return its answer, whatever its status, after redirects and passing failures.

        `stream` (a function that opens a file, and its size in bytes) sends a file instead of `body`; such a request
        is made once. Raises BrokenConnection.
        """
        headers = {"User-Agent": _USER_AGENT, "Accept-Encoding": "identity"} | (headers or {})
        repeatable = stream is None and (method in ("GET", "HEAD") or body is not None)
        attempt = 0
        redirects = 0
        while True:
            attempt += 1
            last = attempt >= ATTEMPTS or not repeatable
            try:
                answer = self._once(method, url, headers, body, stream)
            except (OSError, http.client.HTTPException) as error:
                if last or isinstance(error, _HOPELESS):
                    raise _broken(url, error) from None
                time.sleep(_pause(attempt))
                continue
            if answer.status in _REDIRECTS and method in ("GET", "HEAD"):
                redirects += 1
                answer.close()
                url, headers = _redirect(url, answer, headers, redirects)
                attempt -= 1
            elif answer.status in _PASSING and not last:
                answer.close()
                time.sleep(_pause(attempt, answer.header("Retry-After")))
            else:
                return answer

    def _once(
        self,
        method: str,
        url: str,
        headers: dict[str, str],
        body: bytes | None,
        stream: tuple[Callable[[], FileIO], int] | None,
    ) -> Answer:
        parts = urlsplit(url)
        origin = (parts.scheme, parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
        proxy = _proxy(origin)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        target = url if proxy and parts.scheme == "http" else path
        with self._lock:
            idle = self._idle.get(origin)
            connection = idle.pop() if idle else None
        reused = connection is not None
        connection = connection or _connect(origin, proxy)
        try:
            if stream:
                opener, size = stream
                with opener() as file:
                    connection.request(method, target, file, headers | {"Content-Length": str(size)})
            else:
                connection.request(method, target, body, headers)
            response = connection.getresponse()
        except (OSError, http.client.HTTPException):
            connection.close()
            if reused and not stream:  # the server had closed it meanwhile: that is no failure
                return self._once(method, url, headers, body, stream)
            raise
        except BaseException:
            connection.close()
            raise
        return Answer(self, origin, connection, response, url)

    def keep(self, origin: Origin, connection: http.client.HTTPConnection) -> None:
        """Take a connection back for the next request."""
        with self._lock:
            self._idle.setdefault(origin, []).append(connection)

    def close(self) -> None:
        """Close the connections that are idle."""
        with self._lock:
            for connections in self._idle.values():
                for connection in connections:
                    connection.close()
            self._idle.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class Answer:
    """An HTTP answer. Close it (`with`): a connection that was read to its end is used again."""

    def __init__(
        self,
        transport: Transport,
        origin: Origin,
        connection: http.client.HTTPConnection,
        response: http.client.HTTPResponse,
        url: str,
    ) -> None:
        self._transport, self._origin, self._connection, self._response = transport, origin, connection, response
        self.url = url
        self.status = response.status
        self._closed = False

    def header(self, name: str) -> str:
        """A header's value, "" where there is none."""
        return self._response.getheader(name) or ""

    def headers(self, name: str) -> list[str]:
        """All values of a header that may come several times."""
        return self._response.headers.get_all(name) or []

    def readinto(self, buffer: memoryview) -> int:
        """Read into `buffer`; 0 at the end. Raises BrokenConnection when the answer ends too early."""
        try:
            count = self._response.readinto(buffer)
            if count == 0 and self._response.length:  # http.client takes a closed connection for the end
                raise http.client.IncompleteRead(b"", self._response.length)
            return count
        except (OSError, http.client.HTTPException) as error:
            raise _broken(self.url, error) from None

    def read(self, limit: int) -> bytes:
        """All of a small body. Raises RegistryError when it has more than `limit` bytes."""
        announced = self.header("Content-Length")
        data = bytearray()
        buffer = memoryview(bytearray(64 << 10))
        if not (announced.isdigit() and int(announced) > limit):
            while count := self.readinto(buffer):
                data += buffer[:count]
                if len(data) > limit:
                    break
            else:
                return bytes(data)
        raise RegistryError(
            f"{urlsplit(self.url).hostname} sends more than {limit} bytes where a document belongs",
            hint="this is no honest registry, or something else answers at its address",
            status=self.status,
        )

    def close(self) -> None:
        """Give the connection back if nothing is left in it, else end it."""
        length = self._response.length
        if length is not None and 0 < length <= 16 << 10:
            try:
                self._response.read()
            except (OSError, http.client.HTTPException):
                pass  # it is closed below
        kept = self._response.isclosed() and self._connection.sock is not None
        self._response.close()
        if kept and not self._closed:
            self._transport.keep(self._origin, self._connection)
        elif not self._closed:
            self._connection.close()
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _connect(origin: Origin, proxy: str) -> http.client.HTTPConnection:
    scheme, host, port = origin
    if scheme not in ("http", "https") or not host:
        raise http.client.InvalidURL(f"{scheme}://{host}")
    kind = http.client.HTTPSConnection if scheme == "https" else http.client.HTTPConnection
    if not proxy:
        return kind(host, port, timeout=TIMEOUT, blocksize=BLOCK)
    gate = urlsplit(proxy if "//" in proxy else f"//{proxy}")
    connection = kind(gate.hostname or "", gate.port or 80, timeout=TIMEOUT, blocksize=BLOCK)
    if scheme == "https":
        connection.set_tunnel(host, port)
    return connection


def _proxy(origin: Origin) -> str:
    scheme, host, _ = origin
    if is_loopback(host) or not any(name.lower().endswith("_proxy") for name in os.environ):
        return ""
    from urllib.request import getproxies, proxy_bypass

    return "" if proxy_bypass(host) else getproxies().get(scheme, "")


def _redirect(url: str, answer: Answer, headers: dict[str, str], count: int) -> tuple[str, dict[str, str]]:
    """Where to go, and what to show there: our credentials only to the host that they are for."""
    target = urljoin(url, answer.header("Location"))
    before, after = urlsplit(url), urlsplit(target)
    if count > 5:
        raise RegistryError(
            f"{before.hostname} redirects without end", hint="its settings are wrong", status=answer.status
        )
    if after.scheme != before.scheme and after.scheme != "https":
        raise RegistryError(
            f"{before.hostname} redirects from {before.scheme} to {target!r:.120}",
            hint="what began under TLS must stay under TLS: the registry's settings are wrong",
            status=answer.status,
        )
    if (after.scheme, after.hostname, after.port) != (before.scheme, before.hostname, before.port):
        headers = {name: value for name, value in headers.items() if name != "Authorization"}
    return target, headers


def _pause(attempt: int, retry_after: str = "") -> float:
    """Seconds before the next attempt; a little different each time, so that many callers do not come back at once."""
    if retry_after.isdigit():
        return min(float(retry_after), LONGEST_PAUSE)
    return float(PAUSE * 2 ** (attempt - 1) * random.uniform(0.75, 1.25))


def _broken(url: str, error: Exception) -> RegistryError:
    import errno
    import socket
    import ssl

    host = urlsplit(url).netloc
    if isinstance(error, ssl.SSLError):
        why, hint = (
            f"TLS failed: {error.reason or error}",
            (f"if {host} speaks plain HTTP, list it in MINICONTAINER_INSECURE_REGISTRIES"),
        )
    elif isinstance(error, socket.gaierror):
        why, hint = f"the name cannot be resolved ({error.strerror})", "check its spelling and this machine's network"
    elif isinstance(error, TimeoutError):
        why, hint = f"no answer for {TIMEOUT:.0f} seconds", "check the network, try again"
    elif isinstance(error, OSError) and error.errno:
        name = errno.errorcode.get(error.errno, str(error.errno))
        why, hint = f"{name} ({os.strerror(error.errno)})", f"is a registry running at {host}?"
    else:
        why = f"the connection broke ({type(error).__name__}: {error!s:.120})"
        hint = "try again; if it stays, the registry or a proxy before it is at fault"
    kind = RegistryError if isinstance(error, _HOPELESS) else BrokenConnection
    return kind(f"{host}: {why}", hint=hint)


def _hopeless() -> tuple[type[Exception], ...]:
    import socket
    import ssl

    return (ssl.SSLError, socket.gaierror, ConnectionRefusedError, http.client.InvalidURL)


_HOPELESS = _hopeless()
