"""Several searches side by side: at equal training, at equal trials, and at their ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from math import inf
from typing import Any

from hpsearch.core.analysis.history import HypervolumePoint, hypervolume_history
from hpsearch.core.analysis.pareto import Point, dominates, front, nondominated
from hpsearch.core.analysis.pruning_stats import Bounds, counts
from hpsearch.core.analysis.recommendation import Pick, pick
from hpsearch.core.analysis.statistics import gain
from hpsearch.core.objectives import first_quality, utility
from hpsearch.core.trial import TrialRecord

NEARLY = 0.99  # of the leader's hypervolume: a study that has as much is level with it


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedSearch:
    """A study to compare: its trials, at least one of them complete.

    ``epochs`` are those of a full training, ``bounds`` the study's own, ``val_images`` how many an
    accuracy was counted on (None: not known), ``created`` is when the study was made.
    """

    study: str
    records: Sequence[TrialRecord]
    epochs: int
    bounds: Bounds
    val_images: int | None = None
    created: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A study's front, and its part in the front of all studies together.

    ``trials`` are those of its front, the cheapest first; the numbers in ``unbeaten`` are on the
    joint front too; ``beaten_by`` counts how many of them each other study dominates. ``best`` is
    the trial best in the first objective that is not a cost; None if all are costs.
    """

    trials: tuple[Pick, ...]
    unbeaten: tuple[int, ...]
    beaten_by: Mapping[str, int]
    best: Pick | None
    knee: Pick


@dataclass(frozen=True, slots=True, kw_only=True)
class Performance:
    """The results of one study.

    ``trials`` count toward its budget, and ``seconds`` of pure training steps were spent until the
    last of them had ended (failed ones included). Hypervolumes are measured in bounds that all
    studies share: the final one, and ``at_seconds`` and ``at_trials``, at the point that all have
    reached. ``nearly`` is where it first had 99 % of the leader's hypervolume at that point,
    ``overtaken`` where the leader first had as much as this study; None: never. ``course`` is its
    hypervolume over time. Name and creation time identify a study.
    """

    study: str
    created: datetime | None
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
        """The hypervolume that decides: at equal training, or at equal trials if not comparable."""
        return self.at_trials if self.at_seconds is None else self.at_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Lead:
    """By how much the best accuracy of one study exceeds that of the next, as a fraction.

    ``low`` and ``high`` are the lead's 95 % interval, ``is_sure`` whether it is above 0; None if
    the number of validation images is not known.
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

    All of them have spent ``seconds`` of training and ``trials``. If their seconds cannot be
    compared, ``seconds`` is None and equal trials decide. ``ranking`` holds the studies' names by
    their hypervolume at that point, the highest first, ``level`` those with at least 99 % of the
    first one's. ``joint_front`` is the size of the front of all trials together. ``differences``
    holds the settings that differ between the study files, a value for each study, and ``repeats``
    the groups of studies that differ in the seed alone. ``quality`` is the first objective that is
    not a cost; None if all are costs.
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

    ``same_clock``: whether a second of training means the same in all of them.
    """
    quality = first_quality(objectives)
    bounds = common_bounds([entrant.bounds for entrant in entrants], objectives)
    runs = [hypervolume_history(e.records, bounds=bounds, epochs=e.epochs) for e in entrants]
    # The longer study would always win by its end: compare where all have spent the same.
    trials = min(run[-1].trials for run in runs)
    seconds = min(run[-1].seconds for run in runs) if same_clock else None
    at_trials = [worth(run, trials=trials) for run in runs]
    at_seconds = None if seconds is None else [worth(run, seconds=seconds) for run in runs]
    equal = at_seconds or at_trials
    # Sorting is stable: of equals, the study that was named first leads.
    order = sorted(range(len(runs)), key=lambda i: -equal[i])
    leader, enough = runs[order[0]], NEARLY * equal[order[0]]
    shares, joint_front = _shares(entrants, objectives)
    performances = [
        Performance(
            study=entrant.study,
            created=entrant.created,
            counts=counts(entrant.records),
            trials=run[-1].trials,
            seconds=run[-1].seconds,
            hypervolume=run[-1].hypervolume,
            at_seconds=at_seconds[i] if at_seconds else None,
            at_trials=at_trials[i],
            nearly=first_worth(run, enough),
            overtaken=first_worth(leader, equal[i]),
            front=shares[i],
            course=run,
        )
        for i, (entrant, run) in enumerate(zip(entrants, runs, strict=True))
    ]
    # The fewest images have the most noise.
    known = [entrant.val_images for entrant in entrants]
    val_images = None if None in known else min(n for n in known if n is not None)
    return Comparison(
        objectives=tuple(objectives),
        quality=quality,
        bounds=bounds,
        val_images=val_images,
        seconds=seconds,
        trials=trials,
        ranking=tuple(entrants[i].study for i in order),
        level=tuple(entrants[i].study for i in order if equal[i] >= enough),
        studies=tuple(performances),
        joint_front=joint_front,
        accuracy=_lead(performances, val_images) if quality == "accuracy" else None,
    )


