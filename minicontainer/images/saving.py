"""Save: images of the store as one file, or one directory, that other engines read.

    docker-archive   a tar for `docker load`, `podman load`, skopeo's docker-archive:
    oci-archive      a tar with an OCI image layout in it: podman, skopeo's oci-archive:, buildah, containerd
    oci-dir          that layout as a directory: umoci, skopeo's oci:

The first is the second and one file more. Docker's own archives are so since version 25: an OCI layout, and beside
it a `manifest.json` that tells who knows no layouts where config and layers lie. So layers stay compressed as they
came, and all digests stay what they are. The same images make the same bytes, and each blob is hashed on its way out:
what a damaged store holds is not handed on.

Left out: other platforms than the one that was pulled (`copy` moves them all).
(OCI image-spec, image-layout.md; moby's image/spec)
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import stat
import tarfile
from typing import IO, TYPE_CHECKING

from minicontainer.errors import ConflictError, ImageError, UsageError
from minicontainer.images.compression import CHUNK
from minicontainer.images.manifest import OCI_INDEX, Descriptor, Manifest, encode
from minicontainer.images.reference import Reference
from minicontainer.images.store import NAME, VERBATIM_KEY, Store, host_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from minicontainer.images.store import Entry

FORMATS = ("docker-archive", "oci-archive", "oci-dir")

CONTAINERD_NAME = "io.containerd.image.name"
"""Where containerd and Docker look for an image's whole name; in OCI's own annotation others keep the tag alone."""

LAYOUT = {"imageLayoutVersion": "1.0.0"}


def save(names: str | Sequence[str], output: str | IO[bytes], *, format: str = "docker-archive") -> None:
    """Write the images to `output`: a path, or for the archives a file that is open for writing.

    An image that is asked for by its id has no name in there. A path appears when all of it is written, an archive
    in the place of an older file. Raises NotFoundError, ImageError for a damaged blob, ConflictError for a directory
    that holds something else already, HostError.
    """
    if format not in FORMATS:
        raise UsageError(f"{format!r} is no format of saved images", hint=f"one of {', '.join(FORMATS)}")
    store = Store()
    chosen = [names] if isinstance(names, str) else list(names)
    if not chosen:
        raise UsageError("no image to save", hint="name one")
    try:
        with store.session() as session:
            found = [(store.find(name), name) for name in chosen]
            content = Content(store, [entry if _by_name(entry, name) else entry.named("") for entry, name in found])
            session.needs(content.blobs)
            if format == "oci-dir":
                if not isinstance(output, str):
                    raise UsageError("oci-dir is a directory, not a stream", hint="give the path of a new directory")
                _directory(content, output)
            elif isinstance(output, str):
                write_whole(output, lambda file: _archive(content, file, docker=format == "docker-archive"))
            else:
                _archive(content, output, docker=format == "docker-archive")
    except OSError as error:
        raise host_error(error, str(getattr(output, "name", output))) from error


def _by_name(entry: Entry, text: str) -> bool:
    try:
        return bool(entry.name) and Reference.parse(text).name == entry.name
    except ImageError:  # 64 hex digits
        return False


class Content:
    """What is written: `index` and `docker` (the `manifest.json`) as documents, and `blobs` by digest."""

    def __init__(self, store: Store, entries: Iterable[Entry]) -> None:
        self.store = store
        self.blobs: dict[str, Descriptor] = {}
        self._listed: dict[str, dict[str, Any]] = {}
        self._lines: dict[tuple[str, str], dict[str, Any]] = {}
        for entry in entries:
            self._add(entry)

    def _add(self, entry: Entry) -> None:
        document = self.store.document(entry.manifest.digest)
        manifest = Manifest.parse(document, entry.manifest.media_type)
        for blob in (entry.manifest, manifest.config, *manifest.layers):
            self.blobs[blob.digest] = blob
        if entry.verbatim:
            size = len(self.store.document(entry.verbatim))
            self.blobs[entry.verbatim] = Descriptor("", entry.verbatim, size)
        tag = entry.name if "@" not in entry.name else ""  # a digest needs no writing down
        line = entry.json()
        notes = {CONTAINERD_NAME: tag, NAME: tag, VERBATIM_KEY: entry.verbatim}
        line["annotations"] = {key: text for key, text in notes.items() if text}
        self._lines[entry.manifest.digest, tag] = line
        listed = self._listed.setdefault(
            manifest.config.digest,
            {
                "Config": _place(manifest.config),
                "RepoTags": [],
                "Layers": [_place(layer) for layer in manifest.layers],
            },
        )
        familiar = Reference.parse(tag).familiar if tag else ""
        if familiar and familiar not in listed["RepoTags"]:
            listed["RepoTags"].append(familiar)

    @property
    def index(self) -> bytes:
        return encode({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(self._lines.values())})

    @property
    def docker(self) -> bytes:
        listed = [found | {"RepoTags": found["RepoTags"] or None} for found in self._listed.values()]
        return json.dumps(listed, separators=(",", ":")).encode()


def _place(blob: Descriptor) -> str:
    return f"blobs/sha256/{blob.digest.removeprefix('sha256:')}"


def _archive(content: Content, file: IO[bytes], *, docker: bool) -> None:
    # GNU's headers can say sizes of more than 8 GiB without records of their own, which some readers do not know
    with tarfile.open(fileobj=file, mode="w|", format=tarfile.GNU_FORMAT, bufsize=CHUNK) as archive:

        def member(name: str, size: int, data: IO[bytes] | None = None) -> None:
            info = tarfile.TarInfo(name)
            info.size, info.mode = size, 0o644
            if data is None:
                info.type, info.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(info, data)

        def document(name: str, data: bytes) -> None:
            member(name, len(data), io.BytesIO(data))

        # What tells where things are comes first: a reader of a stream then knows what it is waiting for.
        document("oci-layout", encode(LAYOUT))
        document("index.json", content.index)
        if docker:
            document("manifest.json", content.docker)
        member("blobs", 0)
        member("blobs/sha256", 0)
        for digest in sorted(content.blobs):
            blob = content.blobs[digest]
            with Verified(content.store, blob) as data:
                member(_place(blob), blob.size, data)  # type: ignore[arg-type]  # all that is called is read
                data.end()


def _directory(content: Content, path: str) -> None:
    path = _place_for(path)
    if os.path.lexists(path) and (not os.path.isdir(path) or os.listdir(path)):
        raise ConflictError(f"{path} is there already, and not empty", hint="an image layout begins in a new directory")
    temporary = f"{path}.{os.urandom(4).hex()}"
    try:
        os.makedirs(f"{temporary}/blobs/sha256")
        for blob in content.blobs.values():
            with Verified(content.store, blob) as data, open(f"{temporary}/{_place(blob)}", "wb") as file:
                shutil.copyfileobj(data, file, CHUNK)
                data.end()
        for name, document in (("oci-layout", encode(LAYOUT)), ("index.json", content.index)):
            with open(f"{temporary}/{name}", "wb") as file:
                file.write(document)
        os.rename(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _place_for(path: str) -> str:
    """The whole path. Raises UsageError when the directory that it would be in is not there."""
    path = os.path.abspath(path)
    if not os.path.isdir(os.path.dirname(path)):
        raise UsageError(f"there is no directory {os.path.dirname(path)}", hint="make it first")
    return path


def write_whole(path: str, write: Callable[[IO[bytes]], None]) -> None:
    """Have `write` make the file `path`, which appears when it is whole; into a pipe or a device it goes at once."""
    if os.path.exists(path) and not stat.S_ISREG(os.stat(path).st_mode):  # a pipe, /dev/stdout
        with open(path, "wb", buffering=0) as file:
            write(file)
        return
    temporary = f"{_place_for(path)}.{os.urandom(4).hex()}"
    try:
        with open(temporary, "wb", buffering=0) as file:
            write(file)
        os.rename(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise


class Verified:
    """A blob of the store that is hashed while it is read. Raises ImageError when it is not what its name says."""

    def __init__(self, store: Store, blob: Descriptor) -> None:
        self._blob, self._sha256 = blob, hashlib.sha256()
        try:
            self._file = open(store.blob(blob.digest), "rb", buffering=0)  # noqa: SIM115  (closed by our own __exit__)
        except FileNotFoundError:
            raise ImageError(f"the store has lost {blob.digest}", hint=_CHECK) from None
        if os.fstat(self._file.fileno()).st_size != blob.size:
            self._file.close()
            raise self._damaged()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._sha256.update(data)
        return data

    def end(self) -> None:
        """Say whether all of it was right."""
        if f"sha256:{self._sha256.hexdigest()}" != self._blob.digest:
            raise self._damaged()

    def _damaged(self) -> ImageError:
        return ImageError(f"the store's blob {self._blob.digest} is damaged", hint=_CHECK)

    def __enter__(self) -> Verified:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


_CHECK = "`minicontainer image check` fetches it again"
