"""The checks of lab 07: a blob, a manifest, where layers lie, a directory that cannot be left, which layer a file comes
from, and an unpacker."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import tarfile
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

from labs.checks.engine import module_tests
from labs.checks.frame import Lab, attempt, expect
from minicontainer import images, linux, overlayfs
from minicontainer.errors import ImageError
from minicontainer.images import Image, Store, fetching, workers
from minicontainer.images.manifest import OCI_CONFIG, OCI_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST
from minicontainer.images.platforms import Platform
from minicontainer.images.unpack import Unpacked
from minicontainer.notebook import TinyRegistry
from minicontainer.overlayfs.whiteouts import make_opaque, make_whiteout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    from minicontainer.images.tar import Limits, Source

lab = Lab("07-images")

BUSYBOX = "/bin/busybox"
SECRET = "a secret of the layer below"


def digest(data: bytes) -> str:
    """As a descriptor has it."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def descriptor(media_type: str, data: bytes) -> dict[str, Any]:
    """What a document says of another one."""
    return {"mediaType": media_type, "digest": digest(data), "size": len(data)}


# ------------------------------------------------------------------------------------------------------------ a blob


@lab.exercise("a blob, verified")
def blob(answer: Callable[[str, str, dict[str, Any]], bytes]) -> str:
    """One honest blob, and four that are not what the descriptor names."""
    good = b"0123456789" * 1000
    named = descriptor("application/octet-stream", good)
    served = {
        "the right bytes": good,
        "one flipped bit": bytes([good[0] ^ 1]) + good[1:],
        "half of the bytes": good[:5000],
        "more bytes behind the right ones": good + b"!",
    }
    repositories = {f"lab/{number}": (what, named) for number, what in enumerate(served)}
    repositories["lab/size"] = ("right bytes whose size the descriptor says wrong", named | {"size": 9999})
    with TinyRegistry() as registry:
        for repository, (what, _) in repositories.items():
            path = f"/v2/{repository}/blobs/{named['digest']}"
            registry.put(path, "application/octet-stream", served.get(what, good))
        host = registry.host

        def ask() -> dict[str, str]:
            got = {}
            for repository, (what, asked) in repositories.items():
                try:
                    data = answer(host, repository, asked)
                    got[what] = "them" if data == good else f"{len(data)} other bytes" if data else repr(data)
                except ValueError:
                    got[what] = "refused"
            return got

        seen = attempt(ask, answer).value
        fetched = len(registry.requests)
    for what, became in seen.items():
        wanted = "them" if what == "the right bytes" else "refused"
        saw = f"the registry sends {what}, and you return {became}"
        saw = saw if became != "refused" else f"the registry sends {what}, and you raise ValueError"
        expect(became == wanted, saw=saw, wanted="the bytes" if wanted == "them" else "ValueError")
    expect(fetched > 0, saw="the registry was not asked for anything", wanted="a GET for each blob")
    return f"the registry answered {fetched} times, and only what the descriptor names was taken"


# -------------------------------------------------------------------------------------------------------- a manifest


