"""What is kept of a blob when its pull is killed: used by the next one, never believed, never in the way."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from images import FakeRegistry, Handler, MadeImage, always, contents, digest_of, wait_for

from minicontainer import leaks
from minicontainer.images import Store, get, images, import_, prune, pull, push, remove
from minicontainer.images.compression import CHUNK

if TYPE_CHECKING:
    from collections.abc import Iterator

CLI = [sys.executable, "-m", "minicontainer.cli"]
KILLS = int(os.environ.get("KILLS", "12"))
"""Pulls that are killed at a random moment; more by hand."""


@pytest.fixture
def fake(root: str, fake: FakeRegistry) -> Iterator[FakeRegistry]:
    """A registry that knows ranges."""
    fake.faults.append(always(ranges, "/blobs/"))
    yield fake
    fake.faults.clear()  # no line is held any longer


def ranges(handler: Handler, stop: float = 1.0) -> None:
    """Answer as a registry does that knows ranges, `stop` of the way; then hold the line."""
    _, data = handler.server.documents[handler.path]
    start = int(handler.headers.get("Range", "bytes=0-")[6:-1])
    handler.send_response(206 if start else 200)
    if start:
        handler.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
    handler.send_header("Content-Length", str(len(data) - start))
    handler.end_headers()
    end = max(int(len(data) * stop), start)
    handler.send(data[start:end])
    while end < len(data):
        time.sleep(0.02)
        if not handler.server.faults:  # the test has seen enough
            end = len(data)


def asked(fake: FakeRegistry, layer: bytes) -> int:
    return sum(digest_of(layer) in path for path, _ in fake.asked)


def begun(name: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([*CLI, "pull", "--quiet", name], stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@contextmanager
def halfway(fake: FakeRegistry, name: str, layer: bytes) -> Iterator[subprocess.Popen[bytes]]:
    """A pull that waits for the second half of this layer, and has nearly all of the first."""
    path = Store().partial(digest_of(layer))
    half = always(lambda handler: ranges(handler, 0.5), digest_of(layer))
    fake.faults.insert(0, half)
    with begun(name) as process:
        wait_for(lambda: os.path.exists(path) and os.path.getsize(path) >= len(layer) // 2 - CHUNK)
        fake.faults.remove(half)
        yield process


def killed_halfway(fake: FakeRegistry, name: str, layer: bytes) -> int:
    """Have such a pull killed; the bytes that it leaves."""
    with halfway(fake, name, layer) as process:
        process.kill()
    with Store().alone(digest_of(layer)):  # its worker has ended
        return os.path.getsize(Store().partial(digest_of(layer)))


def content(name: str) -> bytes:
    with open(f"{get(name).layers[0]}/noise", "rb") as file:
        return file.read()


def test_killed_pull_is_gone_on_with_by_the_next(fake: FakeRegistry, root: str) -> None:
    noise = os.urandom(2_000_000)
    image = MadeImage({"noise": noise})
    name, layer = fake.serve(image), image.layers[0]
    kept = killed_halfway(fake, name, layer)
    assert len(layer) // 2 >= kept > len(layer) // 2 - CHUNK
    assert [path for path in contents(root) if path.startswith("images/")] == []  # no blob before its digest is right
    before = fake.sent
    pull(name)
    assert content(name) == noise
    assert fake.sent - before < len(layer) - kept + 10_000
    assert [path for path in contents(root) if path.startswith("ingest/")] == []


def test_interrupted_pull_is_gone_on_with_by_the_next(fake: FakeRegistry, root: str) -> None:
    noise = os.urandom(2_000_000)
    image = MadeImage({"noise": noise})
    name, layer = fake.serve(image), image.layers[0]
    with halfway(fake, name, layer) as process:
        process.send_signal(signal.SIGINT)  # Ctrl-C
        assert process.wait(10) == 130
        assert process.stderr is not None
        assert process.stderr.read() == b""
    kept = os.path.getsize(Store().partial(digest_of(layer)))
    assert len(layer) // 2 >= kept > len(layer) // 2 - CHUNK
    assert [path for path in contents(root) if not path.endswith(".partial")] == []
    before = fake.sent
    pull(name)
    assert content(name) == noise
    assert fake.sent - before < len(layer) - kept + 10_000


def test_what_was_kept_is_not_believed(fake: FakeRegistry, root: str) -> None:
    image = MadeImage({"noise": os.urandom(1_000_000)})
    name, layer = fake.serve(image), image.layers[0]
    kept = killed_halfway(fake, name, layer)
    with open(Store().partial(digest_of(layer)), "r+b") as file:
        file.seek(kept // 2)
        file.write(b"something else")
    pull(name)  # with all of it anew
    assert asked(fake, layer) == 3
    with open(Store().blob(digest_of(layer)), "rb") as file:
        assert digest_of(file.read()) == digest_of(layer)


@pytest.mark.parametrize("wrong", [b"", b"x" * 2_000_000, b"no tar at all" * 100])
def test_part_that_cannot_be_one_is_replaced(fake: FakeRegistry, root: str, wrong: bytes) -> None:
    noise = os.urandom(1_000_000)
    image = MadeImage({"noise": noise})
    name = fake.serve(image)
    os.makedirs(f"{root}/ingest")
    with open(Store().partial(digest_of(image.layers[0])), "wb") as file:
        file.write(wrong)
    pull(name)
    assert content(name) == noise


def test_blob_that_is_all_here_is_verified_and_not_asked_for(fake: FakeRegistry, root: str) -> None:
    """Killed after the last byte, before the rename."""
    image = MadeImage({"noise": os.urandom(100_000)})
    name, layer = fake.serve(image), image.layers[0]
    os.makedirs(f"{root}/ingest")
    with open(Store().partial(digest_of(layer)), "wb") as file:
        file.write(layer)
    pull(name)
    assert asked(fake, layer) == 0
    remove(name)
    with open(Store().partial(digest_of(layer)), "wb") as file:
        file.write(layer[:-1] + b"x")
    pull(name)
    assert asked(fake, layer) == 1


@pytest.mark.parametrize("answer", ["all", "416", "another range"])
def test_registry_that_cannot_go_on_is_asked_for_all_of_it(fake: FakeRegistry, root: str, answer: str) -> None:
    noise = os.urandom(1_000_000)
    image = MadeImage({"noise": noise})
    name, layer = fake.serve(image), image.layers[0]
    killed_halfway(fake, name, layer)

    def cannot(handler: Handler) -> bool:
        if "Range" not in handler.headers or digest_of(layer) not in handler.path:
            return False
        if answer == "all":
            handler.answer(200, layer)
        elif answer == "416":
            handler.answer(416)
        else:
            handler.answer(206, b"x" * 10, {"Content-Range": "bytes 0-9/10"})
        return True

    fake.faults.insert(0, cannot)
    pull(name)
    assert content(name) == noise


def test_registry_that_has_it_no_longer_does_not_cost_what_is_here(fake: FakeRegistry, root: str) -> None:
    image = MadeImage({"noise": os.urandom(1_000_000)})
    name, layer = fake.serve(image), image.layers[0]
    kept = killed_halfway(fake, name, layer)
    gone = always(lambda handler: handler.answer(404), digest_of(layer))
    fake.faults.insert(0, gone)
    with begun(name) as process:
        assert process.wait() == 1
    assert os.path.getsize(Store().partial(digest_of(layer))) == kept


def test_who_waits_for_a_blob_takes_over_when_its_process_is_killed(fake: FakeRegistry, root: str) -> None:
    noise = os.urandom(1_000_000)
    image = MadeImage({"noise": noise})
    name, layer = fake.serve(image), image.layers[0]
    with halfway(fake, name, layer) as first, begun(name) as second:
        wait_for(lambda: sum("/manifests/" in path for path, _ in fake.asked) == 2)
        time.sleep(0.5)
        assert second.poll() is None  # one download for both
        assert asked(fake, layer) == 1
        before = fake.sent
        first.kill()
        assert second.wait(30) == 0, second.stderr and second.stderr.read()
    assert content(name) == noise
    assert asked(fake, layer) == 2
    assert fake.sent - before < len(layer) // 2 + CHUNK


def test_collection_takes_what_nobody_goes_on_with(fake: FakeRegistry, root: str) -> None:
    image, other = MadeImage({"noise": os.urandom(1_000_000)}), MadeImage({"noise": os.urandom(1_000_000)})
    name, second = fake.serve(image), fake.serve(other, "other")
    killed_halfway(fake, name, image.layers[0])
    path = Store().partial(digest_of(other.layers[0]))
    with halfway(fake, second, other.layers[0]) as process:
        prune()
        assert os.path.exists(path)
        assert not os.path.exists(Store().partial(digest_of(image.layers[0])))
        process.kill()
    with Store().alone(digest_of(other.layers[0])):
        pass
    assert prune().freed >= CHUNK
    assert contents(root) == []


def test_pull_that_cannot_succeed_keeps_nothing(fake: FakeRegistry, root: str) -> None:
    """One layer is no tar; what has come of the other would only be in the way."""
    image = MadeImage({"noise": os.urandom(1_000_000)}, {"bad": b"x"})
    image.layers[1] = b"this is no tar at all"
    name = fake.serve(image)
    half = always(lambda handler: ranges(handler, 0.5), digest_of(image.layers[0]))
    path = Store().partial(digest_of(image.layers[0]))
    fake.faults.insert(0, half)

    def late(handler: Handler) -> bool:
        if digest_of(image.layers[1]) in handler.path:
            wait_for(lambda: os.path.exists(path) and os.path.getsize(path) >= CHUNK)
        return False

    fake.faults.insert(0, late)
    with begun(name) as process:
        assert process.wait(30) == 1
    assert contents(root) == []


def test_what_is_kept_is_no_leftover_and_goes_with_a_reset(fake: FakeRegistry, root: str) -> None:
    image = MadeImage({"noise": os.urandom(1_000_000)})
    name, layer = fake.serve(image), image.layers[0]
    with Store().session():
        pass
    before = leaks.snapshot("instance")
    killed_halfway(fake, name, layer)
    with Store().session():  # sweeps what is left of the killed one
        pass
    assert [line for line in leaks.left_since(before) if root in line] == []  # its worker is pytest's to wait for
    assert os.path.exists(Store().partial(digest_of(layer)))
    assert any(".partial" in line for line in leaks.reset())
    assert contents(root) == []


# Killed at any moment


@pytest.fixture
def three_layers(registry: str, root: str) -> str:
    """In a docker-registry: layers of many files and of large ones."""
    name = f"{registry}/killed:latest"
    for number in range(3):
        tree = f"{root}/../{number}"
        for folder in range(20):
            os.makedirs(f"{tree}/{number}/{folder}")
            for index in range(20):
                with open(f"{tree}/{number}/{folder}/{index}", "wb") as file:
                    file.write(random.Random(index).randbytes(3000 * (number + 1)))
        with open(f"{tree}/{number}/large", "wb") as file:
            file.write(random.Random(number).randbytes(3_000_000))
        import_(tree, name, base=name if number else "")
    push(name)
    remove(name)
    prune(all=True)
    assert contents(root) == []
    return name


def files(name: str) -> dict[str, bytes]:
    found = {}
    for layer in get(name).layers:
        for place, _, names in os.walk(layer):
            for file in names:
                with open(f"{place}/{file}", "rb") as opened:
                    found[os.path.relpath(f"{place}/{file}", layer)] = hashlib.sha256(opened.read()).digest()
    return found


def test_pull_killed_at_any_moment(root: str, three_layers: str) -> None:
    """After each kill the store opens and holds nothing but what is right; each pull goes on from the last."""
    began = time.monotonic()
    pull(three_layers)
    whole, took = files(three_layers), time.monotonic() - began
    remove(three_layers)
    kills = completed = resumed = 0
    source = random.Random(int(os.environ.get("KILLS_SEED", "0")))
    while kills < KILLS:
        with begun(three_layers) as process:
            try:
                process.wait(source.uniform(0.02, 1.3 * took + 0.3))
            except subprocess.TimeoutExpired:
                process.kill()
        kills += process.returncode == -signal.SIGKILL
        assert process.returncode in (0, -signal.SIGKILL), process.stderr and process.stderr.read()
        store = Store()
        for blob in os.listdir(store.blobs) if os.path.isdir(store.blobs) else ():
            with open(f"{store.blobs}/{blob}", "rb") as file:
                assert digest_of(file.read()) == f"sha256:{blob}"
        resumed += any(path.endswith(".partial") for path in contents(root))
        if images():
            assert files(three_layers) == whole
            completed += 1
            remove(three_layers)
            assert contents(root) == []
    pull(three_layers)
    assert files(three_layers) == whole
    assert [path for path in contents(root) if path.startswith("ingest/")] == []
    print(f"{kills} kills, {resumed} of them left a part, {completed} pulls completed between them")
