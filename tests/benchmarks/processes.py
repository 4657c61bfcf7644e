"""Processes that a benchmark starts: what each puts into a queue at its end, and neighbours."""

from __future__ import annotations

import contextlib
import queue
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

SPIN = "while True: pass"  # keeps a core busy


def gather(
    processes: Sequence[Any], results: Any, *, meanwhile: Callable[[], None] = lambda: None
) -> list[Any]:
    """Returns what each process has put into the queue; ends the benchmark if one breaks.

    Args:
        processes: of multiprocessing, started; each puts one thing.
        results: the queue.
        meanwhile: called about twice a second until all have.
    """
    found: list[Any] = []
    try:
        while len(found) < len(processes):
            meanwhile()
            with contextlib.suppress(queue.Empty):
                found.append(results.get(timeout=0.5))
            if any(process.exitcode for process in processes):
                sys.exit("a process of the benchmark ended with an error, which is told above")
        for process in processes:
            process.join()
    finally:
        for process in processes:
            process.kill()  # does nothing to one that has ended
            process.join()
    return found


@contextlib.contextmanager
def neighbours(code: str | None, *, count: int) -> Iterator[None]:
    """Runs so many processes of that Python code beside us; None: none."""
    command = [sys.executable, "-c", code or ""]
    processes = [subprocess.Popen(command) for _ in range(count if code else 0)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()
