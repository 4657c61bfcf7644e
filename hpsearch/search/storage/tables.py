"""All SQL on Optuna's own tables: a running trial's rows, in few statements, and state counts.

Optuna's storage reads a trial before it writes each value, and commits after each: more than half
of a trial's overhead. Optuna reads these rows as its own; the tests in
tests/integration/search/storage/test_tables.py compare the two.
"""

from __future__ import annotations

import functools
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.storages._rdb import models
from optuna.trial import TrialState
from sqlalchemy import bindparam, cast, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from hpsearch.core.trial import State
from hpsearch.search.storage.records import STATES

Write = tuple[str, float, BaseDistribution]  # a parameter: name, Optuna's internal value, range

_INSERTS: Mapping[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
_NOW: Mapping[str, Any] = {
    "sqlite": sqlalchemy.text("CAST(CAST(strftime('%s', 'now') AS FLOAT) AS TEXT)"),
    "postgresql": cast(func.extract("epoch", func.clock_timestamp()), sqlalchemy.Text),
}
OPTUNA_TABLES = frozenset(models.BaseModel.metadata.tables)
NOT_FOUND = models.NOT_FOUND_MSG  # of the KeyError that Optuna raises for a deleted study or trial

_studies: Any = models.StudyModel.__table__
_study_attributes: Any = models.StudyUserAttributeModel.__table__
_trials: Any = models.TrialModel.__table__
_attributes: Any = models.TrialUserAttributeModel.__table__
_params: Any = models.TrialParamModel.__table__
_values: Any = models.TrialValueModel.__table__
_steps: Any = models.TrialIntermediateValueModel.__table__


def try_writes(session: Session) -> None:
    """Writes a study, a trial and an attribute of each, for a caller that rolls them back."""
    name = f"hpsearch-write-check-{uuid.uuid4().hex}"
    made: Any = session.execute(_studies.insert().values(study_name=name))
    (study_id,) = made.inserted_primary_key
    attribute = {"study_id": study_id, "key": "check", "value_json": "1"}
    session.execute(_study_attributes.insert().values(attribute))
    row = {"study_id": study_id, "number": 0, "state": TrialState.WAITING}
    made = session.execute(_trials.insert().values(row))
    (trial_id,) = made.inserted_primary_key
    put(session, trial_id, {"check": 1})


def number_of(session: Session, trial_id: int) -> int:
    """Returns the number of a trial within its study."""
    query = select(_trials.c.number).where(_trials.c.trial_id == trial_id)
    return int(session.execute(query).scalar_one())


def lock_trial(session: Session, trial_id: int) -> None:
    """Locks a trial's row on PostgreSQL until the end of the transaction."""
    query = select(_trials.c.trial_id).where(_trials.c.trial_id == trial_id)
    session.execute(query.with_for_update())


def is_owned(session: Session, trial_id: int, *, token: str | None) -> bool:
    """Whether a trial is running under the lease with that token; None: under no lease."""
    is_origin = (_attributes.c.trial_id == _trials.c.trial_id) & (_attributes.c.key == "origin")
    query = (
        select(_trials.c.state, _attributes.c.value_json)
        .outerjoin(_attributes, is_origin)
        .where(_trials.c.trial_id == trial_id)
    )
    row = session.execute(query).one_or_none()
    if row is None or row.state is not TrialState.RUNNING:
        return False
    return bool(json.loads(row.value_json or "{}").get("claim") == token)


def clock(session: Session) -> float:
    """Returns the database's time, in seconds since 1970."""
    return float(session.execute(select(_NOW[_dialect(session)])).scalar_one())


def put(session: Session, trial_id: int, attributes: Mapping[str, Any]) -> None:
    """Writes user attributes of a trial; replaces those of the same keys."""
    if attributes:
        session.execute(_upsert(_dialect(session)), _as_rows(trial_id, attributes))


def put_as_owner(
    session: Session, trial_id: int, attributes: Mapping[str, Any], *, token: str
) -> bool:
    """Writes user attributes of a running trial if its lease has that token; returns whether.

    The check and the write are one statement, so that no other worker takes the trial in between.
    """
    rows = [{**row, "token": token} for row in _as_rows(trial_id, attributes)]
    written: Any = session.execute(_guarded(_dialect(session)), rows)
    return int(written.rowcount) == len(rows)


def beat(session: Session, trial_id: int, *, token: str) -> bool:
    """Writes the database's time as the trial's heartbeat if its lease has that token."""
    row = {"trial_id": trial_id, "key": "beat", "token": token}
    written: Any = session.execute(_guarded(_dialect(session), now=True), row)
    return int(written.rowcount) == 1


def put_params(session: Session, trial_id: int, drawn: Sequence[Write]) -> None:
    """Writes the drawn parameters of a trial."""
    rows = [
        {
            "trial_id": trial_id,
            "param_name": name,
            "param_value": value,
            "distribution_json": distribution_to_json(distribution),
        }
        for name, value, distribution in drawn
    ]
    if rows:
        session.execute(_params.insert(), rows)


def put_step(session: Session, trial_id: int, step: int, value: float) -> None:
    """Writes a finite intermediate value; an existing one is kept."""
    row = {"trial_id": trial_id, "step": step, "intermediate_value": value}
    kind = models.TrialIntermediateValueModel.TrialIntermediateValueType.FINITE
    made = _INSERTS[_dialect(session)](_steps).values(**row, intermediate_value_type=kind)
    session.execute(made.on_conflict_do_nothing(index_elements=["trial_id", "step"]))


def end(session: Session, trial_id: int, state: TrialState, values: Sequence[float]) -> None:
    """Ends a trial, with the values of its objectives, each finite; empty without any."""
    kind = models.TrialValueModel.TrialValueType.FINITE
    rows = [
        {"trial_id": trial_id, "objective": index, "value": value, "value_type": kind}
        for index, value in enumerate(values)
    ]
    if rows:
        session.execute(_values.insert(), rows)
    ended = _trials.update().where(_trials.c.trial_id == trial_id)
    session.execute(ended.values(state=state, datetime_complete=_time(session)))


def start_now(session: Session, trial_id: int) -> None:
    """Writes that a trial starts now; replaces the time that Optuna took from this host's clock."""
    started = _trials.update().where(_trials.c.trial_id == trial_id)
    session.execute(started.values(datetime_start=_time(session)))


def _time(session: Session) -> Any:
    """The time by the one clock that all workers share, as Optuna stores it: UTC, without a zone.

    A server has a clock. An SQLite file is shared by processes of one host, whose clock is finer.
    """
    if _dialect(session) == "postgresql":
        return func.timezone("UTC", func.clock_timestamp())
    return datetime.now(UTC).replace(tzinfo=None)


def _dialect(session: Session) -> str:
    return session.get_bind().dialect.name


def _as_rows(trial_id: int, attributes: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {"trial_id": trial_id, "key": key, "value_json": json.dumps(value)}
        for key, value in attributes.items()
    ]


@functools.cache
def _upsert(dialect: str) -> Any:
    columns = ("trial_id", "key", "value_json")
    return _over(_INSERTS[dialect](_attributes).values({c: bindparam(c) for c in columns}))


@functools.cache
def _guarded(dialect: str, *, now: bool = False) -> Any:
    """An upsert of one attribute of a running trial whose origin holds the token.

    PostgreSQL locks both rows first, and reads them again if another transaction held them.
    """
    origin = _attributes.alias("origin")
    value: Any = _NOW[dialect] if now else bindparam("value_json", type_=sqlalchemy.Text)
    owner = (
        select(_trials.c.trial_id, bindparam("key", type_=sqlalchemy.String), value)
        .join(origin, origin.c.trial_id == _trials.c.trial_id)
        .where(_trials.c.trial_id == bindparam("trial_id"))
        .where(_trials.c.state == TrialState.RUNNING)
        .where(origin.c.key == "origin")
        .where(origin.c.value_json.contains(bindparam("token", type_=sqlalchemy.String)))
        .with_for_update(of=(_trials, origin))
    )
    made = _INSERTS[dialect](_attributes).from_select(["trial_id", "key", "value_json"], owner)
    return _over(made).execution_options(preserve_rowcount=True)


def _over(insert: Any) -> Any:
    return insert.on_conflict_do_update(
        index_elements=["trial_id", "key"], set_={"value_json": insert.excluded.value_json}
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningTrial:
    """A running trial: its id in the database, where it runs, and its last heartbeat.

    ``beat`` is by the database's clock, in seconds since 1970; None: it has none.
    """

    trial_id: int
    origin: Mapping[str, Any]
    beat: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StateCounts:
    """The trials in each state, the running ones, and the first waiting one (its id).

    ``failed`` are the numbers of all failed trials, ``failed_since`` of those since the last trial
    that counts toward the budget, in order of ending. ``now`` is the database's time.
    """

    counts: Mapping[State, int]
    running: Sequence[RunningTrial]
    waiting: int | None
    failed: Sequence[int]
    failed_since: Sequence[int]
    now: float

    @property
    def counted(self) -> int:
        """How many trials count toward the budget."""
        return sum(number for state, number in self.counts.items() if state.counts)


# A study's records hold every running trial with its curve. Building them took half of the 4 s for
# which one of a thousand workers held the lock; counting takes a few light statements.


def count_states(session: Session, study_id: int) -> StateCounts:
    """Counts the study's trials by state."""
    in_study = _trials.c.study_id == study_id
    ends = func.max(_trials.c.datetime_complete)
    query = select(_trials.c.state, func.count(), ends).where(in_study).group_by(_trials.c.state)
    tally = {STATES[state]: (number, end) for state, number, end in session.execute(query)}
    counts = {state: tally.get(state, (0, None))[0] for state in State}
    # A trial that counts ends a row of failures.
    last = max((end for state, (_, end) in tally.items() if state.counts and end), default=None)
    # Trials of a state are only read if there are any: most studies have none that failed or wait.
    failed, waiting = [], None
    if counts[State.FAILED]:
        query = select(_trials.c.number, _trials.c.datetime_complete)
        query = query.where(in_study, _trials.c.state == TrialState.FAIL)
        query = query.order_by(_trials.c.datetime_complete, _trials.c.number)
        failed = [(number, end) for number, end in session.execute(query)]
    if counts[State.WAITING]:  # none if another worker started it since, which the lock prevents
        query = select(_trials.c.trial_id).where(in_study, _trials.c.state == TrialState.WAITING)
        query = query.order_by(_trials.c.number).limit(1)
        waiting = session.execute(query).scalar_one_or_none()
    return StateCounts(
        counts=counts,
        running=_running(session, in_study) if counts[State.RUNNING] else (),
        waiting=waiting,
        failed=[number for number, _ in failed],
        failed_since=[number for number, end in failed if last is None or (end and end > last)],
        now=clock(session),
    )


def _running(session: Session, in_study: Any) -> list[RunningTrial]:
    query = (
        select(_trials.c.trial_id, _attributes.c.key, _attributes.c.value_json)
        .outerjoin(
            _attributes,
            (_attributes.c.trial_id == _trials.c.trial_id)
            & _attributes.c.key.in_(("origin", "beat")),
        )
        .where(in_study, _trials.c.state == TrialState.RUNNING)
    )
    trials: dict[int, dict[str, Any]] = {}
    for trial_id, key, value in session.execute(query):
        trials.setdefault(trial_id, {})[key] = json.loads(value or "null")
    return [
        RunningTrial(trial_id=trial_id, origin=stored.get("origin") or {}, beat=stored.get("beat"))
        for trial_id, stored in trials.items()
    ]
