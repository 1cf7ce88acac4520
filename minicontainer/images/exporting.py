"""Export: the files of a container as one tar archive, as it sees them; its image's layers and names are left behind.

A container's root is in many directories: the layers of its image and its own changes. Put together once more by the
kernel, read-only and mounted nowhere, they are read as one tree. So it matters not whether the container runs, has
ended, or was killed. What other filesystems show in it (/proc, /dev, volumes) is not in there, only the directories
and files that they are mounted on: as `docker export` does it.

The way back is `import_`: the same files, as an image of one layer. While a container runs it may change its files; a
file that has gone when its turn comes is left out.
"""

from __future__ import annotations

import io
import os
from typing import IO, TYPE_CHECKING

from minicontainer.errors import NotFoundError
from minicontainer.images.compression import CHUNK
from minicontainer.images.saving import write_whole
from minicontainer.images.store import host_error
from minicontainer.overlayfs import Options, commit
from minicontainer.overlayfs.mounts import detached

if TYPE_CHECKING:
    from collections.abc import Sequence


def export(layers: Sequence[str], upper: str, output: str | IO[bytes]) -> None:
    """Write the tree of `layers` (the base first) with the changes in `upper` (`Overlay.upperdir`) above them, as tar.

    `output` is a path, where the archive appears when it is whole, or a file that is open for writing. Owners, modes,
    times to the nanosecond, attributes, links and devices are in it, holes are zeros, sockets are not. Raises
    NotFoundError when a layer is not here any more, HostError.
    """
    for path in (*layers, upper):
        if not os.path.isdir(path):
            raise NotFoundError(f"{path} is gone, and with it files of the container", hint="pull its image again")
    # Options as they may have been in the container: what its changes refer to is followed.
    tree = detached([*layers, upper], None, Options(metacopy=True, redirect_dir="on"))
    try:
        place = f"/proc/self/fd/{tree}/."
        if isinstance(output, str):
            write_whole(output, lambda file: _write(place, file))
        else:
            _write(place, output)
    except OSError as error:
        raise host_error(error, str(getattr(output, "name", output))) from error
    finally:
        os.close(tree)


def _write(place: str, file: IO[bytes]) -> None:
    buffered = io.BufferedWriter(file, CHUNK)
    commit(place, buffered)
    buffered.flush()
    buffered.detach()
