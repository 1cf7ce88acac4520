"""What registries and images should not do: a clear error each, nothing half-done left, nothing lost."""

from __future__ import annotations

import fcntl
import gzip
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from typing import Any

import pytest
from images import (
    FakeRegistry,
    Handler,
    MadeImage,
    always,
    contents,
    digest_of,
    fake_registry,
    index_of,
    once,
    refused,
    times,
    wait_for,
)

from minicontainer.errors import HostError, ImageError, NotFoundError
from minicontainer.images import Store, get, images, pull
from minicontainer.images.manifest import OCI_INDEX, OCI_MANIFEST
from minicontainer.images.reference import Reference
from minicontainer.images.tar import Limits


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Alpine",
        "alpine:",
        "alpine:-x",
        "alpine@sha256:abc",
        "alpine@md5:d41d8cd98f00b204e9800998ecf8427e",
        "/alpine",
        "alpine/",
        "a//b",
        "a_-b",
        "localhost:port/x",
        "-host.com/x",
        "x" * 256,
        "alpine:" + "t" * 129,
        "a" * 64,
        "alpine latest",
        "../../etc/passwd",
        "docker.io/library/al\u00efpine",
        "alpine\n",
        "http://localhost:5000/alpine",
    ],
)
def test_invalid_reference_is_refused_with_the_rule_it_breaks(text: str) -> None:
    with pytest.raises(ImageError) as caught:
        Reference.parse(text)
    assert caught.value.hint


