"""Where names and passwords for registries are kept: `~/.docker/config.json`, as Docker has it.

    {
        "auths":       {"localhost:5000": {"auth": "YWRhOmVuZ2luZQ=="}},       base64, not encrypted: anybody reads it
        "credHelpers": {"ghcr.io": "pass"},                                     ask the program docker-credential-pass
        "credsStore":  "secretservice"                                          … and this one for all others
    }

So whoever has logged in with Docker, podman or skopeo is logged in here too, and the other way round. A helper is a
program that keeps secrets (in the desktop's keyring, with pass): it is called with one word, `get`, `store`, `erase`
or `list`, reads from its standard input, and answers in JSON. (https://github.com/docker/docker-credential-helpers)
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
from typing import Any

from minicontainer import state
from minicontainer.errors import HostError, ImageError, NotFoundError
from minicontainer.images.reference import HUB
from minicontainer.images.settings import read_object

Credentials = tuple[str, str]
"""A user's name and password; or `IDENTITY`, and a token that a token server takes instead of a password."""

IDENTITY = "<token>"
"""The name that Docker and its helpers give to what is no password but an identity token."""

HELPER_SECONDS = 60.0
"""How long a helper may take: it may have to ask for a passphrase."""

_HUB_KEY = "https://index.docker.io/v1/"  # what docker login writes for Docker Hub
_NOT_FOUND = "credentials not found in native keychain"  # part of the protocol: on standard output, with status 1


def path() -> str:
    """The user's file: `$DOCKER_CONFIG/config.json`, or the one in `~/.docker`."""
    return f"{os.environ.get('DOCKER_CONFIG') or os.path.expanduser('~/.docker')}/config.json"


def configured(registry: str) -> Credentials | None:
    """The name and password for a registry, from its helper or from the file; None where there is none.

    Raises ImageError when the file is not as Docker writes it, HostError when a helper fails.
    """
    settings = _read()
    helper = _helper(settings, registry)
    if helper:
        return _ask(helper, key(registry))
    known = _object(settings, "auths")
    entry = next((known[name] for name in _keys(registry) if known.get(name)), None)
    if entry is None:
        return None
    try:
        if entry.get("identitytoken"):
            return IDENTITY, _text(entry["identitytoken"])
        if entry.get("auth"):
            name, colon, password = base64.b64decode(entry["auth"], validate=True).decode().partition(":")
            if not colon:
                raise ValueError
            return name, password.rstrip("\0")
        return (_text(entry["username"]), _text(entry["password"])) if entry.get("username") else None
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ImageError(
            f"{path()} has no name and password for {registry}", hint=f"minicontainer login {registry} writes it anew"
        ) from None


def keep(registry: str, credentials: Credentials) -> str:
    """Keep a name and password: in the helper, where one is set, else in the file. Which of them it was."""
    os.makedirs(os.path.dirname(path()), mode=0o700, exist_ok=True)
    with state.locked(f"{path()}.lock"):
        settings = _read()
        helper = _helper(settings, registry)
        if helper:
            document = {"ServerURL": key(registry), "Username": credentials[0], "Secret": credentials[1]}
            _call(helper, "store", json.dumps(document))
            return f"docker-credential-{helper}"
        known = _object(settings, "auths")
        for name in _keys(registry):
            known.pop(name, None)
        if credentials[0] == IDENTITY:
            known[key(registry)] = {"identitytoken": credentials[1]}
        else:
            known[key(registry)] = {"auth": base64.b64encode(":".join(credentials).encode()).decode()}
        _write(settings | {"auths": known})
        return path()


def forget(registry: str) -> None:
    """Remove what is kept for a registry, wherever it is. Raises NotFoundError when nothing is."""
    os.makedirs(os.path.dirname(path()), mode=0o700, exist_ok=True)
    with state.locked(f"{path()}.lock"):
        settings = _read()
        helper = _helper(settings, registry)
        found = False
        if helper and _ask(helper, key(registry)) is not None:
            _call(helper, "erase", key(registry))
            found = True
        known = _object(settings, "auths")
        if any(known.pop(name, None) is not None for name in _keys(registry)):
            _write(settings | {"auths": known})
            found = True
        if not found:
            raise NotFoundError(f"nobody is logged in to {registry}", hint=f"{path()} lists where you are")


def key(registry: str) -> str:
    """What Docker calls a registry in its file, and to helpers."""
    return _HUB_KEY if registry == HUB else registry


def _keys(registry: str) -> list[str]:
    """All names that an entry may have: other tools, and Docker of old, write addresses."""
    if registry == HUB:
        return [_HUB_KEY, HUB, "index.docker.io", "https://index.docker.io", "registry-1.docker.io"]
    return [
        registry,
        *(f"{scheme}://{registry}{end}" for scheme in ("https", "http") for end in ("", "/", "/v1/", "/v2/")),
    ]


def _helper(settings: dict[str, Any], registry: str) -> str:
    table = _object(settings, "credHelpers")
    name = next((table[known] for known in _keys(registry) if known in table), settings.get("credsStore") or "")
    if not isinstance(name, str) or "/" in name:
        raise ImageError(f"{path()} names the credential helper {name!r:.80}", hint="a helper is a program's name")
    return name


def _ask(helper: str, server: str) -> Credentials | None:
    answer = _call(helper, "get", server)
    if answer is None:
        return None
    try:
        document = json.loads(answer)
        name, secret = _text(document["Username"]), _text(document["Secret"])
    except (ValueError, TypeError, KeyError):
        raise HostError(
            f"docker-credential-{helper} answers `get` with something else than a name and a secret",
            hint=f"try it: echo {server} | docker-credential-{helper} get",
        ) from None
    return (name, secret) if name or secret else None


def _call(helper: str, action: str, text: str) -> str | None:
    """What a helper answers; None when it knows no such server."""
    program = f"docker-credential-{helper}"
    try:
        done = subprocess.run([program, action], input=text.encode(), capture_output=True, timeout=HELPER_SECONDS)
    except OSError as error:
        raise HostError(
            f"{path()} names the credential helper {program}, which cannot be started: {error.strerror}",
            hint="install it, or take it out of credsStore and credHelpers",
        ) from None
    except subprocess.TimeoutExpired:
        raise HostError(
            f"{program} {action} has not answered for {HELPER_SECONDS:.0f} seconds",
            hint="it may wait for a passphrase that nobody can enter here",
        ) from None
    answer = done.stdout.decode(errors="replace").strip()
    if done.returncode == 0:
        return answer
    if answer == _NOT_FOUND:
        return None
    said = answer or done.stderr.decode(errors="replace").strip() or f"status {done.returncode}"
    raise HostError(f"{program} {action} failed: {said:.200}", hint=f"try it: {program} list")


def _read() -> dict[str, Any]:
    return read_object(path(), "as docker login writes it")


def _write(settings: dict[str, Any]) -> None:
    """Replace the file in one step; nobody else may read it, not even for a moment."""
    place = os.path.realpath(path())  # a link stays one
    temporary = f"{place}.{os.getpid()}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(fd, "w") as file:
        file.write(json.dumps(settings, indent="\t") + "\n")
    os.rename(temporary, place)


def _object(settings: dict[str, Any], name: str) -> dict[str, Any]:
    value = settings.get(name) or {}
    if not isinstance(value, dict):
        raise ImageError(f"{name} in {path()} is no JSON object", hint="mend or remove it")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value
