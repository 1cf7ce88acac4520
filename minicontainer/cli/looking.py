"""Commands that look into images and at what they cost: history, image (explain, shared, check, prune), system df."""

from __future__ import annotations

import json

from minicontainer import images
from minicontainer.cli.table import plain, size, table

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse


def _history_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--no-trunc", action="store_true", help="the instructions in full")
    parser.add_argument("image", metavar="IMAGE")


def _history(arguments: argparse.Namespace) -> int:
    rows = [("LAYER", "CREATED", "CREATED BY", "SIZE", "COMMENT")]
    for step in reversed(images.history(arguments.image)):
        text = step.instruction if arguments.no_trunc or len(step.instruction) <= 60 else step.instruction[:59] + "…"
        layer = step.layer.digest[7:19] if step.layer else "-"
        rows.append((layer, step.created[:19] or "-", text, size(step.size), step.comment))
    print(table(rows))
    return 0


def _image_arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    explain = commands.add_parser("explain", help="the tree of its documents, its layers, and what of them is wasted")
    explain.add_argument("--files", action="store_true", help="each file with the layer it comes from")
    explain.add_argument("--json", action="store_true", help="all of it as data")
    explain.add_argument("image", metavar="IMAGE")
    explain.set_defaults(execute=_explain)
    shared = commands.add_parser("shared", help="what two images have in common")
    shared.add_argument("first", metavar="IMAGE")
    shared.add_argument("second", metavar="IMAGE")
    shared.set_defaults(execute=_shared)
    check = commands.add_parser("check", help="verify blobs and layers; fetch again what is damaged")
    check.add_argument("--no-repair", action="store_true", help="only say what is damaged")
    check.add_argument("images", nargs="*", metavar="IMAGE", help="all, if none is named")
    check.set_defaults(execute=_check)
    prune = commands.add_parser("prune", help="remove images without a name, and what interrupted pulls have left")
    prune.add_argument("-a", "--all", action="store_true", help="all that no container needs")
    prune.set_defaults(execute=_prune)


def _image(arguments: argparse.Namespace) -> int:
    status: int = arguments.execute(arguments)
    return status


def _explain(arguments: argparse.Namespace) -> int:
    found = images.explain(arguments.image)
    if arguments.json:
        print(json.dumps(found.json(files=arguments.files), indent=4, ensure_ascii=False))
        return 0
    print(*map(plain, found.documents.lines()), sep="\n")
    rows = [("LAYER", "TRAVELS", "FILES", "UNPACKED", "WASTED", "STEP")]
    for layer in found.layers:
        line = (layer.digest[7:19], size(layer.size), str(layer.files), size(layer.content), size(layer.wasted))
        rows.append((*line, layer.step if len(layer.step) <= 60 else layer.step[:59] + "…"))
    print(f"\n{table(rows)}")
    tree = found.tree
    print(f"\n{len(tree.files)} names, {size(tree.wasted)} wasted: {tree.efficiency:.1%} of all bytes can be seen")
    for hidden in [hidden for hidden in tree.hidden if hidden.size][:10]:
        print(f"  {size(hidden.size):>8}  {_shown(hidden.path)}: {hidden.how} by layer {hidden.by}, in {hidden.layer}")
    if arguments.files:
        print()
        for file in sorted(tree.files.values(), key=lambda file: file.path):
            print(
                f"{file.layer:>3} {file.mode:>5o} {file.uid:>5}:{file.gid:<5} {size(file.size):>8}  {_shown(file.path)}"
            )
    return 0


def _shown(path: str) -> str:
    """A name for a line of its own, whatever is in it."""
    return "/" + plain(path.encode(errors="surrogateescape").decode(errors="backslashreplace"))


def _shared(arguments: argparse.Namespace) -> int:
    found = images.shared(arguments.first, arguments.second)
    rows = [("IN COMMON", "LAYERS", "SIZE")]
    kinds = (("on the disk once", found.stored), ("sent once", found.travelled), ("the same content", found.alike))
    for what, layers in kinds:
        rows.append((what, str(len(layers)), size(sum(layer.size for layer in layers))))
    print(table(rows))
    return 0


def _check(arguments: argparse.Namespace) -> int:
    good = bad = 0
    for finding in images.check(*arguments.images, repair=not arguments.no_repair):
        if finding.status == "good":
            good += 1
            continue
        bad += finding.status == "damaged"
        digest = finding.digest.removeprefix("sha256:")[:12]
        print(f"{finding.status:<8} {finding.kind:<5} {digest}  {finding.image}: {finding.reason}", flush=True)
    print(f"{good} good" + (f", {bad} damaged" if bad else ""))
    return 1 if bad else 0


def _prune(arguments: argparse.Namespace) -> int:
    done = images.prune(all=arguments.all)
    for line in done.lines:
        print(line)
    print(f"Total reclaimed space: {size(done.freed)}")
    return 0


def _system_arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    df = commands.add_parser("df", help="what images and containers take up on the disk")
    df.add_argument("-v", "--verbose", action="store_true", help="each image, shared and unique")
    df.set_defaults(execute=_df)


def _system(arguments: argparse.Namespace) -> int:
    status: int = arguments.execute(arguments)
    return status


def _df(arguments: argparse.Namespace) -> int:
    usage = images.disk_usage()
    if arguments.verbose:
        rows = [("IMAGE", "ID", "SIZE", "SHARED", "UNIQUE", "CONTAINERS")]
        for image in usage.images:
            sizes = (size(image.size), size(image.shared), size(image.unique), str(image.containers))
            rows.append((", ".join(image.names) or "<none>", image.id[7:19], *sizes))
        print(f"{table(rows)}\n")
    active = sum(bool(image.containers) for image in usage.images)
    part = f" ({usage.reclaimable / usage.total:.0%})" if usage.total else ""
    written = sum(usage.containers.values())
    lines = [("TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE")]
    lines.append(("Images", str(len(usage.images)), str(active), size(usage.total), size(usage.reclaimable) + part))
    lines.append(("Containers", str(len(usage.containers)), "", size(written), ""))
    lines.append(("Leftovers", "", "", size(usage.leftovers), size(usage.leftovers)))
    print(table(lines))
    return 0


COMMANDS = {
    "history": (_history_arguments, _history),
    "image": (_image_arguments, _image),
    "system": (_system_arguments, _system),
}
