"""Images against their judges: docker-registry, skopeo, umoci, GNU tar."""

from __future__ import annotations

import json
import lzma
import multiprocessing
import os
import re
import shutil
import stat
import subprocess
import sys
from typing import Any

import pytest
from images import MadeImage, contents, digest_of, fake_registry, index_of
from registry import TokenServer, data_root, push_busybox, scratch
from stores import told

from minicontainer.chroot import PivotRoot, User
from minicontainer.errors import ConflictError, ImageError, NotFoundError, UsageError
from minicontainer.images import Store, get, images, import_, inspect, pull, push, remove, tag
from minicontainer.images.manifest import DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from minicontainer.images.platforms import Platform
from minicontainer.images.progress import Bars, Event
from minicontainer.images.reference import Reference
from minicontainer.network import HostNetwork


def write(path: str, text: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write(text)


def tree_of(root: str) -> dict[str, tuple[Any, ...]]:
    """What a directory holds, as the kernel tells it: kind and mode, owner, content or target, time of change."""
    found: dict[str, tuple[Any, ...]] = {}
    for place, directories, files in os.walk(root):
        for name in directories + files:
            path = f"{place}/{name}"
            entry = os.lstat(path)
            content: Any = ""
            if stat.S_ISLNK(entry.st_mode):
                content = os.readlink(path)
            elif stat.S_ISREG(entry.st_mode):
                with open(path, "rb") as file:
                    content = file.read()
            found[os.path.relpath(path, root)] = (entry.st_mode, entry.st_uid, entry.st_gid, content)
    return found


@pytest.mark.parametrize(
    ("text", "name", "familiar"),
    [
        ("alpine", "docker.io/library/alpine:latest", "alpine:latest"),
        ("alpine:3.20", "docker.io/library/alpine:3.20", "alpine:3.20"),
        ("grafana/grafana", "docker.io/grafana/grafana:latest", "grafana/grafana:latest"),
        ("docker.io/alpine", "docker.io/library/alpine:latest", "alpine:latest"),
        ("index.docker.io/library/alpine", "docker.io/library/alpine:latest", "alpine:latest"),
        ("localhost/web", "localhost/web:latest", "localhost/web:latest"),
        ("localhost:5000/web", "localhost:5000/web:latest", "localhost:5000/web:latest"),
        ("myhost:5000/a/b/c:v1", "myhost:5000/a/b/c:v1", "myhost:5000/a/b/c:v1"),
        ("quay.io/team/app", "quay.io/team/app:latest", "quay.io/team/app:latest"),
        ("[::1]:5000/web", "[::1]:5000/web:latest", "[::1]:5000/web:latest"),
        ("HOST/web", "HOST/web:latest", "HOST/web:latest"),
        ("a__b/c-----d.e", "docker.io/a__b/c-----d.e:latest", "a__b/c-----d.e:latest"),
        (f"a@sha256:{'0' * 64}", f"docker.io/library/a@sha256:{'0' * 64}", f"a@sha256:{'0' * 64}"),
        (f"a:v1@sha256:{'0' * 64}", f"docker.io/library/a@sha256:{'0' * 64}", f"a@sha256:{'0' * 64}"),
    ],
)
def test_reference_is_read_as_docker_reads_it(text: str, name: str, familiar: str) -> None:
    reference = Reference.parse(text)
    assert (reference.name, reference.familiar) == (name, familiar)
    assert Reference.parse(reference.familiar) == reference


def test_pulled_image_is_what_umoci_unpacks_of_it(root: str, busybox_image: str) -> None:
    image = pull(busybox_image)
    with scratch() as directory:
        told("umoci", "unpack", "--image", f"{root}/images:{busybox_image}", f"{directory}/bundle")
        theirs = tree_of(f"{directory}/bundle/rootfs")
        # A plain container of ours, so that the layers are put together by the kernel.
        command = ["sh", "-c", f"cd / && tar -c $(ls -A | grep -vxE 'dev|proc|sys') > {directory}/ours.tar"]
        os.makedirs(f"{directory}/ours")
        with open(f"{directory}/ours.tar", "wb") as file:
            command = ["sh", "-c", "cd / && tar -c $(ls -A | grep -vxE 'dev|proc|sys')"]
            assert image.container(command).run(stdout=file) == 0
        told("tar", "-x", "-p", "-f", f"{directory}/ours.tar", "-C", f"{directory}/ours")
        ours = tree_of(f"{directory}/ours")
    made_by_us = {"etc/hosts", "etc/hostname", "etc/resolv.conf"}
    assert {path: what for path, what in ours.items() if path not in made_by_us} == theirs
    assert "srv/gone" not in ours
    assert ours["srv/page"][3] == b"from the third layer\n"


def test_store_is_a_layout_that_skopeo_and_umoci_read(root: str, busybox_image: str) -> None:
    image = pull(busybox_image)
    seen = json.loads(told("skopeo", "inspect", f"oci:{root}/images:{busybox_image}"))
    assert seen["Digest"] == image.entry.manifest.digest
    assert len(seen["Layers"]) == 3
    assert told("umoci", "ls", "--layout", f"{root}/images").split() == [busybox_image]
    remote = json.loads(told("skopeo", "inspect", "--tls-verify=false", f"docker://{busybox_image}"))
    assert remote["Digest"] == image.digest


def test_image_that_skopeo_puts_into_the_store_runs(root: str, busybox_image: str) -> None:
    pull(busybox_image)
    remove(busybox_image)
    told("skopeo", "copy", "--src-tls-verify=false", f"docker://{busybox_image}", f"oci:{root}/images:by-skopeo")
    assert get("by-skopeo").container(["cat", "/srv/page"]).output() == "from the third layer\n"
    Store().collect()
    assert get("by-skopeo").container(["cat", "/srv/page"]).output() == "from the third layer\n"


@pytest.fixture
def docker_typed(registry: str, busybox_image: str) -> str:
    """The same image with Docker's media types."""
    name = f"{registry}/docker-typed:v2s2"
    told(
        *("skopeo", "copy", "--format", "v2s2", "--src-tls-verify=false", "--dest-tls-verify=false"),
        *(f"docker://{busybox_image}", f"docker://{name}"),
    )
    return name


def test_docker_typed_manifest_is_kept_verbatim_with_an_oci_twin(root: str, docker_typed: str) -> None:
    image = pull(docker_typed)
    raw = subprocess.run(
        ["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{docker_typed}"],
        check=True,
        capture_output=True,
    ).stdout
    assert json.loads(raw)["mediaType"] == DOCKER_MANIFEST
    assert image.digest == digest_of(raw)
    with open(Store().blob(image.digest), "rb") as file:
        assert file.read() == raw
    assert image.entry.manifest.digest != image.digest
    seen = json.loads(told("skopeo", "inspect", "--raw", f"oci:{root}/images:{docker_typed}"))
    assert seen["mediaType"] == OCI_MANIFEST
    assert told("umoci", "ls", "--layout", f"{root}/images").split() == [docker_typed]
    assert image.container(["cat", "/srv/page"]).output() == "from the third layer\n"


def test_docker_typed_image_goes_back_with_the_same_digest(root: str, registry: str, docker_typed: str) -> None:
    image = pull(docker_typed)
    tag(docker_typed, f"{registry}/back:again")
    assert push(f"{registry}/back:again") == image.digest
    there = json.loads(told("skopeo", "inspect", "--tls-verify=false", f"docker://{registry}/back:again"))
    assert there["Digest"] == image.digest


def test_image_is_found_by_its_digest_and_pulled_by_it(root: str, registry: str, docker_typed: str) -> None:
    by_digest = f"{registry}/docker-typed@{pull(docker_typed).digest}"
    assert get(by_digest).name == docker_typed
    remove(docker_typed)
    assert pull(by_digest).name == by_digest
    assert get(by_digest).container(["cat", "/srv/page"]).output() == "from the third layer\n"


def test_plain_layer_is_pulled_like_a_compressed_one(root: str) -> None:
    with fake_registry() as fake:
        image = MadeImage({"hello": b"plain\n"})
        image.layers = image.tars
        layer = image.document["layers"][0] | {"mediaType": "application/vnd.oci.image.layer.v1.tar"}
        image.changes["layers"] = [layer]
        with open(f"{pull(fake.serve(image)).layers[0]}/hello") as file:
            assert file.read() == "plain\n"


def test_gzip_of_several_members_and_padding_is_one_layer(root: str) -> None:
    import gzip

    with fake_registry() as fake:
        image = MadeImage({"noise": os.urandom(3 << 20), "hello": b"x"})
        data = image.tars[0]
        image.layers = [
            b"".join(gzip.compress(data[i : i + 700_001]) for i in range(0, len(data), 700_001)) + bytes(999)
        ]
        assert sorted(os.listdir(pull(fake.serve(image)).layers[0])) == ["hello", "noise"]


def test_layer_that_an_image_has_twice_is_downloaded_once(root: str) -> None:
    with fake_registry() as fake:
        image = MadeImage({"a": b"x"}, {"a": b"x"}, {"b": b"y"}, {"a": b"x"})
        assert len(pull(fake.serve(image)).layers) == 4
        assert sum(digest_of(image.layers[0]) in path for path, _ in fake.asked) == 1


def test_index_gives_the_manifest_for_the_platform(root: str) -> None:
    with fake_registry() as fake:
        made = {}
        for words in ("linux/amd64", "linux/arm64/v8", "linux/arm/v6", "linux/arm/v7", "windows/amd64"):
            image = made[words] = MadeImage({"which": words.encode()})
            image.config["os"], image.config["architecture"], *variant = words.split("/")
            image.config["variant"] = "".join(variant)
            fake.serve(image)
        entries = [
            (dict(zip(("os", "architecture", "variant"), words.split("/"), strict=False)), image.manifest)
            for words, image in made.items()
        ]
        index = index_of(*entries)
        name = fake.document("manifests/latest", OCI_INDEX, index)
        wanted = {"linux/arm64": "linux/arm64/v8", "linux/arm/v7": "linux/arm/v7", "linux/arm/v8": "linux/arm/v7"}
        for asked, chosen in wanted.items():
            image_ = pull(name, platform=asked)
            with open(f"{image_.layers[0]}/which") as file:
                assert file.read() == chosen
            assert image_.digest == digest_of(index)
        host = pull(name)
        assert Platform.host().accepts(host.config.platform)


def test_config_is_applied_to_the_container(root: str, registry: str, busybox_image: str) -> None:
    pull(busybox_image)
    write(f"{root}/../layer/bin/say", '#!/bin/sh\necho "$0 $*"; id -u; id -g; id -G; pwd; echo $HOME $COLOR $SHAPE\n')
    os.chmod(f"{root}/../layer/bin/say", 0o755)
    made = import_(
        f"{root}/../layer",
        f"{registry}/say:latest",
        base=busybox_image,
        entrypoint=["say", "hello"],
        cmd=["world"],
        env={"COLOR": "red", "SHAPE": "round"},
        working_dir="/not/there/yet",
        user="web",
    )
    lines = ["/bin/say hello world", "1000", "1000", "1000 29", "/not/there/yet", "/home/web red round"]
    assert made.container().output().splitlines() == lines
    said = made.container(["you"], env={"COLOR": "blue"}, cwd="/tmp", user="0").output().splitlines()
    assert said == ["/bin/say hello you", "0", "0", "0", "/tmp", "/root blue round"]
    assert made.container(entrypoint=["echo"]).output() == "\n"
    assert made.container(["-u"], User("web:audio"), entrypoint=["id"]).output() == "1000\n"


def test_user_is_looked_up_in_the_image_and_not_on_the_host(root: str, busybox_image: str) -> None:
    image = pull(busybox_image)
    with open("/etc/passwd") as file:
        assert not any(line.startswith("web:") for line in file)
    assert image.container(["id", "-un"], user="web").output() == "web\n"
    with pytest.raises(UsageError):
        image.container(["true"], user="daemon").run()


def test_container_of_an_image_has_namespaces_root_and_layers_of_its_own(root: str, busybox_image: str) -> None:
    image = pull(busybox_image)
    kinds = ["mnt", "uts", "ipc", "pid", "net", "cgroup"]
    container = image.container(["sh", "-c", f"for k in {' '.join(kinds)}; do readlink /proc/self/ns/$k; done; ls /"])
    lines = container.output().splitlines()
    ours = [os.readlink(f"/proc/self/ns/{kind}") for kind in kinds]
    assert not set(lines[: len(kinds)]) & set(ours)
    assert "srv" in lines
    assert image.container(["sh", "-c", "echo changed > /srv/page; cat /srv/page"]).output() == "changed\n"
    assert image.container(["cat", "/srv/page"]).output() == "from the third layer\n"


def test_parts_that_are_given_stand_in_place_of_the_usual_ones(root: str, busybox_image: str) -> None:
    image = pull(busybox_image)
    net = image.container(["readlink", "/proc/self/ns/net"], HostNetwork()).output().strip()
    assert net == os.readlink("/proc/self/ns/net")
    read_only = image.container(["sh", "-c", "echo x > /srv/page || echo refused"], PivotRoot(read_only=True))
    assert "refused" in read_only.output()


def test_image_without_a_command_asks_for_one(root: str) -> None:
    write(f"{root}/../tree/file", "x")
    image = import_(f"{root}/../tree", "nothing")
    with pytest.raises(UsageError) as caught:
        image.container()
    assert caught.value.hint


def test_import_of_a_directory_holds_what_the_directory_held(root: str) -> None:
    tree = f"{root}/../tree"
    write(f"{tree}/etc/secret", "s")
    os.chmod(f"{tree}/etc/secret", 0o4750)
    os.chown(f"{tree}/etc/secret", 12, 34)
    os.symlink("/nowhere", f"{tree}/link")
    os.link(f"{tree}/etc/secret", f"{tree}/same")
    import_(tree, "mine:v1")
    with scratch() as directory:
        told("umoci", "unpack", "--image", f"{root}/images:docker.io/library/mine:v1", f"{directory}/bundle")
        assert tree_of(f"{directory}/bundle/rootfs") == tree_of(tree)
    (layer,) = get("mine:v1").layers
    assert tree_of(layer) == tree_of(tree)
    assert os.stat(f"{layer}/same").st_ino == os.stat(f"{layer}/etc/secret").st_ino


@pytest.mark.parametrize("flag", ["", "-z", "--zstd", "-j", "-J"])
def test_import_of_an_archive_of_gnu_tar(root: str, flag: str) -> None:
    tree = f"{root}/../tree"
    write(f"{tree}/a/b", "content\n")
    program, package = {"-j": ("bzip2", "bzip2"), "-J": ("xz", "xz-utils"), "--zstd": ("zstd", "zstd")}.get(
        flag, ("tar",) * 2
    )
    if not shutil.which(program):
        pytest.skip(f"{program} is not here (apt-get install {package})")
    told("tar", *filter(None, [flag]), "-cf", f"{root}/../x.tar", "-C", tree, ".")
    image = import_(f"{root}/../x.tar", "archive")
    assert tree_of(image.layers[0]) == tree_of(tree)
    plain = subprocess.run(["tar", "-cf", "-", "-C", tree, "."], check=True, capture_output=True).stdout
    assert image.config.diff_ids == [digest_of(plain)]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "empty"),
        (b"short", "5 bytes"),
        (b"\xfd7zXZ\0" + b"rest" * 10, "not xz"),
        (b"\xfd7zXZ\0", "ends in the middle"),
        (b"BZh91AY", "not bzip2|ends in the middle"),
        (b"PK\3\4zip", "zip"),
        (b"just text, no archive" * 100, "no tar"),
        (lzma.compress(b"just text, no archive" * 100), "no tar"),
    ],
)
def test_import_of_what_is_no_archive_is_refused(root: str, data: bytes, why: str) -> None:
    os.makedirs(root)
    with open(f"{root}/../x", "wb") as file:
        file.write(data)
    with pytest.raises(ImageError) as caught:
        import_(f"{root}/../x", "bad")
    assert caught.value.hint
    assert re.search(f"x cannot be imported: .*({why})", caught.value.message)
    assert contents(root) == []
    assert images() == []


