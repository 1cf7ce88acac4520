"""Slides for a class, made from the notebooks: `make slides`, or `.venv/bin/python -m labs.instructor.slides 02 04`.

One HTML file for each notebook, with nothing to load from anywhere: open it in any browser, press F11, and move with
the arrow keys, the space bar or a click. What is shown is what the
notebook has stored, so slides and notebooks cannot drift apart: make them anew after a change.

A slide is a text of the notebook with the cells that follow it. Long ones are set smaller until they fit.
"""

from __future__ import annotations

import argparse
import glob
import html
import os
import re
import sys
from typing import TYPE_CHECKING

import mistune
import nbformat
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer, TextLexer, get_lexer_by_name

if TYPE_CHECKING:
    from typing import Any

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
{style}
html {{ background: #fcfcfa; color: #26262b; font: 2.9vmin/1.45 system-ui, sans-serif; }}
body {{ margin: 0; }}
section {{ display: none; box-sizing: border-box; height: 100vh; padding: 5vmin 8vmin 6vmin; overflow: auto; }}
section.here {{ display: block; }}
section > div {{ max-width: 150vmin; margin: 0 auto; }}
section.words {{ align-content: center; }}
h1, h2, h3 {{ line-height: 1.15; margin: 0 0 .5em; color: #0b4f8a; }}
h1 {{ font-size: 2.4em; }} h2 {{ font-size: 1.8em; }} h3 {{ font-size: 1.35em; }}
pre {{ margin: .5em 0; font: .86em/1.35 ui-monospace, "DejaVu Sans Mono", monospace; white-space: pre-wrap; }}
pre.code, .code pre, div.highlight {{ background: #f1f1f4; border-left: .35em solid #0072b2; padding: .3em .8em; }}
div.highlight {{ margin: .5em 0; }}
pre.shown {{ background: #fff; border: 1px solid #d9d9dd; border-left: .35em solid #009e73; padding: .5em .8em; }}
code {{ font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: .92em; }}
img {{ max-width: 100%; max-height: 62vh; display: block; margin: .5em 0; }}
table {{ border-collapse: collapse; font-size: .86em; }}
td, th {{ border: 1px solid #d9d9dd; padding: .25em .6em; text-align: left; vertical-align: top; }}
footer {{ position: fixed; right: 2vmin; bottom: 1.2vmin; font-size: .7em; color: #55555c; }}
@media print {{ section {{ display: block; page-break-after: always; }} footer {{ display: none; }} }}
</style>
<body>
{slides}
<footer></footer>
<script>
const slides = [...document.querySelectorAll("section")];
let at = Math.min(Math.max(parseInt(location.hash.slice(1)) || 1, 1), slides.length) - 1;
function show(to) {{
  at = Math.min(Math.max(to, 0), slides.length - 1);
  slides.forEach((slide, number) => slide.classList.toggle("here", number === at));
  const slide = slides[at], inner = slide.firstElementChild;
  for (let size = slide.classList.contains("words") ? 130 : 100; size >= 50; size -= 5) {{
    inner.style.fontSize = size + "%";
    if (slide.scrollHeight <= slide.clientHeight) break;
  }}
  slide.scrollTop = 0;
  document.querySelector("footer").textContent = {title_json} + " · " + (at + 1) + " / " + slides.length;
  history.replaceState(null, "", "#" + (at + 1));
}}
addEventListener("keydown", event => {{
  if (["ArrowRight", "ArrowDown", "PageDown", " "].includes(event.key)) show(at + 1);
  else if (["ArrowLeft", "ArrowUp", "PageUp"].includes(event.key)) show(at - 1);
  else if (event.key === "Home") show(0);
  else if (event.key === "End") show(slides.length - 1);
  else return;
  event.preventDefault();
}});
addEventListener("click", event => {{ if (!event.target.closest("a, summary, pre")) show(at + 1); }});
addEventListener("resize", () => show(at));
show(at);
</script>
"""


class _Renderer(mistune.HTMLRenderer):
    """Markdown as JupyterLab reads it: HTML in it stays, and code is coloured."""

    def __init__(self) -> None:
        super().__init__(escape=False)

    def block_code(self, code: str, info: str | None = None) -> str:
        lexer = get_lexer_by_name(info.split()[0]) if info else TextLexer()
        return str(highlight(code, lexer, HtmlFormatter()))


def slides(path: str) -> str:
    """The page for one notebook. Its outputs must be stored."""
    notebook = nbformat.read(path, as_version=4)
    markdown = mistune.create_markdown(renderer=_Renderer(), plugins=["table", "strikethrough", "url"])
    pages: list[list[str]] = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            # a text with several headings is several slides
            for part in re.split(r"(?m)^(?=#{1,3} )", cell.source):
                if part.strip():
                    pages.append([str(markdown(part))])
        elif not pages or not _is_only_set_up(cell):
            shown = [_code(cell.source), *(_output(output) for output in cell.outputs)]
            # the second code cell below a text has a slide of its own: the first one's output is to be talked about
            if pages and len(pages[-1]) == 1:
                pages[-1] += shown
            else:
                pages.append(["", *shown])
    title = notebook.cells[0].source.splitlines()[0].lstrip("# ")
    body = "\n".join(_section(page) for page in pages)
    style = HtmlFormatter().get_style_defs(".highlight")
    quoted = '"' + title.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return PAGE.format(title=html.escape(title), title_json=quoted, style=style, slides=body)


def _section(page: list[str]) -> str:
    """A slide; one of words alone stands in the middle, and larger."""
    kind = ' class="words"' if len(page) == 1 and len(page[0]) < 1500 else ""
    return f"<section{kind}><div>{''.join(page)}</div></section>"


def _is_only_set_up(cell: Any) -> bool:
    """Imports, and nothing to see."""
    lines = [line for line in cell.source.splitlines() if line.strip()]
    return not cell.outputs and all(re.match(r"(import|from) ", line) for line in lines)


def _code(source: str) -> str:
    return str(highlight(source, PythonLexer(), HtmlFormatter()))


def _output(output: Any) -> str:
    if output.output_type == "stream":
        return f'<pre class="shown">{html.escape(output.text)}</pre>'
    if output.output_type == "error":
        return f'<pre class="shown">{html.escape(output.ename)}: {html.escape(output.evalue)}</pre>'
    data = output.data
    if "image/png" in data:
        words = html.escape(data.get("text/plain", ""), quote=True)
        return f'<img alt="{words}" src="data:image/png;base64,{data["image/png"].strip()}">'
    if "text/html" in data:
        return str(data["text/html"])
    if "text/markdown" in data:
        return str(mistune.create_markdown(renderer=_Renderer(), plugins=["table"])(data["text/markdown"]))
    return f'<pre class="shown">{html.escape(data.get("text/plain", ""))}</pre>'


def main() -> int:
    """Write the pages."""
    parser = argparse.ArgumentParser(prog="slides", description="Make slides from the notebooks.")
    parser.add_argument("notebooks", nargs="*", metavar="NN", help="the notebooks' numbers; all if not given")
    parser.add_argument("--to", default="slides", metavar="FOLDER", help="where (slides)")
    asked = parser.parse_args()
    os.makedirs(asked.to, exist_ok=True)
    for path in sorted(glob.glob(f"{ROOT}/notebooks/*.ipynb")):
        name = os.path.basename(path).removesuffix(".ipynb")
        if not asked.notebooks or name[:2] in asked.notebooks:
            with open(f"{asked.to}/{name}.html", "w") as file:
                file.write(slides(path))
            print(f"written  {asked.to}/{name}.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
