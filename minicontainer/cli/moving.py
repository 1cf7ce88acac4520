"""Commands that move images past a registry, or between two: save, load, copy; and a container's files: export."""

from __future__ import annotations

import sys

from minicontainer import images
from minicontainer.cli import entries
from minicontainer.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import IO


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", metavar="PATH", help="where to (standard output)")
    parser.add_argument("container", metavar="CONTAINER", help="a running one or one that has ended")


def _export(arguments: argparse.Namespace) -> int:
    entry = entries.find(arguments.container)
    upper = f"{entries.directory(entry['id'])}/upper"
    images.export(entry["layers"], upper, arguments.output or _standard_output())
    return 0


def _standard_output() -> IO[bytes]:
    if sys.stdout.isatty():
        raise UsageError("an archive is nothing for a terminal", hint="write it to a file with -o, or into a pipe")
    return sys.stdout.buffer


def _save_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", metavar="PATH", help="where to (standard output)")
    parser.add_argument(
        "--format",
        choices=("docker-archive", "oci-archive", "oci-dir"),
        default="docker-archive",
        help="what docker reads, what podman and skopeo read, or a directory (docker-archive)",
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE")


def _save(arguments: argparse.Namespace) -> int:
    images.save(arguments.images, arguments.output or _standard_output(), format=arguments.format)
    return 0


def _load_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-i", "--input", metavar="PATH", help="an archive or an OCI image layout (standard input)")
    parser.add_argument("-t", "--tag", default="", metavar="NAME", help="the name for the one image that is in there")
    parser.add_argument("--platform", default="", metavar="OS/ARCH", help="which of an index (this machine's)")
    parser.add_argument("-q", "--quiet", action="store_true", help="no bars")


def _load(arguments: argparse.Namespace) -> int:
    if not arguments.input and sys.stdin.isatty():
        raise UsageError("an archive cannot come from a terminal", hint="name a file with -i, or use a pipe")
    progress = (lambda event: None) if arguments.quiet else None
    source = arguments.input or sys.stdin.buffer
    for image in images.load(source, name=arguments.tag, platform=arguments.platform, progress=progress):
        print(f"Loaded image: {image.name}" if image.name else f"Loaded image ID: {image.id}")
    return 0


def _copy_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--platform", default="", metavar="OS/ARCH", help="this one only (all)")
    parser.add_argument("-q", "--quiet", action="store_true", help="no bars")
    parser.add_argument("source", metavar="SOURCE", help="an image in a registry")
    parser.add_argument("destination", metavar="DESTINATION", help="its name in another registry or repository")


def _copy(arguments: argparse.Namespace) -> int:
    progress = (lambda event: None) if arguments.quiet else None
    print(images.copy(arguments.source, arguments.destination, platform=arguments.platform, progress=progress))
    return 0


COMMANDS = {
    "export": (_export_arguments, _export),
    "save": (_save_arguments, _save),
    "load": (_load_arguments, _load),
    "copy": (_copy_arguments, _copy),
}
