"""The processes that fetch layers, as their owner sees them.

Python runs one thread at a time, and unpacking is Python: so layers that arrive together are unpacked by processes.
They are fresh interpreters, not forks: the caller may be a notebook's kernel with a dozen threads. Jobs and answers are
lines of JSON through their pipes (so that no password is ever an argument that `ps` shows).
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from minicontainer import errors
from minicontainer.errors import ContainerError, HostError
from minicontainer.images import failures

if TYPE_CHECKING:
    from collections.abc import Callable

MOST = 3
"""Workers at a time, and so layers that arrive at a time (as many as Docker's)."""

MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(64 << 20)}
"""What is freed stays with the worker. Its pieces of 1 MiB come and go by the thousand, and glibc would ask the kernel
for each anew: 250 page faults a piece, a third of the processor time of inflating. mallopt(3)"""

_PACKAGE = __name__.partition(".")[0]
_CODE = f"import sys; sys.path[:] = sys.argv[2:]; from {_PACKAGE}.images.fetching import main; main()"


def run(jobs: list[dict[str, Any]], report: Callable[[dict[str, Any]], None]) -> None:
    """Do all jobs (see `fetching.Job`), the largest first; `report` is called with each answer.

    Raises the first job's error, or what interrupts us, after all workers have ended.
    """
    waiting = sorted(jobs, key=lambda job: int(job["size"]))
    workers: list[subprocess.Popen[bytes]] = []
    try:
        with selectors.DefaultSelector() as selector:
            for _ in range(min(len(jobs), MOST)):
                worker = _start()
                workers.append(worker)
                assert worker.stdout is not None
                selector.register(worker.stdout, selectors.EVENT_READ, (worker, bytearray()))
                _give(worker, waiting)
            left = len(jobs)
            while left:
                for key, _ in selector.select():
                    worker, buffered = key.data
                    data = os.read(key.fd, 65536)
                    if not data:
                        raise HostError(
                            f"a worker that unpacks layers ended early (status {worker.wait()})",
                            hint="it may have been killed for want of memory: see dmesg",
                        )
                    buffered += data
                    *lines, rest = buffered.split(b"\n")
                    buffered[:] = rest
                    for line in lines:
                        answer = json.loads(line)
                        if answer["status"] == "failed":
                            raise _error(answer)
                        report(answer)
                        if answer["status"] == "done":
                            left -= 1
                            _give(worker, waiting)
    finally:
        for worker in workers:
            worker.kill()
        for worker in workers:
            with worker:  # closes its pipes, waits for it
                pass


def _start() -> subprocess.Popen[bytes]:
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    path = [package, *(entry for entry in sys.path if os.path.isabs(entry))]
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _CODE, str(os.getpid()), *path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | MEMORY,
        process_group=0,  # Ctrl-C is for us: we end them
    )


def _give(worker: subprocess.Popen[bytes], waiting: list[dict[str, Any]]) -> None:
    if waiting:
        assert worker.stdin is not None
        worker.stdin.write(json.dumps(waiting.pop()).encode() + b"\n")
        worker.stdin.flush()


def _error(answer: dict[str, Any]) -> ContainerError:
    kind = getattr(errors, answer["error"], getattr(failures, answer["error"], errors.ImageError))
    error: ContainerError = kind(answer["message"], hint=answer["hint"])
    return error
