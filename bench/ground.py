"""The ground the benchmark stands on: namespaces and directories of its own, and a root for its containers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bench import report
from minicontainer import leaks, linux
from minicontainer.network import links
from minicontainer.network.netlink import Netlink

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
APPLETS = ("true", "sh", "cat", "ls", "find", "wc", "readlink", "mount")


def isolate() -> None:
    """Move this process into a network and a mount namespace of its own, with the loopback up.

    What daemons do to links, firewalls and mounts ends there. To be called before there are threads.
    """
    os.environ["PYTHONPATH"] = REPOSITORY  # for programs that are started from another directory
    linux.unshare(linux.CLONE_NEWNET | linux.CLONE_NEWNS)
    linux.mount(None, "/", flags=linux.MS_REC | linux.MS_PRIVATE)
    with Netlink() as netlink:
        links.set_up(netlink, "lo")


@contextmanager
def scratch() -> Iterator[str]:
    """A directory of our own, with an instance of ours in it; both are gone afterwards, and what containers left.

    The exec root is where it is by default, below /run: in memory on most machines.
    """
    directory = tempfile.mkdtemp(prefix="minicontainer-bench-", dir="/var/tmp")
    os.chmod(directory, 0o755)
    os.environ["MINICONTAINER_DATA_ROOT"] = f"{directory}/data"
    runtime = os.environ["MINICONTAINER_EXEC_ROOT"] = tempfile.mkdtemp(prefix="minicontainer-bench-", dir="/run")
    os.chmod(runtime, 0o755)
    try:
        yield directory
    finally:
        leaks.reset(all=True)
        shutil.rmtree(directory)
        shutil.rmtree(runtime)


@contextmanager
def disk(directory: str) -> Iterator[None]:
    """Have a fresh filesystem at the scratch directory, which is still empty: before anything that has to see it.

    What others do to the machine's own filesystem, and what has just been removed from it, must cost nobody here: ext4
    without a journal looks at each inode that was removed within the last minutes before it makes a file. Where no
    such filesystem can be made, all is as it was.
    """
    image = f"{directory}.disk"
    with open(image, "wb") as file:
        file.truncate(32 << 30)  # of which it takes what is written
    make = ["mkfs.ext4", "-q", "-i", "65536", "-E", "lazy_journal_init=1", image]
    mount = ["mount", "-o", "loop,noinit_itable", image, directory]
    try:
        for command in (make, mount):
            subprocess.run(command, check=True, capture_output=True)
        made = True
    except (OSError, subprocess.CalledProcessError) as error:
        report.say(f"on the machine's own filesystem: {error}")
        made = False
    try:
        yield
    finally:
        if made:
            leaks.reset(all=True)
            linux.umount2(directory, linux.MNT_DETACH)
        os.unlink(image)


def busybox(directory: str) -> str:
    """Make a root with Debian's static busybox, `/bin/true` among its names; the directory."""
    for name in ("bin", "proc", "sys", "dev", "etc", "tmp", "root"):
        os.makedirs(f"{directory}/{name}")
    for path in ("/bin/busybox", "/usr/bin/busybox"):
        if os.path.exists(path):
            shutil.copy(path, f"{directory}/bin/busybox")
            break
    else:
        raise SystemExit("bench: there is no busybox (apt-get install busybox-static)")
    for applet in APPLETS:
        os.symlink("busybox", f"{directory}/bin/{applet}")
    return directory


def command() -> list[str]:
    """How the command `minicontainer` is started: by the script of this Python's environment, or as a module."""
    script = f"{os.path.dirname(sys.executable)}/minicontainer"
    return [script] if os.path.exists(script) else [sys.executable, "-m", "minicontainer.cli"]
