"""The filter of system calls: read back from the kernel and compared with runc's, and tried by making calls."""

from __future__ import annotations

import copy
import ctypes.util
import errno
import json
import os
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import compiled
import filters
import peers
import pytest

from minicontainer import linux, state
from minicontainer.chroot import PivotRoot, User
from minicontainer.container import Container
from minicontainer.errors import HostError, StartError, UsageError
from minicontainer.linux import libseccomp
from minicontainer.namespaces import Namespaces
from minicontainer.security import Capabilities, NoNewPrivs, Seccomp, capabilities, policy
from minicontainer.security.notify import Listener

if TYPE_CHECKING:
    from pathlib import Path

    from minicontainer.container import Part

VIEWS = ("pid", "uts", "ipc", "mount", "network", "cgroup")
KEPT = capabilities.bits(capabilities.DEFAULT)
SLEEP = ["sleep", "1000"]
ARGUMENTS = [(), (40,), (2,), (0x7E020000,), (0x10000000,), (17,), (8,), (0xFFFFFFFF,), (1 << 40,), (2, 3, 9)]
ALLOW_ALL: dict[str, Any] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": []}

pytestmark = pytest.mark.skipif(os.uname().machine != "x86_64", reason="its numbers are those of x86_64")


def profile(*rules: dict[str, Any], **words: Any) -> dict[str, Any]:
    return {**ALLOW_ALL, "syscalls": list(rules), **words}


def ours(rootfs: str, *parts: Part) -> filters.Filter:
    with Container(SLEEP, Namespaces(*VIEWS), PivotRoot(rootfs), *parts).start(stdin=-3) as container:
        return filters.of(container.pid)


def runcs(rootfs: str, seccomp: dict[str, Any], kept: list[str]) -> filters.Filter:
    if not shutil.which("runc"):
        pytest.skip("runc is not installed")
    config = peers.spec(rootfs, SLEEP)
    words = [f"CAP_{name}" for name in kept]
    config["process"]["capabilities"] = dict.fromkeys(("bounding", "effective", "permitted"), words)
    config["linux"]["seccomp"] = seccomp
    found: filters.Filter = peers.run("runc", config, filters.of)
    return found


def differences(one: filters.Filter, other: filters.Filter) -> list[str]:
    found = []
    for arch in (filters.X86_64, filters.I386, filters.AARCH64):
        for number in [*range(600), *(0x40000000 + number for number in range(600)), 0xFFFFFFFF]:
            for words in ARGUMENTS:
                a, b = (filters.decide(program, arch, number, *words) for program in (one, other))
                if a != b:
                    found.append(f"{arch:#x} {number} {words}: {a}, {b}")
    return found


# --------------------------------------------------------------------------------------------- beside runc


@pytest.mark.parametrize("kept", [capabilities.DEFAULT, [*capabilities.DEFAULT, "SYS_ADMIN", "SYS_PTRACE"]])
def test_dockers_default_decides_as_the_same_profile_under_runc(rootfs: str, kept: list[str]) -> None:
    bits = capabilities.bits(kept)
    program = ours(rootfs, Capabilities(add=kept), Seccomp())
    assert differences(program, runcs(rootfs, policy.default(bits), kept)) == []
    assert filters.decide(program, filters.X86_64, 0) == "allow"
    assert filters.decide(program, filters.X86_64, 435) == ("allow" if "SYS_ADMIN" in kept else "errno 38")
    assert filters.decide(program, filters.X86_64, 599) == "errno 38"  # nobody has heard of it
    assert filters.decide(program, filters.X86_64, 169, 1) == "errno 1"  # reboot
    assert filters.decide(program, filters.AARCH64, 0) == "kill"


