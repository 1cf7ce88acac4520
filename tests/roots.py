"""A root to put containers in: Debian's static busybox (one file that is sixty commands), the directories around it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from minicontainer import linux
from minicontainer.leaks.look import mountinfo

if TYPE_CHECKING:
    from collections.abc import Iterator

BUSYBOX = "/bin/busybox"
APPLETS = (
    "cat chmod chown cut df dmesg echo env false find grep head hostname id ip kill ln ls mkdir mknod mount mv nc ps "
    "pwd readlink rm seq sh sha256sum sleep sort stat stty tail tee test touch tr true tty umount uname usleep "
    "wc whoami"
)
PASSWD = """root:x:0:0:root:/root:/bin/sh
learner:x:1000:1000:a learner:/home/learner:/bin/sh
nobody:x:65534:65534:nobody:/:/bin/false
"""
GROUP = """root:x:0:
tty:x:5:
learner:x:1000:
games:x:60:learner,nobody
audio:x:63:learner
"""


def build(root: Path) -> Path:
    """Make a root at `root`, which does not exist yet."""
    for name in ("bin", "dev", "etc", "home/learner", "proc", "root", "sys", "tmp", "usr", "var"):
        (root / name).mkdir(parents=True)
    root.chmod(0o755)
    (root / "tmp").chmod(0o1777)
    shutil.copy(BUSYBOX, root / "bin/busybox")
    for applet in APPLETS.split():
        (root / "bin" / applet).symlink_to("busybox")
    (root / "etc/passwd").write_text(PASSWD)
    (root / "etc/group").write_text(GROUP)
    return root


@pytest.fixture
def shared_path() -> Iterator[Path]:
    """A directory that also root of a user namespace may walk through; pytest's own are 0700."""
    path = Path(tempfile.mkdtemp(prefix="minicontainer-test-", dir="/var/tmp"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path)


@pytest.fixture
def rootfs(shared_path: Path) -> str:
    """A fresh root of the test's own."""
    return os.fspath(build(shared_path / "rootfs"))


@pytest.fixture
def shared_root() -> Iterator[None]:
    """For the length of a test / is shared, as systemd makes it, in a mount namespace where nothing else is mounted by
    its end (but the interpreter of the runtime, which is kept)."""
    own, here = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC), os.getcwd()
    linux.unshare(linux.CLONE_NEWNS)
    try:
        linux.mount(None, "/", flags=linux.MS_REC | linux.MS_PRIVATE)
        linux.mount(None, "/", flags=linux.MS_REC | linux.MS_SHARED)
        before = Counter(mount.point for mount in mountinfo())
        yield
        left = Counter(mount.point for mount in mountinfo() if "/sealed/" not in mount.point) - before
        if left:
            pytest.fail(f"mounted where everybody sees it: {', '.join(left)}", pytrace=False)
    finally:
        linux.setns(own, linux.CLONE_NEWNS)
        os.close(own)
        os.chdir(here)
