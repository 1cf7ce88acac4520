"""The checks of lab 09: whose namespaces, a bundle, a state, a hook that brings an address, and a wait below Podman."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING

from labs.checks import own
from labs.checks.engine import module_tests
from labs.checks.frame import SECONDS, Lab, NotYet, attempt, expect, until
from minicontainer import child, linux, namespaces, state
from minicontainer.cgroups.layout import layout
from minicontainer.errors import ContainerError
from minicontainer.namespaces import KINDS
from minicontainer.notebook.podman import Podman, missing
from minicontainer.notebook.runtimes import Runtime, runtimes
from minicontainer.runtime import documents

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

lab = Lab("09-runtime")

SLEEP = ["sleep", "1000"]
ADDRESS = "192.0.2.7"


# ------------------------------------------------------------------------------------------------------ whose is it


@lab.exercise("read a bundle")
def own_kinds(answer: Callable[[dict[str, Any]], Iterable[str]]) -> str:
    """Three bundles become containers; the answer says beforehand of which namespaces they have one of their own."""
    with _folder() as folder, _containers(folder) as make:
        neighbour = make(_config())
        joined = _config()
        for entry in joined["linux"]["namespaces"]:
            if entry["type"] in ("network", "ipc"):
                entry["path"] = f"/proc/{neighbour}/ns/{KINDS[entry['type']][1]}"
        few = _config()
        few["linux"]["namespaces"] = [{"type": "mount"}, {"type": "uts"}, {"type": "cgroup"}]
        configs = {"first": _config(), "second": few, "third": joined}

        def ask() -> list[object]:
            found = [answer(config) for config in configs.values()]
            return [it if it is None or isinstance(it, str | int) else sorted(it) for it in found]

        seen = attempt(ask, answer).value
        others = [namespaces.of(), namespaces.of(neighbour)]
        for (which, config), got in zip(configs.items(), seen, strict=True):
            its = namespaces.of(make(config))
            wanted = sorted(KINDS[kind][1] for kind in KINDS if all(its[kind] != other[kind] for other in others))
            expect(
                got == wanted,
                saw=f"the container of the {which} bundle has of its own: {', '.join(wanted)}",
                wanted=f"that, and not {got}",
            )
    return "right for three containers: all kinds new, three of them, and two joined from a neighbour"


# ------------------------------------------------------------------------------------------------- write a bundle


@lab.exercise("write a bundle")
def bundle(answer: Callable[[str, list[str]], object]) -> str:
    """Every runtime of this machine makes a container of what was written; it is looked at before it is started."""
    with _folder() as folder:
        directory = f"{folder}/bundle"
        shutil.copytree(f"{folder}/rootfs", f"{directory}/rootfs", symlinks=True)
        attempt(lambda: answer(directory, SLEEP) and None, answer)
        expect(
            os.path.exists(f"{directory}/config.json"),
            saw=f"in the bundle there is {', '.join(sorted(os.listdir(directory)))}",
            wanted="config.json beside rootfs",
        )
        _place(f"{directory}/config.json")
        for runtime in runtimes(folder).values():
            _look_at(runtime, directory)
    return "every runtime of this machine makes the container of it that was asked for"


def _place(path: str) -> None:
    """Say where its cgroup goes, if nobody has: at the top, for a group with processes may have none with limits below
    it. cgroups(7), "no internal processes" rule"""
    try:
        with open(path) as file:
            config = json.load(file)
        config["linux"].setdefault("cgroupsPath", f"/{_name()}")
    except (ValueError, KeyError, TypeError, AttributeError):
        return  # the runtime will say it
    with open(path, "w") as file:
        json.dump(config, file)


def _look_at(runtime: Runtime, directory: str) -> None:
    name = _name()
    runtime("create", "--bundle", directory, name)
    try:
        pid = runtime.state(name)["pid"]
        status = _status(pid)
        its, ours = namespaces.of(pid), namespaces.of()
        missing = [kind for kind in ("mount", "pid", "uts", "ipc", "network") if its[kind] == ours[kind]]
        expect(not missing, saw=f"it shares {', '.join(missing)} with the host", wanted="five kinds of its own")
        rootfs = f"{directory}/rootfs"
        expect(os.path.samefile(f"/proc/{pid}/root", rootfs), saw="its / is another directory", wanted="the bundle's")
        expect(
            status["Uid"] == ["1000"] * 4 and status["Gid"] == ["1000"] * 4,
            saw=f"it runs as user {status['Uid'][0]}, group {status['Gid'][0]}",
            wanted="1000 and 1000",
        )
        rights = {name: status[name][0] for name in ("CapPrm", "CapEff", "CapBnd")}
        held = [name for name, mask in rights.items() if int(mask, 16)]
        expect(not held, saw=f"{', '.join(held)} of its status are not 0", wanted="no capability in any set")
        expect(status["NoNewPrivs"] == ["1"], saw="NoNewPrivs of its status is 0", wanted="1")
        limit = _limit(pid)
        expect(limit == "20", saw=f"it may have {limit} processes", wanted="20")
        with open(f"/proc/{pid}/mountinfo") as file:
            kinds = {line.split()[4]: line.split(" - ")[1].split()[0] for line in file}
        expect(kinds.get("/proc") == "proc", saw="nothing is mounted on its /proc", wanted="a proc filesystem")
        called = child(lambda: _nodename(pid))
        expect(called == "bundled", saw=f"it calls itself {called!r}", wanted="'bundled'")
        runtime("start", name)
        until(lambda: _argv(pid) == SLEEP)
        expect(_argv(pid) == SLEEP, saw=f"after start it runs {_argv(pid)}", wanted=f"{SLEEP}, as given")
    finally:
        runtime("delete", "--force", name)


def _nodename(pid: int) -> str:
    linux.setns(linux.open(f"/proc/{pid}/ns/uts", os.O_RDONLY), linux.CLONE_NEWUTS)
    return os.uname().nodename


def _limit(pid: int) -> str:
    """pids.max of the group that the process is in."""
    machine = layout()
    tree = machine.legacy.get("pids")
    for line in _text(f"/proc/{pid}/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if ("pids" in controllers.split(",")) if tree else (not controllers):
            return _text(f"{tree or machine.unified}{path}/pids.max").strip()
    return "any number of"


# ------------------------------------------------------------------------------------------------------ its state


@lab.exercise("tell a state")
def status(answer: Callable[[str], str]) -> str:
    """Directories of containers in each state; of one that has ended, another process has the number by now."""
    with _folder() as folder, _containers(folder) as make, _zombie() as zombie:
        make(_config())
        make(_config())
        created, running = make.directories
        make.start(running)
        cases = {
            "its process waits for start": (created, "created"),
            "its process runs": (running, "running"),
            "its process is a zombie": (_doctored(running, "zombie", pid=zombie), "stopped"),
            "there is no process of this number": (_doctored(running, "none", pid=_no_pid()), "stopped"),
            "another process has its number now, which began later": (
                _doctored(running, "reused", pid=os.getpid(), start_time=state.start_time(os.getpid()) - 100),
                "stopped",
            ),
        }
        # a name with a space and a bracket is in the way of who splits /proc/PID/stat at spaces
        strange = subprocess.Popen([*STRANGE], stdin=subprocess.DEVNULL)
        try:
            until(lambda: ") Z (" in _text(f"/proc/{strange.pid}/comm"))
            begun = state.start_time(strange.pid)
            cases["its process runs, and calls itself `x) Z (`"] = (
                _doctored(running, "strange", pid=strange.pid, start_time=begun),
                "running",
            )
            seen = attempt(lambda: [answer(directory) for directory, _ in cases.values()], answer).value
        finally:
            strange.kill()
            strange.wait()
        for (what, (_, wanted)), got in zip(cases.items(), seen, strict=True):
            expect(got == wanted, saw=f"{what}; yours says {got!r}", wanted=repr(wanted))
    return "right for one that waits, one that runs, a zombie, none, and one whose number is another's by now"


STRANGE = [
    sys.executable,
    "-I",
    "-S",
    "-c",
    "import time; open('/proc/self/comm', 'w').write('x) Z ('); time.sleep(1000)",
]


def _doctored(directory: str, suffix: str, **changes: int) -> str:
    """A copy of a container's directory, in which something else is remembered."""
    copy = f"{directory}-{suffix}"
    shutil.copytree(directory, copy)
    values = state.read_json(f"{copy}/state.json") | changes
    with open(f"{copy}/state.json", "w") as file:
        json.dump(values, file)
    return copy


