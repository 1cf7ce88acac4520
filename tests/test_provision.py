"""The virtual machine's provisioning, interrupted at every command and on a full disk: on this machine, in directories
of its own that a mount namespace puts in the place of /opt, /srv and /var/lib.

What installs packages or starts services is not tried here: tests/vm/run does that in a machine.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROVISION = ROOT / "vagrant/provision"
NO_ROOM = "No space left on device"

# bash reads this before a script that is to die before its command number DIE_BEFORE; it counts in the file COUNT.
DEADLY = r"""
moment=0
note() {
    moment=$((moment + 1))
    echo $moment >"$COUNT"
    [ $moment != "${DIE_BEFORE:-0}" ] || kill -9 $$
}
trap note DEBUG
"""


class Guest:
    """What the machine keeps: opt, srv and lib below its directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for name in ("opt", "srv", "lib"):
            (directory / name).mkdir(parents=True)

    @property
    def course(self) -> Path:
        return self.directory / "opt/minicontainer"

    @property
    def work(self) -> Path:
        return self.directory / "srv/course"

    def __call__(self, *command: object, before: str = "", **environment: object) -> subprocess.CompletedProcess[str]:
        """The command where the directories are in their places; `before` are commands for the shell that puts them."""
        places = "; ".join(
            f'mount --bind "$0/{name}" {place}'
            for name, place in (("opt", "/opt"), ("srv", "/srv"), ("lib", "/var/lib"))
        )
        return subprocess.run(
            ["unshare", "--mount", "--propagation", "private", "bash", "-ec", f'{places}; {before or ":"}; exec "$@"',
             self.directory, *map(str, command)],
            env={**os.environ, **{name: str(value) for name, value in environment.items()}},
            capture_output=True, text=True, cwd="/",
        )  # fmt: skip

    def everything(self) -> dict[str, bytes]:
        """Every file's content, and every link's target."""
        found = {}
        for path in sorted(self.directory.rglob("*")):
            name = str(path.relative_to(self.directory))
            if path.is_symlink():
                found[name] = os.readlink(path).encode()
            elif path.is_file():
                found[name] = path.read_bytes()
        return found


def archive(path: Path, edition: str, size: int = 1000) -> Path:
    """What the host packs: a course of that edition, and the token."""
    files = {f"notebooks/0{number}.ipynb": f"{edition} edition of {number}" * size for number in range(4)}
    files |= {f"labs/0{number}.ipynb": f"{edition} lab {number}" for number in range(1, 4)}
    files |= {f"minicontainer/{edition}.py": "pass\n", ".host/token": edition}
    tree = path.with_suffix(".tree")
    for name, text in files.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)
    (tree / "vagrant/guest").mkdir(parents=True)
    shutil.copy(ROOT / "vagrant/guest/work", tree / "vagrant/guest/work")
    with tarfile.open(path, "w:gz") as tar:
        tar.add(tree, ".")
    shutil.rmtree(tree)
    return path


