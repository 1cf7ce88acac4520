"""The virtual machine's files, as far as they can be tried without one: messages, the catalog, a learner's work.

What only a machine can show is tests/vm/run's (make test-vm). Ruby comes with Vagrant; without it these tests skip.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.machinery
import importlib.util
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent
VAGRANT = ROOT / "vagrant"
SCRIPTS = [path for path in sorted([*VAGRANT.rglob("*"), *(ROOT / "tests/vm").iterdir()]) if os.access(path, os.X_OK)]
SCRIPTS = [path for path in SCRIPTS if path.is_file()]
needs_ruby = pytest.mark.skipif(shutil.which("ruby") is None, reason="no ruby here: it comes with Vagrant")


def load(path: Path) -> ModuleType:
    loader = importlib.machinery.SourceFileLoader(path.name, str(path))
    spec = importlib.util.spec_from_loader(path.name, loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    loader.exec_module(module)
    sys.dont_write_bytecode = writes
    return module


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_script_is_one_that_its_interpreter_reads(script: Path) -> None:
    first = script.read_text().splitlines()[0]
    if "python3" in first:
        compile(script.read_text(), str(script), "exec")
    else:
        shell = "bash" if first.endswith("bash") else "sh"
        read = subprocess.run([shell, "-n", script], capture_output=True, text=True)
        assert read.returncode == 0, read.stderr


@needs_ruby
@pytest.mark.parametrize("file", ["Vagrantfile", *(f"vagrant/lib/{path.name}" for path in (VAGRANT / "lib").iterdir())])
def test_ruby_reads_the_vagrantfile_and_what_it_requires(file: str) -> None:
    read = subprocess.run(["ruby", "-c", ROOT / file], capture_output=True, text=True)
    assert read.returncode == 0, read.stderr


def test_the_course_files_that_the_machine_gets_exist() -> None:
    names = (VAGRANT / "course-files").read_text().split()
    assert "notebooks" in names
    assert [name for name in names if not (ROOT / name).exists()] == []


def test_the_tests_that_the_machine_is_to_run_exist() -> None:
    asked = re.findall(r"(tests/\w+\.py)((?:::\w+)*)", (ROOT / "tests/vm/steps").read_text())
    assert len([names for _, names in asked if names]) >= 7
    for file, names in asked:
        text = (ROOT / file).read_text()
        for name in names.split("::")[1:]:
            assert re.search(rf"^ *(def|class) {name}\b", text, re.MULTILINE), f"{file} has no {name}"


# --- the catalog --------------------------------------------------------------------------------------------------


def boxes(directory: Path, *names: str) -> None:
    for name in names:
        (directory / f"{name}.libvirt.box").write_bytes(name.encode())
        (directory / f"{name}.version").write_text("12.20260101.0\n")


def test_catalog_offers_the_baked_box_with_its_checksum(tmp_path: Path) -> None:
    boxes(tmp_path, "minicontainer-debian12-amd64", "minicontainer-debian12-baked-amd64")
    (tmp_path / "other.box").write_bytes(b"somebody else's")
    subprocess.run([sys.executable, VAGRANT / "box/catalog", tmp_path], check=True)
    catalog = json.loads((tmp_path / "metadata.json").read_text())
    [version] = catalog["versions"]
    [provider] = version["providers"]
    assert (version["version"], provider["name"]) == ("12.20260101.0", "libvirt")
    assert provider["url"] == "minicontainer-debian12-baked-amd64.libvirt.box"
    assert provider["checksum"] == hashlib.sha256(b"minicontainer-debian12-baked-amd64").hexdigest()
    subprocess.run(["sha256sum", "--quiet", "--check", "SHA256SUMS"], cwd=tmp_path, check=True)
    assert len((tmp_path / "SHA256SUMS").read_text().splitlines()) == 2


def test_catalog_for_a_web_server_has_whole_addresses(tmp_path: Path) -> None:
    boxes(tmp_path, "minicontainer-debian12-amd64")
    subprocess.run([sys.executable, VAGRANT / "box/catalog", tmp_path, "http://192.0.2.1:8000/"], check=True)
    catalog = json.loads((tmp_path / "metadata.json").read_text())
    url = catalog["versions"][0]["providers"][0]["url"]
    assert url == "http://192.0.2.1:8000/minicontainer-debian12-amd64.libvirt.box"


def test_catalog_of_an_empty_folder_says_how_to_make_a_box(tmp_path: Path) -> None:
    made = subprocess.run([sys.executable, VAGRANT / "box/catalog", tmp_path], capture_output=True, text=True)
    assert made.returncode == 1
    assert "vagrant/box/build makes one" in made.stderr


# --- a learner's work ---------------------------------------------------------------------------------------------


class Machine:
    """The machine's side: a course, a learner's folder, and what has been delivered."""

    def __init__(self, directory: Path) -> None:
        self.course, self.work = directory / "course", directory / "work"
        (self.course / "labs").mkdir(parents=True)
        self.environment = {"COURSE": self.course, "WORK": self.work, "DELIVERED": directory / "state/delivered.json"}

    def publish(self, name: str, text: str) -> None:
        (self.course / name).parent.mkdir(exist_ok=True)
        (self.course / name).write_text(text)

    def __call__(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, VAGRANT / "guest/work", *map(str, arguments)],
            env={**os.environ, **{name: str(path) for name, path in self.environment.items()}},
            capture_output=True,
            text=True,
        )

    def pack(self) -> dict[str, bytes]:
        with tarfile.open(fileobj=io.BytesIO(base64.b64decode(self("pack").stdout))) as tar:
            return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    machine = Machine(tmp_path)
    machine.publish("notebooks/01.ipynb", "one")
    machine.publish("notebooks/02.ipynb", "two")
    assert machine("merge").returncode == 0
    return machine


def test_update_brings_new_chapters_and_leaves_edited_files_alone(machine: Machine) -> None:
    (machine.work / "notebooks/01.ipynb").write_text("mine")
    for name in ("01", "02", "03"):
        machine.publish(f"notebooks/{name}.ipynb", f"second edition of {name}")
    said = machine("merge").stdout
    assert (machine.work / "notebooks/01.ipynb").read_text() == "mine"
    assert (machine.work / "notebooks/01.new.ipynb").read_text() == "second edition of 01"
    assert (machine.work / "notebooks/02.ipynb").read_text() == "second edition of 02"
    assert "kept as you have edited it: notebooks/01.ipynb (the new one is notebooks/01.new.ipynb)" in said
    assert "updated: notebooks/02.ipynb" in said
    assert "new: notebooks/03.ipynb" in said


def test_merging_twice_changes_and_says_nothing(machine: Machine) -> None:
    (machine.work / "notebooks/01.ipynb").write_text("mine")
    machine.publish("notebooks/01.ipynb", "second edition")
    machine("merge")
    (machine.work / "notebooks/01.new.ipynb").unlink()
    assert machine("merge").stdout == ""
    assert not (machine.work / "notebooks/01.new.ipynb").exists()


def test_a_deleted_file_comes_back_as_it_was(machine: Machine) -> None:
    (machine.work / "notebooks/01.ipynb").unlink()
    assert machine("merge").stdout == "== new: notebooks/01.ipynb\n"
    assert (machine.work / "notebooks/01.ipynb").read_text() == "one"


def test_only_what_a_learner_has_made_goes_to_the_host(machine: Machine) -> None:
    assert machine.pack() == {}
    (machine.work / "notebooks/02.ipynb").write_text("mine")
    (machine.work / "notes.txt").write_text("also mine")
    (machine.work / "notebooks/.ipynb_checkpoints").mkdir()
    (machine.work / "notebooks/.ipynb_checkpoints/02-checkpoint.ipynb").write_text("JupyterLab's")
    (machine.work / "secret").symlink_to("/etc/shadow")
    assert machine.pack() == {"notebooks/02.ipynb": b"mine", "notes.txt": b"also mine"}


def test_a_file_too_large_for_the_host_is_named(machine: Machine) -> None:
    with open(machine.work / "large", "wb") as file:
        file.truncate((32 << 20) + 1)
    packed = machine("pack")
    assert "large is larger than 32 MiB: it stays in the machine" in packed.stderr


def test_what_comes_from_the_host_replaces_and_keeps_what_was(machine: Machine, tmp_path: Path) -> None:
    archive = tmp_path / "work.tar"
    with tarfile.open(archive, "w") as tar:
        member = tarfile.TarInfo("notebooks/01.ipynb")
        member.size, member.mtime = 4, 1000000000
        tar.addfile(member, io.BytesIO(b"host"))
    assert machine("unpack", archive).stdout == "== from the host: notebooks/01.ipynb\n"
    assert (machine.work / "notebooks/01.ipynb").read_text() == "host"
    assert (machine.work / "notebooks/01.ipynb").stat().st_mtime == 1000000000
    assert (machine.work / ".before/notebooks/01.ipynb").read_text() == "one"


@pytest.mark.parametrize("name", ["../outside", "/etc/outside", "notebooks/../../outside"])
def test_an_archive_that_would_leave_the_folder_is_refused(machine: Machine, tmp_path: Path, name: str) -> None:
    archive = tmp_path / "work.tar"
    with tarfile.open(archive, "w") as tar:
        tar.addfile(tarfile.TarInfo(name))
    unpacked = machine("unpack", archive)
    assert unpacked.returncode != 0
    assert "is no file of the course" in unpacked.stderr
    assert not (tmp_path / "outside").exists()


# --- checkpoints --------------------------------------------------------------------------------------------------

FAKE = """#!/bin/sh
echo "$*" >>"$LOG"
case $* in
"snapshot list") printf '==> course: \\nvery-good\\r\\nfirst\\n' ;;
halt) [ -z "$BROKEN" ] ;;
esac
"""


def checkpoint(directory: Path, *arguments: str, broken: str = "") -> tuple[int, list[str], str]:
    """The exit code, what Vagrant was asked to do, and what was said."""
    (directory / "bin").mkdir(exist_ok=True)
    (directory / "bin/vagrant").write_text(FAKE)
    (directory / "bin/vagrant").chmod(0o755)
    log = directory / "log"
    log.write_text("")
    ran = subprocess.run(
        [VAGRANT / "checkpoint", *arguments],
        env={**os.environ, "PATH": f"{directory}/bin:{os.environ['PATH']}", "LOG": str(log), "BROKEN": broken},
        capture_output=True,
        text=True,
    )
    return ran.returncode, [line for line in log.read_text().splitlines() if line != "snapshot list"], ran.stderr


def test_a_checkpoint_is_taken_and_brought_back_while_the_machine_is_off(tmp_path: Path) -> None:
    status, asked, _ = checkpoint(tmp_path, "save")
    assert (status, asked) == (0, ["halt", "snapshot save good", "up --no-provision"])
    status, asked, _ = checkpoint(tmp_path, "restore", "very-good")
    assert (status, asked) == (0, ["halt", "snapshot restore --no-start --no-provision very-good", "up --no-provision"])
    _, asked, _ = checkpoint(tmp_path, "restore", "first", broken="yes")
    assert asked[:2] == ["halt", "halt --force"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("save", "first"), "there is a checkpoint 'first' already"),
        (("restore", "good"), "there is no checkpoint 'good'"),
        (("restore", "../x"), "is no name for a checkpoint"),
        (("delete",), "name the checkpoint"),
        (("mend",), "usage: vagrant/checkpoint"),
    ],
)
def test_a_checkpoint_that_cannot_be_is_told_and_nothing_happens(
    tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    status, asked, said = checkpoint(tmp_path, *arguments)
    assert status != 0
    assert asked == []
    assert says in said


# --- a class ------------------------------------------------------------------------------------------------------

LEARNER = """#!/bin/sh
echo "$MINICONTAINER_NAME $MINICONTAINER_PORT $MINICONTAINER_LISTEN $MINICONTAINER_MEMORY $*" >>"$LOG"
case $MINICONTAINER_NAME in "$FAILS") exit 1 ;; esac
printf %s "token-of-$MINICONTAINER_NAME" >"$VAGRANT_DOTFILE_PATH/minicontainer-token"
"""


def classroom(
    directory: Path, *arguments: str, fails: str = "", memory: str = "1", driver: str = "kvm"
) -> subprocess.CompletedProcess[str]:
    checkout = directory / "a checkout"
    for name in ("vagrant/class", "tools/say.sh", "bin/vagrant"):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        if name != "bin/vagrant":
            shutil.copy(ROOT / name, checkout / name)
    (checkout / "bin/vagrant").write_text(LEARNER)
    (checkout / "bin/vagrant").chmod(0o755)
    environment = {"PATH": f"{checkout}/bin:{os.environ['PATH']}", "LOG": str(directory / "log"), "FAILS": fails}
    return subprocess.run(
        [checkout / "vagrant/class", *arguments],
        env={**os.environ, **environment, "MINICONTAINER_MEMORY": memory, "MINICONTAINER_DRIVER": driver},
        capture_output=True,
        text=True,
    )


def test_each_learner_of_a_class_has_a_machine_a_port_and_a_link(tmp_path: Path) -> None:
    ran = classroom(tmp_path, "up", "12", "192.0.2.1")
    assert ran.returncode == 0, ran.stderr
    asked = (tmp_path / "log").read_text().splitlines()
    assert asked == [f"learner-{n:02} {9000 + n} 192.0.2.1 1 up" for n in range(1, 13)]
    links = (tmp_path / "a checkout/class/links.txt").read_text().splitlines()
    assert len(links) == 12
    assert links[8] == "09  http://192.0.2.1:9009/lab/tree/notebooks/00-start-here.ipynb?token=token-of-learner-09"
    (tmp_path / "log").unlink()
    assert classroom(tmp_path, "destroy").returncode == 0
    assert len((tmp_path / "log").read_text().splitlines()) == 12


def test_one_machine_that_fails_does_not_stop_the_class(tmp_path: Path) -> None:
    ran = classroom(tmp_path, "up", "3", fails="learner-02")
    assert ran.returncode == 1
    assert "these did not come up: 02" in ran.stderr
    assert [line[:2] for line in (tmp_path / "a checkout/class/links.txt").read_text().splitlines()] == ["01", "03"]


def test_a_class_too_large_for_the_host_is_told_what_would_fit(tmp_path: Path) -> None:
    ran = classroom(tmp_path, "up", "99", memory="1000000")
    assert ran.returncode == 1
    assert re.search(r"99 machines that take 1000000 MiB each want 99001024 MiB .* which has \d+ MiB", ran.stderr)
    assert "vagrant/class up 0, or with less for each: MINICONTAINER_MEMORY=768 vagrant/class up 99" in ran.stderr
    assert not (tmp_path / "log").exists()
    emulated = classroom(tmp_path, "up", "99", memory="1000000", driver="qemu")
    assert "99 machines that take 1000850 MiB each" in emulated.stderr


# --- what the Vagrantfile says, without Vagrant ---------------------------------------------------------------------

STUB = r"""
module I18n; def self.t(*) = ""; end
module Vagrant
  module Errors
    class VagrantError < StandardError
      def initialize(*) = super(error_message)
    end
  end
  module Util; module Platform
    def self.windows? = ENV["AS_ON"] == "windows"
    def self.darwin? = false
  end; end
