"""What this machine says of registries: one file, for all users.

    /etc/minicontainer/config.json           MINICONTAINER_CONFIG names another file
    {
        "insecure-registries":   ["registry.lan:5000", "10.1.0.0/16"],
        "registry-mirrors":      {"docker.io": ["https://mirror.lan"]},
        "registry-certificates": "/etc/docker/certs.d"
    }

The words are those of Docker's `daemon.json`, but for the mirrors: there they can only be Docker Hub's. All of it may
be missing. What is secret (who we are to a registry) is not here but in the user's own file: see `credentials`.
"""

from __future__ import annotations

import ipaddress
import os
from typing import Any
from urllib.parse import urlsplit

from minicontainer import state
from minicontainer.errors import ImageError

DEFAULT = "/etc/minicontainer/config.json"
CERTIFICATES = "/etc/docker/certs.d"
"""Where certificates for registries are unless the settings say otherwise: see `tls`."""


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine, by its writing alone: no name is resolved."""
    return host in ("localhost", "::1") or (host.startswith("127.") and not host.strip("0123456789."))


def is_insecure(registry: str) -> bool:
    """Whether plain HTTP is spoken to this `host[:port]`: it is this machine, or the settings list it.

    A registry for which there are certificates is never insecure.
    """
    if certificates(registry):
        return False
    host = urlsplit(f"//{registry}").hostname or ""
    if is_loopback(host):
        return True
    listed = _texts("insecure-registries", _read().get("insecure-registries", []))
    return registry in listed or host in listed or any("/" in entry and _is_in(host, entry) for entry in listed)


def mirrors(registry: str) -> list[str]:
    """The addresses (`https://host[:port][/path]`) where a registry's images are asked for first, in order."""
    table = _read().get("registry-mirrors", {})
    if not isinstance(table, dict):
        raise _wrong("registry-mirrors", 'is {"docker.io": ["https://mirror.lan"]}')
    found = [url.rstrip("/") for url in _texts("registry-mirrors", table.get(registry, []))]
    for url in found:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.query or "@" in parts.netloc:
            raise _wrong("registry-mirrors", f"has {url!r}, but a mirror is https://HOST[:PORT][/PATH]")
        if parts.scheme == "http" and not is_insecure(parts.netloc):
            raise _wrong("registry-mirrors", f"has {url!r}: plain HTTP, and not in insecure-registries")
    return found


def certificates(registry: str) -> str:
    """The directory with the certificates for this `host[:port]`, "" where there is none."""
    base = _read().get("registry-certificates", CERTIFICATES)
    if not isinstance(base, str):
        raise _wrong("registry-certificates", "is the path of a directory")
    if not registry or "/" in registry or registry.startswith("."):
        return ""
    path = f"{base}/{registry}"
    return path if os.path.isdir(path) else ""


def read_object(path: str, kind: str = "JSON") -> dict[str, Any]:
    """The JSON object in a file that somebody keeps by hand; {} when there is none. Raises ImageError when the file is
    not `kind`."""
    try:
        value = state.read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except ValueError as error:
        raise ImageError(f"{path} is not {kind}: {error}", hint="mend or remove it") from None
    if not isinstance(value, dict):
        raise ImageError(f"{path} is not {kind}: no object", hint="mend or remove it")
    return value


def _read() -> dict[str, Any]:
    return read_object(_path())


def _path() -> str:
    return os.environ.get("MINICONTAINER_CONFIG") or DEFAULT


def _texts(key: str, value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise _wrong(key, "has no list of texts where one belongs")
    return value


def _is_in(host: str, network: str) -> bool:
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False


def _wrong(key: str, what: str) -> ImageError:
    return ImageError(f"{key} in {_path()} {what}", hint="mend it")
