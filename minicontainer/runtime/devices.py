"""Which devices may be opened: config.json's rules, and after them those that every container has."""

from __future__ import annotations

from minicontainer.errors import UsageError
from minicontainer.runtime import log
from minicontainer.security.device_rules import DEFAULT, NOTHING, Allowed, limit_v1, limit_v2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

CONSOLE = (5, 1)  # the host's: what is /dev/console in a container is a terminal of its own
ALWAYS = [rule for rule in DEFAULT if rule is not NOTHING and (rule.major, rule.minor) != CONSOLE]


def rules(limits: dict[str, Any]) -> list[Allowed]:
    """In the order in which they count: nothing, what config.json says, what every container has."""
    given = [Allowed.parse(_understood(rule)) for rule in limits.get("devices") or ()]
    return [NOTHING, *given, *ALWAYS]


def _understood(rule: dict[str, Any]) -> dict[str, Any]:
    """The rule without what is no access: `rwa` counts as `rw`, as by runc; but nothing does not become everything."""
    access = rule.get("access") or ""
    known = "".join(letter for letter in access if letter in "rwm")
    if known == access or not known:
        return rule
    log.warn(f"linux.resources.devices: of the access {access!r} only {known!r} counts: there are r, w and m")
    return {**rule, "access": known}


def limit(found: list[Allowed], directories: dict[str, str]) -> None:
    """Set them for a group. Raises UsageError where the host has nothing that could."""
    if "devices" in directories:
        limit_v1(directories["devices"], found)
    elif "unified" in directories:
        limit_v2(directories["unified"], found)
    else:
        raise UsageError("linux.resources.devices: this host has no cgroup tree for devices")