RULES = {
    "errno": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}],
    "kill": [{"names": ["ptrace"], "action": "SCMP_ACT_KILL"}],
    "kill the process": [{"names": ["ptrace", "kexec_load"], "action": "SCMP_ACT_KILL_PROCESS"}],
    "trap, trace, log": [
        {"names": ["chroot"], "action": "SCMP_ACT_TRAP"},
        {"names": ["acct"], "action": "SCMP_ACT_TRACE", "errnoRet": 7},
        {"names": ["sync"], "action": "SCMP_ACT_LOG"},
    ],
    "both of two arguments": [
        {
            "names": ["socket"],
            "action": "SCMP_ACT_ERRNO",
            "args": [
                {"index": 0, "value": 2, "op": "SCMP_CMP_EQ"},
                {"index": 1, "value": 3, "op": "SCMP_CMP_EQ"},
            ],
        }
    ],
    "one of two values": [
        {
            "names": ["socket"],
            "action": "SCMP_ACT_ERRNO",
            "errnoRet": 97,
            "args": [
                {"index": 0, "value": 40, "op": "SCMP_CMP_EQ"},
                {"index": 0, "value": 17, "op": "SCMP_CMP_EQ"},
            ],
        }
    ],
    "comparisons": [
        {"names": ["personality"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "value": 17, "op": op}]}
        for op in ("SCMP_CMP_LT", "SCMP_CMP_GT")
    ],
    "masked": [
        {
            "names": ["clone"],
            "action": "SCMP_ACT_ERRNO",
            "args": [{"index": 0, "value": 0x10000000, "valueTwo": 0x10000000, "op": "SCMP_CMP_MASKED_EQ"}],
        }
    ],
    "a call that nobody knows": [{"names": ["sysctl_of_the_moon", "mkdir"], "action": "SCMP_ACT_ERRNO"}],
}


@pytest.mark.parametrize("which", RULES)
@pytest.mark.parametrize("default", ["SCMP_ACT_ALLOW", "SCMP_ACT_LOG"])
def test_a_profile_decides_as_under_runc(rootfs: str, which: str, default: str) -> None:
    wanted = profile(*RULES[which], defaultAction=default, architectures=["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"])
    program = ours(rootfs, Seccomp(wanted))
    assert differences(program, runcs(rootfs, copy.deepcopy(wanted), ["SYS_ADMIN"])) == []
    tried = {
        filters.decide(program, filters.X86_64, number, *arguments) for number in range(450) for arguments in ARGUMENTS
    }
    assert len(tried) > 1


def test_without_architectures_only_the_machines_own_may_call(rootfs: str) -> None:
    program = ours(rootfs, Seccomp(profile(*RULES["errno"])))
    assert filters.decide(program, filters.X86_64, 0) == "allow"
    assert filters.decide(program, filters.I386, 3) == "kill"
    assert differences(program, runcs(rootfs, profile(*RULES["errno"]), [])) == []


# ------------------------------------------------------------------------------------------------ real calls


def call(rootfs: str, calls: list[str], *parts: Part, **how: Any) -> list[int]:
    compiled.build(compiled.CALL, f"{rootfs}/bin/call")
    container = Container(["/bin/call", *calls], Namespaces(*VIEWS), PivotRoot(rootfs), *parts, **how)
    return [int(word) for word in container.output().split()]


@pytest.mark.lab
def test_the_default_refuses_what_reaches_the_kernels_heart(rootfs: str) -> None:
    calls = ["321,99", "246", "175", "272,0x10000000", "304", "308,-1", "435", "248", "173,-1", "41,40,1,0", "39"]
    parts = [Capabilities(), Seccomp()]
    # bpf, kexec_load, init_module, unshare, open_by_handle_at, setns, clone3, add_key, ioperm, socket(AF_VSOCK), getpid
    wanted = [errno.EPERM] * 6 + [errno.ENOSYS] + [errno.EPERM] * 3 + [0]
    assert call(rootfs, calls, *parts) == wanted
    assert call(rootfs, calls, *parts, init=True) == wanted
    assert call(rootfs, calls, *parts, User("learner"), NoNewPrivs()) == wanted
    free = call(rootfs, calls, Capabilities(), NoNewPrivs())
    assert free[7] != errno.EPERM  # add_key: it is the filter that refused it
    assert free[9] != errno.EPERM or not os.path.exists("/dev/vsock")


def test_clone_may_fork_but_not_make_namespaces(rootfs: str) -> None:
    assert call(rootfs, ["56,0x10000011"], Capabilities(), Seccomp()) == [errno.EPERM]
    script = ["sh", "-c", "(echo forked)"]
    text = Container(script, Namespaces(*VIEWS), PivotRoot(rootfs), Capabilities(), Seccomp()).output()
    assert text == "forked\n"


def test_an_errno_of_the_profiles_own_arrives(rootfs: str) -> None:
    found = call(rootfs, ["83,0", "76,0"], Seccomp(profile(*RULES["errno"])))
    assert found == [errno.ENOSPC, errno.EFAULT]