@lab.exercise("the manifest for a platform")
def manifest(answer: Callable[[str, str, str, str], dict[str, Any]]) -> str:
    """An index of three platforms, a tag that leads to a manifest at once, one that leads nowhere, one that lies."""
    documents = {}
    for number, architecture in enumerate(("s390x", "amd64", "arm64", "lie")):
        layer = descriptor(OCI_LAYER_GZIP, architecture.encode())
        config = descriptor(OCI_CONFIG, b"config of " + architecture.encode())
        made = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": [layer] * (number + 1)}
        documents[architecture] = json.dumps(made).encode()
    index = _index({name: documents[name] for name in ("s390x", "amd64", "arm64")})
    bad = _index({"amd64": documents["amd64"]})
    with TinyRegistry() as registry:
        registry.put("/v2/many/manifests/latest", OCI_INDEX, index)
        registry.put("/v2/one/manifests/v1", OCI_MANIFEST, documents["amd64"])
        registry.put("/v2/bad/manifests/latest", OCI_INDEX, bad)
        registry.put(f"/v2/bad/manifests/{digest(documents['amd64'])}", OCI_MANIFEST, documents["lie"])
        for name in ("s390x", "amd64", "arm64"):
            registry.put(f"/v2/many/manifests/{digest(documents[name])}", OCI_MANIFEST, documents[name])
        host = registry.host
        cases = [
            ("many", "latest", "amd64"),
            ("many", "latest", "arm64"),
            ("one", "v1", "amd64"),
            ("many", "latest", "riscv64"),
            ("bad", "latest", "amd64"),
        ]

        def ask() -> list[object]:
            got: list[object] = []
            for repository, tag, architecture in cases:
                try:
                    got.append(answer(host, repository, tag, architecture))
                except ValueError:
                    got.append("ValueError")
            return got

        seen = attempt(ask, answer).value
        asked = [request.path for request in registry.requests]
    wanted = [json.loads(documents["amd64"]), json.loads(documents["arm64"]), json.loads(documents["amd64"])]
    for (repository, tag, architecture), got, right in zip(cases[:3], seen, wanted, strict=False):
        expect(
            got == right,
            saw=f"for {repository}:{tag} on {architecture} you return {_what(got, documents, index)}",
            wanted=f"the manifest for {architecture}",
        )
    expect(seen[3] == "ValueError", saw="no error for a platform that the index has not", wanted="ValueError")
    expect(
        seen[4] == "ValueError",
        saw="a manifest that is not the one the index names by its digest was taken",
        wanted="ValueError",
    )
    return f"{len(asked)} requests: an index leads to the manifest for its platform, and nothing else is taken for it"


def _index(manifests: dict[str, bytes]) -> bytes:
    entries = [
        descriptor(OCI_MANIFEST, data) | {"platform": {"os": "linux", "architecture": name}}
        for name, data in manifests.items()
    ]
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()


def _what(got: object, documents: dict[str, bytes], index: bytes) -> str:
    for name, data in documents.items():
        if got == json.loads(data):
            return f"the manifest for {name}"
    return "the index itself" if got == json.loads(index) else repr(got)[:60]


# --------------------------------------------------------------------------------------------------- where layers lie


@lab.exercise("where a layer lies")
def directories(answer: Callable[[list[bytes]], list[str]]) -> str:
    """The engine pulls images of these layers; the names of the directories on its disk are compared."""
    layers = [pack(("first", b"1")), pack(("second", b"2")), pack(("first", b"1"))]
    with TinyRegistry() as registry:
        lists = [layers[:1], layers, [layers[1], layers[0]]]
        on_disk = []
        for number, packed in enumerate(lists):
            with data_root() as root:
                image = images.pull(offer(registry, f"lab{number}", packed), progress=lambda event: None)
                on_disk.append([os.path.basename(path) for path in image.layers])
                expect_names = set(os.listdir(f"{root}/layers"))
                if set(on_disk[-1]) != expect_names:
                    raise RuntimeError("the engine has other directories than it says")
    seen = attempt(lambda: [answer(packed) for packed in lists], answer).value
    kinds = ("one layer", "three layers, of which two have the same content", "two layers in the other order")
    for what, got, right in zip(kinds, seen, on_disk, strict=True):
        got = got if isinstance(got, list) else [got]
        for number, name in enumerate(right):
            yours = str(got[number])[:24] if number < len(got) else "nothing"
            expect(
                number < len(got) and got[number] == name,
                saw=f"of {what}, number {number + 1} lies in {name[:16]}… on the disk, and you say {yours}…",
                wanted="the name of the directory that the engine has made",
            )
        expect(len(got) == len(right), saw=f"{len(got)} names for {len(right)} layers", wanted="one name for each")
    return "your names are those of the directories that the engine has made"


# ---------------------------------------------------------------------------------------- a directory, and no way out

INSIDE = {
    "a": "a",
    "a/b": "a/b",
    "in": "a",
    "in/b": "a/b",
    "a/around": "a/b",
    "new/and/deep": "new/and/deep",
    "in/new": "a/new",
}
OUTSIDE = (
    "..",
    "../outside",
    "a/../../outside",
    "out",
    "out/new",
    "root/etc",
    "/etc",
    "beside",
    "beside/new",
    "a/up/new",
)


