"""What is said besides the result: to the log that the caller named, in the form that engines read.

Where there is no log, what goes wrong is said on stderr. Where there is one, warnings go only there: the stderr of
`create` is the container's own, and an engine keeps it as the container's output.
"""

from __future__ import annotations

import os
import sys

from minicontainer.lean import dumps

_log = {"path": "", "form": "text"}


def open_(path: str, form: str) -> None:
    """From here on write to the file at `path`, as `text` or as `json`. Raises OSError where that cannot be."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644))
    _log.update(path=os.path.abspath(path), form=form)


def write(level: str, text: str) -> None:
    """One line in the log, or on stderr where there is none."""
    import time

    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    if _log["form"] == "json":
        line = dumps({"level": level, "msg": text, "time": now}, compact=True)
    else:
        line = f'time="{now}" level={level} msg={dumps(text)}'
    try:
        with open(_log["path"], "a") if _log["path"] else open(2, "w", closefd=False) as file:
            file.write(line + "\n")
    except OSError as error:
        print(f"cannot write to the log {_log['path']}: {error.strerror}", file=sys.stderr)


def warn(text: str) -> None:
    """Something was not done that was asked for, and the specification wants us to go on."""
    if _log["path"]:
        write("warning", text)
    else:
        print(f"minicontainer-runtime: warning: {text}", file=sys.stderr)


def fail(text: str) -> None:
    """What the verb failed by: on stderr, and in the log, where engines look for it."""
    if _log["path"]:
        write("error", text)
    print(f"minicontainer-runtime: {text}", file=sys.stderr)
