"""The walk: a container's life, with each of its system calls failing once.

One good run is counted. Then the same container is run again and again, and the first time the first call fails, the
second time the second, and so on; once for the calls of the host's side, once for those of the container's own
process. Each time there are two good ends: one clear error, or a container that works all the same because the
failure was of no importance. And each time nothing is left, at the latest after a second `release`.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from minicontainer import leaks, linux, state
from minicontainer.cgroups import Cgroup
from minicontainer.chroot import Bind, Chroot, PivotRoot, Terminal, Tmpfs, User
from minicontainer.container import Container, Part, spawner
from minicontainer.errors import ContainerError
from minicontainer.namespaces import Namespaces
from minicontainer.network import Bridge, NoNetwork
from minicontainer.overlayfs import Overlay
from minicontainer.security import OomScore, Rlimits, defaults

if TYPE_CHECKING:
    from collections.abc import Callable

    Make = Callable[[], list[Part]]

SAYS = "it works"


def everything(rootfs: str) -> Make:
    """A container with a part of each chapter."""
    return lambda: [
        Namespaces("mount", "uts", "ipc", "pid", "cgroup", "time", hostname="walk", clock_offsets={"boottime": 60}),
        Cgroup(memory="64M", cpus=0.5, pids=50),
        Overlay([rootfs], volatile=True),
        PivotRoot(read_only=True),
        Bind(rootfs, "/data/deep", read_only=True),
        Tmpfs("/scratch", "size=1m"),
        NoNetwork(),
        User("learner"),
        Rlimits(core=0),
        OomScore(100),
        *defaults.default(),
    ]


def with_users(rootfs: str) -> Make:
    """One whose root is nobody outside."""
    return lambda: [
        Namespaces("mount", "uts", "ipc", "pid", "network", "user"),
        Overlay([rootfs]),
        PivotRoot(),
    ]


def with_address(rootfs: str) -> Make:
    """One with an address and a published port."""
    return lambda: [
        Namespaces("uts", "ipc", "pid"),
        Overlay([rootfs], volatile=True),
        PivotRoot(masked=(), read_only_paths=()),
        Bridge(publish=["0:80"]),
    ]


def with_terminal(rootfs: str) -> Make:
    """One with a terminal of its own, in a root without an overlay."""
    return lambda: [Namespaces("pid"), PivotRoot(rootfs), Terminal()]


def naive(rootfs: str) -> Make:
    """One that only has another root."""
    return lambda: [Chroot(rootfs)]


class Life:
    """One run of the container, with a fault."""

    def __init__(self, make: Make, watcher: linux.Watch) -> None:
        self.container = Container(["sh", "-c", f"echo {SAYS}"], *make())
        self.error: BaseException | None = None
        self.output, self.code = "", -1
        with open(os.memfd_create("output"), "w+b") as file:
            with linux.watch(watcher):
                try:
                    self.code = self.container.run(stdin=-3, stdout=file, stderr=file, timeout=60)
                except (ContainerError, OSError) as error:
                    self.error = error
            file.seek(0)
            self.output = file.read().decode()
        self.container.release()  # the second one, with nothing failing: it completes what the first could not

    def check(self, which: str) -> None:
        if self.error is None:
            assert self.code == 0, f"{which}: no error, but status {self.code} and {self.output!r}"
            return
        text = str(self.error)
        assert "EIO" in text, f"{which}: the error does not say what failed: {text}"
        assert self.output in ("", f"{SAYS}\n"), f"{which}: {self.output!r}"


def walk(make: Make, *, inside: bool, wanted: Callable[[linux.Call], bool] = lambda call: True) -> int:
    """Take the container along the walk; how many calls were made to fail."""
    good = linux.Watch()
    life = Life(make, good)
    assert life.error is None, life.error
    ours = [call for call in good.calls if (call.pid != os.getpid()) == inside]
    steps = [number for number, call in enumerate(ours, 1) if wanted(call) and call.name != "execve"]
    names = {number: ours[number - 1] for number in steps}
    before = leaks.snapshot("host")
    for number in steps:
        fault = {"inside_fail_at": number} if inside else {"fail_at": number}
        life = Life(make, linux.Watch(fail_errno=errno.EIO, **fault))
        which = f"{names[number].label} {names[number].name} (call {number})"
        life.check(which)
        left = leaks.left_since(before)
        assert not left, f"{which} left {left}"
        assert not os.path.exists(f"{state.exec_root()}/{life.container.id}"), which
    return len(steps)


@pytest.mark.parametrize("inside", [False, True], ids=["host", "inside"])
@pytest.mark.parametrize("kind", [everything, with_users, with_terminal, naive])
def test_whichever_call_fails_nothing_is_left(rootfs: str, kind: Callable[[str], Make], inside: bool) -> None:
    Container(["true"], *kind(rootfs)()).run(stdin=-3, stdout=-3, timeout=60)
    least = {everything: 40, with_users: 20, with_terminal: 1, naive: 1}[kind]
    assert walk(kind(rootfs), inside=inside) >= least


@pytest.mark.parametrize("inside", [False, True], ids=["host", "inside"])
def test_whichever_call_of_the_network_fails_nothing_is_left(rootfs: str, inside: bool) -> None:
    Container(["true"], *with_address(rootfs)()).run(timeout=60)
    assert walk(with_address(rootfs), inside=inside, wanted=lambda call: call.label.startswith("Bridge")) > 5


def test_without_a_spawner_too(rootfs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spawner, "choose", lambda own_pids: None)
    assert walk(everything(rootfs), inside=False, wanted=lambda call: call.label.startswith("Container")) > 0
    assert walk(everything(rootfs), inside=True, wanted=lambda call: call.label.startswith("Namespaces")) > 2


def test_a_fault_that_is_armed_strikes(rootfs: str) -> None:
    """The walk itself can fail: the call it breaks does not reach the kernel."""
    calls: list[linux.Call] = []
    watcher = linux.Watch(calls.append, fail_at=1, fail_errno=errno.ENOSPC)
    life = Life(with_users(rootfs), watcher)
    assert life.error is not None
    assert "ENOSPC" in str(life.error)
    assert calls[0].errno == errno.ENOSPC