end
require "fileutils"
"""


def ruby(code: str, root: Path, **environment: object) -> str:
    """What the code prints, or the message that a learner would see."""
    libraries = "".join(
        f"require '{VAGRANT}/lib/{name}'\n" for name in ("settings", "boxes", "checks", "course", "work")
    )
    source = (
        f"{STUB}{libraries}begin\nsettings = Course::Settings.read(ARGV[0])\n{code}\n"
        "rescue Course::Stop => stop\nputs stop.message\nend\n"
    )
    given = {name: str(value) for name, value in environment.items()}
    ran = subprocess.run(
        ["ruby", "-", root],
        input=source,
        capture_output=True,
        text=True,
        env={**{k: v for k, v in os.environ.items() if not k.startswith(("MINICONTAINER_", "VAGRANT_"))}, **given},
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@needs_ruby
def test_a_setting_comes_from_the_environment_before_the_local_file(tmp_path: Path) -> None:
    (tmp_path / "Vagrantfile.local").write_text("memory 3000\nport 9000\n")
    said = ruby("puts settings.memory, settings.port, settings.cpus", tmp_path, MINICONTAINER_PORT=9100)
    assert said.split() == ["3000", "9100", "2"]


@needs_ruby
@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("MEMORY", "lots", 'memory is "lots": it must be a whole number from 512'),
        ("PORT", "80", 'port is "80": it must be a whole number from 1024 to 65535'),
        ("CPUS", "0", 'cpus is "0": it must be a whole number from 1'),
    ],
)
def test_a_bad_setting_is_named_with_a_good_one(tmp_path: Path, name: str, value: str, says: str) -> None:
    said = ruby("puts 'accepted'", tmp_path, **{f"MINICONTAINER_{name}": value})
    assert says in said
    assert f"MINICONTAINER_{name}=" in said


@needs_ruby
def test_a_misspelt_line_in_the_local_file_names_those_there_are(tmp_path: Path) -> None:
    (tmp_path / "Vagrantfile.local").write_text("memroy 3000\n")
    said = ruby("puts 'accepted'", tmp_path)
    assert "Vagrantfile.local cannot be read" in said
    assert "memory, cpus, port" in said


@needs_ruby
def test_too_little_memory_says_how_much_would_fit(tmp_path: Path) -> None:
    assert ruby("Course::Checks.memory(settings, 2304)", tmp_path) == ""
    said = ruby("Course::Checks.memory(settings, 1500)", tmp_path)
    assert "wants 2048 MiB of memory, and this host has 1500 MiB free" in said
    assert "Type: MINICONTAINER_MEMORY=1024 vagrant up" in said
    assert "768 MiB is the least" in ruby("Course::Checks.memory(settings, 500)", tmp_path)


@needs_ruby
def test_a_taken_port_says_which_one_is_free(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = ruby("Course::Checks.port(settings)", tmp_path, MINICONTAINER_PORT=port)
        assert f"Port {port} of this host is taken" in said
        assert "Type: MINICONTAINER_PORT=" in said
        said = ruby("Course::Checks.port(settings)", tmp_path, MINICONTAINER_PORT=port, AS_ON="windows")
        assert 'Type: $env:MINICONTAINER_PORT="' in said


@needs_ruby
def test_the_token_is_random_kept_and_only_the_owners(tmp_path: Path) -> None:
    first = ruby("puts settings.link", tmp_path)
    assert first == ruby("puts settings.link", tmp_path)
    token = tmp_path / ".vagrant/minicontainer-token"
    assert len(token.read_text()) == 48
    assert token.stat().st_mode & 0o777 == 0o600
    assert first.strip().endswith(f"?token={token.read_text()}")


@needs_ruby
def test_a_local_catalog_comes_first_with_its_addresses_completed(tmp_path: Path) -> None:
    stick = tmp_path / "a stick" / "boxes"
    stick.mkdir(parents=True)
    boxes(stick, "minicontainer-debian12-baked-amd64")
    subprocess.run([sys.executable, VAGRANT / "box/catalog", stick], check=True)
    show = "box = Course::Boxes.choose(settings)\nputs box.name, box.url, box.why"
    name, url, why = ruby(show, tmp_path, MINICONTAINER_BOX_URL=stick).splitlines()
    assert (name, why) == ("minicontainer/course", f"the catalog {stick}/metadata.json")
    catalog = json.loads(Path(url.removeprefix("file://")).read_text())
    box = catalog["versions"][0]["providers"][0]["url"]
    assert box == f"file://{tmp_path}/a%20stick/boxes/minicontainer-debian12-baked-amd64.libvirt.box"


@needs_ruby
@pytest.mark.parametrize(
    ("path", "address"),
    [
        ("/home/anna/course", "file:///home/anna/course"),
        ("/media/Ünser Stick/50% #1?", "file:///media/%C3%9Cnser%20Stick/50%25%20%231%3F"),
        ("C:/Users/Anna Lee/boxes", "file:///C:/Users/Anna%20Lee/boxes"),
    ],
)
def test_a_path_becomes_an_address_that_the_downloader_takes(tmp_path: Path, path: str, address: str) -> None:
    assert ruby(f"puts Course::Boxes.address({json.dumps(path, ensure_ascii=False)})", tmp_path).strip() == address


@needs_ruby
def test_without_a_local_box_the_url_and_then_a_public_one_is_used(tmp_path: Path) -> None:
    show = "box = Course::Boxes.choose(settings)\nputs box.name, box.url.inspect, box.why"
    public = ruby(show, tmp_path).splitlines()
    assert public == ["debian/bookworm64", "nil", "there is no box of ours here"]
    url = "http://192.0.2.1:8000/metadata.json"
    named = ruby(show, tmp_path, MINICONTAINER_BOX_URL=url).splitlines()
    assert named == ["minicontainer/course", f'"{url}"', f"the catalog at {url}"]


@needs_ruby
def test_a_folder_without_boxes_and_a_broken_catalog_are_told(tmp_path: Path) -> None:
    said = ruby("Course::Boxes.choose(settings)", tmp_path, MINICONTAINER_BOX_URL="/nowhere")
    assert "There is no box in /nowhere" in said
    (tmp_path / "boxes").mkdir()
    (tmp_path / "boxes/metadata.json").write_text('{"versions": [')
    assert "is no catalog of boxes" in ruby("Course::Boxes.choose(settings)", tmp_path)


@needs_ruby
def test_the_archive_mends_what_a_checkout_on_windows_does_to_files(tmp_path: Path) -> None:
    (tmp_path / "vagrant").mkdir()
    (tmp_path / "vagrant/course-files").write_text("tools\nREADME.md\n")
    (tmp_path / "tools/__pycache__").mkdir(parents=True)
    (tmp_path / "tools/__pycache__/x.pyc").write_bytes(b"\0")
    (tmp_path / "tools/run.sh").write_bytes(b"#!/bin/sh\r\necho\r\n")
    (tmp_path / "tools/run.sh").chmod(0o644)
    (tmp_path / "README.md").write_bytes(b"one\r\n")
    path = ruby("puts Course::Archive.new(settings).path", tmp_path).strip()
    with tarfile.open(path) as tar:
        found = {member.name: (tar.extractfile(member).read(), member.mode) for member in tar}  # type: ignore[union-attr]
    token = found.pop(".host/token")
    assert len(token[0]) == 48
    assert found == {"tools/run.sh": (b"#!/bin/sh\necho\n", 0o755), "README.md": (b"one\n", 0o644)}
    assert os.stat(path).st_mode & 0o777 == 0o600


@needs_ruby
def test_a_file_that_is_no_certificate_is_told(tmp_path: Path) -> None:
    (tmp_path / "vagrant").mkdir()
    (tmp_path / "vagrant/course-files").write_text("")
    (tmp_path / "ca.der").write_bytes(b"\x30\x82")
    archive = "Course::Archive.new(settings).path"
    assert "is no certificate in PEM form" in ruby(archive, tmp_path, MINICONTAINER_CA="ca.der")
    assert "There is no file ca.pem" in ruby(archive, tmp_path, MINICONTAINER_CA="ca.pem")


@needs_ruby
def test_a_full_or_closed_folder_on_the_host_is_told(tmp_path: Path) -> None:
    (tmp_path / "vagrant").mkdir()
    (tmp_path / "vagrant/course-files").write_text("")
    full = "def File.binwrite(*, **) = raise(Errno::ENOSPC)\n"
    said = ruby(f"{full}Course::Archive.new(settings).write(File.join(ARGV[0], 'dot/other'))", tmp_path)
    assert "The course cannot be packed for the machine: No space left on device" in said
    assert "make room there" in said
    pull = "Course::Work.new(nil, File.join(ARGV[0], 'work')).pull('notes' => [1, 'mine'])"
    said = ruby(full + pull, tmp_path)
    assert "Your work cannot be kept on this host: No space left on device" in said
    assert "It is still in the machine" in said


BROKEN = """
require "tmpdir"
Ui = Struct.new(:said) { def warn(line) = puts("warning: " + line) }
class Failed < Vagrant::Errors::VagrantError
  def error_message = "failed:\\n\\npython3: not found\\n"
