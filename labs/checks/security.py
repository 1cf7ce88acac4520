"""The checks of lab 08: rights read, taken and given; a filter; a way out; and a part."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import stat
import struct
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

from labs.checks import frame
from labs.checks.engine import module_tests
from labs.checks.frame import Lab, attempt, expect, until
from minicontainer import Container, linux
from minicontainer.linux import libseccomp
from minicontainer.security import breakouts, capabilities
from minicontainer.security.breakouts import docker
from minicontainer.security.capabilities import bits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

lab = Lab("08-security")

STATUS = ["/bin/grep", "-E", "^(Uid|Gid|Groups|Cap)", "/proc/self/status"]


@lab.exercise("what may it do?")
def may(answer: Callable[[int], list[str]]) -> str:
    """Processes whose five sets all differ."""
    with (
        Container(lambda: _pause(["CHOWN", "KILL"], ["CHOWN", "KILL", "NET_RAW"], ["NET_RAW"])).start() as one,
        Container(lambda: _pause([], ["SETUID"], ["SETUID"])).start() as two,
        Container(lambda: _pause(["CHOWN", "SYS_ADMIN", "BPF"], ["CHOWN", "SYS_ADMIN", "BPF"], [])).start() as three,
    ):
        wanted = [["CHOWN", "KILL"], [], ["CHOWN", "SYS_ADMIN", "BPF"]]
        pids = [one.pid, two.pid, three.pid]
        for pid, names in zip(pids, wanted, strict=True):
            until(lambda pid=pid, names=names: capabilities.of(pid)["effective"] == bits(names), 5)  # type: ignore[misc]
        seen = attempt(lambda: [_listed(answer(pid)) for pid in pids], answer).value
    for got, names in zip(seen, wanted, strict=True):
        expect(
            got == names,
            saw=f"a process with {', '.join(names) or 'nothing'} effective",
            wanted=f"{names}, and not {got}",
        )
    return "right for processes whose effective, permitted, inheritable and bounding sets all differ"


@lab.exercise("gone for good")
def run_without(answer: Callable[[str, list[str]], int]) -> str:
    """A program says what it has; what this process has is looked at before and afterwards."""
    for name in ("CHOWN", "SYS_CHROOT"):
        before = capabilities.of()

        def ask(name: str = name) -> dict[str, Any]:
            ours = capabilities.of()
            return {
                "status": answer(name, ["/bin/sh", "-c", f"{' '.join(map(_quoted, STATUS))}; exit 7"]),
                **_ours(ours),
            }

        attempted = attempt(ask, answer, capture=True)
        program = _sets(attempted.output)
        for field, what in (("CapBnd", "bounding"), ("CapPrm", "permitted"), ("CapEff", "effective")):
            kept = program[field]
            expect(
                not kept & bits([name]), saw=f"the program's {what} set has {name}", wanted="that it is gone from there"
            )
            lost = capabilities.names(before["bounding"] & ~bits([name]) & ~kept)
            expect(not lost, saw=f"its {what} set lacks {', '.join(lost[:4])} as well", wanted=f"all but {name}")
        expect(
            attempted.value["status"] == 7,
            saw=f"{attempted.value['status']!r} for a program that exits with 7",
            wanted="7",
        )
        expect(
            not attempted.value["lost"],
            saw=f"the caller has lost {attempted.value['lost']} itself",
            wanted="that it keeps all",
        )
    return "the program cannot get it back by any exec, has all the others, and its caller has lost nothing"


@lab.exercise("a user with exactly one")
def run_as(answer: Callable[[int, str, list[str]], int]) -> str:
    """A caller with supplementary groups; the program says who it is and what it has."""
    for user, name in ((1000, "NET_BIND_SERVICE"), (1001, "SYS_NICE")):

        def ask(user: int = user, name: str = name) -> int:
            os.setgroups([7, 8])
            return answer(user, name, ["/bin/sh", "-c", f"{' '.join(map(_quoted, STATUS))}; exit 5"])

        attempted = attempt(ask, answer, capture=True)
        expect(
            "CapEff" in attempted.output,
            saw=f"the program did not run; {attempted.value!r} came back",
            wanted="that it runs, and its exit status",
        )
        lines = dict(line.split(":", 1) for line in attempted.output.splitlines())
        for field, what in (("Uid", "user"), ("Gid", "group")):
            numbers = lines[field].split()
            expect(
                numbers == [str(user)] * 4, saw=f"it runs as {what} {' '.join(numbers)}", wanted=f"{user}, four times"
            )
        expect(not lines["Groups"].split(), saw=f"it is in the groups{lines['Groups']}", wanted="no other group")
        for field, what in (("CapEff", "effective"), ("CapPrm", "permitted"), ("CapAmb", "ambient")):
            found = capabilities.names(int(lines[field], 16))
            expect(found == [name], saw=f"its {what} set is {_few(found)}", wanted=f"{name}, and no other")
        expect(attempted.value == 5, saw=f"{attempted.value!r} for a program that exits with 5", wanted="5")
    return "an ordinary user's program, in no other group, with one capability and no other"


@lab.exercise("refuse a call")
def refuse(answer: Callable[[int, int], bytes]) -> str:
    """The filter is executed here first, which can say what is wrong with it, and then by the kernel."""
    machine = os.uname().machine
    here, foreign = HERE[machine], [it for it in (*HERE.values(), I386) if it != HERE[machine]]
    trials = [("kill", errno.ENOSPC), ("getpriority", errno.EXDEV)]
    for name, error in trials:
        number = libseccomp.number_of(machine, name)

        def ask(number: int = number, error: int = error) -> dict[str, str]:
            program = answer(number, error)
            return {"hex": program.hex()} if isinstance(program, bytes) else {"type": type(program).__name__}

        got = attempt(ask, answer).value
        expect("hex" in got, saw=f"{got.get('type')} came back", wanted="bytes: the instructions, one after the other")
        program = bytes.fromhex(got["hex"])
        found = _decide(program, here, number)
        expect(
            found == f"errno {error}",
            saw=f"to {name}, number {number}, the filter answers {found!r}",
            wanted=f"errno {error} ({errno.errorcode[error]})",
        )
        for other in range(450):
            found = _decide(program, here, other, number, number)
            expect(
                other == number or found == "allow",
                saw=f"to number {other} the filter answers {found!r}",
                wanted=f"'allow': only {number} is to be refused",
            )
        for architecture in foreign:
            answers = {_decide(program, architecture, other) for other in range(450)}
            expect(
                answers == {"kill"},
                saw=f"to calls of another architecture the filter answers {' and '.join(sorted(answers))!r}",
                wanted="'kill' to each: there, the numbers mean other calls",
            )

        def load(program: bytes = program) -> list[int]:
            linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
            linux.seccomp(program)
            calls = {"kill": lambda: os.kill(os.getpid(), 0), "getpriority": lambda: os.getpriority(os.PRIO_PROCESS, 0)}
            return [_errno(calls[call]) for call, _ in trials]

        codes = attempt(load, answer).value
        expect(
            codes == [error if call == name else 0 for call, _ in trials],
            saw=f"under the filter, kill and getpriority end with errno {codes}",
            wanted=f"{error} for {name}, 0 for the other",
        )
    return (
        "loaded into the kernel it refuses that call and no other, and the numbers of other architectures do not pass"
    )


@lab.exercise("out")
def read_disk(answer: Callable[[int, int], str]) -> str:
    """The decoy is a loop device. First without the part Devices; then, what worked is tried against Docker's set."""
    with _root() as rootfs, (attack := breakouts.RawDisk(rootfs)):
        os.makedirs(rootfs + os.getcwd(), exist_ok=True)  # an attempt begins in the directory that it was made in
        number, token = attack.number, attack.token
        # the attempt has a control group of its own, so without the parts that need one before them
        parts = [part for part in attack.naive() if type(part).__name__ not in ("Cgroup", "CgroupFiles")]
        seen = attempt(lambda: answer(breakouts.kernel.LOOP_MAJOR, number), answer, *parts).value
        expect(isinstance(seen, str), saw=f"{seen!r} came back", wanted="what stands on the disk, as text")
        expect(token in seen, saw=f"{seen[:40]!r} came back, and that is not on the decoy", wanted="its first 64 bytes")
        expect(len(seen) == 64, saw=f"{len(seen)} characters", wanted="64")
        left = [path for path in _files(rootfs) if stat.S_ISBLK(os.lstat(path).st_mode)]
        expect(
            not left,
            saw=f"a device node is left at {', '.join(path.removeprefix(rootfs) for path in left)}",
            wanted="none in the container's files",
        )
        held = Container(lambda: _said(answer, breakouts.kernel.LOOP_MAJOR, number), *docker(rootfs))
        held.run(timeout=frame.SECONDS)
        expect(token not in str(held.returned), saw="it gets out of Docker's set too", wanted="that Devices holds it")
    return f"your attack read the decoy's secret; against Docker's set the kernel answered {held.returned}"


