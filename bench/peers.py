"""The peers: crun, runc, bubblewrap, docker and podman, each with state of its own that is gone afterwards."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from bench import measure
from bench.floor import CPUS, MEMORY
from minicontainer import linux
from minicontainer.cgroups.layout import layout
from minicontainer.chroot.filesystems import MASKED, READ_ONLY

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PACKAGES = {
    "crun": "crun",
    "runc": "runc",
    "bwrap": "bubblewrap",
    "dockerd": "docker.io",
    "podman": "podman",
    "skopeo": "skopeo",
    "umoci": "umoci",
    "docker-registry": "docker-registry",
    "curl": "curl",
    "iperf3": "iperf3",
}
GROUP = f"minicontainer-bench-{os.getpid()}"
"""Where the peers' cgroups go."""


def there(program: str) -> bool:
    """Whether it is installed."""
    return shutil.which(program) is not None


def missing(*programs: str) -> tuple[list[str], list[str]]:
    """Those that are not installed, and the packages that they come in."""
    absent = [program for program in programs if not there(program)]
    return absent, [PACKAGES[program] for program in absent]


class Place:
    """A mount namespace for the peers, in which their files of /run and /var/lib end with it.

    On a hybrid cgroup layout crun takes the v2 tree's few controllers for all there are, and refuses to work: so in
    here that tree has none.
    """

    def __init__(self, directory: str) -> None:
        empty = f"{directory}/empty"
        with open(empty, "w"):
            pass
        self._own = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        here = os.getcwd()
        linux.unshare(linux.CLONE_NEWNS)
        self._theirs = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        try:
            # systemd shares /: without this the host would have these mounts too
            linux.mount(None, "/", flags=linux.MS_REC | linux.MS_PRIVATE)
            for path in ("/run", "/var/lib/containers", "/var/lib/cni"):
                if os.path.isdir(path):
                    linux.mount("tmpfs", path, "tmpfs", 0, "mode=755")
            machine = layout()
            if machine.version == "hybrid":
                linux.mount(empty, f"{machine.unified}/cgroup.controllers", flags=linux.MS_BIND)
        finally:
            self._leave(here)

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Be in there for the length of a block; everything that is started in it stays there."""
        here = os.getcwd()
        linux.setns(self._theirs, linux.CLONE_NEWNS)
        try:
            yield
        finally:
            self._leave(here)

    def _leave(self, directory: str) -> None:
        linux.setns(self._own, linux.CLONE_NEWNS)
        os.chdir(directory)  # setns has moved us to the namespace's root, setns(2)

    def command(self, argv: Sequence[str], **how: object) -> float:
        """`measure.command` in there."""
        with self.inside():
            return measure.command(argv, **how)  # type: ignore[arg-type]

    def output(self, argv: Sequence[str]) -> str:
        """What a command in there writes. Raises Failed when it fails."""
        with self.inside():
            done = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if done.returncode:
            raise measure.Failed(f"{' '.join(argv)}: status {done.returncode}: {done.stderr.strip()[-500:]}")
        return done.stdout

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self._theirs)
        os.close(self._own)
        remove_groups()


def remove_groups() -> None:
    """Remove the peers' cgroups, empty by now."""
    machine = layout()
    for tree in {machine.unified, *machine.legacy.values(), *_other_trees()} - {""}:
        for inner, _, _ in os.walk(f"{tree}/{GROUP}", topdown=False):
            os.rmdir(inner)


def _other_trees() -> list[str]:
    """The v1 trees that this package has no use for, and other engines do: devices, net_cls, systemd's."""
    with open("/proc/self/mountinfo") as file:
        lines = [line.split(" - ") for line in file]
    return [before.split()[4] for before, after in lines if after.startswith("cgroup ")]


