"""Several searches side by side: what each has at equal training, at equal trials, and by now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any

from hpsearch.core.analysis.hypervolume_history import HypervolumePoint, hypervolume_history
from hpsearch.core.analysis.metrics import gain
from hpsearch.core.analysis.pareto import Point, dominates, front, nondominated
from hpsearch.core.analysis.pruning_stats import Bounds, counts
from hpsearch.core.analysis.recommendation import Pick, pick
from hpsearch.core.objectives import OBJECTIVES, utility
from hpsearch.core.trial import TrialRecord

NEARLY = 0.99  # of the leader's hypervolume: a study that has so much is level with it


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedSearch:
    """A study that takes part: its trials, at least one of them complete.

    ``epochs`` are those of a full training, ``bounds`` the study's own, ``val_images`` how many an
    accuracy was counted on (None: not known).
    """

    study: str
    records: Sequence[TrialRecord]
    epochs: int
    bounds: Bounds
    val_images: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A study's front, and what of it is left beside the others'.

    ``trials`` are its own, the cheapest first; those numbered in ``unbeaten`` are on the front of
    all studies together; ``beaten_by`` tells how many of them each other study beats. ``best`` is
    the trial best in the first objective that is no cost; None where there is no such objective.
    """

    trials: tuple[Pick, ...]
    unbeaten: tuple[int, ...]
    beaten_by: Mapping[str, int]
    best: Pick | None
    knee: Pick


