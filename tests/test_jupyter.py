"""Containers made in a real Jupyter kernel, which is interrupted, restarted and killed at whatever moment.

What a single start, a spawner or a pull leaves when it is killed is tested where these are (test_spawner, test_faults,
test_images_bad). Here all of it is together, as a learner does it: by the stop button, by Kernel › Restart, or because
the machine ran out of memory. And two learners work on one machine.
"""

from __future__ import annotations

import os
import sys
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from programs import eventually, marked

from minicontainer import images, leaks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

jupyter_client = pytest.importorskip("jupyter_client", reason="jupyter_client is part of the course's extra")
pytest.importorskip("ipykernel", reason="ipykernel is part of the course's extra")

TOP = Path(__file__).resolve().parent.parent
PREFACE = """
import sys, time
from minicontainer import Bridge, Cgroup, Container, images, leaks, pull
NAME = {name!r}
image = pull(NAME)
for _ in range(2):  # from its second container on, a kernel has a spawner
    image.container(["true"]).run()
"""
BUSY = {
    # one whole life after the other: the moment falls anywhere in a start, a run or a release
    "lives": """
for _ in range(10000):
    image.container(["true"], Cgroup(memory="64M"), Bridge(publish=["127.0.0.1::80"])).run()
""",
    # one that runs, with a process in its background
    "a run": """
script = ": {mark}; (: {mark}; sleep 1000; true) & sleep 1000; true"
image.container(["sh", "-c", script], Cgroup(memory="64M"), Bridge()).run()
""",
    # several at once that nobody waits for
    "several": """
script = ": {mark}; sleep 1000; true"
containers = [image.container(["sh", "-c", script], Cgroup(memory="64M")).start() for _ in range(5)]
time.sleep(1000)
""",
    # an image that comes and goes
    "pulls": """
for _ in range(10000):
    images.remove(NAME)
    image = pull(NAME)
""",
}
MOMENTS = [0, 2, 5, 10, 17, 25, 40, 60, 90, 150]
"""Milliseconds after the cell has begun."""


class Notebook:
    """A real ipykernel, without a browser before it."""

    def __init__(self, directory: Path, **environment: str) -> None:
        directory.mkdir()
        own = {
            name: str(directory / name.lower())
            for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
        }
        inherited = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
        self.manager = jupyter_client.KernelManager(transport="ipc", ip=str(directory / "kernel"))
        self.manager.kernel_spec.argv[0] = sys.executable
        self.manager.start_kernel(cwd=str(TOP), env={**inherited, **own, **environment})
        self.client = self.manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)

    def begin(self, code: str) -> str:
        """Execute a cell, and return as soon as it is under way."""
        cell: str = self.client.execute(f"print('under way', flush=True)\n{code}")
        while self._next(cell) != ("stdout", "under way\n"):
            pass
        return cell

    def finish(self, cell: str) -> list[tuple[str, str]]:
        """Wait until the cell has ended; what it has shown since, as (kind, text)."""
        shown = []
        while (message := self._next(cell)) != ("status", "idle"):
            shown.append(message)
        return shown

    def run(self, code: str) -> str:
        """Execute a cell that has to succeed; its value."""
        shown = self.finish(self.client.execute(code))
        assert [text for kind, text in shown if kind == "error"] == []
        return "".join(text for kind, text in shown if kind == "result")

    def _next(self, cell: str) -> tuple[str, str]:
        message = self.client.get_iopub_msg(timeout=60)
        kind, content = message["msg_type"], message["content"]
        if message["parent_header"].get("msg_id") != cell:
            return "another's", ""
        if kind == "stream":
            return content["name"], content["text"]
        if kind == "error":
            return "error", f"{content['ename']}: {content['evalue']}"
        if kind == "execute_result":
            return "result", content["data"]["text/plain"]
        return kind, content.get("execution_state", "")

    def interrupt(self) -> None:
        """The stop button."""
        self.manager.interrupt_kernel()

    def restart(self) -> None:
        """Kernel › Restart: it is interrupted, asked to end, and started anew."""
        self.manager.restart_kernel(now=False)
        self.client.wait_for_ready(timeout=60)

    def kill(self) -> None:
        """What the kernel's out-of-memory killer does; JupyterLab then starts it anew."""
        self.manager.restart_kernel(now=True)
        self.client.wait_for_ready(timeout=60)

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()
        self.client.context.destroy()


@pytest.fixture
def notebook(shared_path: Path) -> Iterator[Callable[..., Notebook]]:
    from jupyter_core.utils import ensure_event_loop

    opened: list[Notebook] = []

    def open_one(**environment: str) -> Notebook:
        opened.append(Notebook(shared_path / f"notebook-{len(opened)}", **environment))
        return opened[-1]

    yield open_one
    for it in opened:
        it.close()
    ensure_event_loop().close()  # the clients', for their blocking calls


@pytest.fixture
def image(busybox_image: str) -> Iterator[str]:
    """The image's name; what a notebook has pulled of it is removed again."""
    yield busybox_image
    images.remove(busybox_image)


def sleep(milliseconds: int) -> None:
    time.sleep(milliseconds / 1000)


