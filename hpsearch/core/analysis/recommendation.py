"""The answer of a search as numbers: the knee, and what going on from it would cost and bring."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hpsearch.core.analysis.metrics import gain, wilson
from hpsearch.core.analysis.pareto import front
from hpsearch.core.objectives import OBJECTIVES, utility
from hpsearch.core.trial import State, TrialRecord, reached
from hpsearch.errors import SpecError, StudyError, nearest

MUCH_CHEAPER = 0.5  # of the knee's cost, at most: as good a trial there may be the better bargain


@dataclass(frozen=True, slots=True, kw_only=True)
class Pick:
    """A trial worth naming.

    ``measured`` holds all that was measured of it. ``low`` and ``high`` are the 95 % interval of
    its accuracy; None where the number of validation images is not known.
    """

    number: int
    params: Mapping[str, Any] = field(default_factory=dict)
    measured: Mapping[str, float] = field(default_factory=dict)
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What another trial of the front costs and brings, seen from the knee.

    ``ratio`` is its cost ÷ the knee's (None where the knee costs nothing), ``gain`` how much
    better its quality is (negative: worse), in the quality's unit. ``low`` and ``high`` are the
    gain's 95 % interval and ``is_sure`` whether that leaves no doubt of the gain's sign; None
    where the noise of the quality is not known.
    """

    to: Pick
    ratio: float | None
    gain: float
    low: float | None = None
    high: float | None = None
    is_sure: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """What a person came for.

    ``quality`` is the first objective that is no cost, ``cost`` the first that is one; None where
    there is no such objective. ``following`` is the next dearer trial of the front, ``sure`` the
    first dearer one whose gain is beyond the noise, ``best`` the one of the best quality,
    ``cheaper`` the next cheaper one, ``rival`` the cheapest of those that cost half of the knee or
    less and may, by the noise, be as good; each None where there is none. ``top`` is the trial of
    the best accuracy and ``chance`` what guessing gives; None where that is not known.
    """

    objectives: tuple[str, ...]
    quality: str | None
    cost: str | None
    val_images: int | None
    front_size: int
    knee: Pick | None
    following: Step | None = None
    sure: Step | None = None
    best: Step | None = None
    cheaper: Step | None = None
    rival: Step | None = None
    top: Pick | None = None
    chance: float | None = None

    @property
    def is_guessing(self) -> bool:
        """Whether no trial of the front is better than guessing for certain."""
        low = self.top.low if self.top is not None else None
        return self.chance is not None and low is not None and low <= self.chance

    @property
    def is_end(self) -> bool:
        """Whether the knee is an end of the front, the best in quality (else in the first cost)."""
        priced = self.cost is not None and self.quality is not None
        return self.front_size <= 2 or (priced and self.best is None)

    @property
    def is_bargain(self) -> bool:
        """Whether the knee may be called the best bargain: it is no end, and has no rival."""
        return self.knee is not None and not self.is_end and self.rival is None


def recommend(
    records: Sequence[TrialRecord],
    *,
    objectives: Sequence[str],
    val_images: int | None,
    chance: float | None = None,
) -> Recommendation:
    """Returns the knee and its neighbours on the front.

    Args:
        records: the study's trials.
        objectives: their names, in the study's order.
        val_images: how many images an accuracy was counted on; None if that is not known.
        chance: the accuracy that guessing gives, 0-1; None if that is not known.
    """
    chosen, knee = front(records, objectives)
    quality = next((name for name in objectives if not OBJECTIVES[name].is_cost), None)
    cost = next((name for name in objectives if OBJECTIVES[name].is_cost), None)
    at = next((record for record in chosen if record.number == knee), None)
    steps: dict[str, Step | None] = {}
    if at is not None and quality is not None and cost is not None:
        steps = _steps(at, chosen, quality=quality, cost=cost, n=val_images)
    return Recommendation(
        objectives=tuple(objectives),
        quality=quality,
        cost=cost,
        val_images=val_images,
        front_size=len(chosen),
        knee=pick(at, val_images=val_images) if at is not None else None,
        top=max(
            (pick(record, val_images=val_images) for record in chosen),
            key=lambda one: one.measured.get("accuracy", 0.0),
            default=None,
        ),
        chance=chance,
        **steps,
    )


