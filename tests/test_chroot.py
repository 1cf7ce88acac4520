"""Chapter 02: its own root. What holds, what does not, and that nothing of it reaches the host."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from minicontainer import linux
from minicontainer.chroot import Bind, Chroot, PivotRoot, Terminal, Tmpfs, User
from minicontainer.container import Container, Part, child
from minicontainer.errors import ContainerError, HostError, StartError, UsageError
from minicontainer.leaks.look import mountinfo
from minicontainer.namespaces import Namespaces

if TYPE_CHECKING:
    from collections.abc import Callable

ALL = ("mount", "uts", "ipc", "pid", "network", "cgroup")


def inside(rootfs: str, script: str, *parts: Part, root: Part | None = None) -> str:
    """What a shell script prints in a container with this root."""
    return Container(["sh", "-c", script], Namespaces(*ALL), root or PivotRoot(rootfs), *parts).output(timeout=30)


def mounts(rootfs: str, *parts: Part, root: Part | None = None) -> dict[str, tuple[str, str, set[str], set[str]]]:
    """The container's mount table: mount point → (root of it, filesystem, options of the mount, of the filesystem)."""
    found = {}
    for line in inside(rootfs, "cat /proc/self/mountinfo", *parts, root=root).splitlines():
        left, _, right = line.partition(" - ")
        _, _, _, of, point, options, *_ = left.split()
        kind, _, super_options = right.split(" ", 2)
        found[point] = (of, kind, set(options.split(",")), set(super_options.split(",")))
    return found


# ------------------------------------------------------------------------------------------------ out, or not


def escape() -> list[str]:
    """The classic way out of a chroot: a second chroot leaves the current directory outside, and `..` has no end."""
    os.mkdir("/way-out")
    try:
        here = os.open("/", os.O_RDONLY)
        os.chroot("/way-out")
        os.fchdir(here)
        for _ in range(100):
            os.chdir("..")
        os.chroot(".")
        return sorted(os.listdir("/"))
    finally:
        os.close(here)


def test_chroot_can_be_left(rootfs: str) -> None:
    container = Container(escape, Chroot(rootfs))
    assert container.run(timeout=30) == 0
    assert container.returned == sorted(os.listdir("/"))


@pytest.mark.lab
def test_pivot_root_cannot_be_left(rootfs: str) -> None:
    container = Container(escape, PivotRoot(rootfs))
    assert container.run(timeout=30) == 0
    assert container.returned == sorted(os.listdir(rootfs))
    assert container.returned != sorted(os.listdir("/"))


@pytest.mark.lab
def test_nothing_of_the_host_is_mounted(rootfs: str) -> None:
    there = mounts(rootfs)
    assert there["/"][0] == rootfs
    assert [point for point in there if point != "/" and not point.startswith(("/proc", "/sys", "/dev"))] == []


def test_a_leaked_directory_is_no_way_out(rootfs: str) -> None:
    """A descriptor of a directory outside would be one; none of ours survives into the command."""
    held = os.open("/etc", os.O_RDONLY)
    try:
        os.set_inheritable(held, True)
        assert inside(rootfs, "ls -l /proc/self/fd | grep -c etc || true").strip() == "0"
    finally:
        os.close(held)


def test_a_working_directory_behind_a_descriptor_is_no_way_out(rootfs: str) -> None:
    """CVE-2024-21626: `-w /proc/self/fd/N` with a directory of the host open as N; here it is even given."""
    held = os.open("/etc", os.O_RDONLY)
    try:
        for path in ("/proc/self/fd/0", "/proc/thread-self/fd/0"):
            with pytest.raises(StartError, match="Container could not enter"):
                Container(["cat", "hostname"], Namespaces(*ALL), PivotRoot(rootfs), cwd=path).run(stdin=held)
    finally:
        os.close(held)


# --------------------------------------------------------------------------------------------- propagation


def _in_a_namespace_with(propagation: int, rootfs: str) -> list[list[str]]:
    """Run a container from a mount namespace whose / is shared or private; the host's mounts before and after."""

    def run() -> list[list[str]]:
        linux.unshare(linux.CLONE_NEWNS)
        # what the host shares is shared with the host: a group of mounts of our own begins with private ones
        linux.mount(None, "/", flags=linux.MS_REC | linux.MS_PRIVATE)
        linux.mount(None, "/", flags=linux.MS_REC | propagation)
        linux.mount(rootfs, rootfs, flags=linux.MS_BIND)
        before = [mount.point for mount in mountinfo()]
        output = Container(["ls", "/bin/busybox"], Namespaces(*ALL), PivotRoot(rootfs), Tmpfs("/tmp")).output()
        return [before, [mount.point for mount in mountinfo()], [output]]

    result: list[list[str]] = child(run)
    return result


