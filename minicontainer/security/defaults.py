"""Docker's set: which parts of this chapter a container gets that nobody has thought about.

Capabilities and the filter of system calls for every container, the devices it may open, cgroups it can read and not
write; the rest on request. `privileged` is the absence of all of them. The security options are Docker's
(`docker run --security-opt`).
"""

from __future__ import annotations

from minicontainer.errors import UsageError
from minicontainer.security.capabilities import Capabilities
from minicontainer.security.seccomp import Seccomp

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
                self.label.append(value)
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
    options: Options | None = None,
) -> list[Part]:
    """The parts of this chapter that every container gets, changed as Docker's options of these names say."""
    options = options or Options()
    parts: list[Part] = [Capabilities(add=["ALL"] if privileged else add, drop=() if privileged else drop)]
    if options.seccomp != "unconfined" and not (privileged and not options.seccomp):
        parts.append(Seccomp(options.seccomp or None))
    if options.no_new_privs:
        from minicontainer.security.no_new_privs import NoNewPrivs

        parts.append(NoNewPrivs())
    return parts
