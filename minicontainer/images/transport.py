"""HTTP to registries: kept connections, redirects, and patience within limits.

A registry hands out its blobs from wherever it likes: it redirects to a storage service, and what we show to the
registry (a password, a token) must not travel on to that other host. It asks callers to slow down (429, Retry-After)
and fails now and then (500, 503): then the same request is made again, a few times, with growing pauses. What has
side effects is never repeated here. Who asks us to wait longer than we care to is not asked again at all, neither who
has let us wait in vain.

With whom we speak TLS, and through which proxy, is in `settings`, `tls` and `proxies`.
"""

from __future__ import annotations

import http.client
import random
import threading
import time
from typing import TYPE_CHECKING, Self
from urllib.parse import urljoin, urlsplit

from minicontainer.images import tls
from minicontainer.images.failures import HOPELESS, Mute, RegistryError, Unreachable, broken
from minicontainer.images.proxies import Proxy, proxy_for

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable
    from io import FileIO

CONNECT = 10.0
"""Seconds that a connection may take to come about, and as many again until TLS is agreed upon."""

TIMEOUT = 60.0
"""Seconds without a byte after which a connection is given up."""

ATTEMPTS = 4
"""How often one request is made."""

PAUSE = 0.3
"""Seconds before the second attempt; twice as many before each further one."""

LONGEST_PAUSE = 30.0
"""Seconds that `Retry-After` can make us wait."""

LONGEST_DOCUMENT = 120.0
"""Seconds that a document may take to arrive: byte by byte it could last for ever."""

BLOCK = 256 << 10
"""Bytes of a file that are sent at a time."""

_REDIRECTS = (301, 302, 303, 307, 308)
_PASSING = (429, 500, 502, 503, 504)
_USER_AGENT = "minicontainer"

Origin = tuple[str, str, int]  # scheme, host, port


class Transport:
    """Makes requests. May be used by several threads."""

    def __init__(self) -> None:
        self._idle: dict[Origin, list[http.client.HTTPConnection]] = {}
        self._contexts: dict[tuple[str, int], ssl.SSLContext] = {}
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
                error.with_traceback(None)  # its frames hold a proxy's refusal open, and with it the socket
                if last or isinstance(error, (*HOPELESS, TimeoutError)):
                    raise broken(url, error, _proxy(url)) from None
                time.sleep(pause(attempt))
                continue
            if answer.status in _REDIRECTS and method in ("GET", "HEAD"):
                redirects += 1
                answer.close()
                url, headers = _redirect(url, answer, headers, redirects)
                attempt -= 1
            elif answer.status in _PASSING and not last and retry_after(answer) <= LONGEST_PAUSE:
                answer.close()
                time.sleep(retry_after(answer) or pause(attempt))
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
        origin, target = _split(url)
        proxy = proxy_for(*origin)
        if proxy and origin[0] == "http":
            target = url
            if proxy.authorization:
                headers = headers | {"Proxy-Authorization": proxy.authorization}
        with self._lock:
            idle = self._idle.get(origin)
            connection = idle.pop() if idle else None
        reused = connection is not None
        connection = connection or self._connect(origin, proxy)
        try:
            if connection.sock is None:
                _open(connection)
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

    def _connect(self, origin: Origin, proxy: Proxy | None) -> http.client.HTTPConnection:
        scheme, host, port = origin
        where = (proxy.host, proxy.port) if proxy else (host, port)
        if scheme == "http":
            return http.client.HTTPConnection(*where, timeout=CONNECT, blocksize=BLOCK)
        with self._lock:
            if (host, port) not in self._contexts:
                self._contexts[host, port] = tls.context(host, port)
            context = self._contexts[host, port]
        connection = http.client.HTTPSConnection(*where, timeout=CONNECT, blocksize=BLOCK, context=context)
        if proxy:
            shown = {"Proxy-Authorization": proxy.authorization} if proxy.authorization else {}
            connection.set_tunnel(host, port, shown)
        return connection

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
            raise broken(self.url, error) from None

    def read(self, limit: int) -> bytes:
        """All of a small body. Raises RegistryError when it has more than `limit` bytes."""
        announced = self.header("Content-Length")
        data = bytearray()
        buffer = memoryview(bytearray(64 << 10))
        deadline = time.monotonic() + LONGEST_DOCUMENT
        if not (announced.isdigit() and int(announced) > limit):
            while count := self.readinto(buffer):
                data += buffer[:count]
                if time.monotonic() > deadline:
                    raise broken(self.url, TimeoutError())
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


def _open(connection: http.client.HTTPConnection) -> None:
    """Connect, in less time than an answer may take."""
    failed: TimeoutError | None = None
    try:
        connection.connect()
        connection.sock.settimeout(TIMEOUT)
    except TimeoutError:
        # the socket is there as soon as the other side has taken the connection: then it is TLS that did not come
        failed = Mute() if connection.sock else Unreachable()
    if failed:  # not out of the handler: the first error's frames would keep what they have open
        raise failed


def _proxy(url: str) -> str:
    """The proxy that is asked in its place, as "host:port"; "" for none."""
    try:
        proxy = proxy_for(*_split(url)[0])
    except http.client.InvalidURL:
        return ""
    return f"{proxy.host}:{proxy.port}" if proxy else ""


def _split(url: str) -> tuple[Origin, str]:
    """Where a URL leads, and what to ask for there. Raises InvalidURL."""
    try:
        parts = urlsplit(url)
        scheme, host, port = parts.scheme, parts.hostname or "", parts.port
    except ValueError as error:
        raise http.client.InvalidURL(f"{url!r:.120} ({error})") from None
    if scheme not in ("http", "https") or not host or not host.isascii():
        raise http.client.InvalidURL(f"{url!r:.120}")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return (scheme, host, port or (443 if scheme == "https" else 80)), target


def _redirect(url: str, answer: Answer, headers: dict[str, str], count: int) -> tuple[str, dict[str, str]]:
    """Where to go, and what to show there: our credentials only to the host that they are for."""
    before = urlsplit(url)
    try:
        target = urljoin(url, answer.header("Location"))
        origin, _ = _split(target)
    except (ValueError, http.client.InvalidURL):
        raise RegistryError(
            f"{before.hostname} redirects to {answer.header('Location')!r:.120}",
            hint="that is no address: the registry's settings are wrong",
            status=answer.status,
        ) from None
    if count > 5:
        raise RegistryError(
            f"{before.hostname} redirects without end", hint="its settings are wrong", status=answer.status
        )
    if origin[0] != before.scheme and origin[0] != "https":
        raise RegistryError(
            f"{before.hostname} redirects from {before.scheme} to {target!r:.120}",
            hint="what began under TLS must stay under TLS: the registry's settings are wrong",
            status=answer.status,
        )
    if origin != _split(url)[0]:
        headers = {name: value for name, value in headers.items() if name != "Authorization"}
    return target, headers


def pause(attempt: int) -> float:
    """Seconds before the next attempt; a little different each time, so that many callers do not come back at once."""
    return float(PAUSE * 2 ** (attempt - 1) * random.uniform(0.75, 1.25))


def retry_after(answer: Answer) -> float:
    """Seconds that an answer asks us to wait, 0 if it does not. It is a number or a date. RFC 9110, 10.2.3"""
    text = answer.header("Retry-After").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    from email.utils import parsedate_to_datetime

    try:
        return max(parsedate_to_datetime(text).timestamp() - time.time(), 0.0)
    except (ValueError, TypeError, OverflowError):
        return 0.0
