"""Commands on images: pull, push, images, rmi, tag, import, inspect."""

from __future__ import annotations

import json
import sys
import time

from minicontainer import images
from minicontainer.cli import entries
from minicontainer.cli.table import age, size, table
from minicontainer.errors import NotFoundError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from minicontainer.images.image import Image


def _pull_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--platform", metavar="OS/ARCH", help="linux/arm64, say (this machine's)")
    parser.add_argument("-q", "--quiet", action="store_true", help="only the image's name at the end")
    parser.add_argument("-a", "--all-tags", action="store_true", help="every tag of the repository IMAGE")
    parser.add_argument("image", metavar="IMAGE", help="[HOST[:PORT]/]NAME[:TAG|@DIGEST]; Docker Hub's without a host")


def _pull(arguments: argparse.Namespace) -> int:
    progress = (lambda event: None) if arguments.quiet else None
    how: dict[str, Any] = {"platform": arguments.platform or "", "progress": progress, "notice": _notice}
    pulled = images.pull_all(arguments.image, **how) if arguments.all_tags else [images.pull(arguments.image, **how)]
    for image in pulled:
        print(f"{image.name}@{image.digest}")
    return 0


def _notice(line: str) -> None:
    print(f"note: {line}", file=sys.stderr)


def _push_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-q", "--quiet", action="store_true", help="no bars, only the digest at the end")
    parser.add_argument("image", metavar="IMAGE", help="its name says where to: `tag` gives it one")


def _push(arguments: argparse.Namespace) -> int:
    print(images.push(arguments.image, progress=(lambda event: None) if arguments.quiet else None))
    return 0


def _images_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-q", "--quiet", action="store_true", help="only their ids")


def _images(arguments: argparse.Namespace) -> int:
    found = images.images()
    if arguments.quiet:
        for image in found:
            print(image.id[7:19])
        return 0
    rows = [("IMAGE", "ID", "CREATED", "LAYERS", "SIZE")]
    for image in found:
        rows.append(
            (image.name or "<none>", image.id[7:19], _created(image), str(len(image.manifest.layers)), size(image.size))
        )
    print(table(rows))
    return 0


def _created(image: Image) -> str:
    from datetime import datetime

    text = image.config.raw.get("created")
    try:
        made = datetime.fromisoformat(str(text)).timestamp()
    except ValueError:  # none, or none that is a time: the image says it of itself
        return "-"
    return f"{age(time.time() - made)} ago" if made > 0 else "-"  # reproducible images are made in 1970


def _rmi_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="a name, or the beginning of an id")


def _rmi(arguments: argparse.Namespace) -> int:
    for image in arguments.images:
        print("\n".join(images.remove(image)))
    return 0


def _tag_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE", help="a name, or the beginning of an id")
    parser.add_argument("name", metavar="NAME", help="[HOST[:PORT]/]NAME[:TAG]")


def _tag(arguments: argparse.Namespace) -> int:
    images.tag(arguments.image, arguments.name)
    return 0


def _import_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", help="a directory, a tar archive, or - for standard input")
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("--cmd", metavar="JSON", help="the command it runs: '[\"/bin/sh\"]'")
    parser.add_argument("--entrypoint", metavar="JSON", help="what every command is given to, as JSON")
    parser.add_argument("-e", "--env", action="append", default=[], metavar="KEY=VALUE", help="an environment variable")
    parser.add_argument("-w", "--workdir", default="", metavar="DIR", help="the directory it starts in")
    parser.add_argument("-u", "--user", default="", metavar="USER", help="the user it runs as")


def _import(arguments: argparse.Namespace) -> int:
    image = images.import_(
        "/dev/stdin" if arguments.source == "-" else arguments.source,
        arguments.name,
        cmd=_words(arguments.cmd),
        entrypoint=_words(arguments.entrypoint),
        env=dict(word.partition("=")[::2] for word in arguments.env),
        working_dir=arguments.workdir or None,
        user=arguments.user or None,
    )
    print(image.id)
    return 0


def _words(text: str | None) -> list[str] | None:
    from minicontainer.errors import UsageError

    if text is None:
        return None
    try:
        words = json.loads(text)
    except ValueError:
        words = None
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise UsageError(f"{text!r} is no JSON list of words", hint='["/bin/sh", "-c", "echo hello"]')
    return words


def _inspect_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="+", metavar="NAME", help="an image or a container")


def _inspect(arguments: argparse.Namespace) -> int:
    found: list[object] = []
    for name in arguments.names:
        try:
            found.append(entries.find(name))
        except NotFoundError:
            try:
                found.append(images.inspect(name))
            except NotFoundError as error:
                raise NotFoundError(f"no container {name} here, and {error.message}", hint=error.hint) from None
    print(json.dumps(found, indent=4, ensure_ascii=False))
    return 0


def pull_with_progress(name: str) -> Image:
    """Pull for `run`: what it says goes to standard error, the container's output is on the other."""
    image = images.pull(name, notice=_notice)
    print(f"pulled {image.name}@{image.digest}", file=sys.stderr)
    return image


COMMANDS = {
    "pull": (_pull_arguments, _pull),
    "push": (_push_arguments, _push),
    "images": (_images_arguments, _images),
    "rmi": (_rmi_arguments, _rmi),
    "tag": (_tag_arguments, _tag),
    "import": (_import_arguments, _import),
    "inspect": (_inspect_arguments, _inspect),
}
