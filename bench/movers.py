"""Who moves images: ours, docker, podman, skopeo with umoci, and a shell pipeline; each verb is timed by its caller."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from typing import TYPE_CHECKING

from bench import ground, measure, peers

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.peers import Engine
    from bench.registry import Made

LOOK = "find /data -type f | wc -l; find /data -type f -exec cat {} + | wc -c"
PIPELINE = "curl | gzip -d | tar"


class Mover:
    """Verbs return the seconds that they took. `look` says what of an image is unpacked, as (files, bytes)."""

    name: str

    def pull(self, made: Made, *, base: bool = False) -> float:
        """Fetch and unpack the image; or the one of all layers but its last."""
        raise NotImplementedError

    def push(self, made: Made, target: str) -> float:
        """Send the image to another registry, under the name `target`."""
        raise NotImplementedError

    def save(self, made: Made, path: str) -> float:
        """Write it into an archive that `docker load` reads."""
        raise NotImplementedError

    def load(self, made: Made, path: str) -> float:
        """Read such an archive, and unpack."""
        raise NotImplementedError

    def look(self, made: Made) -> tuple[int, int]:
        raise NotImplementedError

    def forget(self) -> None:
        """Remove all images and what they were unpacked to."""
        raise NotImplementedError


class Ours(Mover):
    """The command `minicontainer`."""

    name = "minicontainer"

    def __init__(self) -> None:
        self.argv = ground.command()

    def pull(self, made: Made, *, base: bool = False) -> float:
        return self._timed("pull", "--quiet", made.base if base else made.reference)

    def push(self, made: Made, target: str) -> float:
        self._timed("tag", made.reference, target)
        return self._timed("push", target)

    def save(self, made: Made, path: str) -> float:
        return self._timed("save", "-o", path, made.reference)

    def load(self, made: Made, path: str) -> float:
        return self._timed("load", "--quiet", "-i", path)

    def look(self, made: Made) -> tuple[int, int]:
        argv = [*self.argv, "run", "--rm", "--network", "none", made.reference, "/bin/sh", "-c", LOOK]
        return _numbers(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)

    def forget(self) -> None:
        self._timed("image", "prune", "--all")

    def _timed(self, *words: str) -> float:
        return timed([*self.argv, *words])


class Peer(Mover):
    """docker or podman."""

    def __init__(self, engine: Engine) -> None:
        self.name, self.engine = engine.name, engine
        self.insecure = ["--tls-verify=false"] if engine.name == "podman" else []

    def pull(self, made: Made, *, base: bool = False) -> float:
        return self.engine.once("pull", "--quiet", *self.insecure, made.base if base else made.reference)

    def push(self, made: Made, target: str) -> float:
        self.engine.ask("tag", made.reference, target)
        return self.engine.once("push", "--quiet", *self.insecure, target)

    def save(self, made: Made, path: str) -> float:
        quiet = ["--quiet"] if self.name == "podman" else []
        return self.engine.once("save", *quiet, "-o", path, made.reference)

    def load(self, made: Made, path: str) -> float:
        return self.engine.once("load", "--quiet", "-i", path)

    def look(self, made: Made) -> tuple[int, int]:
        return _numbers(self.engine.ask("run", "--rm", "--network", "none", made.reference, "/bin/sh", "-c", LOOK))

    def forget(self) -> None:
        self.engine.ask("image", "prune", "--all", "--force")


class Skopeo(Mover):
    """skopeo moves blobs into a layout, umoci unpacks them into one tree."""

    name = "skopeo, then umoci"

    def __init__(self, directory: str) -> None:
        self.directory = directory

    def pull(self, made: Made, *, base: bool = False) -> float:
        os.makedirs(self.directory, exist_ok=True)
        source = f"docker://{made.base if base else made.reference}"
        return self._copy("--src-tls-verify=false", source, self._layout(base)) + self._unpack(base)

    def push(self, made: Made, target: str) -> float:
        return self._copy("--dest-tls-verify=false", self._layout(), f"docker://{target}")

    def save(self, made: Made, path: str) -> float:
        return self._copy(self._layout(), f"docker-archive:{path}:{made.reference}")

    def load(self, made: Made, path: str) -> float:
        os.makedirs(self.directory, exist_ok=True)
        return self._copy(f"docker-archive:{path}", self._layout()) + self._unpack()

    def look(self, made: Made) -> tuple[int, int]:
        return count(f"{self.directory}/latest/rootfs/data")

    def forget(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)

    def _layout(self, base: bool = False) -> str:
        return f"oci:{self.directory}/oci:{'base' if base else 'latest'}"

    def _copy(self, *words: str) -> float:
        return timed(["skopeo", "copy", "--quiet", *words])

    def _unpack(self, base: bool = False) -> float:
        name = "base" if base else "latest"
        image = ["--image", f"{self.directory}/oci:{name}", f"{self.directory}/{name}"]
        return timed(["umoci", "--log", "error", "unpack", *image])


class Pipeline(Mover):
    """One layer after the other, with the tools that every system has. It can only fetch."""

    name = PIPELINE

    def __init__(self, directory: str) -> None:
        self.directory = directory

    def pull(self, made: Made, *, base: bool = False) -> float:
        there = os.path.isdir(self.directory)
        os.makedirs(self.directory, exist_ok=True)
        urls = made.layers[:-1] if base else made.layers[-1:] if there else made.layers
        steps = [
            f"curl --silent --fail {shlex.quote(url)} | gzip -d | tar -x -C {shlex.quote(self.directory)}"
            for url in urls
        ]
        return timed(["/bin/bash", "-c", "set -e -o pipefail; " + "; ".join(steps)])

    def look(self, made: Made) -> tuple[int, int]:
        return count(f"{self.directory}/data")

    def forget(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)


def movers(directory: str, engines: list[Engine]) -> list[Mover]:
    """Ours, and those of the others that are installed; the pipeline last."""
    found: list[Mover] = [Ours(), *map(Peer, engines)]
    if peers.there("skopeo") and peers.there("umoci"):
        found.append(Skopeo(f"{directory}/skopeo"))
    if peers.there("curl"):
        found.append(Pipeline(f"{directory}/pipeline"))
    return found


def checked(mover: Mover, made: Made) -> None:
    """Raises Failed unless the image is unpacked whole."""
    if (found := mover.look(made)) != (made.files, made.content):
        raise measure.Failed(f"{mover.name} unpacked {found}, not {(made.files, made.content)}")


def timed(argv: list[str]) -> float:
    """Seconds that a command takes; what it prints is dropped."""
    with open(os.devnull, "wb") as null:
        return measure.command(argv, output=null.fileno())


def count(directory: str) -> tuple[int, int]:
    """Files below a directory, and the bytes in them."""
    files = content = 0
    for inner, _, names in os.walk(directory):
        paths = [f"{inner}/{name}" for name in names if not os.path.islink(f"{inner}/{name}")]
        files += len(paths)
        content += sum(os.path.getsize(path) for path in paths)
    return files, content


def settled(work: Callable[[], float]) -> float:
    """What `work` takes when nothing of others is left to be written: that must not be paid by this one."""
    os.sync()
    return work()


def _numbers(text: str) -> tuple[int, int]:
    files, content = (int(word) for word in text.split())
    return files, content