@lab.exercise("a directory, and no way out")
def folder(answer: Callable[[int, str], int]) -> str:
    """Names that stay inside and names that leave, most of them through symbolic links."""
    with tempfile.TemporaryDirectory(prefix="minicontainer-lab-") as place:
        layer = f"{place}/layer"
        for made in ("layer/a/b", "outside", "layer-of-somebody-else"):
            os.makedirs(f"{place}/{made}")
        links = {"in": "a", "a/around": "../a/b", "out": "../outside", "root": "/", "a/up": "../.."}
        for name, target in {**links, "beside": "../layer-of-somebody-else"}.items():
            os.symlink(target, f"{layer}/{name}")

        def ask() -> dict[str, str]:
            got = {}
            root = os.open(layer, os.O_PATH | os.O_DIRECTORY)
            for name in (*INSIDE, *OUTSIDE):
                try:
                    fd = answer(root, name)
                    got[name] = os.readlink(f"/proc/self/fd/{fd}")
                    os.close(fd)
                except OSError as error:
                    got[name] = linux.errno_name(error.errno) if error.errno else "OSError"
            return got

        seen = attempt(ask, answer).value
        changed = [name for name in ("outside", "layer-of-somebody-else") if os.listdir(f"{place}/{name}")]
        beside = sorted(set(os.listdir(place)) - {"layer", "outside", "layer-of-somebody-else"})
        inside = sorted(set(os.listdir(layer)) - {"a", "in", "out", "root", "beside", "new"})

    def shown(path: str) -> str:
        return path.replace(layer + "/", "layer/").replace(place + "/", "")

    expect(not changed, saw=f"something new was made in {', '.join(changed)}, outside of the layer", wanted="nothing")
    expect(not beside, saw=f"{', '.join(beside)} was made beside the layer", wanted="nothing")
    for inner, where in INSIDE.items():
        expect(
            seen[inner] == f"{layer}/{where}",
            saw=f"for {inner} you have opened {shown(seen[inner])}"
            if "/" in seen[inner]
            else f"for {inner}, which is layer/{where}, you raise {seen[inner]}",
            wanted=f"layer/{where}",
        )
    for name in OUTSIDE:
        expect(
            "/" not in seen[name],
            saw=f"for {name} you have opened {shown(seen[name])}",
            wanted="OSError: this name leaves the layer",
        )
    expect(not inside, saw=f"{', '.join(inside)} was made in the layer for a name that leaves it", wanted="nothing")
    return f"{len(INSIDE)} names opened what they mean, {len(OUTSIDE)} that leave were refused, and nothing was touched"


# ------------------------------------------------------------------------------------- which layer a file comes from

GONE, EMPTIED, LINKED = "a whiteout", "opaque", "a link"
LAYERS: tuple[dict[str, str | None], ...] = (
    dict.fromkeys(("etc/host", "etc/passwd", "opt/tool/bin", "opt/tool/lib", "optional", "srv/www/a", "srv/www/b"))
    | dict.fromkeys(("cache/one", "cache/deep/two", "again", "was/folder/x", "now", "usr/lib/c", "usr/gone"))
    | {"lib": LINKED},
    {"etc/host": None, "opt": GONE, "again": GONE, "cache": EMPTIED, "cache/three": None, "usr/gone": GONE},
    {"again": None, "was/folder": None, "now/a/folder": None, "srv/www/c": None, "lib": LINKED},
    {"was": GONE, "srv/www/b": GONE, "opt/new": None},
)
"""From the base up: each name, and None for a file. A file has its layer's number in it, a link leads to it."""