@contextmanager
def _zombie() -> Iterator[int]:
    """A process that has ended and is not waited for."""
    ended = subprocess.Popen(["true"])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    try:
        yield ended.pid
    finally:
        ended.wait()


def _no_pid() -> int:
    """The number of a process that has just ended."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    return ended.pid


# ------------------------------------------------------------------------------------------------------------ a hook


@lab.exercise("an address from a hook")
def hook(answer: Callable[[dict[str, Any]], object]) -> str:
    """The answer is run as a hook, in a program of its own; then the container's network is looked at, and ours."""
    with _folder() as folder, _containers(folder) as make:
        own.store(f"{folder}/answer", answer)
        config = _config()
        entry = {"path": own.COMMAND[0], "args": [*own.COMMAND, "hook", f"{folder}/answer"], "timeout": int(SECONDS)}
        config["hooks"] = {"createRuntime": [entry]}
        before = _addresses(os.getpid())
        try:
            pid = make(config)
            expect(
                ADDRESS not in _addresses(os.getpid()) or ADDRESS in before,
                saw=f"the host's own loopback has {ADDRESS}",
                wanted="the container's, and nothing of the host's changed",
            )
            seen = _addresses(pid)
        finally:
            if ADDRESS not in before and ADDRESS in _addresses(os.getpid()):
                subprocess.run(["ip", "address", "flush", "dev", "lo", "to", ADDRESS], check=True)
        expect(
            ADDRESS in seen,
            saw=f"the container's loopback has {', '.join(seen) or 'no address'}",
            wanted=ADDRESS,
        )
    return f"the container was created with {ADDRESS} on its loopback; the host's is as before"


