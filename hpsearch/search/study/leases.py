"""Whose a running trial is: the worker that started it last, for as long as it shows life."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from optuna.trial import TrialState
from sqlalchemy import text as sql
from sqlalchemy.orm import Session

from hpsearch.core.analysis.timeline import HandoffReason
from hpsearch.core.dimensions import Value
from hpsearch.core.spec import StudySpec, TrialSpec
from hpsearch.core.trial import LOSSES, Curve, Outcome, State, TrialRecord, lost_in_vain
from hpsearch.search.storage import tables
from hpsearch.search.storage.records import TRIAL_STATES, columns_of, read
from hpsearch.search.storage.storage import Storage
from hpsearch.search.storage.tables import RunningTrial, StateCounts
from hpsearch.search.study.process import identity, is_gone

STALE_SECONDS = 60.0  # without a sign of life, until a trial is taken from its worker


class LeaseLost(Exception):  # noqa: N818 (an event, not an error)
    """The trial is no longer this worker's: it was slow, and another has the trial now."""


@contextlib.contextmanager
def hold_lease(storage: Storage, trial_id: int, *, mark: str | None) -> Iterator[Session]:
    """One transaction, the session's, on a running trial that is still that claim's.

    Its mark is told from any other's, unlike ids, which SQLite gives out anew after a deletion.

    Raises:
        LeaseLost: it is not.
    """
    with storage.transaction(trial=trial_id) as session:
        row = session.execute(_OWNER, {"trial": trial_id}).one_or_none()
        origin = json.loads(row.origin or "{}") if row is not None else {}
        if row is None or row.state != "RUNNING" or origin.get("claim") != mark:
            raise LeaseLost
        yield session


_OWNER = sql(
    "SELECT trials.state, origin.value_json AS origin FROM trials"
    " LEFT JOIN trial_user_attributes AS origin"
    " ON origin.trial_id = trials.trial_id AND origin.key = 'origin'"
    " WHERE trials.trial_id = :trial"
)


def is_stale(trial: RunningTrial, now: float | None, *, claim: str | None) -> bool:
    """Whether a running trial is nobody's any more.

    Its process is gone, or gave no sign of life for a minute, or it is the trial of that claim,
    which is being made again. ``now`` is by the database's clock; None: silence means nothing now.
    """
    process = trial.origin.get("process")
    if process is None or is_gone(process):
        return True
    if claim is not None and trial.origin.get("claim") == claim:
        return True
    return trial.beat is not None and now is not None and now - trial.beat > STALE_SECONDS


def history_entry(record: TrialRecord, ended: HandoffReason) -> dict[str, Any]:
    """Returns one start of a trial, as its history keeps it; it ends now, or was lost.

    A lost one ended at its last sign of life, if it gave any. The times have their zone: who reads
    them may be in another.
    """
    now = datetime.now()
    beat = record.attributes.get("beat") if ended is HandoffReason.LOST else None
    started, until = record.started or now, now if beat is None else datetime.fromtimestamp(beat)
    origin = record.attributes.get("origin", {})
    process = origin.get("process") or {}
    return {
        "start": origin.get("starts", 0),
        "host": process.get("host"),
        "pid": process.get("pid"),
        "epochs": len(record.curve),
        "ended": ended.value,
        "from": started.astimezone().isoformat(),
        "until": max(started, until).astimezone().isoformat(),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A trial that this worker runs: what to train, and the marks by which it is the worker's.

    ``trial_id`` is its id in the database, ``start`` counts from 1, ``attributes`` is what earlier
    starts have left.
    """

    spec: TrialSpec
    params: Mapping[str, Value]
    control: bool
    trial_id: int
    start: int
    mark: str
    attributes: Mapping[str, Any]

    @property
    def number(self) -> int:
        """The trial's number, from 0."""
        return self.spec.number


def beat(storage: Storage, claim: Lease) -> None:
    """Gives a sign of life.

    Raises:
        LeaseLost: the lease was lost to another worker.
    """
    with storage.transaction() as session:
        if not tables.beat(session, claim.trial_id, mark=claim.mark):
            raise LeaseLost


def put_cost(storage: Storage, claim: Lease, cost: Mapping[str, float], curve: Curve) -> None:
    """Stores what the trial is and costs, and the curve that it goes on from.

    Raises:
        LeaseLost: the lease was lost to another worker.
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
        LeaseLost: the lease was lost to another worker.
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
        LeaseLost: the lease was lost to another worker.
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
        LeaseLost: the lease was lost to another worker.
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


def stale_trials(storage: Storage, roll: StateCounts, *, claim: str | None) -> list[RunningTrial]:
    """Returns the running trials that are nobody's any more, that very claim's among them."""
    storage.outage.compare(roll.now)
    # After the database was away nobody's signs of life are fresh, for as long as a beat takes.
    now = roll.now if not storage.outage.is_recent() else None
    return [trial for trial in roll.running if is_stale(trial, now, claim=claim)]


def recover(
    storage: Storage, spec: StudySpec, trial: RunningTrial, signals: Mapping[int, int]
) -> int | None:
    """Takes a trial from its worker, and hands it back; fails it after too many losses in a row.

    Does nothing where another worker was faster. Returns the number of a trial that failed: as
    killed where ``signals``, by pid, tells what ended its last worker, a process of this host.
    """
    record = read(storage.backend.get_trial(trial.trial_id), spec)
    last = history_entry(record, HandoffReason.LOST)
    number = signals.get(last["pid"]) if last["host"] == identity()["host"] else None
    if number is not None:
        last["signal"] = number
    history = [*record.attributes.get("history", ()), last]
    in_vain = lost_in_vain(history)
    known: dict[str, Any] = {"history": history}
    if in_vain:
        kind = "lost" if number is None else "killed"
        how = "" if number is None else f", the last by signal {number}"
        words = f"{LOSSES} workers in a row were lost with it{how}, no epoch gained"
        known |= {"reason": f"{kind}: {words}", "failure": {"kind": kind}}
    mark = trial.origin.get("claim")
    with contextlib.suppress(LeaseLost), hold_lease(storage, trial.trial_id, mark=mark) as session:
        tables.put(session, trial.trial_id, known)
        if in_vain:
            tables.end(session, trial.trial_id, TrialState.FAIL, ())
        else:
            storage.backend.set_trial_state_values(trial.trial_id, TrialState.WAITING)
        return record.number if in_vain else None
    return None
