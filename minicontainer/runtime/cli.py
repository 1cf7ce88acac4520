"""The command line, runc's: engines know it by heart.

    minicontainer-runtime [--root DIR] [--log FILE] [--log-format text|json] VERB [options] ID …

Options are `--name value` or `--name=value`, one dash or two. Read by hand: argparse would take as
long as the rest of a start. Errors go to stderr, and to --log in the form that engines read.
"""

from __future__ import annotations

import os
import sys

from minicontainer.runtime import log, sealed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

FLAG, VALUE, NUMBER, LIST = "flag", "value", "number", "list"

GLOBAL = {
    "root": VALUE,
    "log": VALUE,
    "log-format": VALUE,
    "debug": FLAG,
    "systemd-cgroup": FLAG,
    "cgroup-manager": VALUE,
    "rootless": VALUE,
    "criu": VALUE,
    "version": FLAG,
    "help": FLAG,
}
_MAKE = {
    "bundle": VALUE,
    "config": VALUE,
    "console-socket": VALUE,
    "pid-file": VALUE,
    "no-pivot": FLAG,
    "no-new-keyring": FLAG,
    "preserve-fds": NUMBER,
}
_LIMITS = (
    *("blkio-weight", "cpu-period", "cpu-quota", "cpu-burst", "cpu-share", "cpu-rt-period", "cpu-rt-runtime"),
    *("cpu-idle", "cpuset-cpus", "cpuset-mems", "memory", "memory-reservation", "memory-swap", "pids-limit"),
)
# verb: (function of `verbs`, its options, its words)
VERBS: dict[str, tuple[str, dict[str, str], str]] = {
    "create": ("create", _MAKE, "ID"),
    "start": ("start", {}, "ID"),
    "run": ("run", {**_MAKE, "detach": FLAG, "keep": FLAG, "no-subreaper": FLAG}, "ID"),
    "state": ("tell_state", {}, "ID"),
    "kill": ("kill", {"all": FLAG}, "ID [SIGNAL]"),
    "delete": ("delete", {"force": FLAG}, "ID"),
    "exec": (
        "exec_",
        {
            "console-socket": VALUE,
            "cwd": VALUE,
            "env": LIST,
            "tty": FLAG,
            "user": VALUE,
            "additional-gids": LIST,
            "process": VALUE,
            "detach": FLAG,
            "pid-file": VALUE,
            "process-label": VALUE,
            "apparmor": VALUE,
            "no-new-privs": FLAG,
            "cap": LIST,
            "preserve-fds": NUMBER,
            "cgroup": LIST,
            "ignore-paused": FLAG,
        },
        "ID COMMAND …",
    ),
    "ps": ("ps", {"format": VALUE}, "ID [ps options]"),
    "pause": ("pause", {}, "ID"),
    "resume": ("resume", {}, "ID"),
    "update": (
        "update",
        {
            "resources": VALUE,
            **dict.fromkeys(_LIMITS, VALUE),
        },
        "ID",
    ),
    "list": ("list_", {"format": VALUE, "quiet": FLAG}, ""),
    "events": ("events", {"interval": VALUE, "stats": FLAG}, "ID"),
    "features": ("features", {}, ""),
    "spec": ("spec", {"bundle": VALUE, "rootless": FLAG}, ""),
}
SHORT = {"b": "bundle", "d": "detach", "e": "env", "f": "format", "g": "additional-gids", "h": "help", "p": "process"}
SHORT |= {"q": "quiet", "r": "resources", "t": "tty", "u": "user", "v": "version", "a": "all", "c": "cap"}
_SHORT_OF_VERB = {("delete", "f"): "force", ("kill", "a"): "all"}


_WITH_COMMAND = ("exec", "ps")


class _Wrong(Exception):
    """A command line that cannot be read."""


def main(argv: list[str] | None = None) -> int:
    """Do what the command line asks; the exit status."""
    options: dict[str, Any] = {}
    try:
        words = _read("", GLOBAL, sys.argv[1:] if argv is None else argv, options)
        if options.get("version"):
            return _version()
        if options.get("help") or not words or words[0] == "help":
            return _help()
        if options.get("log-format", "text") not in ("text", "json"):
            raise _Wrong(f"invalid log-format: {options['log-format']!r}")
        if options.get("log"):
            try:
                log.open_(options["log"], options.get("log-format", "text"))
            except OSError as error:
                raise _Wrong(f"--log {options['log']}: {(error.strerror or '').lower()}") from None
        if argv is None and words[0] in sealed.ENTERING:
            sealed.ensure()
        return _verb(words[0], words[1:], options)
    except _Wrong as error:
        return _complain(str(error))