@lab.exercise("which layer a file comes from")
def origins(answer: Callable[[list[str]], dict[str, int]]) -> str:
    """Stacks of layers that hide each other's files; the kernel puts each stack together and is read."""
    with tempfile.TemporaryDirectory(prefix="minicontainer-lab-", dir="/var/tmp") as place:
        directories = [f"{place}/{number}" for number in range(len(LAYERS))]
        for number, (directory, names) in enumerate(zip(directories, LAYERS, strict=True)):
            for name, kind in names.items():
                _make(f"{directory}/{name}", kind, str(number))
        os.mkdir(f"{place}/merged")
        stacks = [directories[:height] for height in range(1, len(LAYERS) + 1)]
        truth = []
        for stack in stacks:
            if len(stack) == 1:
                truth.append(_contents(stack[0]))  # overlayfs wants two at least, and here is nothing to be hidden
                continue
            with overlayfs.mounted(stack, None, f"{place}/merged") as merged:
                truth.append(_contents(merged))
        seen = attempt(lambda: [answer(list(stack)) for stack in stacks], answer).value
    for stack, got, right in zip(stacks, seen, truth, strict=True):
        what = f"of {len(stack)} layers" if len(stack) > 1 else "of one layer"
        expect(
            isinstance(got, dict), saw=f"you return {str(got)[:60]}", wanted="a dictionary: path → number of a layer"
        )
        for path, number in sorted(right.items()):
            yours = f"layer {got[path]}" if path in got else "nowhere"
            expect(
                got.get(path) == number,
                saw=f"{what}, a container reads {path} from layer {number}, and you have it from {yours}",
                wanted=f"{path} from where the container has it",
            )
        for path, number in sorted(got.items()):
            expect(
                path in right,
                saw=f"{what}, a container finds no file {path}, and you have one from layer {number}",
                wanted="files that a container can open",
            )
    return f"{len(stacks)} stacks, {sum(map(len, truth))} files: each from the layer that the kernel reads it from"


def _make(path: str, kind: str | None, number: str) -> None:
    if kind == EMPTIED:
        os.makedirs(path)
        make_opaque(path)
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if kind == GONE:
        make_whiteout(path)
    elif kind == LINKED:
        os.makedirs(f"{path}-{number}")
        os.symlink(f"lib-{number}", path)
    else:
        with open(path, "w") as file:
            file.write(number)


def _contents(directory: str) -> dict[str, int]:
    """What the kernel shows below a directory: each file and link by the number that is in it."""
    found = {}
    for place, folders, files in os.walk(directory):
        for name in files + [name for name in folders if os.path.islink(f"{place}/{name}")]:
            path = f"{place}/{name}"
            if os.path.islink(path):
                text = os.readlink(path).rpartition("-")[2]
            else:
                with open(path) as file:
                    text = file.read()
            found[os.path.relpath(path, directory)] = int(text)
    return found


# --------------------------------------------------------------------------------------------- unpack, in the engine


@lab.exercise("unpack, in the engine")
def unpack(answer: Callable[[Source, str], str]) -> str:
    """A pull whose layers the answer unpacks, a container of what it has made, and then the module's own tests."""
    with TinyRegistry() as registry, data_root() as root:
        with open(BUSYBOX, "rb") as file:
            busybox = file.read()
        base = pack(
            ("bin/busybox", busybox, 0o755),
            *((f"bin/{name}", "busybox") for name in ("sh", "cat", "ls", "stat")),
            ("opt/",),
            ("opt/secret", SECRET.encode()),
            ("opt/kept", b"kept"),
            ("old/file", b"old"),
            ("srv/mail", b"mail", 0o640, 33),
        )
        change = pack(
            ("opt/.wh.secret", b""),
            ("old/.wh..wh..opq", b""),
            ("old/new", b"new"),
            ("deep/er/file", b"deep"),
            zeros=1 << 20,
        )
        name = offer(registry, "lab", [base, change])
        attempt(lambda: _pull(name, root, answer), answer)
        image = Image(Store(root), Store(root).find(name))
        script = "cat /opt/* /old/* /deep/er/*; ls /opt /old; stat -c '%a %u' /srv/mail /bin/busybox"
        said = image.container(["/bin/sh", "-c", script], env={"PATH": "/bin"}).output(timeout=30).split("\n")
    expect(
        SECRET not in said[0],
        saw="a container of the image reads the file that the second layer deletes",
        wanted="it is gone",
    )
    expect(
        "old" not in said[0].replace("/old", ""),
        saw="old/file of the layer below is seen through the opaque directory",
        wanted="only what the upper layer has",
    )
    wanted = ["keptnewdeep/old:", "new", "", "/opt:", "kept", "640 33", "755 0", ""]
    expect(said == wanted, saw=f"a container of the image says {said}", wanted=str(wanted))
    return module_tests(as_ours(answer), "minicontainer.images.unpack:unpack", "test_unpack.py")