def _addresses(pid: int) -> list[str]:
    """What `ip` says of the loopback in the network namespace of a process."""
    command = ["nsenter", "--target", str(pid), "--net", "ip", "-json", "address", "show", "dev", "lo"]
    (link,) = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return [it["local"] for it in link["addr_info"]]


# -------------------------------------------------------------------------------------- created, and below Podman


@lab.exercise("your wait, below an engine")
def part(answer: Callable[..., Any]) -> str:
    """First one container, where it cannot hang for long; then the runtime's own tests; then Podman, if it is here."""
    with _folder() as folder:
        own.store(f"{folder}/answer", answer, "minicontainer.runtime.hold:Hold")
        command = [*own.COMMAND, "runtime", f"{folder}/answer"]
        _once(command, folder)
        said = module_tests(answer, "minicontainer.runtime.hold:Hold", "test_runtime_hold.py")
        if not missing():
            with Podman(command, f"{folder}/rootfs") as podman:
                heard = podman("run", "--rm", "--network", "none", podman.image, "echo", "below podman")
            expect(heard == "below podman\n", saw=f"below Podman, its command says {heard!r}", wanted="'below podman'")
    return f"{said}; and so do Podman's containers, where there is a Podman"


def _once(command: list[str], folder: str) -> None:
    """create, state, start; each within SECONDS."""
    directory, name = f"{folder}/once", _name()
    os.mkdir(directory)
    _write(directory, _config(), folder)
    base = [*command, "--root", f"{folder}/state-once"]
    try:
        _said([*base, "create", "--bundle", directory, name], "create")
        values = state.read_json(f"{folder}/state-once/{name}/state.json")
        time.sleep(0.2)  # what dies with its maker has done so by then
        expect(
            state.start_time(values["pid"]) == values["start_time"],
            saw="when create has ended, the process that it has made is gone",
            wanted="that it waits for start",
        )
        expect(_argv(values["pid"]) != SLEEP, saw="before start, the command runs", wanted="a process that waits")
        expect(
            os.path.exists(f"{folder}/state-once/{name}/start.sock"),
            saw=f"in the state directory there is {', '.join(sorted(os.listdir(f'{folder}/state-once/{name}')))}",
            wanted="a socket, start.sock, besides",
        )
        _said([*base, "start", name], "start")
        until(lambda: _argv(values["pid"]) == SLEEP)
        expect(_argv(values["pid"]) == SLEEP, saw=f"after start it runs {_argv(values['pid'])}", wanted="its command")
    finally:
        Runtime("ours", runtimes(folder)["ours"].command, f"{folder}/state-once")("delete", "--force", name)


