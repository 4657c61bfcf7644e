"""Intervals of counted shares, and the spread of repeated measurements."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

Z = 1.959963984540054  # the 97.5 % quantile of the normal distribution


def wilson(share: float, n: int) -> tuple[float, float]:
    """Returns the 95 % interval of a share that was counted on n cases (Wilson 1927).

    It stays inside [0, 1] and has a width at 0 and 1 too.

    >>> [round(bound, 3) for bound in wilson(0.9, 100)]
    [0.826, 0.945]
    >>> wilson(0.0, 5)[0], wilson(1.0, 5)[1]
    (0.0, 1.0)
    """
    if n < 1:
        raise ValueError(f"found n = {n}, expected 1 or more cases")
    z2 = Z * Z
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    # Rounding would keep the ends of no cases and of all cases off 0 and 1.
    low = max(0.0, middle - half) if share > 0 else 0.0
    return low, min(1.0, middle + half) if share < 1 else 1.0


def gain(better: float, worse: float, n: int) -> tuple[float, float]:
    """Returns the 95 % interval of better - worse, each counted on n cases (Newcombe 1998).

    The cases are treated as independent. Two nets err on much the same images, so the true
    interval is narrower: a difference beyond this one is real.

    >>> [round(bound, 3) for bound in gain(0.95, 0.90, 750)]
    [0.023, 0.077]
    """
    low_better, high_better = wilson(better, n)
    low_worse, high_worse = wilson(worse, n)
    difference = better - worse
    return (
        difference - math.hypot(better - low_better, high_worse - worse),
        difference + math.hypot(high_better - better, worse - low_worse),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanAndDeviation:
    """The mean of repeated measurements and, of two or more, their standard deviation."""

    values: tuple[float, ...]
    mean: float
    deviation: float | None


def mean_and_deviation(values: Sequence[float]) -> MeanAndDeviation:
    """Returns mean and sample deviation.

    >>> two = mean_and_deviation([0.5, 0.7])
    >>> two.mean, round(two.deviation, 4), mean_and_deviation([0.5]).deviation
    (0.6, 0.1414, None)
    """
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return MeanAndDeviation(
        values=tuple(values), mean=statistics.fmean(values), deviation=deviation
    )
