"""What can go wrong on the way to a registry, in words that say what to do about it."""

from __future__ import annotations

import errno
import http.client
import os
import socket
import ssl
from urllib.parse import urlsplit

from minicontainer.errors import ImageError
from minicontainer.images import settings

HOPELESS = (ssl.SSLError, socket.gaierror, ConnectionRefusedError, http.client.InvalidURL)
"""What another attempt would not change."""


class Unreachable(TimeoutError):
    """Nobody has answered when we wanted to connect."""


class Mute(TimeoutError):
    """Somebody has taken the connection, and then not said a word of TLS (or, as a proxy, made none for us)."""


class RegistryError(ImageError):
    """A registry did not do what it was asked for. `status` is HTTP's, 0 where none came."""

    def __init__(self, message: str, *, hint: str = "", status: int = 0) -> None:
        super().__init__(message, hint=hint)
        self.status = status


class BrokenConnection(RegistryError):
    """The connection could not be made, or broke. Another attempt may succeed."""


def broken(url: str, error: Exception, proxy: str = "") -> RegistryError:
    """The error for what broke a connection to `url`, by way of the `proxy` ("host:port") if one is named."""
    try:
        host = urlsplit(url).netloc.rpartition("@")[2]
    except ValueError:
        host = f"{url!r:.120}"
    if isinstance(error, ssl.SSLError):
        why, hint = (
            f"TLS failed: {getattr(error, 'verify_message', '') or error.reason or error}",
            f"its authority's certificate belongs in {settings.CERTIFICATES}/{host}/ca.crt; if it speaks plain HTTP, "
            f"its name in insecure-registries of {settings.DEFAULT}",
        )
    elif proxy and isinstance(error, (socket.gaierror, ConnectionRefusedError, Unreachable)):
        gone = "cannot be resolved" if isinstance(error, socket.gaierror) else "does not answer"
        why, hint = f"the proxy {proxy} {gone}", _PROXIES
    elif proxy and isinstance(error, Mute):
        why, hint = f"no TLS comes about through the proxy {proxy}", _PROXIES
    elif isinstance(error, socket.gaierror):
        why, hint = f"the name cannot be resolved ({error.strerror})", "check its spelling and this machine's network"
    elif isinstance(error, Unreachable):
        why, hint = "nobody answers there", "check the name and the port; a firewall in between can do this, too"
    elif isinstance(error, Mute):
        why = "it takes the connection, but does not speak TLS"
        hint = f"if it speaks plain HTTP, its name belongs in insecure-registries of {settings.DEFAULT}"
    elif isinstance(error, TimeoutError):
        why, hint = "no answer in time (the network, or whoever answers, is too slow)", "check the network, try again"
    elif isinstance(error, OSError) and error.errno:
        name = errno.errorcode.get(error.errno, str(error.errno))
        why, hint = f"{name} ({os.strerror(error.errno)})", f"is a registry running at {host}?"
    elif isinstance(error, OSError) and str(error).startswith("Tunnel connection failed"):
        why, hint = str(error)[:120], "the proxy that HTTPS_PROXY names does not let us through"
    else:
        why = f"the connection broke ({type(error).__name__}: {error!s:.120})"
        hint = "try again; if it stays, the registry or a proxy before it is at fault"
    kind = RegistryError if isinstance(error, HOPELESS) else BrokenConnection
    return kind(f"{host}: {why}", hint=hint)


_PROXIES = "HTTPS_PROXY and HTTP_PROXY name it, NO_PROXY those for whom it is not needed"
