"""A container may make some 360 of the kernel's 460 system calls.

Every way out of a container begins with a system call, and most programs need few of them. A filter in the kernel
looks at each call before anything else does, and what is not on the list does not reach the code that may have a
flaw. It is loaded when nothing is left but the exec, because it holds for us as well.

The filter is made on the host's side, by libseccomp, once for each policy: it is kept below the exec root (which a
reboot empties, and only then the kernel changes), so that a start costs a read and one system call. seccomp(2)
"""

from __future__ import annotations

import errno
import os

from minicontainer import linux, state
from minicontainer.container.part import Host, Inside, Part
from minicontainer.errors import HostError, UsageError
from minicontainer.security.capabilities import ALL, SYS_ADMIN, Capabilities

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from minicontainer.security.policy import Profile


class Seccomp(Part):
    """Filter the container's system calls: by Docker's default policy, or by `profile`.

    That is a dictionary as OCI's config.json has it under linux.seccomp, or the path of a JSON file with one, in
    OCI's form or in Docker's. What the rules say of capabilities is decided by the container's Capabilities. Raises
    UsageError at once for a profile that makes no sense, HostError at the start where libseccomp is missing.

    A rule of SCMP_ACT_NOTIFY hands calls over to a listener: its descriptor is `host.given_back["seccomp"]` after the
    start (see `notify`).
    """

    seal_order = 30

    def __init__(self, profile: Profile | str | None = None) -> None:
        if profile is not None:
            from minicontainer.security import policy

            profile = policy.read(profile) if isinstance(profile, str) else profile
            policy.flags(policy.resolved(profile, ALL))  # says now, not at the start, what is wrong with it
        self.profile = profile
        self.program = b""
        self.flags = 0

    def record(self, host: Host) -> dict[str, Any]:
        return {"profile": self.profile}

    @classmethod
    def recall(cls, record: dict[str, Any]) -> Seccomp:
        return cls(record["profile"])

    def second(self, host: Host) -> Part:
        return Seccomp(self.profile)

    def prepare(self, host: Host) -> None:
        capabilities = host.find(Capabilities)
        self.program, self.flags = _filter(self.profile, capabilities.bounding if capabilities else ALL)

    def seal(self, inside: Inside) -> None:
        self.give_back = inside.give_back
        if not linux.prctl(linux.PR_GET_NO_NEW_PRIVS, 0):
            inside.needed |= SYS_ADMIN
        inside.at_exec.append(self._load)

    def _load(self) -> None:
        try:
            listener = linux.seccomp(self.program, self.flags)
        except PermissionError:
            raise HostError(
                "a filter of system calls needs CAP_SYS_ADMIN or no_new_privs",
                hint="add the part NoNewPrivs(): nobody could then be tricked by what the filter does",
            ) from None
        if self.flags & linux.SECCOMP_FILTER_FLAG_NEW_LISTENER:
            self.give_back("seccomp", listener)
            os.close(listener)


def _filter(profile: Profile | None, kept: int) -> tuple[bytes, int]:
    """The filter and the flags to load it with; made now, or found where it was kept."""
    place = _place()
    path = f"{place}/{_name(profile, kept)}"
    try:
        if place:
            with open(path, "rb", buffering=0) as file:
                kept_one: bytes = file.readall()
            return kept_one[4:], int.from_bytes(kept_one[:4], "little")
    except FileNotFoundError:
        pass
    from minicontainer.security import policy

    plain = policy.default(kept) if profile is None else policy.resolved(profile, kept)
    program, flags = policy.compiled(plain), policy.flags(plain)
    actions = {plain["defaultAction"], *(rule["action"] for rule in plain["syscalls"])}
    if "SCMP_ACT_NOTIFY" in actions:
        if plain["defaultAction"] == "SCMP_ACT_NOTIFY":
            raise UsageError("the seccomp profile: SCMP_ACT_NOTIFY by default would ask about the exec itself")
        flags |= linux.SECCOMP_FILTER_FLAG_NEW_LISTENER
    if place:
        state.write_file(path, flags.to_bytes(4, "little") + program)
    return program, flags


def _place() -> str:
    """Where filters are kept: with all that runs, or in the part of /run that is a user's own; "" where there is none.

    Never where somebody else could have put one for us.
    """
    place = f"{state.exec_root()}/seccomp"
    if os.access(place, os.W_OK):
        return place
    try:
        os.makedirs(place, mode=0o700, exist_ok=True)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
    if os.access(place, os.W_OK):
        return place
    if not (own := os.environ.get("XDG_RUNTIME_DIR")):
        return ""
    place = f"{own}/minicontainer/seccomp"
    os.makedirs(place, mode=0o700, exist_ok=True)
    return place


def _name(profile: Profile | None, kept: int) -> str:
    """What the filter depends on: the policy, the capabilities, the kernel."""
    from _blake2 import blake2b  # hashlib, which has it too, takes longer to import than a container to start

    if profile is None:
        from minicontainer.security import DEFAULT_POLICY

        status = os.stat(DEFAULT_POLICY)
        what = f"{DEFAULT_POLICY} {status.st_mtime_ns} {status.st_size}"
    else:
        import json

        what = json.dumps(profile, sort_keys=True)
    machine = os.uname()
    return str(blake2b(repr((what, kept, machine.release, machine.machine)).encode(), digest_size=16).hexdigest())
