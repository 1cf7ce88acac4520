"""The command line, as a user's shell sees it: what it prints, where, and with which status it ends."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
import urllib.request
from typing import TYPE_CHECKING

import pytest

from minicontainer import state
from minicontainer.cli import COMMANDS
from minicontainer.images import get, pull, remove

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CLI = [sys.executable, "-m", "minicontainer.cli"]


@pytest.fixture(scope="module")
def image(busybox_image: str) -> Iterator[str]:
    """An image that is here already."""
    pull(busybox_image)
    yield busybox_image
    remove(busybox_image)


def mc(*words: str, status: int = 0, **how: object) -> str:
    """Run it, expect `status`; what it wrote to standard output."""
    done = subprocess.run([*CLI, *words], capture_output=True, text=True, timeout=60, check=False, **how)  # type: ignore[call-overload]
    assert done.returncode == status, done.stdout + done.stderr
    return str(done.stdout)


def refused(*words: str, status: int = 125) -> str:
    """Run it, expect it to fail with one line on standard error; that line."""
    done = subprocess.run([*CLI, *words], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("minicontainer"), done.stderr
    return done.stderr


def within(seconds: float, condition: object) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.01)


def test_the_status_is_the_commands(image: str) -> None:
    mc("run", "--rm", "--network", "none", image, "sh", "-c", "exit 42", status=42)
    mc("run", "--rm", "--init", "--network", "none", image, "sh", "-c", "kill -9 $$", status=137)


def test_output_and_errors_keep_apart(image: str) -> None:
    done = subprocess.run(
        [*CLI, "run", "--rm", "--network", "none", image, "sh", "-c", "echo out; echo err >&2"],
        capture_output=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == (b"out\n", b"err\n")


def test_standard_input_is_open_only_with_i(image: str) -> None:
    assert mc("run", "--rm", "-i", "--network", "none", image, "cat", input="a line\n") == "a line\n"
    assert mc("run", "--rm", "--network", "none", image, "cat", input="a line\n") == ""


@pytest.mark.parametrize(
    ("command", "status", "word"),
    [
        (["nonesuch"], 127, "no command 'nonesuch'"),
        (["/bin/nonesuch"], 127, "no command '/bin/nonesuch'"),
        (["/etc"], 126, "EACCES"),
    ],
)
def test_a_command_that_cannot_run_has_dockers_status(image: str, command: list[str], status: int, word: str) -> None:
    assert word in refused("run", "--rm", "--network", "none", image, *command, status=status)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["-m", "banana"], "'banana' is not a size"),
        (["--cpus", "banana"], "banana"),
        (["--pids-limit", "-7"], "-7"),
        (["--cpuset-cpus", "x"], "x"),
        (["-p", "99999:80"], "99999"),
        (["-p", "80:80/icmp"], "icmp"),
        (["--network", "nonesuch"], "nonesuch"),
        (["--network", "container:nonesuch"], "nonesuch"),
        (["--network", "none", "-p", "80:80"], "bridge"),
        (["-v", "/only"], "/only"),
        (["-v", "/a:/b:nonesuch"], "nonesuch"),
        (["-v", "/tmp:/"], "'/'"),
        (["--mount", "type=bind,source=/nonexistent,target=/x"], "/nonexistent"),
        (["--mount", "type=nonesuch,target=/x"], "nonesuch"),
        (["--mount", "type=tmpfs"], "target"),
        (["--tmpfs", "relative"], "relative"),
        (["--env-file", "/nonexistent"], "/nonexistent"),
        (["-u", "nobody-of-that-name"], "nobody-of-that-name"),
        (["--name", "../escape"], "../escape"),
        (["--hostname", "h" * 65], "64"),
        (["--nonesuch"], "--nonesuch"),
        (["-it"], "no terminal"),
    ],
)
def test_what_makes_no_sense_is_one_clear_line(image: str, options: list[str], word: str) -> None:
    assert word in refused("run", "--rm", *options, image, "true")


def test_no_command_and_a_wrong_command() -> None:
    for words in ([], ["--help"]):
        text = mc(*words)
        assert all(f"  {name} " in text for name in COMMANDS)
    assert "nonesuch" in refused("nonesuch")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    assert mc(command, "--help").startswith(f"usage: minicontainer {command}")


def test_run_imports_nothing_that_it_does_not_need(image: str) -> None:
    code = (
        "import sys; from minicontainer.cli import main; before = None\n"
        f"status = main(['run', '--rm', '--network', 'none', {image!r}, 'true'])\n"
        "heavy = {'asyncio', 'aiohttp', 'matplotlib', 'pyroute2', 'http.client', 'ssl', 'tarfile', 'subprocess',\n"
        "         'typing', 'dataclasses', 'inspect', 'logging', 'hashlib', 'tempfile', 'IPython', 'cloudpickle'}\n"
        "print(status, sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _with_path(code)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "0 []\n", done.stderr


def _with_path(code: str) -> str:
    return f"import sys; sys.path[:] = {sys.path!r}\n{code}"


def test_the_options_reach_the_kernel(image: str, tmp_path: Path) -> None:
    (tmp_path / "here").write_text("a file of the host\n")
    tmp_path.chmod(0o755)  # user 33 is to read it
    (tmp_path / "env").write_text("# a comment\nFROM_FILE=file\n\nFROM_HERE\n")
    script = (
        "cat /proc/self/status | grep Cpus_allowed_list; id -u; id -g; pwd; hostname; echo $A $FROM_FILE $FROM_HERE; "
        "cat /data/here; touch /data/new || echo data-is-read-only; touch /new || echo root-is-read-only; "
        "touch /scratch/new && df -k /scratch | tail -1 | awk '{print $2}'"
    )
    text = mc(
        *["run", "--rm", "--network", "none", "--cpuset-cpus", "0", "-u", "33:44", "-w", "/tmp", "--hostname", "box"],
        *["-e", "A=b", "--env-file", str(tmp_path / "env"), "-v", f"{tmp_path}:/data:ro", "--read-only"],
        *["--tmpfs", "/scratch:size=1m,mode=1777", image, "sh", "-c", script],
        env={**os.environ, "FROM_HERE": "here"},
    )
    lines = text.split("\n")
    assert lines[0].split() == ["Cpus_allowed_list:", "0"]
    assert lines[1:] == [
        *["33", "44", "/tmp", "box", "b file here", "a file of the host"],
        *["data-is-read-only", "root-is-read-only", "1024", ""],
    ]


def test_the_limits_are_in_the_containers_group(image: str) -> None:
    mc(
        "run",
        "-d",
        "--rm",
        "--name",
        "limited",
        "-m",
        "64M",
        "--cpus",
        "0.5",
        "--pids-limit",
        "50",
        image,
        "sleep",
        "60",
    )
    try:
        (entry,) = json.loads(mc("inspect", "limited"))
        from minicontainer.cgroups import Group

        group = Group(f"{state.instance()}/{entry['id']}")
        assert (group["memory.max"], group["cpu.max"], group["pids.max"]) == (str(64 << 20), "50000 100000", "50")
        assert entry["process"]["pid"] in group.processes()
    finally:
        mc("rm", "-f", "limited")


def test_a_published_port_serves_a_page(image: str) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    script = "mkdir /www && echo from the container > /www/index.html && exec httpd -f -p 80 -h /www"
    mc("run", "-d", "--rm", "--name", "web", "-p", f"{port}:80", image, "sh", "-c", script)
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        deadline = time.monotonic() + 20
        while True:
            try:
                with opener.open(f"http://127.0.0.1:{port}/", timeout=5) as answer:
                    assert answer.read() == b"from the container\n"
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        assert str(port) in refused("run", "--rm", "-p", f"{port}:80", image, "true")
    finally:
        mc("rm", "-f", "web")


def test_a_kept_container_has_its_changes_its_name_and_its_status(image: str) -> None:
    mc("run", "--name", "kept", "--network", "none", image, "sh", "-c", "echo new > /file; exit 3", status=3)
    try:
        assert "kept" not in mc("ps")
        (line,) = [line for line in mc("ps", "-a").splitlines() if line.endswith("kept")]
        assert "exited (3)" in line
        (entry,) = json.loads(mc("inspect", "kept"))
        with open(f"{state.data_root()}/containers/{entry['id']}/upper/file") as file:
            assert file.read() == "new\n"
        assert "kept is taken" in refused("run", "--name", "kept", "--network", "none", image, "true")
    finally:
        mc("rm", "kept")
    assert not os.path.exists(f"{state.data_root()}/containers/{entry['id']}")
    assert "no container kept" in refused("rm", "kept", status=1)


def test_a_detached_container_is_kept_by_a_process_of_its_own(image: str) -> None:
    name = mc("run", "-d", "--name", "behind", "--network", "none", image, "sh", "-c", "echo begun; sleep 600").strip()
    try:
        assert len(name) == 64
        within(10, lambda: mc("logs", "behind") == "begun\n")
        (entry,) = json.loads(mc("inspect", "behind"))
        with open(f"/proc/{entry['process']['pid']}/status") as file:
            assert "NSpid" in file.read()
        assert mc("exec", "behind", "sh", "-c", "hostname; echo $X", status=0).split() == [name[:12]]
        assert mc("exec", "-e", "X=y", "-w", "/etc", "behind", "sh", "-c", "echo $X; pwd").split() == ["y", "/etc"]
        assert "sleep 600" in mc("exec", "behind", "ps")
        mc("exec", "behind", "sh", "-c", "exit 7", status=7)
        assert "no command" in refused("exec", "behind", "nonesuch", status=127)
        assert mc("run", "--rm", "--network", "container:behind", image, "cat", "/etc/hostname").strip() == name[:12]
        assert "still runs" in refused("rm", "behind", status=1)
        assert mc("stop", "-t", "0", "behind") == "behind\n"
        within(10, lambda: "exited (137)" in mc("ps", "-a"))
        assert "does not run" in refused("exec", "behind", "true")
    finally:
        mc("rm", "-f", "behind")


def test_stop_gives_the_command_time_to_end(image: str) -> None:
    script = "trap 'echo ending; exit 5' TERM; echo ready; while :; do sleep 0.1; done"
    mc("run", "-d", "--name", "polite", "--network", "none", image, "sh", "-c", script)
    try:
        within(10, lambda: mc("logs", "polite") == "ready\n")
        mc("stop", "-t", "20", "polite")
        within(10, lambda: "exited (5)" in mc("ps", "-a"))
        assert mc("logs", "polite") == "ready\nending\n"
    finally:
        mc("rm", "-f", "polite")


def test_a_signal_to_run_is_for_the_container(image: str) -> None:
    script = "trap 'exit 9' USR1; echo ready; while :; do sleep 0.1; done"
    with subprocess.Popen(
        [*CLI, "run", "--rm", "--network", "none", image, "sh", "-c", script], stdout=subprocess.PIPE
    ) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == b"ready\n"
        run.send_signal(signal.SIGUSR1)
        assert run.wait(20) == 9


def test_who_insists_gets_a_deaf_container_killed(image: str) -> None:
    command = [*CLI, "run", "--rm", "--name", "deaf", "--network", "none", image, "sleep", "600"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as run:
        within(20, lambda: "running   deaf" in mc("ps"))
        for _ in range(2):
            run.send_signal(signal.SIGINT)
            with pytest.raises(subprocess.TimeoutExpired):
                run.wait(0.3)
        run.send_signal(signal.SIGINT)
        assert run.wait(20) == 137


def test_init_reaps_and_hands_on_signals(image: str) -> None:
    script = "echo ready; (sleep 0.1 &) ; sleep 600"
    with subprocess.Popen(
        [*CLI, "run", "--rm", "--init", "--network", "none", image, "sh", "-c", script], stdout=subprocess.PIPE
    ) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == b"ready\n"
        run.send_signal(signal.SIGTERM)  # without an init, PID 1 would ignore it
        assert run.wait(20) == 143


def test_a_killed_run_is_mended_by_the_next_one(image: str) -> None:
    with subprocess.Popen(
        [*CLI, "run", "--rm", "-m", "64M", image, "sh", "-c", "echo ready; sleep 600"], stdout=subprocess.PIPE
    ) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == b"ready\n"
        run.kill()
    assert mc("run", "--rm", "--network", "none", image, "echo", "next") == "next\n"
    # and the leak check of this test finds nothing of the first one


def test_a_terminal_of_its_own(image: str) -> None:
    """-it: the user's terminal is raw, the container's is /dev/pts/0, sizes and keys go through."""
    pid, ours = pty.fork()
    if pid == 0:
        os.execv(
            CLI[0],
            [*CLI, "run", "--rm", "-it", "--network", "none", image, "sh", "-c", "stty size; tty; cat; echo e:$?"],
        )

    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 99, 0, 0))
    os.write(ours, b"go\r")
    text = _until(ours, b"/dev/pts/0")
    assert b"33 99" in text
    os.write(ours, b"typed\r")
    _until(ours, b"typed\r\ntyped")  # the echo of the container's terminal, and cat's own
    os.write(ours, b"\x03")  # Ctrl-C: a signal inside, nothing outside
    _until(ours, b"\n", end=True)
    _, status = os.waitpid(pid, 0)
    os.close(ours)
    assert os.waitstatus_to_exitcode(status) == 130


def _until(fd: int, what: bytes, *, end: bool = False) -> bytes:
    """Read from a terminal until `what` has come, or until its end."""
    text = b""
    while end or what not in text:
        assert select.select([fd], [], [], 30)[0], text
        try:
            data = os.read(fd, 4096)
        except OSError:  # EIO: the other side is closed
            data = b""
        if not data:
            assert end, text
            return text
        text += data
    return text


def test_explain_prints_each_call_beside_the_output(image: str) -> None:
    done = subprocess.run(
        [*CLI, "run", "--rm", "--explain", "--network", "none", image, "echo", "hello"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "hello\n"
    calls = [line.split("(")[0].split()[-1] for line in done.stderr.splitlines() if "(" in line]
    for name in ("clone3", "fsopen", "move_mount", "pivot_root", "umount2", "sethostname", "execve", "rmdir"):
        assert name in calls, calls


def test_images_come_go_and_change_names(image: str, registry: str, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    subprocess.run(["cp", "/bin/busybox", str(tmp_path / "bin" / "sh")], check=True)
    name = f"{registry}/made:1"
    made = mc("import", "--cmd", '["/bin/sh", "-c", "echo it is $WHO"]', "-e", "WHO=me", str(tmp_path), name).strip()
    assert mc("images", "-q").split().count(made[7:19]) == 1
    assert mc("run", "--rm", "--network", "none", name) == "it is me\n"
    digest = mc("push", name).strip()
    assert digest.startswith("sha256:")
    mc("tag", name, "other:2")
    (described,) = json.loads(mc("inspect", "other:2"))
    assert described["Id"] == made
    mc("rmi", name, "other:2")
    assert "no image" in refused("run", "--rm", "--pull", "never", name, "true")
    assert mc("pull", "-q", name).strip() == f"{name}@{digest}"
    assert get(name).id == made
    mc("rmi", name)
    with (tmp_path / "tree.tar").open("wb") as archive:
        subprocess.run(["tar", "-C", str(tmp_path), "-c", "bin"], stdout=archive, check=True)
    with (tmp_path / "tree.tar").open("rb") as archive:
        mc("import", "-", "piped:1", stdin=archive)
    mc("tag", "piped:1", f"{registry}/piped:1")
    assert mc("push", "--quiet", f"{registry}/piped:1").startswith("sha256:")
    mc("rmi", f"{registry}/piped:1")
    mc("rmi", "piped:1")
    assert "JSON" in refused("import", "--cmd", "not json", str(tmp_path), "x", status=1)


def test_an_image_in_use_is_not_removed(image: str) -> None:
    mc("run", "-d", "--rm", "--name", "user", "--network", "none", image, "sleep", "600")
    try:
        assert "use" in refused("rmi", image, status=1)
    finally:
        mc("rm", "-f", "user")


def test_a_reader_that_has_enough_is_no_error(image: str) -> None:
    command = f"{' '.join(CLI)} images | head -n 1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False)
    assert done.stderr == ""


def test_a_user_who_is_not_root_may_serve_on_port_80(image: str) -> None:
    script = "echo page > index.html; httpd -p 80 -h . && wget -q -O - http://127.0.0.1/"
    for network in ("none", "bridge"):
        words = ["run", "--rm", "--network", network, "-u", "33:33", "--tmpfs", "/www:mode=1777", "-w", "/www", image]
        assert mc(*words, "sh", "-c", script) == "page\n"
