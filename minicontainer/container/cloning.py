"""The two ends of a process's life: clone3, also into an existing PID namespace, and the wait that leaves nothing."""

from __future__ import annotations

import os

from minicontainer import linux, state
from minicontainer.lean import signal


def clone_into(flags: int, cgroup: int | None, pid_namespace: int | None) -> tuple[int, int]:
    """clone3, the child to be born in an existing PID namespace if one is given.

    setns to a PID namespace changes only where the next children go, so it is set for the one clone and set back.
    The process must be single-threaded: no thread can be made while the two differ. pid_namespaces(7)
    """
    if pid_namespace is None:
        return linux.clone3(flags, cgroup)
    own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    pid = -1
    try:
        linux.setns(pid_namespace, linux.CLONE_NEWPID)
        try:
            pid, pidfd = linux.clone3(flags, cgroup)
        finally:
            if pid:
                _children_back_to(own)
        return pid, pidfd
    finally:
        os.close(own)


def _children_back_to(pid_namespace: int) -> None:
    """Tried twice: who fails here has a child that nobody knows, and all that follow in the wrong place."""
    try:
        linux.setns(pid_namespace, linux.CLONE_NEWPID)
    except OSError:
        linux.setns(pid_namespace, linux.CLONE_NEWPID)


def reap(pid: int, own_pids: bool) -> int:
    """Wait for a container's process that has ended, and end what it left in its session; its exit status.

    Without a PID namespace nothing ends the command's children with it. Those of its session are killed while its
    own number cannot yet be used again; one that made a session of its own escapes (which is what chapter 3 mends).
    """
    ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    if not own_pids:
        kill_session(pid)
    os.waitid(os.P_PID, pid, os.WEXITED)
    assert ended is not None
    return ended.si_status if ended.si_code == os.CLD_EXITED else 128 + ended.si_status


def kill_session(session: int) -> None:
    """Kill all processes of a session but its leader, again and again until none is left that could have forked."""
    found = True
    while found:
        found = False
        for name in os.listdir("/proc"):
            if name.isdecimal() and int(name) != session and state.start_time(int(name)):
                try:
                    if os.getsid(int(name)) == session:
                        os.kill(int(name), signal.SIGKILL)
                        found = True
                except ProcessLookupError:
                    continue
