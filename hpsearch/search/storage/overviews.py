"""Many studies at a glance: counts and objectives alone, in a constant number of statements."""

from __future__ import annotations

import itertools
import json
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import TrialState
from sqlalchemy import select
from sqlalchemy.orm import Session

from hpsearch.core.analysis import pruning_stats
from hpsearch.core.analysis.pareto import front
from hpsearch.core.spec import StudySpec
from hpsearch.core.trial import State, TrialRecord
from hpsearch.search.storage import tables
from hpsearch.search.storage.records import BOUNDS, CREATED, RunningTrial


@dataclass(frozen=True, slots=True, kw_only=True)
class CompleteTrial:
    """A complete trial without its parameters and curve, which take the longest to read.

    ``epochs`` are those that it has stored, if no end by a worker is recorded (None: it is): it was
    marked complete by hand, or ended in an earlier version.
    """

    trial_id: int
    number: int
    values: Sequence[float]
    epochs: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """The part of a study's trials that its summary needs; ``now`` is the database's time."""

    counts: Mapping[State, int]
    running: Sequence[RunningTrial]
    complete: Sequence[CompleteTrial]
    now: float


def frozen_studies(session: Session) -> list[FrozenStudy]:
    """Returns every study by its id, as Optuna's storage does by an object for each attribute."""
    of = tables.DIRECTIONS.c
    query = select(of.study_id, of.direction).order_by(of.study_id, of.objective)
    directions: dict[int, list[StudyDirection]] = {}
    for study_id, direction in session.execute(query):
        directions.setdefault(study_id, []).append(direction)
    attributes: list[dict[int, dict[str, Any]]] = [{}, {}]
    for by_study, table in zip(attributes, tables.STUDY_ATTRIBUTES, strict=True):
        for study_id, key, value in session.execute(
            select(table.c.study_id, table.c.key, table.c.value_json)
        ):
            by_study.setdefault(study_id, {})[key] = json.loads(value)
    ids, names = tables.STUDIES.c.study_id, tables.STUDIES.c.study_name
    return [
        FrozenStudy(
            study_name=name,
            direction=None,
            directions=directions.get(study_id, []),
            user_attrs=attributes[0].get(study_id, {}),
            system_attrs=attributes[1].get(study_id, {}),
            study_id=study_id,
        )
        for study_id, name in session.execute(select(ids, names).order_by(ids))
    ]


def overviews(session: Session, study_ids: Sequence[int]) -> dict[int, Overview]:
    """Returns the studies' overviews by id, in as many statements for one study as for many."""
    counts, complete = tables.tallies(session, study_ids), complete_trials(session, study_ids)
    running = tables.running_trials(session, tables.TRIALS.c.study_id.in_(study_ids))
    now = tables.clock(session)
    return {
        study_id: Overview(
            counts=counts[study_id],
            running=running.get(study_id, ()),
            complete=complete.get(study_id, ()),
            now=now,
        )
        for study_id in study_ids
    }


def complete_trials(session: Session, study_ids: Sequence[int]) -> dict[int, list[CompleteTrial]]:
    """Returns the studies' complete trials by number, by the study's id; not the imported ones."""
    of, value = tables.TRIALS.c, tables.VALUES.c
    origin, before = tables.ATTRIBUTES.alias("origin"), tables.ATTRIBUTES.alias("before")
    is_recorded = before.c.trial_id.is_not(None)  # the end, see CompleteTrial
    query = (
        select(of.study_id, of.trial_id, of.number, is_recorded, value.value, value.value_type)
        .join(tables.VALUES, value.trial_id == of.trial_id)
        .join(origin, tables.has_attribute("origin", origin))
        .outerjoin(before, tables.has_attribute("before", before))
        .where(of.study_id.in_(study_ids), of.state == TrialState.COMPLETE)
        .order_by(of.study_id, of.number, value.objective)
    )
    found: dict[int, list[CompleteTrial]] = {}
    rows = session.execute(query).all()
    is_any = not all(row[3] for row in rows)  # in databases of earlier versions
    epochs = _stored_epochs(session, study_ids) if is_any else {}
    by_trial = itertools.groupby(rows, key=operator.itemgetter(0, 1, 2, 3))
    for (study_id, trial_id, number, recorded), group in by_trial:
        values = [tables.as_float(stored, kind) for *_, stored, kind in group]
        known = None if recorded else epochs.get(trial_id, 0)
        trial = CompleteTrial(trial_id=trial_id, number=number, values=values, epochs=known)
        found.setdefault(study_id, []).append(trial)
    return found


def _stored_epochs(session: Session, study_ids: Sequence[int]) -> dict[int, int]:
    """Returns the number of stored epochs of each complete trial without a recorded end."""
    of, curve, before = tables.TRIALS.c, tables.ATTRIBUTES, tables.ATTRIBUTES.alias("before")
    query = (
        select(of.trial_id, curve.c.value_json)
        .join(curve, tables.has_attribute("curve", curve))
        .outerjoin(before, tables.has_attribute("before", before))
        .where(of.study_id.in_(study_ids), of.state == TrialState.COMPLETE)
        .where(before.c.trial_id.is_(None))
    )
    return {trial_id: len(json.loads(text)["epoch"]) for trial_id, text in session.execute(query)}


def complete_records(trials: Sequence[CompleteTrial], spec: StudySpec) -> list[TrialRecord]:
    """Returns complete trials as records that hold number, state and values alone.

    Leaves out those marked complete by hand before their last epoch, as :func:`read` does.
    """
    return [
        TrialRecord(
            number=trial.number,
            state=State.COMPLETE,
            values=dict(zip(spec.search.objectives, trial.values, strict=True)),
        )
        for trial in trials
        if trial.epochs in (None, spec.train.epochs)
    ]


def summarise(
    spec: StudySpec, overview: Overview, attributes: Mapping[str, Any], *, storage: str, silent: int
) -> pruning_stats.StudySummary:
    """Returns a study's summary; ``silent`` running trials have lost their workers."""
    objectives, counts = spec.search.objectives, dict(overview.counts)
    complete = complete_records(overview.complete, spec)
    # A trial that was marked complete by hand in its training counts as stopped early.
    by_hand = len(overview.complete) - len(complete)
    counts[State.COMPLETE] -= by_hand
    counts[State.PRUNED] += by_hand
    return pruning_stats.StudySummary(
        study=spec.name,
        storage=storage,
        objectives=objectives,
        target=spec.search.trials,
        front_size=len(front(complete, objectives).trials),
        hypervolume=pruning_stats.study_hypervolume(complete, attributes.get(BOUNDS, {})),
        created=datetime.fromisoformat(attributes[CREATED]),
        silent=silent,
        **{state.value: number for state, number in counts.items()},
    )
