"""`minicontainer run`: options become parts, parts and an image become a container.

The parts in their order are the chapters in theirs: namespaces, cgroup, the image's layers, the root, what is mounted
in it, the network, what it may do, the terminal, the user.
"""

from __future__ import annotations

import os
import sys

from minicontainer import images, state
from minicontainer.cgroups import Cgroup
from minicontainer.chroot import Bind, PivotRoot, Terminal, Tmpfs
from minicontainer.chroot.filesystems import MASKED, READ_ONLY
from minicontainer.cli import entries
from minicontainer.container import DEVNULL, Container, Part
from minicontainer.errors import ContainerError, NotFoundError, UsageError
from minicontainer.namespaces import Namespaces
from minicontainer.network import HostNetwork, JoinNetwork, NoNetwork
from minicontainer.overlayfs import Overlay
from minicontainer.security import defaults

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from minicontainer import linux
    from minicontainer.images.image import Image

KINDS = ("pid", "ipc", "uts", "cgroup")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of Docker's `run` that the chapters so far are about."""
    add = parser.add_argument
    add("--rm", action="store_true", help="remove the container when it ends")
    add("-i", "--interactive", action="store_true", help="keep standard input open")
    add("-t", "--tty", action="store_true", help="give it a terminal of its own")
    add("-d", "--detach", action="store_true", help="run it in the background and print its id")
    add("--name", default="", metavar="NAME", help="a name for it")
    add("-e", "--env", action="append", default=[], metavar="KEY=VALUE", help="set an environment variable")
    add("--env-file", action="append", default=[], metavar="FILE", help="read environment variables from a file")
    add("-w", "--workdir", metavar="DIR", help="the directory it starts in")
    add("-u", "--user", metavar="USER", help="NAME, UID, NAME:GROUP or UID:GID")
    add("--hostname", metavar="NAME", help="its host name")
    add("-m", "--memory", metavar="SIZE", help="at most so much memory: 64M")
    add("--cpus", metavar="N", help="at most so many CPUs' time: 0.5")
    add("--cpuset-cpus", metavar="LIST", help="only on these CPUs: 0-1")
    add("--pids-limit", metavar="N", help="at most so many processes")
    add(
        "--network",
        action="append",
        default=[],
        metavar="NET",
        help="bridge, host, none, container:NAME, or your own; in full name=NET,alias=NAME,ip=ADDRESS,ip6=ADDRESS,"
        "download=10M,upload=10M,share=2,delay=20ms,loss=1%%",
    )
    add("--ip", default="", metavar="ADDRESS", help="its address in the first of your own networks")
    add("--ip6", default="", metavar="ADDRESS", help="its IPv6 address there")
    add("--network-alias", action="append", default=[], metavar="NAME", help="another name for it in your own networks")
    add("-p", "--publish", action="append", default=[], metavar="HOST:PORT", help="publish a port: 8080:80")
    add("-v", "--volume", action="append", default=[], metavar="SRC:DST", help="bind a host directory: /src:/dst:ro")
    add("--mount", action="append", default=[], metavar="SPEC", help="type=bind,source=/src,target=/dst,readonly")
    add("--tmpfs", action="append", default=[], metavar="DST", help="a directory in memory: /tmp:size=64m")
    add("--read-only", action="store_true", help="make its root read-only")
    add("--init", action="store_true", help="put a PID 1 above it that reaps and forwards signals")
    add("--entrypoint", metavar="COMMAND", help="in place of the image's entrypoint")
    add("--cap-add", action="append", default=[], metavar="NAME", help="a capability more: NET_ADMIN, or ALL")
    add("--cap-drop", action="append", default=[], metavar="NAME", help="a capability less")
    add("--privileged", action="store_true", help="take nothing away: all capabilities, devices and system calls")
    add("--security-opt", action="append", default=[], metavar="OPT", help="no-new-privileges, seccomp=FILE, …")
    add("--device", action="append", default=[], metavar="DEVICE", help="a device of the host: /dev/fuse")
    add("--sysctl", action="append", default=[], metavar="NAME=VALUE", help="a kernel setting of its own: net.…=1")
    add("--ulimit", action="append", default=[], metavar="NAME=N", help="limit each process: nofile=1024:2048")
    add("--oom-score-adj", type=int, metavar="N", help="how soon memory's shortage ends it: -1000 to 1000")
    add("--userns", choices=("host", "private"), default="host", help="private: its root is nobody on the host")
    add("--pull", choices=("missing", "always", "never"), default="missing", help="when to fetch the image (missing)")
    add("--explain", action="store_true", help="print every system call that builds the container")
    add("image", metavar="IMAGE")
    add("command", nargs="...", metavar="COMMAND")


def run(arguments: argparse.Namespace) -> int:
    """Run it as the options say; the container's exit status."""
    if arguments.tty and arguments.interactive and not os.isatty(0):
        raise UsageError("standard input is no terminal", hint="leave out -t")
    if arguments.detach and arguments.rm and arguments.tty:
        raise UsageError("a detached container has nobody to look at its terminal", hint="leave out -t or -d")
    image = _image(arguments)
    container = _container(arguments, image)
    try:
        if not arguments.explain:
            return _go(arguments, container)
        from minicontainer import linux

        with linux.trace(_show):
            return _go(arguments, container)
    except ContainerError:
        entries.remove_files(container.id)  # nobody wants to keep what never ran
        raise


