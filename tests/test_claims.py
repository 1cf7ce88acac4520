"""The list of claims and the notebooks say the same; and every claim's cell fails when the part it is about is missing.

A cell whose assertion holds whatever the container is made of proves nothing. So the cells that claim something of a
part run once more in a kernel that takes this part out of every container. That they hold with all parts, in the same
surroundings, is checked with them: else a cell might fail for another reason.
"""

from __future__ import annotations

import glob
import json
import os
import re
import shutil
import sys
from typing import Any

import pytest
from claims import NOTEBOOKS, Claim, asserts, code, listed, needed, read, slugs, source
from sandbox import ROOT, sandbox

import minicontainer
from minicontainer import state
from minicontainer.errors import TimeoutExpired

NOTEBOOK_SECONDS, CELL_SECONDS = 280, 60
TELLING = {"AssertionError", "ContainerError", "OSError", "CellTimeout"}
"""How a claim may fail. Not by a NameError: then a cell before it has failed, and its own assertion was never made."""

CLAIMS = listed()
PAIRS = sorted({(claim.notebook, part) for claim in CLAIMS for part in claim.parts})


def path_of(notebook: str) -> str:
    return f"{NOTEBOOKS}/{notebook}.ipynb"


# ------------------------------------------------------------------------------------------------------- the list


def test_list_is_not_empty_and_covers_every_notebook() -> None:
    names = {os.path.basename(path).removesuffix(".ipynb") for path in glob.glob(f"{NOTEBOOKS}/*.ipynb")}
    assert names <= {claim.notebook for claim in CLAIMS}


def test_every_cell_is_named_once_in_its_notebook() -> None:
    places = [(claim.notebook, claim.cell) for claim in CLAIMS]
    assert sorted(set(places)) == sorted(places)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: f"{claim.notebook}:{claim.cell}")
def test_line_of_the_list_is_well_formed(claim: Claim) -> None:
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", claim.cell)
    assert len(claim.text) > 10
    for document in claim.documents:
        assert re.fullmatch(r"00\d_[0-9a-f]{16}\.txt", document)
    assert list(claim.documents) == sorted(set(claim.documents))
    for part in claim.parts:
        assert issubclass(getattr(minicontainer, part), minicontainer.Part)


def test_line_in_no_form_is_refused() -> None:
    table = "## 01-container\n\n| claim | document | cell | part |\n|---|---|---|---|\n"
    assert read(f"{table}| it is | a.txt, b.txt | slug | Cgroup, Overlay |\n") == [
        Claim("01-container", "it is", ("a.txt", "b.txt"), "slug", ("Cgroup", "Overlay"))
    ]
    assert read(f"{table}| it is | a.txt | slug | – |\n")[0].parts == ()
    assert read("## Later\n\n| no | claim |\n") == []
    with pytest.raises(ValueError, match="line 5"):
        read(f"{table}| it is | a.txt | slug |\n")


# ------------------------------------------------------------------------------------------------------ the cells


@pytest.mark.parametrize("notebook", sorted({claim.notebook for claim in CLAIMS}))
def test_every_claim_has_its_cell_and_every_claiming_cell_its_line(notebook: str) -> None:
    assert os.path.exists(path_of(notebook)), f"there is no notebook {notebook}"
    tagged = [slug for cell in code(path_of(notebook)) for slug in slugs(cell)]
    names = {claim.cell for claim in CLAIMS if claim.notebook == notebook}
    assert sorted(names - set(tagged)) == [], "listed, but no code cell has the tag claim:…"
    assert sorted(set(tagged) - names) == [], "tagged, but not in CLAIMS.md"
    assert sorted(slug for slug in set(tagged) if tagged.count(slug) > 1) == [], "more than one cell has the tag"


@pytest.mark.parametrize("notebook", sorted({claim.notebook for claim in CLAIMS}))
def test_every_claiming_cell_asserts(notebook: str) -> None:
    assert os.path.exists(path_of(notebook)), f"there is no notebook {notebook}"
    silent = [slugs(cell) for cell in code(path_of(notebook)) if slugs(cell) and not asserts(source(cell))]
    assert silent == [], "no assertion in the cell itself"


