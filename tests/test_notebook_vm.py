"""The virtual machine that notebook 00 holds a container against, and the chart that shows both."""

from __future__ import annotations

import io
import os
import platform
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from minicontainer import Cgroup, notebook
from minicontainer.errors import ContainerError, UsageError
from minicontainer.notebook import vm
from minicontainer.notebook.magnitudes import magnitudes

if TYPE_CHECKING:
    from pathlib import Path

needs_vm = pytest.mark.skipif(bool(vm.missing()), reason=f"no virtual machine: {vm.missing()}")
BOOT_ID = "/proc/sys/kernel/random/boot_id"


@needs_vm
def test_a_machine_boots_a_kernel_of_its_own_and_is_gone_after_its_block() -> None:
    with vm.VM(memory=96) as machine:
        pid = machine.container.pid
        with open(BOOT_ID) as file:
            assert machine.said["boot"] != file.read().strip()
        assert int(machine.said["MemTotal"].split()[0]) < 96 * 1024
        assert 0 < machine.kernel_seconds < machine.seconds
        assert os.path.basename(os.readlink(f"/proc/{pid}/exe")) == vm.MACHINES[platform.machine()][0]
        assert vm.memory(pid) > 32 << 20
    assert not os.path.exists(f"/proc/{pid}")


@needs_vm
def test_a_machine_takes_parts_like_any_container() -> None:
    limits = Cgroup(memory="1G")
    with vm.VM(limits):
        assert int(limits.group["memory.current"]) > 32 << 20


@needs_vm
def test_a_machine_ends_with_its_owner() -> None:
    code = (
        "import time; from minicontainer.notebook import vm; machine = vm.VM()\n"
        "print(machine.container.pid, flush=True); time.sleep(99)"
    )
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    with owner.stdout:
        pid = int(owner.stdout.readline())
        owner.send_signal(signal.SIGKILL)
        owner.wait()
    end = time.monotonic() + 20
    while os.path.exists(f"/proc/{pid}/exe") and time.monotonic() < end:
        time.sleep(0.05)
    assert not os.path.exists(f"/proc/{pid}/exe")


@needs_vm
def test_a_machine_that_does_not_get_up_says_what_qemu_said() -> None:
    with pytest.raises(ContainerError, match=r"(?s)did not get up \(no-such\).*no-such"):
        vm.VM(accelerator="no-such")


@needs_vm
def test_a_machine_that_does_not_get_up_in_time_is_ended() -> None:
    with pytest.raises(ContainerError, match=r"nothing in 0\.01 s"):
        vm.VM(timeout=0.01)


@needs_vm
def test_plain_emulation_is_always_among_the_accelerators() -> None:
    assert vm.accelerators()[-1] == "tcg"


def test_where_there_is_no_machine_the_reason_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(vm, "FILES", str(tmp_path))
    assert "make lab" in vm.missing()
    (tmp_path / "missing").write_text("there is no network\n")
    assert vm.missing() == "there is no network"
    assert vm.accelerators() == []
    with pytest.raises(ContainerError, match="there is no network"):
        vm.VM()


def test_memory_is_what_the_kernel_says() -> None:
    program = "x = bytearray(b'x') * (64 << 20); print(flush=True); input()"
    process = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdin is not None
    with process.stdout, process.stdin:
        process.stdout.readline()
        assert 64 << 20 <= vm.memory(process.pid) < 128 << 20
        process.kill()
        process.wait()


# --------------------------------------------------------------------------------------------------------- the chart


@pytest.fixture(scope="module", autouse=True)
def fonts() -> None:
    """matplotlib opens its fonts once and keeps them: before the leak check begins."""
    notebook.Chart("A title", x="time (ms)", y="").png()


def drawn() -> notebook.Chart:
    return magnitudes(
        "Fast", {"one": 0.008, "two": 1.5}, x="time", words=lambda s: f"{s:g} s", bands={"minutes": (60, 3600)}
    )


def test_magnitudes_end_where_the_values_are_and_say_so() -> None:
    axes = drawn().axes
    assert axes.get_xscale() == "log"
    ends = [bar.get_width() for bar in axes.patches if bar.get_height() < 0.7]  # type: ignore[attr-defined]
    assert ends == pytest.approx([0.008, 1.5])
    texts = [text.get_text() for text in axes.texts]
    assert texts == ["minutes", "0.008 s", "1.5 s"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["one", "two"]


def test_magnitudes_have_words_without_numbers_for_who_cannot_see_them() -> None:
    assert repr(drawn()) == "Chart. Fast. time, from top to bottom: one, two. Behind them the ranges minutes"


def test_magnitudes_fit_on_their_paper() -> None:
    from PIL import Image

    with Image.open(io.BytesIO(drawn().png())) as picture:
        wide, high = picture.size
        edge = [picture.getpixel((x, y)) for x in (0, wide - 1) for y in range(high)]
    assert len(set(edge)) == 1, "nothing is cut off at the left or at the right"


@pytest.mark.parametrize("values", [{}, {"nothing": 0.0}])
def test_magnitudes_refuse_what_a_logarithm_cannot_show(values: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="logarithmic"):
        magnitudes("", values, x="time", words=str, bands={})
