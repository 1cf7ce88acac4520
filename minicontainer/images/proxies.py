"""Proxies: who makes the connection for us, as the environment says.

    HTTPS_PROXY=http://ada:secret@proxy.lan:3128    for https: `CONNECT registry.example:443`, then TLS through it
    HTTP_PROXY=…                                    for http: the proxy sees the request, and makes it itself
    NO_PROXY=localhost,.lan,10.0.0.0/8,host:5000    not for these

Small letters do as well. NO_PROXY is read as Docker reads it: `lan` and `.lan` are a domain (`lan` itself too, without
the dot), an address or a network means addresses, a port only that port, `*` everything. This machine is never asked
for through a proxy. (golang.org/x/net/http/httpproxy, as there is no standard)
"""

from __future__ import annotations

import base64
import ipaddress
import os
from urllib.parse import unquote, urlsplit

from minicontainer.errors import UsageError
from minicontainer.images.settings import is_loopback


class Proxy:
    """A proxy: `host`, `port`, and what to show it as `Proxy-Authorization` ("" for nothing)."""

    __slots__ = ("authorization", "host", "port")

    def __init__(self, host: str, port: int, authorization: str) -> None:
        self.host, self.port, self.authorization = host, port, authorization


def proxy_for(scheme: str, host: str, port: int) -> Proxy | None:
    """The proxy for connections to this origin, None for none. Raises UsageError for one that nobody understands."""
    variable = f"{scheme.upper()}_PROXY"
    text = os.environ.get(variable) or os.environ.get(variable.lower()) or ""
    if not text or is_loopback(host) or _is_excepted(host.lower(), port):
        return None
    parts = urlsplit(text if "://" in text else f"http://{text}")
    try:
        number = parts.port or 80
    except ValueError:
        number = 0
    if parts.scheme != "http" or not parts.hostname or not number:
        raise UsageError(f"{variable} does not name a proxy that we can use", hint="http://[USER:PASSWORD@]HOST[:PORT]")
    authorization = ""
    if parts.username:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = "Basic " + base64.b64encode(pair.encode()).decode()
    return Proxy(parts.hostname, number, authorization)


def _is_excepted(host: str, port: int) -> bool:
    text = os.environ.get("NO_PROXY") or os.environ.get("no_proxy") or ""
    return any(_matches(entry, host, port) for entry in text.lower().replace(",", " ").split())


def _matches(entry: str, host: str, port: int) -> bool:
    if entry == "*":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    try:
        network = ipaddress.ip_network(entry.strip("[]"), strict=False)
        return address is not None and address in network
    except ValueError:
        pass
    name, colon, number = entry.rpartition(":")
    if colon and number.isdigit():
        if int(number) != port:
            return False
        entry = name.strip("[]")
    if address is not None:
        return entry == host
    entry = entry.removeprefix("*")
    return host.endswith(entry) if entry.startswith(".") else host == entry or host.endswith(f".{entry}")
