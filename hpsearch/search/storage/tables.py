"""All SQL on Optuna's own tables: a running trial's rows, in few statements, and state counts.

Optuna's storage reads a trial before it writes each value, and commits after each: more than half
of a trial's overhead. Optuna reads these rows as its own; the tests in
tests/integration/search/storage/test_tables.py compare the two.
"""

from __future__ import annotations

import functools
import importlib
import json
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import sqlalchemy
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.storages._rdb import models
from optuna.trial import TrialState
from sqlalchemy import bindparam, cast, func, select
from sqlalchemy.orm import Session

from hpsearch.core.trial import State
from hpsearch.search.storage.records import STATES, RunningTrial, StateCounts, is_order, origin_of

Write = tuple[str, float, BaseDistribution]  # a parameter: name, Optuna's internal value, range

_NOW: Mapping[str, Any] = {
    "sqlite": sqlalchemy.text("CAST(CAST(strftime('%s', 'now') AS FLOAT) AS TEXT)"),
    "postgresql": cast(func.extract("epoch", func.clock_timestamp()), sqlalchemy.Text),
}
OPTUNA_TABLES = frozenset(models.BaseModel.metadata.tables)
# Optuna stores an infinite value as a kind without a number.
as_float = models.TrialValueModel.stored_repr_to_value
NOT_FOUND = models.NOT_FOUND_MSG  # of the KeyError that Optuna raises for a deleted study or trial

STUDIES: Any = models.StudyModel.__table__
DIRECTIONS: Any = models.StudyDirectionModel.__table__
STUDY_ATTRIBUTES: Sequence[Any] = (
    models.StudyUserAttributeModel.__table__,
    models.StudySystemAttributeModel.__table__,
)
TRIALS: Any = models.TrialModel.__table__
ATTRIBUTES: Any = models.TrialUserAttributeModel.__table__
_params: Any = models.TrialParamModel.__table__
VALUES: Any = models.TrialValueModel.__table__
_steps: Any = models.TrialIntermediateValueModel.__table__


def has_attribute(key: str, table: Any = ATTRIBUTES) -> Any:
    """The condition that joins a trial with its user attribute of that key."""
    found = (table.c.trial_id == TRIALS.c.trial_id) & (table.c.key == key)
    # An origin that is no table is another program's.
    return found & table.c.value_json.like("{%") if key == "origin" else found


def try_writes(session: Session) -> None:
    """Writes a study, a trial and an attribute of each, for a caller that rolls them back."""
    name = f"hpsearch-write-check-{uuid.uuid4().hex}"
    made: Any = session.execute(STUDIES.insert().values(study_name=name))
    (study_id,) = made.inserted_primary_key
    attribute = {"study_id": study_id, "key": "check", "value_json": "1"}
    session.execute(STUDY_ATTRIBUTES[0].insert().values(attribute))
    row = {"study_id": study_id, "number": 0, "state": TrialState.WAITING}
    made = session.execute(TRIALS.insert().values(row))
    (trial_id,) = made.inserted_primary_key
    put(session, trial_id, {"check": 1})


def number_of(session: Session, trial_id: int) -> int:
    """Returns the number of a trial within its study."""
    query = select(TRIALS.c.number).where(TRIALS.c.trial_id == trial_id)
    return int(session.execute(query).scalar_one())


def id_of(session: Session, study_id: int, number: int) -> int | None:
    """Returns the id of the study's trial of that number; None if there is none."""
    query = select(TRIALS.c.trial_id).where(TRIALS.c.study_id == study_id)
    found: int | None = session.execute(query.where(TRIALS.c.number == number)).scalar()
    return found


def newest_number(session: Session, study_id: int) -> int | None:
    """Returns the number of the study's newest trial; None if it has no trial."""
    query = select(func.max(TRIALS.c.number)).where(TRIALS.c.study_id == study_id)
    newest: int | None = session.execute(query).scalar_one()
    return newest


