"""The recommended trial, the steps along the front from it, and the choice of one to train."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hpsearch.core.analysis.pareto import ParetoFront, front
from hpsearch.core.analysis.statistics import gain, wilson
from hpsearch.core.objectives import OBJECTIVES, costs, first_quality, utility
from hpsearch.core.trial import State, TrialRecord, reached
from hpsearch.errors import SpecError, StudyError, nearest

MUCH_CHEAPER = 0.5  # of the knee's cost, at most: as good a trial there may be the better choice


@dataclass(frozen=True, slots=True, kw_only=True)
class Pick:
    """A trial with its measurements.

    ``low`` and ``high`` are the 95 % interval of its accuracy; None if the number of validation
    images is not known.
    """

    number: int
    params: Mapping[str, Any] = field(default_factory=dict)
    measured: Mapping[str, float] = field(default_factory=dict)
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The cost and gain of another trial of the front, relative to the knee.

    ``ratio`` is its cost ÷ the knee's (None if the knee costs nothing), ``gain`` how much better
    its quality is (negative: worse), in the quality's unit. ``low`` and ``high`` are the gain's
    95 % interval, ``is_sure`` whether that excludes 0; None if the noise of the quality is not
    known.
    """

    to: Pick
    ratio: float | None
    gain: float
    low: float | None = None
    high: float | None = None
    is_sure: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """The knee of the front and its alternatives.

    ``quality`` is the first objective that is not a cost, ``cost`` the first that is one. Of the
    more expensive trials of the front, ``following`` is the next one, ``sure`` the first whose gain
    is significant and ``best`` the one of the best quality. ``cheaper`` is the next cheaper trial,
    ``rival`` the cheapest of those that cost at most half of the knee and whose loss of quality is
    not significant. ``top`` is the trial of the best accuracy, ``chance`` the accuracy of guessing.
    Each of them is None if it does not exist or is not known.
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
        """Whether no trial of the front is significantly better than guessing."""
        low = self.top.low if self.top is not None else None
        return self.chance is not None and low is not None and low <= self.chance

    @property
    def is_end(self) -> bool:
        """Whether the knee is an end of the front, the best in quality (else in the first cost)."""
        priced = self.cost is not None and self.quality is not None
        return self.front_size <= 2 or (priced and self.best is None)

    @property
    def is_bargain(self) -> bool:
        """Whether the knee may be called the best trade-off: it is no end and has no rival."""
        return self.knee is not None and not self.is_end and self.rival is None


def recommend(
    front: ParetoFront,
    *,
    objectives: Sequence[str],
    val_images: int | None,
    chance: float | None = None,
) -> Recommendation:
    """Returns the knee and its neighbours on the front.

    ``val_images`` is how many images an accuracy was counted on, ``chance`` the accuracy of
    guessing, 0-1; None if that is not known.
    """
    # Alternatives need a cost to pay and a quality to gain.
    quality, cost = first_quality(objectives), next(iter(costs(objectives)), None)
    knee = front.knee_trial
    steps: dict[str, Step | None] = {}
    if knee is not None and quality is not None and cost is not None:
        steps = _alternatives(knee, front.trials, quality=quality, cost=cost, n=val_images)
    picks = [pick(record, val_images=val_images) for record in front.trials]
    return Recommendation(
        objectives=tuple(objectives),
        quality=quality,
        cost=cost,
        val_images=val_images,
        front_size=len(picks),
        knee=next((p for p in picks if p.number == front.knee), None),
        top=max(picks, key=lambda p: p.measured.get("accuracy", 0.0), default=None),
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


def _alternatives(
    knee: TrialRecord, front: Sequence[TrialRecord], *, quality: str, cost: str, n: int | None
) -> dict[str, Step | None]:
    """The knee's neighbours by the first cost, which with three objectives is one of two."""

    def price(step: Step) -> float:
        return step.to.measured[cost]

    # On a front of two objectives a higher price means a better quality; with three it need not.
    others = [record for record in front if record is not knee]
    by_price = sorted((_step(knee, r, quality=quality, cost=cost, n=n) for r in others), key=price)
    here = knee.values[cost]
    better = [step for step in by_price if step.gain > 0]
    costlier = [step for step in better if price(step) > here]
    cheaper = [step for step in by_price if step.gain < 0 and price(step) < here]
    # A loss of quality that may be chance: half of the cost or less makes up for it.
    rivals = [s for s in cheaper if s.is_sure is False and (s.ratio or 1.0) <= MUCH_CHEAPER]
    return {
        "following": next(iter(costlier), None),
        "sure": next((step for step in costlier if step.is_sure), None),
        "best": max(better, key=lambda step: step.gain, default=None),
        "cheaper": max(cheaper, key=price, default=None),
        "rival": next(iter(rivals), None),
    }


def _step(knee: TrialRecord, other: TrialRecord, *, quality: str, cost: str, n: int | None) -> Step:
    # A gain is positive if the quality gets better, whichever direction the objective has.
    sign = 1 if OBJECTIVES[quality].maximize else -1
    before, after = knee.values[quality], other.values[quality]
    low, high, is_sure = None, None, None
    # Only of a share counted on n images is the noise known.
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