@dataclass(frozen=True, slots=True, kw_only=True)
class Performance:
    """What one study came to.

    ``trials`` of its trials count, and ``seconds`` of pure training steps were spent until the
    last of them had ended (on failed ones too). Hypervolumes are measured in bounds that all
    studies share: by now, and ``at_seconds`` and ``at_trials``, when it had spent what all have.
    ``nearly`` is where it first had 99 % of what the leader had at that point, ``overtaken`` where
    the leader first had what this study had; None: never. ``course`` is how it came on.
    """

    study: str
    counts: Mapping[str, int]
    trials: int
    seconds: float
    hypervolume: float
    at_seconds: float | None
    at_trials: float
    nearly: HypervolumePoint | None
    overtaken: HypervolumePoint | None
    front: Share
    course: tuple[HypervolumePoint, ...]

    @property
    def at_equal(self) -> float:
        """The hypervolume that decides: at equal training, where that can be compared."""
        return self.at_trials if self.at_seconds is None else self.at_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Lead:
    """By how much the best accuracy of one study is above that of the next, as a fraction.

    ``low`` and ``high`` are the lead's 95 % interval, ``is_sure`` whether it is above 0; None
    where it is not known on how many images an accuracy was counted.
    """

    study: str
    over: str
    gain: float
    low: float | None = None
    high: float | None = None
    is_sure: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Several studies side by side, in the order in which they were named.

    All of them have spent ``seconds`` of training and ``trials``. Where their seconds cannot be
    compared, ``seconds`` is None and equal trials decide. ``ranking`` holds the studies' names by
    what they had at that point, the most hypervolume first, ``level`` those that had 99 % of the
    first one's. ``joint_front`` is the size of the front of all trials together. ``differences``
    holds what is not the same in the study files, a value for each study, and ``repeats`` the
    groups of studies that are the same search but for the seed. ``quality`` is the first
    objective that is no cost; None where there is no such objective.
    """

    objectives: tuple[str, ...]
    quality: str | None
    bounds: Bounds
    val_images: int | None
    seconds: float | None
    trials: int
    ranking: tuple[str, ...]
    level: tuple[str, ...]
    studies: tuple[Performance, ...]
    joint_front: int
    accuracy: Lead | None
    differences: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    repeats: tuple[tuple[str, ...], ...] = ()
    caveats: tuple[str, ...] = ()


def compare(
    entrants: Sequence[ComparedSearch], *, objectives: Sequence[str], same_clock: bool = True
) -> Comparison:
    """Compares two or more studies of the same objectives and images.

    Args:
        entrants: the studies.
        objectives: the names of what they optimise.
        same_clock: whether a second of training is the same in all of them.
    """
    bounds = common_bounds([entrant.bounds for entrant in entrants], objectives)
    runs = [hypervolume_history(e.records, bounds=bounds, epochs=e.epochs) for e in entrants]
    trials = min(run[-1].trials for run in runs)
    seconds = min(run[-1].seconds for run in runs) if same_clock else None
    at_trials = [worth(run, trials=trials) for run in runs]
    equal = at_trials if seconds is None else [worth(run, seconds=seconds) for run in runs]
    order = sorted(range(len(runs)), key=lambda i: -equal[i])
    leader, enough = runs[order[0]], NEARLY * equal[order[0]]
    fronts = {entrant.study: _points(entrant.records, objectives) for entrant in entrants}
    shares = [_share(entrant, fronts, objectives) for entrant in entrants]
    return Comparison(
        objectives=tuple(objectives),
        quality=_quality(objectives),
        bounds=bounds,
        val_images=_fewest(entrants),
        seconds=seconds,
        trials=trials,
        ranking=tuple(entrants[i].study for i in order),
        level=tuple(entrants[i].study for i in order if equal[i] >= enough),
        studies=tuple(
            Performance(
                study=entrant.study,
                counts=counts(entrant.records),
                trials=runs[i][-1].trials,
                seconds=runs[i][-1].seconds,
                hypervolume=runs[i][-1].hypervolume,
                at_seconds=None if seconds is None else equal[i],
                at_trials=at_trials[i],
                nearly=first_worth(runs[i], enough),
                overtaken=first_worth(leader, equal[i]),
                front=shares[i],
                course=runs[i],
            )
            for i, entrant in enumerate(entrants)
        ),
        joint_front=len(nondominated([point for points in fronts.values() for point in points])),
        accuracy=_lead(entrants, shares) if _quality(objectives) == "accuracy" else None,
    )


def common_bounds(of_each: Sequence[Bounds], objectives: Sequence[str]) -> Bounds:
    """Returns the bounds that hold all of these, for hypervolumes that can be compared.

    >>> common_bounds([{"params": (5.0, 80.0)}, {"params": (4.0, 70.0)}], ["params"])
    {'params': (4.0, 80.0)}
    """
    return {
        name: (min(own[name][0] for own in of_each), max(own[name][1] for own in of_each))
        for name in objectives
    }


def worth(run: Sequence[HypervolumePoint], *, seconds: float = inf, trials: float = inf) -> float:
    """Returns the hypervolume that a search had by then, of the trials that had ended.

    >>> run = [HypervolumePoint(number=n, trials=n + 1, seconds=4.0 + n, hypervolume=h)
    ...        for n, h in enumerate((0.5, 0.9))]
    >>> worth(run, seconds=4.5), worth(run, trials=2), worth(run, seconds=1.0)
    (0.5, 0.9, 0.0)
    """
    by_then = (now for now in reversed(run) if now.seconds <= seconds and now.trials <= trials)
    return next((now.hypervolume for now in by_then), 0.0)


def first_worth(run: Sequence[HypervolumePoint], hypervolume: float) -> HypervolumePoint | None:
    """Returns where a search first had that hypervolume; None if it never did."""
    return next((now for now in run if now.hypervolume >= hypervolume), None)


def repeats(
    studies: Sequence[str], differences: Mapping[str, tuple[Any, ...]]
) -> tuple[tuple[str, ...], ...]:
    """Returns the groups of two or more studies that differ in nothing but the seed.

    >>> repeats(["a", "b", "c"], {"search.seed": (0, 1, 0), "train.flip": (True, False, False)})
    (('b', 'c'),)
    """
    groups: dict[str, list[str]] = {}
    for place, study in enumerate(studies):
        own = [of[place] for key, of in differences.items() if key != "search.seed"]
        groups.setdefault(repr(own), []).append(study)
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)


def _share(
    entrant: ComparedSearch, fronts: Mapping[str, Sequence[Point]], objectives: Sequence[str]
) -> Share:
    others = {name: points for name, points in fronts.items() if name != entrant.study}
    own = fronts[entrant.study]
    beaten = {name: [_is_beaten(p, points) for p in own] for name, points in others.items()}
    marks = [any(by) for by in zip(*beaten.values(), strict=True)]
    chosen, knee = front(entrant.records, objectives)
    picks = {r.number: pick(r, val_images=entrant.val_images) for r in chosen}
    assert knee is not None, "an entrant has a complete trial"
    quality, best = _quality(objectives), None
    if quality is not None:
        best = picks[max(chosen, key=lambda r: utility(quality, r.values[quality])).number]
    return Share(
        trials=tuple(picks.values()),
        unbeaten=tuple(r.number for r, mark in zip(chosen, marks, strict=True) if not mark),
        beaten_by={name: sum(by) for name, by in beaten.items()},
        best=best,
        knee=picks[knee],
    )


def _quality(objectives: Sequence[str]) -> str | None:
    return next((name for name in objectives if not OBJECTIVES[name].is_cost), None)


def _is_beaten(point: Point, by: Sequence[Point]) -> bool:
    return any(dominates(other, point) for other in by)


def _points(records: Sequence[TrialRecord], objectives: Sequence[str]) -> list[Point]:
    """The front as merits that have no bounds."""
    chosen, _ = front(records, objectives)
    return [tuple(utility(name, record.values[name]) for name in objectives) for record in chosen]


def _fewest(entrants: Sequence[ComparedSearch]) -> int | None:
    known = [entrant.val_images for entrant in entrants]
    return None if None in known else min(n for n in known if n is not None)


def _lead(entrants: Sequence[ComparedSearch], shares: Sequence[Share]) -> Lead:
    pairs = zip(entrants, shares, strict=True)
    best = {e.study: share.best.measured["accuracy"] for e, share in pairs if share.best}
    study, over = sorted(best, key=lambda name: -best[name])[:2]
    n, low, high = _fewest(entrants), None, None
    if n is not None:
        low, high = gain(best[study], best[over], n)
    return Lead(
        study=study,
        over=over,
        gain=best[study] - best[over],
        low=low,
        high=high,
        is_sure=None if low is None else low > 0,
    )
