"""Docker's set: which parts of this chapter a container gets that nobody has thought about.

Capabilities and the filter of system calls for every container, the devices it may open, cgroups it can read and not
write; the rest on request. `privileged` is the absence of all of them. The security options are Docker's
(`docker run --security-opt`).
"""

from __future__ import annotations

from minicontainer.errors import UsageError
from minicontainer.security.capabilities import Capabilities
from minicontainer.security.cgroup_files import CgroupFiles
from minicontainer.security.devices import Devices
from minicontainer.security.seccomp import Seccomp
from minicontainer.security.shield import Shield

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from minicontainer.container.part import Part


class Options:
    """What `--security-opt` says, one value for each time it is given. Raises UsageError for what is no option."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self.no_new_privs = False
        self.seccomp = ""
        self.apparmor = ""
        self.label: list[str] = []
        self.open_paths = False
        for text in texts:
            name, _, value = text.replace(":", "=", 1).partition("=") if "=" not in text else text.partition("=")
            if name == "no-new-privileges" and value in ("", "true", "false"):
                self.no_new_privs = value != "false"
            elif name == "seccomp" and value:
                self.seccomp = value
            elif name == "apparmor" and value:
                self.apparmor = value
            elif name == "label" and value:
                self.label = ["disable"] if "disable" in (value, *self.label) else [*self.label, value]
            elif name == "systempaths" and value == "unconfined":
                self.open_paths = True
            else:
                raise UsageError(
                    f"--security-opt {text}: there is no such option",
                    hint="no-new-privileges, seccomp=FILE|unconfined, apparmor=NAME, label=…, systempaths=unconfined",
                )


def default(
    *,
    add: Iterable[str] = (),
    drop: Iterable[str] = (),
    privileged: bool = False,
    devices: Iterable[str] = (),
    options: Options | None = None,
) -> list[Part]:
    """The parts of this chapter that every container gets, changed as Docker's options of these names say.

    They need a Cgroup before them, and their /dev (PivotRoot).
    """
    options = options or Options()
    parts: list[Part] = [
        Shield(),
        Devices(*devices, everything=privileged),
        CgroupFiles(writable=privileged),
        Capabilities(add=["ALL"] if privileged else add, drop=() if privileged else drop),
    ]
    if options.seccomp != "unconfined" and not (privileged and not options.seccomp):
        parts.append(Seccomp(options.seccomp or None))
    if options.no_new_privs:
        from minicontainer.security.no_new_privs import NoNewPrivs

        parts.append(NoNewPrivs())
    if options.apparmor:
        from minicontainer.security.labels import AppArmor

        parts.append(AppArmor(options.apparmor))
    if options.label and options.label != ["disable"]:
        from minicontainer.security.labels import SELinux

        parts.append(SELinux(_context(options.label)))
    return parts


def _context(labels: list[str]) -> str:
    """`label=type:container_t` and its like, put together to a context as Docker does."""
    fields = {"user": "system_u", "role": "system_r", "type": "container_t", "level": "s0"}
    for label in labels:
        field, _, value = label.partition(":")
        if field not in fields or not value:
            raise UsageError(f"label={label}: no such field", hint="label=user:…, role:…, type:…, level:… or disable")
        fields[field] = value
    return ":".join(fields.values())