@pytest.mark.lab
@pytest.mark.parametrize("propagation", [linux.MS_SHARED, linux.MS_PRIVATE, linux.MS_SLAVE])
def test_it_works_whether_or_not_the_root_is_shared(rootfs: str, propagation: int) -> None:
    before, after, output = _in_a_namespace_with(propagation, rootfs)
    assert output == ["/bin/busybox\n"]
    assert before == after


# ----------------------------------------------------------------------------------------- what is mounted


@pytest.mark.lab
def test_the_kernels_filesystems_are_there(rootfs: str) -> None:
    there = mounts(rootfs)
    assert there["/proc"][1] == "proc"
    assert {"nosuid", "nodev", "noexec"} <= there["/proc"][2]
    assert there["/sys"][1] == "sysfs"
    assert {"ro", "nosuid", "nodev", "noexec"} <= there["/sys"][2]
    assert there["/dev"][1] == "tmpfs"
    assert there["/dev/pts"][1] == "devpts"
    assert there["/dev/shm"][1] == "tmpfs"
    assert there["/dev/mqueue"][1] == "mqueue"


@pytest.mark.lab
def test_dev_has_the_harmless_devices_and_no_other(rootfs: str) -> None:
    script = "cd /dev && stat -c '%n %F %t:%T %a' * && for it in fd stdin stdout stderr ptmx; do readlink $it; done"
    lines = inside(rootfs, script).splitlines()
    devices = {line.split()[0]: line for line in lines if "character special" in line}
    expected = {"null": "1:3", "zero": "1:5", "full": "1:7", "random": "1:8", "urandom": "1:9", "tty": "5:0"}
    assert devices == {name: f"{name} character special file {number} 666" for name, number in expected.items()}
    assert lines[-5:] == ["/proc/self/fd", "/proc/self/fd/0", "/proc/self/fd/1", "/proc/self/fd/2", "pts/ptmx"]
    script = "echo x > /dev/null; head -c 4 /dev/zero | wc -c; (echo x > /dev/full) 2>/dev/null || echo full"
    assert inside(rootfs, script).split() == ["4", "full"]


def test_pts_is_not_the_hosts(rootfs: str) -> None:
    ours, theirs = os.openpty()
    try:
        assert inside(rootfs, "ls /dev/pts").split() == ["ptmx"]
    finally:
        os.close(ours)
        os.close(theirs)


@pytest.mark.lab
def test_masked_and_read_only_paths(rootfs: str) -> None:
    script = """
        for path in /proc/kcore /proc/keys /proc/timer_list /proc/interrupts; do
            head -c 64 $path 2>/dev/null | grep -q . && echo $path
        done
        ls /proc/acpi /sys/firmware 2>/dev/null | grep -v : | grep .
        for path in /proc/sys/kernel/hostname /proc/irq/default_smp_affinity; do
            (echo x > $path) 2>&1 | grep -o 'Read-only file system'
        done
    """
    assert inside(rootfs, script + "true").splitlines() == ["Read-only file system"] * 2
    # the same container without the part concerned shows that the script would have found something
    bare = PivotRoot(rootfs, masked=(), read_only_paths=())
    found = inside(rootfs, script + "true", root=bare).splitlines()
    assert {"/proc/timer_list", "/proc/interrupts"} <= set(found), "(/proc/kcore and /proc/keys, where there are any)"
    assert len(found) > 2, "and something of /sys/firmware or /proc/acpi"


