"""The hypervolume of a search after each of its trials, and the gain of the last trials."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from hpsearch.core.analysis.pareto import Point, Staircase, covers, hypervolume, nondominated
from hpsearch.core.objectives import merit
from hpsearch.core.trial import State, TrialRecord

ENOUGH = 20  # trials that have ended, at least, before their last quarter is meaningful
MUCH = 0.01  # of the hypervolume, gained in a quarter of the trials: the search is still improving


@dataclass(frozen=True, slots=True, kw_only=True)
class HypervolumePoint:
    """The state of the search when trial ``number`` had ended.

    Complete and pruned ``trials`` so far, ``seconds`` of pure training steps (failed trials
    included), and the front's ``hypervolume`` in [0, 1].
    """

    number: int
    trials: int
    seconds: float
    hypervolume: float


class Outlook(Enum):
    """Whether more trials are likely to help, by the hypervolume gained in the last quarter."""

    HELP = "help"  # 1 % of the hypervolume or more
    LITTLE = "little"  # less
    NOTHING = "nothing"  # nothing at all


@dataclass(frozen=True, slots=True, kw_only=True)
class RecentGain:
    """The gain of the last quarter of the trials, ``trials`` in number, by order of their ends.

    ``gained`` is the hypervolume that they added, in [0, 1], ``arrived`` how many of them are on
    the front.
    """

    trials: int
    gained: float
    arrived: int
    outlook: Outlook


def hypervolume_history(
    records: Sequence[TrialRecord], *, bounds: Mapping[str, tuple[float, float]], epochs: int
) -> tuple[HypervolumePoint, ...]:
    """Returns one point for every trial that counts, in the order in which they ended.

    ``bounds`` is each objective's range, which the hypervolume is measured in: without bounds there
    are no points. ``epochs`` are those of a full training.
    """
    if not bounds:
        return ()
    ended = [r for r in records if r.ended is not None and r.state is not State.RUNNING]
    # Trials of several workers end in another order than that of their numbers.
    ended.sort(key=lambda r: (r.ended or datetime.max, r.number))
    # Two objectives, the usual case, need no recomputation.
    front: Staircase | _Volume = Staircase() if len(bounds) == 2 else _Volume()
    seconds = 0.0
    history: list[HypervolumePoint] = []
    for record in ended:
        seconds += spent_seconds(record, epochs=epochs)  # failed trials cost time too
        if record.state is State.COMPLETE and set(bounds) <= set(record.values):
            front.add(merit(record.values, bounds))
        if record.state.counts:
            history.append(
                HypervolumePoint(
                    number=record.number,
                    trials=len(history) + 1,
                    seconds=seconds,
                    hypervolume=front.area,
                )
            )
    return tuple(history)


class _Volume:
    """As `Staircase`, in any number of dimensions: recomputed for each point that changes it."""

    def __init__(self) -> None:
        self.area = 0.0
        self._front: list[Point] = []

    def add(self, point: Point) -> None:
        if not any(covers(other, point) for other in self._front):
            points = [*self._front, point]
            self._front = [points[i] for i in nondominated(points)]
            self.area = hypervolume(self._front)


def spent_seconds(record: TrialRecord, *, epochs: int) -> float:
    """Returns the seconds of pure training steps that the trial took, by its own estimate."""
    if not record.curve:
        return 0.0
    return record.curve[-1].train_seconds * len(record.curve) / epochs


def first_reaching(history: Sequence[HypervolumePoint], share: float) -> HypervolumePoint | None:
    """Returns where the search first had that share of its final hypervolume; None if never.

    >>> history = [HypervolumePoint(number=n, trials=n + 1, seconds=1.0 + n, hypervolume=h)
    ...            for n, h in enumerate((0.5, 0.9, 0.9))]
    >>> first_reaching(history, 0.99).trials
    2
    """
    if not history or history[-1].hypervolume <= 0:
        return None
    return next(at for at in history if at.hypervolume >= share * history[-1].hypervolume)


def recent_gain(
    history: Sequence[HypervolumePoint], on_front: Collection[int]
) -> RecentGain | None:
    """Returns the gain of the last quarter of the trials, given the numbers of those on the front.

    None with fewer than 20 of them, and if the hypervolume is 0.
    """
    if len(history) < ENOUGH or (final := history[-1].hypervolume) <= 0:
        return None
    last = history[-(len(history) // 4) :]
    gained = final - history[-len(last) - 1].hypervolume
    outlook = Outlook.HELP if gained >= MUCH * final else Outlook.LITTLE
    return RecentGain(
        trials=len(last),
        gained=gained,
        arrived=sum(point.number in on_front for point in last),
        outlook=outlook if gained > 0 else Outlook.NOTHING,
    )
