"""Labels: AppArmor's profiles and SELinux's contexts, where the kernel has them.

Both decide by who somebody is labelled to be, beside and after all other checks. A process asks to get its label with
the next execve, by a write to its own /proc files; which labels there are is the host's policy, loaded by other
tools. A kernel runs what it was built with and booted with: where there is neither, a label that was asked for is an
error, never passed over. apparmor(7), selinux(8)

SELinux labels files, too, and decides by both. A filesystem that keeps labels has them from the host's tools, which is
why a container's root is not labelled here; one that is mounted for the container (a tmpfs) has all its files appear
with one, which is an option of the mount.

The directory of those files is opened while the root is still the host's. Afterwards /proc is what the container's
mounts have made of it: the label would be written to whatever file of the kernel lies there, and to none of ours
(CVE-2019-16884, CVE-2025-52881).
"""

from __future__ import annotations

import os

from minicontainer import linux
from minicontainer.container.part import Host, Inside, Part
from minicontainer.errors import HostError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_APPARMOR = "/sys/module/apparmor/parameters/enabled"
_FILESYSTEMS = "/proc/filesystems"
_CURRENT = "/proc/self/attr/current"


class AppArmor(Part):
    """Execute the command under a profile that the host has loaded; `unconfined` is none."""

    seal_order = 5
    directory = "/proc/self/attr/apparmor"

    def __init__(self, profile: str) -> None:
        if not profile or any(letter.isspace() for letter in profile):
            raise UsageError(f"{profile!r} is no AppArmor profile")
        self.profile = profile

    def record(self, host: Host) -> dict[str, Any]:
        return {"profile": self.profile}

    def second(self, host: Host) -> Part:
        return self

    def prepare(self, host: Host) -> None:
        if self.profile != "unconfined" and not has_apparmor():
            raise HostError(
                f"the AppArmor profile {self.profile} cannot be used: this kernel does not run AppArmor",
                hint="see /sys/kernel/security/lsm; --security-opt apparmor=unconfined asks for none",
            )

    def mount(self, inside: Inside) -> None:
        if self.profile != "unconfined":
            self.fd = linux.open(self.directory, os.O_PATH | os.O_DIRECTORY)

    def seal(self, inside: Inside) -> None:
        if self.profile != "unconfined":
            what = f"the AppArmor profile {self.profile}"
            _write(self.fd, f"exec {self.profile}", what, "is it loaded? aa-status lists what is")


class SELinux(Part):
    """Execute the command in a context, `system_u:system_r:container_t:s0`.

    The policy decides whether we may have it (EACCES of execve(2) if not), also for who has given up new privileges:
    to the kernel a change of the context is one (`nnp_transition`).
    """

    seal_order = 5
    directory = "/proc/self/attr"

    def __init__(self, context: str) -> None:
        _check_context(context)
        self.context = context

    def record(self, host: Host) -> dict[str, Any]:
        return {"context": self.context}

    def second(self, host: Host) -> Part:
        return self

    def prepare(self, host: Host) -> None:
        need_selinux(self.context)

    def mount(self, inside: Inside) -> None:
        self.fd = linux.open(self.directory, os.O_PATH | os.O_DIRECTORY)

    def seal(self, inside: Inside) -> None:
        what = f"the SELinux context {self.context}"
        hint = "EINVAL: the loaded policy has no such context (seinfo lists its types); EACCES: it lets us choose none"
        _write(self.fd, self.context, what, hint)


def need_selinux(context: str, field: str = "") -> None:
    """Raise HostError, naming the `field` that asks for the context, where the kernel does not run SELinux."""
    _check_context(context, field)
    if not has_selinux():
        raise HostError(
            f"{field and f'{field}: '}the SELinux context {context} cannot be used: this kernel does not run SELinux",
            hint="see /sys/kernel/security/lsm; --security-opt label=disable asks for none",
        )


def mount_option(context: str) -> str:
    """What has all files of a filesystem appear with `context`; in quotes, because its categories have commas."""
    return f'context="{context}"'


def label_file(path: str, context: str) -> None:
    """Label a single file, in a filesystem that keeps labels. xattr(7), "Extended security attributes"."""
    linux.setxattr(path, "security.selinux", context.encode() + b"\0")


def has_apparmor() -> bool:
    """Whether this kernel runs AppArmor."""
    try:
        with open(_APPARMOR) as file:
            return file.read().startswith("Y")
    except FileNotFoundError:
        return False


def has_selinux() -> bool:
    """Whether this kernel runs SELinux, and by a policy: until there is one it takes any label for `kernel`."""
    with open(_FILESYSTEMS) as file:
        if "selinuxfs" not in file.read().split():
            return False
    with open(_CURRENT) as file:
        return file.read().rstrip("\0\n") != "kernel"


def _check_context(context: str, field: str = "") -> None:
    """Raise UsageError for what is no context by any policy: three fields, and a level where there are such."""
    if context.count(":") < 2 or not all(context.split(":")) or any(bad in context for bad in ' \t\n\0"\\'):
        raise UsageError(f"{field and f'{field}: '}{context!r} is no SELinux context", hint="user:role:type:level")


def _write(directory: int, text: str, what: str, hint: str) -> None:
    try:
        linux.write("exec", text, dir_fd=directory)
    except OSError as error:
        number = linux.errno_name(error.errno or 0)
        raise HostError(f"{what} cannot be used: {number}", hint=hint) from None
