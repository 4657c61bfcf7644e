"""How much a figure shows where nobody could see more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

SHOWN_TRIALS = 1500  # beside the front: more lie on top of one another
SHOWN_CURVES = 150  # beside the front's
SHOWN_SPANS = 5000  # of the timeline

T = TypeVar("T")


def evenly(items: Sequence[T], limit: int) -> list[T]:
    """Returns at most ``limit`` of the items, evenly spaced, the first and the last among them.

    >>> evenly([0, 1, 2, 3, 4, 5, 6], 3)
    [0, 3, 6]
    """
    if len(items) <= limit:
        return list(items)
    return [items[round(i * (len(items) - 1) / (limit - 1))] for i in range(limit)]
