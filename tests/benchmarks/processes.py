"""Processes that a benchmark has started, and what each puts into a queue at its end."""

from __future__ import annotations

import contextlib
import queue
import sys
from collections.abc import Callable, Sequence
from typing import Any


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
