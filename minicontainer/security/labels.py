"""Labels: AppArmor's profiles and SELinux's contexts, where the kernel has them.

Both decide by who somebody is labelled to be, beside and after all other checks. A process asks to get its label with
the next execve, by a write to its own /proc files; which labels there are is the host's policy, loaded by other
tools. A kernel runs what it was built with and booted with: where there is neither, a label that was asked for is an
error, never passed over. apparmor(7), selinux(8)

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
_SELINUX = ("/sys/fs/selinux", "/selinux")


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
            _write(self.fd, f"exec {self.profile}", f"the AppArmor profile {self.profile}")


class SELinux(Part):
    """Execute the command in a context, `system_u:system_r:container_t:s0`."""

    seal_order = 5
    directory = "/proc/self/attr"

    def __init__(self, context: str) -> None:
        self.context = context

    def record(self, host: Host) -> dict[str, Any]:
        return {"context": self.context}

    def second(self, host: Host) -> Part:
        return self

    def prepare(self, host: Host) -> None:
        if not has_selinux():
            raise HostError(
                f"the SELinux context {self.context} cannot be used: this kernel does not run SELinux",
                hint="see /sys/kernel/security/lsm; --security-opt label=disable asks for none",
            )

    def mount(self, inside: Inside) -> None:
        self.fd = linux.open(self.directory, os.O_PATH | os.O_DIRECTORY)

    def seal(self, inside: Inside) -> None:
        _write(self.fd, self.context, f"the SELinux context {self.context}")


def has_apparmor() -> bool:
    """Whether this kernel runs AppArmor."""
    try:
        with open(_APPARMOR) as file:
            return file.read().startswith("Y")
    except FileNotFoundError:
        return False


def has_selinux() -> bool:
    """Whether this kernel runs SELinux: its filesystem is there."""
    return any(os.path.exists(f"{place}/enforce") for place in _SELINUX)


def _write(directory: int, text: str, what: str) -> None:
    try:
        linux.write("exec", text, dir_fd=directory)
    except OSError as error:
        number = linux.errno_name(error.errno or 0)
        raise HostError(
            f"{what} cannot be used: {number}", hint="is it loaded? its own tools list what is: aa-status, semodule"
        ) from None