def test_import_of_what_is_not_there_is_refused(root: str) -> None:
    with pytest.raises(UsageError):
        import_(f"{root}/../missing", "bad")


def test_same_directory_makes_the_same_image_whenever_and_wherever(root: str) -> None:
    digests = set()
    for name in ("one", "two"):
        write(f"{root}/../{name}/tree/etc/motd", "hello\n")
        write(f"{root}/../{name}/tree/bin/x", "x")
        with data_root(f"{root}/../{name}/data"):
            digests.add(import_(f"{root}/../{name}/tree", "same", source_date_epoch=1).entry.manifest.digest)
    assert len(digests) == 1


def test_pushed_image_is_what_skopeo_finds_there(root: str, registry: str) -> None:
    write(f"{root}/../tree/hello", "world\n")
    import_(f"{root}/../tree", f"{registry}/pushed:v1", cmd=["/hello"], labels={"a": "b"}, ports=["80/tcp"])
    digest = push(f"{registry}/pushed:v1")
    seen = json.loads(told("skopeo", "inspect", "--tls-verify=false", f"docker://{registry}/pushed:v1"))
    assert seen["Digest"] == digest
    assert seen["Labels"] == {"a": "b"}
    with scratch() as directory:
        told("skopeo", "copy", "--src-tls-verify=false", f"docker://{registry}/pushed:v1", f"oci:{directory}/x:v1")
        told("umoci", "unpack", "--image", f"{directory}/x:v1", f"{directory}/bundle")
        with open(f"{directory}/bundle/rootfs/hello") as file:
            assert file.read() == "world\n"


