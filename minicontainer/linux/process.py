"""Making, naming, waiting for and ending processes: clone(2), pidfd_open(2), waitid(2), prctl(2), execve(2)."""

from __future__ import annotations

import os

from minicontainer.linux import c
from minicontainer.linux.door import flags, syscall
from minicontainer.linux.libc import NUMBERS, by_number, c_int, c_long, c_uint, c_ulong, c_void_p, function

CLONE_NEWTIME = 0x00000080
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_PIDFD = 0x00001000
CLONE_PARENT = 0x00008000
CLONE_INTO_CGROUP = 0x200000000

CLOSE_RANGE_CLOEXEC = 4
SIGCHLD = 17

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_SET_NAME = 15
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_GET_NO_NEW_PRIVS = 39
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
PR_CAP_AMBIENT_CLEAR_ALL = 4


class _CloneArgs(c.Structure):
    """struct clone_args of <linux/sched.h>, all of it."""

    _fields_ = tuple(
        (name, c.c_uint64)
        for name in (
            "flags",
            "pidfd",
            "child_tid",
            "parent_tid",
            "exit_signal",
            "stack",
            "stack_size",
            "tls",
            "set_tid",
            "set_tid_size",
            "cgroup",
        )
    )


# A clone without a new stack is a fork, and Python has to be told about forks. `locked` keeps the interpreter's
# lock through the call: another thread that got it in the child would not exist there.
_clone3 = c.function("syscall", (c_long, c_void_p, c.c_size_t), c_long, locked=True)
_before_fork, _after_fork_child, _after_fork_parent = (
    c.function(f"PyOS_{moment}", (), None, locked=True)
    for moment in ("BeforeFork", "AfterFork_Child", "AfterFork_Parent")
)


@syscall(show={"flags": "CLONE_"})
def clone3(flags: int = 0, cgroup: int | None = None) -> tuple[int, int]:
    """Fork this process into the new namespaces that `flags` name.

    Returns (pid, pidfd) in the parent and (0, -1) in the child. `cgroup` is a file descriptor of a cgroup v2
    directory: the child is born in it (CLONE_INTO_CGROUP). With CLONE_PARENT it is our parent's child, not ours. Call
    it from a process with one thread only: in any other, a lock that another thread holds stays locked in the child
    for ever. clone(2)
    """
    pidfd = c.c_int(-1)
    exit_signal = 0 if flags & CLONE_PARENT else SIGCHLD  # a sibling's is ours, and no other may be asked for
    args = _CloneArgs(flags=flags | CLONE_PIDFD, pidfd=c.addressof(pidfd), exit_signal=exit_signal)
    if cgroup is not None:
        args.flags |= CLONE_INTO_CGROUP
        args.cgroup = cgroup
    number = NUMBERS["clone3"]
    _before_fork()
    pid: int = _clone3(number, c.byref(args), c.sizeof(args))
    failed = c.get_errno() if pid < 0 else 0
    if pid == 0:
        _after_fork_child()
        return 0, -1
    _after_fork_parent()
    if failed:
        raise OSError(failed, os.strerror(failed))
    return pid, pidfd.value


def clone_flags(value: int) -> str:
    """`CLONE_NEWNS|CLONE_NEWPID` for the number that clone3 takes."""
    return flags("CLONE_", value, globals())


@syscall()
def pidfd_open(pid: int) -> int:
    """A file descriptor that means this process and never another one with the same number. pidfd_open(2)"""
    return os.pidfd_open(pid)


_pidfd_send_signal = by_number("pidfd_send_signal", c_int, c_int, c_void_p, c_uint)


@syscall()
def pidfd_send_signal(pidfd: int, signal: int) -> None:
    """Signal exactly the process behind `pidfd`. pidfd_send_signal(2)"""
    _pidfd_send_signal(pidfd, signal, None, 0)


@syscall()
def kill(pid: int, signal: int) -> None:
    """Signal a process, or a process group when `pid` is negative. kill(2)"""
    os.kill(pid, signal)


@syscall()
def waitid(pidfd: int, options: int = os.WEXITED) -> os.waitid_result | None:
    """Wait for the child behind `pidfd`; None when WNOHANG is given and it still runs. waitid(2)"""
    return os.waitid(os.P_PIDFD, pidfd, options)


_prctl = function("prctl", c_int, c_ulong, c_ulong, c_ulong, c_ulong)


@syscall(show={"option": "PR_"})
def prctl(option: int, value: int, third: int = 0) -> int:
    """Change, or tell, an attribute of this process. prctl(2)"""
    return _prctl(option, value, third, 0, 0)


_personality = function("personality", c_ulong)


@syscall()
def personality(domain: int) -> int:
    """Change what kind of system this process believes it is on; the one before. personality(2)"""
    return _personality(domain)


class _SchedAttr(c.Structure):
    """struct sched_attr of <linux/sched/types.h>, its first version."""

    _fields_ = (
        ("size", c.c_uint32),
        ("policy", c.c_uint32),
        ("flags", c.c_uint64),
        ("nice", c.c_int32),
        ("priority", c.c_uint32),
        ("runtime", c.c_uint64),
        ("deadline", c.c_uint64),
        ("period", c.c_uint64),
    )


_sched_setattr = by_number("sched_setattr", c_int, c_void_p, c_uint)
_ioprio_set = by_number("ioprio_set", c_int, c_int, c_int)


@syscall()
def sched_setattr(
    policy: int, flags: int = 0, nice: int = 0, priority: int = 0, runtime: int = 0, deadline: int = 0, period: int = 0
) -> None:
    """When this process gets a CPU; times in nanoseconds. sched_setattr(2)"""
    attr = _SchedAttr(c.sizeof(_SchedAttr), policy, flags, nice, priority, runtime, deadline, period)
    _sched_setattr(0, c.byref(attr), 0)


@syscall()
def ioprio_set(priority: int) -> None:
    """When this process gets a disk: the class in the bits from 13 on, the level below. ioprio_set(2)"""
    _ioprio_set(1, 0, priority)  # IOPRIO_WHO_PROCESS, ourselves


_close_range = by_number("close_range", c_uint, c_uint, c_uint)


@syscall()
def close_range(first: int, last: int = 0xFFFFFFFF, flags: int = 0) -> None:
    """Close all descriptors from `first` to `last`, or mark them close-on-exec. close_range(2)"""
    _close_range(first, last, flags)


@syscall()
def setsid() -> int:
    """Start a session of its own, with no controlling terminal. setsid(2)"""
    os.setsid()
    return os.getpid()


@syscall()
def dup2(old: int, new: int) -> int:
    """Make `new` a copy of the descriptor `old`, inherited by what is executed. dup2(2)"""
    return os.dup2(old, new, inheritable=True)


@syscall()
def execve(path: str, argv: list[str], env: dict[str, str]) -> None:
    """Become another program. Returns only by an error. execve(2)"""
    os.execve(path, argv, env)


def raw(name: str, *args: int) -> int:
    """A system call by name and integers alone: for showing what lies below every function of this folder."""
    return by_number(name, *([c_long] * len(args)))(*args)