def test_assertion_in_a_function_is_none_of_the_cell() -> None:
    assert asserts("if True:\n    for i in range(3):\n        assert i")
    assert not asserts("def f():\n    assert False")
    assert not asserts("print('assert')")


def test_needed_cells_are_those_that_make_what_a_cell_uses_or_change_it() -> None:
    texts = [
        "import os",
        "x = 1",
        "y = 2",
        "def f():\n    return box",
        "box = [x]",
        "box.append(3)",
        "print(box)",
        "assert f()",
        "assert os",
        "lid, door = 1, open('/dev/null')",
        "door.close()",
        "assert lid",
    ]
    assert needed(texts, {7}) == [1, 3, 4, 5, 7]
    assert needed(texts, {8}) == [0, 8]
    assert needed(["%time 1", *texts], {9}) == [0, 1, 9]
    assert needed(texts, {11}) == [9, 10, 11]  # what a kept cell has opened is closed as well


# ------------------------------------------------------------------------------------------------ a part is missing


Ending = dict[str, Any] | None


def run(path: str, part: str, cells: list[int], seconds: float = CELL_SECONDS) -> dict[int, Ending]:
    """How each of these cells ended, in a notebook whose containers lack the part ("": they have all)."""
    texts = [source(cell) for cell in code(path)]
    with sandbox() as it:  # a control group and namespaces of its own: the limits under test are missing
        result, copy = f"{it.scratch}/shared/result.json", f"{it.scratch}/shared/notebook.json"
        shutil.copyfile(path, copy)
        command = [sys.executable, f"{ROOT}/tests/kernel_run.py", copy, result, str(seconds), *map(str, cells)]
        if any("localhost:5000" in texts[index] for index in cells):
            command = ["sh", "-c", f'{ROOT}/tools/registry.sh start && exec "$@"', "sh", *command]
        try:
            status, said = it.run(command, env={"MINICONTAINER_WITHOUT": part}, timeout=NOTEBOOK_SECONDS)
        except TimeoutExpired:
            status, said = 0, ""  # the cells it did not get to are missing from the result
        assert os.path.exists(result), f"status {status}: {said[-3000:]}"
        with open(result) as file:
            return {int(index): ending for index, ending in json.load(file).items()}


def places(notebook: str, part: str = "") -> dict[str, int]:
    """Where the claims about this part (about any part) are: slug → which code cell."""
    assert os.path.exists(path_of(notebook)), f"there is no notebook {notebook}"
    wanted = {it.cell for it in CLAIMS if it.notebook == notebook and (part in it.parts or (not part and it.parts))}
    found = {slug: number for number, cell in enumerate(code(path_of(notebook))) for slug in slugs(cell)}
    assert sorted(wanted - set(found)) == [], "listed, but no code cell has the tag claim:…"
    return {slug: found[slug] for slug in sorted(wanted)}


def cells_for(notebook: str, claims: dict[str, int]) -> list[int]:
    """What to run for these claims: of the cells that all claims about parts need, those up to the last of these."""
    texts = [source(cell) for cell in code(path_of(notebook))]
    return [index for index in needed(texts, set(places(notebook).values())) if index <= max(claims.values())]


@pytest.mark.parametrize("notebook", sorted({notebook for notebook, _ in PAIRS}))
def test_claims_hold_with_all_parts(notebook: str) -> None:
    ends = run(path_of(notebook), "", cells_for(notebook, places(notebook)))
    assert {index: ending for index, ending in ends.items() if ending} == {}
    assert set(places(notebook).values()) <= set(ends)


@pytest.mark.parametrize(("notebook", "part"), PAIRS)
def test_claims_fail_without_the_part(notebook: str, part: str) -> None:
    claims = places(notebook, part)
    ends = run(path_of(notebook), part, cells_for(notebook, claims))
    held = [slug for slug, index in claims.items() if index in ends and ends[index] is None]
    assert held == [], f"holds, though no container has a {part}"
    beside = {slug: ends.get(index) for slug, index in claims.items() if not TELLING & set(kinds(ends.get(index)))}
    assert beside == {}, "fails, but not by its own assertion: for what a cell before it has not made?"


