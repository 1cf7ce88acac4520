#!/usr/bin/env python3
"""The course's images, made on this machine and pushed into a registry: no lesson waits for the Internet.

    busybox    Debian's static busybox, with a link for each of its commands: one layer, one megabyte
    web        busybox and a page, served by its httpd on port 80: ENTRYPOINT, CMD, ENV, WORKDIR, USER at work
    debian     a minimal Debian with apt, by mmdebstrap
    gallery    busybox and seven more layers of very different sizes: large files, many small ones, text, a whiteout

    usage: tools/course_images.py [HOST:PORT]        (localhost:5000 unless given)

They are built with our own `import` and `push`, in a data root of their own, `.registry/build`: a learner's `pull` has
something to do. An image that is in the registry already, made by the same recipe, is not made again.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import random
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

from minicontainer.errors import ContainerError, NotFoundError
from minicontainer.images import import_, push
from minicontainer.images.reference import Reference
from minicontainer.images.registry import Registry

HERE = Path(__file__).resolve().parent.parent
STATE = HERE / ".registry"
STAMPS = STATE / "images.json"
BUSYBOX = "/bin/busybox"
SUITE = platform.freedesktop_os_release().get("VERSION_CODENAME", "stable")

PASSWD = """\
root:x:0:0:root:/root:/bin/sh
www-data:x:33:33:www-data:/srv/www:/bin/sh
learner:x:1000:1000:learner:/home/learner:/bin/sh
nobody:x:65534:65534:nobody:/:/bin/false
"""
GROUP = """\
root:x:0:
www-data:x:33:
learner:x:1000:
nogroup:x:65534:
"""
PAGE = """\
<!doctype html>
<title>minicontainer</title>
<h1>It works</h1>
<p>This page comes out of a container.</p>
"""
EXCLUDED = ("/usr/share/man/*", "/usr/share/doc/*", "/usr/share/info/*", "/usr/share/locale/*")


def busybox(directory: Path, image: str) -> None:
    """One static program that is two hundred commands."""
    for name in ("bin", "etc", "tmp", "root", "home/learner", "srv", "var/tmp"):
        (directory / name).mkdir(parents=True)
    for name in ("tmp", "var/tmp"):
        (directory / name).chmod(0o1777)
    (directory / "root").chmod(0o700)
    os.chown(directory / "home/learner", 1000, 1000)
    shutil.copy(BUSYBOX, directory / "bin/busybox")
    applets = subprocess.run([BUSYBOX, "--list"], check=True, capture_output=True, text=True).stdout.split()
    for applet in applets:
        if applet != "busybox":
            (directory / "bin" / applet).symlink_to("busybox")
    (directory / "etc/passwd").write_text(PASSWD)
    (directory / "etc/group").write_text(GROUP)
    import_(str(directory), image, cmd=["sh"], source_date_epoch=0)


def web(directory: Path, image: str) -> None:
    """One more layer on busybox. Nothing in it is root: a container's low ports are open to every user of its own."""
    (directory / "srv/www").mkdir(parents=True)
    (directory / "srv/www/index.html").write_text(PAGE)
    import_(
        str(directory),
        image,
        base=image.replace("/web:", "/busybox:"),
        entrypoint=["httpd", "-f"],
        cmd=["-p", "80"],
        env={"SERVED_BY": "busybox httpd"},
        working_dir="/srv/www",
        user="www-data",
        ports=["80/tcp"],
        source_date_epoch=0,
    )


def gallery(directory: Path, image: str) -> None:
    """What a Dockerfile with a line for each thing would make: the base, seven layers, and a server of it all."""
    noise = random.Random(7)  # the same image on every machine
    words = [noise.randbytes(4).hex().encode() for _ in range(1000)]
    cache = directory / "cache/var/cache"

    def photos(year: str, megabytes: int) -> None:
        for number in range(1, 3):
            write(directory / f"photos-{year}/srv/gallery/{year}-{number}.jpg", noise.randbytes(megabytes << 19))

    write(directory / "catalogue/srv/catalogue.txt", b" ".join(noise.choices(words, k=1_200_000)))
    for number in range(1000):
        write(directory / f"icons/srv/icons/{number:04}.svg", b" ".join(noise.choices(words, k=60)))
    photos("2023", 6)
    photos("2024", 9)
    photos("2025", 12)
    write(cache / "thumbnails", noise.randbytes(8 << 20))
    (directory / "remove-cache/var/cache").mkdir(parents=True)
    os.mknod(directory / "remove-cache/var/cache/thumbnails", stat.S_IFCHR)  # deleted: a whiteout, chapter 05
    write(directory / "page/srv/gallery/index.html", PAGE.encode())

    base = image.replace("/gallery:", "/busybox:")
    for name in ("catalogue", "icons", "photos-2023", "photos-2024", "photos-2025", "cache", "remove-cache"):
        import_(str(directory / name), image, base=base, source_date_epoch=0)
        base = image
    import_(
        str(directory / "page"),
        image,
        base=image,
        entrypoint=["httpd", "-f"],
        cmd=["-p", "80"],
        env={"PATH": "/bin", "GALLERY": "minicontainer"},
        working_dir="/srv/gallery",
        user="www-data",
        ports=["80/tcp"],
        labels={"org.opencontainers.image.title": "gallery"},
        source_date_epoch=0,
    )


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def debian(directory: Path, image: str) -> None:
    """A real distribution. The packages come from the mirror that apt uses here.

    Without devices: every container has a /dev of its own, and in a user namespace not even root could unpack them.
    """
    archive = directory.with_suffix(".tar")
    options = [f"--dpkgopt=path-exclude={pattern}" for pattern in EXCLUDED]
    command = ["mmdebstrap", "--variant=minbase", "--mode=root", "--skip=output/dev", *options, SUITE, str(archive)]
    made = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "SOURCE_DATE_EPOCH": "0"})
    if made.returncode:
        raise ContainerError(
            f"mmdebstrap failed: {made.stderr.strip()[-1000:]}",
            hint="this step needs a Debian mirror: try again online",
        )
    import_(str(archive), image, cmd=["bash"], source_date_epoch=0)


RECIPES = (busybox, web, gallery, debian)


def main() -> int:
    registry = sys.argv[1] if len(sys.argv) > 1 else "localhost:5000"
    os.environ["MINICONTAINER_DATA_ROOT"] = str(STATE / "build")
    STATE.mkdir(exist_ok=True)
    recipe = hashlib.sha256(Path(__file__).read_bytes() + Path(BUSYBOX).read_bytes() + SUITE.encode()).hexdigest()
    stamps = json.loads(STAMPS.read_text()) if STAMPS.exists() else {}
    for make in RECIPES:
        name = f"{registry}/{make.__name__}:latest"
        stamp = stamps.get(name, {})
        if stamp.get("recipe") == recipe and has(name, stamp["digest"]):
            continue
        print(f"== making {name}", flush=True)
        with tempfile.TemporaryDirectory(dir=STATE, prefix="making-") as directory:
            make(Path(directory) / make.__name__, name)
        stamps[name] = {"recipe": recipe, "digest": push(name)}
        STAMPS.write_text(json.dumps(stamps, indent=1))
    return 0


def has(name: str, digest: str) -> bool:
    """Whether the registry's image of that name is still this one."""
    reference = Reference.parse(name)
    with Registry(reference) as registry:
        try:
            return registry.manifest(reference.target)[2] == digest
        except NotFoundError:
            return False


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ContainerError as error:
        sys.exit(f"!! {error}")
