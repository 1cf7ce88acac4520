"""One layer on its way from the registry to a directory, in one pass.

    socket ──► sha256, size ──► blob file ──► inflate ──► sha256 ──► unpack
               (the digest)                               (the diff_id)

Nothing is read twice and never is much of it in memory. Nobody sees any of it until both digests are right: then
the file becomes a blob and the directory a layer, by one rename each.

Each step is work for a processor: hashing and inflating a gigabyte takes seconds. So layers are fetched by several
processes (`workers`), and this module is what such a worker executes: it reads jobs as lines of JSON from its standard
input and answers with lines on its standard output. It ends with its owner (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any, TextIO

from minicontainer import linux
from minicontainer.errors import ContainerError, ImageError
from minicontainer.images.blobs import Blob, foreign, is_allowed
from minicontainer.images.compression import CHUNK, Ahead, decompress, write_all
from minicontainer.images.failures import RegistryError
from minicontainer.images.manifest import FOREIGN, Descriptor
from minicontainer.images.partial import Partial
from minicontainer.images.reference import Reference
from minicontainer.images.registry import Registry
from minicontainer.images.store import Store, host_error
from minicontainer.images.tar import Limits
from minicontainer.images.unpack import unpack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from minicontainer.images.credentials import Credentials
    from minicontainer.images.transport import Answer

_AGAIN = "whoever made the layer must make it again"


class Job:
    """One layer to fetch: what `workers` sends, as JSON.

    `reference` is where from, by way of `mirror` unless that is ""; `login` the name and password for it;
    `authorization` the header that has been accepted, by scope.
    """

    def __init__(self, fields: dict[str, Any]) -> None:
        self.number: int = fields["number"]
        self.store = Store(fields["root"])
        self.session: str = fields["session"]
        self.blob = Descriptor(fields["media_type"], fields["digest"], fields["size"], fields.get("urls", ()))
        self.diff_id: str = fields["diff_id"]
        self.chain_id: str = fields["chain_id"]
        self.reference: str = fields["reference"]
        self.mirror: str = fields.get("mirror", "")
        self.login: Credentials | None = (
            (fields["credentials"][0], fields["credentials"][1]) if fields["credentials"] else None
        )
        self.authorization: dict[str, str] = fields["authorization"]
        self.limits = Limits(**fields["limits"])


def fetch(job: Job, registry: Registry | None, report: Callable[[str, int], None]) -> None:
    """Bring the blob and the unpacked layer into the store, whichever is not there yet. Raises ContainerError."""
    report("waiting", 0)
    with job.store.alone(job.blob.digest):
        unpacked = os.path.isdir(job.store.layer(job.chain_id))
        if job.store.has(job.blob):
            if unpacked:
                return
            try:
                with open(job.store.blob(job.blob.digest), "rb", buffering=0) as file:
                    _unpack(job, _Source(job.blob, lambda buffer: file.readinto(buffer) or 0, report, "unpacking"))
                return
            except _Damaged:
                os.unlink(job.store.blob(job.blob.digest))
        if registry is None:
            raise ImageError(f"the store has lost the layer {job.blob.digest}", hint="pull the image again")
        _download(job, registry, report, unpacked=unpacked)


def _download(job: Job, registry: Registry, report: Callable[[str, int], None], *, unpacked: bool) -> None:
    with Partial(job.store, job.blob) as part:
        try:
            _receive(job, registry, report, part, unpacked=unpacked)
        except (_Damaged, RegistryError) as error:
            # 206 or 200 that does not fit what is here, or 416: a registry that cannot go on may begin anew
            if not part.kept or (isinstance(error, RegistryError) and error.status not in (200, 206, 416)):
                raise
            part.restart()
            _receive(job, registry, report, part, unpacked=unpacked)


def _receive(
    job: Job, registry: Registry, report: Callable[[str, int], None], part: Partial, *, unpacked: bool
) -> None:
    """Go on where `part` ends."""
    with Blob(_places(job, registry), part.kept) as blob:

        def readinto(buffer: memoryview) -> int:
            return part.readinto(buffer) or (blob.readinto(buffer) if part.kept < job.blob.size else 0)

        source = _Source(job.blob, readinto, report, "downloading", part)
        if unpacked:
            source.drain()
            os.rename(part.path, job.store.blob(job.blob.digest))
        else:
            _unpack(job, source, part.path)


def _places(job: Job, registry: Registry) -> list[Callable[[int], Answer]]:
    """Whom to ask for a blob, in order."""
    places = [lambda start: registry.blob(job.blob, start)]
    if registry.mirror:
        origin = Registry(registry.reference, credentials=job.login)
        places.append(lambda start: origin.blob(job.blob, start))
    if job.blob.media_type in FOREIGN:
        places += [partial(foreign, registry.transport, url) for url in job.blob.urls if is_allowed(url)]
    return places


def _unpack(job: Job, source: _Source, path: str = "") -> None:
    tree = f"{job.session}/{job.number}.{os.urandom(4).hex()}"
    with Ahead(decompress(source.chunks())) as stream:
        try:
            done = unpack(stream, tree, limits=job.limits)
        except ImageError as error:
            stream.stop()
            source.drain()  # if the bytes are not those that were asked for, that is the error to tell
            raise ImageError(f"the layer {job.blob.digest}: {error.message}", hint=error.hint or _AGAIN) from None
    source.drain()
    if done.diff_id != job.diff_id:
        raise ImageError(
            f"the layer {job.blob.digest} unpacks to {done.diff_id}, the image's config says {job.diff_id}",
            hint="whoever made the image must mend it",
        )
    if path:
        os.rename(path, job.store.blob(job.blob.digest))
    try:
        os.rename(tree, job.store.layer(job.chain_id))
    except OSError:
        if not os.path.isdir(job.store.layer(job.chain_id)):  # else another blob with the same content was faster
            raise


class _Damaged(ImageError):
    """A blob of the store, or one that began with what was kept, is not what its name says."""


class _Source:
    """The bytes of a blob as they come: counted, hashed, and added to what is here of it."""

    def __init__(
        self,
        blob: Descriptor,
        readinto: Callable[[memoryview], int],
        report: Callable[[str, int], None],
        status: str,
        part: Partial | None = None,
    ) -> None:
        self._blob, self._readinto, self._report, self._status, self._part = blob, readinto, report, status, part
        self._sha256 = hashlib.sha256()
        self._count = 0
        self._verified = False
        self._error: BaseException | None = None

    def chunks(self) -> Iterator[memoryview]:
        """The bytes, each chunk valid until the next is asked for. Raises at the end if they are not the right ones."""
        try:
            yield from self._chunks()
        except ContainerError as error:
            self._error = error
            raise

    def _chunks(self) -> Iterator[memoryview]:
        buffer = memoryview(bytearray(CHUNK))
        while count := self._readinto(buffer):
            chunk = buffer[:count]
            self._count += count
            if self._count > self._blob.size:
                raise self._lie(f"has more than the {self._blob.size} bytes that its manifest says")
            self._sha256.update(chunk)
            if self._part and self._count > self._part.kept:
                write_all(self._part.file, chunk)
            self._report(self._status, self._count)
            yield chunk
        if self._count != self._blob.size:
            raise self._lie(f"has {self._count} bytes, its manifest says {self._blob.size}")
        if f"sha256:{self._sha256.hexdigest()}" != self._blob.digest:
            raise self._lie(f"has the digest sha256:{self._sha256.hexdigest()}")
        self._verified = True

    def drain(self) -> None:
        """Read what is left, and verify."""
        if self._error is not None:
            raise self._error
        if not self._verified:
            for _ in self.chunks():
                pass

    def _lie(self, what: str) -> ImageError:
        if self._part and not self._part.kept:
            hint = "something between the registry and here changes content, or its storage is damaged"
            return ImageError(f"the blob {self._blob.digest} that arrives {what}", hint=hint)
        return _Damaged(f"the blob {self._blob.digest} of the store {what}", hint="pull the image again")


def main() -> None:
    """Be a worker: do jobs until there are no more. The first argument is the owner's pid."""
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(sys.argv[1]):
        return  # it died before we asked to hear of it
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    registries: dict[str, Registry] = {}
    for line in sys.stdin.buffer:
        job = Job(json.loads(line))
        try:
            fetch(job, _registry(job, registries), _reporter(job, answers))
            answer: dict[str, Any] = {"status": "done"}
        except ContainerError as error:
            answer = {"status": "failed", "error": type(error).__name__, "message": error.message, "hint": error.hint}
        except OSError as error:
            failed = host_error(error, job.store.root)
            answer = {"status": "failed", "error": "HostError", "message": failed.message, "hint": failed.hint}
        answers.write(json.dumps({"number": job.number} | answer) + "\n")


def _registry(job: Job, known: dict[str, Registry]) -> Registry | None:
    if not job.reference:
        return None
    key = f"{job.reference} {job.mirror}"
    if key not in known:
        known[key] = Registry(Reference.parse(job.reference), credentials=job.login, mirror=job.mirror)
        known[key].authorizer.headers.update(job.authorization)
    return known[key]


def _reporter(job: Job, answers: TextIO) -> Callable[[str, int], None]:
    """Tells the owner where we are, ten times a second at most."""
    last = 0.0

    def report(status: str, current: int) -> None:
        nonlocal last
        if time.monotonic() - last > 0.1:
            last = time.monotonic()
            answers.write(json.dumps({"number": job.number, "status": status, "current": current}) + "\n")

    return report


if __name__ == "__main__":
    main()
