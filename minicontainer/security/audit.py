"""What a container may do, asked of the kernel and said in words.

Nothing here reads our own records: the process of a container by any engine can be looked at. What counts is what the
kernel says of it now, in /proc/PID. For each weak point there is one sentence on what it allows, since a list of
numbers protects nobody.
"""

from __future__ import annotations

import os

from minicontainer import linux, namespaces
from minicontainer.cgroups import layout
from minicontainer.chroot.filesystems import MASKED, READ_ONLY
from minicontainer.errors import NotFoundError
from minicontainer.security import capabilities, labels

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

SHARED = {
    "mount": "it sees and changes the host's mounts",
    "uts": "it may rename the host, with CAP_SYS_ADMIN",
    "ipc": "it reads the host's shared memory and message queues",
    "pid": "it sees the host's processes, and may signal those of its own user",
    "network": "it listens on the host's addresses and reaches what listens on 127.0.0.1",
    "cgroup": "it sees where it is in the host's tree of groups",
    "time": "its clocks are the host's, which nobody may set without CAP_SYS_TIME",
    "user": "its root is the host's root: what it breaks out to, it owns",
}
HARMLESS = ("time", "user", "cgroup")
"""Kinds that Docker shares by default on some host or other: said, and not called weak by themselves."""

ALLOWS = {
    "AUDIT_CONTROL": "switch the kernel's audit off",
    "BPF": "load programs into the kernel",
    "CHECKPOINT_RESTORE": "choose the numbers of processes",
    "DAC_READ_SEARCH": "read any file of a filesystem that it holds one file of, by its number",
    "IPC_LOCK": "keep any amount of memory from being swapped",
    "LINUX_IMMUTABLE": "make files that nobody can remove",
    "MAC_ADMIN": "change the host's security policy",
    "NET_ADMIN": "change addresses, routes and firewall of its network namespace",
    "PERFMON": "watch what the kernel and other processes do",
    "SYSLOG": "read the kernel's log and its addresses",
    "SYS_ADMIN": "mount, enter namespaces, name a release_agent: as good as root on the host",
    "SYS_BOOT": "load another kernel",
    "SYS_MODULE": "load modules: be the kernel",
    "SYS_NICE": "take the CPU from others",
    "SYS_PTRACE": "read and change any process that it sees",
    "SYS_RAWIO": "reach the hardware past the kernel",
    "SYS_RESOURCE": "go over limits of disk and processes",
    "SYS_TIME": "set the host's clock",
}
KERNEL_FILES = ("proc", "sysfs", "cgroup", "cgroup2", "debugfs", "tracefs", "securityfs", "bpf")
SOCKETS = ("docker.sock", "containerd.sock", "podman.sock", "crio.sock")


class Finding:
    """One thing the kernel says: its `subject`, how it `is`, and what a weak point `allows` ("" for none)."""

    __slots__ = ("allows", "subject", "what")

    def __init__(self, subject: str, what: str, allows: str = "") -> None:
        self.subject, self.what, self.allows = subject, what, allows

    @property
    def weak(self) -> bool:
        return bool(self.allows)

    def __repr__(self) -> str:
        return f"<{self.subject}: {self.what}{f' → {self.allows}' if self.allows else ''}>"


def audit(pid: int) -> list[Finding]:
    """All that counts about a process, the container's first one, as seen from the host. Raises NotFoundError."""
    try:
        status = _status(pid)
        return [
            *_user(pid, status),
            *_capabilities(status),
            *_switches(status),
            *_namespaces(pid),
            *_mounts(pid),
            *_devices(pid),
            *_shares(pid),
            *_labels(pid),
        ]
    except (FileNotFoundError, ProcessLookupError):
        raise NotFoundError(f"there is no process {pid}", hint="it has ended") from None


def _status(pid: int) -> dict[str, str]:
    with open(f"/proc/{pid}/status") as file:
        return {key: value.strip() for key, value in (line.split(":", 1) for line in file)}


def _user(pid: int, status: dict[str, str]) -> Iterator[Finding]:
    uid = int(status["Uid"].split()[1])
    with open(f"/proc/{pid}/uid_map") as file:
        ranges = [tuple(map(int, line.split())) for line in file]
    mapped = ranges != [(0, 0, 4294967295)]
    inside = next((uid - out + first for first, out, count in ranges if out <= uid < out + count), uid)
    shown = f"{inside} inside, {uid} on the host" if mapped else str(uid)
    yield Finding("user", shown, "a way out ends as root of the host" if uid == 0 else "")


def _capabilities(status: dict[str, str]) -> Iterator[Finding]:
    effective, bounding = int(status["CapEff"], 16), int(status["CapBnd"], 16)
    usual = capabilities.bits(capabilities.DEFAULT)
    more = capabilities.names(bounding & ~usual)
    kept = len(capabilities.names(effective))
    if bounding == usual:
        yield Finding("capabilities", f"{kept} effective; it can get no more than Docker's default set")
    else:
        yield Finding("capabilities", f"{kept} effective, {len(capabilities.names(bounding))} within reach")
    for name in more:
        yield Finding(f"CAP_{name}", "within reach", f"it may {ALLOWS.get(name, 'do more than Docker lets it')}")
    if int(status["CapInh"], 16):
        yield Finding(
            "inheritable capabilities",
            ", ".join(capabilities.names(int(status["CapInh"], 16))),
            "whoever executes a file that inherits them gets them",
        )