def test_blob_with_other_content_is_refused(root: str, fake: FakeRegistry) -> None:
    image = MadeImage()
    name = fake.serve(image)
    changed = bytearray(image.layers[0])
    changed[len(changed) // 2] ^= 1
    fake.document(f"blobs/{digest_of(image.layers[0])}", "application/octet-stream", bytes(changed))
    assert digest_of(bytes(changed)) in str(refused(name))
    assert contents(root) == []


def test_blob_with_other_content_that_is_a_fine_layer_is_refused(root: str, fake: FakeRegistry) -> None:
    image, other = MadeImage({"hello": b"world\n"}), MadeImage({"hello": b"evil!\n"})
    for made in (image, other):
        made.layers = [gzip.compress(data, compresslevel=0) for data in made.tars]
    name = fake.serve(image)
    assert len(image.layers[0]) == len(other.layers[0])
    fake.document(f"blobs/{digest_of(image.layers[0])}", "application/octet-stream", other.layers[0])
    assert digest_of(other.layers[0]) in str(refused(name))
    assert contents(root) == []


@pytest.mark.parametrize("difference", [-3, 7])
def test_blob_of_another_size_than_its_manifest_says_is_refused(root: str, fake: FakeRegistry, difference: int) -> None:
    image = MadeImage()
    layer = image.document["layers"][0]
    image.changes["layers"] = [layer | {"size": layer["size"] + difference}]
    assert "bytes" in str(refused(fake.serve(image)))
    assert contents(root) == []


def test_config_with_other_content_is_refused(root: str, fake: FakeRegistry) -> None:
    image = MadeImage()
    name = fake.serve(image)
    data = image.config_document.replace(b"hello", b"jello")
    fake.document(f"blobs/{digest_of(image.config_document)}", "application/octet-stream", data)
    assert "is not sha256:" in str(refused(name))
    assert contents(root) == []


def test_manifest_that_is_not_what_was_asked_for_by_digest_is_refused(root: str, fake: FakeRegistry) -> None:
    image = MadeImage()
    fake.serve(image)
    wanted = digest_of(image.manifest)
    fake.document(f"manifests/{wanted}", OCI_MANIFEST, image.manifest + b" ")
    assert wanted in str(refused(f"{fake.host}/test@{wanted}"))
    assert images() == []


@pytest.mark.parametrize(
    ("media_type", "data"),
    [
        (OCI_MANIFEST, b"<html>captive portal</html>"),
        (OCI_MANIFEST, b"[" * 100_000),
        (OCI_MANIFEST, b"[]"),
        (OCI_MANIFEST, b"\xff\xfe"),
        (OCI_MANIFEST, b'{"schemaVersion": 2}'),
        (OCI_MANIFEST, b'{"schemaVersion": 2, "config": {}, "layers": []}'),
        (OCI_MANIFEST, b'{"schemaVersion": 3}'),
        (OCI_INDEX, b'{"schemaVersion": 2, "manifests": 7}'),
        (OCI_INDEX, b'{"schemaVersion": 2, "manifests": [{"mediaType": "x", "digest": "y", "size": -1}]}'),
        ("application/vnd.docker.distribution.manifest.v1+prettyjws", b'{"schemaVersion": 1}'),
        ("text/html", b"<html></html>"),
        ("text/html", b'{"schemaVersion": 2, "config": {}, "layers": []}'),
    ],
)
def test_manifest_that_is_none_is_refused(root: str, fake: FakeRegistry, media_type: str, data: bytes) -> None:
    refused(fake.document("manifests/latest", media_type, data))
    assert images() == []
    assert contents(root) == []


@pytest.mark.parametrize("announced", [True, False])
def test_manifest_of_100_megabytes_is_not_read(root: str, fake: FakeRegistry, announced: bool) -> None:
    def flood(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", OCI_MANIFEST)
        if announced:
            handler.send_header("Content-Length", str(100 << 20))
        else:
            handler.send_header("Connection", "close")
        handler.end_headers()
        for _ in range(100):
            handler.send(b" " * (1 << 20))

    fake.faults.append(always(flood))
    assert "more than" in str(refused(f"{fake.host}/test"))
    assert fake.sent < 50 << 20


def test_layer_whose_type_is_unknown_is_refused(root: str, fake: FakeRegistry) -> None:
    image = MadeImage()
    image.changes["layers"] = [image.document["layers"][0] | {"mediaType": "application/x-rar"}]
    assert "x-rar" in str(refused(fake.serve(image)))


def test_artifact_that_is_no_image_is_refused(root: str, fake: FakeRegistry) -> None:
    image = MadeImage()
    image.changes["config"] = image.document["config"] | {"mediaType": "application/vnd.cncf.helm.config.v1+json"}
    assert "not an image" in str(refused(fake.serve(image)))


@pytest.mark.parametrize(
    "change",
    [
        {"rootfs": None},
        {"rootfs": {"diff_ids": "sha256:"}},
        {"rootfs": {"diff_ids": [7]}},
        {"rootfs": {"diff_ids": ["sha256:123"]}},
        {"rootfs": {"diff_ids": ["../../../../etc"]}},
        {"config": []},
        {"config": {"Cmd": "/bin/sh"}},
        {"config": {"Entrypoint": [1]}},
        {"config": {"Env": {"A": "B"}}},
        {"config": {"Env": ["no equals sign"]}},
        {"config": {"Env": ["A=\0"]}},
        {"config": {"Cmd": ["\ud800"]}},
        {"config": {"User": 0}},
        {"config": {"WorkingDir": ["/"]}},
        {"config": {"Labels": {"a": 1}}},
        {"architecture": 64},
    ],
)
def test_config_with_wrong_types_is_refused(root: str, fake: FakeRegistry, change: dict[str, Any]) -> None:
    image = MadeImage()
    image.config |= change
    refused(fake.serve(image))
    assert images() == []
    assert contents(root) == []


def test_config_with_another_number_of_layers_is_refused(root: str, fake: FakeRegistry) -> None:
    image = MadeImage()
    image.config["rootfs"]["diff_ids"] *= 2
    assert "2 diff_ids for 1 layers" in str(refused(fake.serve(image)))
    assert contents(root) == []


def test_layer_that_unpacks_to_another_diff_id_is_refused(root: str, fake: FakeRegistry) -> None:
    image = MadeImage()
    image.config["rootfs"]["diff_ids"] = [digest_of(b"something else")]
    assert "config says" in str(refused(fake.serve(image)))
    assert contents(root) == []


@pytest.mark.parametrize(
    "data", [b"not gzip at all", gzip.compress(b"\0" * 10_000)[:-9], b"", gzip.compress(b"x" * 3000)]
)
def test_layer_that_is_no_gzip_or_no_tar_is_refused(root: str, fake: FakeRegistry, data: bytes) -> None:
    image = MadeImage()
    image.layers = [data]
    refused(fake.serve(image))
    assert contents(root) == []


def test_bomb_is_refused_within_the_limit(root: str, fake: FakeRegistry) -> None:
    image = MadeImage({"zeros": bytes(30 << 20)})
    assert len(image.layers[0]) < 100_000
    refused(fake.serve(image), limits=Limits(size=20 << 20))
    assert contents(root) == []


@pytest.mark.parametrize("name", ["../escape", "/etc/shadow-of-the-test", "a/../../escape"])
def test_layer_that_leads_out_changes_nothing_outside(root: str, fake: FakeRegistry, name: str) -> None:
    image = MadeImage({"fine": b"x", name: b"out"})
    try:
        pull(fake.serve(image))
    except ImageError:
        assert contents(root) == []
    assert not os.path.exists("/etc/shadow-of-the-test")
    assert not os.path.exists(f"{root}/layers/escape")
    assert not os.path.exists(f"{root}/ingest/escape")


def stop_in_the_middle(handler: Handler) -> None:
    _, data = handler.server.documents[handler.path]
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.send(data[: len(data) // 2])
    handler.close_connection = True


def test_registry_that_stops_in_the_middle_is_asked_again(root: str, fake: FakeRegistry) -> None:
    image = MadeImage({"noise": os.urandom(300_000)})
    layer = digest_of(image.layers[0])
    fake.faults.append(once(stop_in_the_middle, layer))
    pulled = pull(fake.serve(image))
    with open(f"{pulled.layers[0]}/noise", "rb") as file:
        assert len(file.read()) == 300_000
    assert sum(path.endswith(layer) for path, _ in fake.asked) == 2


def test_registry_that_always_stops_in_the_middle_is_given_up(root: str, fake: FakeRegistry) -> None:
    image = MadeImage({"noise": os.urandom(300_000)})
    fake.faults.append(always(stop_in_the_middle, digest_of(image.layers[0])))
    assert "broke" in str(refused(fake.serve(image)))
    assert [name.rpartition(".")[2] for name in contents(root)] == ["partial"]  # for the next pull
    Store().collect()
    assert contents(root) == []


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 503])
@pytest.mark.parametrize("where", ["/manifests/", "/blobs/"])
def test_status_of_a_registry_becomes_an_error_that_says_it(
    root: str, fake: FakeRegistry, status: int, where: str
) -> None:
    fake.faults.append(always(lambda handler: handler.answer(status, b"{}", {"Retry-After": "0"}), where))
    kind = NotFoundError if status == 404 and where == "/manifests/" else ImageError
    error = refused(fake.serve(MadeImage()), kind)
    assert str(status) in str(error) or kind is NotFoundError
    assert images() == []
    assert contents(root) == []


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_passing_failure_is_waited_out(root: str, fake: FakeRegistry, status: int) -> None:
    fake.faults.append(times(2, lambda handler: handler.answer(status, b"", {"Retry-After": "0"}), "/manifests/"))
    fake.faults.append(times(2, lambda handler: handler.answer(status, b"", {"Retry-After": "0"}), "/blobs/"))
    name = fake.serve(MadeImage())
    pull(name)
    assert get(name).name == name


def test_registry_that_nobody_runs_is_named(root: str) -> None:
    assert "ECONNREFUSED" in str(refused("localhost:1/test"))


def test_image_without_our_platform_is_refused_and_the_others_named(root: str, fake: FakeRegistry) -> None:
    image = MadeImage()
    fake.serve(image)
    index = index_of(
        ({"os": "linux", "architecture": "s390x"}, image.manifest),
        ({"os": "windows", "architecture": "amd64"}, image.manifest),
        ({"os": "unknown", "architecture": "unknown"}, image.manifest),
    )
    error = refused(fake.document("manifests/latest", OCI_INDEX, index))
    assert "linux/s390x, windows/amd64" in error.hint
    assert contents(root) == []


def test_single_image_for_another_platform_is_refused_unless_asked_for(root: str, fake: FakeRegistry) -> None:
    image = MadeImage()
    image.config["architecture"] = "s390x"
    name = fake.serve(image)
    assert "linux/s390x" in str(refused(name))
    assert pull(name, platform="linux/s390x").config.platform.architecture == "s390x"


def test_index_that_points_to_itself_for_ever_is_refused(root: str, fake: FakeRegistry) -> None:
    document = index_of()
    host = {"os": "linux", "architecture": os.uname().machine.replace("x86_64", "amd64").replace("aarch64", "arm64")}
    for _ in range(8):
        value = json.loads(index_of((host, document)))
        value["manifests"][0]["mediaType"] = OCI_INDEX
        fake.document(f"manifests/{digest_of(document)}", OCI_INDEX, document)
        document = json.dumps(value).encode()
    refused(fake.document("manifests/latest", OCI_INDEX, document))


def test_password_does_not_follow_a_redirect_to_another_host(root: str, fake: FakeRegistry) -> None:
    image = MadeImage()
    with fake_registry() as elsewhere:
        name = fake.serve(image)
        elsewhere.serve(image)

        def login(handler: Handler) -> bool:
            if not handler.headers.get("Authorization"):
                handler.answer(401, b"", {"WWW-Authenticate": 'Basic realm="x"'})
                return True
            if "/blobs/" in handler.path:
                handler.answer(307, b"", {"Location": f"http://{elsewhere.host}{handler.path}"})
                return True
            return False

        fake.faults.append(login)
        pull(name, credentials=("ada", "secret"))
        assert len(elsewhere.asked) == 2
        assert [shown for _, shown in elsewhere.asked] == ["", ""]
        assert any(shown.startswith("Basic ") for _, shown in fake.asked)


def test_challenge_of_a_host_we_were_redirected_to_gets_no_answer(root: str, fake: FakeRegistry) -> None:
    with fake_registry() as elsewhere:
        fake.faults.append(always(lambda handler: handler.answer(302, b"", {"Location": f"http://{elsewhere.host}/x"})))
        challenge = {"WWW-Authenticate": f'Bearer realm="http://{elsewhere.host}/token"'}
        elsewhere.faults.append(always(lambda handler: handler.answer(401, b"", challenge)))
        refused(f"{fake.host}/test", credentials=("ada", "secret"))
        assert [path for path, _ in elsewhere.asked] == ["/x"]


def test_token_is_not_fetched_over_plain_http_from_elsewhere(root: str, fake: FakeRegistry) -> None:
    challenge = {"WWW-Authenticate": 'Bearer realm="http://token.example/token",service="x"'}
    fake.faults.append(always(lambda handler: handler.answer(401, b"", challenge)))
    assert "https" in refused(f"{fake.host}/test", credentials=("ada", "secret")).hint


def test_redirects_without_end_are_given_up(root: str, fake: FakeRegistry) -> None:
    fake.faults.append(always(lambda handler: handler.answer(302, b"", {"Location": handler.path})))
    assert "redirects" in str(refused(f"{fake.host}/test"))


def run(code: str, *arguments: str, **how: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **how,
    )


def test_full_disk_is_an_error_that_says_so_and_leaves_nothing(root: str, fake: FakeRegistry) -> None:
    name = fake.serve(MadeImage({"noise": os.urandom(3 << 20)}))
    os.makedirs(root)
    code = """
        import os, sys
        sys.path.insert(0, sys.argv[1])
        from images import contents
        from minicontainer import linux
        from minicontainer.errors import HostError
        from minicontainer.images import images, pull
        linux.unshare(linux.CLONE_NEWNS)
        linux.mount(None, "/", None, linux.MS_REC | linux.MS_PRIVATE)
        root = os.environ["MINICONTAINER_DATA_ROOT"]
        linux.mount("tmpfs", root, "tmpfs", 0, "size=4m")
        try:
            pull(sys.argv[2])
        except HostError as error:
            assert "ENOSPC" in str(error), error
            assert error.hint
        else:
            raise SystemExit("it fitted")
        assert contents(root) == [], contents(root)
        assert images() == []
        linux.mount(None, root, None, linux.MS_REMOUNT, "size=40m")
        pull(sys.argv[2])
        assert len(images()) == 1
    """
    with run(code, os.path.dirname(__file__), name) as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors


PULL = """
    import sys
    from minicontainer.images import pull
    print("begin", flush=True)
    pull(sys.argv[1])
"""


def slowly(handler: Handler) -> None:
    _, data = handler.server.documents[handler.path]
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    step = max(len(data) // 20, 1)
    for start in range(0, len(data), step):
        handler.send(data[start : start + step])
        time.sleep(0.02)


def processes_with(text: str) -> list[int]:
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                if b"minicontainer.images" not in file.read():
                    continue
            with open(f"/proc/{pid}/environ", "rb") as file:
                if text.encode() in file.read():
                    found.append(int(pid))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


@pytest.mark.parametrize("moment", ["manifest", "config", "begin", "middle", "end"])
def test_killed_pull_leaves_a_store_that_opens_and_the_next_completes(
    root: str, fake: FakeRegistry, moment: str
) -> None:
    image = MadeImage({"noise": os.urandom(400_000)}, {"more": os.urandom(400_000)})
    layer = digest_of(image.layers[0])
    fake.faults.append(always(slowly, "/blobs/"))
    name = fake.serve(image)
    with run(PULL, name) as process:
        assert process.stdout is not None
        process.stdout.readline()
        where = {"manifest": "/manifests/", "config": digest_of(image.config_document)}.get(moment, layer)
        wait_for(lambda: any(where in path for path, _ in fake.asked))
        sent = {"middle": 300_000, "end": 790_000}.get(moment, 0)
        wait_for(lambda: fake.sent >= sent)
        process.kill()
        process.wait()
    wait_for(lambda: not processes_with(root))
    assert images() == []
    with pytest.raises(NotFoundError):
        get(name)
    fake.faults.clear()
    assert len(pull(name).layers) == 2
    assert [entry for entry in contents(root) if entry.startswith("ingest/")] == []


def test_killed_pulls_leftovers_go_with_a_collection(root: str, fake: FakeRegistry) -> None:
    image = MadeImage({"noise": os.urandom(400_000)})
    fake.faults.append(always(slowly, "/blobs/"))
    with run(PULL, fake.serve(image)) as process:
        wait_for(lambda: fake.sent > 100_000)
        process.kill()
        process.wait()
    assert contents(root) != []

    def collected() -> bool:
        Store().collect()
        return contents(root) == []

    wait_for(collected)  # a worker that was killed holds its lock until it has ended


def test_interrupted_pull_leaves_only_what_the_next_goes_on_from(root: str, fake: FakeRegistry) -> None:
    image = MadeImage({"noise": os.urandom(400_000)})
    fake.faults.append(always(slowly, "/blobs/"))
    with run(PULL, fake.serve(image)) as process:
        wait_for(lambda: fake.sent > 100_000)
        process.send_signal(signal.SIGINT)
        process.wait(timeout=10)
    assert processes_with(root) == []
    assert [name.rpartition(".")[2] for name in contents(root)] == ["partial"]


def test_session_interrupted_on_its_way_in_or_out_is_swept_by_the_next(
    root: str, fake: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = fake.serve(MadeImage())
    pull(name)
    before = contents(root)
    lock = fcntl.flock

    def interrupted_with_the_lock(fd: int, how: int) -> None:
        lock(fd, how)
        if os.readlink(f"/proc/self/fd/{fd}").endswith("/needs"):
            raise KeyboardInterrupt

    def interrupted(path: str) -> None:
        raise KeyboardInterrupt

    for moment, interrupt in (("fcntl.flock", interrupted_with_the_lock), ("_remove", interrupted)):
        with monkeypatch.context() as change:
            change.setattr(f"minicontainer.images.session.{moment}", interrupt)
            with pytest.raises(KeyboardInterrupt), Store().session():
                pass
        pull(name)  # in the same process: it must not hold what it has left
        assert contents(root) == before, moment


def test_killed_worker_is_an_error_and_nothing_is_left(root: str, fake: FakeRegistry) -> None:
    image = MadeImage({"noise": os.urandom(400_000)})
    fake.faults.append(always(slowly, digest_of(image.layers[0])))

    def kill(handler: Handler) -> bool:
        if digest_of(image.layers[0]) in handler.path:
            for pid in processes_with(root):
                if pid != os.getpid():
                    os.kill(pid, signal.SIGKILL)
        return False

    fake.faults.insert(0, kill)
    assert "ended early" in str(refused(fake.serve(image), HostError))
    assert contents(root) == []


def test_damaged_blob_of_the_store_is_fetched_again(root: str, fake: FakeRegistry) -> None:
    image = MadeImage()
    name = fake.serve(image)
    store, layer = Store(), digest_of(image.layers[0])
    pulled = pull(name)
    os.rename(pulled.layers[0], f"{root}/gone")
    with open(store.blob(layer), "r+b") as file:
        file.seek(20)
        file.write(b"\0\0\0\0")
    again = pull(name)
    with open(f"{again.layers[0]}/hello") as text:
        assert text.read() == "world\n"
    with open(store.blob(layer), "rb") as file:
        assert digest_of(file.read()) == layer


def test_index_that_is_no_json_is_an_error_and_stays_as_it_is(root: str, fake: FakeRegistry) -> None:
    pull(fake.serve(MadeImage()))
    with open(f"{root}/images/index.json", "w") as file:
        file.write("{")
    with pytest.raises(ImageError) as caught:
        images()
    assert "index.json" in str(caught.value)
    before = contents(root)
    with pytest.raises(ImageError):
        Store().collect()
    assert contents(root) == before
