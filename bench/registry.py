"""Registries of our own, and in one of them images of three shapes: many small files, few large ones, twenty layers."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import io
import json
import math
import os
import random
import socket
import subprocess
import tarfile
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from bench import ground
from bench.measure import Failed

if TYPE_CHECKING:
    from collections.abc import Iterator


class Shape(NamedTuple):
    """An image to make: so many layers, files and bytes in all; `spread` is how different the files' sizes are."""

    name: str
    text: str
    layers: int
    files: int
    content: int
    spread: float

    def scaled(self, scale: float) -> Shape:
        """A smaller one: fewer files, or smaller ones where there are few."""
        files = int(self.files * scale) if self.files > 100 else self.files
        return self._replace(files=files, content=int(self.content * scale))


SHAPES = (
    Shape("many", "many small files", 6, 24_000, 180 << 20, 1.5),
    Shape("few", "few large files", 3, 12, 360 << 20, 0.3),
    Shape("twenty", "twenty layers", 20, 6_000, 180 << 20, 1.5),
)


class Made(NamedTuple):
    """What is in the registry."""

    shape: Shape
    reference: str
    base: str
    """An image of all layers but the last."""
    layers: list[str]
    """Where each layer can be fetched, the base first."""
    diff_ids: list[str]
    files: int
    content: int
    """Bytes in all files of the merged tree."""
    compressed: int