def _said(words: list[str], verb: str) -> None:
    with tempfile.TemporaryFile("w+") as said:
        try:
            done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=said, stderr=said, timeout=SECONDS)
        except subprocess.TimeoutExpired:
            raise NotYet(f"`{verb}` had not ended after {SECONDS:g} s, and was killed.") from None
        said.seek(0)
        text = said.read().strip()
    if done.returncode:
        raise ContainerError(f"{verb}: {text or f'status {done.returncode}'}")


# ----------------------------------------------------------------------------------------------------------- helpers


def _config() -> dict[str, Any]:
    """A bundle's description that all runtimes know."""
    config = documents.default_config(rootless=False)
    config["ociVersion"] = "1.0.2"
    config["process"] |= {"terminal": False, "args": list(SLEEP)}
    config["linux"]["namespaces"] = [{"type": kind} for kind in ("mount", "pid", "uts", "ipc", "network")]
    config["linux"]["cgroupsPath"] = f"/{_name()}"
    return config


def _write(directory: str, config: dict[str, Any], folder: str) -> None:
    with open(f"{directory}/config.json", "w") as file:
        json.dump(config | {"root": {"path": f"{folder}/rootfs", "readonly": False}}, file)


def _name() -> str:
    return f"lab-{uuid.uuid4().hex[:12]}"


class _Containers:
    """Called with a config, it creates a container of it; the pid. `directories`: where each is remembered."""

    def __init__(self, folder: str) -> None:
        self.folder, self.runtime = folder, runtimes(folder)["ours"]
        self.directories: list[str] = []

    def __call__(self, config: dict[str, Any]) -> int:
        name = _name()
        bundle = f"{self.folder}/{name}"
        os.mkdir(bundle)
        _write(bundle, config, self.folder)
        self.runtime("create", "--bundle", bundle, name)
        self.directories.append(f"{self.runtime.root}/{name}")
        pid: int = self.runtime.state(name)["pid"]
        return pid

    def start(self, directory: str) -> None:
        self.runtime("start", os.path.basename(directory))


@contextmanager
def _containers(folder: str) -> Iterator[_Containers]:
    """Containers, which are deleted at the end."""
    made = _Containers(folder)
    try:
        yield made
    finally:
        for directory in reversed(made.directories):
            made.runtime("delete", "--force", os.path.basename(directory))


@contextmanager
def _folder() -> Iterator[str]:
    """A folder with a root of busybox in it."""
    folder = tempfile.mkdtemp(prefix="minicontainer-lab-", dir="/var/tmp")
    try:
        os.chmod(folder, 0o755)
        for name in ("bin", "dev", "etc", "proc", "sys", "tmp"):
            os.makedirs(f"{folder}/rootfs/{name}")
        shutil.copy("/bin/busybox", f"{folder}/rootfs/bin/busybox")
        for name in ("sh", "sleep", "echo"):
            os.symlink("busybox", f"{folder}/rootfs/bin/{name}")
        yield folder
    finally:
        shutil.rmtree(folder)


def _text(path: str) -> str:
    with open(path) as file:
        return file.read()


def _argv(pid: int) -> list[str]:
    try:
        return _text(f"/proc/{pid}/cmdline").split("\0")[:-1]
    except (FileNotFoundError, ProcessLookupError):
        return []


def _status(pid: int) -> dict[str, list[str]]:
    lines = (line.split(":", 1) for line in _text(f"/proc/{pid}/status").splitlines())
    return {name: value.split() for name, value in lines}
