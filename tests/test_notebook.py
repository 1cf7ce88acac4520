"""What notebooks share, and what every stored notebook must be."""

from __future__ import annotations

import base64
import glob
import io
import json
import os
import re
import subprocess
import sys
import time
from html.parser import HTMLParser
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest

from minicontainer import Container, leaks, linux, notebook, state
from minicontainer.errors import ContainerError, UsageError
from minicontainer.notebook import charts, map

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
NOTEBOOKS = sorted(glob.glob(f"{ROOT}/notebooks/*.ipynb"))
STORED = [*NOTEBOOKS, *sorted(glob.glob(f"{ROOT}/labs/solutions/*.ipynb"))]


class _Elements(HTMLParser):
    """The elements of a piece of HTML; fails when one is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag != "img":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def rich(shown: notebook.Shown, mime: str = "text/html") -> str:
    return shown._repr_mimebundle_()[mime]


# ------------------------------------------------------------------------------------------------------- the source


def test_source_is_what_stands_in_the_file() -> None:
    shown = notebook.source(Container.run)
    with open(f"{ROOT}/minicontainer/container/container.py") as file:
        lines = [line.strip() for line in file]
    code = rich(shown, "text/markdown").split("```python\n")[1].split("\n```")[0].splitlines()
    assert code[0].startswith("def run(")
    assert all(line.strip() in lines for line in code)
    assert "`minicontainer/container/container.py`" in rich(shown, "text/markdown")
    assert ROOT not in rich(shown, "text/markdown") + repr(shown)


def test_source_of_a_system_call_is_the_function_itself_not_the_door() -> None:
    assert "_after_fork_child()" in repr(notebook.source(linux.clone3))


def test_source_shows_a_module_as_a_whole() -> None:
    assert repr(notebook.source(map)).count("def chapter_map") == 1


@pytest.mark.parametrize("thing", [json.dumps, len, json])
def test_source_refuses_what_is_not_in_the_package(thing: object) -> None:
    with pytest.raises(UsageError, match="not part of the package"):
        notebook.source(thing)  # type: ignore[arg-type]


# -------------------------------------------------------------------------------------------------------- questions


def ask() -> notebook.Shown:
    return notebook.question(
        "What does `wait` return for 1 < 2?",
        {"a zombie": "It is <b>gone</b>.", "`0`": "The low 8 bits.", "256": "No."},
        right="`0`",
    )


def test_question_unfolds_without_scripts_and_exactly_one_answer_is_right() -> None:
    page = rich(ask())
    tags = [tag for tag, _ in _Elements(page).seen]
    assert tags.count("details") == tags.count("summary") == 3
    assert "script" not in tags
    assert "input" not in tags
    assert page.count("Right.") == 1
    right = re.search(r"<summary[^>]*>([^/]*)</code></summary><div[^>]*>✓ <b>Right", page)
    assert right
    assert right[1] == "<code>0"


def test_question_shows_markup_as_text_and_backquotes_as_code() -> None:
    page = rich(ask())
    assert "It is &lt;b&gt;gone&lt;/b&gt;." in page
    assert "<code>wait</code> return for 1 &lt; 2?" in page


def test_question_can_be_read_as_text_with_its_answers_at_the_end() -> None:
    options, _, answers = repr(ask()).partition("Answers:")
    assert "(b) `0`" in options
    assert "Right" not in options
    assert "(b) Right. The low 8 bits." in answers


def test_question_without_its_right_answer_is_refused() -> None:
    with pytest.raises(UsageError, match="not one of"):
        notebook.question("?", {"a": "", "b": ""}, right="c")


# ---------------------------------------------------------------------------------------------------------- the map


def svg(chapter: int) -> ElementTree.Element:
    page = rich(notebook.chapter_map(chapter))
    (image,) = [attributes for tag, attributes in _Elements(page).seen if tag == "img"]
    assert image["alt"] == repr(notebook.chapter_map(chapter))
    return ElementTree.fromstring(unquote((image["src"] or "").removeprefix("data:image/svg+xml,")))


def words(chapter: int) -> list[str]:
    return ["".join(it.itertext()) for it in svg(chapter).iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize("chapter", range(1, 15))
def test_map_marks_one_chapter_and_ticks_those_before_it(chapter: int) -> None:
    heads = [word for word in words(chapter) if re.match(r"([▶✓] )?\d\d ", word)]
    assert len(heads) == 14
    assert [int(head[2:4]) for head in heads if head.startswith("▶")] == [chapter]
    assert sorted(int(head[2:4]) for head in heads if head.startswith("✓")) == list(range(1, chapter))


def test_map_is_the_same_in_every_chapter_but_for_the_marks() -> None:
    def bare(chapter: int) -> list[str]:
        return [word.removeprefix("▶ ").removeprefix("✓ ") for word in words(chapter)]

    assert all(bare(chapter) == bare(0) for chapter in range(1, 15))


def test_map_has_words_for_who_cannot_see_it() -> None:
    text = repr(notebook.chapter_map(3))
    assert "03 namespaces (its own view) [this chapter]" in text
    assert "02 chroot (its own root) [built]" in text
    assert all(name in text for name, _ in map.CHAPTERS.values())


def luminance(colour: str) -> float:
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [it / 12.92 if it <= 0.04045 else ((it + 0.055) / 1.055) ** 2.4 for it in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize(
    ("paper", "ink"),
    [
        (map.HERE, map.HERE_TEXT),
        (map.BUILT, map.BUILT_TEXT),
        (map.AHEAD, map.AHEAD_TEXT),
        (map.PLAIN, map.PLAIN_TEXT),
        (charts.PAPER, charts.INK),
    ],
)
def test_text_stands_out_from_its_own_paper(paper: str, ink: str) -> None:
    assert contrast(paper, ink) >= 7  # WCAG 2.2, 1.4.6


@pytest.mark.parametrize("page", ["#FFFFFF", "#111111"])
def test_arrows_can_be_seen_on_a_light_and_on_a_dark_page(page: str) -> None:
    assert contrast(map.LINE, page) >= 3  # WCAG 2.2, 1.4.11


def test_map_of_no_chapter_is_refused() -> None:
    with pytest.raises(UsageError, match="no chapter 15"):
        notebook.chapter_map(15)


def test_map_fits_its_cards() -> None:
    """No text is wider than its card, at the average width of a letter in a common sans-serif face."""
    for name, what in map.CHAPTERS.values():
        assert len(f"▶ 00 {name}") * 7.0 < map._WIDTH
        assert len(what) * 6.2 < map._WIDTH


# ----------------------------------------------------------------------------------------------------------- charts


@pytest.fixture(scope="module", autouse=True)
def fonts() -> None:
    """matplotlib opens its fonts once and keeps them: before the leak check begins."""
    chart = notebook.Chart("A title", x="time (ms)", y="size (MiB)")
    chart.axes.annotate("“√…→”", (0, 0))
    chart.png()


def traced() -> list[linux.Call]:
    with linux.trace() as calls:
        assert Container(["true"]).run() == 0
    return calls


def pixels(chart: notebook.Chart) -> set[tuple[int, ...]]:
    from PIL import Image

    with Image.open(io.BytesIO(chart.png())) as picture:
        return {colour for _, colour in picture.convert("RGB").getcolors(1 << 24) or []}


def rgb(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[at : at + 2], 16) for at in (1, 3, 5))


def test_milliseconds_shows_every_traced_call_at_its_time() -> None:
    calls = traced()
    chart = notebook.milliseconds(calls)
    rows = [label.get_text() for label in chart.axes.get_yticklabels()]
    assert sorted(rows) == sorted({call.name for call in calls})
    assert len(chart.axes.patches) == len(calls)
    begin = min(call.start for call in calls if call.start)
    lefts = sorted(bar.get_x() for bar in chart.axes.patches)  # type: ignore[attr-defined]
    timed = sorted((call.start - begin) / 1e6 for call in calls if call.start)
    assert lefts[: len(timed)] == pytest.approx(timed)
    totals = {text.get_text().split()[0] for text in chart.axes.texts}
    assert f"{sum(call.duration for call in calls if call.name == 'clone3') / 1e6:.2f}" in totals


def test_milliseconds_tells_the_two_sides_apart_by_more_than_colour() -> None:
    calls = traced()
    bars = notebook.milliseconds(calls).axes.patches
    inside = sum(call.pid != calls[0].pid for call in calls)
    assert 0 < inside < len(calls)
    assert sum(bar.get_hatch() is not None for bar in bars) == inside


def test_milliseconds_ends_with_the_exec_that_nobody_could_time() -> None:
    begin = time.monotonic_ns()
    calls = traced()
    elapsed = (time.monotonic_ns() - begin) / 1e6
    chart = notebook.milliseconds(calls)
    assert [call.name for call in calls if not call.start] == ["execve"]
    assert [label.get_text() for label in chart.axes.get_yticklabels()][-1] == "execve"
    assert "not timed" in [text.get_text() for text in chart.axes.texts]
    assert all(0 <= bar.get_x() <= elapsed for bar in chart.axes.patches)  # type: ignore[attr-defined]


def test_milliseconds_by_part_has_a_row_for_each_part() -> None:
    chart = notebook.milliseconds(traced(), by=lambda call: call.label)
    assert "Container.exec" in [label.get_text() for label in chart.axes.get_yticklabels()]


def test_milliseconds_of_nothing_says_how_to_trace() -> None:
    with pytest.raises(UsageError, match=r"linux\.trace"):
        notebook.milliseconds([])


def test_chart_is_a_picture_with_words_and_brings_its_own_paper() -> None:
    chart = notebook.Chart("It grows", x="size (MiB)", y="time (ms)")
    chart.line([1, 2, 3], [1, 2, 3], "fork")
    chart.line([1, 2, 3], [1, 1, 1], "vfork")
    data, metadata = chart._repr_mimebundle_()
    assert data["text/plain"] == metadata["image/png"]["alt"] == "Chart. It grows. time (ms) against size (MiB)"
    ((tag, image),) = _Elements(data["text/html"]).seen
    assert (tag, image["alt"]) == ("img", data["text/plain"])
    assert image["src"] == f"data:image/png;base64,{data['image/png']}"
    colours = pixels(chart)
    assert {rgb(charts.PAPER), rgb(charts.COLOURS[0]), rgb(charts.COLOURS[1])} <= colours
    assert len({line.get_marker() for line in chart.axes.lines}) == 2


def test_chart_leaves_matplotlib_as_it_was() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    notebook.Chart("A", x="b (s)", y="c (s)").png()
    assert dict(matplotlib.rcParams) == before


def test_notebook_loads_matplotlib_and_widgets_only_when_they_are_used() -> None:
    code = (
        "import sys, minicontainer.notebook as n; n.chapter_map(1); n.question('?', {'a': '', 'b': ''}, 'a');"
        "print([m for m in ('matplotlib', 'numpy', 'ipywidgets', 'IPython') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_no_chapter_loads_what_notebooks_share() -> None:
    code = (
        "import sys, minicontainer.leaks, minicontainer.cli, minicontainer.images;"
        "print('minicontainer.notebook' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


# --------------------------------------------------------------------------------------------------------- clean up


def test_clean_up_finds_nothing_after_a_container() -> None:
    before = leaks.snapshot()
    Container(["true"]).run()
    shown = notebook.clean_up(before)
    assert shown.left == shown.removed == []
    assert "as it was before" in repr(shown)
    assert "processes" in repr(shown)


def test_clean_up_names_what_was_left_and_removes_it(tmp_path: object) -> None:
    before = leaks.snapshot()
    left = f"{state.exec_root()}/{state.new_id()}"
    os.makedirs(left)
    shown = notebook.clean_up(before)
    assert not os.path.exists(left)
    assert [line for line in shown.left if left in line]
    assert [line for line in shown.removed if left in line]
    assert "as it was" not in repr(shown)


def test_clean_up_fails_for_what_still_runs() -> None:
    before = leaks.snapshot()
    with (
        Container(["sleep", "60"]).start() as container,
        pytest.raises(ContainerError, match=rf"process {container.pid}: sleep 60"),
    ):
        notebook.clean_up(before)


# -------------------------------------------------------------------------------------------- the stored notebooks


def _cells(path: str) -> list[dict[str, object]]:
    with open(path) as file:
        cells: list[dict[str, object]] = json.load(file)["cells"]
    return cells


@pytest.mark.parametrize("path", STORED, ids=lambda path: os.path.relpath(path, ROOT))
def test_every_code_cell_of_a_notebook_was_run_in_order(path: str) -> None:
    counts = [cell["execution_count"] for cell in _cells(path) if cell["cell_type"] == "code"]
    assert counts == list(range(1, len(counts) + 1))  # nbval passes a cell without a number unchecked


@pytest.mark.parametrize("path", STORED, ids=lambda path: os.path.relpath(path, ROOT))
def test_stored_outputs_name_no_machine_and_no_unexpected_error(path: str) -> None:
    for cell in _cells(path):
        if cell["cell_type"] != "code":
            continue
        text = json.dumps(cell["outputs"])
        assert not re.search(rf"{re.escape(ROOT)}|/home/|/root/|/tmp/|site-packages|ipykernel_\d", text), cell["id"]
        tags = cell["metadata"].get("tags", [])  # type: ignore[attr-defined]
        assert ('"output_type": "error"' in text) == ("raises-exception" in tags), cell["id"]


@pytest.mark.parametrize("path", STORED, ids=lambda path: os.path.relpath(path, ROOT))
def test_an_output_that_may_differ_is_followed_by_a_check(path: str) -> None:
    code = [cell for cell in _cells(path) if cell["cell_type"] == "code"]
    for cell, following in zip(code, [*code[1:], None], strict=True):
        if "nbval-ignore-output" in cell["metadata"].get("tags", []):  # type: ignore[attr-defined]
            assert following is not None, cell["id"]
            assert "nbval-ignore-output" not in following["metadata"].get("tags", []), cell["id"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("path", STORED, ids=lambda path: os.path.relpath(path, ROOT))
def test_no_stored_picture_is_cut_off_at_its_edge(path: str) -> None:
    from matplotlib.image import imread

    for cell in _cells(path):
        for output in cell.get("outputs", ()):  # type: ignore[attr-defined]
            if picture := output.get("data", {}).get("image/png"):
                pixels = imread(io.BytesIO(base64.b64decode(picture)))[..., :3].min(axis=2)
                edges = (pixels[:2], pixels[-2:], pixels[:, :2], pixels[:, -2:])
                assert all((edge > 0.6).all() for edge in edges), f"{cell['id']}: ink at the edge"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=os.path.basename)
def test_a_question_does_not_show_its_answers_in_the_cell_that_asks_it(path: str) -> None:
    for cell in _cells(path):
        if cell["cell_type"] == "code" and "".join(cell["source"]).startswith("question("):  # type: ignore[arg-type]
            assert cell["metadata"].get("jupyter", {}).get("source_hidden"), cell["id"]  # type: ignore[attr-defined]