def kinds(ending: Ending) -> list[str]:
    """The class of the error that a cell has ended with, and those above it."""
    return ending["kinds"] if ending else []


# ------------------------------------------------------------------------------------- where that happens is safe


def notebook_of(path: str, *texts: str) -> str:
    """A notebook of these cells."""
    cells = [{"cell_type": "code", "source": text, "metadata": {}} for text in texts]
    with open(path, "w") as file:
        json.dump({"cells": cells}, file)
    return path


def test_ending_of_every_cell_is_told_whatever_it_does(shared_path: str) -> None:
    texts = ["while True: pass", "x = 1", "open('/none')", "assert not x", "import os; os.kill(os.getpid(), 9)", "y"]
    ends = run(notebook_of(f"{shared_path}/n.ipynb", *texts), "", [0, 1, 2, 3, 4, 5], seconds=3)
    assert [kinds(ends[index])[:1] for index in range(5)] == [
        ["CellTimeout"],
        [],
        ["FileNotFoundError"],
        ["AssertionError"],
        ["DeadKernel"],
    ]
    assert "OSError" in kinds(ends[2])
    assert 5 not in ends


@pytest.mark.parametrize("part", ["Namespaces", "NoNetwork", "Cgroup", ""])
def test_part_is_taken_out_of_every_container(part: str, shared_path: str) -> None:
    texts = [
        "from minicontainer import Cgroup, Container, Namespaces, NoNetwork, child",
        "parts = [Namespaces('uts'), NoNetwork(), Cgroup(pids=9)]",
        "names = [type(it).__name__ for it in Container(['true'], *parts).parts]; assert names == EXPECTED",
        "import os; uts = lambda: os.readlink('/proc/self/ns/uts')",
        "assert (child(uts, parts[0]) == uts()) == SHARED",
    ]
    left = [name for name in ("Namespaces", "NoNetwork", "Cgroup") if name != part]
    texts[1] += f"; EXPECTED = {left}; SHARED = {part == 'Namespaces'}"
    ends = run(notebook_of(f"{shared_path}/n.ipynb", *texts), part, [0, 1, 2, 3, 4])
    assert list(ends.values()) == [None] * 5


def test_sandbox_leaves_the_machine_as_it_is(shared_path: str) -> None:
    mine = f"{shared_path}/mine"
    open(mine, "w").close()
    script = f"rm {mine} /etc/passwd && hostname gone && ip link add gone type bridge && touch /gone && kill -9 -1"
    with sandbox() as it:
        assert it.run(["sh", "-c", f"{script}; exit 3"], env={}, timeout=30)[0] in (3, 137)
    assert os.path.exists(mine)
    assert os.path.exists("/etc/passwd")
    assert not os.path.exists("/gone")
    assert not os.path.exists("/sys/class/net/gone")
    assert os.uname().nodename != "gone"


def test_sandbox_has_bounds() -> None:
    with sandbox() as it:
        hog = "import os\nif os.fork() == 0: bytearray(3 << 30)\nprint(os.wait()[1])"
        assert it.run([sys.executable, "-c", hog], env={}, timeout=60) == (0, "9\n")
        bomb = "import os\nfor i in range(2000):\n    if os.fork() == 0: os.read(os.pipe()[0], 1)"
        status, said = it.run([sys.executable, "-c", bomb], env={}, timeout=60)
        assert (status, "BlockingIOError" in said) == (1, True)
        with pytest.raises(TimeoutExpired):
            it.run(["sleep", "60"], env={}, timeout=0.5)


def test_containers_left_in_the_sandbox_are_gone_with_it(shared_path: str) -> None:
    texts = [
        "from minicontainer import Cgroup, Container, state",
        "Container(['sleep', '1000'], Cgroup()).start(detach=True)",
        "assert False, state.instance()",
    ]
    ends = run(notebook_of(f"{shared_path}/n.ipynb", *texts), "", [0, 1, 2])
    assert ends[1] is None
    assert ends[2] is not None
    instance = ends[2]["text"]
    assert instance.startswith("minicontainer-")
    assert instance != state.instance()
    assert glob.glob(f"/sys/fs/cgroup/**/{instance}", recursive=True) == []
