"""Put suites of others to the runtime, and hold what fails against the lists: `python -m tests.conformance [FILE …]`.

FILE is a part of a name of the suites' own (`hooks`): only those are run. What each printed stays below .cache.
"""

from __future__ import annotations

import glob
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
MAIN = HERE.parent.parent / "minicontainer/runtime/__main__.py"
LINE = re.compile(
    r"^(?P<not>not )?ok (?P<number>\d+) (?:- )?(?P<name>.*?)(?P<skip>\s*# ?(?:skip|SKIP).*)?(?: # [\d.]+s)?$"
)
LOGS = HERE.parent.parent / ".cache/conformance"
PER_FILE = 300  # seconds
PATIENCE = 30  # seconds for a word on a socket: a test that is never told one fails, and does not take its file with it
PATIENTLY = (
    f"import runpy, socket, sys; socket.setdefaulttimeout({PATIENCE}); runpy.run_path(sys.argv[1], None, '__main__')"
)
PRIVATE = ["unshare", "--net", "--mount", "--propagation", "private", "sh", "-c", 'ip link set lo up; exec "$@"', "sh"]


class Results:
    """What became of the tests of one suite, by `file: name`."""

    def __init__(self) -> None:
        self.passed: set[str] = set()
        self.skipped: set[str] = set()
        self.failed: set[str] = set()

    def read(self, file: str, text: str) -> None:
        """Take in one file's TAP."""
        for line in text.replace("\r", "").splitlines():
            if found := LINE.match(line):
                name = f"{file}: {found['name'].strip()}"
                (self.failed if found["not"] else self.skipped if found["skip"] else self.passed).add(name)


def runc(suite: str, runtime: str) -> Results:
    results = Results()
    for path in files(f"{suite}/tests/integration/*.bats"):
        # they want a terminal, which script(1) makes
        words = ["script", "-qefc", f"bats -t {path}", "/dev/null"]
        results.read(Path(path).stem, output(words, suite, {"RUNC": runtime}))
    return results


def crun(suite: str, runtime: str) -> Results:
    results = Results()
    env = {"OCI_RUNTIME": runtime, "INIT": f"{suite}/init", "PYTHONPATH": f"{suite}/tests"}
    for path in files(f"{suite}/tests/test_*.py"):
        results.read(Path(path).stem, output([*PRIVATE, "/usr/bin/python3", "-c", PATIENTLY, path], suite, env))
    return results


def validation(suite: str, runtime: str) -> Results:
    """One program counts as one test, which passes if none of its assertions fails."""
    results = Results()
    for path in files(f"{suite}/validation/**/*.t"):
        one = Results()
        one.read("", output([*PRIVATE, path], suite, {"RUNTIME": runtime}))
        name = f"validation: {Path(path).stem}"
        (results.failed if one.failed or not one.passed else results.passed).add(name)
    return results


def files(pattern: str) -> list[str]:
    """Those that were asked for, or all."""
    found = sorted(glob.glob(pattern, recursive=True))
    asked = sys.argv[1:]
    return [path for path in found if not asked or any(word in os.path.basename(path) for word in asked)]


def output(words: list[str], directory: str, env: dict[str, str]) -> str:
    with tempfile.TemporaryFile("w+") as file:
        try:
            subprocess.run(
                words,
                cwd=directory,
                env={**os.environ, **env},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                timeout=PER_FILE,
            )
        except subprocess.TimeoutExpired:
            print(f"  {words[-1]} was ended after {PER_FILE} s", file=sys.stderr)
        file.seek(0)
        text = file.read()
    LOGS.mkdir(parents=True, exist_ok=True)
    (LOGS / f"{Path(words[-1] if words[-1] != '/dev/null' else words[2].split()[-1]).stem}.log").write_text(text)
    return text


def listed(name: str) -> dict[str, str]:
    """What is known to fail, with the reason."""
    lines = (HERE / f"{name}.txt").read_text().splitlines()
    known = dict(line.split("\t", 1) for line in lines if line and not line.startswith("#"))
    assert all(reason.strip() for reason in known.values()), f"{name}.txt has an entry without a reason"
    return known


def main() -> int:
    code, any_suite = 0, False
    with tempfile.TemporaryDirectory(prefix="conformance-", dir="/var/tmp") as directory:
        runtime = os.environ.get("RUNTIME", "")
        ours = not runtime
        if ours:
            runtime = f"{directory}/minicontainer-runtime"
            Path(runtime).write_text(f'#!/bin/sh\nexec {sys.executable} -I -S {MAIN} "$@"\n')
            os.chmod(runtime, 0o755)
            os.chmod(directory, 0o755)
        for name, run in (("runc", runc), ("crun", crun), ("validation", validation)):
            variable = f"MINICONTAINER_{name.upper()}_SUITE"
            suite = os.environ.get(variable)
            if not suite:
                print(f"{name}: not run, {variable} names no directory (tests/conformance/README.md)")
                continue
            any_suite = True
            found = run(os.path.abspath(suite), runtime)
            print(f"{name}: {len(found.passed)} pass, {len(found.skipped)} skip, {len(found.failed)} fail")
            if not ours:
                continue
            known = listed(name)
            for test in sorted(found.failed - set(known)):
                print(f"  fails, and is not listed: {test}")
                code = 1
            for test in sorted(set(known) & found.passed):
                print(f"  passes, and is listed: {test}")
                code = 1
    return code if any_suite else 2


if __name__ == "__main__":
    sys.exit(main())