@pytest.mark.parametrize(("action", "status"), [("SCMP_ACT_KILL_PROCESS", 159), ("SCMP_ACT_KILL", 159)])
def test_a_call_that_kills_kills(rootfs: str, action: str, status: int) -> None:
    compiled.build(compiled.CALL, f"{rootfs}/bin/call")
    part = Seccomp(profile({"names": ["acct"], "action": action}))
    assert Container(["/bin/call", "163"], Namespaces(*VIEWS), PivotRoot(rootfs), part).run() == status


def test_a_strict_list_needs_only_what_a_start_and_the_command_need(rootfs: str) -> None:
    """After the filter is loaded our own process says one word to the host's side, and executes."""
    needed = "execve sendto write exit_group brk arch_prctl mmap mprotect munmap readlink readlinkat newfstatat fstat "
    needed += "set_tid_address set_robust_list rseq prlimit64 getrandom uname getuid geteuid setuid setgid getgid prctl"
    strict = profile(
        {"names": needed.split(), "action": "SCMP_ACT_ALLOW"}, defaultAction="SCMP_ACT_ERRNO", defaultErrnoRet=1
    )
    argv = ["echo", "strict"]
    parts = [Capabilities(), NoNewPrivs(), Seccomp(strict)]
    assert Container(argv, Namespaces(*VIEWS), PivotRoot(rootfs), *parts).output() == "strict\n"


def test_without_rights_and_without_no_new_privs_it_cannot_be_loaded(rootfs: str) -> None:
    with pytest.raises(HostError, match="no_new_privs"):
        Container(["true"], PivotRoot(rootfs), User("learner"), Seccomp()).run()
    assert Container(["true"], PivotRoot(rootfs), User("learner"), Seccomp(), NoNewPrivs()).run() == 0


# ---------------------------------------------------------------------------------- profiles, files, the cache


