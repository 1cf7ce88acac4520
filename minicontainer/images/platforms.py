"""What an image runs on: `linux/amd64`, `linux/arm/v7`, in Go's names.

A processor's family grows: what was made for an older member (a lower *variant*) runs on a newer one, never the other
way round. So a platform accepts its own variant and all below, and prefers the highest of them. Which one is meant when
none is named is a matter of custom: amd64 is v1, arm64 is v8, arm is v7. Another architecture is never taken instead,
even where the kernel would run it. (OCI image-spec, image-index.md; github.com/containerd/platforms)
"""

from __future__ import annotations

import os

from minicontainer.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

_ARCHITECTURES = {
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "aarch64": ("arm64", ""),
    "armhf": ("arm", "v7"),
    "armv7l": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "armv6l": ("arm", "v6"),
    "i386": ("386", ""),
    "i686": ("386", ""),
}
"""What others call them, the kernel and Debian among them."""

_VARIANTS = {"amd64": ("v1", "v2", "v3", "v4"), "arm64": ("v8", "v9"), "arm": ("v5", "v6", "v7", "v8")}
"""The members of a family, the oldest first."""

_USUAL = {"amd64": "v1", "arm64": "v8", "arm": "v7"}
"""The one that is meant when none is named."""


class Platform:
    """An operating system, an architecture, and a variant of it ("" where none is named)."""

    __slots__ = ("architecture", "os", "variant")

    def __init__(self, os: str, architecture: str, variant: str = "") -> None:
        self.os, self.architecture, self.variant = os, architecture, variant

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `[os/]architecture[/variant]`; Linux unless said otherwise. Raises UsageError."""
        words = text.split("/")
        if len(words) == 1:
            words.insert(0, "linux")
        if not 2 <= len(words) <= 3 or not all(words):
            raise UsageError(f"{text!r} is no platform", hint="a platform is OS/ARCHITECTURE: linux/arm64")
        architecture, variant = _ARCHITECTURES.get(words[1].lower(), (words[1].lower(), ""))
        return cls(words[0].lower(), architecture, words[2].lower() if words[2:] else variant)

    @classmethod
    def host(cls) -> Self:
        """This machine's."""
        return cls.parse(f"linux/{os.uname().machine}")

    def accepts(self, other: Platform) -> bool:
        """Whether an image for `other` runs here."""
        return self.rank(other) >= 0

    def rank(self, other: Platform) -> int:
        """How well an image for `other` suits: the higher the better, -1 if it does not run here."""
        if (self.os, self.architecture) != (other.os, other.architecture):
            return -1
        family = _VARIANTS.get(self.architecture, ())
        usual = _USUAL.get(self.architecture, "")
        ours, theirs = self.variant or usual, other.variant or usual
        if ours == theirs:
            return len(family)
        if ours in family and theirs in family and family.index(theirs) < family.index(ours):
            return family.index(theirs)
        return -1

    def __str__(self) -> str:
        return f"{self.os}/{self.architecture}" + (f"/{self.variant}" if self.variant else "")