end
class Broken
  def ready? = true
  def sudo(_) = raise(Failed)
end
State = Struct.new(:id)
machine = Struct.new(:communicate, :state, :ui, :id).new(Broken.new, State.new(:running), Ui.new, "x")
Course.bring_home(machine, File.join(ARGV[0], "work"), settings, %s)
"""


@needs_ruby
def test_a_broken_machine_can_be_halted_and_is_destroyed_only_when_one_insists(tmp_path: Path) -> None:
    halted = ruby(BROKEN % "false", tmp_path)
    assert halted.startswith("warning: Your work could not be asked for (python3: not found): work/ has it as of")
    refused = ruby(BROKEN % "true", tmp_path)
    assert "Your work could not be asked for" in refused
    assert "To lose the rest: MINICONTAINER_CHECK=no vagrant destroy" in refused
    assert ruby(BROKEN % "true", tmp_path, MINICONTAINER_CHECK="no").startswith("warning: ")


@needs_ruby
@pytest.mark.parametrize(
    ("state", "forwarded", "ready", "half"),
    [
        ("running", True, True, "false"),
        ("running", False, True, "true"),
        ("running", True, False, "true"),
        ("shutoff", False, False, "false"),
    ],
)
def test_a_machine_whose_start_was_interrupted_is_told_from_one_that_runs(
    tmp_path: Path, state: str, forwarded: bool, ready: bool, half: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        if not forwarded:
            server.close()
        machine = f"""
