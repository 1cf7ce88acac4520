"""A terminal of the container's own: what `docker run -t` gives.

A terminal is a pair: the command holds the *slave* end and believes in a screen, whoever drives it holds the
*master*. The pair is opened inside, in the container's own /dev/pts, so that `tty` names a file that exists there;
the master is handed to the host's side. The slave is asked of the master, and mounted from its descriptor: what lies
in /dev is the image's, and a name there may be exchanged for a link while we look (CVE-2025-52565). pty(7),
ioctl_tty(2)
"""

from __future__ import annotations

import fcntl
import os
import struct
import termios

from minicontainer import linux
from minicontainer.chroot.within import hang
from minicontainer.container.part import Inside, Part

TIOCSPTLCK = 0x40045431
TIOCGPTPEER = 0x5441


class Terminal(Part):
    """Make a new terminal the command's standard streams and its controlling terminal.

    The master end is `host.given_back.pop("terminal")` after the start. Belongs after PivotRoot: it needs the new /dev.
    """

    def enter(self, inside: Inside) -> None:
        master = linux.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY)
        fcntl.ioctl(master, TIOCSPTLCK, struct.pack("i", 0))
        slave = fcntl.ioctl(master, TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        if inside.rootfs is not None:
            console = linux.open("/dev/console", os.O_CREAT | os.O_RDWR | os.O_NOCTTY | os.O_NOFOLLOW, 0o620)
            hang(
                linux.open_tree(slave, "", linux.OPEN_TREE_CLONE | linux.OPEN_TREE_CLOEXEC | linux.AT_EMPTY_PATH),
                console,
            )
            os.close(console)
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
        for fd in (0, 1, 2):
            linux.dup2(slave, fd)
        inside.give_back("terminal", master)
        os.close(slave)
        os.close(master)
