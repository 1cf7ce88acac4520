"""Chapter 05: the kernel's mount table, its directories and GNU tar say whether an overlay is what we say it is."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import random
import shutil
import signal
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from minicontainer import linux, overlayfs, state
from minicontainer.chroot import PivotRoot
from minicontainer.container import PIPE, Container
from minicontainer.container.part import Host, Inside
from minicontainer.errors import HostError, ImageError, UsageError
from minicontainer.images.unpack import unpack
from minicontainer.namespaces import Namespaces
from minicontainer.overlayfs import Change, Options, Overlay, mounts, upper, whiteouts

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(params=["by descriptor", "by name"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to name a layer, the second being what a kernel before 6.13 leaves."""
    if request.param == "by name":

        def too_old(*_: object) -> int:
            raise OSError(errno.EINVAL, "Invalid argument")

        monkeypatch.setattr(mounts, "_by_descriptor", too_old)
    return str(request.param)


@pytest.fixture
def target(tmp_path: Path) -> str:
    path = tmp_path / "merged"
    path.mkdir()
    return str(path)


def layer(path: Path, **files: str) -> str:
    path.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (path / name).write_text(content)
    return str(path)


def mount_options(target: str) -> str:
    """The overlay's own options in /proc/self/mountinfo, the last field of proc_pid_mountinfo(5)."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[4] == target:
            return fields[-1]
    return ""


def tree(root: str | Path) -> dict[str, tuple[object, ...]]:
    """Everything a user of the tree can see of it."""
    seen: dict[str, tuple[object, ...]] = {}
    for directory, directories, files in os.walk(root):
        for name in directories + files:
            path = os.path.join(directory, name)
            entry = os.lstat(path)
            content: object = None
            if stat.S_ISREG(entry.st_mode):
                content = Path(path).read_bytes()
            elif stat.S_ISLNK(entry.st_mode):
                content = os.readlink(path)
            seen[os.path.relpath(path, root)] = (entry.st_mode, entry.st_uid, entry.st_gid, content)
    return seen


@pytest.mark.usefixtures("way")
class TestMounting:
    @pytest.mark.parametrize("number", mounts.TOO_OLD)
    def test_an_older_kernel_takes_layers_by_name(
        self, tmp_path: Path, target: str, monkeypatch: pytest.MonkeyPatch, number: int
    ) -> None:
        real = mounts.linux.fsconfig

        def old(context: int, command: int, key: str | None = None, value: str | None = None, aux: int = 0) -> None:
            if command == mounts.linux.FSCONFIG_SET_FD:
                raise OSError(number, os.strerror(number))
            real(context, command, key, value, aux)

        monkeypatch.setattr(mounts.linux, "fsconfig", old)
        layers = [layer(tmp_path / "0", below="0", both="0"), layer(tmp_path / "1", both="1")]
        with mounts.mounted(layers, None, target):
            assert sorted(os.listdir(target)) == ["below", "both"]
            assert Path(target, "both").read_text() == "1"

    def test_upper_layers_cover_lower_ones_and_only_upper_is_written(self, tmp_path: Path, target: str) -> None:
        base = layer(tmp_path / "base", both="base", one="base")
        top = layer(tmp_path / "top", both="top")
        with overlayfs.mounted([base, top], str(tmp_path / "c"), target):
            assert {p.name: p.read_text() for p in Path(target).iterdir()} == {"both": "top", "one": "base"}
            Path(target, "one").write_text("changed")
            Path(target, "new").write_text("new")
        assert Path(base, "one").read_text() == "base"
        assert sorted(os.listdir(tmp_path / "c" / "upper")) == ["new", "one"]
        assert not os.path.ismount(target)

    def test_five_hundred_layers_with_long_names(self, tmp_path: Path, target: str) -> None:
        parent = tmp_path / ("a" * 200) / ("b" * 200)
        layers = [
            layer(parent / f"{number:0200}", **{f"f{number}": str(number), "last": str(number)})
            for number in range(500)
        ]
        assert len(":".join(layers)) > 50 * 4096
        with overlayfs.mounted(layers, str(tmp_path / "c"), target):
            assert len(os.listdir(target)) == 501
            assert Path(target, "last").read_text() == "499"

    def test_more_layers_than_the_kernel_stacks_is_said_before_anything_is_made(
        self, tmp_path: Path, target: str
    ) -> None:
        with pytest.raises(UsageError, match=r"501 layers.*500 at most"):
            overlayfs.mount([str(tmp_path)] * 501, None, target)

    @pytest.mark.parametrize("name", ["a:b", "a,b", "a\\b", "a b", 'a"b', "a\nb", "ä=ö", "a\\:b"])
    def test_any_character_in_a_path(self, tmp_path: Path, target: str, name: str) -> None:
        base = layer(tmp_path / f"base{name}", file="x")
        with overlayfs.mounted([base], str(tmp_path / f"upper{name}"), target):
            Path(target, "file").write_text("y")
        assert (tmp_path / f"upper{name}" / "upper" / "file").read_text() == "y"

    def test_relative_paths_are_the_callers(self, tmp_path: Path, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
        layer(tmp_path / "base", file="x")
        monkeypatch.chdir(tmp_path)
        with overlayfs.mounted(["base"], "c", target):
            assert os.listdir(target) == ["file"]

    def test_options_reach_the_kernel(self, tmp_path: Path, target: str) -> None:
        base = layer(tmp_path / "base", file="x")
        options = Options(volatile=True, metacopy=True, redirect_dir="on")
        with overlayfs.mounted([base], str(tmp_path / "c"), target, options):
            shown = mount_options(target).split(",")
        assert {"metacopy=on", "redirect_dir=on"} <= set(shown)
        assert {"volatile", "fsync=volatile"} & set(shown)  # newer kernels say the second

    def test_options_not_asked_for_stay_the_kernels(self, tmp_path: Path, target: str) -> None:
        with overlayfs.mounted([layer(tmp_path / "base")], str(tmp_path / "c"), target):
            shown = mount_options(target)
        assert "volatile" not in shown
        assert "metacopy" not in shown

    def test_metacopy_leaves_the_content_below(self, tmp_path: Path, target: str) -> None:
        base = tmp_path / "base"
        base.mkdir()
        (base / "big").write_bytes(b"x" * (1 << 20))
        with overlayfs.mounted([str(base)], str(tmp_path / "c"), target, Options(metacopy=True)):
            os.chmod(f"{target}/big", 0o600)
        assert os.stat(tmp_path / "c/upper/big").st_blocks < 1 << 20 >> 9

    def test_redirect_dir_lets_a_directory_be_renamed(self, tmp_path: Path, target: str) -> None:
        base = tmp_path / "base"
        layer(base / "old", file="x")
        with (
            overlayfs.mounted([str(base)], str(tmp_path / "c1"), target, Options(redirect_dir="off")),
            pytest.raises(OSError) as caught,
        ):
            os.rename(f"{target}/old", f"{target}/new")
        assert caught.value.errno == errno.EXDEV
        with overlayfs.mounted([str(base)], str(tmp_path / "c2"), target, Options(redirect_dir="on")):
            os.rename(f"{target}/old", f"{target}/new")
            assert Path(target, "new/file").read_text() == "x"

    @pytest.mark.parametrize("count", [1, 2])
    def test_without_upper_the_view_is_read_only(self, tmp_path: Path, target: str, count: int) -> None:
        layers = [layer(tmp_path / f"l{n}", **{f"f{n}": "x"}) for n in range(count)]
        with overlayfs.mounted(layers, None, target):
            assert len(os.listdir(target)) == count
            with pytest.raises(OSError) as caught:
                Path(target, "new").write_text("x")
        assert caught.value.errno == errno.EROFS

    def test_no_layer_at_all_is_an_empty_root(self, tmp_path: Path, target: str) -> None:
        with overlayfs.mounted([], str(tmp_path / "c"), target):
            assert os.listdir(target) == []
            Path(target, "new").write_text("x")
        assert os.listdir(tmp_path / "c/upper") == ["new"]

    def test_the_root_has_the_mode_and_owner_of_the_uppermost_layer(self, tmp_path: Path, target: str) -> None:
        base, top = layer(tmp_path / "base"), layer(tmp_path / "top")
        os.chmod(top, 0o1750)
        os.chown(top, 12, 34)
        with overlayfs.mounted([base, top], str(tmp_path / "c"), target):
            entry = os.stat(target)
        assert (stat.S_IMODE(entry.st_mode), entry.st_uid, entry.st_gid) == (0o1750, 12, 34)

    def test_whiteouts_and_opaque_directories_of_a_layer_hide_what_is_below(self, tmp_path: Path, target: str) -> None:
        base, top = tmp_path / "base", tmp_path / "top"
        layer(base, gone="x", stays="x")
        layer(base / "d", old="x")
        layer(top / "d", new="x")
        whiteouts.make_whiteout(f"{top}/gone")
        whiteouts.make_opaque(f"{top}/d")
        with overlayfs.mounted([str(base), str(top)], str(tmp_path / "c"), target):
            assert sorted(os.listdir(target)) == ["d", "stays"]
            assert os.listdir(f"{target}/d") == ["new"]

    @pytest.mark.parametrize(
        ("spoil", "words"),
        [("missing", "ENOENT"), ("file", "ENOTDIR"), ("twice", "ELOOP"), ("volatile", "volatile")],
    )
    def test_what_cannot_be_mounted_says_why_and_leaves_no_mount(
        self, tmp_path: Path, target: str, spoil: str, words: str
    ) -> None:
        layers = [layer(tmp_path / "base", file="x"), layer(tmp_path / "top")]
        container = str(tmp_path / "c")
        if spoil == "missing":
            os.rmdir(layers[1])
        elif spoil == "file":
            layers[1] += "/../base/file"
        elif spoil == "twice":
            layers[1] = layers[0]
        else:
            overlayfs.mount(layers, container, target, Options(volatile=True))
            overlayfs.unmount(target)
        before = Path("/proc/self/mountinfo").read_text()
        with pytest.raises((HostError, FileNotFoundError), match=words):
            overlayfs.mount(layers, container, target)
        assert Path("/proc/self/mountinfo").read_text() == before

    def test_an_upper_that_cannot_be_written_is_an_error_and_no_read_only_root(
        self, tmp_path: Path, target: str
    ) -> None:
        container = tmp_path / "c"
        upper.make(str(container), [])
        linux.mount(str(container), str(container), None, linux.MS_BIND)
        try:
            linux.mount(None, str(container), None, linux.MS_REMOUNT | linux.MS_BIND | linux.MS_RDONLY)
            with pytest.raises(HostError):
                mounts.detached([layer(tmp_path / "base")], str(container))
        finally:
            linux.umount2(str(container))

    def test_nothing_of_our_own_process_changes(self, tmp_path: Path) -> None:
        def own() -> tuple[object, ...]:
            status = Path("/proc/self/status").read_text().splitlines()
            return (
                os.getcwd(),
                os.readlink("/proc/self/ns/mnt"),
                Path("/proc/self/mountinfo").read_text(),
                [line for line in status if line.startswith(("Cap", "Uid", "Gid", "Threads"))],
                sorted(os.listdir("/proc/self/fd")),
            )

        upper.make(str(tmp_path / "c"), [])
        layers = [layer(tmp_path / "a"), layer(tmp_path / "b")]
        with user_namespace() as pid:
            before = own()
            os.close(mounts.detached(layers, str(tmp_path / "c")))
            os.close(mounts.detached(layers, str(tmp_path / "c"), None, pid))
            assert own() == before


@contextlib.contextmanager
def user_namespace(first: int = 100_000) -> Iterator[int]:
    """A process in a user namespace whose root is `first` out here."""
    pid = os.fork()
    if pid == 0:
        linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
        linux.unshare(linux.CLONE_NEWUSER | linux.CLONE_NEWNS)
        os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(0)
    try:
        os.waitpid(pid, os.WUNTRACED)
        for name in ("uid_map", "gid_map"):
            linux.write(f"/proc/{pid}/{name}", f"0 {first} 65536")
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@pytest.mark.usefixtures("way")
def test_root_of_a_user_namespace_owns_the_files_and_writes_them_as_root_on_disk(tmp_path: Path) -> None:
    base = layer(tmp_path / "base", file="x", gone="x")
    layer(Path(base, "etc"), passwd="root")
    os.chown(f"{base}/file", 1000, 1001)
    container = str(tmp_path / "c")
    upper.make(container, [base])
    report, send = os.pipe()
    with user_namespace() as holder:
        fd = mounts.detached([base], container, None, holder)
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                namespace = os.open(f"/proc/{holder}/ns/user", os.O_RDONLY)
                linux.setns(namespace, linux.CLONE_NEWUSER)
                linux.unshare(linux.CLONE_NEWNS)
                linux.setresgid(0)
                linux.setresuid(0)
                linux.mount(None, "/", None, linux.MS_REC | linux.MS_PRIVATE)
                linux.move_mount(fd, "", linux.AT_FDCWD, "/proc/sys")  # tmp_path is closed to this root
                os.chdir("/proc/sys")
                Path("etc/passwd").write_text("changed")
                os.unlink("gone")
                Path("new").write_text("new")
                os.chown("new", 5, 6)
                owner = os.stat("file")
                os.write(send, f"{owner.st_uid} {owner.st_gid} {os.stat('etc').st_uid}".encode())
                status = 0
            finally:
                os._exit(status)
        os.close(fd)
        assert os.waitpid(pid, 0)[1] == 0
    os.close(send)
    with os.fdopen(report) as file:
        assert file.read() == "1000 1001 0"
    changed = os.stat(f"{container}/upper/etc/passwd")
    new = os.stat(f"{container}/upper/new")
    assert (changed.st_uid, changed.st_gid, new.st_uid, new.st_gid) == (0, 0, 5, 6)
    assert whiteouts.is_whiteout(os.lstat(f"{container}/upper/gone"))


class TestPart:
    @pytest.fixture(autouse=True)
    def roots(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MINICONTAINER_DATA_ROOT", str(tmp_path / "data"))
        monkeypatch.setenv("MINICONTAINER_EXEC_ROOT", str(tmp_path / "exec"))

    def through(self, part: Overlay, act: str) -> None:
        """Pass the part's moments, and run `act` in the new root."""
        host = Host(state.new_id(), [part])
        part.record(host)
        part.prepare(host)
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                linux.unshare(part.namespaces)
                part.attach(host)
                inside = Inside([], {}, "/", "")
                inside.fds = host.gifts
                part.mount(inside)
                assert inside.rootfs
                subprocess.run(["sh", "-ec", act], cwd=inside.rootfs, check=True)
                status = 0
            finally:
                os._exit(status)
        status = os.waitpid(pid, 0)[1]
        host.close()
        assert status == 0

    @pytest.mark.lab
    def test_the_host_sees_no_mount_and_release_removes_the_directories(self, tmp_path: Path) -> None:
        part = Overlay([layer(tmp_path / "base", file="x")])
        before = Path("/proc/self/mountinfo").read_text()
        self.through(part, "echo y > file; mkdir -p a/b; rm a -r; test $(cat file) = y")
        assert Path("/proc/self/mountinfo").read_text() == before
        assert Path(part.upperdir, "file").read_text() == "y\n"
        part.release()
        part.release()
        assert os.listdir(tmp_path / "data/containers") == []
        assert (tmp_path / "base/file").read_text() == "x"

    @pytest.mark.lab
    def test_an_upper_that_was_given_is_kept_and_can_be_used_again(self, tmp_path: Path) -> None:
        base = layer(tmp_path / "base", file="x")
        for act in ("echo y > file", "test $(cat file) = y"):
            part = Overlay([base], str(tmp_path / "mine"))
            self.through(part, act)
            part.release()
        assert (tmp_path / "mine/upper/file").read_text() == "y\n"

    def test_another_process_releases_it_from_its_record(self, tmp_path: Path) -> None:
        part = Overlay([layer(tmp_path / "base")])
        host = Host(state.new_id(), [part])
        record = part.record(host)
        assert record is not None
        recalled = Overlay.recall(record)
        recalled.release()  # killed before anything was made
        part.prepare(host)
        host.close()
        assert os.listdir(tmp_path / "data/containers") == [host.id]
        recalled.release()
        assert os.listdir(tmp_path / "data/containers") == []

    @pytest.mark.parametrize("number", [errno.EIO, errno.EINVAL])
    def test_the_failure_of_any_call_leaves_nothing(self, tmp_path: Path, number: int) -> None:
        base = layer(tmp_path / "base", file="x")
        descriptors = len(os.listdir("/proc/self/fd"))
        at = 0
        while True:
            at += 1
            part = Overlay([base])
            host = Host(state.new_id(), [part])
            watch = linux.Watch(fail_at=at, fail_errno=number)
            with linux.watch(watch):
                with contextlib.suppress(OSError, HostError):
                    part.record(host)
                    part.prepare(host)
                    part.attach(host)
                    for fd in host.gifts.values():
                        os.close(fd)
                Path(part.upperdir, "x").mkdir(parents=True, exist_ok=True)
                with contextlib.suppress(OSError):
                    part.release()
            part.release()
            assert os.listdir(tmp_path / "data/containers") == []
            assert len(os.listdir("/proc/self/fd")) == descriptors
            if watch.seen < at:
                break
        assert at > 15


