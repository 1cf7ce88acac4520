"""Import: a directory or a tar archive becomes an image, or one more layer of one.

This is the road in the other direction: files → tar → gzip → digests → config → manifest → name. The same directory
gives the same layer, byte for byte, and so the same digest (see `overlayfs.commit`); with `source_date_epoch` the
image, too, is the same whenever it is made.
"""

from __future__ import annotations

import copy
import hashlib
import os
import time
from typing import TYPE_CHECKING, Any

from minicontainer.errors import ImageError, UsageError
from minicontainer.images.compression import Gzip, chunks_of, decompress, kind_of, write_all
from minicontainer.images.image import Image
from minicontainer.images.manifest import (
    OCI_CONFIG,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
    Config,
    Descriptor,
    Manifest,
    chain_ids,
    encode,
    manifest_document,
)
from minicontainer.images.platforms import Platform
from minicontainer.images.pulling import fetch_layers
from minicontainer.images.reference import Reference
from minicontainer.images.store import Entry, Store, host_error
from minicontainer.overlayfs import commit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import IO

    from minicontainer.images.session import Session
    from minicontainer.images.tar import Limits


def import_(
    source: str,
    name: str,
    *,
    base: str = "",
    entrypoint: Sequence[str] | None = None,
    cmd: Sequence[str] | None = None,
    env: Mapping[str, str] | None = None,
    working_dir: str | None = None,
    user: str | None = None,
    labels: Mapping[str, str] | None = None,
    ports: Sequence[str] = (),
    platform: str = "",
    source_date_epoch: int | None = None,
    limits: Limits | None = None,
) -> Image:
    """Make an image called `name` of `source`: a directory, or a tar archive, also one of gzip, zstd, bzip2 or xz.

    On top of the image `base`, if one is named: its layers, and its config where nothing else is said. `ports` are
    those that the image says it serves (`80/tcp`). `source_date_epoch`, seconds since 1970, is what is noted as the
    time of making, and the latest time of a directory's files. `limits` is what the layer may cost. Raises UsageError,
    NotFoundError, ImageError, HostError; then there is no image.
    """
    store = Store()
    reference = Reference.parse(name)
    if reference.digest:
        raise ImageError(f"{name} has a digest, which nobody can choose", hint="use NAME:TAG")
    ground = Image(store, store.find(base)) if base else None
    wishes: dict[str, Any] = {
        "Entrypoint": None if entrypoint is None else list(entrypoint),
        "Cmd": list(cmd) if cmd is not None else None if entrypoint is None else [],
        "Env": [f"{key}={value}" for key, value in {**(ground.config.env if ground else {}), **env}.items()]
        if env is not None
        else None,
        "WorkingDir": working_dir,
        "User": user,
        "Labels": {**(ground.config.labels if ground else {}), **labels} if labels is not None else None,
        "ExposedPorts": {port: {} for port in ports} or None,
    }
    try:
        with store.session() as session:
            if ground:
                session.needs([ground.manifest.config.digest, *(layer.digest for layer in ground.manifest.layers)])
            layer, diff_id = _layer(store, session, source, source_date_epoch)
            raw = _config(ground, diff_id, wishes, platform, source_date_epoch, f"import {os.path.basename(source)}")
            config_document = encode(raw)
            config = Config(raw)
            digest = store.keep_document(config_document, session)
            layers = [*(ground.manifest.layers if ground else ()), layer]
            document = manifest_document(Descriptor(OCI_CONFIG, digest, len(config_document)), layers)
            # A base that came with Docker's types gives its layers to an OCI image here.
            document = Manifest.parse(document).twin() or document
            manifest = Manifest.parse(document)
            chain = chain_ids(config.diff_ids)
            session.needs(chain)
            try:
                fetch_layers(store, session, manifest, config, chain, limits=limits, progress=lambda event: None)
            except ImageError as error:
                raise ImageError(error.message.removeprefix(f"the layer {layer.digest}: "), hint=error.hint) from None
            digest = store.keep_document(document, session)
            descriptor = Descriptor(OCI_MANIFEST, digest, len(document))
            entry = Entry(descriptor, reference.name, layers=chain, platform=config.platform)
            store.put(entry)
            return Image(store, entry)
    except OSError as error:
        raise host_error(error, store.root) from error
    except ImageError as error:
        store.collect()  # its blob, which turned out to be no layer
        raise ImageError(f"{source} cannot be imported: {error.message}", hint=error.hint) from None


def _layer(store: Store, session: Session, source: str, epoch: int | None) -> tuple[Descriptor, str]:
    """Make a blob of `source`: its descriptor and its diff_id."""
    path = f"{session.path}/layer"
    with open(path, "wb", buffering=0) as file:
        if os.path.isdir(source):
            writer = Gzip(file)
            commit(source, writer, source_date_epoch=epoch)  # type: ignore[arg-type]  # all it calls is write
            writer.end()
            compressed, plain, size = writer.compressed, writer.plain, writer.size
        else:
            compressed, plain, size = _archive(source, file)
    digest = f"sha256:{compressed.hexdigest()}"
    session.needs([digest])
    os.rename(path, store.blob(digest))
    return Descriptor(OCI_LAYER_GZIP, digest, size), f"sha256:{plain.hexdigest()}"


def _archive(source: str, file: IO[bytes]) -> tuple[Any, Any, int]:
    """Copy a gzip archive as it is, or make one; the hashes of both forms, and the bytes of the blob."""
    try:
        opened = open(source, "rb")  # noqa: SIM115  (it is the next statement's)
    except OSError as error:
        raise UsageError(
            f"{source} cannot be imported: {error.strerror}", hint="name a directory or a tar archive"
        ) from None
    with opened as archive:
        begin = archive.peek(8)[:8]
        if not begin:
            raise ImageError("it is empty", hint="whatever was to write it has failed")
        if begin.startswith(b"PK\3\4"):
            raise ImageError("it is a zip archive", hint="unpack it, and import the directory")
        if kind_of(begin) == "gzip":
            copied, plain = _Copied(archive, file), hashlib.sha256()
            for data in decompress(copied.chunks()):
                plain.update(data)
            return copied.hash, plain, copied.size
        writer = Gzip(file)
        for data in decompress(chunks_of(archive)):
            writer.write(data)
        writer.end()
        return writer.compressed, writer.plain, writer.size


class _Copied:
    """What is read of a file, which goes on into another as it is."""

    def __init__(self, source: IO[bytes], file: IO[bytes]) -> None:
        self._source, self._file = source, file
        self.hash, self.size = hashlib.sha256(), 0

    def chunks(self) -> Iterator[memoryview]:
        for chunk in chunks_of(self._source):
            self.hash.update(chunk)
            self.size += len(chunk)
            write_all(self._file, chunk)
            yield chunk


def _config(
    ground: Image | None, diff_id: str, wishes: dict[str, Any], platform: str, epoch: int | None, how: str
) -> dict[str, Any]:
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch))
    host = Platform.parse(platform) if platform else Platform.host()
    raw: dict[str, Any] = {"architecture": host.architecture, "os": host.os, "config": {}}
    if host.variant:
        raw["variant"] = host.variant
    raw |= {"rootfs": {"type": "layers", "diff_ids": []}, "history": []}
    if ground:
        raw |= copy.deepcopy(ground.config.raw)
    raw["created"] = created
    raw["config"] = (raw.get("config") or {}) | {key: value for key, value in wishes.items() if value is not None}
    raw["rootfs"]["diff_ids"] = [*raw["rootfs"]["diff_ids"], diff_id]
    raw["history"] = [*(raw.get("history") or []), {"created": created, "created_by": how}]
    return raw
