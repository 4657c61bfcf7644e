"""Selecting one complete trial of a study: by number, the knee, the best, or within a budget."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hpsearch.core.analysis.pareto import front
from hpsearch.core.objectives import OBJECTIVES, utility
from hpsearch.core.trial import State, TrialRecord, reached
from hpsearch.errors import SpecError, StudyError, nearest

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
    for cost, limit in choice.limits.items():
        within = [record for record in complete if reached(record).get(cost, math.inf) <= limit]
        if within:
            return _best(within, "accuracy")
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
    if record.state is not State.COMPLETE:
        why = f" ({record.reason})" if record.reason else ""
        raise StudyError(
            f"trial {number} is {record.state.value}{why}, expected a complete one, whose accuracy"
            " is known; choose one from `hpsearch front`"
        )
    return record


def _best(records: Sequence[TrialRecord], name: str) -> TrialRecord:
    def rank(record: TrialRecord) -> tuple[float, float, int]:
        known = reached(record)
        return -utility(name, known[name]), known.get("train_seconds", 0.0), record.number

    measured = [record for record in records if name in reached(record)]
    if not measured:
        raise StudyError(f"found no complete trial whose {name} is known; select by another")
    return min(measured, key=rank)