Talk = Struct.new(:ready?)
State = Struct.new(:id)
machine = Struct.new(:communicate, :state).new(Talk.new({str(ready).lower()}), State.new(:{state}))
puts Course.half_started?(machine, settings)
"""
        assert ruby(machine, tmp_path, MINICONTAINER_PORT=str(port)).strip() == half


MEET = """
class Talk
  def initialize(work) = @work = work
  def sudo(command)
    command = command.sub(/test ! -x \\S+ \\|\\|/, "").gsub(Course::Work::GUEST, @work)
    command.gsub!("/dev/shm/work.tar", @tar.to_s)
    yield :stdout, `#{command}`
  end
  def upload(from, _to) = FileUtils.cp(from, @tar = File.join(Dir.mktmpdir, "work.tar"))
end
require "tmpdir"
machine = Struct.new(:communicate).new(Talk.new(ENV["GUEST_WORK"]))
puts Course::Work.new(machine, File.join(ARGV[0], "work on the host")).meet
"""


@needs_ruby
def test_host_and_machine_exchange_the_newer_files_and_lose_none(machine: Machine, tmp_path: Path) -> None:
    host = tmp_path / "work on the host"
    environment = {**machine.environment, "GUEST_WORK": VAGRANT / "guest/work"}
    (machine.work / "notebooks/01.ipynb").write_text("edited in the machine")
    assert ruby(MEET, tmp_path, **environment) == "kept on this host: work on the host/notebooks/01.ipynb\n"
    assert (host / "notebooks/01.ipynb").read_text() == "edited in the machine"
    assert ruby(MEET, tmp_path, **environment) == ""

    (host / "notebooks/01.ipynb").write_text("edited on the host")
    later = (machine.work / "notebooks/01.ipynb").stat().st_mtime + 100
    os.utime(host / "notebooks/01.ipynb", (later, later))
    (host / "notes").write_text("from the host")
    said = ruby(MEET, tmp_path, **environment).splitlines()
    assert said == ["from the host: notebooks/01.ipynb", "from the host: notes"]
    assert (machine.work / "notebooks/01.ipynb").read_text() == "edited on the host"
    assert (machine.work / ".before/notebooks/01.ipynb").read_text() == "edited in the machine"

    # a new machine, after `destroy`: it has the course as it came
    for name in ("01", "02"):
        (machine.work / f"notebooks/{name}.ipynb").unlink()
    machine("merge")
    ruby(MEET, tmp_path, **environment)
    assert (machine.work / "notebooks/01.ipynb").read_text() == "edited on the host"
    assert (machine.work / "notebooks/02.ipynb").read_text() == "two"
