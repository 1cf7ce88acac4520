"""History: the instructions that an image was built with, and the layer that each has made.

The config lists them all. Those that only changed the config (ENV, CMD) are marked `empty_layer`; the others belong to
the layers one by one, from the base up. It is what the builder says of itself: nobody checks it, and some builders say
nothing. (OCI image-spec, config.md, "history")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from minicontainer.errors import NotFoundError
from minicontainer.images.image import Image
from minicontainer.images.store import Store
from minicontainer.images.trees import content

if TYPE_CHECKING:
    from minicontainer.images.manifest import Descriptor


class Step:
    """One instruction: `created_by` what was executed, `created` when (RFC 3339), both as the builder says.

    `layer` is the descriptor of the layer that it made, `number` which one that is from the base up; None for one that
    changed the config only.
    """

    __slots__ = ("comment", "created", "created_by", "layer", "number", "path")

    def __init__(self, said: Any, layer: Descriptor | None, number: int | None, path: str) -> None:
        words = said if isinstance(said, dict) else {}
        self.created, self.created_by, self.comment = (
            value if isinstance(value := words.get(key), str) else "" for key in ("created", "created_by", "comment")
        )
        self.layer, self.number, self.path = layer, number, path

    @property
    def size(self) -> int:
        """Bytes of the files in its layer, unpacked: what Docker shows. They are counted when this is asked for."""
        return content(self.path) if self.path else 0

    @property
    def instruction(self) -> str:
        """The Dockerfile's line, without what builders put around it."""
        text = self.created_by.removesuffix(" # buildkit").strip()
        for shell in ("/bin/sh -c #(nop) ", "|0 /bin/sh -c ", "/bin/sh -c "):
            if text.startswith(shell):
                return text.removeprefix(shell).strip() if "nop" in shell else f"RUN {text.removeprefix(shell)}"
        return text

    def __repr__(self) -> str:
        return f"<Step {self.number if self.number is not None else '-'} {self.instruction:.60}>"


def history(name: str) -> list[Step]:
    """The steps of an image, the first first (`docker history` has the last first). Raises NotFoundError."""
    store = Store()
    return steps(Image(store, store.find(name)))


def steps(image: Image) -> list[Step]:
    """The same for an image that is at hand. A layer of which the history knows nothing has a step without words."""
    told = image.config.raw.get("history")
    paths = image.layers
    found, number = [], 0
    for said in told if isinstance(told, list) else []:
        empty = isinstance(said, dict) and said.get("empty_layer") is True
        if empty or number == len(paths):
            found.append(Step(said, None, None, ""))
        else:
            found.append(Step(said, image.manifest.layers[number], number, paths[number]))
            number += 1
    found += [Step(None, image.manifest.layers[left], left, paths[left]) for left in range(number, len(paths))]
    return found


def step_of(image: Image, layer: int) -> Step:
    """The step that made a layer, counted from the base. Raises NotFoundError."""
    for step in steps(image):
        if step.number == layer:
            return step
    raise NotFoundError(f"the image has no layer {layer}", hint=f"it has {len(image.manifest.layers)}, from 0 on")
