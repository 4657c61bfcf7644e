"""What a worker writes of its trial, for as long as the trial is its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from optuna.trial import TrialState

from hpsearch.core.analysis.timeline import HandoffReason
from hpsearch.core.spec import StudySpec
from hpsearch.core.trial import Curve, Outcome, State, TrialRecord
from hpsearch.search.storage import tables
from hpsearch.search.storage.records import TRIAL_STATES, columns_of, read
from hpsearch.search.storage.storage import Storage
from hpsearch.search.study.claim import Lease
from hpsearch.search.study.leases import LeaseLost, history_entry, hold_lease


def beat(storage: Storage, claim: Lease) -> None:
    """Gives a sign of life.

    Raises:
        GivenAway: the trial is another worker's by now.
    """
    with storage.transaction() as session:
        if not tables.beat(session, claim.trial_id, mark=claim.mark):
            raise LeaseLost


def put_cost(storage: Storage, claim: Lease, cost: Mapping[str, float], curve: Curve) -> None:
    """Stores what the trial is and costs, and the curve that it goes on from.

    Raises:
        GivenAway: the trial is another worker's by now.
    """
    plain = {"model": asdict(claim.spec.model), "train": asdict(claim.spec.train)}
    known: dict[str, Any] = {"cost": dict(cost), "spec": plain}
    if "curve" in claim.attributes:  # of an earlier start
        known["curve"] = columns_of(curve) if curve else {}
        *earlier, last = claim.attributes["history"]
        known["history"] = [*earlier, {**last, "kept": len(curve)}]
    _put(storage, claim, known)


def put_epoch(storage: Storage, spec: StudySpec, claim: Lease, curve: Curve) -> None:
    """Stores the curve so far; with one objective also as Optuna's intermediate value.

    Raises:
        GivenAway: the trial is another worker's by now.
    """
    reached = _reached(curve, spec.search.objectives)
    _put(storage, claim, {"curve": columns_of(curve)}, reached=reached)


def _put(
    storage: Storage,
    claim: Lease,
    attributes: Mapping[str, Any],
    *,
    reached: tuple[int, float] | None = None,
) -> None:
    with storage.transaction() as session:
        if not tables.put_as_owner(session, claim.trial_id, attributes, mark=claim.mark):
            raise LeaseLost
        if reached is not None:
            tables.put_step(session, claim.trial_id, *reached)


_CURVE_VALUE = {"accuracy": "val_accuracy", "val_loss": "val_loss"}


def _reached(curve: Curve, objectives: tuple[str, ...]) -> tuple[int, float] | None:
    """The last epoch and its value of the one objective, if it has one in every epoch."""
    only = _CURVE_VALUE.get(objectives[0]) if len(objectives) == 1 else None
    return (len(curve), getattr(curve[-1], only)) if curve and only is not None else None


def finish(storage: Storage, spec: StudySpec, claim: Lease, outcome: Outcome) -> TrialRecord:
    """Writes how the trial ended, and returns its record.

    Raises:
        GivenAway: the trial is another worker's by now.
    """
    details = dict(outcome.details)
    if outcome.reason is not None:
        details["reason"] = outcome.reason
    values = [float(outcome.values[name]) for name in spec.search.objectives if outcome.values]

    def write() -> None:
        with hold_lease(storage, claim.trial_id, mark=claim.mark) as session:
            tables.put(session, claim.trial_id, details)
            tables.end(session, claim.trial_id, TRIAL_STATES[outcome.state], values)

    return _changed(storage, spec, claim, write, after=outcome.state)


def hand_back(storage: Storage, spec: StudySpec, claim: Lease) -> TrialRecord:
    """Puts the running trial back in the queue, with a word of it in its history.

    Raises:
        GivenAway: the trial is another worker's by now.
    """

    def write() -> None:
        record = read(storage.backend.get_trial(claim.trial_id), spec)
        history = [
            *claim.attributes.get("history", ()),
            history_entry(record, HandoffReason.HANDED_BACK),
        ]
        with hold_lease(storage, claim.trial_id, mark=claim.mark) as session:
            tables.put(session, claim.trial_id, {"history": history})
            storage.backend.set_trial_state_values(claim.trial_id, TrialState.WAITING)

    return _changed(storage, spec, claim, write, after=State.WAITING)


def _changed(
    storage: Storage, spec: StudySpec, claim: Lease, write: Callable[[], None], *, after: State
) -> TrialRecord:
    """Changes a trial's state, once: a change whose answer was lost is not made again."""
    lost = None
    try:
        write()
    except LeaseLost as exc:
        lost = exc
    record = read(storage.backend.get_trial(claim.trial_id), spec)
    is_ours = record.attributes["origin"]["claim"] == claim.mark
    if lost is not None and not (is_ours and record.state is after):
        raise lost
    return record