def _go(arguments: argparse.Namespace, container: Container) -> int:
    if arguments.detach:
        return _detached(container)
    if arguments.tty:
        from minicontainer.cli import screen

        code = screen.run(container, interactive=arguments.interactive)
    else:
        from minicontainer.cli import signals

        with signals.forwarded_to(container):
            try:
                container.start(stdin=0 if arguments.interactive else DEVNULL, stdout=1, stderr=2)
                code = container.wait()
            finally:
                container.remove()
    if not arguments.rm:
        entries.ended(container.id, code)
    return code


def _detached(container: Container) -> int:
    directory = entries.directory(container.id)
    os.makedirs(directory, exist_ok=True)
    with open(f"{directory}/log", "wb") as log:
        container.start(stdout=log, stderr=log, detach=True)
    print(container.id)
    return 0


def _image(arguments: argparse.Namespace) -> Image:
    if arguments.pull != "always":
        try:
            return images.get(arguments.image)
        except NotFoundError:
            if arguments.pull == "never":
                raise
            print(f"there is no image {arguments.image} here yet, pulling it", file=sys.stderr)
    from minicontainer.cli.images import pull_with_progress

    return pull_with_progress(arguments.image)


def _container(arguments: argparse.Namespace, image: Image) -> Container:
    entrypoint = [arguments.entrypoint] if arguments.entrypoint else None
    if arguments.entrypoint == "":
        entrypoint = []
    container_id = state.new_id()
    upper = None if arguments.rm else entries.directory(container_id)
    network, kinds = _network(arguments)
    command = image.argv(arguments.command or None, entrypoint)
    if arguments.userns == "private":
        kinds = (*kinds, "user")
    options = defaults.Options(arguments.security_opt)
    open_paths = arguments.privileged or options.open_paths
    return image.container(
        arguments.command or None,
        entries.Entry(arguments.name, arguments.image, command, image.layers, keep=not arguments.rm),
        Namespaces(*kinds, hostname=arguments.hostname),
        Cgroup(
            memory=arguments.memory,
            cpus=arguments.cpus,
            cpuset=arguments.cpuset_cpus,
            pids=None if arguments.pids_limit == "-1" else arguments.pids_limit,
        ),
        # what is removed at the end need not reach the disk: unmounting would sync the whole filesystem below
        Overlay(image.layers, upper, volatile=arguments.rm),
        PivotRoot(
            read_only=arguments.read_only,
            masked=() if open_paths else MASKED,
            read_only_paths=() if open_paths else READ_ONLY,
        ),
        *_mounts(arguments),
        network,
        *_security(arguments, options),
        *([Terminal()] if arguments.tty else []),
        env=_environment(arguments),
        cwd=arguments.workdir or "",
        user=arguments.user or "",
        entrypoint=entrypoint,
        name=arguments.name,
        id=container_id,
        init=arguments.init,
    )


def _security(arguments: argparse.Namespace, options: defaults.Options) -> list[Part]:
    """Chapter 8: Docker's default set, and what the options say beside it."""
    parts = defaults.default(
        add=arguments.cap_add,
        drop=arguments.cap_drop,
        privileged=arguments.privileged,
        devices=arguments.device,
        options=options,
    )
    if arguments.sysctl:
        from minicontainer.security import Sysctls

        parts.append(Sysctls(_pairs(arguments.sysctl)))
    if arguments.ulimit or arguments.oom_score_adj is not None:
        from minicontainer.security import OomScore, Rlimits

        parts += [Rlimits.parse(arguments.ulimit)] if arguments.ulimit else []
        parts += [OomScore(arguments.oom_score_adj)] if arguments.oom_score_adj is not None else []
    return parts


def _pairs(words: list[str]) -> dict[str, str]:
    for word in words:
        if "=" not in word:
            raise UsageError(f"--sysctl {word}: no value", hint="NAME=VALUE")
    return dict(word.split("=", 1) for word in words)


def _network(arguments: argparse.Namespace) -> tuple[Part, tuple[str, ...]]:
    """The part for --network, and the kinds of namespaces that go with it."""
    words = arguments.network or ["bridge"]
    kind, _, target = words[0].partition(":")
    if kind not in ("bridge", "none", "host", "container"):
        return _own_networks(arguments, words), KINDS
    if len(words) > 1:
        raise UsageError(f"--network {words[0]} goes with no other", hint="several are for networks of your own")
    if arguments.publish and kind != "bridge":
        raise UsageError(f"ports cannot be published with --network {words[0]}", hint="only bridges have addresses")
    if arguments.ip6 or arguments.network_alias or (arguments.ip and kind != "bridge"):
        raise UsageError(
            f"--network {words[0]} has no addresses to choose and no names",
            hint="a network of your own has: `minicontainer network create NAME`",
        )
    if kind == "bridge":
        from minicontainer.network import Bridge

        return Bridge(publish=arguments.publish, address=arguments.ip or None), KINDS
    if kind == "none":
        return NoNetwork(), KINDS
    if kind == "host":
        return HostNetwork(), KINDS
    if kind == "container" and target:
        return JoinNetwork(entries.running(target)["process"]["pid"]), KINDS
    raise UsageError(f"--network {words[0]} names no container", hint="container:NAME of a running one")


