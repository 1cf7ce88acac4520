"""buildah as a maker and as a judge: what it builds is pulled here, what is pushed from here it unpacks."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from stores import grow, told

from minicontainer.images import Image, history, inspect, pull, push

if TYPE_CHECKING:
    from collections.abc import Callable

    Ask = Callable[..., str]

DOCKERFILE = """
FROM scratch
COPY bin /bin
COPY gone kept /data/
RUN ["/bin/busybox", "rm", "/data/gone"]
RUN ["/bin/busybox", "chmod", "4711", "/data/kept"]
ENV GREETING="good day"
LABEL made.by=buildah
EXPOSE 80/tcp
USER 7:8
WORKDIR /data
ENTRYPOINT ["/bin/busybox"]
CMD ["echo", "hello"]
"""


@pytest.fixture
def buildah(home: str) -> Ask:
    """Asks buildah, with a storage of the test's own."""
    if not shutil.which("buildah"):
        pytest.skip("buildah is not here (apt-get install --no-install-recommends buildah)")
    os.makedirs(f"{home}/docker")
    with open(f"{home}/docker/config.json", "w") as file:
        file.write("{}")  # it wants the file to be there
    place = ["--root", f"{home}/buildah/root", "--runroot", f"{home}/buildah/run", "--storage-driver", "vfs"]
    return lambda *words: told("buildah", *place, *words)


def tree(top: str) -> dict[str, tuple[Any, ...]]:
    """All below a directory: kinds, modes, owners, contents."""
    found: dict[str, tuple[Any, ...]] = {}
    for inner, directories, files in os.walk(top):
        for name in (*directories, *files):
            path = f"{inner}/{name}"
            entry = os.lstat(path)
            content = b""
            if name in files and not os.path.islink(path):
                with open(path, "rb") as file:
                    content = file.read()
            found[os.path.relpath(path, top)] = (oct(entry.st_mode), entry.st_uid, entry.st_gid, content)
    return found


def seen(image: Image) -> dict[str, tuple[Any, ...]]:
    """The same, as a container sees it: the kernel puts the layers together."""
    from minicontainer.overlayfs.mounts import detached

    fd = detached(image.layers, None)
    try:
        return tree(f"/proc/self/fd/{fd}/.")
    finally:
        os.close(fd)


@pytest.mark.parametrize("form", ["oci", "docker"])
def test_what_buildah_builds_is_pulled_as_it_is(home: str, registry: str, buildah: Ask, form: str) -> None:
    context = f"{home}/context"
    os.makedirs(f"{context}/bin")
    shutil.copy("/bin/busybox", f"{context}/bin/busybox")
    for name in ("gone", "kept", "Dockerfile"):
        with open(f"{context}/{name}", "w") as file:
            file.write(DOCKERFILE if name == "Dockerfile" else name)
    name = f"{registry}/buildah:{form}"
    buildah("bud", "--layers", "--isolation", "chroot", "--format", form, "-t", name, context)
    buildah("push", "--tls-verify=false", name)
    image = pull(name)
    container = buildah("from", name).strip()
    assert seen(image) == tree(buildah("mount", container).strip())
    buildah("rm", container)

    theirs = json.loads(buildah("inspect", "--type", "image", name))["OCIv1"]
    ours = inspect(name)
    assert ours["Id"].endswith(json.loads(buildah("images", "--json", "--no-trunc"))[0]["id"].removeprefix("sha256:"))
    assert ours["RootFS"]["Layers"] == theirs["rootfs"]["diff_ids"]
    for field in ("User", "Env", "Entrypoint", "Cmd", "WorkingDir", "Labels", "ExposedPorts"):
        assert ours["Config"][field] == theirs["config"][field], field
    assert [step.created_by for step in history(name)] == [step["created_by"] for step in theirs["history"]]
    assert [step.layer is None for step in history(name)] == [
        step.get("empty_layer", False) for step in theirs["history"]
    ]


def test_what_is_pushed_from_here_buildah_unpacks(home: str, registry: str, buildah: Ask) -> None:
    name = f"{registry}/for-buildah:1"
    image = grow(home, name, {"data/gone": b"x", "data/kept": b"y"}, {"data/gone": None, "etc/new": b"z" * 70_000})
    push(name)
    container = buildah("from", "--tls-verify=false", name).strip()
    found = tree(buildah("mount", container).strip())
    buildah("rm", container)
    assert found == seen(image)
    assert "data/gone" not in found
    assert found["etc/new"][3] == b"z" * 70_000
