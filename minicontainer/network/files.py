"""What a program asks before it opens a connection: /etc/resolv.conf, /etc/hosts, /etc/hostname.

An image cannot know them: who answers for names is the host's affair, the container's own address and name are ours.
So three files are written for each container, on the host's side, and mounted over those of the image.

The image may have a trap in that place: a symbolic link `/etc/resolv.conf -> /etc/shadow` must lead to the image's
own file, never to the host's. openat2(2) with RESOLVE_IN_ROOT follows links as if the new root were `/` already, and
what it returns is a descriptor, so nobody can swap the name between the look and the mount.

Sources: resolv.conf(5), hosts(5), hostname(5).
"""

from __future__ import annotations

import errno
import os
import stat

from minicontainer import linux, state
from minicontainer.chroot import within

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minicontainer.container.part import Host, Inside

NAMES = ("resolv.conf", "hosts", "hostname")

_HOSTS = """\
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
ff00::0\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
"""

_LARGEST = 1 << 20


def directory(container: str) -> str:
    """Where a container's three files are."""
    return os.path.join(state.data_root(), "containers", container)


def offer(host: Host, texts: dict[str, str]) -> None:
    """Write the files, by name (`hosts`), and hand the process a mount of each, which is mounted nowhere yet.

    Made here, where the path can be walked: a process in a user namespace of its own might not be let through to it.
    """
    place = directory(host.id)
    os.makedirs(place, mode=0o711, exist_ok=True)
    for name, text in texts.items():
        path = os.path.join(place, name)
        with open(path, "w") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(text)
        copy = linux.open_tree(linux.AT_FDCWD, path)
        host.give(f"/etc/{name}", copy)
        harmless = linux.MOUNT_ATTR_NOSUID | linux.MOUNT_ATTR_NODEV | linux.MOUNT_ATTR_NOEXEC
        linux.mount_setattr(copy, "", linux.AT_EMPTY_PATH, harmless)


def remove(place: str) -> None:
    """Remove the files from `place`, and the directory if nothing else is in it."""
    for name in NAMES:
        try:
            linux.unlink(os.path.join(place, name))
        except FileNotFoundError:
            pass
    try:
        os.rmdir(place)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTEMPTY):
            raise


def mount(inside: Inside) -> None:
    """Mount the files over those of the new root, which get an empty one to be mounted over where it has none."""
    if inside.rootfs is None:
        return  # its root is the host's, and so are the files in it
    with within.root(inside.rootfs) as root:
        for name in NAMES:
            path = f"/etc/{name}"
            with within.place(root, path, directory=False) as target:
                within.hang(inside.fds[path], target)


def resolver() -> str:
    """The host's resolv.conf, without the name servers that only the host itself can reach.

    A server on 127.0.0.53 is systemd-resolved's; those that it asks in turn are in its own file.
    """
    for path in ("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"):
        lines = _lines(path)
        kept = [line for line in lines if not _is_local_server(line)]
        if any(line.split()[:1] == ["nameserver"] for line in kept):
            return "".join(kept)
    return "".join(line for line in _lines("/etc/resolv.conf") if not _is_local_server(line))


def hosts(address: str | None, hostname: str) -> str:
    """A container's hosts file: localhost, and its own name for its own address."""
    return _HOSTS + (f"{address}\t{hostname}\n" if address else "")


def read_inside(root: str, path: str) -> str | None:
    """A small regular file as a process whose root is `root` sees it (no link leads out); None if there is none."""
    top = linux.open(root, os.O_PATH | os.O_DIRECTORY)
    try:
        fd = linux.openat2(top, path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    finally:
        os.close(top)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        return os.read(fd, _LARGEST).decode(errors="replace")
    finally:
        os.close(fd)


def host_texts(hostname: str) -> dict[str, str]:
    """The files of a container that shares the host's network: what the host itself reads."""
    return {
        "resolv.conf": "".join(_lines("/etc/resolv.conf")),
        "hosts": "".join(_lines("/etc/hosts")) or _HOSTS,
        "hostname": hostname + "\n",
    }


def _lines(path: str) -> list[str]:
    try:
        with open(path, errors="replace") as file:
            return file.readlines()
    except FileNotFoundError:
        return []


def _is_local_server(line: str) -> bool:
    words = line.split()
    return len(words) > 1 and words[0] == "nameserver" and (words[1].startswith("127.") or words[1] == "::1")