def bundle(directory: str, rootfs: str, *, cgroup: bool) -> str:
    """An OCI bundle of the container of row `start`; the directory. Its root is a plain directory, no overlay."""
    quiet = ["nosuid", "noexec", "nodev"]
    mounts = [
        ("/proc", "proc", "proc", quiet),
        ("/sys", "sysfs", "sysfs", [*quiet, "ro"]),
        ("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        ("/dev/pts", "devpts", "devpts", ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        ("/dev/shm", "tmpfs", "shm", [*quiet, "mode=1777", "size=65536k"]),
        ("/dev/mqueue", "mqueue", "mqueue", quiet),
    ]
    linux_part: dict[str, object] = {
        "namespaces": [{"type": kind} for kind in ("pid", "uts", "ipc", "network", "mount", "cgroup")],
        "maskedPaths": list(MASKED),
        "readonlyPaths": list(READ_ONLY),
        "cgroupsPath": f"/{GROUP}/{os.path.basename(directory)}",
    }
    if cgroup:
        linux_part["resources"] = {
            "memory": {"limit": MEMORY},
            "cpu": {"quota": int(CPUS * 100_000), "period": 100_000},
        }
    config = {
        "ociVersion": "1.0.2",
        "process": {"args": ["/bin/true"], "cwd": "/", "user": {"uid": 0, "gid": 0}, "env": ["PATH=/bin"]},
        "root": {"path": rootfs},
        "hostname": "bundle",
        "mounts": [
            {"destination": target, "type": kind, "source": source, "options": options}
            for target, kind, source, options in mounts
        ],
        "linux": linux_part,
    }
    os.makedirs(directory)
    with open(f"{directory}/config.json", "w") as file:
        json.dump(config, file)
    return directory


class Engine:
    """A docker or podman: `argv` is how its commands begin."""

    def __init__(self, name: str, argv: list[str], place: Place) -> None:
        self.name, self.argv, self.place = name, argv, place

    def once(self, *words: str) -> float:
        """Seconds that one of its commands takes. Raises Failed."""
        with open(os.devnull, "wb") as null:
            return self.place.command([*self.argv, *words], output=null.fileno())

    def ask(self, *words: str) -> str:
        """What one of its commands says."""
        return self.place.output([*self.argv, *words])


@contextmanager
def docker(directory: str, place: Place, *, network: bool = True) -> Iterator[Engine]:
    """A dockerd of our own until the end of the block: with its own bridge, or in a network of its own without any."""
    client = "/usr/bin/docker" if os.path.exists("/usr/bin/docker") else "docker"
    os.makedirs(directory)
    settings = f"{directory}/daemon.json"
    with open(settings, "w") as file:
        json.dump({"deprecated-key-path": f"{directory}/key.json"}, file)
    socket = f"unix://{directory}/socket"
    argv = ["dockerd", "--config-file", settings, "--host", socket, "--data-root", f"{directory}/data"]
    argv += ["--exec-root", f"{directory}/exec", "--pidfile", f"{directory}/pid", "--cgroup-parent", f"/{GROUP}"]
    if not network:
        argv = ["unshare", "--net", *argv, "--bridge", "none", "--iptables=false", "--ip6tables=false"]
    with place.inside(), open(f"{directory}/log", "wb") as log:
        daemon = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    engine = Engine("docker", [client, "--config", directory, "--host", socket], place)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                engine.ask("version")
                break
            except measure.Failed:
                if daemon.poll() is not None or time.monotonic() > deadline:
                    with open(f"{directory}/log") as text:
                        raise measure.Failed(f"dockerd did not start: {text.read()[-1500:]}") from None
                time.sleep(0.2)
        yield engine
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait()


@contextmanager
def podman(directory: str, place: Place) -> Iterator[Engine]:
    """A podman with storage of its own, which is unmounted and removed at the end of the block."""
    os.makedirs(directory)
    settings = f"{directory}/containers.conf"
    # its defaults would raise the hard limits, which not every root may; it lowers its own to 32768 processes itself
    limits = '["nofile=1024:1024", "nproc=4096:4096"]'
    with open(settings, "w") as file:
        file.write(f'[containers]\ndefault_ulimits = {limits}\n[engine]\nevents_logger = "none"\n')
    before = os.environ.get("CONTAINERS_CONF")
    os.environ["CONTAINERS_CONF"] = settings
    argv = ["podman", "--root", f"{directory}/root", "--runroot", f"{directory}/run", "--tmpdir", f"{directory}/tmp"]
    engine = Engine("podman", [*argv, "--cgroup-manager", "cgroupfs", "--storage-driver", "overlay"], place)
    try:
        yield engine
    finally:
        with place.inside():
            subprocess.run([*engine.argv, "rm", "--all", "--force"], stdout=subprocess.DEVNULL)
            for path in (f"{directory}/root/overlay", f"{directory}/root"):
                subprocess.run(["umount", "--quiet", path], stderr=subprocess.DEVNULL)
        if before is None:
            del os.environ["CONTAINERS_CONF"]
        else:
            os.environ["CONTAINERS_CONF"] = before


@contextmanager
def engines(directory: str, place: Place, *names: str) -> Iterator[list[Engine]]:
    """Those of docker and podman that are installed and start; what does not start is said."""
    makers = {"docker": ("dockerd", docker), "podman": ("podman", podman)}
    with ExitStack() as stack:
        found = []
        for name in names:
            program, make = makers[name]
            if there(program):
                try:
                    found.append(stack.enter_context(make(f"{directory}/{name}", place)))
                except measure.Failed as error:
                    print(f"   {name} is left out: {error}")
        yield found
