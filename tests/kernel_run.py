"""Run some cells of a notebook, whether they fail or not, and write down how each one ended.

    kernel_run.py NOTEBOOK RESULT SECONDS INDEX…

INDEX counts code cells from 0; each may take so many SECONDS, and is interrupted then. The kernel has the directory
`without` in its PYTHONPATH. RESULT is rewritten after each cell, so that it is there however this ends:
{INDEX: null, or {"kinds": […], "text": …}}.
"""

from __future__ import annotations

import ast
import json
import os
import sys
from typing import TYPE_CHECKING, Any

from claims import NOTEBOOKS, code, source
from jupyter_client.manager import KernelManager

if TYPE_CHECKING:
    from jupyter_client.blocking import BlockingKernelClient

ANSWER_SECONDS = 20
KINDS = "[kind.__name__ for kind in __import__('sys').last_type.__mro__]"


def ending(client: BlockingKernelClient, text: str, seconds: float) -> dict[str, Any] | None:
    """How a cell ended: None when it ran through."""
    reply = client.execute_interactive(text, timeout=seconds, allow_stdin=False, output_hook=lambda _: None)
    content = reply["content"]
    if content["status"] == "ok":
        return None
    asked = client.execute_interactive("", silent=True, user_expressions={"kinds": KINDS}, timeout=ANSWER_SECONDS)
    kinds = asked["content"]["user_expressions"]["kinds"]
    names = ast.literal_eval(kinds["data"]["text/plain"]) if kinds["status"] == "ok" else [content["ename"]]
    return {"kinds": names, "text": content["evalue"]}


def main() -> None:
    notebook, result, seconds, *indices = sys.argv[1:]
    cells = code(notebook)
    here = os.path.dirname(os.path.abspath(__file__))
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(cwd=NOTEBOOKS, env={**os.environ, "PYTHONPATH": f"{here}/without"})
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=3 * ANSWER_SECONDS)
    found: dict[str, dict[str, Any] | None] = {}
    for index in indices:
        try:
            found[index] = ending(client, source(cells[int(index)]), float(seconds))
        except (TimeoutError, RuntimeError) as error:  # it hangs, or its kernel has died
            kind = "CellTimeout" if manager.is_alive() else "DeadKernel"
            found[index] = {"kinds": [kind], "text": str(error)}
        with open(result, "w") as file:
            json.dump(found, file)
        if not manager.is_alive():
            break
        if found[index] and found[index]["kinds"] == ["CellTimeout"]:
            manager.interrupt_kernel()
            client.execute_interactive("", silent=True, timeout=ANSWER_SECONDS)
    client.stop_channels()
    manager.shutdown_kernel(now=True)


if __name__ == "__main__":
    main()
