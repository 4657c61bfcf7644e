"""Intervals of counted shares, and the spread of trials that were trained again."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from hpsearch.core.analysis.pareto import front
from hpsearch.core.objectives import OBJECTIVES, costs
from hpsearch.core.trial import State, TrialRecord, reached

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
    # Unlike p ± z·sqrt(p(1-p)/n), which is a point at 0 and 1, this solves for the share itself.
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
    # Newcombe's method 10: it combines the distances from each share to its own Wilson bounds.
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
    # n - 1 in the denominator: repeats are a sample of the seeds that could have been drawn.
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return MeanAndDeviation(
        values=tuple(values), mean=statistics.fmean(values), deviation=deviation
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeat:
    """One training of a trial with a fresh seed.

    ``place`` counts the trial's repeats from 0. ``values`` holds the measurements at its end; it is
    empty if the training diverged, for ``reason``. ``elsewhere``: it ran on other hardware than the
    study's, so its times cannot be compared.
    """

    trial: int
    place: int
    seed: int
    values: Mapping[str, float]
    reason: str | None = None
    elsewhere: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Replication:
    """The repeats of a trial, summarised.

    ``spreads`` holds each measure's mean and deviation over the repeats that did not diverge.
    ``flattered`` is by how much the search overestimated the accuracy (0-1): the searched one minus
    the mean; None if either is not known. ``is_front`` and ``is_knee`` refer to the front of the
    means of all replicated trials.
    """

    number: int
    repeats: int
    diverged: int
    spreads: Mapping[str, MeanAndDeviation]
    flattered: float | None = None
    is_front: bool = False
    is_knee: bool = False


def replications(
    records: Sequence[TrialRecord], repeats: Sequence[Repeat], objectives: Sequence[str]
) -> tuple[Replication, ...]:
    """Returns the replications of any of the trials, the cheapest by the study's values first."""
    by_trial: dict[int, list[Repeat]] = {}
    for repeat in repeats:
        by_trial.setdefault(repeat.trial, []).append(repeat)
    # A trial number beyond the records is of a repeat stored after they were read.
    found = {n: _summarise(records[n], of) for n, of in by_trial.items() if n < len(records)}
    if not found:
        return ()
    # A front of its own: of the means, which may rank the trials otherwise than the search did.
    means = front([_at_its_means(records[n], r, objectives) for n, r in found.items()], objectives)
    ranked = [
        replace(replication, is_front=n in means.numbers, is_knee=n == means.knee)
        for n, replication in found.items()
    ]
    # Without a cost among the objectives, their own order has to do.
    prices = costs(objectives) or objectives

    def price(replication: Replication) -> tuple[float, ...]:
        known = reached(records[replication.number])
        return (*(known.get(name, math.inf) for name in prices), replication.number)

    return tuple(sorted(ranked, key=price))


def _summarise(record: TrialRecord, repeats: Sequence[Repeat]) -> Replication:
    ended = [repeat for repeat in repeats if repeat.reason is None]
    spreads = {}
    # seconds of other hardware would not measure the spread of this training
    for name in sorted({name for repeat in ended for name in repeat.values}):
        timed = OBJECTIVES[name].is_timed
        known = [repeat.values[name] for repeat in ended if not (repeat.elsewhere and timed)]
        if known:
            spreads[name] = mean_and_deviation(known)
    searched, mean = reached(record).get("accuracy"), spreads.get("accuracy")
    return Replication(
        number=record.number,
        repeats=len(repeats),
        diverged=len(repeats) - len(ended),
        spreads=spreads,
        flattered=None if searched is None or mean is None else searched - mean.mean,
    )


def _at_its_means(
    record: TrialRecord, found: Replication, objectives: Sequence[str]
) -> TrialRecord:
    """Returns the trial with its means as values; failed if the mean of an objective is missing."""
    values = {name: found.spreads[name].mean for name in objectives if name in found.spreads}
    # front() takes complete trials only, so FAILED keeps a trial without a mean off it.
    whole = len(values) == len(objectives)
    return replace(record, values=values, state=State.COMPLETE if whole else State.FAILED)


def mean_optimism(trials: Sequence[Replication]) -> float | None:
    """Returns by how much the search overestimated these trials' accuracies (0-1) on average.

    >>> one = Replication(number=0, repeats=3, diverged=0, spreads={}, flattered=0.02)
    >>> mean_optimism([one, replace(one, flattered=0.0)]), mean_optimism([])
    (0.01, None)
    """
    known = [trial.flattered for trial in trials if trial.flattered is not None]
    return sum(known) / len(known) if known else None
