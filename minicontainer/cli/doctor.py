"""`minicontainer doctor`: can this machine do what the course needs, and if not, what is to be mended?

Nothing is looked up in a table of known systems. Each check does the thing itself, small and in private: unshares a
namespace, mounts an overlay, makes a cgroup and sets its limit, plugs a cable into a bridge, loads the firewall's
rules. It happens in a fresh process with one thread and in children of it, so that it may be asked from a notebook,
and the machine is afterwards as it was.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from minicontainer import linux, state
from minicontainer.errors import ContainerError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

_CAPABILITIES = {
    "CAP_CHOWN": 0,
    "CAP_DAC_OVERRIDE": 1,
    "CAP_FOWNER": 3,
    "CAP_KILL": 5,
    "CAP_SETGID": 6,
    "CAP_SETUID": 7,
    "CAP_SETPCAP": 8,
    "CAP_NET_ADMIN": 12,
    "CAP_SYS_CHROOT": 18,
    "CAP_SYS_PTRACE": 19,
    "CAP_SYS_ADMIN": 21,
    "CAP_MKNOD": 27,
    "CAP_SETFCAP": 31,
}
_NAMESPACES = {
    "mnt": linux.CLONE_NEWNS,
    "uts": linux.CLONE_NEWUTS,
    "ipc": linux.CLONE_NEWIPC,
    "pid": linux.CLONE_NEWPID,
    "net": linux.CLONE_NEWNET,
    "user": linux.CLONE_NEWUSER,
    "cgroup": linux.CLONE_NEWCGROUP,
    "time": linux.CLONE_NEWTIME,
}
_LIMITS: dict[str, tuple[str, str | int]] = {
    "memory": ("memory.max", 64 << 20),
    "cpu": ("cpu.max", "50000 100000"),
    "pids": ("pids.max", 100),
}
_OPTIONAL_LIMITS: dict[str, tuple[str, str | int]] = {"cpuset": ("cpuset.cpus", "0"), "io": ("io.weight", 100)}
_AS_ROOT = "run it as root (sudo); inside of a container, that one needs --privileged"


class Check(NamedTuple):
    """One question to the machine: its answer, and what to do about it if it is not the wanted one."""

    name: str
    ok: bool
    answer: str
    mend: str = ""
    needed: bool = True
    """False for what the course can do without, or with less."""

    def __str__(self) -> str:
        word = "OK" if self.ok else "FAIL" if self.needed else "LACKS"
        line = f"{word:<6}{self.name:<20}{self.answer}"
        return line if self.ok else f"{line}\n{'':<26}mend: {self.mend}"


def doctor() -> list[Check]:
    """All checks, made by a fresh process. Takes about half a second."""
    code = "import sys; sys.path[:] = sys.argv[1:]; from minicontainer.cli import doctor; doctor.examine()"
    paths = [os.path.abspath(path) for path in sys.path]
    done = subprocess.run([sys.executable, "-I", "-c", code, *paths], capture_output=True, text=True)
    if done.returncode != 0:
        raise ContainerError(f"the examining process failed: {done.stderr.strip()}", hint="this is a bug: report it")
    return [Check(*values) for values in json.loads(done.stdout)]


def examine() -> None:
    """Make the checks in this process and print them as JSON."""
    json.dump([check for group in _EXAMINATIONS for check in group()], sys.stdout)


# ----------------------------------------------------------------------------------------------- how a check is made


def _check(name: str, action: Callable[[], str], mend: str, needed: bool = True) -> Check:
    try:
        return Check(name, True, action(), needed=needed)
    except ContainerError as error:
        return Check(name, False, error.message, "; ".join(filter(None, (error.hint, mend))), needed)
    except Exception as error:
        return Check(name, False, str(error), mend, needed)


def _in_child(action: Callable[[], str]) -> Callable[[], str]:
    """The same action, made in a child process: namespaces and mounts end with it."""

    def made() -> str:
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            _answer(action, write)
        os.close(write)
        with open(read, "rb") as file:
            answer = file.read()
        os.waitpid(pid, 0)
        kind, text = json.loads(answer or b'["error", "the child died without a word"]')
        if kind != "ok":
            raise RuntimeError(text)
        return str(text)

    return made


def _answer(action: Callable[[], str], write: int) -> NoReturn:
    try:
        answer = ["ok", action()]
    except BaseException as error:
        answer = ["error", str(error)]
    os.write(write, json.dumps(answer).encode())
    os._exit(0)


# ---------------------------------------------------------------------------------------------------------- the checks


def _python() -> Iterator[Check]:
    version = ".".join(map(str, sys.version_info[:3]))
    yield Check("python", sys.version_info >= (3, 11), version, "install Python 3.11 or newer")

    def packages() -> str:
        from importlib import metadata

        found = []
        for requirement in metadata.requires("minicontainer") or []:
            if "extra ==" not in requirement:
                name = requirement.partition(">")[0].strip()
                found.append(f"{name} {metadata.version(name)}")
        return ", ".join(found)

    yield _check("packages", packages, "make lab, or: pip install -e .")


def _clone() -> None:
    pid, pidfd = linux.clone3()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(pidfd)


def _kernel() -> Iterator[Check]:
    def calls() -> str:
        attempts: dict[str, Callable[[], object]] = {
            "clone3": _clone,
            "openat2": lambda: os.close(linux.openat2(linux.AT_FDCWD, "/", os.O_PATH, 0)),
            "close_range": lambda: linux.close_range(1 << 20),
            "fsopen": lambda: os.close(linux.fsopen("tmpfs")),
            "mount_setattr": lambda: linux.mount_setattr(linux.AT_FDCWD, "/proc/self/nothing-is-here"),
        }
        for name, attempt in attempts.items():
            try:
                attempt()
            except FileNotFoundError:
                pass  # it was understood
            except OSError as error:
                raise OSError(f"Linux {os.uname().release}: {name}: {linux.errno_name(error.errno or 0)}") from None
        return f"Linux {os.uname().release} has {', '.join(attempts)}"

    yield _check("kernel", calls, f"use Linux 5.12 or newer; EPERM: {_AS_ROOT}")


def _privileges() -> Iterator[Check]:
    def capabilities() -> str:
        effective = linux.capget()[0]
        missing = [name for name, bit in _CAPABILITIES.items() if not effective >> bit & 1]
        if os.geteuid() != 0 or missing:
            raise PermissionError(f"user {os.geteuid()}, without {', '.join(missing) or 'no capability'}")
        return "root, with the capabilities that containers need"

    yield _check("root", capabilities, _AS_ROOT)


def _namespaces() -> Iterator[Check]:
    def unshare(kind: str) -> str:
        name = f"{kind}_for_children" if kind in ("pid", "time") else kind
        before = os.readlink(f"/proc/self/ns/{name}")
        linux.unshare(_NAMESPACES[kind])
        if kind == "pid":  # the file is empty until the namespace has its first process
            pid = os.fork()
            if pid == 0:
                os._exit(os.getpid())
            if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 1:
                raise RuntimeError("the first process in it is not number 1")
        elif os.readlink(f"/proc/self/ns/{name}") == before:
            raise RuntimeError("unshare succeeded and changed nothing")
        return "a new one"

    for kind in _NAMESPACES:
        limit = f"see sysctl user.max_{kind}_namespaces"
        yield _check(f"namespace {kind}", _in_child(partial(unshare, kind)), f"{limit}; EPERM: {_AS_ROOT}")


def _security() -> Iterator[Check]:
    def filtered() -> str:
        from minicontainer.linux import filters
        from minicontainer.security import policy

        program = policy.compiled(policy.default(0))
        linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
        linux.seccomp(program)
        try:
            linux.unshare(linux.CLONE_NEWUTS)
        except PermissionError:
            return f"Docker's default policy, {len(program) // filters.INSTRUCTION} instructions"
        raise RuntimeError("the filter was loaded, and refuses nothing")

    def devices() -> str:
        from minicontainer.cgroups import layout
        from minicontainer.security.device_rules import DEFAULT, program

        if not layout().unified:
            return f"by the lists in {layout().legacy['devices']}"
        os.close(linux.load_device_program(program(DEFAULT)))
        return "by a program on a v2 group"

    yield _check("system calls filter", _in_child(filtered), "apt-get install libseccomp2; a kernel with seccomp")
    yield _check("devices filter", _in_child(devices), f"a kernel with CONFIG_CGROUP_BPF; EPERM: {_AS_ROOT}")


def _private_mounts() -> None:
    linux.unshare(linux.CLONE_NEWNS)
    linux.mount(None, "/", None, linux.MS_REC | linux.MS_PRIVATE)


def _roots() -> Iterator[Check]:
    def pivot() -> str:
        _private_mounts()
        linux.mount("tmpfs", "/tmp", "tmpfs")
        linux.chdir("/tmp")
        linux.pivot_root(".", ".")
        linux.umount2(".", linux.MNT_DETACH)
        if os.listdir("/"):
            raise RuntimeError("the old root is still there")
        return "a process can have another root, and the old one is gone"

    yield _check("pivot_root", _in_child(pivot), "the machine's root must be a real mount, not an initramfs")


def _overlay() -> Iterator[Check]:
    import shutil
    import tempfile

    place = state.data_root()
    while not os.path.isdir(place):
        place = os.path.dirname(place)

    def overlay(top: str) -> str:
        from minicontainer.overlayfs import whiteouts

        _private_mounts()
        lower, upper, merged = f"{top}/lower", f"{top}/upper", f"{top}/merged"
        options = f"lowerdir={lower},upperdir={upper},workdir={top}/work"
        linux.mount("overlay", merged, "overlay", 0, options)
        os.unlink(f"{merged}/file")
        if not os.path.exists(f"{lower}/file") or not whiteouts.is_whiteout(os.lstat(f"{upper}/file")):
            raise RuntimeError("a file removed above was not whited out")
        return f"an overlay's upper can be below {place} ({_filesystem(place)})"

    mend = (
        "modprobe overlay; upper cannot be on overlayfs, NFS or virtiofs: "
        "set MINICONTAINER_DATA_ROOT to a directory on a disk of this machine"
    )
    try:
        top = tempfile.mkdtemp(prefix=".minicontainer-doctor-", dir=place)
    except OSError as error:
        yield Check("overlayfs", False, f"{place}: {error}", _AS_ROOT)
        return
    try:
        for name in ("lower", "upper", "work", "merged"):
            os.mkdir(f"{top}/{name}")
        with open(f"{top}/lower/file", "w"):
            pass
        yield _check("overlayfs", _in_child(lambda: overlay(top)), mend)
        free = shutil.disk_usage(place).free >> 20
        yield Check("space", free > 2048, f"{free} MiB free below {place}", "images take 1 to 2 GiB", needed=False)
    finally:
        shutil.rmtree(top)


def _filesystem(path: str) -> str:
    """The type of the filesystem that a path is on, as mountinfo has it."""
    device = os.stat(path).st_dev
    with open("/proc/self/mountinfo") as file:
        for line in file:
            if line.split()[2] == f"{os.major(device)}:{os.minor(device)}":
                return line.partition(" - ")[2].split()[0]
    return "unknown"


def _cgroups() -> Iterator[Check]:
    from minicontainer.cgroups import Group, layout

    def tree() -> str:
        machine = layout()
        return f"{machine.version}, {machine.top or 'no v2 tree'}"

    yield _check("cgroup tree", tree, _AS_ROOT)

    def limit(controller: str, file: str, value: str | int) -> str:
        with Group.create(f"doctor-{os.getpid()}-{controller}", {file: value}) as group:
            pid = os.fork()
            if pid == 0:
                while True:
                    signal.pause()
            try:
                group.add(pid)
                if pid not in group.processes():
                    raise RuntimeError("a process was moved into a group and is not there")
                return f"{file} = {group[file]}, on cgroup {'v2' if controller in layout().controllers else 'v1'}"
            finally:
                os.kill(pid, 9)
                os.waitpid(pid, 0)

    for limits, needed in ((_LIMITS, True), (_OPTIONAL_LIMITS, False)):
        for controller, (file, value) in limits.items():
            yield _check(
                f"cgroup {controller}",
                partial(limit, controller, file, value),
                f"is the {controller} controller switched on? cat /proc/cgroups, cgroup_disable= in /proc/cmdline",
                needed,
            )


def _network() -> Iterator[Check]:
    from minicontainer.network import firewall, links
    from minicontainer.network.addresses import Subnet, hardware_address
    from minicontainer.network.netlink import Netlink

    def cable() -> str:
        linux.unshare(linux.CLONE_NEWNET)
        with Netlink() as netlink:
            links.create_bridge(netlink, "bridge0", hardware_address("192.0.2.1"))
            bridge = links.find_link(netlink, "bridge0")
            assert bridge is not None
            links.create_veth(netlink, "near", bridge, os.getpid(), "far", hardware_address("192.0.2.2"))
            links.let_hairpin(netlink, "near")
            return "a bridge, and a cable (veth) plugged into it"

    def rules() -> str:
        linux.unshare(linux.CLONE_NEWNET)
        wall = firewall.Firewall("doctor", "bridge0")
        wall.apply(Subnet.parse("192.0.2.0/24"), [], wall.look())
        if not wall.look().has_table:
            raise RuntimeError("the rules were taken, and are not there")
        return "nft takes our rules: dnat maps, masquerade, fib, conntrack"

    def forwarding() -> str:
        path = "/proc/sys/net/ipv4/ip_forward"
        if not os.access(path, os.W_OK):
            raise PermissionError(f"{path} is read-only")
        return "may be switched on"

    yield _check("bridge and veth", _in_child(cable), f"modprobe -a bridge veth; EPERM: {_AS_ROOT}")
    yield _check(
        "firewall", _in_child(rules), "apt-get install nftables; modprobe nf_tables nft_nat nft_masq nft_fib_inet"
    )
    yield _check("ip_forward", forwarding, _AS_ROOT)


def _course() -> Iterator[Check]:
    def registry() -> str:
        import http.client

        connection = http.client.HTTPConnection("127.0.0.1", 5000, timeout=5)
        try:
            connection.request("GET", "/v2/_catalog")
            names = json.loads(connection.getresponse().read())["repositories"]
        finally:
            connection.close()
        return f"localhost:5000 has {', '.join(names) or 'no image yet'}"

    yield _check("course's images", registry, "make lab starts a registry on this machine", needed=False)


_EXAMINATIONS = (_python, _kernel, _privileges, _namespaces, _roots, _overlay, _cgroups, _security, _network, _course)


# ---------------------------------------------------------------------------------------------------------- the command


def _doctor_arguments(parser: argparse.ArgumentParser) -> None:
    """It has none."""


def _doctor(arguments: argparse.Namespace) -> int:
    """Print the checks; 1 when something that is needed is missing."""
    checks = doctor()
    print("\n".join(map(str, checks)))
    failed = [check.name for check in checks if check.needed and not check.ok]
    print(f"\n{'This machine lacks: ' + ', '.join(failed) if failed else 'This machine can do it all.'}")
    return 1 if failed else 0


COMMANDS = {"doctor": (_doctor_arguments, _doctor)}