def left_since(before: leaks.Snapshot, it: Notebook) -> list[str]:
    """What is left, but for the kernel and its one spawner; these may be others than before.

    A zombie is nothing that runs: a helper (nft, a pull's worker) that was just being waited for at the interrupt.
    """
    kernel = it.manager.provisioner.pid
    children = Path(f"/proc/{kernel}/task/{kernel}/children").read_text().split()
    spawners = [pid for pid in children if b"serving.main()" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(spawners) <= 1
    left = leaks.left_since(before)
    ours = [f" process {pid}:" for pid in (kernel, *spawners)]
    return [line for line in left if not line.endswith("(a zombie)") and not any(it in line for it in ours)]


@pytest.mark.parametrize("what", BUSY)
def test_a_cell_interrupted_at_any_moment_leaves_nothing(
    image: str, notebook: Callable[..., Notebook], mark: str, what: str
) -> None:
    it = notebook()
    it.run(PREFACE.format(name=image))
    before = leaks.snapshot("instance")
    for moment in MOMENTS:
        cell = it.begin(BUSY[what].replace("{mark}", mark))
        sleep(moment)
        it.interrupt()
        errors = [text for kind, text in it.finish(cell) if kind == "error"]
        assert [text.partition(":")[0] for text in errors] == ["KeyboardInterrupt"], (moment, errors)
        if what == "several":  # those that have started run on, as they should, until somebody ends them
            it.run("leaks.reset(all=True)")
        assert eventually(lambda: not marked(mark)), (moment, marked(mark))
        assert it.run("pull(NAME).container(['true']).run()") == "0"
        assert left_since(before, it) == [], moment


@pytest.mark.parametrize("how", ["restart", "kill"])
@pytest.mark.parametrize("what", BUSY)
def test_a_kernel_restarted_at_any_moment_leaves_no_container(
    image: str, notebook: Callable[..., Notebook], mark: str, what: str, how: str
) -> None:
    it = notebook()
    it.run(PREFACE.format(name=image))
    before = leaks.snapshot("instance")
    for moment in MOMENTS[::4]:
        it.begin(BUSY[what].replace("{mark}", mark))
        sleep(moment)
        getattr(it, how)()
        assert eventually(lambda: not marked(mark)), (moment, marked(mark))
        it.run(PREFACE.format(name=image))
        # what a killed one could not put back, the next start does
        assert it.run("image.container(['true'], Cgroup(memory='64M'), Bridge()).run()") == "0"
        assert left_since(before, it) == [], moment


# ------------------------------------------------------------------------------------------------------ two learners

SERVER = """
network, limits = Bridge(publish=["127.0.0.1::80"]), Cgroup(memory="64M")
script = "mkdir /srv; echo {who} >/srv/who; exec httpd -f -p 80 -h /srv"
for _ in range(8):
    image.container(["true"], Cgroup(memory="64M"), Bridge(), name="web").run()
server = image.container(["sh", "-c", script], network, limits, name="web").start()
"""


class Learner:
    """One with roots of his own, and so an instance of his own."""

    def __init__(self, who: str, opened: Callable[..., Notebook], directory: Path, image: str) -> None:
        self.who = who
        roots = directory / who
        roots.mkdir()
        self.notebook = opened(MINICONTAINER_DATA_ROOT=str(roots / "data"), MINICONTAINER_EXEC_ROOT=str(roots / "exec"))
        self.notebook.run(PREFACE.format(name=image))

    def value(self, expression: str) -> Any:
        return eval(self.notebook.run(expression))

    def page(self) -> str:
        """What is served on this learner's port, asked from the host."""
        url = f"http://127.0.0.1:{self.value('network.ports[0].host_port')}/who"
        end = time.monotonic() + 20
        while True:
            try:
                with urllib.request.urlopen(url, timeout=5) as answer:
                    return str(answer.read().decode().strip())
            except OSError:  # not listening yet
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)


def test_two_learners_on_one_machine_do_not_disturb_each_other(
    notebook: Callable[..., Notebook], shared_path: Path, busybox_image: str
) -> None:
    ada, bob = learners = [Learner(who, notebook, shared_path, busybox_image) for who in ("ada", "bob")]
    cells = [it.notebook.begin(SERVER.format(who=it.who)) for it in learners]  # at the same time
    assert [it.notebook.finish(cell) for it, cell in zip(learners, cells, strict=True)] == [[], []]

    assert [it.page() for it in learners] == ["ada", "bob"]
    assert [it.value("server.host.name") for it in learners] == ["web", "web"]
    assert ada.value("network.subnet") != bob.value("network.subnet")
    assert ada.value("network.address") != bob.value("network.address")
    assert ada.value("network.link") != bob.value("network.link")
    assert ada.value("limits.path") != bob.value("limits.path")

    # what one removes, be it everything, is only this one's
    bob.notebook.run("before = leaks.snapshot()")
    process = bob.value("server.pid")
    assert ada.value("leaks.reset(all=True)") != []
    assert ada.value("server.poll()") == 137
    ada.notebook.run("images.remove(NAME)")
    assert bob.value("leaks.left_since(before)") == []
    assert os.path.exists(f"/proc/{process}/exe")
    assert bob.page() == "bob"

    # and both go on
    ada.notebook.run("image = pull(NAME)\n" + SERVER.format(who="ada again"))
    assert [it.page() for it in learners] == ["ada again", "bob"]
    for it in learners:
        it.notebook.run("server.remove()")
        assert it.value("leaks.reset()") == []
