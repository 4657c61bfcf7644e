"""Whether the front holds: its trials trained again with fresh seeds, and what they come to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from hpsearch.core.analysis.metrics import MeanAndDeviation, mean_and_deviation
from hpsearch.core.analysis.pareto import front
from hpsearch.core.objectives import OBJECTIVES
from hpsearch.core.trial import State, TrialRecord, reached


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeat:
    """One training of a trial with a fresh seed.

    ``place`` counts the trial's repeats from 0. ``values`` holds all that was measured at its end;
    it is empty where the training diverged, and ``reason`` then says how. ``elsewhere``: on other
    hardware than the study's, so that its times do not compare.
    """

    trial: int
    place: int
    seed: int
    values: Mapping[str, float]
    reason: str | None = None
    elsewhere: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Replication:
    """What a trial's repeats come to.

    ``spreads`` holds each measure's mean and deviation over the repeats that came to their end.
    ``flattered`` is how much better the search saw its accuracy (0-1) than the mean; None where
    either is not known. ``is_front`` and ``is_knee`` are those of the means, among the trials that
    were trained again.
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
    """Returns what the repeats come to, by trial, the cheapest of the study's values first.

    Args:
        records: the study's trials, by number.
        repeats: the trainings with fresh seeds, of any of them.
        objectives: what the study optimises.
    """
    by_trial: dict[int, list[Repeat]] = {}
    for repeat in repeats:
        by_trial.setdefault(repeat.trial, []).append(repeat)
    found = {n: _confirmed(n, of) for n, of in by_trial.items() if n < len(records)}
    means = [_at_its_means(records[n], one, objectives) for n, one in found.items()]
    chosen, knee = front(means, objectives)
    on_front = {record.number for record in chosen}
    marked = [
        replace(
            one,
            flattered=_flattered(records[n], one),
            is_front=n in on_front,
            is_knee=n == knee,
        )
        for n, one in found.items()
    ]
    costs = [name for name in objectives if OBJECTIVES[name].is_cost] or list(objectives)
    return tuple(sorted(marked, key=lambda one: _price(records[one.number], costs)))


def _confirmed(number: int, repeats: Sequence[Repeat]) -> Replication:
    ended = [repeat for repeat in repeats if repeat.reason is None]
    names = {name for repeat in ended for name in repeat.values}
    spreads = {}
    for name in sorted(names):
        timed = OBJECTIVES[name].is_timed  # what another machine measures otherwise
        seen = [repeat.values[name] for repeat in ended if not (repeat.elsewhere and timed)]
        if seen:
            spreads[name] = mean_and_deviation(seen)
    return Replication(
        number=number,
        repeats=len(repeats),
        diverged=len(repeats) - len(ended),
        spreads=spreads,
    )


def _at_its_means(
    record: TrialRecord, found: Replication, objectives: Sequence[str]
) -> TrialRecord:
    """The trial as if it had come to its means; not complete where one of them is not known."""
    values = {name: found.spreads[name].mean for name in objectives if name in found.spreads}
    whole = len(values) == len(objectives)
    return replace(record, values=values, state=State.COMPLETE if whole else State.FAILED)


def _flattered(record: TrialRecord, found: Replication) -> float | None:
    searched = reached(record).get("accuracy")
    if searched is None or "accuracy" not in found.spreads:
        return None
    return searched - found.spreads["accuracy"].mean


def mean_optimism(trials: Sequence[Replication]) -> float | None:
    """Returns how much better the search saw these trials' accuracies (0-1) than their means.

    >>> one = Replication(number=0, repeats=3, diverged=0, spreads={}, flattered=0.02)
    >>> mean_optimism([one, replace(one, flattered=0.0)]), mean_optimism([])
    (0.01, None)
    """
    known = [one.flattered for one in trials if one.flattered is not None]
    return sum(known) / len(known) if known else None


def _price(record: TrialRecord, costs: Sequence[str]) -> tuple[float, ...]:
    known = reached(record)
    return (*(known.get(name, math.inf) for name in costs), record.number)