def _pull(name: str, root: str, answer: Callable[[Source, str], str]) -> None:
    """A pull in this one process, with the answer in place of our unpacker: workers would be other processes."""
    os.environ["MINICONTAINER_DATA_ROOT"] = root

    def here(jobs: list[dict[str, Any]], report: Callable[[dict[str, Any]], None]) -> None:
        known: dict[str, Any] = {}
        for fields in jobs:
            job = fetching.Job(fields)
            fetching.fetch(job, fetching._registry(job, known), lambda status, current: None)
            report({"number": job.number, "status": "done"})

    vars(fetching)["unpack"] = as_ours(answer)
    workers.run = here
    images.pull(name, progress=lambda event: None)


def as_ours(answer: Callable[[Source, str], str]) -> Callable[..., Unpacked]:
    """The answer with the signature, the errors and the tidiness that the engine expects."""

    def unpack(stream: Source, directory: str, *, limits: Limits | None = None) -> Unpacked:
        counted = Counted(stream)
        try:
            return Unpacked(answer(counted, directory), counted.size, 0)
        except BaseException as error:
            shutil.rmtree(directory, ignore_errors=True)
            if isinstance(error, OSError | ValueError | tarfile.TarError):
                raise ImageError(f"{type(error).__name__}: {error}") from error
            raise

    return unpack


class Counted:
    """A stream that counts what is read of it."""

    def __init__(self, stream: Source) -> None:
        self.stream, self.size = stream, 0

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; none at the end."""
        data = self.stream.read(size)
        self.size += len(data)
        return data


# --------------------------------------------------------------------------------------------------------- for all


@contextmanager
def data_root() -> Iterator[str]:
    """A store of the check's own."""
    before = os.environ.get("MINICONTAINER_DATA_ROOT")
    with tempfile.TemporaryDirectory(prefix="minicontainer-lab-", dir="/var/tmp") as root:
        os.chmod(root, 0o755)
        os.environ["MINICONTAINER_DATA_ROOT"] = root
        try:
            yield root
        finally:
            del os.environ["MINICONTAINER_DATA_ROOT"]
            if before is not None:
                os.environ["MINICONTAINER_DATA_ROOT"] = before


def pack(*entries: tuple[Any, ...], zeros: int = 0) -> bytes:
    """A layer: (name, content[, mode[, owner]]) is a file, (name, target) a symbolic link, ("name/",) a directory."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, *rest in entries:
            info = tarfile.TarInfo(name.rstrip("/"))
            content = rest[0] if rest and isinstance(rest[0], bytes) else b""
            if not rest:
                info.type, info.mode = tarfile.DIRTYPE, 0o755
            elif isinstance(rest[0], str):
                info.type, info.linkname = tarfile.SYMTYPE, rest[0]
            else:
                info.mode = rest[1] if len(rest) > 1 else 0o644
                info.uid = rest[2] if len(rest) > 2 else 0
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return gzip.compress(buffer.getvalue() + bytes(zeros), mtime=0)


def offer(registry: TinyRegistry, repository: str, layers: Sequence[bytes]) -> str:
    """Put an image of these layers into the registry; its name."""
    host = Platform.host()
    rootfs = {"type": "layers", "diff_ids": [digest(gzip.decompress(layer)) for layer in layers]}
    config = json.dumps({"architecture": host.architecture, "os": host.os, "rootfs": rootfs}).encode()
    for data in (config, *layers):
        registry.put(f"/v2/{repository}/blobs/{digest(data)}", "application/octet-stream", data)
    parts = {"config": descriptor(OCI_CONFIG, config), "layers": [descriptor(OCI_LAYER_GZIP, it) for it in layers]}
    document = json.dumps({"schemaVersion": 2, "mediaType": OCI_MANIFEST, **parts}).encode()
    registry.put(f"/v2/{repository}/manifests/latest", OCI_MANIFEST, document)
    return f"{registry.host}/{repository}:latest"
