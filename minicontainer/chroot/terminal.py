"""A terminal of the container's own: what `docker run -t` gives.

A terminal is a pair: the command holds the *slave* end and believes in a screen, whoever drives it holds the
*master*. The pair is opened inside, in the container's own /dev/pts, so that `tty` names a file that exists there;
the master is handed to the host's side. pty(7), ioctl_tty(2)
"""

from __future__ import annotations

import fcntl
import os
import struct
import termios

from minicontainer import linux
from minicontainer.container.part import Inside, Part

TIOCSPTLCK = 0x40045431
TIOCGPTN = 0x80045430


class Terminal(Part):
    """Make a new terminal the command's standard streams and its controlling terminal.

    The master end is `host.given_back.pop("terminal")` after the start. Belongs after PivotRoot: it needs the new /dev.
    """

    def enter(self, inside: Inside) -> None:
        master = linux.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY)
        fcntl.ioctl(master, TIOCSPTLCK, struct.pack("i", 0))
        (number,) = struct.unpack("i", fcntl.ioctl(master, TIOCGPTN, struct.pack("i", 0)))
        slave = linux.open(f"/dev/pts/{number}", os.O_RDWR | os.O_NOCTTY)
        if inside.rootfs is not None:
            os.close(linux.open("/dev/console", os.O_CREAT | os.O_RDWR | os.O_NOCTTY | os.O_NOFOLLOW, 0o620))
            linux.mount(f"/dev/pts/{number}", "/dev/console", flags=linux.MS_BIND)
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
        for fd in (0, 1, 2):
            linux.dup2(slave, fd)
        inside.give_back("terminal", master)
        os.close(slave)
        os.close(master)
