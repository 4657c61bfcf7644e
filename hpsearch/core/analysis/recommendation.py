"""The answer of a search as numbers: the knee, and what going on from it would cost and bring."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hpsearch.core.analysis.pareto import front
from hpsearch.core.analysis.statistics import gain, wilson
from hpsearch.core.objectives import OBJECTIVES
from hpsearch.core.trial import TrialRecord, reached

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
