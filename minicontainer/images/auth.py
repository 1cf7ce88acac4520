"""Who we are to a registry: its challenge, and our answer.

    → GET /v2/library/alpine/manifests/latest
    ← 401   WWW-Authenticate: Bearer realm="https://auth.docker.io/token",service="…",scope="repository:…:pull"
    → GET https://auth.docker.io/token?service=…&scope=…        with the password, if we have one for the registry
    ← {"token": "…"}
    → GET /v2/library/alpine/manifests/latest    Authorization: Bearer …

So an anonymous pull needs a token too, and the password goes to the token server only. A registry that asks for
`Basic` gets the password with each request instead. Passwords are read from `~/.docker/config.json` (`auths`), where
`docker login`, `podman login` and `skopeo login` can write them. (RFC 7235; distribution's token authentication)
"""

from __future__ import annotations

import base64
import json
import os
import re
import threading
from typing import Any
from urllib.parse import urlencode, urlsplit

from minicontainer.errors import ImageError
from minicontainer.images.reference import HUB
from minicontainer.images.transport import RegistryError, Transport, is_loopback

Credentials = tuple[str, str]
"""A user's name and password."""

_HUB_KEY = "https://index.docker.io/v1/"  # what docker login writes for Docker Hub
_PARAMETER = re.compile(r'(\w+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')


def configured(registry: str) -> Credentials | None:
    """The name and password that `~/.docker/config.json` (or `$DOCKER_CONFIG/config.json`) has for a registry."""
    directory = os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker")
    path = f"{directory}/config.json"
    try:
        with open(path, "rb") as file:
            known = json.load(file).get("auths") or {}
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, AttributeError) as error:
        raise ImageError(f"{path} is not as docker login writes it: {error}", hint="mend or remove it") from None
    keys = (_HUB_KEY, HUB) if registry == HUB else (registry, f"https://{registry}", f"http://{registry}")
    entry = next((known[key] for key in keys if known.get(key)), None)
    if entry is None:
        return None
    try:
        if "auth" in entry:
            name, _, password = base64.b64decode(entry["auth"]).decode().partition(":")
            return name, password.rstrip("\0")
        return (entry["username"], entry["password"]) if "username" in entry else None
    except (ValueError, TypeError, KeyError):
        raise ImageError(
            f"{path} has no name and password for {registry}", hint="docker login writes it anew"
        ) from None


class Authorizer:
    """Answers a registry's challenges and remembers the answers, one for each scope (`repository:web:pull`)."""

    def __init__(self, registry: str, transport: Transport, credentials: Credentials | None = None) -> None:
        self._registry, self._transport = registry, transport
        self._credentials = credentials or configured(registry)
        self._lock = threading.Lock()
        self.headers: dict[str, str] = {}
        """The `Authorization` header that was accepted, by scope."""

    def answer(self, challenges: list[str], scope: str, shown: str) -> bool:
        """Prepare `headers[scope]` for what the registry asks for, which has refused what was `shown`.

        False when we have nothing else to say. May be called by several threads: one asks for a token.
        """
        with self._lock:
            return self.headers.get(scope, "") != shown or self._answer(challenges, scope)

    def _answer(self, challenges: list[str], scope: str) -> bool:
        schemes = {text.partition(" ")[0].lower(): text.partition(" ")[2] for text in challenges}
        if "bearer" in schemes:
            fields = {key.lower(): quoted or bare for key, quoted, bare in _PARAMETER.findall(schemes["bearer"])}
            header = f"Bearer {self._token(fields, scope)}"
        elif "basic" in schemes and self._credentials:
            header = _basic(self._credentials)
        else:
            return False
        if self.headers.get(scope) == header:
            return False
        self.headers[scope] = header
        return True

    def _token(self, challenge: dict[str, str], scope: str) -> str:
        realm = challenge.get("realm", "")
        parts = urlsplit(realm)
        if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(parts.hostname or "")):
            raise ImageError(
                f"{self._registry} sends us for a token to {realm!r:.120}",
                hint="a password goes to an https address only: the registry's settings are wrong",
            )

        query = {"service": challenge["service"]} if challenge.get("service") else {}
        url = realm + ("&" if parts.query else "?") + urlencode([*query.items(), ("scope", scope)])
        headers = {"Authorization": _basic(self._credentials)} if self._credentials else {}
        with self._transport.request("GET", url, headers) as answer:
            if answer.status in (401, 403):
                name = f"the user {self._credentials[0]!r}" if self._credentials else "an unnamed user"
                raise RegistryError(
                    f"{self._registry} gives no token to {name} (HTTP {answer.status} from {parts.hostname})",
                    status=answer.status,
                    hint=f"docker login {self._registry}, and check the name and password",
                )
            if answer.status != 200:
                raise RegistryError(
                    f"the token server {parts.hostname} of {self._registry} answers HTTP {answer.status}",
                    status=answer.status,
                    hint="try again later",
                )
            data = answer.read(1 << 20)
        try:
            document: Any = json.loads(data)
            token = document.get("token") or document.get("access_token")
        except (ValueError, AttributeError):
            token = None
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise ImageError(
                f"the token server {parts.hostname} of {self._registry} sends no token", hint="try again later"
            )
        return token


def _basic(credentials: Credentials) -> str:
    return "Basic " + base64.b64encode(":".join(credentials).encode()).decode()
