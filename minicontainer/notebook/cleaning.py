"""The last cell of a notebook: the host is as it was before the first one.

What is compared is what the kernel says (see `leaks`), and what is left is removed, so that one broken experiment
does not spoil the next notebook.
"""

from __future__ import annotations

import html

from minicontainer import leaks
from minicontainer.errors import ContainerError
from minicontainer.notebook.show import Shown

_WHAT = {
    "mount": "mounts",
    "cgroup": "cgroups",
    "link": "network links",
    "network namespace": "network namespaces",
    "firewall": "firewall rules",
    "sysctl": "sysctls",
    "process": "processes",
    "file": "files",
    "descriptor": "open descriptors",
}


class CleanUp(Shown):
    """The comparison, as it is shown: `left` names what was left behind, `removed` what is gone by now."""

    def __init__(self, looked_at: list[str], left: list[str], removed: list[str]) -> None:
        self.left, self.removed = left, removed
        if left:
            head = "✗ This was left behind:"
            lines = [*left, "and this was done about it:", *(removed or ["nothing: it is not ours to remove"])]
        else:
            head = "✓ The host is as it was before."
            lines = ["Compared, as the kernel tells them: " + ", ".join(_WHAT[kind] for kind in looked_at) + "."]
        rich = f"<p><b>{head}</b></p>" + "".join(f"<p>{html.escape(line)}</p>" for line in lines)
        super().__init__("text/html", rich, "\n".join([head, *(f"  {line}" for line in lines)]))


def clean_up(before: leaks.Snapshot) -> CleanUp:
    """Compare the host with `before`, a `leaks.snapshot()`; remove what is left of ours, and show all that.

    Raises ContainerError when something is left after that, with its name.
    """
    left = leaks.left_since(before)
    result = CleanUp(list(before.found), left, leaks.reset() if left else [])
    if left and (still := leaks.left_since(before)):
        raise ContainerError(
            "this is left on the host:\n  " + "\n  ".join(still),
            hint="remove() the containers that still run; a process of your own making ends with os.kill",
        )
    return result