def test_second_push_sends_no_blob_again(root: str, registry: str) -> None:
    write(f"{root}/../tree/hello", "again\n")
    import_(f"{root}/../tree", f"{registry}/twice:v1")
    first: list[Event] = []
    push(f"{registry}/twice:v1", progress=first.append)
    assert {event.status for event in first} >= {"uploading", "done"}
    second: list[Event] = []
    push(f"{registry}/twice:v1", progress=second.append)
    assert {event.status for event in second} == {"exists"}


def test_push_of_what_is_not_here_is_refused(root: str) -> None:
    with pytest.raises(NotFoundError):
        push("localhost:5000/nothing:here")


def test_basic_credentials_are_wanted_taken_and_read_from_the_docker_config(
    root: str, password_registry: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import base64

    host, user, password = password_registry
    write(f"{root}/../tree/hello", "secret\n")
    import_(f"{root}/../tree", f"{host}/private:v1")
    with pytest.raises(ImageError) as caught:
        push(f"{host}/private:v1")
    assert "401" in str(caught.value)
    assert "login" in caught.value.hint
    with pytest.raises(ImageError):
        push(f"{host}/private:v1", credentials=(user, "wrong"))
    push(f"{host}/private:v1", credentials=(user, password))
    remove(f"{host}/private:v1")
    with pytest.raises(ImageError):
        pull(f"{host}/private:v1")
    pair = base64.b64encode(f"{user}:{password}".encode()).decode()
    write(f"{root}/../docker/config.json", json.dumps({"auths": {host: {"auth": pair}}}))
    assert pull(f"{host}/private:v1").layers
    told("skopeo", "inspect", "--tls-verify=false", f"--creds={user}:{password}", f"docker://{host}/private:v1")


def test_bearer_tokens_for_named_and_unnamed_users(
    root: str, token_registry: tuple[str, TokenServer, tuple[str, str]]
) -> None:
    host, server, credentials = token_registry
    write(f"{root}/../tree/hello", "token\n")
    name = f"{host}/tokens:v1"
    import_(f"{root}/../tree", name)
    with pytest.raises(ImageError):
        push(name)  # a token for an unnamed user allows reading only
    with pytest.raises(ImageError) as caught:
        push(name, credentials=(credentials[0], "wrong"))
    assert credentials[0] in str(caught.value)
    push(name, credentials=credentials)
    remove(name)
    server.seen.clear()
    assert pull(name).layers
    assert server.seen == [("repository:tokens:pull", "")]


def test_password_goes_to_the_token_server_only(root: str) -> None:
    image = MadeImage()
    with fake_registry() as registry, fake_registry() as tokens:
        tokens.document("token", "application/json", b"", "x")

        def give(handler: Any) -> bool:
            handler.answer(200, b'{"access_token": "the-token"}')
            return True

        def ask(handler: Any) -> bool:
            if handler.headers.get("Authorization") == "Bearer the-token":
                return False
            challenge = f'Bearer realm="http://{tokens.host}/token?a=b",service="a, b",scope="repository:test:pull"'
            handler.answer(401, b"", {"WWW-Authenticate": challenge})
            return True

        tokens.faults.append(give)
        registry.faults.append(ask)
        pull(registry.serve(image), credentials=("ada", "secret"))
        assert tokens.asked[0][0] == "/token?a=b&service=a%2C+b&scope=repository%3Atest%3Apull"
        assert tokens.asked[0][1].startswith("Basic ")
        assert {shown for _, shown in registry.asked} == {"", "Bearer the-token"}
        assert len(tokens.asked) == 1


def test_remove_takes_what_nothing_else_needs(root: str, busybox_image: str, registry: str) -> None:
    pull(busybox_image)
    write(f"{root}/../tree/more", "x")
    import_(f"{root}/../tree", "bigger", base=busybox_image)
    before = contents(root)
    remove("bigger")
    after = contents(root)
    assert len(before) - len(after) == 4  # a manifest, a config, a blob, a layer
    assert get(busybox_image).container(["cat", "/srv/page"]).output() == "from the third layer\n"
    tag(busybox_image, "second-name")
    assert remove(busybox_image) == [f"Untagged: {busybox_image}"]
    assert contents(root) == after
    assert [line.partition(":")[0] for line in remove("second-name")] == ["Untagged", "Deleted"]
    assert contents(root) == []


def test_remove_by_id_and_of_what_is_not_there(root: str, busybox_image: str) -> None:
    image = pull(busybox_image)
    tag(busybox_image, "other")
    with pytest.raises(ConflictError):
        remove(image.id)
    remove("other")
    remove(image.id.removeprefix("sha256:")[:12])
    assert images() == []
    for text in (busybox_image, image.id, "deadbeefdead"):
        with pytest.raises(NotFoundError):
            remove(text)


def test_image_of_a_running_container_is_not_removed(root: str, busybox_image: str) -> None:
    container = pull(busybox_image).container(["sleep", "100"]).start()
    try:
        before = contents(root)
        with pytest.raises(ConflictError) as caught:
            remove(busybox_image)
        assert caught.value.hint
        assert contents(root) == before
        tag(busybox_image, "other")
        remove(busybox_image)
        assert container.exec(["cat", "/srv/page"], stdout=subprocess.DEVNULL) == 0
    finally:
        container.kill()
        container.wait()
        container.remove()
    remove("other")
    assert contents(root) == []


def test_name_that_moves_leaves_its_image_nameless(root: str) -> None:
    for text in ("one", "two"):
        write(f"{root}/../tree/file", text)
        import_(f"{root}/../tree", "moving")
    first, second = images()
    assert (first.name, second.name) == ("", "moving:latest")
    remove(first.id)
    with open(f"{get('moving').layers[0]}/file") as file:
        assert file.read() == "two"


def test_pull_of_a_name_that_moved_brings_the_new_image(root: str) -> None:
    with fake_registry() as fake:
        pull(fake.serve(MadeImage({"v": b"1"})))
        name = fake.serve(MadeImage({"v": b"2"}))
        with open(f"{pull(name).layers[0]}/v") as file:
            assert file.read() == "2"
        assert len(images()) == 2


def test_second_pull_asks_for_the_manifest_only(root: str) -> None:
    with fake_registry() as fake:
        name = fake.serve(MadeImage())
        pull(name)
        fake.asked.clear()
        events: list[Event] = []
        pull(name, progress=events.append)
        assert [path for path, _ in fake.asked] == ["/v2/test/manifests/latest"]
        assert [event.status for event in events] == ["exists"]


def _pull(name: str) -> None:
    pull(name)


def _tag(name: str, number: int) -> None:
    for i in range(10):
        tag(name, f"tagged:{number}-{i}")


def together(calls: list[tuple[Any, ...]]) -> None:
    """Make the calls at the same time, a fresh process for each."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=call, args=arguments) for call, *arguments in calls]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
        process.close()
    # spawn starts a process that watches over semaphores and goes when we do; it is not to be taken for a leftover.
    from multiprocessing import resource_tracker

    resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]


def test_processes_that_pull_the_same_image_download_each_blob_once(root: str) -> None:
    with fake_registry() as fake:
        image = MadeImage({"a": os.urandom(2 << 20)}, {"b": os.urandom(2 << 20)})
        name = fake.serve(image)
        together([(_pull, name)] * 4)
        for layer in image.layers:
            assert sum(digest_of(layer) in path for path, _ in fake.asked) == 1
        assert get(name).layers
        assert len(images()) == 1


def test_processes_that_name_images_at_once_lose_no_name(root: str) -> None:
    write(f"{root}/../tree/file", "x")
    import_(f"{root}/../tree", "base")
    together([(_tag, "base", number) for number in range(4)])
    assert len(images()) == 41


def test_collection_spares_what_a_pull_of_another_process_needs(root: str) -> None:
    with fake_registry() as fake:
        image = MadeImage({"a": b"x"})
        name = fake.serve(image)
        store = Store()
        with store.session() as session:
            session.needs([digest_of(image.layers[0])])
            with open(store.blob(digest_of(image.layers[0])), "wb") as file:
                file.write(image.layers[0])
            store.collect()
            assert len(contents(root)) == 2
        pull(name)


def test_events_tell_the_way_of_each_layer(root: str, busybox_image: str) -> None:
    events: list[Event] = []
    image = pull(busybox_image, progress=events.append)
    for layer in image.manifest.layers:
        mine = [event for event in events if event.digest == layer.digest]
        assert mine[-1].status == "done"
        assert mine[-1].current == mine[-1].total == layer.size
        assert [event.current for event in mine] == sorted(event.current for event in mine)


def test_bars_are_drawn_on_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    bars = Bars()
    bars(Event("sha256:" + "ab" * 32, "downloading", 500, 1000))
    bars(Event("sha256:" + "ab" * 32, "done", 1000, 1000))
    bars.close()
    shown = capsys.readouterr().err
    assert "abababababab" in shown
    assert "100%" in shown


def test_inspect_tells_what_the_store_knows(root: str, busybox_image: str) -> None:
    pull(busybox_image)
    tag(busybox_image, "short")
    found: dict[str, Any] = inspect("short")
    theirs = json.loads(told("skopeo", "inspect", "--config", "--tls-verify=false", f"docker://{busybox_image}"))
    assert found["RootFS"]["Layers"] == theirs["rootfs"]["diff_ids"]
    assert sorted(found["RepoTags"]) == sorted([busybox_image, "short:latest"])
    assert os.path.isdir(found["GraphDriver"]["Data"]["UpperDir"])
    assert get(found["Id"]).id == get("short").id == get(found["Id"][7:15]).id


def test_looking_an_image_up_loads_nothing_heavy_and_hashes_nothing(root: str, busybox_image: str) -> None:
    pull(busybox_image)
    code = (
        "import sys; from minicontainer.images import get; get(sys.argv[1]).layers;"
        "print([m for m in 'http.client hashlib ssl tarfile dataclasses typing subprocess urllib.parse asyncio"
        " minicontainer.images.unpack'.split() if m in sys.modules])"
    )
    parent = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    made = subprocess.run(
        [sys.executable, "-S", "-c", code, busybox_image],
        env={**os.environ, "PYTHONPATH": parent},
        check=True,
        capture_output=True,
        text=True,
    )
    assert made.stdout == "[]\n"


def test_course_like_image_is_rebuilt_with_the_same_digest(root: str, registry: str) -> None:
    push_busybox(f"{registry}/once:latest")
    push_busybox(f"{registry}/again:latest")
    digests = [
        json.loads(told("skopeo", "inspect", "--tls-verify=false", f"docker://{registry}/{name}:latest"))["Digest"]
        for name in ("once", "again")
    ]
    assert digests[0] == digests[1]
