"""Leaving and joining namespaces, and the two names a UTS namespace holds: unshare(2), setns(2), sethostname(2)."""

from __future__ import annotations

import os

from minicontainer.linux.door import syscall
from minicontainer.linux.libc import c_char_p, c_int, c_size_t, function
from minicontainer.linux.process import (  # noqa: F401  (their names are what the trace shows)
    CLONE_NEWCGROUP,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWTIME,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
)

_unshare = function("unshare", c_int)
_setns = function("setns", c_int, c_int)
_sethostname = function("sethostname", c_char_p, c_size_t)
_setdomainname = function("setdomainname", c_char_p, c_size_t)


@syscall(show={"flags": "CLONE_"})
def unshare(flags: int) -> None:
    """Give this process namespaces of its own; a PID or time namespace only its next children get. unshare(2)"""
    _unshare(flags)


@syscall(show={"flags": "CLONE_"})
def setns(fd: int, flags: int = 0) -> None:
    """Move this process into the namespace behind `fd`, or into those of a pidfd that `flags` name. setns(2)"""
    _setns(fd, flags)


@syscall()
def sethostname(name: str) -> None:
    """Change the host name of this UTS namespace. sethostname(2)"""
    _sethostname(os.fsencode(name), len(os.fsencode(name)))


@syscall()
def setdomainname(name: str) -> None:
    """Change the NIS domain name of this UTS namespace. setdomainname(2)"""
    _setdomainname(os.fsencode(name), len(os.fsencode(name)))
