"""Where a study's trials stand, read in a few light statements: what a claim asks under the lock.

A study's records hold every running trial with its curve; to make them of rows took 2 of the 4
seconds for which a claim among a thousand workers held the lock.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from optuna.storages._rdb import models
from optuna.trial import TrialState
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from hpsearch.core.trial import State
from hpsearch.search.storage.records import STATES
from hpsearch.search.storage.tables import clock

_trials: Any = models.TrialModel.__table__
_attributes: Any = models.TrialUserAttributeModel.__table__


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningTrial:
    """A running trial: its id in the database, where it runs, and its worker's last sign of life.

    ``beat`` is by the database's clock, in seconds since 1970; None: nothing is known of it.
    """

    trial_id: int
    origin: Mapping[str, Any]
    beat: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StateCounts:
    """How many trials are in each state, who runs, and who waits first (by id).

    ``failed`` are the numbers of all failed trials, ``failed_since`` of those since the last trial
    that counted, in order of ending. ``now`` is the database's time.
    """

    counts: Mapping[State, int]
    running: Sequence[RunningTrial]
    waiting: int | None
    failed: Sequence[int]
    failed_since: Sequence[int]
    now: float

    @property
    def counted(self) -> int:
        """How many trials use up the budget."""
        return sum(number for state, number in self.counts.items() if state.counts)


def count_states(session: Session, study_id: int) -> StateCounts:
    """Returns the study's roll as it is now."""
    in_study = _trials.c.study_id == study_id
    ends = func.max(_trials.c.datetime_complete)
    asked = select(_trials.c.state, func.count(), ends).where(in_study).group_by(_trials.c.state)
    tally = {STATES[state]: (number, end) for state, number, end in session.execute(asked)}
    counts = {state: tally.get(state, (0, None))[0] for state in State}
    last = max((end for state, (_, end) in tally.items() if state.counts and end), default=None)
    failed = _failed(session, in_study) if counts[State.FAILED] else []
    return StateCounts(
        counts=counts,
        running=_running(session, in_study) if counts[State.RUNNING] else (),
        waiting=_first_waiting(session, in_study) if counts[State.WAITING] else None,
        failed=[number for number, _ in failed],
        failed_since=[number for number, end in failed if last is None or (end and end > last)],
        now=clock(session),
    )


def _failed(session: Session, in_study: Any) -> list[tuple[int, datetime | None]]:
    asked = select(_trials.c.number, _trials.c.datetime_complete)
    asked = asked.where(in_study, _trials.c.state == TrialState.FAIL)
    ordered = asked.order_by(_trials.c.datetime_complete, _trials.c.number)
    return [(number, end) for number, end in session.execute(ordered)]


def _running(session: Session, in_study: Any) -> list[RunningTrial]:
    asked = (
        select(_trials.c.trial_id, _attributes.c.key, _attributes.c.value_json)
        .outerjoin(
            _attributes,
            (_attributes.c.trial_id == _trials.c.trial_id)
            & _attributes.c.key.in_(("origin", "beat")),
        )
        .where(in_study, _trials.c.state == TrialState.RUNNING)
    )
    known: dict[int, dict[str, Any]] = {}
    for trial_id, key, value in session.execute(asked):
        known.setdefault(trial_id, {})[key] = json.loads(value or "null")
    return [
        RunningTrial(trial_id=trial_id, origin=told.get("origin") or {}, beat=told.get("beat"))
        for trial_id, told in known.items()
    ]


def _first_waiting(session: Session, in_study: Any) -> int | None:
    """The trial's id; None where it was taken since it was counted, which only the lock forbids."""
    asked = select(_trials.c.trial_id).where(in_study, _trials.c.state == TrialState.WAITING)
    return session.execute(asked.order_by(_trials.c.number).limit(1)).scalar_one_or_none()
