"""Mounts of a bundle that are more than a place: other owners, propagation; and what is handed to the process."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from minicontainer import linux

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bundles import Bundle

needs_runc = pytest.mark.skipif(not shutil.which("runc"), reason="runc is the peer: apt-get install runc")


def mapped(first: int) -> list[dict[str, int]]:
    return [{"containerID": 0, "hostID": first, "size": 65536}]


def bind(bundle: Bundle, source: Path, *options: str, **more: Any) -> None:
    entry = {"destination": "/data", "type": "bind", "source": os.fspath(source), "options": ["rbind", *options]}
    bundle.config["mounts"].append(entry | more)
    Path(bundle.config["root"]["path"], "data").mkdir(exist_ok=True)


@pytest.fixture
def owned(shared_path: Path) -> Path:
    """A directory with a file of user 7 and group 8, and below it a mount with one, too."""
    place = shared_path / "owned"
    (place / "below").mkdir(parents=True)
    for path in (place / "file", place / "below/file"):
        path.write_text("x")
        os.chown(path, 7, 8)
    return place


# ------------------------------------------------------------------------------------------------ other owners


def in_user_namespace(bundle: Bundle, first: int) -> None:
    bundle.linux["namespaces"].append({"type": "user"})
    bundle.linux["uidMappings"] = bundle.linux["gidMappings"] = mapped(first)


def test_an_idmapped_mount_shows_the_owners_as_they_are_on_disk(bundle: Bundle, owned: Path) -> None:
    in_user_namespace(bundle, 200000)
    bind(bundle, owned)
    assert bundle.run("stat", "-c", "%u:%g", "/data/file") == "65534:65534\n"
    bundle.config["mounts"].pop()
    bind(bundle, owned, "idmap")
    text = "stat -c %u:%g /data/file; touch /data/new; grep -c ' /data .*idmapped' /proc/self/mountinfo"
    assert bundle.run("sh", "-c", text) == "7:8\n1\n"
    assert ((owned / "new").stat().st_uid, (owned / "new").stat().st_gid) == (0, 0)


@pytest.mark.parametrize("users", [True, False])
def test_a_mount_may_have_maps_of_its_own(bundle: Bundle, owned: Path, users: bool) -> None:
    """On disk 7, on the mount 5007; in a container that has 5000 as its root, 7 again."""
    if users:
        in_user_namespace(bundle, 5000)
    bind(bundle, owned, uidMappings=mapped(5000), gidMappings=mapped(6000))
    said = bundle.run("stat", "-c", "%u:%g", "/data/file")
    assert said == ("7:1008\n" if users else "5007:6008\n")


@pytest.mark.parametrize("option", ["idmap", "ridmap"])
def test_what_is_mounted_below_is_idmapped_only_with_ridmap(bundle: Bundle, owned: Path, option: str) -> None:
    linux.mount("tmpfs", owned / "below", "tmpfs")
    try:
        (owned / "below/file").write_text("x")
        os.chown(owned / "below/file", 7, 8)
        in_user_namespace(bundle, 200000)
        bind(bundle, owned, option)
        said = bundle.run("stat", "-c", "%u", "/data/file", "/data/below/file")
    finally:
        linux.umount2(os.fspath(owned / "below"), linux.MNT_DETACH)
    assert said.split() == ["7", "7" if option == "ridmap" else "65534"]


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"options": ["bind", "idmap"]}, "is to be idmapped, but by no mapping"),
    ({"options": ["bind", "src-nofollow"]}, "has no option 'src-nofollow'"),
    ({"type": "tmpfs", "options": [], "uidMappings": mapped(1), "gidMappings": mapped(1)}, "is no bind mount"),
    ({"options": ["bind"], "uidMappings": mapped(1)}, "for users or for groups only"),
    (
        {"source": "/proc", "options": ["bind"], "uidMappings": mapped(1), "gidMappings": mapped(1)},
        "cannot be idmapped",
    ),
]


@pytest.mark.parametrize(("entry", "words"), REFUSED)
def test_a_mount_that_cannot_be_so_is_refused(bundle: Bundle, owned: Path, entry: dict[str, Any], words: str) -> None:
    mount = {"destination": "/data", "type": "bind", "source": os.fspath(owned), **entry}
    bundle.config["mounts"].append(mount)
    bundle.says("true")
    bundle.write()
    name = bundle.name()
    done = bundle.ask("run", name)
    assert (done.returncode, words in done.stderr) == (1, True), done.stderr
    assert bundle.ask("state", name).returncode == 1


# -------------------------------------------------------------------------------------------------- propagation


def flags_of(text: str, place: str) -> set[str]:
    """`shared`, `master`, `unbindable` of what is mounted at a place. proc_pid_mountinfo(5)"""
    line = next(line.split() for line in text.splitlines() if line.split()[4] == place)
    return {word.split(":")[0] for word in line[6 : line.index("-")]}


@pytest.fixture
def volume(shared_path: Path) -> Iterator[Path]:
    """A mount of the host's that is shared: what is mounted in one of its copies appears in all."""
    place = shared_path / "volume"
    place.mkdir()
    linux.mount("tmpfs", place, "tmpfs")
    linux.mount(None, place, flags=linux.MS_SHARED)
    (place / "inner").mkdir()
    try:
        yield place
    finally:
        linux.umount2(os.fspath(place), linux.MNT_DETACH)


