"""What the course's notebooks share: the map, the source viewer, questions, charts, and the proof at the end.

A notebook should be about its chapter, not about matplotlib. So what every chapter needs stands here once, and is as
plain as it can be: each function returns an object that shows itself in a cell. Each has a text form as well, for
screen readers, for a terminal, and for a page that does not run HTML.

    chapter_map(3)               Docker's architecture, with this chapter's piece of it marked
    source(Container.run)        the package's own code, never a copy of it
    question("…", {…}, "…")      a question whose answers say themselves whether they are right
    Chart(title, x=…, y=…)       axes with units, colours that everybody can tell apart
    heat_map({"we": 4711, …})    which process is in which namespace
    rights_map({"box": container}, "…")   which process has which capability; outcomes(…): which attack got out
    milliseconds(calls)          where the time goes, from `linux.trace()`
    Waterfall(), manifest_tree([…])   a pull, layer by layer, and the documents of images
    anatomy(explain(…)), file_tree(explain(…))   what made each layer, and which layer each file comes from
    TinyRegistry()               a registry in memory that can be slow, and can lie
    Recording(group)             what a group uses while an experiment runs, step by step
    Dashboard(make)              sliders on a running container's limits, above a live chart
    runtimes.runtimes(folder), podman.Podman(…)   the OCI runtimes of this machine, and an engine above one of them
    clean_up(before)             the host is as it was: proven, or what was left is named and removed

Nothing here but the dashboard needs a widget, nothing needs the Internet, and no chapter imports it. matplotlib is
loaded by the first chart.
"""

from __future__ import annotations

from minicontainer.notebook.anatomy import anatomy, file_tree
from minicontainer.notebook.charts import BLUE, COLOURS, GREEN, ORANGE, VERMILION, Chart, milliseconds
from minicontainer.notebook.cleaning import CleanUp, clean_up
from minicontainer.notebook.dashboard import Dashboard
from minicontainer.notebook.heat import HeatMap, heat_map
from minicontainer.notebook.map import chapter_map
from minicontainer.notebook.pulls import Waterfall, bars, manifest_tree
from minicontainer.notebook.questions import question
from minicontainer.notebook.recording import Recording
from minicontainer.notebook.registry import TinyRegistry
from minicontainer.notebook.rights import outcomes, rights_map
from minicontainer.notebook.show import Shown
from minicontainer.notebook.sources import source

__all__ = [
    "BLUE",
    "COLOURS",
    "GREEN",
    "ORANGE",
    "VERMILION",
    "Chart",
    "CleanUp",
    "Dashboard",
    "HeatMap",
    "Recording",
    "Shown",
    "TinyRegistry",
    "Waterfall",
    "anatomy",
    "bars",
    "chapter_map",
    "clean_up",
    "file_tree",
    "heat_map",
    "manifest_tree",
    "milliseconds",
    "outcomes",
    "question",
    "rights_map",
    "source",
]
