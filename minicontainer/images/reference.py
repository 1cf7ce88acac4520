"""A reference: the short name people type, and the exact place it stands for.

    alpine                          docker.io/library/alpine:latest
    grafana/grafana:11              docker.io/grafana/grafana:11
    localhost:5000/web              localhost:5000/web:latest
    quay.io/team/app@sha256:…       that very manifest, whatever any tag says

The grammar is Docker's (the `reference` package of github.com/distribution/reference): the first component is a
registry only when it could not be a user's name, that is when it has a dot or a colon or an upper-case letter, or is
`localhost`. Everything else lives on Docker Hub, and its official images below `library/`.
"""

from __future__ import annotations

import re

from minicontainer.errors import ImageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

HUB = "docker.io"
"""The name of Docker Hub in references; its API is served by `registry-1.docker.io`."""

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
"""The one digest algorithm that is in use. OCI image-spec, descriptor.md, "Digests"."""

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_REGISTRY = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[([0-9A-Fa-f:]+)\])(?::([0-9]{{1,5}}))?")
_REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:\.|_{1,2}|-+|/)[a-z0-9]+)*")
_TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)


class Reference:
    """Where an image is: `registry`, `repository`, and a `tag` or a `digest` (which wins when both are given)."""

    __slots__ = ("digest", "registry", "repository", "tag")

    def __init__(self, registry: str, repository: str, tag: str = "", digest: str = "") -> None:
        self.registry, self.repository, self.tag, self.digest = registry, repository, tag, digest

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a reference as Docker does. Raises ImageError with the rule that it breaks."""
        if len(text) > 1024:  # the parts have limits of their own; this one spares us to look for them
            raise _invalid(text, "the name is too long", "registry and repository may have 255 characters together")
        name, at, digest = text.partition("@")
        if at and not DIGEST.fullmatch(digest):
            raise _invalid(text, f"{digest!r} is no digest", "a digest is sha256: and 64 lower-case hex digits")
        tag = ""
        if ":" in name.rpartition("/")[2]:
            name, _, tag = name.rpartition(":")
            if not is_tag(tag):
                raise _invalid(text, f"{tag!r} is no tag", "a tag has at most 128 letters, digits, '_', '.' and '-'")
        first, slash, rest = name.partition("/")
        if slash and (first == "localhost" or first != first.lower() or "." in first or ":" in first):
            registry, repository = first, rest
        else:
            registry, repository = HUB, name
        if registry == "index.docker.io":
            registry = HUB
        if registry == HUB and "/" not in repository:
            repository = f"library/{repository}"
        if not _is_registry(registry):
            raise _invalid(text, f"{registry!r} is no registry", "a registry is a host name or address, and a port")
        if not _REPOSITORY.fullmatch(repository):
            raise _invalid(
                text, f"{repository!r} is no repository", "lower-case letters, digits, and '.', '_', '-' between them"
            )
        if len(registry) + 1 + len(repository) > 255:
            raise _invalid(text, "the name is too long", "registry and repository may have 255 characters together")
        if len(name) == 64 and not name.strip("0123456789abcdef"):
            raise _invalid(text, "64 hex digits are an image's id", "a name must be something else")
        return cls(registry, repository, tag if tag or digest else "latest", digest)

    @property
    def name(self) -> str:
        """The name that a store keeps: complete, and without the tag when a digest says it all."""
        return f"{self.registry}/{self.repository}" + (f"@{self.digest}" if self.digest else f":{self.tag}")

    @property
    def familiar(self) -> str:
        """As people write it: without what Docker's rules would add. It always means the same again."""
        for start in (f"{HUB}/library/", f"{HUB}/"):
            short = self.name.removeprefix(start)
            # docker.io/r.io/web is no r.io/web: that would be another registry's
            if short != self.name and self._is(short):
                return short
        return self.name

    def _is(self, text: str) -> bool:
        try:
            return Reference.parse(text) == self
        except ImageError:
            return False

    @property
    def target(self) -> str:
        """What to ask the registry for: the digest, or the tag."""
        return self.digest or self.tag

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"Reference({self.name!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reference) and self.name == other.name

    def __hash__(self) -> int:
        return hash(self.name)


def is_tag(text: str) -> bool:
    """Whether a text can be a tag."""
    return _TAG.fullmatch(text) is not None


def _is_registry(text: str) -> bool:
    match = _REGISTRY.fullmatch(text)
    if match is None or not 0 < int(match[2] or 1) < 65536:
        return False
    if match[1] is None:
        return True
    import _socket

    try:
        return bool(_socket.inet_pton(_socket.AF_INET6, match[1]))
    except OSError:
        return False


def _invalid(text: str, why: str, rule: str) -> ImageError:
    shown = text if len(text) <= 100 else text[:100] + "…"
    return ImageError(f"invalid reference {shown!r}: {why}", hint=rule)
