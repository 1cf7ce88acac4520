"""The program that row `hundred` asks: `python -m bench.callers WAY NUMBER CALLERS LAYER DIRECTORY` makes containers in
one of the ways, after a first one each that is not counted, and prints the seconds that all of them took."""

from __future__ import annotations

import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from bench import measure, peers, start

if TYPE_CHECKING:
    from collections.abc import Callable


def main() -> None:
    """Do it the way that is asked for."""
    way, number, callers, layer, directory = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5]
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)

    def ours(_: int) -> float:
        return start.once(layer, null)

    if way == "one":
        took = alone(ours, number)
    elif way == "one-beside-threads":
        took = start.threaded(lambda: alone(ours, number))
    elif way == "threads":
        took = threads(ours, number, callers)
    elif way == "processes":
        took = processes(ours, number, callers)
    else:
        crun = crun_in(directory, layer, number + callers)
        try:
            took = alone(crun, number) if way == "crun-one" else threads(crun, number, callers)
        finally:
            peers.remove_groups()
    print(took)


def alone(once: Callable[[int], float], number: int) -> float:
    """One after the other."""
    once(number)
    before = time.perf_counter()
    for index in range(number):
        once(index)
    return time.perf_counter() - before


def threads(once: Callable[[int], float], number: int, callers: int) -> float:
    """By threads of this process."""
    barrier = threading.Barrier(callers)
    with ThreadPoolExecutor(callers, initializer=barrier.wait) as pool:
        list(pool.map(once, range(number, number + callers)))
        before = time.perf_counter()
        list(pool.map(once, range(number)))
        return time.perf_counter() - before


def processes(once: Callable[[int], float], number: int, callers: int) -> float:
    """By processes, each with its share. Raises SystemExit when one of them failed."""
    ready, ready_write = os.pipe()
    go, go_write = os.pipe()
    pids = []
    for caller in range(callers):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                once(0)
                os.close(go_write)
                os.write(ready_write, b"r")
                os.read(go, 1)  # the end of it: all go at once
                for index in range(caller, number, callers):
                    once(index)
                code = 0
            finally:
                os._exit(code)
        pids.append(pid)
    os.close(ready_write)
    os.close(go)
    waiting = callers
    while waiting:
        told = os.read(ready, waiting)
        if not told:
            sys.exit("a caller failed")
        waiting -= len(told)
    before = time.perf_counter()
    os.close(go_write)
    if any(os.waitpid(pid, 0)[1] for pid in pids):
        sys.exit("a caller failed")
    return time.perf_counter() - before


def crun_in(directory: str, layer: str, number: int) -> Callable[[int], float]:
    """crun, with a bundle for each container: their groups must differ."""
    top = f"{directory}/bundles-{os.getpid()}"
    bundles = [peers.bundle(f"{top}/{os.getpid()}-{index}", layer, cgroup=True) for index in range(number)]

    def once(index: int) -> float:
        name = os.path.basename(bundles[index])
        return measure.command(["crun", "--root", f"{top}/state", "run", "--bundle", bundles[index], name])

    return once


if __name__ == "__main__":
    main()