def pick(record: TrialRecord, *, val_images: int | None) -> Pick:
    """Returns a trial with the uncertainty of its accuracy."""
    measured = reached(record)
    accuracy, low, high = measured.get("accuracy"), None, None
    if accuracy is not None and val_images and math.isfinite(accuracy):
        low, high = wilson(accuracy, val_images)
    return Pick(number=record.number, params=record.params, measured=measured, low=low, high=high)


def _steps(
    knee: TrialRecord, chosen: Sequence[TrialRecord], *, quality: str, cost: str, n: int | None
) -> dict[str, Step | None]:
    """The knee's neighbours: with three objectives, those that cost more of the first cost too."""
    steps = [_step(knee, r, quality=quality, cost=cost, n=n) for r in chosen if r is not knee]
    here = knee.values[cost]
    price = {r.number: r.values[cost] for r in chosen}
    better = sorted((s for s in steps if s.gain > 0), key=lambda step: price[step.to.number])
    dearer = [step for step in better if price[step.to.number] > here]
    cheaper = [s for s in steps if s.gain < 0 and price[s.to.number] < here]
    rivals = [s for s in cheaper if s.is_sure is False and (s.ratio or 1.0) <= MUCH_CHEAPER]
    return {
        "following": dearer[0] if dearer else None,
        "sure": next((step for step in dearer if step.is_sure), None),
        "best": max(better, key=lambda step: step.gain) if better else None,
        "cheaper": max(cheaper, key=lambda step: price[step.to.number]) if cheaper else None,
        "rival": min(rivals, key=lambda step: price[step.to.number]) if rivals else None,
    }


