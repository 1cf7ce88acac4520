"""Who we are to a registry: its challenge, and our answer.

    → GET /v2/library/alpine/manifests/latest
    ← 401   WWW-Authenticate: Bearer realm="https://auth.docker.io/token",service="…",scope="repository:…:pull"
    → GET https://auth.docker.io/token?service=…&scope=…        with the password, if we have one for the registry
    ← {"token": "…", "expires_in": 300}
    → GET /v2/library/alpine/manifests/latest    Authorization: Bearer …

So an anonymous pull needs a token too, and the password goes to the token server only. A registry that asks for
`Basic` gets the password with each request instead. The scope that we ask for is always our own, never the one that
the challenge names: a registry could have us fetch a token for somebody else's repository, and would be shown it.
(RFC 9110, 11; distribution's token authentication, and its OAuth 2 for identity tokens)
"""

from __future__ import annotations

import base64
import json
import threading
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

from minicontainer.errors import ImageError
from minicontainer.images import challenge
from minicontainer.images.credentials import IDENTITY, Credentials, configured
from minicontainer.images.failures import RegistryError
from minicontainer.images.settings import is_insecure

if TYPE_CHECKING:
    from minicontainer.images.transport import Answer, Transport

SHORTEST = 60.0
"""Seconds that a token is good for at least, by the specification, and so where nothing else is said."""

MARGIN = 10.0
"""Seconds before its end that a token is not used any more: a request takes its time."""

MAX_TOKEN = 1 << 20
"""Bytes that a token server's answer may have."""


class Authorizer:
    """Answers a registry's challenges and remembers the answers, one for each scope (`repository:web:pull`)."""

    def __init__(self, registry: str, transport: Transport, credentials: Credentials | None = None) -> None:
        self._registry, self._transport = registry, transport
        self._credentials = credentials
        self._searched = credentials is not None
        self._lock = threading.Lock()
        self._until: dict[str, float] = {}
        self.headers: dict[str, str] = {}
        """The `Authorization` header that was accepted, by scope."""

    @property
    def credentials(self) -> Credentials | None:
        """The name and password for this registry. They are looked for when it first asks: a helper takes time."""
        if not self._searched:
            self._credentials, self._searched = configured(self._registry), True
        return self._credentials

    def header(self, scope: str) -> str:
        """What to show without being asked: the last answer, "" when there is none or it is no longer good."""
        if time.monotonic() > self._until.get(scope, float("inf")):
            return ""
        return self.headers.get(scope, "")

    def answer(self, challenges: list[str], scope: str, shown: str) -> bool:
        """Prepare `headers[scope]` for what the registry asks for, which has refused what was `shown`.

        False when we have nothing else to say. May be called by several threads: one asks for a token.
        """
        with self._lock:
            return self.header(scope) not in (shown, "") or self._answer(challenges, scope)

    def _answer(self, challenges: list[str], scope: str) -> bool:
        asked = {found.scheme: found.parameters for found in reversed(challenge.parse(challenges))}
        if "bearer" in asked:
            token, seconds = self._token(asked["bearer"], scope)
            self._until[scope] = time.monotonic() + max(seconds - MARGIN, 0.0)
            header = f"Bearer {token}"
        elif "basic" in asked and self.credentials and self.credentials[0] != IDENTITY:
            header = _basic(self.credentials)
        else:
            return False
        if self.headers.get(scope) == header:
            return False
        self.headers[scope] = header
        return True

    def _token(self, asked: dict[str, str], scope: str) -> tuple[str, float]:
        """A token from the server that the challenge names, and how many seconds it is good for."""
        realm = asked.get("realm", "")
        host = self._check(realm)
        fields = {"service": asked["service"]} if asked.get("service") else {}
        fields |= {"scope": scope} if scope else {}
        with self._request(realm, fields) as answer:
            if answer.status in (400, 401, 403):
                name = f"the user {self.credentials[0]!r}" if self.credentials else "an unnamed user"
                raise RegistryError(
                    f"{self._registry} gives no token to {name} (HTTP {answer.status} from {host})",
                    status=answer.status,
                    hint=f"minicontainer login {self._registry}, and check the name and password",
                )
            if answer.status != 200:
                raise RegistryError(
                    f"the token server {host} of {self._registry} answers HTTP {answer.status}",
                    status=answer.status,
                    hint="try again later",
                )
            data = answer.read(MAX_TOKEN)
        try:
            document: Any = json.loads(data)
            token = document.get("token") or document.get("access_token")
            seconds = document.get("expires_in")
        except (ValueError, AttributeError, RecursionError):
            token = seconds = None
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise ImageError(f"the token server {host} of {self._registry} sends no token", hint="try again later")
        known = type(seconds) in (int, float) and seconds > 0
        return token, min(float(seconds), 1e6) if known else SHORTEST

    def _request(self, realm: str, fields: dict[str, str]) -> Answer:
        if self.credentials and self.credentials[0] == IDENTITY:
            fields |= {
                "grant_type": "refresh_token",
                "client_id": "minicontainer",
                "refresh_token": self.credentials[1],
            }
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            return self._transport.request("POST", realm, headers, urlencode(fields).encode())
        headers = {"Authorization": _basic(self.credentials)} if self.credentials else {}
        # here each scope has a parameter of its own, while OAuth has them all in one
        query = urlencode(fields | ({"scope": fields["scope"].split(" ")} if "scope" in fields else {}), doseq=True)
        return self._transport.request("GET", realm + ("&" if "?" in realm else "?") * bool(query) + query, headers)

    def _check(self, realm: str) -> str:
        """The host that a challenge sends us to, if a password may go there."""
        try:
            parts = urlsplit(realm)
            host = parts.hostname or ""
            safe = parts.scheme == "https" or (parts.scheme == "http" and is_insecure(parts.netloc))
        except ValueError:
            host, safe = "", False
        if not host or not safe:
            raise ImageError(
                f"{self._registry} sends us for a token to {realm!r:.120}",
                hint="a password goes to an https address only: the registry's settings are wrong",
            )
        return host


def _basic(credentials: Credentials) -> str:
    return "Basic " + base64.b64encode(":".join(credentials).encode()).decode()