class Delivery:
    """A machine with a first edition that a learner has edited, and a second edition that is to come."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.second = archive(directory / "second.tar.gz", "second")
        self.deadly = directory / "deadly"
        self.deadly.write_text(DEADLY)
        self.first = Guest(directory / "first")
        made = self.first(PROVISION / "course", archive(directory / "first.tar.gz", "first"))
        assert made.returncode == 0, made.stderr
        (self.first.work / "notebooks/01.ipynb").write_text("mine")
        (self.first.work / "notes").write_text("also mine")

    def guest(self, name: str) -> Guest:
        """A machine in the same state."""
        guest = Guest(self.directory / name)
        shutil.copytree(self.first.directory, guest.directory, symlinks=True, dirs_exist_ok=True)
        return guest

    def bring(self, guest: Guest, before: str = "", **environment: object) -> subprocess.CompletedProcess[str]:
        sent = guest.directory.with_suffix(".tar.gz")  # Vagrant uploads it each time
        shutil.copy(self.second, sent)
        return guest(PROVISION / "course", sent, before=before, BASH_ENV=self.deadly, **environment)


@pytest.fixture
def delivery(tmp_path: Path) -> Delivery:
    return Delivery(tmp_path)


def test_an_update_that_was_killed_before_any_of_its_commands_is_completed_by_the_next(
    delivery: Delivery, tmp_path: Path
) -> None:
    whole = delivery.guest("whole")
    ran = delivery.bring(whole, COUNT=tmp_path / "commands")
    assert ran.returncode == 0, ran.stderr
    expected = whole.everything()
    assert expected["srv/course/notebooks/02.ipynb"].startswith(b"second edition")
    assert expected["srv/course/notebooks/01.ipynb"] == b"mine"
    commands = int((tmp_path / "commands").read_text())
    assert commands >= 20
    for moment in range(1, commands + 1):
        guest = delivery.guest(f"killed-{moment}")
        killed = delivery.bring(guest, COUNT=tmp_path / "count", DIE_BEFORE=moment)
        assert killed.returncode == -9, moment
        assert (guest.work / "notebooks/01.ipynb").read_text() == "mine", moment
        again = delivery.bring(guest, COUNT=tmp_path / "count")
        assert again.returncode == 0, (moment, again.stderr)
        assert guest.everything() == expected, moment
        shutil.rmtree(guest.directory)


@pytest.mark.skipif(shutil.which("strace") is None, reason="no strace here")
@pytest.mark.parametrize("call", ["renameat2", "?rename,renameat", "unlinkat", "?mkdir,mkdirat"])
def test_an_update_whose_program_was_killed_within_a_move_a_removal_or_a_merge_is_completed_by_the_next(
    delivery: Delivery, call: str, tmp_path: Path
) -> None:
    whole = delivery.guest("whole")
    assert delivery.bring(whole, COUNT=tmp_path / "count").returncode == 0
    expected, died = whole.everything(), 0
    for moment in range(1, 11):
        guest = delivery.guest(f"{call}-{moment}")
        sent = guest.directory.with_suffix(".tar.gz")
        shutil.copy(delivery.second, sent)
        strace = ("strace", "-f", "-qq", "-o", "/dev/null", "-e", f"inject={call}:signal=KILL:when={moment}")
        killed = guest(*strace, PROVISION / "course", sent)
        died += killed.returncode != 0
        assert (guest.work / "notebooks/01.ipynb").read_text() == "mine", moment
        assert delivery.bring(guest, COUNT=tmp_path / "count").returncode == 0
        assert guest.everything() == expected, (call, moment)
        shutil.rmtree(guest.directory)
    assert died >= 5


FULL = "mount -t tmpfs -o size=%s none /mnt; cp -a %s/. /mnt; mount --bind /mnt %s"


@pytest.mark.parametrize("size", ["140k", "10m,nr_inodes=$(find /opt | wc -l)"], ids=["little", "nothing"])
def test_on_a_full_disk_the_old_course_stays_and_it_is_said(delivery: Delivery, tmp_path: Path, size: str) -> None:
    guest = delivery.guest("full")
    check = tmp_path / "check"
    check.write_text(
        '#!/bin/sh\n"$@"; status=$?; cat /opt/minicontainer/notebooks/02.ipynb | head -c 13; exit $status\n'
    )
    check.chmod(0o755)
    sent = tmp_path / "sent.tar.gz"
    shutil.copy(delivery.second, sent)
    ran = guest(check, PROVISION / "course", sent, before=FULL % (size, "/opt", "/opt"))
    assert ran.returncode == 1
    assert NO_ROOM in ran.stderr
    assert "are free on this machine's disk" in ran.stderr
    assert "sudo minicontainer image prune" in ran.stderr
    assert ran.stdout == "first edition"
    assert delivery.bring(guest, COUNT=tmp_path / "count").returncode == 0
    assert (guest.course / "notebooks/02.ipynb").read_text().startswith("second edition")


def test_a_learners_folder_without_room_keeps_what_is_in_it(delivery: Delivery, tmp_path: Path) -> None:
    guest = delivery.guest("full")
    look = tmp_path / "look"
    look.write_text(
        '#!/bin/sh\n"$@"; status=$?\n'
        "cd /srv/course; cat notebooks/01.ipynb notes; find . -name '*.part'; exit $status\n"
    )
    look.chmod(0o755)
    sent = tmp_path / "sent.tar.gz"
    shutil.copy(archive(tmp_path / "large.tar.gz", "second", size=9000), sent)
    ran = guest(look, PROVISION / "course", sent, before=FULL % ("300k", "/srv", "/srv"))
    assert ran.returncode == 1
    assert "the machine's disk is full; no file of yours is lost" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert ran.stdout == "minealso mine"


def test_what_an_environment_is_made_from_is_told_by_the_function_of_the_script_that_makes_it() -> None:
    [reads] = [line for line in (PROVISION / "environment").read_text().splitlines() if line.startswith("eval ")]
    told = subprocess.run(
        ["bash", "-euc", f"{reads}; made_from"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert len(told.split()[0]) == 64


def test_an_environment_is_compared_with_the_lock(tmp_path: Path) -> None:
    compare = [sys.executable, "-I", ROOT / "vagrant/guest/pinned"]
    assert subprocess.run([*compare, ROOT / "requirements.txt"]).returncode == 0
    lock = tmp_path / "requirements.txt"
    for line in ("pytest==0.1", "no-such-package==1.0", 'pytest==0.2 ; python_version > "3"'):
        lock.write_text(f"# a lock\n{line}\n    # via nobody\n")
        compared = subprocess.run([*compare, lock], capture_output=True, text=True)
        assert (compared.returncode, compared.stderr.strip()) == (1, line)
    lock.write_text('no-such-package==1.0 ; python_version < "3"\n')
    assert subprocess.run([*compare, lock]).returncode == 0
