"""Which of a study's trials is taken home."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hpsearch.core.analysis.pareto import front
from hpsearch.core.objectives import OBJECTIVES, utility
from hpsearch.core.trial import State, TrialRecord
from hpsearch.errors import SpecError, StudyError, nearest


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
