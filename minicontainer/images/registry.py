"""The registry's API: four kinds of address, and everything is named by its digest.

    /v2/<repository>/manifests/<tag or digest>     GET, HEAD, PUT
    /v2/<repository>/blobs/<digest>                GET, HEAD
    /v2/<repository>/tags/list                     GET
    /v2/<repository>/blobs/uploads/                POST: where to send a blob to; then PATCH and PUT …?digest=

Only a tag is a matter of trust: it can point to another manifest tomorrow. What is asked for by digest is checked
against it here, so that nobody in between can give us anything else. (OCI distribution-spec)
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING, Self
from urllib.parse import urlencode, urljoin, urlsplit

from minicontainer.errors import ImageError, NotFoundError
from minicontainer.images.auth import Authorizer
from minicontainer.images.blobs import range_of
from minicontainer.images.failures import BrokenConnection, RegistryError
from minicontainer.images.manifest import INDEXES, MANIFESTS, MAX_DOCUMENT, Descriptor
from minicontainer.images.ratelimit import RateLimit
from minicontainer.images.reference import HUB, Reference, is_tag
from minicontainer.images.settings import CERTIFICATES, is_insecure
from minicontainer.images.transport import Answer, Transport, retry_after

if TYPE_CHECKING:
    from collections.abc import Callable
    from io import FileIO

    from minicontainer.images.credentials import Credentials


def origin(registry: str) -> str:
    """The address of a registry's API, by its name in references."""
    host = "registry-1.docker.io" if registry == HUB else registry
    return f"{'http' if is_insecure(host) else 'https'}://{host}"


MAX_PAGES = 1000
"""Pages of a list of tags that are read."""

_NEXT = re.compile(r"\s*<([^<>]*)>\s*;\s*rel=\"?next\"?")

CHUNK = 64 << 20
"""Bytes of a blob that are sent in one request: proxies before registries often refuse more than 100 MB."""