_LIMIT_OPTIONS = {"train_seconds": "--within-seconds", "params": "--within-params"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialSelection:
    """A way to select a trial, one at most: by number, the knee, the best, or within a limit.

    ``best`` names an objective or a measured cost. ``within_seconds`` limits the training time in
    seconds, ``within_params`` the number of parameters: the most accurate trial within the limit
    is selected.

    Raises:
        SpecError: several ways are given, ``best`` is unknown, or a limit is negative or infinite.
    """

    trial: int | None = None
    knee: bool = False
    best: str | None = None
    within_seconds: float | None = None
    within_params: float | None = None

    def __post_init__(self) -> None:
        if len(self.ways) > 1:
            raise SpecError(
                f"{' and '.join(self.ways)} cannot be combined, expected one of them; keep one"
            )
        if self.best is not None and self.best not in OBJECTIVES:
            raise SpecError(f"--best: found {self.best!r}; {nearest(self.best, OBJECTIVES)}")
        for cost, limit in self.limits.items():
            if not 0 <= limit < math.inf:
                raise SpecError(
                    f"{_LIMIT_OPTIONS[cost]}: found {limit}, expected a finite number of 0 or more;"
                    " pass one, or use --best accuracy for no limit"
                )

    @property
    def ways(self) -> tuple[str, ...]:
        """The options that are given, as they are typed.

        >>> TrialSelection(knee=True).ways, TrialSelection(trial=0).ways, TrialSelection().ways
        (('--knee',), ('--trial',), ())
        """
        given = {
            "--trial": self.trial is not None,
            "--knee": self.knee,
            "--best": self.best is not None,
            "--within-seconds": self.within_seconds is not None,
            "--within-params": self.within_params is not None,
        }
        return tuple(way for way, is_given in given.items() if is_given)

    @property
    def limits(self) -> dict[str, float]:
        """The limits that are given, by the name of the cost."""
        limits = {"train_seconds": self.within_seconds, "params": self.within_params}
        return {cost: limit for cost, limit in limits.items() if limit is not None}


def select_trial(
    records: Sequence[TrialRecord], objectives: Sequence[str], choice: TrialSelection
) -> TrialRecord:
    """Returns the selected complete trial; of equals the one trained fastest, then the earliest.

    Raises:
        SpecError: ``choice`` holds no way.
        StudyError: there is no such trial, or it is not complete.
    """
    if choice.trial is not None:
        return _by_number(records, choice.trial)
    complete = [record for record in records if record.state is State.COMPLETE]
    if not complete:
        raise StudyError(
            f"found {len(records)} trials and none complete, expected one to select; continue the"
            " search with `hpsearch run`"
        )
    if choice.knee:
        return front(complete, objectives).knee_trial or complete[0]
    if choice.best is not None:
        return _best(complete, choice.best)
    # At most one limit is given: TrialSelection refuses combinations.
    for cost, limit in choice.limits.items():
        within = [record for record in complete if reached(record).get(cost, math.inf) <= limit]
        if within:
            return _best(within, "accuracy")
        # The error names the cheapest trial, so that the user knows how far to raise the limit.
        least = _best(complete, cost)
        raise StudyError(
            f"{_LIMIT_OPTIONS[cost]}: found no complete trial with {cost} of {limit:g} or less; the"
            f" least is {reached(least)[cost]:g}, of trial {least.number}; raise the limit"
        )
    raise nothing_chosen()


def nothing_chosen() -> SpecError:
    """Returns the error for a command that needs a trial and was given none."""
    return SpecError(
        "no trial selected, expected one of --trial N, --knee, --best OBJECTIVE,"
        " --within-seconds S, --within-params P or --set NAME=VALUE; pass one"
    )


def _by_number(records: Sequence[TrialRecord], number: int) -> TrialRecord:
    if not 0 <= number < len(records):
        has = f"trials 0 to {len(records) - 1}" if records else "no trials yet"
        raise StudyError(f"found no trial {number}, the study has {has}; see `hpsearch front`")
    record = records[number]
    refuse_imported(record)
    if record.state is not State.COMPLETE:
        why = f" ({record.reason})" if record.reason else ""
        raise StudyError(
            f"trial {number} is {record.state.value}{why}, expected a complete one, whose accuracy"
            " is known; choose one from `hpsearch front`"
        )
    return record


def refuse_imported(record: TrialRecord) -> None:
    """Raises a StudyError if hpsearch did not train the trial."""
    if record.state is State.IMPORTED:
        raise StudyError(
            f"trial {record.number} was imported, expected a trial that hpsearch trained; queue its"
            " values with `hpsearch enqueue` to have it trained, or choose one from `hpsearch"
            " front`"
        )


def _best(records: Sequence[TrialRecord], name: str) -> TrialRecord:
    def rank(record: TrialRecord) -> tuple[float, float, int]:
        known = reached(record)
        return -utility(name, known[name]), known.get("train_seconds", 0.0), record.number

    measured = [record for record in records if name in reached(record)]
    if not measured:
        raise StudyError(f"found no complete trial whose {name} is known; select by another")
    return min(measured, key=rank)
