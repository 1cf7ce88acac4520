"""What an image is made of: held against the kernel's overlay, docker and podman."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from images import MadeImage, always, fake_registry, index_of
from stores import grow, told

from minicontainer import overlayfs
from minicontainer.images import Image, explain, get, history, import_, inspect, pull, push, save, shared, tag
from minicontainer.images.trees import Tree, allocated, content

if TYPE_CHECKING:
    from pathlib import Path

    from stores import Ask

NAME = "example.org/team/made:1"
WORDS = {
    "cmd": ["/bin/sh", "-c", "echo hi"],
    "entrypoint": ["/bin/busybox"],
    "env": {"PATH": "/bin", "X": "a=b"},
    "labels": {"a": "b"},
    "ports": ["80/tcp"],
    "user": "7:8",
    "working_dir": "/srv",
}
CLI = [sys.executable, "-m", "minicontainer.cli"]


@pytest.fixture
def made(root: str) -> Image:
    """Three layers: a shell and files, some of which the second replaces, and the third deletes."""
    return grow(
        f"{root}/..",
        NAME,
        {"srv/page": b"one\n", "srv/gone": b"x" * 1000, "d/in/deep": b"y" * 500, "stays": b"z"},
        {"srv/page": b"two!\n", "new": b"n" * 10},
        {"srv/gone": None, "d": b"a file now"},
        **WORDS,
    )


def seen(mounted: str) -> dict[str, tuple[Any, ...]]:
    """What the kernel shows."""
    found: dict[str, tuple[Any, ...]] = {}
    for place, directories, files in os.walk(mounted):
        for name in directories + files:
            entry = os.lstat(f"{place}/{name}")
            size = 0 if stat.S_ISDIR(entry.st_mode) else entry.st_size
            path = os.path.relpath(f"{place}/{name}", mounted)
            found[path] = (stat.S_IMODE(entry.st_mode), entry.st_uid, entry.st_gid, size)
    return found


def same_as_the_kernel(layers: list[str], target: str) -> Tree:
    tree = Tree(layers)
    os.mkdir(target)
    with overlayfs.mounted(layers, None, target):
        ours = {path: (file.mode, file.uid, file.gid, file.size) for path, file in tree.files.items()}
        assert ours == seen(target)
        # and each file's layer is the one that has the very same inode
        for path, file in tree.files.items():
            assert os.lstat(f"{layers[file.layer]}/{path}").st_size >= file.size
    return tree


def test_the_tree_is_what_overlayfs_shows(root: str, made: Image) -> None:
    tree = same_as_the_kernel(made.layers, f"{root}/../mnt")
    assert {path: tree.files[path].layer for path in ("stays", "srv/page", "new", "d", "srv", "bin/sh")} == {
        "stays": 0,
        "srv/page": 1,
        "new": 1,
        "d": 2,
        "srv": 2,
        "bin/sh": 0,
    }
    hidden = {(one.path, one.size, one.layer, one.by, one.how) for one in tree.hidden}
    assert hidden == {
        ("srv/page", 4, 0, 1, "replaced"),
        ("srv/gone", 1000, 0, 2, "deleted"),
        ("d/in/deep", 500, 0, 2, "replaced"),
    }
    assert tree.wasted == 1504
    assert tree.efficiency == pytest.approx(1 - 1504 / sum(tree.content))


def test_odd_layers_are_what_overlayfs_shows(tmp_path: Path) -> None:
    """Opaque directories, a directory for a file and a file for a directory, links, names that are no text."""
    base, middle, top = (tmp_path / name for name in ("base", "middle", "top"))
    for layer in (base, middle, top):
        layer.mkdir()
    (base / "opaque/below").mkdir(parents=True)
    (base / "opaque/below/file").write_bytes(b"1" * 100)
    (base / "opaque/other").write_bytes(b"2" * 10)
    (base / "becomes-directory").write_bytes(b"3" * 7)
    (base / "hard1").write_bytes(b"4" * 1000)
    os.link(base / "hard1", base / "hard2")
    os.link(base / "hard1", base / "hard3")
    (base / "link").symlink_to("hard1")
    with open(os.fsencode(base) + b"/latin-\xe4", "wb") as file:
        file.write(b"5" * 5)
    os.mkfifo(base / "fifo")
    (middle / "opaque").mkdir(mode=0o700)
    overlayfs.whiteouts.make_opaque(str(middle / "opaque"))
    (middle / "opaque/new").write_bytes(b"6")
    (middle / "becomes-directory").mkdir()
    (middle / "becomes-directory/in").write_bytes(b"7")
    overlayfs.whiteouts.make_whiteout(str(middle / "hard1"))
    overlayfs.whiteouts.make_whiteout(str(middle / "never-there"))
    (top / "hard1").write_bytes(b"again")
    overlayfs.whiteouts.make_whiteout(str(top / "hard2"))
    tree = same_as_the_kernel([str(base), str(middle), str(top)], str(tmp_path / "mnt"))
    sizes = {(one.path, one.layer): one.size for one in tree.hidden}
    assert sizes[("opaque/below/file", 0)] == 100
    assert sizes[("becomes-directory", 0)] == 7
    assert sizes[("hard1", 0)] == sizes[("hard2", 0)] == 0  # hard3 shows the same bytes
    assert tree.wasted == 117
    assert tree.content[0] == 100 + 10 + 7 + 1000 + len("hard1") + 5


def test_a_file_of_which_all_names_are_hidden_is_wasted_once(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "top").mkdir()
    (tmp_path / "base/a").write_bytes(b"4" * 1000)
    os.link(tmp_path / "base/a", tmp_path / "base/b")
    for name in ("a", "b"):
        overlayfs.whiteouts.make_whiteout(str(tmp_path / "top" / name))
    tree = Tree([str(tmp_path / "base"), str(tmp_path / "top")])
    assert (tree.wasted, tree.files, tree.efficiency) == (1000, {}, 0.0)


def test_a_real_tree_weighs_what_du_says(tmp_path: Path) -> None:
    assert allocated("/etc") == int(told("du", "-s", "--block-size=1", "/etc").split()[0])
    command = r"find /etc -not -type d -printf '%i %s\n' | sort -u | awk '{ total += $2 } END { print total }'"
    assert content("/etc") == int(told("sh", "-c", command))
    assert allocated(str(tmp_path / "nothing")) == 0


def test_steps_are_what_docker_tells(root: str, made: Image, docker: Ask) -> None:
    save(NAME, f"{root}/../out")
    docker("load", "-i", f"{root}/../out")
    lines = docker("history", "--no-trunc", "--human=false", "--format", "{{.CreatedBy}}|{{.Size}}|{{.Comment}}", NAME)
    ours = [f"{step.created_by}|{step.size}|{step.comment}" for step in reversed(history(NAME))]
    assert ours == lines.strip().splitlines()
    assert [step.number for step in history(NAME)] == [0, 1, 2]
    assert [step.layer.digest for step in history(NAME) if step.layer] == [one.digest for one in made.manifest.layers]


@pytest.mark.parametrize(
    ("told_by_the_builder", "numbers", "instructions"),
    [
        (None, [0, 1], ["", ""]),
        ("nonsense", [0, 1], ["", ""]),
        ([5, {"created_by": 7}], [0, 1], ["", ""]),
        (
            [
                {"created_by": "/bin/sh -c #(nop) ADD file:1 in / "},
                {"created_by": '/bin/sh -c #(nop)  CMD ["sh"]', "empty_layer": True},
                {"created_by": "RUN /bin/sh -c make # buildkit"},
                {"created_by": "ENV X=1", "empty_layer": True},
            ],
            [0, None, 1, None],
            ["ADD file:1 in /", 'CMD ["sh"]', "RUN /bin/sh -c make", "ENV X=1"],
        ),
        ([{"created_by": "/bin/sh -c make"}], [0, 1], ["RUN make", ""]),
        ([{}, {}, {"created_by": "one too many"}], [0, 1, None], ["", "", "one too many"]),
    ],
)
def test_each_layer_has_its_step_whatever_the_builder_says(
    root: str, told_by_the_builder: Any, numbers: list[int | None], instructions: list[str]
) -> None:
    image = MadeImage({"a": b"a"}, {"b": b"b"})
    image.config["history"] = told_by_the_builder
    with fake_registry() as fake:
        name = fake.serve(image)
        pull(name)
    assert [step.number for step in history(name)] == numbers
    assert [step.instruction for step in history(name)] == instructions
    assert len(explain(name).layers) == 2


def test_a_strangers_words_do_not_steer_the_terminal(root: str) -> None:
    image = MadeImage({"a\x1b[2Jb": b"a"})
    image.config["history"] = [{"created_by": "RUN one\n\x1b]0;title\x07two", "comment": "\x1b[31m"}]
    with fake_registry() as fake:
        pull(name := fake.serve(image))
        refusal = json.dumps({"errors": [{"code": "DENIED", "message": "no\x1b[2J\rminicontainer: all is well"}]})
        fake.faults.append(always(lambda handler: handler.answer(403, refusal.encode()), "/manifests/"))
        refused = subprocess.run([*CLI, "pull", name], capture_output=True, text=True, check=False)
    shown = told(*CLI, "history", name) + told(*CLI, "image", "explain", "--files", name)
    assert refused.returncode == 1
    assert r"no\x1b[2J\rminicontainer: all is well" in refused.stderr
    assert r"RUN one\n\x1b]0;title\x07two" in shown
    assert r"/a\x1b[2Jb" in shown
    assert {it for it in refused.stderr + shown if not it.isprintable()} == {"\n"}


def test_fields_are_those_of_docker(root: str, made: Image, docker: Ask) -> None:
    tag(NAME, "second:2")
    save([NAME, "second:2"], f"{root}/../out")
    docker("load", "-i", f"{root}/../out")
    (theirs,) = json.loads(docker("image", "inspect", NAME))
    ours = inspect(NAME)
    assert set(theirs) - set(ours) <= {"Container", "ContainerConfig", "VirtualSize", "Metadata"}
    assert set(ours) - set(theirs) == {"Descriptor", "Layers"}  # these are of newer ones
    for key in (
        "Id",
        "Parent",
        "Comment",
        "Created",
        "DockerVersion",
        "Author",
        "Architecture",
        "Os",
        "RootFS",
        "Size",
    ):
        assert ours[key] == theirs[key], key
    assert sorted(ours["RepoTags"]) == sorted(theirs["RepoTags"])
    for key, value in ours["Config"].items():
        assert value == theirs["Config"][key], key
    assert {"Env", "Cmd", "Entrypoint", "Labels", "ExposedPorts", "User", "WorkingDir"} <= set(ours["Config"])


def test_fields_are_those_of_podman(root: str, made: Image, podman: Ask) -> None:
    save(NAME, f"{root}/../out", format="oci-archive")
    podman("load", "-i", f"{root}/../out")
    (theirs,) = json.loads(podman("image", "inspect", NAME))
    ours = inspect(NAME)
    assert ours["Id"].removeprefix("sha256:") == theirs["Id"]
    for key in ("RepoTags", "Architecture", "Os", "Author", "RootFS", "Config", "Parent", "Comment"):
        assert ours[key] == theirs[key], key
    assert ours["RepoDigests"][0] in theirs["RepoDigests"]


def test_the_graph_drivers_data_mounts(root: str, made: Image) -> None:
    data = inspect(NAME)["GraphDriver"]["Data"]
    os.mkdir(f"{root}/../mnt")
    options = f"lowerdir={data['UpperDir']}:{data['LowerDir']}"
    script = f"mount -t overlay overlay -o {options} {root}/../mnt && cat {root}/../mnt/srv/page"
    assert told("unshare", "--mount", "--propagation", "private", "sh", "-c", script) == "two!\n"


def test_the_documents_are_a_tree_of_digests(root: str) -> None:
    here, there = MadeImage({"a": b"here"}, {"b": b"b"}, docker=True), MadeImage({"a": b"there"})
    given = {"os": "linux", "architecture": here.config["architecture"]}
    index = index_of((given, here.manifest), ({"os": "linux", "architecture": "s390x"}, there.manifest))
    index = index.replace(b"application/vnd.oci.image.manifest.v1+json", here.media_type.encode(), 1)
    with fake_registry() as fake:
        fake.serve(here)
        name = fake.document("manifests/latest", "application/vnd.oci.image.index.v1+json", index)
        pull(name)
    found = explain(name)
    top = found.documents
    assert (top.kind, top.digest, top.size, top.here) == ("index", get(name).digest, len(index), True)
    ours, other = top.parts
    assert (ours.kind, ours.size, ours.here) == ("manifest", len(here.manifest), True)
    assert (other.kind, other.note, other.here) == ("manifest", "linux/s390x", False)
    assert [part.kind for part in ours.parts] == ["config", "layer", "layer"]
    for part in ours.parts:
        assert os.stat(get(name).store.blob(part.digest)).st_size == part.size
    assert str(found).count("\n") == 5
    json.dumps(found.json(files=True))


def test_what_two_images_share(root: str, made: Image) -> None:
    grow(f"{root}/..", "other:1", {"x": b"1"})
    os.makedirs(f"{root}/../more")
    with open(f"{root}/../more/file", "w") as file:
        file.write("more")
    import_(f"{root}/../more", "child:1", base=NAME, source_date_epoch=0)
    import_(f"{root}/../more", "cousin:1", base="other:1", source_date_epoch=0)
    found = shared("child:1", NAME)
    for layers in (found.stored, found.travelled, found.alike):
        assert [layer.digest for layer in layers] == [layer.digest for layer in made.manifest.layers]
    assert found.content == sum(content(path) for path in made.layers)
    # the same files upon something else: sent once, but unpacked twice, as a layer's place depends on all below it
    cousin = shared("child:1", "cousin:1")
    assert (len(cousin.stored), len(cousin.travelled), len(cousin.alike)) == (0, 1, 1)


def test_the_command_line_shows_it(root: str, made: Image) -> None:
    said = subprocess.run(
        [*CLI, "image", "explain", "--files", NAME], capture_output=True, text=True, check=True
    ).stdout
    assert "manifest" in said
    assert "/srv/gone: deleted by layer 2, in 0" in said
    data = json.loads(told(*CLI, "image", "explain", "--json", "--files", NAME))
    assert data["wasted"] == 1504
    assert {one["path"] for one in data["files"]} >= {"srv/page", "bin/sh"}
    assert told(*CLI, "history", NAME).count("\n") == 4
    assert "on the disk once" in told(*CLI, "image", "shared", NAME, NAME)
    (found,) = json.loads(told(*CLI, "inspect", NAME))
    assert found["Id"] == made.id


def test_saved_by_one_command_and_loaded_by_another(root: str, made: Image, registry: str) -> None:
    script = '"$@" save example.org/team/made:1 | MINICONTAINER_DATA_ROOT=$OTHER "$@" load -q'
    environment = {**os.environ, "OTHER": f"{root}/../other"}
    done = subprocess.run(["sh", "-c", script, "x", *CLI], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout == f"Loaded image: {NAME}\n"
    tag(NAME, f"{registry}/from/cli:1")
    digest = push(f"{registry}/from/cli:1")
    assert told(*CLI, "copy", "-q", f"{registry}/from/cli:1", f"{registry}/to/cli:1").strip() == digest