@lab.exercise("your capabilities, in the engine")
def part(answer: Callable[..., Any]) -> str:
    """Is there anything yet? Then the engine uses it, and the module's own tests run."""

    def make() -> None:
        answer(drop=["NET_RAW"])

    attempt(make, answer)
    Container(["true"], answer()).run(timeout=frame.SECONDS)
    return module_tests(answer, "minicontainer.security.capabilities:Capabilities", "test_security.py")


# ------------------------------------------------------------------------------------------------------- helpers

HERE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
I386 = 0x40000003
_ENDINGS = {0x7FFF: "allow", 0x0005: "errno"}
_JUMPS: dict[int, Callable[[int, int], bool]] = {
    0x15: lambda a, k: a == k,
    0x25: lambda a, k: a > k,
    0x35: lambda a, k: a >= k,
    0x45: lambda a, k: bool(a & k),
}


def _decide(program: bytes, architecture: int, number: int, *arguments: int) -> str:
    """What a filter answers, executed as the kernel would; words for what the kernel would not even load."""
    if not program or len(program) % 8:
        return f"nothing: {len(program)} bytes are no instructions of 8 bytes each"
    instructions = list(struct.iter_unpack("=HBBI", program))
    data = struct.pack("=IIQ6Q", number, architecture, 0, *[*arguments, 0, 0, 0, 0, 0, 0][:6])
    register, at = 0, 0
    while at < len(instructions):
        code, if_true, if_false, constant = instructions[at]
        at += 1
        if code == 0x20:
            if constant % 4 or constant > len(data) - 4:
                return f"nothing: there is nothing to load at {constant}"
            (register,) = struct.unpack_from("=I", data, constant)
        elif code == 0x06:
            ending = _ENDINGS.get(constant >> 16, "kill")
            return f"{ending} {constant & 0xFFFF}" if ending == "errno" else ending
        elif code in _JUMPS:
            at += if_true if _JUMPS[code](register, constant) else if_false
        elif code == 0x05:
            at += constant
        else:
            return f"nothing: there is no instruction {code:#x}"
    return "nothing: it runs past its last instruction"