@needs_runc
@pytest.mark.parametrize("kind", ["private", "slave", "shared", "rprivate", "rslave", "rshared"])
def test_a_bind_is_of_the_kind_that_runc_makes_it(bundle: Bundle, volume: Path, kind: str) -> None:
    bundle.linux["rootfsPropagation"] = kind
    bind(bundle, volume, kind)
    bundle.config["ociVersion"] = "1.0.2"
    words = ("cat", "/proc/self/mountinfo")
    ours, theirs = bundle.run(*words), bundle.by("runc").run(*words)
    assert flags_of(ours, "/data") == flags_of(theirs, "/data")


KINDS = {"private": set(), "slave": set(), "shared": {"shared"}, "unbindable": {"unbindable"}}


@pytest.mark.parametrize("kind", [*KINDS, *(f"r{kind}" for kind in KINDS)])
@pytest.mark.parametrize("options", [(), ("--no-pivot",)])
def test_the_root_is_of_the_kind_that_was_asked_for(bundle: Bundle, kind: str, options: tuple[str, ...]) -> None:
    """What the specification wants; runc 1.1 leaves it private, and cannot make it unbindable."""
    bundle.linux["rootfsPropagation"] = kind
    bundle.says("cat", "/proc/self/mountinfo")
    bundle.write()
    assert flags_of(bundle.tell("run", *options, bundle.name()), "/") == KINDS[kind.removeprefix("r")]


def test_a_bind_of_which_nothing_is_said_hears_nothing_of_the_host(bundle: Bundle, volume: Path) -> None:
    bind(bundle, volume)
    assert flags_of(bundle.run("cat", "/proc/self/mountinfo"), "/data") == set()