def _step(knee: TrialRecord, other: TrialRecord, *, quality: str, cost: str, n: int | None) -> Step:
    sign = 1 if OBJECTIVES[quality].maximize else -1
    before, after = knee.values[quality], other.values[quality]
    low, high, is_sure = None, None, None
    if quality == "accuracy" and n:
        low, high = gain(after, before, n)
        is_sure = low > 0 or high < 0
    return Step(
        to=pick(other, val_images=n),
        ratio=other.values[cost] / knee.values[cost] if knee.values[cost] > 0 else None,
        gain=sign * (after - before),
        low=low,
        high=high,
        is_sure=is_sure,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialSelection:
    """A way of choosing, one at most: by number, the knee, the best, or the best within a cost.

    ``best`` names what a trial is to be best in: an objective or a measured cost.
    ``within_seconds`` and ``within_params`` are the most that training may take, in seconds, and
    the most parameters: of the trials within it the most accurate is chosen.

    Raises:
        SpecError: several ways are named, one that does not exist, or a limit that is none.
    """

    trial: int | None = None
    knee: bool = False
    best: str | None = None
    within_seconds: float | None = None
    within_params: float | None = None

    def __post_init__(self) -> None:
        if len(self.ways) > 1:
            raise SpecError(
                f"found {' and '.join(self.ways)}, expected one way of choosing a trial; keep one"
            )
        if self.best is not None and self.best not in OBJECTIVES:
            raise SpecError(f"--best: found {self.best!r}; {nearest(self.best, OBJECTIVES)}")
        for cost, limit in _limits(self).items():
            if not 0 <= limit < math.inf:
                raise SpecError(
                    f"{_OPTIONS[cost]}: found {limit}, expected a number of 0 or more that is"
                    " finite; name one, or choose by --best accuracy for no limit"
                )

    @property
    def ways(self) -> tuple[str, ...]:
        """The ways that are named, as they are typed.

        >>> TrialSelection(knee=True).ways, TrialSelection(trial=0).ways, TrialSelection().ways
        (('--knee',), ('--trial',), ())
        """
        named = {
            "--trial": self.trial is not None,
            "--knee": self.knee,
            "--best": self.best is not None,
            "--within-seconds": self.within_seconds is not None,
            "--within-params": self.within_params is not None,
        }
        return tuple(way for way, is_named in named.items() if is_named)


def select_trial(
    records: Sequence[TrialRecord], objectives: Sequence[str], choice: TrialSelection
) -> TrialRecord:
    """Returns the complete trial that is chosen; of equals the one trained fastest, then earliest.

    Args:
        records: the study's trials, by number.
        objectives: what the study optimises.
        choice: names one way.

    Raises:
        StudyError: there is no such trial, or it was not trained to its end.
    """
    if choice.trial is not None:
        return _numbered(records, choice.trial)
    complete = [record for record in records if record.state is State.COMPLETE]
    if not complete:
        raise StudyError(
            f"found {len(records)} trials and none complete, expected one to choose; search on"
            " with `hpsearch run`"
        )
    if choice.knee:
        _, knee = front(complete, objectives)
        return next(record for record in complete if knee in (record.number, None))
    if choice.best is not None:
        return _best(complete, choice.best)
    for cost, limit in _limits(choice).items():
        within = [record for record in complete if measures(record).get(cost, math.inf) <= limit]
        if not within:
            raise _none_within(complete, cost, limit)
        return _best(within, "accuracy")
    raise nothing_chosen()


def nothing_chosen() -> SpecError:
    """Returns what is told to a person who has not said what to take."""
    return SpecError(
        "found no choice, expected one of --trial N, --knee, --best OBJECTIVE, --within-seconds S,"
        " --within-params P or --set NAME=VALUE; name one"
    )


def measures(record: TrialRecord) -> Mapping[str, float]:
    """Returns all that was measured of a complete trial, by the names of the objectives.

    What the study did not optimise is that of the last epoch, or the trial's cost.
    """
    last = record.curve[-1:]
    seen = {"accuracy": last[0].val_accuracy, "val_loss": last[0].val_loss} if last else {}
    return {**seen, **record.cost, **record.values}


def _numbered(records: Sequence[TrialRecord], number: int) -> TrialRecord:
    if not 0 <= number < len(records):
        has = f"trials 0 to {len(records) - 1}" if records else "no trials yet"
        raise StudyError(f"found no trial {number}, the study has {has}; see `hpsearch front`")
    record = records[number]
    if record.state is not State.COMPLETE:
        why = f" ({record.reason})" if record.reason else ""
        raise StudyError(
            f"trial {number} is {record.state.value}{why}, expected a complete one, whose accuracy"
            " is known; choose it from `hpsearch front`"
        )
    return record


def _best(records: Sequence[TrialRecord], name: str) -> TrialRecord:
    def rank(record: TrialRecord) -> tuple[float, float, int]:
        known = measures(record)
        return -utility(name, known[name]), known.get("train_seconds", 0.0), record.number

    measured = [record for record in records if name in measures(record)]
    if not measured:
        raise StudyError(f"found no complete trial whose {name} is known; choose by another")
    return min(measured, key=rank)


def _limits(choice: TrialSelection) -> dict[str, float]:
    limits = {"train_seconds": choice.within_seconds, "params": choice.within_params}
    return {cost: limit for cost, limit in limits.items() if limit is not None}


_OPTIONS = {"train_seconds": "--within-seconds", "params": "--within-params"}


def _none_within(records: Sequence[TrialRecord], cost: str, limit: float) -> StudyError:
    least = _best(records, cost)
    return StudyError(
        f"{_OPTIONS[cost]}: found no complete trial with {cost} of {limit:g} or less; the least is"
        f" {measures(least)[cost]:g}, of trial {least.number}; allow more"
    )