def common_bounds(of_each: Sequence[Bounds], objectives: Sequence[str]) -> Bounds:
    """Returns bounds that contain all of these, so that hypervolumes can be compared.

    >>> common_bounds([{"params": (5.0, 80.0)}, {"params": (4.0, 70.0)}], ["params"])
    {'params': (4.0, 80.0)}
    """
    # The widest range contains each study's points, so none is clipped in favour of another.
    return {
        name: (min(own[name][0] for own in of_each), max(own[name][1] for own in of_each))
        for name in objectives
    }


def worth(run: Sequence[HypervolumePoint], *, seconds: float = inf, trials: float = inf) -> float:
    """Returns the hypervolume of a search after that many seconds or trials.

    >>> run = [HypervolumePoint(number=n, trials=n + 1, seconds=4.0 + n, hypervolume=h)
    ...        for n, h in enumerate((0.5, 0.9))]
    >>> worth(run, seconds=4.5), worth(run, trials=2), worth(run, seconds=1.0)
    (0.5, 0.9, 0.0)
    """
    # From the end, because hypervolumes never fall: the last point within the limit is the most.
    within = (at for at in reversed(run) if at.seconds <= seconds and at.trials <= trials)
    return next((at.hypervolume for at in within), 0.0)


def first_worth(run: Sequence[HypervolumePoint], hypervolume: float) -> HypervolumePoint | None:
    """Returns where a search first had that hypervolume; None if it never did."""
    return next((at for at in run if at.hypervolume >= hypervolume), None)


def repeats(
    studies: Sequence[str], differences: Mapping[str, tuple[Any, ...]]
) -> tuple[tuple[str, ...], ...]:
    """Returns the groups of two or more studies that differ in nothing but the seed.

    >>> repeats(["a", "b", "c"], {"search.seed": (0, 1, 0), "train.flip": (True, False, False)})
    (('b', 'c'),)
    """
    # Studies of the same search have the same values of all settings but the seed.
    groups: dict[str, list[str]] = {}
    for i, study in enumerate(studies):
        own = [values[i] for key, values in differences.items() if key != "search.seed"]
        groups.setdefault(repr(own), []).append(study)
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)


def _shares(
    entrants: Sequence[ComparedSearch], objectives: Sequence[str]
) -> tuple[list[Share], int]:
    """Each study's share in the front of all trials together, and the size of that front."""
    fronts = {e.study: front(e.records, objectives) for e in entrants}
    points: dict[str, list[Point]] = {
        study: [tuple(utility(name, r.values[name]) for name in objectives) for r in own.trials]
        for study, own in fronts.items()
    }
    quality, shares = first_quality(objectives), []
    for entrant in entrants:
        own = fronts[entrant.study]
        assert own.knee is not None, "an entrant has a complete trial"
        # A front is never beaten by itself: its points do not dominate each other.
        beaten = {
            study: [any(dominates(rival, p) for rival in rivals) for p in points[entrant.study]]
            for study, rivals in points.items()
            if study != entrant.study
        }
        is_beaten = [any(by) for by in zip(*beaten.values(), strict=True)]
        picks = {r.number: pick(r, val_images=entrant.val_images) for r in own.trials}
        best = quality and max(own.trials, key=lambda r: utility(quality, r.values[quality]))
        shares.append(
            Share(
                trials=tuple(picks.values()),
                unbeaten=tuple(n for n, lost in zip(picks, is_beaten, strict=True) if not lost),
                beaten_by={study: sum(by) for study, by in beaten.items()},
                best=picks[best.number] if best else None,
                knee=picks[own.knee],
            )
        )
    return shares, len(nondominated([point for own in points.values() for point in own]))


def _lead(performances: Sequence[Performance], val_images: int | None) -> Lead:
    best = {p.study: p.front.best.measured["accuracy"] for p in performances if p.front.best}
    study, over = sorted(best, key=lambda name: -best[name])[:2]
    low, high = None, None
    if val_images is not None:
        low, high = gain(best[study], best[over], val_images)
    return Lead(
        study=study,
        over=over,
        gain=best[study] - best[over],
        low=low,
        high=high,
        is_sure=None if low is None else low > 0,
    )
