"""Chapter 05: a copy of everything that costs nothing until something is written.

A hundred containers of one image share its layers, and each may write wherever it likes. The kernel's answer is
overlayfs: a stack of read-only directories with a writable one on top, shown as one tree.

    Overlay       the part: Container(argv, …, Overlay(layers), …)
    mounted       an overlay on a directory, without any container
    diff          what was added, changed, deleted
    commit        that, as a layer: a tar archive the same everywhere
    copy_up       what the first write to a file costs

Where layers come from is chapter 07's matter.
"""

from minicontainer.overlayfs.changes import Change, diff
from minicontainer.overlayfs.copyup import CopyUp, copy_up
from minicontainer.overlayfs.layer import Layer, commit
from minicontainer.overlayfs.mounts import MAX_LAYERS, Options, mount, mounted, unmount
from minicontainer.overlayfs.overlay import Overlay

__all__ = [
    "MAX_LAYERS",
    "Change",
    "CopyUp",
    "Layer",
    "Options",
    "Overlay",
    "commit",
    "copy_up",
    "diff",
    "mount",
    "mounted",
    "unmount",
]