def test_dockers_own_form_is_understood(tmp_path: Path) -> None:
    docker = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "archMap": [
            {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
            {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
        ],
        "syscalls": [
            {"names": ["read"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["cacheflush"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["arm64"]}},
            {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
            {"names": ["fork"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "99.0"}},
        ],
    }
    (tmp_path / "profile.json").write_text(json.dumps(docker))
    plain = policy.resolved(policy.read(str(tmp_path / "profile.json")), KEPT)
    assert [rule["names"] for rule in plain["syscalls"]] == [["read"], ["clone"], ["ptrace"]]
    assert plain["architectures"] == ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]
    privileged = policy.resolved(docker, capabilities.ALL)
    assert [rule["names"] for rule in privileged["syscalls"]] == [["read"], ["mount"], ["ptrace"]]


BAD = {
    "nothing": {},
    "no such action": profile(defaultAction="SCMP_ACT_MAYBE"),
    "no such word": profile(defaultActions="x"),
    "a rule's word": profile({"names": ["read"], "action": "SCMP_ACT_ALLOW", "arg": []}),
    "no such flag": profile(flags=["SECCOMP_FILTER_FLAG_MAYBE"]),
    "no names": profile({"action": "SCMP_ACT_ERRNO"}),
    "no action": profile({"names": ["read"]}),
}
BAD_LATER = {
    "no such architecture": profile(architectures=["SCMP_ARCH_Z80"]),
    "no such comparison": profile(
        {"names": ["read"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_X"}]}
    ),
    "a seventh argument": profile(
        {"names": ["read"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}]}
    ),
    "no errno": profile({"names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 70000}),
}


@pytest.mark.parametrize("which", BAD)
def test_a_profile_that_makes_no_sense_is_refused_at_once(which: str) -> None:
    with pytest.raises(UsageError, match="seccomp profile"):
        Seccomp(BAD[which])


@pytest.mark.parametrize("which", BAD_LATER)
def test_a_rule_that_makes_no_sense_is_refused_before_anything_starts(rootfs: str, which: str) -> None:
    with pytest.raises((UsageError, StartError), match="seccomp profile"):
        Container(["true"], PivotRoot(rootfs), Seccomp(BAD_LATER[which])).run()


def test_a_file_that_is_no_profile(tmp_path: Path) -> None:
    (tmp_path / "broken").write_text("{")
    (tmp_path / "list").write_text("[]")
    for name in ("broken", "list", "missing"):
        with pytest.raises(UsageError, match=name):
            Seccomp(str(tmp_path / name))


def test_the_second_start_needs_no_library(rootfs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = ours(rootfs, Capabilities(), Seccomp())
    assert os.listdir(f"{state.exec_root()}/seccomp")
    monkeypatch.setattr(libseccomp, "_load", _no_library)
    assert ours(rootfs, Capabilities(), Seccomp()) == first


def test_a_machine_without_libseccomp_is_told_so(rootfs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libseccomp, "_load", _no_library)
    with pytest.raises(HostError, match="libseccomp") as caught:
        Container(["true"], PivotRoot(rootfs), Seccomp(profile(*RULES["kill"], defaultErrnoRet=None))).run()
    assert "apt-get install libseccomp2" in str(caught.value)


def _no_library() -> None:
    raise libseccomp.Missing(2, "libseccomp.so.2: cannot open shared object file")


def test_the_trace_shows_the_call(rootfs: str) -> None:
    with linux.trace() as calls:
        assert Container(["true"], Namespaces(*VIEWS), PivotRoot(rootfs), Capabilities(), Seccomp()).run() == 0
    ((label, arguments),) = [(call.label, call.arguments) for call in calls if call.name == "seccomp"]
    assert label == "Seccomp.seal"
    assert "<filter>" in arguments


def test_strace_sees_the_filter_and_then_little_more(rootfs: str, shared_path: Path) -> None:
    assert shutil.which("strace"), "strace belongs to what `make test` installs"
    program = f"""
import sys
from minicontainer import *
from minicontainer.security import *
parts = Namespaces("pid"), PivotRoot({rootfs!r}), Capabilities(), NoNewPrivs(), Seccomp()
sys.exit(Container(["true"], *parts).run())
"""
    log = shared_path / "strace"
    words = ["strace", "-f", "-o", str(log), "python3", "-c", program]
    import sys

    words[4] = sys.executable
    subprocess.run(words, check=True, timeout=60)
    lines = [line.split(maxsplit=1) for line in log.read_text().splitlines()]
    at = next(n for n, (_, text) in enumerate(lines) if text.startswith("seccomp(") and "{len=" in text)
    pid = lines[at][0]
    # (a call that another process's interrupted in the log ends on a line of its own)
    after = [text.partition("(")[0] for who, text in lines[at + 1 :] if who == pid and not text.startswith("<...")]
    assert set(after[: after.index("execve")]) <= {"sendto"}


def test_a_number_has_its_name_and_a_name_its_number() -> None:
    names = {number: libseccomp.name_of("x86_64", number) for number in range(600)}
    assert (names[0], names[39], names[400], names[599]) == ("read", "getpid", "", "")
    assert all(libseccomp.number_of("x86_64", name) == number for number, name in names.items() if name)


def test_libseccomp_is_there() -> None:
    assert ctypes.util.find_library("seccomp")


# ------------------------------------------------------------------------------------------ calls that are asked about


def test_a_listener_decides(rootfs: str) -> None:
    wanted = profile({"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY"})
    script = "mkdir /tmp/yes && echo made; mkdir /tmp/no || echo refused; mkdir /tmp/lie && ls /tmp; true"
    said = os.memfd_create("said")
    container = Container(["sh", "-c", script], Namespaces(*VIEWS), PivotRoot(rootfs), Seccomp(wanted))
    container.start(stdin=-3, stdout=said, stderr=-3)
    asked = []
    try:
        with Listener(container) as listener:
            for one in listener:
                name = one.text(0)
                asked.append(name)
                {"/tmp/yes": one.go_on, "/tmp/no": one.refuse, "/tmp/lie": one.give}[name]()
        assert container.wait(10) == 0
    finally:
        container.remove()
    assert asked == ["/tmp/yes", "/tmp/no", "/tmp/lie"]
    assert os.pread(said, 100, 0) == b"made\nrefused\nyes\n"
    os.close(said)


def test_a_filter_that_asks_nobody_has_no_listener(rootfs: str) -> None:
    with (
        Container(SLEEP, Namespaces("pid"), PivotRoot(rootfs), Seccomp()).start(stdin=-3) as container,
        pytest.raises(UsageError, match="SCMP_ACT_NOTIFY"),
    ):
        Listener(container)
    with pytest.raises(UsageError, match="ask about the exec itself"):
        Container(SLEEP, PivotRoot(rootfs), Seccomp(profile(defaultAction="SCMP_ACT_NOTIFY"))).start()