class Registry:
    """One repository of one registry; or of a mirror, which has the same, under a name that may begin otherwise.

    `credentials` are for the registry; for a mirror there are those of `~/.docker/config.json`.
    """

    def __init__(
        self,
        reference: Reference,
        *,
        actions: str = "pull",
        credentials: Credentials | None = None,
        mirror: str = "",
    ) -> None:
        self.reference, self.mirror = reference, mirror
        self.transport = Transport()
        self.credentials = None if mirror else credentials
        parts = urlsplit(mirror or origin(reference.registry))
        self.name = parts.netloc if mirror else reference.registry
        """Whom we ask, as people call it."""
        self.authorizer = Authorizer(self.name, self.transport, self.credentials)
        repository = f"{parts.path}/{reference.repository}".lstrip("/")
        self.scope = f"repository:{repository}:{actions}"
        self.limit: RateLimit | None = None
        """How often it lets us ask, as it said last."""
        self._origin = f"{parts.scheme}://{parts.netloc}"
        self._base = f"{self._origin}/v2/{repository}"

    def manifest(self, target: str) -> tuple[bytes, str, str]:
        """A manifest or an index: its bytes, its media type, its digest. Raises NotFoundError and ImageError."""
        accept = ", ".join((*MANIFESTS, *INDEXES))
        with self._request("GET", f"{self._base}/manifests/{target}", {"Accept": accept}) as answer:
            self.limit = RateLimit.of(answer) or self.limit
            if answer.status == 404:
                name = f"{self.reference.registry}/{self.reference.repository}"
                raise NotFoundError(
                    f"{self.name} has no image {name}{'@' if ':' in target else ':'}{target}",
                    hint="check the name's spelling and the tag",
                )
            self._expect(answer, 200, "read the manifest")
            data = answer.read(MAX_DOCUMENT)
            media_type = answer.header("Content-Type").partition(";")[0].strip()
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if ":" in target and digest != target:
            raise ImageError(f"the manifest {target} that {self.reference.registry} sends is {digest}", hint=_LIAR)
        return data, media_type, digest

    def document(self, descriptor: Descriptor) -> bytes:
        """A small blob, verified: a config. Raises ImageError."""
        if descriptor.size > MAX_DOCUMENT:
            raise ImageError(
                f"a config of {descriptor.size} bytes: at most {MAX_DOCUMENT} are read", hint="this is no honest image"
            )
        with self.blob(descriptor) as answer:
            data = answer.read(max(descriptor.size, 1))
        if len(data) != descriptor.size or f"sha256:{hashlib.sha256(data).hexdigest()}" != descriptor.digest:
            raise ImageError(f"the config that {self.reference.registry} sends is not {descriptor.digest}", hint=_LIAR)
        return data

    def blob(self, descriptor: Descriptor, start: int = 0) -> Answer:
        """A blob to be read, nothing verified yet; from the byte `start` on if the registry can do that (206)."""
        answer = self._request("GET", f"{self._base}/blobs/{descriptor.digest}", range_of(start))
        try:
            if not (start and answer.status == 206):
                self._expect(answer, 200, f"read the blob {descriptor.digest}")
        except BaseException:
            answer.close()
            raise
        return answer

    def tags(self) -> list[str]:
        """All tags of the repository. A long list comes in pages, each with a link to the next."""
        url, found = f"{self._base}/tags/list", dict[str, None]()
        for _ in range(MAX_PAGES):
            with self._request("GET", url) as answer:
                self._expect(answer, 200, "list the tags")
                try:
                    names = json.loads(answer.read(MAX_DOCUMENT))["tags"] or []
                except (ValueError, TypeError, KeyError, RecursionError):
                    names = None
                if not isinstance(names, list) or not all(isinstance(name, str) and is_tag(name) for name in names):
                    raise ImageError(f"{self.name} sends no list of tags", hint="something else answers at its address")
                found |= dict.fromkeys(names)
                link = _NEXT.match(answer.header("Link"))
            if not link:
                return list(found)
            url = urljoin(url, link[1])
            if not url.startswith(f"{self._base}/tags/list"):
                break
        raise ImageError(f"{self.name} links its list of tags to {url!r:.120}", hint="this is no honest registry")

    def has_blob(self, digest: str) -> bool:
        """Whether the repository has a blob."""
        with self._request("HEAD", f"{self._base}/blobs/{digest}") as answer:
            if answer.status != 404:
                self._expect(answer, 200, "look for a blob")
            return answer.status == 200

    def upload(self, descriptor: Descriptor, opener: Callable[[int, int], FileIO], *, origin: str = "") -> bool:
        """Send a blob; `opener(offset, size)` opens a part of it. Raises RegistryError, and repeats nothing.

        With `origin`, another repository of this registry that may have the blob, the registry is asked to take it
        from there first. False when it did so and nothing was sent. distribution-spec, "Pushing blobs"
        """
        location = self._begin(descriptor.digest, origin)
        if not location:
            return False
        at = 0
        while descriptor.size - at > CHUNK:
            location, at = self._send_chunk(location, descriptor, opener, at)
        rest = descriptor.size - at
        location += ("&" if urlsplit(location).query else "?") + urlencode({"digest": descriptor.digest})
        headers = _part(at, rest) if at else {"Content-Type": _BYTES}
        with self._request("PUT", location, headers, stream=(lambda: opener(at, rest), rest)) as answer:
            self._expect(answer, 201, f"upload the blob {descriptor.digest}")
        return True

    def _begin(self, digest: str, origin: str) -> str:
        """Where to send a blob to; "" when the registry has taken it from `origin`."""
        url, scope = f"{self._base}/blobs/uploads/", self.scope
        if origin:
            url += "?" + urlencode({"mount": digest, "from": origin})
            scope += f" repository:{origin}:pull"  # to read there must be allowed as well
        with self._request("POST", url, body=b"", scope=scope) as answer:
            if origin and answer.status == 201:
                return ""
            refused = origin and answer.status in (401, 403, 404)  # some refuse to look there, instead of not finding
            if not refused:
                self._expect(answer, 202, "begin an upload")
            location = answer.header("Location")
        return self._begin(digest, "") if refused else urljoin(answer.url, location)

    def _send_chunk(
        self, location: str, descriptor: Descriptor, opener: Callable[[int, int], FileIO], at: int
    ) -> tuple[str, int]:
        """Send the next part of a blob: where to send what follows, and from which byte on.

        When the line breaks, the registry is asked how far it has got. Not all of them can tell (distribution's own
        takes back what it has); then the error stands.
        """
        try:
            stream = (lambda: opener(at, CHUNK), CHUNK)
            with self._request("PATCH", location, _part(at, CHUNK), stream=stream) as answer:
                self._expect(answer, 202, f"upload a part of the blob {descriptor.digest}")
                return urljoin(answer.url, answer.header("Location")), at + CHUNK
        except BrokenConnection:
            with self._request("GET", location) as answer:
                got = re.fullmatch(r"(?:bytes=)?0-(\d{1,18})", answer.header("Range"))
                if answer.status != 204 or not got or not at <= int(got[1]) + 1 <= descriptor.size:
                    raise
                reached = int(got[1]) + 1 if int(got[1]) else 0  # "0-0" is what they say for nothing at all
                if reached <= at:
                    raise
                return urljoin(answer.url, answer.header("Location") or location), reached

    def put_manifest(self, target: str, data: bytes, media_type: str) -> None:
        """Send a manifest; its blobs are there already."""
        url = f"{self._base}/manifests/{target}"
        with self._request("PUT", url, {"Content-Type": media_type}, body=data) as answer:
            self._expect(answer, 201, "write the manifest")

    def _request(
        self,
        method: str,
        url: str,
        headers: dict[str, str] | None = None,
        body: bytes | None = None,
        stream: tuple[Callable[[], FileIO], int] | None = None,
        scope: str = "",
    ) -> Answer:
        """A request with our credentials, made again when the registry asks for (other) ones."""
        ours = url.startswith(f"{self._origin}/")
        scope = scope or self.scope
        for _ in range(2):
            shown = dict(headers or {})
            if ours and self.authorizer.header(scope):
                shown["Authorization"] = self.authorizer.header(scope)
            answer = self.transport.request(method, url, shown, body, stream=stream)
            if answer.status != 401 or not answer.url.startswith(f"{self._origin}/"):
                break  # another host's challenge would lead our password there
            challenges = answer.headers("WWW-Authenticate")
            answer.close()
            if not self.authorizer.answer(challenges, scope, shown.get("Authorization", "")):
                break
        return answer

    def _expect(self, answer: Answer, status: int, action: str) -> None:
        if answer.status == status:
            return
        name = self.name
        hints = {
            400: f"if it speaks TLS, the certificate of its authority belongs in {CERTIFICATES}/{name}/ca.crt"
            if self._origin.startswith("http:")
            else "the registry's own log knows more",
            401: f"`minicontainer login {name}` lets you in; a repository that does not exist can look like this too",
            403: f"the user that ~/.docker/config.json names for {name} may not do this",
            404: "check the name's spelling",
            416: "its storage is damaged, or something before it does not understand ranges",
            413: "a proxy before the registry limits the size of a request",
            429: f"it limits how often it can be asked: {_patience(answer)}",
        }
        raise RegistryError(
            f"{name} does not let us {action} of {self.reference.repository}: HTTP {answer.status}{_reason(answer)}",
            hint=hints.get(answer.status, "try again later; the registry's own log knows more"),
            status=answer.status,
        )

    def close(self) -> None:
        """Close its connections."""
        self.transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


_BYTES = "application/octet-stream"
_LIAR = "something between the registry and here changes content, or its storage is damaged"


def _reason(answer: Answer) -> str:
    """What the registry says about an error, in short. distribution-spec, "Error Codes" """
    try:
        first = json.loads(answer.read(64 << 10))["errors"][0]
        return f" ({first.get('code', '')}: {first.get('message', '')!s:.120})"
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, ImageError):
        return ""


def _patience(answer: Answer) -> str:
    """When to come back."""
    seconds, limit = retry_after(answer), RateLimit.of(answer)
    wait = f"wait {seconds:.0f} seconds" if seconds else "wait"
    return f"{wait}, or log in" + (f" ({limit})" if limit else "")


def _part(at: int, size: int) -> dict[str, str]:
    """The headers of a part of a blob. Its range has no unit, and its end is the last byte."""
    return {"Content-Type": _BYTES, "Content-Range": f"{at}-{at + size - 1}"}
