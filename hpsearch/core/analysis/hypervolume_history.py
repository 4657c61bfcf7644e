"""How a search came on: what its front was worth after each trial, and after how much training."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from hpsearch.core.analysis.pareto import Staircase, hypervolume, nondominated
from hpsearch.core.objectives import merit
from hpsearch.core.trial import State, TrialRecord

ENOUGH = 20  # trials that have ended, at least, before their last quarter tells anything
MUCH = 0.01  # of the hypervolume, gained in a quarter of the trials: the search is still rising


@dataclass(frozen=True, slots=True, kw_only=True)
class HypervolumePoint:
    """Where the search stood when trial ``number`` had ended.

    ``trials`` that count had ended by then, ``seconds`` of pure training steps had been spent (on
    failed trials too), and the front was worth ``hypervolume``, in [0, 1].
    """

    number: int
    trials: int
    seconds: float
    hypervolume: float


class Outlook(Enum):
    """Whether more trials are likely to help, by what the last quarter of them brought."""

    HELP = "help"  # 1 % of the hypervolume or more
    LITTLE = "little"  # less
    NOTHING = "nothing"  # nothing at all


@dataclass(frozen=True, slots=True, kw_only=True)
class RecentGain:
    """What the last quarter of the trials brought: so many ``trials``, in the order of their ends.

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
    """Returns one entry for every trial that counts, in the order in which they ended.

    Empty where the bounds of the objectives are not known.

    Args:
        records: the study's trials.
        bounds: each objective's range, which the hypervolume is measured in.
        epochs: those of a full training.
    """
    if not bounds:
        return ()
    ended = [r for r in records if r.ended is not None and r.state is not State.RUNNING]
    ended.sort(key=lambda r: (r.ended or datetime.max, r.number))
    with_one_more = _of_two() if len(bounds) == 2 else _of_any()
    trials, seconds, worth, found = 0, 0.0, 0.0, []
    for record in ended:
        seconds += spent_seconds(record, epochs=epochs)
        if record.state is State.COMPLETE and set(bounds) <= set(record.values):
            worth = with_one_more(merit(record.values, bounds))
        if record.state.counts:
            trials += 1
            found.append(
                HypervolumePoint(
                    number=record.number, trials=trials, seconds=seconds, hypervolume=worth
                )
            )
    return tuple(found)


# Takes the merits of one trial after another; returns what the front is worth with each of them.
_WithOneMore = Callable[[tuple[float, ...]], float]


def _of_two() -> _WithOneMore:
    """For two objectives, where what a point adds can be counted by itself."""
    steps = Staircase()

    def with_one_more(point: tuple[float, ...]) -> float:
        steps.add((point[0], point[1]))
        return steps.area

    return with_one_more


def _of_any() -> _WithOneMore:
    """For any number of objectives: anew with each point that changes the front."""
    kept: list[tuple[float, ...]] = []
    worth = 0.0

    def with_one_more(point: tuple[float, ...]) -> float:
        nonlocal kept, worth
        if not any(all(x >= y for x, y in zip(rival, point, strict=True)) for rival in kept):
            points = [*kept, point]
            kept = [points[i] for i in nondominated(points)]
            worth = hypervolume(kept)
        return worth

    return with_one_more


def spent_seconds(record: TrialRecord, *, epochs: int) -> float:
    """Returns the seconds of pure training steps that the trial took, by its own estimate."""
    if not record.curve:
        return 0.0
    return record.curve[-1].train_seconds * len(record.curve) / epochs


def first_reaching(found: Sequence[HypervolumePoint], share: float) -> HypervolumePoint | None:
    """Returns where the search first had that share of its last hypervolume; None if never.

    >>> found = [HypervolumePoint(number=n, trials=n + 1, seconds=1.0 + n, hypervolume=h)
    ...          for n, h in enumerate((0.5, 0.9, 0.9))]
    >>> first_reaching(found, 0.99).trials
    2
    """
    if not found or found[-1].hypervolume <= 0:
        return None
    return next(a for a in found if a.hypervolume >= share * found[-1].hypervolume)


def recent_gain(found: Sequence[HypervolumePoint], on_front: Collection[int]) -> RecentGain | None:
    """Returns what the last quarter of the trials brought.

    None with fewer than 20 of them, and where no trial is worth anything.

    Args:
        found: how the search came on.
        on_front: the numbers of the front's trials.
    """
    if len(found) < ENOUGH or found[-1].hypervolume <= 0:
        return None
    last = found[-(len(found) // 4) :]
    worth = found[-1].hypervolume
    gained = worth - found[-len(last) - 1].hypervolume
    outlook = Outlook.HELP if gained >= MUCH * worth else Outlook.LITTLE
    return RecentGain(
        trials=len(last),
        gained=gained,
        arrived=sum(now.number in on_front for now in last),
        outlook=outlook if gained > 0 else Outlook.NOTHING,
    )
