"""Login: try a name and password at a registry, and keep them if it takes them. Logout: forget them.

A registry has no address for logging in. What every client does is to ask for `/v2/`, which is for everybody that the
registry lets in, to answer its challenge, and to see whether that was good enough. (distribution-spec, "Determining
Support")
"""

from __future__ import annotations

from minicontainer.errors import ImageError
from minicontainer.images import credentials as keeping
from minicontainer.images.auth import Authorizer
from minicontainer.images.failures import RegistryError
from minicontainer.images.reference import HUB, Reference
from minicontainer.images.registry import origin
from minicontainer.images.transport import Transport


def login(registry: str, name: str, password: str) -> str:
    """Check a name and password at a registry ("" is Docker Hub) and keep them; where they are kept.

    Raises ImageError when the registry refuses them, HostError when a credential helper fails.
    """
    registry = _named(registry)
    if not name or not password or ":" in name:
        raise ImageError("no name and password to log in with", hint="a name is not empty and has no colon")
    with Transport() as transport:
        authorizer = Authorizer(registry, transport, (name, password))
        shown = ""
        for _ in range(2):
            answer = transport.request("GET", f"{origin(registry)}/v2/", {"Authorization": shown} if shown else {})
            status, challenges, asks = answer.status, answer.headers("WWW-Authenticate"), answer.url
            answer.close()
            if status != 401 or shown or not asks.startswith(f"{origin(registry)}/"):
                break
            if not authorizer.answer(challenges, "", ""):
                break
            shown = authorizer.header("")
    if status in (401, 403):
        raise RegistryError(
            f"{registry} does not let {name} in: HTTP {status}", hint="check the name and the password", status=status
        )
    if status != 200:
        raise RegistryError(
            f"{registry} answers HTTP {status} where a registry would answer 200",
            hint="is it a registry, and has it no path before /v2/?",
            status=status,
        )
    return keeping.keep(registry, (name, password))


def logout(registry: str = "") -> None:
    """Forget the name and password for a registry ("" is Docker Hub). Raises NotFoundError when none are kept."""
    keeping.forget(_named(registry))


def _named(registry: str) -> str:
    """A registry as people write it when they log in: perhaps as an address."""
    host = registry.removeprefix("https://").removeprefix("http://").partition("/")[0] or HUB
    return Reference.parse(f"{host}/x").registry if host != HUB else HUB
