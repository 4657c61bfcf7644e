"""How fast a search trains: epochs a second, read from its trials, on configurations all share."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from hpsearch.core.trial import TrialRecord

# Random draws depend on the seed and the trial's number alone, nothing is stopped and no objective
# is timed: whoever runs these, with however many workers, trains the same nets for as long.
SAME_FOR_ALL = ("--sampler", "random", "--pruner", "none", "--objectives", "accuracy,params")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """The epochs of some trials, and the seconds from the first claim to the last trial's end.

    Start-up lies before the first claim and does not count. ``in_trials`` is the share of the
    workers' time in that span that lies inside a trial: the rest is claims, and the end, where one
    worker finishes the last trial and nothing is left for the other.
    """

    epochs: int
    seconds: float
    in_trials: float

    @property
    def rate(self) -> float:
        """Epochs a second."""
        return self.epochs / self.seconds


def pace(records: Sequence[TrialRecord], *, workers: int) -> Pace:
    """Reads the pace of ended trials from their records."""
    seconds = _between(min(r.started for r in records), max(r.ended for r in records))
    inside = sum(_between(r.started, r.ended) for r in records)
    return Pace(
        epochs=sum(len(r.curve) for r in records),
        seconds=seconds,
        in_trials=inside / (workers * seconds),
    )


def _between(first, last) -> float:
    return (last - first).total_seconds()


def spread(values: Sequence[float], form: str = "{:.2f}") -> str:
    """Returns the median and, where they differ, the range: ``1.50 (1.42–1.61)``."""
    middle, low, high = (
        form.format(value) for value in (statistics.median(values), min(values), max(values))
    )
    return middle if low == high else f"{middle} ({low}–{high})"
