"""strace is the judge of our trace: what builds or enters a container, and what takes it down again, is all in it.

A fresh program makes one container with a part of each chapter and writes down what `linux.trace()` saw. The same run,
watched by strace from outside, must have made the same calls in the same order, in both processes.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = """
import json, os, sys
from minicontainer import *
from minicontainer import linux
from minicontainer.network import networks
from minicontainer.security import Rlimits, defaults
rootfs, out, network = sys.argv[1:]
kinds = ["mount", "uts", "ipc", "pid", "cgroup", "time"] + (["user", "network"] if network == "user" else [])
parts = [
    Namespaces(*kinds, hostname="strace", domainname="judge", clock_offsets={"boottime": 60}),
    Cgroup(memory="64M", cpus=0.5, pids=50),
    Overlay([rootfs], volatile=True),
    PivotRoot(read_only=True),
    Bind(rootfs, "/data/deep", read_only=True),
    Tmpfs("/scratch", "size=1m"),
    User("learner"),
    Rlimits(core=0),
    *defaults.default(options=defaults.Options(["no-new-privileges"])),
]
if network == "bridge":
    parts.append(Bridge(publish=["0:80"]))
elif network == "own":
    parts.append(Join(Endpoint("strace", download="10M", upload="10M"), publish=["0:80"]))
elif network == "none":
    parts.append(NoNetwork())
with linux.trace() as calls:
    if network == "own":
        networks.create("strace", ipv6=True)
    assert Container(["true"], *parts).run(stdin=-3, stdout=-3, stderr=-3) == 0
if network == "own":
    networks.remove("strace")
with open(out, "w") as file:
    json.dump([os.getpid(), [[call.pid, call.name, call.arguments] for call in calls]], file)
"""

# strace's name → ours, for every call that builds, enters or takes down a container
SAME = """mount umount2 pivot_root open_tree move_mount mount_setattr fsopen fsconfig fsmount setns unshare clone3
    sethostname setdomainname setresuid setresgid setgroups setfsuid setfsgid chroot fchdir setsid close_range capset
    pidfd_send_signal openat2 seccomp bpf"""
BUILDING = {name: name for name in SAME.split()}
BUILDING |= {"mknodat": "mknod", "mknod": "mknod", "symlinkat": "symlink", "symlink": "symlink"}
ONLY_INSIDE = {"mkdirat": "mkdir", "mkdir": "mkdir", "chdir": "chdir", "prctl": "prctl", "umask": "umask"}
KERNEL_FILES = re.compile(r"/sys/fs/cgroup/|/proc/(self|[0-9]+)/(uid_map|gid_map|timens_offsets)|/proc/sys/")


@pytest.mark.parametrize("network", ["none", "bridge", "own", "user"])
def test_the_trace_misses_no_call(rootfs: str, shared_path: Path, network: str) -> None:
    assert shutil.which("strace"), "strace belongs to what `make test` installs"
    out, log = shared_path / "trace.json", shared_path / "strace"
    command = [sys.executable, "-I", "-c", f"import sys; sys.path[:] = {sys.path!r}\n{textwrap.dedent(PROGRAM)}"]
    subprocess.run(
        ["strace", "-f", "-y", "-s", "200", "-o", str(log), *command, rootfs, str(out), network],
        check=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )
    owner, calls = json.loads(out.read_text())
    seen = _by_process(log.read_text())
    (inner,) = {int(pid) for pid, name, result in _children(seen[owner])}

    ours = [(name, arguments) for pid, name, arguments in calls if pid == owner]
    theirs = [(name, arguments) for pid, name, arguments in calls if pid != owner]
    assert _names(ours, BUILDING) == _judged(seen[owner], BUILDING)
    inside = BUILDING | ONLY_INSIDE
    assert _names(theirs, inside) == _judged(seen[inner], inside)
    assert {"clone3", "fsmount", "write"} <= {name for name, _ in ours}
    assert {"pivot_root", "move_mount", "sethostname", "execve", "mknod", "unshare"} <= {name for name, _ in theirs}

    for pid, ours_or_theirs in ((owner, ours), (inner, theirs)):
        requests = [name for name, _ in ours_or_theirs if name.startswith(("RTM_", "NFT_", "NFNL_", "IPCTNL"))]
        sent = [name for name, text, _ in seen[pid] if name in ("sendto", "sendmsg") and "NETLINK" in text]
        assert len(sent) == len(requests), (sent, requests)
    nft = [name for name, _ in ours if name == "nft"]
    executed = [text for lines in seen.values() for name, text, _ in lines if name == "execve" and "/nft" in text]
    assert len(nft) == len(executed)


Line = tuple[str, str, str]


def _by_process(text: str) -> dict[int, list[Line]]:
    """pid → (call, arguments, result), with the halves of interrupted lines put together, and threads with theirs."""
    found: dict[int, list[Line]] = {}
    halves: dict[int, str] = {}
    made = re.findall(r"(?m)^(\d+) +(?:<\.\.\. )?clone3?\b.*CLONE_THREAD.* = (\d+)", text)
    made += re.findall(r"(?m)^(\d+) +<\.\.\. clone3? resumed>.*parent_tid=\[(\d+)\]", text)
    process = {int(thread): int(pid) for pid, thread in made}
    for line in text.splitlines():
        pid_text, _, rest = line.partition(" ")
        pid, rest = int(pid_text), rest.strip()
        if rest.endswith("<unfinished ...>"):
            halves[pid] = rest.removesuffix("<unfinished ...>")
            continue
        resumed = re.match(r"<\.\.\. \w+ resumed>(.*)", rest)
        if resumed:
            rest = halves.pop(pid) + resumed[1]
        call = re.match(r"(\w+)\((.*)\) += (.*)", rest)
        if call and "CLONE_THREAD" not in call[2]:
            found.setdefault(process.get(pid, pid), []).append((call[1], call[2], call[3]))
    return found


def _children(lines: list[Line]) -> list[tuple[str, str, str]]:
    """The processes that a clone3 with namespaces has made."""
    made = [(result.split()[0], name, text) for name, text, result in lines if name == "clone3" and "CLONE_NEW" in text]
    return [(pid, name, text) for pid, name, text in made if pid.isdecimal()]


def _names(calls: list[tuple[str, str]], wanted: dict[str, str]) -> list[str]:
    """The trace's calls of the wanted kinds, in their order."""
    names = set(wanted.values())
    return [
        name
        for name, text in calls
        if name in names or name == "execve" or (name == "write" and KERNEL_FILES.search(text))
    ]


def _judged(lines: list[Line], wanted: dict[str, str]) -> list[str]:
    """strace's calls of the wanted kinds, under our names, in their order."""
    found = []
    begun = "chdir" in wanted  # the owner's own start, before it makes anything, is no part of the container
    for name, text, _ in lines:
        if name == "execve":
            if begun and "chdir" in wanted:
                found.append("execve")
                break  # from here on it is the command
            continue
        if name == "seccomp" and "{len=" not in text:
            continue  # libseccomp finds out what this kernel knows
        if name == "write" and KERNEL_FILES.search(text.split(",")[0]):
            found.append("write")
        elif name in wanted and "CLONE_VFORK" not in text:  # that is another program, nft; counted apart
            found.append(wanted[name])
    return found
