"""A failure, wherever it happened, as one clear exception of the program's: which part, in which moment, by which
system call, and what to do about it."""

from __future__ import annotations

from minicontainer import errors, linux
from minicontainer.lean import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

HINTS = {
    "EPERM": "containers are made by root: are you, and with all capabilities (`minicontainer doctor`)?",
    "ENOSPC": "a limit is reached: disk space, or one of /proc/sys/user/max_*_namespaces",
    "EINVAL": "this kernel may lack the feature, or the arguments do not fit together (`minicontainer doctor`)",
    "ENODEV": "this kernel lacks the filesystem (`minicontainer doctor`)",
    "ENOSYS": "this kernel is too old for that system call (`minicontainer doctor`)",
}
NETLINK_HINTS = {
    "ENODEV": "the link is gone: somebody removed it (`ip link` shows those there are); start again",
    "EINVAL": "the kernel does not know what was asked for, or a link that it names is gone (`ip link`)",
    "ENOTSUP": "this kernel lacks that kind of link or queue, or its module is not loaded (modprobe)",
    "EPERM": HINTS["EPERM"],
    "ENOBUFS": "the kernel had no memory left for the request",
}
"""What the same numbers mean when the kernel was asked about its network."""
NETLINK = ("RTM_", "NFT_", "if_nametoindex")
"""How the names of such requests begin."""


def hint(call: str, number: int) -> str:
    """What to do about a call that failed with this errno; empty where nobody can tell."""
    return (NETLINK_HINTS if call.startswith(NETLINK) else HINTS).get(linux.errno_name(number), "")


@contextmanager
def named(part: str, moment: str) -> Iterator[None]:
    """Let a system call that fails in the block be known as this part's, in this moment."""
    with linux.labelled(f"{part}.{moment}"):
        try:
            yield
        except errors.ContainerError:
            raise
        except Exception as error:
            call, number = getattr(error, "call", ""), getattr(error, "errno", None) or 0
            reason = error if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
            raise errors.StartError(
                f"{part} could not {moment}: {reason}",
                hint=hint(call, number),
                part=part,
                moment=moment,
                call=call,
                errno=number,
            ) from error


def as_error(failure: dict[str, Any]) -> errors.ContainerError:
    """What the process said of its failure, as an exception on this side."""
    part, moment, kind, message = (failure[key] for key in ("part", "moment", "kind", "message"))
    number = failure.get("errno", 0)
    known = getattr(errors, kind, None) if "hint" in failure else None  # only an error of ours has one
    if isinstance(known, type) and issubclass(known, errors.StartError):
        return known(message, hint=failure["hint"], part=part, moment=moment, call=failure["call"], errno=number)
    if isinstance(known, type) and issubclass(known, errors.ContainerError):
        return known(f"{part}: {message}", hint=failure["hint"])
    return errors.StartError(
        f"{part} could not {moment}: {message}",
        hint=hint(failure.get("call", ""), number),
        part=part,
        moment=moment,
        call=failure.get("call", ""),
        errno=number,
    )