def _verb(verb: str, rest: list[str], options: dict[str, Any]) -> int:
    if verb not in VERBS:
        raise _Wrong(f"No help topic for {verb!r}: the verbs are {', '.join(VERBS)}")
    name, known, usage = VERBS[verb]
    given: dict[str, Any] = {}
    words = _read(verb, {**known, "help": FLAG}, rest, given)
    if given.get("help"):
        print(
            f"usage: minicontainer-runtime {verb} [options] {usage}\noptions: {', '.join(f'--{key}' for key in known)}"
        )
        return 0
    from minicontainer.errors import ContainerError

    try:
        if options.get("systemd-cgroup") or options.get("cgroup-manager") == "systemd":
            raise ContainerError("--systemd-cgroup: cgroups made by systemd are not supported; use cgroupfs")
        given["lenient"] = _rootless(options.get("rootless", "auto"))
        from minicontainer.runtime import states, verbs

        root = os.path.abspath(options.get("root") or states.default_root())
        act: Callable[[str, dict[str, Any], list[str]], int] = getattr(verbs, name)
        if options.get("debug"):
            from minicontainer import linux

            with linux.trace(lambda call: log.write("debug", str(call))):
                return act(root, given, words)
        return act(root, given, words)
    except (ContainerError, OSError) as error:
        text = _phrase(error) if isinstance(error, ContainerError) else str(error)
        return _complain(text) if verb != "exec" else _complain(text) * 255
    except Exception as error:  # a mistake of ours: whoever called reads one line, and --debug has the rest
        if options.get("debug"):
            raise
        return _complain(f"{type(error).__name__} in {verb}: {error}")


def _rootless(text: str) -> bool | None:
    """Whether a cgroup that cannot be made, and that nobody asked for, is no error; None: if we are not root."""
    known = {"true": True, "false": False, "auto": None}
    if text not in known:
        raise _Wrong(f"--rootless {text!r}: it is true, false or auto")
    return known[text]


def _phrase(error: Exception) -> str:
    """The message on one line, with what engines look for in it: the system's own word for what is missing."""
    text = str(error).replace("\n  hint: ", " (") + (")" if "\n  hint: " in str(error) else "")
    number = getattr(error, "errno", 0)
    if number and os.strerror(number).lower() not in text:  # in lower case: engines make exit statuses of these words
        text += f": {os.strerror(number).lower()}"
    return text


def _read(verb: str, known: dict[str, str], argv: list[str], found: dict[str, Any]) -> list[str]:
    """Take the options out of `argv` into `found`; what is left. After a word that begins a command, all is its own."""
    rest = list(argv)
    words: list[str] = []
    while rest and (_is_option(rest[0]) or (verb and verb not in _WITH_COMMAND)):
        word = rest.pop(0)
        if word == "--":
            break
        if not _is_option(word):
            words.append(word)
            continue
        name, equals, value = word.lstrip("-").partition("=")
        if len(name) == 1:
            name = _SHORT_OF_VERB.get((verb, name), SHORT.get(name, name))
        kind = known.get(name)
        if kind is None:
            raise _Wrong(f"flag provided but not defined: {word}")
        if kind == FLAG:
            if equals and value not in ("true", "false"):
                raise _Wrong(f"invalid boolean value {value!r} for {word}")
            found[name] = value != "false"
            continue
        if not equals:
            if not rest:
                raise _Wrong(f"flag needs an argument: {word}")
            value = rest.pop(0)
        if kind == NUMBER:
            if not value.isdecimal():
                raise _Wrong(f"invalid value {value!r} for flag --{name}: it is no number")
            found[name] = int(value)
        elif kind == LIST:
            found.setdefault(name, []).append(value)
        else:
            found[name] = value
    return words + rest


def _is_option(word: str) -> bool:
    return word.startswith("-") and word != "-"


def _version() -> int:
    from minicontainer.runtime.states import OCI_VERSION

    print(f"minicontainer-runtime version 0.1.0\nspec: {OCI_VERSION}")
    return 0


def _help() -> int:
    print("NAME:\n   minicontainer-runtime - an OCI runtime that reads like a book\n")
    print("USAGE:\n   minicontainer-runtime [global options] VERB [options] …\n\nVERBS:")
    for verb, (_, _, usage) in VERBS.items():
        print(f"   {verb} {usage}".rstrip())
    print(f"\nGLOBAL OPTIONS:\n   {', '.join(f'--{name}' for name in GLOBAL)}")
    return 0


def _complain(text: str) -> int:
    """Say what went wrong where the caller looks for it; the exit status of a verb that failed."""
    log.fail(text)
    return 1