def _own_networks(arguments: argparse.Namespace, words: list[str]) -> Part:
    from minicontainer.cli.network import endpoint
    from minicontainer.network import networks
    from minicontainer.network.join import Join

    wanted = [endpoint(word) for word in words]
    for it in wanted:
        networks.get(it.network)
    for option, name in (("ip", "address"), ("ip6", "address6")):
        if chosen := getattr(arguments, option):
            if getattr(wanted[0], name):
                raise UsageError(f"--{option} and --network {words[0]} choose an address each", hint="leave out one")
            setattr(wanted[0], name, chosen)
    return Join(*wanted, publish=arguments.publish, aliases=arguments.network_alias)


def _environment(arguments: argparse.Namespace) -> dict[str, str]:
    """-e KEY=VALUE sets, -e KEY takes the value it has here, --env-file has lines of both."""
    words = []
    for path in arguments.env_file:
        try:
            with open(path) as file:
                lines = [line.strip() for line in file]
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror}") from None
        words += [line for line in lines if line and not line.startswith("#")]
    env = {}
    for word in [*words, *arguments.env]:
        key, equals, value = word.partition("=")
        if equals:
            env[key] = value
        elif key in os.environ:
            env[key] = os.environ[key]
    if arguments.tty:
        env.setdefault("TERM", "xterm")
    return env


def _mounts(arguments: argparse.Namespace) -> list[Part]:
    parts: list[Part] = [_volume(text) for text in arguments.volume]
    parts += [_mount(text) for text in arguments.mount]
    for text in arguments.tmpfs:
        target, _, options = text.partition(":")
        parts.append(Tmpfs(target, options))
    return parts


def _volume(text: str) -> Bind:
    """-v SRC:DST[:OPTIONS]; as in Docker, a source that is not there is made, as a directory."""
    source, _, rest = text.partition(":")
    target, _, options = rest.partition(":")
    if not source.startswith(("/", ".")) or not target:
        raise UsageError(
            f"{text!r} is no directory of the host to bind", hint="write /SOURCE:/TARGET; volumes by name come later"
        )
    propagation = "private"
    for option in options.split(",") if options else ():
        if option in ("private", "slave", "shared", "rprivate", "rslave", "rshared"):
            propagation = option.removeprefix("r")
        elif option not in ("ro", "rw", "nosuid", "nodev", "noexec"):
            raise UsageError(
                f"-v {text}: there is no option {option!r}",
                hint="ro, rw, nosuid, nodev, noexec, or a propagation: private, slave, shared",
            )
    chosen = set(options.split(","))
    if not os.path.lexists(source):
        os.makedirs(source)
    return Bind(
        source,
        target,
        read_only="ro" in chosen,
        nosuid="nosuid" in chosen,
        nodev="nodev" in chosen,
        noexec="noexec" in chosen,
        propagation=propagation,
    )


def _mount(text: str) -> Part:
    """--mount type=…,source=…,target=…: the source must be there."""
    fields: dict[str, str] = {}
    for word in text.split(","):
        key, _, value = word.partition("=")
        key = {"src": "source", "destination": "target", "dst": "target", "ro": "readonly"}.get(key, key)
        fields[key] = value
    kind, target = fields.pop("type", "bind"), fields.pop("target", "")
    if not target:
        raise UsageError(f"--mount {text}: no target", hint="target=/where/in/the/container")
    part: Part
    if kind == "tmpfs":
        options = {"tmpfs-size": "size", "tmpfs-mode": "mode"}
        chosen = [f"{name}={fields.pop(key)}" for key, name in options.items() if key in fields]
        part = Tmpfs(target, ",".join(chosen))
    elif kind == "bind":
        read_only = fields.pop("readonly", "false") in ("", "true", "1")
        recursive = fields.pop("bind-recursive", "enabled") != "disabled"
        propagation = fields.pop("bind-propagation", "rprivate").removeprefix("r")
        source = fields.pop("source", "")
        if not source:
            raise UsageError(f"--mount {text}: no source", hint="source=/where/on/the/host")
        part = Bind(source, target, read_only=read_only, recursive=recursive, propagation=propagation)
    else:
        raise UsageError(f"--mount {text}: type {kind!r} is not known", hint="bind or tmpfs; volumes come later")
    if fields:
        raise UsageError(f"--mount {text}: {', '.join(fields)} is not known for type={kind}")
    return part


def _show(call: linux.Call) -> None:
    print(call, file=sys.stderr)


COMMANDS = {"run": (add_arguments, run)}