class TestContainer:
    """The part among others. Root in a user namespace is nobody out here, so the exec root must be open to all."""

    @pytest.fixture(autouse=True)
    def roots(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        with tempfile.TemporaryDirectory(prefix="minicontainer-", dir="/var/tmp") as top:
            os.chmod(top, 0o755)
            monkeypatch.setenv("MINICONTAINER_DATA_ROOT", f"{top}/data")
            monkeypatch.setenv("MINICONTAINER_EXEC_ROOT", f"{top}/exec")
            yield

    @pytest.mark.parametrize(
        "kinds",
        [
            pytest.param(("pid",), marks=pytest.mark.lab, id="pid"),
            pytest.param(("pid", "ipc", "uts", "network", "cgroup", "user"), id="user"),
        ],
    )
    def test_it_writes_its_own_copy_as_root(self, tmp_path: Path, kinds: tuple[str, ...]) -> None:
        image = tmp_path / "image"
        for name in ("bin", "etc", "dev", "proc", "sys"):
            (image / name).mkdir(parents=True)
        shutil.copy("/bin/busybox", image / "bin/sh")
        (image / "etc/motd").write_text("image\n")
        mounts_before = Path("/proc/self/mountinfo").read_text()
        overlay = Overlay([str(image)], str(tmp_path / "mine"))
        act = "cat /etc/motd; echo mine > /etc/motd; echo new > /etc/new; stat -c %u /etc/motd /etc/new /bin/sh"
        container = Container(["/bin/sh", "-c", act], Namespaces(*kinds), overlay, PivotRoot())
        assert container.output().split() == ["image", "0", "0", "0"]
        assert (image / "etc/motd").read_text() == "image\n"
        assert overlayfs.diff(overlay.upperdir, overlay.layers) == [
            Change("/etc", "changed"),
            Change("/etc/motd", "changed"),
            Change("/etc/new", "added"),
        ]
        entry = os.stat(f"{overlay.upperdir}/etc/new")
        assert (entry.st_uid, entry.st_gid) == (0, 0)
        assert Path("/proc/self/mountinfo").read_text() == mounts_before

    @pytest.mark.lab
    def test_containers_of_one_image_see_nothing_of_each_other(self, tmp_path: Path) -> None:
        image = tmp_path / "image"
        for name in ("bin", "dev", "proc", "sys"):
            (image / name).mkdir(parents=True)
        shutil.copy("/bin/busybox", image / "bin/sh")
        layers = [str(image), layer(tmp_path / "over", app="of the image")]
        act = ["/bin/sh", "-c", "rm /app; echo > /mine; echo done; sleep 60"]
        look = ["/bin/sh", "-c", "cat /app; echo /mi*; rm -r /bin"]
        with Container(act, Namespaces("pid"), Overlay(layers), PivotRoot()).start(stdout=PIPE) as one:
            assert one.stdout is not None
            with one.stdout:
                one.stdout.readline()
            assert Container(look, Namespaces("pid"), Overlay(layers), PivotRoot()).output() == "of the image/mi*\n"
            assert not os.path.exists(f"/proc/{one.pid}/root/app")
            assert os.path.exists(f"/proc/{one.pid}/root/bin/sh")


class TestRemoval:
    def test_a_tree_ten_thousand_deep(self, tmp_path: Path) -> None:
        depth = 10_000
        fd = os.open(tmp_path, os.O_RDONLY)
        for number in range(depth):
            name = "c" if number == 0 else "upper" if number == 1 else "d"
            os.mkdir(name, dir_fd=fd)
            if number % 1000 == 5:
                os.mknod("file", dir_fd=fd)
            below = os.open(name, os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = below
        os.close(fd)
        upper.remove(str(tmp_path / "c"))
        assert os.listdir(tmp_path) == []

    def test_symbolic_links_are_removed_and_not_followed(self, tmp_path: Path) -> None:
        outside = tmp_path / "outside"
        layer(outside / "d", file="x")
        container = tmp_path / "c"
        upper.make(str(container), [])
        (container / "upper/link").symlink_to(outside)
        (container / "upper/d").mkdir()
        (container / "upper/d/link").symlink_to(outside / "d")
        os.rmdir(container / "work")
        (container / "work").symlink_to(outside)
        with pytest.raises(OSError):
            upper.remove(str(container))
        assert (outside / "d/file").read_text() == "x"
        os.unlink(container / "work")
        upper.remove(str(container))
        assert not container.exists()
        assert (outside / "d/file").read_text() == "x"

    def test_a_filesystem_mounted_inside_is_left_alone(self, tmp_path: Path) -> None:
        container = tmp_path / "c"
        upper.make(str(container), [])
        outside = layer(tmp_path / "outside", file="x")
        inside = container / "upper/d"
        inside.mkdir()
        linux.mount(outside, str(inside), None, linux.MS_BIND)
        try:
            with pytest.raises(OSError):
                upper.remove(str(container))
            assert Path(outside, "file").read_text() == "x"
        finally:
            linux.umount2(str(inside))
        upper.remove(str(container))
        assert not container.exists()

    def test_the_failure_of_any_call_is_mended_by_a_second_one(self, tmp_path: Path) -> None:
        at = 0
        while True:
            at += 1
            container = tmp_path / "c"
            upper.make(str(container), [])
            (container / "work/work").mkdir()
            os.chmod(container / "work/work", 0)
            for path in ("a/b/c", "a/b/d", "e"):
                layer(container / "upper" / path, file="x")
            watch = linux.Watch(fail_at=at)
            with linux.watch(watch), contextlib.suppress(OSError):
                upper.remove(str(container))
            upper.remove(str(container))
            assert os.listdir(tmp_path) == []
            if watch.seen < at:
                break
        assert at > 15


def populate(base: Path) -> list[str]:
    """Two layers with something of everything."""
    layer(base / "l0/etc/conf.d", a="a", b="b")
    layer(base / "l0/usr/lib", c="c", d="d")
    layer(base / "l0/var", gone="x")
    (base / "l0/etc/link").symlink_to("conf.d/a")
    layer(base / "l1/etc/conf.d", b="B", e="e")
    layer(base / "l1/usr/new", f="f")
    layer(base / "l1/usr/lib")
    whiteouts.make_opaque(str(base / "l1/usr/lib"))
    layer(base / "l1/usr/lib", g="g")
    whiteouts.make_whiteout(str(base / "l1/var"))
    return [str(base / "l0"), str(base / "l1")]


class TestDiff:
    def test_added_changed_deleted_in_order(self, tmp_path: Path, target: str) -> None:
        layers = populate(tmp_path)
        with overlayfs.mounted(layers, str(tmp_path / "c"), target):
            Path(target, "etc/conf.d/a").write_text("changed")
            os.unlink(f"{target}/etc/conf.d/b")
            Path(target, "usr/lib/c").write_text("new, though a lower layer once had it")
            Path(target, "var").mkdir()
            subprocess.run(["rm", "-r", f"{target}/usr/new"], check=True)
            os.unlink(f"{target}/etc/link")
            Path(target, "etc/link").mkdir()
        assert overlayfs.diff(str(tmp_path / "c/upper"), layers) == [
            Change("/etc", "changed"),
            Change("/etc/conf.d", "changed"),
            Change("/etc/conf.d/a", "changed"),
            Change("/etc/conf.d/b", "deleted"),
            Change("/etc/link", "changed"),
            Change("/usr", "changed"),
            Change("/usr/lib", "changed"),
            Change("/usr/lib/c", "added"),
            Change("/usr/new", "deleted"),
            Change("/var", "added"),
        ]

    def test_a_directory_made_anew_lists_what_it_no_longer_has(self, tmp_path: Path, target: str) -> None:
        layers = populate(tmp_path)
        with overlayfs.mounted(layers, str(tmp_path / "c"), target):
            subprocess.run(["rm", "-r", f"{target}/etc"], check=True)
            layer(Path(target, "etc/conf.d"), e="again", h="h")
        assert overlayfs.diff(str(tmp_path / "c/upper"), layers) == [
            Change("/etc", "changed"),
            Change("/etc/conf.d", "changed"),
            Change("/etc/conf.d/a", "deleted"),
            Change("/etc/conf.d/b", "deleted"),
            Change("/etc/conf.d/e", "changed"),
            Change("/etc/conf.d/h", "added"),
            Change("/etc/link", "deleted"),
        ]

    def test_no_change_no_entry(self, tmp_path: Path, target: str) -> None:
        layers = populate(tmp_path)
        with overlayfs.mounted(layers, str(tmp_path / "c"), target):
            tree(target)
        assert overlayfs.diff(str(tmp_path / "c/upper"), layers) == []

    @pytest.mark.parametrize(
        "options", [Options(), Options(metacopy=True, redirect_dir="on")], ids=["plain", "redirect"]
    )
    @pytest.mark.parametrize("seed", range(12))
    def test_random_changes_agree_with_what_the_kernel_shows(
        self, tmp_path: Path, target: str, seed: int, options: Options
    ) -> None:
        layers = populate(tmp_path)
        with overlayfs.mounted(layers, None, target):
            before = tree(target)
        with overlayfs.mounted(layers, str(tmp_path / "c"), target, options):
            shuffle(target, random.Random(seed))
            after = tree(target)
        changes = overlayfs.diff(str(tmp_path / "c/upper"), layers)
        assert len({change.path for change in changes}) == len(changes)
        by_kind = {
            kind: {change.path[1:] for change in changes if change.kind == kind}
            for kind in ("added", "changed", "deleted")
        }
        gone = before.keys() - after.keys()
        tops = {
            path
            for path in gone
            if os.path.dirname(path) not in gone
            and (not os.path.dirname(path) or stat.S_ISDIR(int(str(after[os.path.dirname(path)][0]))))
        }
        assert by_kind["added"] == after.keys() - before.keys()
        assert by_kind["deleted"] == tops
        assert {path for path in before.keys() & after.keys() if before[path] != after[path]} <= by_kind["changed"]
        assert by_kind["changed"] <= before.keys() & after.keys()

    def test_a_redirect_without_its_layers_is_refused(self, tmp_path: Path, target: str) -> None:
        layers = populate(tmp_path)
        with overlayfs.mounted(layers, str(tmp_path / "c"), target, Options(redirect_dir="on")):
            os.rename(f"{target}/etc", f"{target}/moved")
        with pytest.raises(ImageError, match="/moved refers to the layers below"):
            overlayfs.diff(str(tmp_path / "c/upper"))


def shuffle(root: str, choose: random.Random) -> None:
    """Some forty random things that programs do to files."""
    for number in range(40):
        everything = sorted(tree(root))
        if not everything:
            os.mkdir(f"{root}/a")
            continue
        path = os.path.join(root, choose.choice(everything))
        directories = [root, *(f"{root}/{name}" for name in everything if os.path.isdir(f"{root}/{name}"))]
        place = f"{choose.choice(directories)}/{choose.choice('abcdefgh')}"
        # EEXIST, EISDIR, ENOTDIR, ENOENT, EPERM (a hard link to a directory)
        with contextlib.suppress(OSError):
            match choose.randrange(8):
                case 0:
                    Path(place).write_text(f"written {number}")
                case 1:
                    os.mkdir(place)
                case 2 | 3:
                    subprocess.run(["rm", "-rf", path], check=True)
                case 4:
                    os.chmod(path, 0o700 + number)
                case 5:
                    subprocess.run(["mv", "-T", path, place], stderr=subprocess.DEVNULL, check=False)
                case 6:
                    os.symlink("anywhere", place)
                case 7:
                    os.link(path, place, follow_symlinks=False)


class TestCommit:
    def test_the_same_changes_give_the_same_bytes_whoever_made_them_and_when(self, tmp_path: Path) -> None:
        written = []
        for name, order in (("one", 1), ("two", -1)):
            root = tmp_path / name
            root.mkdir()
            for entry in ["a", "b", "b.c", "link", "b/x"][::order]:
                path = root / entry
                path.parent.mkdir(exist_ok=True)
                if entry == "b":
                    path.mkdir(exist_ok=True)
                else:
                    path.write_text(entry)
            os.link(root / "a", root / "z")
            whiteouts.make_whiteout(str(root / "gone"))
            with open(tmp_path / f"{name}.tar", "wb") as stream:
                result = overlayfs.commit(str(root), stream, source_date_epoch=1_000_000_000)
            written.append((tmp_path / f"{name}.tar").read_bytes())
            assert result.size == len(written[-1])
            assert result.diff_id == f"sha256:{hashlib.sha256(written[-1]).hexdigest()}"
        assert written[0] == written[1]
        listed = subprocess.run(["tar", "-tf", tmp_path / "one.tar"], capture_output=True, text=True, check=True)
        assert listed.stdout.split() == ["a", "b/", "b/x", "b.c", ".wh.gone", "link", "z"]

    @pytest.mark.parametrize(
        "options", [Options(), Options(metacopy=True, redirect_dir="on")], ids=["plain", "redirect"]
    )
    @pytest.mark.parametrize("seed", range(8))
    def test_unpacked_over_its_layers_it_is_what_the_container_saw(
        self, tmp_path: Path, target: str, seed: int, options: Options
    ) -> None:
        layers = populate(tmp_path)
        with overlayfs.mounted(layers, str(tmp_path / "c"), target, options):
            shuffle(target, random.Random(100 + seed))
            before = tree(target)
        with open(tmp_path / "layer.tar", "w+b") as stream:
            overlayfs.commit(str(tmp_path / "c/upper"), stream, layers)
            stream.seek(0)
            unpack(stream, str(tmp_path / "new"))
        with overlayfs.mounted([*layers, str(tmp_path / "new")], None, target):
            assert tree(target) == before

    def test_what_was_only_renamed_is_written_in_full(self, tmp_path: Path, target: str) -> None:
        layers = populate(tmp_path)
        with overlayfs.mounted(layers, str(tmp_path / "c"), target, Options(metacopy=True, redirect_dir="on")):
            os.rename(f"{target}/etc", f"{target}/moved")
            os.chmod(f"{target}/usr/new/f", 0o600)
        with open(tmp_path / "layer.tar", "wb") as stream:
            overlayfs.commit(str(tmp_path / "c/upper"), stream, layers)
        (tmp_path / "theirs").mkdir()
        subprocess.run(["tar", "-xpf", tmp_path / "layer.tar", "-C", tmp_path / "theirs"], check=True)
        assert (tmp_path / "theirs/moved/conf.d/b").read_text() == "B"
        assert (tmp_path / "theirs/usr/new/f").read_text() == "f"
        assert (tmp_path / "theirs/.wh.etc").exists()


class TestCopyUp:
    def test_only_bytes_that_are_really_there_are_copied(self, tmp_path: Path, target: str) -> None:
        size = 8 << 20
        base = tmp_path / "base"
        base.mkdir()
        (base / "real").write_bytes(os.urandom(size))
        with open(base / "reserved", "wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)
        with overlayfs.mounted([str(base)], str(tmp_path / "c"), target):
            real = overlayfs.copy_up(f"{target}/real")
            reserved = overlayfs.copy_up(f"{target}/reserved")
        assert real.size == reserved.size == size
        assert real.allocated >= size
        assert reserved.allocated < size
        assert os.stat(tmp_path / "c/upper/real").st_blocks * 512 == real.allocated
        assert real.seconds > 0