def lock_trial(session: Session, trial_id: int) -> None:
    """Locks a trial's row on PostgreSQL until the end of the transaction."""
    query = select(TRIALS.c.trial_id).where(TRIALS.c.trial_id == trial_id)
    session.execute(query.with_for_update())


def is_owned(session: Session, trial_id: int, *, token: str | None) -> bool:
    """Whether a trial is running under the lease with that token; None: under no lease."""
    query = (
        select(TRIALS.c.state, ATTRIBUTES.c.value_json)
        .outerjoin(ATTRIBUTES, has_attribute("origin"))
        .where(TRIALS.c.trial_id == trial_id)
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
    made = _insert(_dialect(session), _steps).values(**row, intermediate_value_type=kind)
    session.execute(made.on_conflict_do_nothing(index_elements=["trial_id", "step"]))


def end(
    session: Session,
    trial_id: int,
    state: TrialState,
    values: Sequence[float],
    *,
    ordered: bool = True,
) -> None:
    """Ends a trial, with the values of its objectives, each finite; empty without any.

    Stores with it how many trials had ended before. That orders the ends, whatever the clocks say:
    of two ends, the one that could see the other has the higher count. Unless ``ordered``, the end
    has no place in that order, so a failure is not one of several in a row.
    """
    if ordered:
        study_id = select(TRIALS.c.study_id).where(TRIALS.c.trial_id == trial_id)
        (counts,) = _count(session, TRIALS.c.study_id == study_id.scalar_subquery()).values()
        counted = sum(number for state_, number in counts.items() if state_.counts)
        put(session, trial_id, {"before": {"counted": counted, "failed": counts[State.FAILED]}})
    kind = models.TrialValueModel.TrialValueType.FINITE
    rows = [
        {"trial_id": trial_id, "objective": index, "value": value, "value_type": kind}
        for index, value in enumerate(values)
    ]
    if rows:
        session.execute(VALUES.insert(), rows)
    ended = TRIALS.update().where(TRIALS.c.trial_id == trial_id)
    session.execute(ended.values(state=state, datetime_complete=_time(session)))


def start_now(session: Session, trial_id: int) -> None:
    """Writes that a trial starts now; replaces the time that Optuna took from this host's clock."""
    started = TRIALS.update().where(TRIALS.c.trial_id == trial_id)
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


def _insert(dialect: str, table: Any) -> Any:
    # By name: SQLAlchemy loads five drivers with PostgreSQL's, which SQLite does not need.
    return importlib.import_module(f"sqlalchemy.dialects.{dialect}").insert(table)


@functools.cache
def _upsert(dialect: str) -> Any:
    columns = ("trial_id", "key", "value_json")
    return _over(_insert(dialect, ATTRIBUTES).values({c: bindparam(c) for c in columns}))


@functools.cache
def _guarded(dialect: str, *, now: bool = False) -> Any:
    """An upsert of one attribute of a running trial whose origin holds the token.

    PostgreSQL locks both rows first, and reads them again if another transaction held them.
    """
    origin = ATTRIBUTES.alias("origin")
    value: Any = _NOW[dialect] if now else bindparam("value_json", type_=sqlalchemy.Text)
    owner = (
        select(TRIALS.c.trial_id, bindparam("key", type_=sqlalchemy.String), value)
        .join(origin, origin.c.trial_id == TRIALS.c.trial_id)
        .where(TRIALS.c.trial_id == bindparam("trial_id"))
        .where(TRIALS.c.state == TrialState.RUNNING)
        .where(origin.c.key == "origin")
        .where(origin.c.value_json.contains(bindparam("token", type_=sqlalchemy.String)))
        .with_for_update(of=(TRIALS, origin))
    )
    made = _insert(dialect, ATTRIBUTES).from_select(["trial_id", "key", "value_json"], owner)
    return _over(made).execution_options(preserve_rowcount=True)


def _over(insert: Any) -> Any:
    return insert.on_conflict_do_update(
        index_elements=["trial_id", "key"], set_={"value_json": insert.excluded.value_json}
    )


# A study's records hold every running trial with its curve. Building them took half of the 4 s for
# which one of a thousand workers held the lock; counting takes a few light statements.


def count_states(session: Session, study_id: int) -> StateCounts:
    """Counts the study's trials by state."""
    in_study = TRIALS.c.study_id == study_id
    counts = tallies(session, [study_id])[study_id]
    counted = sum(number for state, number in counts.items() if state.counts)
    # Trials of a state are only read if there are any: most studies have none that failed or wait.
    failures, waiting = [], None
    if counts[State.FAILED]:
        query = select(TRIALS.c.number, ATTRIBUTES.c.value_json)
        query = query.outerjoin(ATTRIBUTES, has_attribute("before"))
        query = query.where(in_study, TRIALS.c.state == TrialState.FAIL)
        rows = session.execute(query.order_by(TRIALS.c.number))
        failures = [(number, json.loads(before or "{}")) for number, before in rows]
    # A trial that counts ends a row of failures, so each of a row has seen the present count.
    row = [
        (before["failed"], number)
        for number, before in failures
        if is_order(before) and before["counted"] == counted
    ]
    if counts[State.WAITING]:  # none if another worker started it since, which the lock prevents
        query = select(TRIALS.c.trial_id).where(in_study, TRIALS.c.state == TrialState.WAITING)
        query = query.order_by(TRIALS.c.number).limit(1)
        waiting = session.execute(query).scalar_one_or_none()
    return StateCounts(
        counts=counts,
        running=running_trials(session, in_study).get(study_id, ())
        if counts[State.RUNNING]
        else (),
        waiting=waiting,
        failed=[number for number, _ in failures],
        failed_since=[number for _, number in sorted(row)],
        now=clock(session),
    )


def _count(session: Session, where: Any) -> dict[int, dict[State, int]]:
    """Counts trials by study and state; ended ones that no worker started are imported."""
    is_foreign = ATTRIBUTES.c.trial_id.is_(None)
    query = (
        select(TRIALS.c.study_id, TRIALS.c.state, is_foreign, func.count())
        .outerjoin(ATTRIBUTES, has_attribute("origin"))
        .where(where)
        .group_by(TRIALS.c.study_id, TRIALS.c.state, is_foreign)
    )
    found: dict[int, dict[State, int]] = {}
    for study_id, kept, foreign, number in session.execute(query):
        state, counts = STATES[kept], found.setdefault(study_id, dict.fromkeys(State, 0))
        counts[State.IMPORTED if foreign and state.counts else state] += number
    return found


def running_trials(session: Session, in_study: Any) -> dict[int, list[RunningTrial]]:
    """Returns the running trials by the id of their study."""
    query = (
        select(TRIALS.c.study_id, TRIALS.c.trial_id, ATTRIBUTES.c.key, ATTRIBUTES.c.value_json)
        .outerjoin(
            ATTRIBUTES,
            (ATTRIBUTES.c.trial_id == TRIALS.c.trial_id) & ATTRIBUTES.c.key.in_(("origin", "beat")),
        )
        .where(in_study, TRIALS.c.state == TrialState.RUNNING)
    )
    trials: dict[tuple[int, int], dict[str, Any]] = {}
    for study_id, trial_id, key, value in session.execute(query):
        trials.setdefault((study_id, trial_id), {})[key] = json.loads(value or "null")
    found: dict[int, list[RunningTrial]] = {}
    for (study_id, trial_id), stored in trials.items():
        origin, beat = origin_of(stored), stored.get("beat")
        running = RunningTrial(trial_id=trial_id, origin=origin, beat=beat)
        found.setdefault(study_id, []).append(running)
    return found


def tallies(session: Session, study_ids: Sequence[int]) -> dict[int, dict[State, int]]:
    """Returns how many trials each of the studies has in each state, by the study's id."""
    found = _count(session, TRIALS.c.study_id.in_(study_ids))
    return {study_id: found.get(study_id) or dict.fromkeys(State, 0) for study_id in study_ids}