@contextmanager
def registry(directory: str, *, tls: dict[str, Any] | None = None, **more: dict[str, Any] | None) -> Iterator[str]:
    """Debian's docker-registry on a free port of the loopback, with its storage and settings in `directory`;
    `localhost:PORT`. `more` are sections of its settings: `auth`, `proxy`."""
    os.makedirs(directory, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {
        "version": 0.1,
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": f"{directory}/storage"}, "delete": {"enabled": True}},
        "http": {"addr": f"127.0.0.1:{port}"} | ({"tls": tls} if tls else {}),
    } | {name: section for name, section in more.items() if section}
    with open(f"{directory}/config.yml", "w") as file:
        json.dump(settings, file)  # JSON is YAML
    # It shall end with us, whatever happens to us.
    command = ["setpriv", "--pdeathsig", "KILL", "docker-registry", "serve", f"{directory}/config.yml"]
    with open(f"{directory}/log", "wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as server:
        try:
            deadline = time.monotonic() + 30
            while True:
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/", timeout=5).close()
                    break
                except urllib.error.HTTPError as error:
                    error.close()  # 401, or 400 from one that wants TLS: it is there
                    break
                except OSError:
                    if server.poll() is not None or time.monotonic() > deadline:
                        with open(f"{directory}/log") as text:
                            raise Failed(f"docker-registry did not start: {text.read()[-2000:]}") from None
                    time.sleep(0.02)
            yield f"localhost:{port}"
        finally:
            server.kill()


def make(directory: str, host: str, shape: Shape) -> Made:
    """Make an image and put it into the registry, and a second one without the last layer.

    Layers of nested directories, files of very different sizes that compress about as programs do (to 44 %), symbolic
    and hard links, and in each layer some files that replace one of the layer before. The base has busybox, so that an
    engine can be asked what it has unpacked.
    """
    source = random.Random(1)
    pool = _pool(source)
    name = f"bench/{shape.name}"
    files: dict[str, int] = {}
    digests, sizes, diff_ids = [], [], []
    for number in range(shape.layers):
        path = f"{directory}/layer"
        diff_id = _layer(path, directory, number, source, pool, files, shape)
        with open(path, "rb") as file:
            digest = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
        _upload(host, name, path, digest)
        digests.append(digest)
        sizes.append(os.path.getsize(path))
        diff_ids.append(diff_id)
        os.unlink(path)
    for tag, count in (("base", shape.layers - 1), ("latest", shape.layers)):
        _manifest(directory, host, f"{name}:{tag}", digests[:count], sizes[:count], diff_ids[:count])
    blobs = [f"http://{host}/v2/{name}/blobs/{digest}" for digest in digests]
    reference = f"{host}/{name}"
    content = sum(files.values())
    return Made(shape, f"{reference}:latest", f"{reference}:base", blobs, diff_ids, len(files), content, sum(sizes))


def _manifest(
    directory: str, host: str, reference: str, digests: list[str], sizes: list[int], diff_ids: list[str]
) -> None:
    name, _, tag = reference.partition(":")
    config = {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine),
        "os": "linux",
        "config": {"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": [{"created_by": f"layer {number}"} for number in range(len(digests))],
    }
    text = json.dumps(config).encode()
    with open(f"{directory}/config", "wb") as target:
        target.write(text)
    config_digest = "sha256:" + hashlib.sha256(text).hexdigest()
    _upload(host, name, f"{directory}/config", config_digest)
    kind = "application/vnd.docker"
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{kind}.distribution.manifest.v2+json",
        "config": {"mediaType": f"{kind}.container.image.v1+json", "digest": config_digest, "size": len(text)},
        "layers": [
            {"mediaType": f"{kind}.image.rootfs.diff.tar.gzip", "digest": digest, "size": size}
            for digest, size in zip(digests, sizes, strict=True)
        ],
    }
    _request(host, "PUT", f"/v2/{name}/manifests/{tag}", json.dumps(manifest).encode(), str(manifest["mediaType"]))


def _pool(source: random.Random) -> bytes:
    """16 MiB of something like programs: noise, words, zeros."""
    words = [source.randbytes(source.randint(3, 9)) for _ in range(1000)]
    pieces, length = [], 0
    while length < 16 << 20:
        kind = source.random()
        if kind < 0.2:
            piece = source.randbytes(source.randint(16, 400))
        elif kind < 0.9:
            piece = b" ".join(source.choices(words, k=source.randint(5, 80)))
        else:
            piece = bytes(source.randint(8, 200))
        pieces.append(piece)
        length += len(piece)
    return b"".join(pieces)


class _Hashing(io.RawIOBase):
    """Hands on what is written, and hashes it."""

    def __init__(self, target: gzip.GzipFile) -> None:
        self.target, self.hash = target, hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        self.hash.update(data)  # type: ignore[arg-type]
        return self.target.write(data)  # type: ignore[arg-type]


def _layer(
    path: str, directory: str, number: int, source: random.Random, pool: bytes, files: dict[str, int], shape: Shape
) -> str:
    """One layer as a gzip file; its diff id. `files` is the merged tree so far: path → size."""
    count = shape.files // shape.layers
    median = shape.content / shape.files / math.exp(shape.spread**2 / 2)  # of a log-normal distribution
    with gzip.GzipFile(path, "wb", compresslevel=4, mtime=0) as target:
        hashing = _Hashing(target)
        with tarfile.open(fileobj=hashing, mode="w|", format=tarfile.PAX_FORMAT) as archive:
            if number == 0:
                archive.add(ground.busybox(f"{directory}/{shape.name}"), ".")
            for index in range(count):
                folder = f"data/{number}/{index // 400}/{index // 25}"
                if index % 25 == 0:
                    archive.addfile(_member(folder, tarfile.DIRTYPE, 0o755))
                name = f"{folder}/file-{index}.so"
                if number and index % 40 == 0:  # it replaces one of the layer before
                    other = index + 1
                    name = f"data/{number - 1}/{other // 400}/{other // 25}/file-{other}.so"
                size = int(source.lognormvariate(0, shape.spread) * median)
                member = _member(name, tarfile.REGTYPE, 0o755 if index % 7 == 0 else 0o644)
                member.size = size
                archive.addfile(member, io.BytesIO(_content(source, pool, size)))
                files[name] = size
                if index % 30 == 1:
                    archive.addfile(_member(f"{folder}/link-{index}", tarfile.SYMTYPE, 0o777, f"file-{index}.so"))
                if index % 50 == 2:
                    archive.addfile(_member(f"{folder}/hard-{index}", tarfile.LNKTYPE, 0o644, name))
                    files[f"{folder}/hard-{index}"] = size
    return "sha256:" + hashing.hash.hexdigest()


def _content(source: random.Random, pool: bytes, size: int) -> bytes:
    pieces, most = [], len(pool) // 2
    while size > 0:
        start = source.randrange(len(pool) - most)
        pieces.append(pool[start : start + min(size, most)])
        size -= most
    return b"".join(pieces)


def _member(name: str, kind: bytes, mode: int, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.mode, member.linkname, member.mtime = kind, mode, target, 1_700_000_000
    return member


def _request(host: str, method: str, path: str, body: object = None, kind: str = "application/octet-stream") -> str:
    """One request to the registry; the Location of its answer."""
    connection = http.client.HTTPConnection(host, timeout=60)
    headers = {"Content-Type": kind}
    if isinstance(body, io.BufferedReader):
        headers["Content-Length"] = str(os.fstat(body.fileno()).st_size)
    connection.request(method, path, body, headers)  # type: ignore[arg-type]
    answer = connection.getresponse()
    text = answer.read()
    if answer.status >= 300:
        raise RuntimeError(f"{method} {path}: {answer.status} {text[:200]!r}")
    connection.close()
    return answer.headers.get("Location", "")


def _upload(host: str, name: str, path: str, digest: str) -> None:
    location = _request(host, "POST", f"/v2/{name}/blobs/uploads/")
    with open(path, "rb") as file:
        where = location.partition(host)[2]
        _request(host, "PUT", f"{where}{'&' if '?' in where else '?'}digest={digest}", file)