def test_a_shared_root_takes_nothing_of_the_hosts_away(bundle: Bundle) -> None:
    """On a host where all is shared, as systemd has it, the old root's end must not be the host's."""
    bundle.linux["rootfsPropagation"] = "rshared"
    bundle.says("true")
    bundle.write()
    count = "wc -l < /proc/self/mountinfo"
    words = " ".join([*bundle.command, "--root", bundle.root, "run", bundle.name()])
    text = f"mount --make-rshared /; {count}; unshare --mount --propagation unchanged {words} && {count}"
    words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", text]
    done = subprocess.run(words, cwd=bundle.directory, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    before, after = done.stdout.split()
    assert before == after


@pytest.mark.parametrize(("option", "arrives", "leaves"), [("rslave", 1, 0), ("rshared", 1, 1), ("rprivate", 0, 0)])
def test_a_mount_arrives_and_leaves_as_its_propagation_says(
    bundle: Bundle, volume: Path, option: str, arrives: int, leaves: int
) -> None:
    bundle.process["capabilities"] = {kind: ["CAP_SYS_ADMIN"] for kind in ("bounding", "effective", "permitted")}
    if option != "rprivate":
        bundle.linux["rootfsPropagation"] = option
    bind(bundle, volume, option)
    name = bundle.start("sleep", "100")
    linux.mount("tmpfs", volume / "inner", "tmpfs")
    try:
        said = bundle.ask("exec", name, "grep", "-c", "/data/inner", "/proc/self/mountinfo").stdout
    finally:
        linux.umount2(os.fspath(volume / "inner"), linux.MNT_DETACH)
    assert said == f"{arrives}\n"
    bundle.tell("exec", name, "mount", "-t", "tmpfs", "mine", "/data/inner")
    there = Path("/proc/self/mountinfo").read_text().count(f"{volume}/inner")
    bundle.tell("exec", name, "umount", "/data/inner")
    assert there == leaves


# --------------------------------------------------------------------------------- descriptors for the process


def handed(bundle: Bundle, files: list[Path], env: dict[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    """Run the bundle with `files` open at 3, 4, …"""
    bundle.write()
    fds = [os.open(path, os.O_RDONLY) for path in files]
    # a shell puts them there: what a program of Python's passes on keeps its own number
    moved = " ".join(f"{3 + number}<&{fd}" for number, fd in enumerate(fds))
    words = [
        "bash",
        "-c",
        f'export LISTEN_PID=$$; exec "$@" {moved}',
        "bash",
        *bundle.command,
        "--root",
        bundle.root,
        "run",
        *options,
    ]
    try:
        return subprocess.run(
            [*words, bundle.name()],
            env={**os.environ, **env},
            pass_fds=fds,
            cwd=bundle.directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
    finally:
        for fd in fds:
            os.close(fd)


@pytest.fixture
def files(shared_path: Path) -> list[Path]:
    """Three files that say their number."""
    places = [shared_path / str(number) for number in (3, 4, 5)]
    for place in places:
        place.write_text(f"this is {place.name}\n")
    return places


@needs_runc
def test_a_services_sockets_arrive_with_the_two_words_about_them(bundle: Bundle, files: list[Path]) -> None:
    """sd_listen_fds(3): how many, and for whom; runc does the same."""
    bundle.config["ociVersion"] = "1.0.2"
    bundle.says("sh", "-c", "echo $LISTEN_FDS $LISTEN_PID $$; cat <&3; cat <&4; ls /proc/$$/fd")
    ours = handed(bundle, files[:2], {"LISTEN_FDS": "2"})
    assert ours.stdout.split("\n")[:3] == ["2 1 1", "this is 3", "this is 4"]
    theirs = handed(bundle.by("runc"), files[:2], {"LISTEN_FDS": "2"})
    assert ours.stdout == theirs.stdout


def test_sockets_and_preserved_descriptors_are_counted_together(bundle: Bundle, files: list[Path]) -> None:
    bundle.says("sh", "-c", "cat <&3; cat <&4; cat <&5")
    said = handed(bundle, files, {"LISTEN_FDS": "1"}, "--preserve-fds", "2")
    assert said.stdout == "this is 3\nthis is 4\nthis is 5\n"
    said = handed(bundle, files, {"LISTEN_FDS": "1"})
    assert "this is 4" not in said.stdout
    assert said.returncode != 0


def test_a_descriptor_that_is_to_be_preserved_has_to_be_there(bundle: Bundle, files: list[Path]) -> None:
    """And is none that the runtime has opened itself by then."""
    bundle.says("true")
    said = handed(bundle, files[:1], {}, "--preserve-fds", "2")
    assert (said.returncode, "there is no descriptor 4" in said.stderr) == (1, True)


def test_exec_preserves_descriptors_too(bundle: Bundle, files: list[Path]) -> None:
    name = bundle.start("sleep", "100")
    fds = [os.open(path, os.O_RDONLY) for path in files[:1]]
    text = f'exec "$@" 3<&{fds[0]}'
    words = [*bundle.command, "--root", f"{bundle.root}-{os.path.basename(bundle.command[0])}", "exec"]
    done = subprocess.run(
        ["bash", "-c", text, "bash", *words, "--preserve-fds", "1", name, "sh", "-c", "cat <&3"],
        pass_fds=fds,
        capture_output=True,
        text=True,
    )
    os.close(fds[0])
    assert done.stdout == "this is 3\n"


# --------------------------------------------------------------------------------------------------- a link


def test_a_link_is_copied_when_that_is_asked_for(bundle: Bundle, shared_path: Path) -> None:
    link, file = shared_path / "link", shared_path / "file"
    link.symlink_to("to/nowhere")
    file.write_text("content")
    root = Path(bundle.config["root"]["path"])
    (root / "way").symlink_to("/tmp")
    for source, destination in ((link, "/a/b/link"), (link, "/way/link"), (file, "/a/file")):
        entry = {"destination": destination, "type": "bind", "source": os.fspath(source)}
        bundle.config["mounts"].append(entry | {"options": ["rbind", "copy-symlink"]})
    words = ("sh", "-c", "readlink /a/b/link; readlink /tmp/link; cat /a/file; grep -c /link /proc/mounts; true")
    assert bundle.run(*words) == "to/nowhere\nto/nowhere\ncontent0\n"
    assert bundle.run(*words) == "to/nowhere\nto/nowhere\ncontent0\n"  # they are there now
    (root / "a/b/link").unlink()
    (root / "a/b/link").write_text("of the image's")
    done = bundle.ask("run", bundle.name())
    assert (done.returncode, "EEXIST" in done.stderr) == (1, True)
    assert (root / "a/b/link").read_text() == "of the image's"


def test_only_a_bind_copies_a_link(bundle: Bundle) -> None:
    entry = {"destination": "/data", "type": "tmpfs", "source": "tmpfs", "options": ["copy-symlink"]}
    bundle.config["mounts"].append(entry)
    bundle.write()
    done = bundle.ask("create", bundle.name())
    assert (done.returncode, "copy-symlink is for a bind mount" in done.stderr) == (1, True)


# ------------------------------------------------------------------------------------------------- on the root


@needs_runc
@pytest.mark.parametrize("options", [["tmpcopyup"], ["tmpcopyup", "ro", "size=8m"]])
def test_a_tmpfs_on_the_root_is_the_root_as_with_runc(bundle: Bundle, options: list[str]) -> None:
    entry = {"destination": "/", "type": "tmpfs", "source": "tmpfs", "options": options}
    bundle.config["mounts"].insert(0, entry)
    bundle.linux["maskedPaths"] = ["/proc/kcore", "/tmp"]
    text = "ls -A /; ls -A /tmp; mkdir /new 2>&1; grep -c ' / / ' /proc/self/mountinfo; stat -f -c %T / /dev /dev/pts"
    ours = bundle.run("sh", "-c", text)
    assert ours == bundle.by("runc").run("sh", "-c", text)
    assert ("Read-only" in ours) == ("ro" in options)
    assert not Path(bundle.config["root"]["path"], "new").exists()


@pytest.mark.parametrize("option", [(), ("--no-pivot",)])
def test_a_root_may_be_made_of_mounts_alone(bundle: Bundle, option: tuple[str, ...]) -> None:
    programs = os.path.join(bundle.config["root"]["path"], "bin")
    bundle.config["mounts"][:0] = [
        {"destination": "/", "type": "tmpfs", "source": "tmpfs"},
        {"destination": "/bin", "type": "bind", "source": programs, "options": ["rbind", "ro"]},
    ]
    bundle.says("sh", "-c", "ls -A /; echo written > /file; cat /file")
    bundle.write()
    said = bundle.tell("run", *option, bundle.name()).split()
    assert said == ["bin", "dev", "proc", "sys", "written"]
    bundle.config["mounts"].pop(1)
    bundle.write()
    done = bundle.ask("run", bundle.name())
    assert (done.returncode, "there is no command 'sh'" in done.stderr) == (1, True), done.stderr


# ------------------------------------------------------------------------------------------------------ the mode


@needs_runc
def test_a_tmpfs_is_as_open_as_what_it_hides(bundle: Bundle) -> None:
    private = Path(bundle.config["root"]["path"], "private")
    private.mkdir()
    private.chmod(0o2710)
    cases: dict[str, list[str]] = {"/private": [], "/tmp": ["mode=0700"], "/new": []}
    for place, options in cases.items():
        bundle.config["mounts"].append({"destination": place, "type": "tmpfs", "source": "t", "options": options})
    assert bundle.run("stat", "-c", "%a %n", *cases) == "2710 /private\n700 /tmp\n1777 /new\n"
    private.with_name("new").rmdir()
    del cases["/tmp"]  # where runc, at least 1.1, has what is hidden win over the option
    assert bundle.by("runc").run("stat", "-c", "%a %n", *cases) == "2710 /private\n1777 /new\n"