def test_the_mount_table_is_runcs(rootfs: str, shared_path: Path) -> None:
    """The same filesystems with the same options, at each place that both know."""
    bundle = shared_path / "bundle"
    bundle.mkdir()
    subprocess.run(["runc", "spec", "--bundle", str(bundle)], check=True)
    config = json.loads((bundle / "config.json").read_text())
    config["root"] = {"path": rootfs}
    config["process"] |= {"terminal": False, "args": ["cat", "/proc/self/mountinfo"]}
    config["mounts"] = [mount for mount in config["mounts"] if mount["type"] != "cgroup"]
    (bundle / "config.json").write_text(json.dumps(config))
    name = f"judge-{os.getpid()}"
    command = ["runc", "--root", str(shared_path / "runc"), "run", "--bundle", str(bundle), name]
    theirs: dict[str, tuple[str, set[str]]] = {}
    text = subprocess.run(command, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL).stdout
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        theirs[left.split()[4]] = (right.split()[0], set(left.split()[5].split(",")))
    ours = mounts(rootfs)
    for point in ("/sys", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"):
        assert (ours[point][1], ours[point][2] - {"relatime"}) == (theirs[point][0], theirs[point][1] - {"relatime"})
    for point in ("/proc", "/proc/bus", "/proc/sys", "/proc/keys"):  # Docker's options, stricter than `runc spec`
        assert ours[point][1] == theirs[point][0]
        assert ours[point][2] >= theirs[point][1]


@pytest.mark.lab
def test_a_read_only_root(rootfs: str) -> None:
    script = "touch /file 2>&1; touch /dev/shm/file /scratch/file && echo written"
    text = inside(rootfs, script, Tmpfs("/scratch"), root=PivotRoot(rootfs, read_only=True))
    assert "Read-only file system" in text
    assert text.endswith("written\n")
    assert not os.path.exists(f"{rootfs}/file")


def test_what_masks_a_path_is_not_the_hosts(rootfs: str) -> None:
    before = os.stat("/dev/null").st_mode
    assert inside(rootfs, "chmod 000 /proc/keys; stat -c %a /dev/null").strip() == "0"
    assert os.stat("/dev/null").st_mode == before


def test_a_false_dev_null_masks_nothing(rootfs: str, shared_path: Path) -> None:
    (shared_path / "null").write_text("a secret in place of nothing")
    with pytest.raises(HostError, match="/dev/null"):
        inside(rootfs, "cat /proc/keys", Bind(str(shared_path / "null"), "/dev/null"))


@pytest.mark.parametrize("kind", [Chroot, PivotRoot])
def test_a_root_that_is_none(kind: Callable[[str], Part], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path, word in ((tmp_path / "file", "not a directory"), (tmp_path / "none", "ENOENT")):
        with pytest.raises(UsageError, match=word):
            Container(["true"], kind(str(path))).run()


def test_pivot_root_without_any_root_says_so() -> None:
    with pytest.raises(UsageError, match="no root"):
        Container(["true"], PivotRoot()).run()


# ---------------------------------------------------------------------------------------------------- binds


@pytest.mark.lab
def test_a_bind_is_the_same_files(rootfs: str, shared_path: Path) -> None:
    source = shared_path / "source"
    source.mkdir()
    (source / "file").write_text("of the host\n")
    assert inside(rootfs, "cat /a/b/file; echo back > /a/b/new", Bind(str(source), "/a/b")) == "of the host\n"
    assert (source / "new").read_text() == "back\n"
    assert inside(rootfs, "cat /etc/one", Bind(str(source / "file"), "/etc/one")) == "of the host\n"


def test_binds_have_their_options_below_too(rootfs: str, shared_path: Path) -> None:
    """A mount below the source (made in a mount namespace of the test's own) is read-only and nosuid as well."""
    source = shared_path / "source"
    (source / "below").mkdir(parents=True)

    def run() -> list[str]:
        linux.unshare(linux.CLONE_NEWNS)
        linux.mount(None, "/", flags=linux.MS_REC | linux.MS_PRIVATE)
        linux.mount("tmpfs", str(source / "below"), "tmpfs")
        bind = Bind(str(source), "/data", read_only=True, nosuid=True, nodev=True, noexec=True)
        flat = Bind(str(source), "/flat", recursive=False)
        script = "grep -E ' /(data|flat)' /proc/self/mountinfo | cut -d' ' -f5,6; touch /data/below/x 2>&1; true"
        return inside(rootfs, script, bind, flat).splitlines()

    lines = child(run)
    options = {line.split()[0]: set(line.split()[1].split(",")) for line in lines if line.startswith("/")}
    assert set(options) == {"/data", "/data/below", "/flat"}
    for point in ("/data", "/data/below"):
        assert {"ro", "nosuid", "nodev", "noexec"} <= options[point]
    assert "rw" in options["/flat"]
    assert "Read-only file system" in lines[-1]


@pytest.mark.parametrize(
    ("propagation", "seen_inside", "seen_outside"),
    [("private", False, False), ("slave", True, False), ("shared", True, True)],
)
def test_propagation(rootfs: str, shared_path: Path, propagation: str, seen_inside: bool, seen_outside: bool) -> None:
    source = shared_path / "source"
    for name in ("from-host", "from-container"):
        (source / name).mkdir(parents=True)

    def run() -> list[bool]:
        linux.unshare(linux.CLONE_NEWNS)
        linux.mount(None, "/", flags=linux.MS_REC | linux.MS_PRIVATE)
        linux.mount(str(source), str(source), flags=linux.MS_BIND)
        linux.mount(None, str(source), flags=linux.MS_SHARED)
        script = (
            "mount -t tmpfs x /data/from-container; echo ready; read go; grep -c data/from-host /proc/self/mountinfo"
        )
        bind = Bind(str(source), "/data", propagation=propagation)
        container = Container(["sh", "-c", script], Namespaces("pid"), PivotRoot(rootfs), bind)
        with container.start(stdin=-1, stdout=-1):
            assert container.stdin is not None
            assert container.stdout is not None
            assert container.stdout.readline() == b"ready\n"
            outside = any(mount.point == str(source / "from-container") for mount in mountinfo())
            linux.mount("tmpfs", str(source / "from-host"), "tmpfs")
            container.stdin.write(b"go\n")
            answer = container.stdout.readline()
            container.stdin.close()
            container.stdout.close()
            container.wait()
        return [answer == b"1\n", outside]

    assert child(run) == [seen_inside, seen_outside]


@pytest.mark.parametrize("propagation", ["slave", "shared"])
def test_propagation_from_a_private_mount_is_refused(rootfs: str, shared_path: Path, propagation: str) -> None:
    """Nothing would ever appear on the other side, so it is not pretended."""

    def run() -> str:
        linux.unshare(linux.CLONE_NEWNS)
        linux.mount(None, "/", flags=linux.MS_REC | linux.MS_PRIVATE)
        try:
            inside(rootfs, "true", Bind(str(shared_path), "/data", propagation=propagation))
        except UsageError as error:
            return str(error)
        return "no error"

    assert "is private: nothing would propagate" in child(run)


@pytest.mark.parametrize("link", ["/etc", "../../../../../../etc", "/proc/1/root/etc", "loop"])
def test_a_link_in_the_image_never_leads_to_the_host(rootfs: str, shared_path: Path, link: str) -> None:
    """The image says that /mnt is somewhere else. Wherever that is, it is inside."""
    Path(rootfs, "mnt").symlink_to(link)
    Path(rootfs, "loop").symlink_to("loop")
    source = shared_path / "source"
    source.mkdir()
    (source / "marker").touch()
    before = (sorted(os.listdir("/etc")), [mount.point for mount in mountinfo()])
    container = Container(["ls", "/etc"], Namespaces(*ALL), PivotRoot(rootfs), Bind(str(source), "/mnt"))
    if link == "loop":
        with pytest.raises(StartError, match="ELOOP"):
            container.run()
    elif link.startswith("/proc"):
        with pytest.raises(StartError, match="Bind"):  # a magic link, which leads to the real root: not followed
            container.run()
    else:
        assert container.output().split() == ["marker"]
    assert (sorted(os.listdir("/etc")), [mount.point for mount in mountinfo()]) == before


@pytest.mark.parametrize(
    ("link", "made"),
    [
        ("../run/systemd/file", "run/systemd/file"),
        ("/somewhere/else", "somewhere/else"),
        ("../../../../../outside/file", "outside/file"),
        ("second", "third/file"),
    ],
)
@pytest.mark.parametrize("kind", ["file", "directory"])
def test_a_link_that_leads_nowhere_is_a_place_inside(
    rootfs: str, shared_path: Path, link: str, made: str, kind: str
) -> None:
    """As /etc/resolv.conf does in an image that was made on a systemd host: its end is made, in the root."""
    Path(rootfs, "etc/link").symlink_to(link)
    Path(rootfs, "etc/second").symlink_to("/one/../third/file")
    Path(rootfs, "one").symlink_to("/tmp")
    source = shared_path / "source"
    source.mkdir()
    (source / "marker").write_text("marker\n")
    bind = Bind(str(source / "marker") if kind == "file" else str(source), "/etc/link")
    read = "/etc/link" if kind == "file" else "/etc/link/marker"
    assert inside(rootfs, f"cat {read}", bind) == "marker\n"
    assert Path(rootfs, made).is_file() if kind == "file" else Path(rootfs, made).is_dir()
    assert not Path("/", made).exists()


def test_a_link_on_the_way_to_what_is_not_there_yet(rootfs: str, shared_path: Path) -> None:
    Path(rootfs, "data").symlink_to("/var/none")
    assert inside(rootfs, "ls -d /var/none/a/b; grep -c /var/none/a/b /proc/self/mountinfo", Tmpfs("/data/a/b")) == (
        "/var/none/a/b\n1\n"
    )
    Path(rootfs, "round").symlink_to("about/x")
    Path(rootfs, "about").symlink_to("round")
    with pytest.raises(StartError, match="ELOOP"):
        inside(rootfs, "true", Tmpfs("/round/y"))


@pytest.mark.parametrize("target", ["/", "relative", "", "/../.."])
def test_a_target_that_is_none(target: str) -> None:
    with pytest.raises(UsageError, match="no place to mount"):
        Bind("/etc", target)
    with pytest.raises(UsageError, match="no place to mount"):
        Tmpfs(target)


def test_a_source_that_is_none(rootfs: str) -> None:
    with pytest.raises(UsageError, match="/nonexistent"):
        Container(["true"], PivotRoot(rootfs), Bind("/nonexistent", "/x")).run()
    with pytest.raises(UsageError, match="sideways"):
        Bind("/etc", "/x", propagation="sideways")


def test_a_mount_needs_a_root_before_it(rootfs: str) -> None:
    with pytest.raises(ContainerError, match="PivotRoot"):
        Container(["true"], Tmpfs("/x"), PivotRoot(rootfs)).run()


@pytest.mark.lab
def test_tmpfs_is_empty_limited_and_gone(rootfs: str) -> None:
    Path(rootfs, "var/old").touch()
    script = (
        "ls /var; df -k /var | tail -1; stat -c %a /var; touch /var/new; head -c 2m /dev/zero > /var/big || echo full"
    )
    text = inside(rootfs, script.replace("2m", "2097152"), Tmpfs("/var", "size=1m,mode=700"))
    assert " 1024 " in text
    assert "\n700\n" in text
    assert text.endswith("full\n")
    assert os.listdir(f"{rootfs}/var") == ["old"]


# ----------------------------------------------------------------------------------------------------- user


@pytest.mark.parametrize(
    ("user", "shown"),
    [
        ("learner", "1000 1000 /home/learner 1000 60 63"),
        ("1000", "1000 1000 /home/learner 1000 60 63"),
        ("learner:audio", "1000 63 /home/learner 63"),
        ("1000:7", "1000 7 /home/learner 7"),
        ("4711", "4711 0 / 0"),
        ("4711:4712", "4711 4712 / 4712"),
    ],
)
def test_the_user_is_the_roots_own(rootfs: str, user: str, shown: str) -> None:
    text = inside(rootfs, "echo $(id -u) $(id -g) $HOME $(id -G)", User(user))
    assert text.split()[:3] == shown.split()[:3]
    assert sorted(text.split()[3:]) == sorted(shown.split()[3:])


def test_a_user_has_no_capabilities_left(rootfs: str) -> None:
    status = inside(rootfs, "cat /proc/self/status", User("learner"))
    assert "CapEff:\t0000000000000000" in status
    assert "CapPrm:\t0000000000000000" in status


@pytest.mark.parametrize("user", ["stranger", "learner:strangers"])
def test_a_user_that_the_root_does_not_have(rootfs: str, user: str) -> None:
    with pytest.raises(UsageError, match="stranger"):
        inside(rootfs, "true", User(user))


@pytest.mark.parametrize("user", ["4294967295", "1000:4294967295", "minus-one", "99999999999999999999"])
def test_a_user_of_whom_the_kernel_would_understand_stay_root(rootfs: str, user: str) -> None:
    with open(f"{rootfs}/etc/passwd", "a") as file:
        file.write("minus-one:x:4294967295:0::/:/bin/sh\n")
    with pytest.raises(UsageError, match="no user or group"):
        inside(rootfs, "id", User(user))


def test_a_user_can_open_its_streams_anew(rootfs: str, shared_path: Path) -> None:
    """`echo > /dev/stdout` works for pipes; a named pipe or a file of the host keeps its owner."""
    script = "echo out > /dev/stdout; echo err > /dev/stderr; cat < /dev/stdin"
    container = Container(["sh", "-c", script], Namespaces(*ALL), PivotRoot(rootfs), User("learner"))
    with container.start(stdin=-1, stdout=-1, stderr=-1):
        assert container.stdin is not None
        assert container.stdout is not None
        assert container.stderr is not None
        container.stdin.write(b"in\n")
        container.stdin.close()
        with container.stdout, container.stderr:
            assert (container.stdout.read(), container.stderr.read()) == (b"out\nin\n", b"err\n")
        assert container.wait() == 0
    os.mkfifo(shared_path / "fifo")
    for name in ("fifo", "file"):
        with open(shared_path / name, "wb+" if name == "file" else "rb+", buffering=0) as file:
            Container(["true"], Namespaces(*ALL), PivotRoot(rootfs), User("learner")).run(stdin=-3, stdout=file)
        assert (shared_path / name).stat().st_uid == 0


def test_a_users_terminal_is_the_users(rootfs: str) -> None:
    parts = [Namespaces(*ALL), PivotRoot(rootfs), Terminal(), User("learner")]
    container = Container(["sh", "-c", "echo hello > $(tty); stat -c %u $(tty)"], *parts).start()
    master = container.host.given_back.pop("terminal")
    try:
        assert container.wait(60) == 0
        assert os.read(master, 1000).split() == [b"hello", b"1000"]
    finally:
        os.close(master)


@pytest.mark.parametrize("user", ["", ":group", "user:", "a::b"])
def test_a_user_that_cannot_be_read(user: str) -> None:
    with pytest.raises(UsageError, match="no user"):
        User(user)


def test_a_passwd_that_is_a_trap(rootfs: str) -> None:
    """The image wrote it: a fifo that nobody fills, a hundred megabytes, lines that are none."""
    passwd = Path(rootfs, "etc/passwd")
    passwd.unlink()
    os.mkfifo(passwd)
    with pytest.raises(UsageError, match="no user"):
        inside(rootfs, "true", User("learner"))
    passwd.unlink()
    with passwd.open("wb") as file:
        file.write(b"garbage\n:::::::::\nroot:x:zero:0::/:\nlearner:x:77:78::/home:/bin/sh\n")
        file.truncate(100 << 20)
    assert inside(rootfs, "id -u", User("learner")) == "77\n"


# ------------------------------------------------------------------------------------------------- terminal


def test_a_terminal_of_the_containers_own(rootfs: str) -> None:
    parts = [Namespaces(*ALL), PivotRoot(rootfs), Terminal()]
    container = Container(["sh", "-c", "tty; test -t 0 && test -t 2 && ps -o tty,args; ls /dev/pts"], *parts)
    container.start(stdin=-3, stdout=-3, stderr=-3)
    master = container.host.given_back.pop("terminal")
    text = b""
    try:
        while data := os.read(master, 4096):
            text += data
    except OSError:  # EIO: its last user has gone
        pass
    finally:
        os.close(master)
    assert container.wait() == 0
    lines = text.decode().split()
    assert lines[0] == "/dev/pts/0"
    assert "136,0" in lines  # the controlling terminal of the shell
    assert set(lines[-2:]) == {"0", "ptmx"}


def test_an_attack_by_modules_in_the_image(rootfs: str) -> None:
    """A Python that still imported after pivot_root would run the image's own modules, as root, from our process."""
    for directory in {path for path in sys.path if path.startswith("/")}:
        there = Path(rootfs + directory)
        there.mkdir(parents=True, exist_ok=True)
        (there / "colorsys.py").write_text("import os; os.mkdir('/owned')\n")
    container = Container(["true"], Namespaces("pid"), PivotRoot(rootfs), _Imports())
    with pytest.raises(ContainerError, match="colorsys"):
        container.run()
    assert not os.path.exists(f"{rootfs}/owned")


class _Imports(Part):
    """A part that forgot to import something in time."""

    def seal(self, inside: object) -> None:
        import colorsys

        del colorsys