def _switches(status: dict[str, str]) -> Iterator[Finding]:
    filters = status.get("Seccomp_filters", "1")
    if status.get("Seccomp") == "2":
        yield Finding("seccomp", f"system calls pass {filters} filter{'s' if filters != '1' else ''}")
    else:
        yield Finding("seccomp", "off", "it may make every system call, those with the next flaw among them")
    if status.get("NoNewPrivs") == "1":
        yield Finding("no_new_privs", "set: setuid programs gain nothing")
    else:
        yield Finding("no_new_privs", "not set (Docker's default): a setuid program runs as its owner")


def _namespaces(pid: int) -> Iterator[Finding]:
    ours, theirs = namespaces.of(), namespaces.of(pid)
    own = [kind for kind in theirs if theirs[kind] != ours[kind]]
    yield Finding("namespaces of its own", ", ".join(own) or "none")
    for kind in (kind for kind in theirs if kind not in own):
        yield Finding(f"{kind} namespace", f"the host's: {SHARED[kind]}", "" if kind in HARMLESS else SHARED[kind])


class _Mount:
    """One line of mountinfo. proc_pid_mountinfo(5)"""

    __slots__ = ("fstype", "options", "point", "root", "shared", "source")

    def __init__(self, line: str) -> None:
        before, _, after = line.rstrip("\n").partition(" - ")
        fields, (self.fstype, self.source, *rest) = before.split(" "), after.split(" ")
        self.root, self.point = (word.encode().decode("unicode_escape") for word in fields[3:5])
        self.shared = any(word.startswith("shared:") for word in fields[6:])
        self.options = {*fields[5].split(","), *("ro" for word in rest if "ro" in word.split(","))}

    @property
    def writable(self) -> bool:
        return "ro" not in self.options


def _mounts(pid: int) -> Iterator[Finding]:
    with open(f"/proc/{pid}/mountinfo") as file:
        mounts = [_Mount(line) for line in file]
    top: dict[str, _Mount] = {mount.point: mount for mount in mounts}  # of two on one place the later one counts

    def over(path: str) -> _Mount | None:
        while path not in top and path != "/":
            path = os.path.dirname(path)
        return top.get(path)

    root = top.get("/")
    if root is not None:
        yield Finding("root", f"{root.fstype}, {'writable' if root.writable else 'read-only'}")
    for path in READ_ONLY:
        mount = over(path)
        if mount is not None and mount.fstype == "proc" and mount.writable and os.path.exists(path):
            yield Finding(path, "writable", "settings of the whole machine can be changed by its root")
    for path in MASKED:
        mount = over(path)
        if mount is not None and mount.fstype in ("proc", "sysfs") and os.path.exists(path):
            yield Finding(path, "not masked", "it tells about the host's memory, devices or keys")
    for mount in top.values():
        if mount.fstype in KERNEL_FILES and mount.writable and not f"{mount.point}/".startswith("/proc/"):
            yield Finding(mount.point, f"{mount.fstype}, writable", "kernel files of the host can be written")
        if mount.point.rpartition("/")[2] in SOCKETS:
            yield Finding(mount.point, "an engine's socket", "it can have any container made: root on the host")
        elif mount.root == "/" and mount.source.startswith("/dev/") and mount.point != "/":
            allows = "it changes files of the host" if mount.writable else ""
            yield Finding(mount.point, f"all of {mount.source}", allows)
        if mount.shared:
            yield Finding(mount.point, "shared", "what it mounts there appears on the host")


def _devices(pid: int) -> Iterator[Finding]:
    groups = _groups(pid)
    machine = layout()
    everything = "it may open any device that it makes a node for, the host's disks among them"
    if "devices" in groups and not (machine.unified and linux.device_programs(groups[""])):
        with open(f"{groups['devices']}/devices.list") as file:
            rules = file.read().split("\n")
        if any(rule.startswith("a ") for rule in rules):
            yield Finding("devices", "all", everything)
        else:
            yield Finding("devices", f"{len(rules) - 1} rules of its cgroup")
    elif "" in groups:
        count = linux.device_programs(groups[""])
        yield Finding("devices", f"{count} program(s) on its cgroup decide", "" if count else everything)


def _shares(pid: int) -> Iterator[Finding]:
    groups = _groups(pid)
    for controller, file, old, without in (
        ("memory", "memory.max", "memory.limit_in_bytes", "it can take all of the machine's memory"),
        ("pids", "pids.max", "pids.max", "it can fill the machine with processes"),
    ):
        text = ""
        for directory, name in ((groups.get(controller), old), (groups.get(""), file)):
            if directory and os.path.exists(f"{directory}/{name}"):
                with open(f"{directory}/{name}") as opened:
                    text = opened.read().strip()
                break
        limited = bool(text) and text != "max" and int(text) < 1 << 62
        yield Finding(file, text if limited else "no limit", "" if limited else without)


def _groups(pid: int) -> dict[str, str]:
    """The directories of its cgroup: controller → directory, "" for the v2 tree."""
    machine, found = layout(), {}
    with open(f"/proc/{pid}/cgroup") as file:
        for line in file:
            _, names, path = line.rstrip("\n").split(":", 2)
            if not names and machine.unified:
                found[""] = machine.unified + path
            for name in names.split(","):
                if name in machine.legacy:
                    found[name] = machine.legacy[name] + path
    return found


def _labels(pid: int) -> Iterator[Finding]:
    if labels.has_apparmor() or labels.has_selinux():
        with open(f"/proc/{pid}/attr/current") as file:
            label = file.read().strip("\0\n ")
        yield Finding("label", label, "" if "unconfined" not in label else "no profile of the host's binds it")
    else:
        yield Finding("label", "this kernel runs neither AppArmor nor SELinux")