def _pause(effective: list[str], permitted: list[str], inheritable: list[str]) -> None:
    linux.capset(bits(effective), bits(permitted), bits(inheritable))
    signal.pause()


def _listed(found: object) -> object:
    return found if found is None or isinstance(found, str | int) else list(found)  # type: ignore[call-overload]


def _ours(before: dict[str, int]) -> dict[str, str]:
    """What this process has lost since then, in words."""
    after = capabilities.of()
    kinds = [kind for kind in ("effective", "permitted", "bounding") if before[kind] & ~after[kind]]
    return {"lost": " and ".join(f"a {kind} one" for kind in kinds)}


def _sets(text: str) -> dict[str, int]:
    lines = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    expect("CapEff" in lines, saw=f"the program says {text[:60]!r}", wanted="that it runs, as root")
    return {key: int(value, 16) for key, value in lines.items() if key.startswith("Cap")}


def _few(names: list[str]) -> str:
    return "empty" if not names else ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _quoted(word: str) -> str:
    return f"'{word}'"


def _errno(call: Callable[[], object]) -> int:
    try:
        call()
    except OSError as error:
        return error.errno or 0
    return 0


def _said(answer: Callable[[int, int], str], major: int, minor: int) -> str:
    try:
        return answer(major, minor)
    except OSError as error:
        return linux.errno_name(error.errno or 0)


def _files(top: str) -> list[str]:
    return [f"{folder}/{name}" for folder, _, names in os.walk(top) for name in names]


@contextmanager
def _root() -> Iterator[str]:
    """Busybox and empty directories."""
    folder = tempfile.mkdtemp(prefix="minicontainer-lab-", dir="/var/tmp")
    try:
        os.chmod(folder, 0o755)
        for name in ("bin", "dev", "etc", "proc", "sys", "tmp"):
            os.makedirs(f"{folder}/rootfs/{name}")
        shutil.copy("/bin/busybox", f"{folder}/rootfs/bin/busybox")
        yield f"{folder}/rootfs"
    finally:
        shutil.rmtree(folder)
