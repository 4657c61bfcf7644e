"""Leases: the right of one worker to write a running trial, and the recovery of stale trials."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from optuna.trial import TrialState
from sqlalchemy.orm import Session

from hpsearch.core.analysis.history import HandoffReason
from hpsearch.core.dimensions import Value
from hpsearch.core.spec import StudySpec, TrialSpec
from hpsearch.core.trial import LOSSES, Curve, Outcome, State, TrialRecord, lost_in_vain
from hpsearch.search.storage import tables
from hpsearch.search.storage.overviews import Overview
from hpsearch.search.storage.records import (
    TRIAL_STATES,
    RunningTrial,
    StateCounts,
    columns_of,
    read,
)
from hpsearch.search.storage.retry import retry_while_away
from hpsearch.search.storage.storage import Storage


def process_identity() -> dict[str, Any]:
    """Returns the identity of this process: host, boot, namespace, pid and start time."""
    pid, node, namespace = os.getpid(), uuid.getnode(), None
    with suppress(OSError):
        namespace = os.readlink("/proc/self/ns/pid")
    return {
        "host": socket.gethostname(),
        # The address of a network card, because machines cloned from one image share their name.
        "node": None if node >> 40 & 1 else node,  # Python draws a random number without a card
        "boot": _read("/proc/sys/kernel/random/boot_id"),
        "namespace": namespace,
        "pid": pid,
        "started": _started(pid),
    }


def process_is_gone(process: Mapping[str, Any]) -> bool:
    """Whether the process has certainly ended; False if this host cannot know.

    It has ended if it ran on this host before the last boot, or if its pid is free or belongs to a
    process that started at another time.
    """
    here = process_identity()
    # Another host's processes cannot be seen.
    if any(process.get(key) != here[key] for key in ("host", "node")):
        return False
    if process.get("boot") != here["boot"]:
        return True
    # Another container's pids mean other processes here.
    if process.get("namespace") != here["namespace"]:
        return False
    started = _started(process["pid"])
    if started is not None:
        return bool(started != process.get("started"))
    # Without an entry in /proc, or as a zombie, it has ended; without /proc, the system is asked.
    if Path("/proc/self").exists():
        return True
    if sys.platform == "win32":
        return False  # os.kill with 0 would send Ctrl-C there
    try:
        os.kill(process["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _started(pid: int) -> int | None:
    """The start time in clock ticks since boot; None without /proc, and for an ended process."""
    stat = _read(f"/proc/{pid}/stat")
    if stat is None:
        return None
    fields = stat.rpartition(")")[2].split()  # the name before it may hold spaces
    return None if fields[0] in "ZX" else int(fields[19])


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


STALE_SECONDS = 60.0  # without a heartbeat, until a trial is taken from its worker
IDLE = "idle"  # attribute of a trial: the seconds without a step, 0 again after the next one
_CURVE_COLUMNS = {"accuracy": "val_accuracy", "val_loss": "val_loss"}


class LeaseLost(Exception):  # noqa: N818 (an event, not an error)
    """The lease was lost to another worker, because this one was silent for too long."""


@contextlib.contextmanager
def hold_lease(storage: Storage, trial_id: int, *, token: str | None) -> Iterator[Session]:
    """One transaction on a running trial whose lease has that token; yields its session.

    The token is unique, unlike ids, which SQLite reuses after a deletion.

    Raises:
        LeaseLost: the trial is not running, or under another lease.
    """
    with storage.transaction(trial=trial_id) as session:
        if not tables.is_owned(session, trial_id, token=token):
            raise LeaseLost
        yield session


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right to run and write one trial. Made by :meth:`Study.acquire`.

    ``trial_id`` is the trial's id in the database, ``start`` counts its starts from 1,
    ``attributes`` is what earlier starts stored, ``checkpoint_key`` names its checkpoint among the
    artifacts. Every write checks that the lease still holds, and raises LeaseLost if not.
    """

    storage: Storage = field(repr=False)
    study_spec: StudySpec = field(repr=False)
    spec: TrialSpec
    params: Mapping[str, Value]
    control: bool
    trial_id: int
    start: int
    token: str
    attributes: Mapping[str, Any]
    checkpoint_key: str

    @property
    def number(self) -> int:
        """The trial's number, from 0."""
        return self.spec.number

    def beat(self, *, idle: int | None = None) -> None:
        """Writes a heartbeat; once, without retry: the next one follows soon.

        ``idle`` is for how many seconds the training has made no step; None: as stored before.

        Raises:
            LeaseLost: the lease was lost to another worker.
        """
        with self.storage.transaction() as session:
            if not tables.beat(session, self.trial_id, token=self.token):
                raise LeaseLost
            if idle is not None:
                self._put(session, {IDLE: idle})

    @retry_while_away
    def write_cost(self, cost: Mapping[str, float], curve: Curve = ()) -> None:
        """Stores the trial's spec and its costs, as far as they are known before training.

        ``curve`` holds the epochs that this start resumes from.

        Raises:
            LeaseLost: the lease was lost to another worker.
        """
        spec = {"model": asdict(self.spec.model), "train": asdict(self.spec.train)}
        attributes: dict[str, Any] = {"cost": dict(cost), "spec": spec}
        if "curve" in self.attributes:  # of an earlier start, whose last epochs may be lost
            attributes["curve"] = columns_of(curve) if curve else {}
            *earlier, last = self.attributes["history"]
            attributes["history"] = [*earlier, {**last, "kept": len(curve)}]
        with self.storage.transaction() as session:
            self._put(session, attributes)

    @retry_while_away
    def write_epoch(self, curve: Curve) -> None:
        """Stores the curve so far; with one objective also as Optuna's intermediate value.

        Not with several: intermediate values in a multi-objective study break TPESampler once a
        trial that has any is pruned (Optuna 5.0 reads ``study.direction`` there).

        Raises:
            LeaseLost: the lease was lost to another worker.
        """
        objectives = self.study_spec.search.objectives
        column = _CURVE_COLUMNS.get(objectives[0]) if len(objectives) == 1 else None
        with self.storage.transaction() as session:
            self._put(session, {"curve": columns_of(curve)})
            if column is not None:
                tables.put_step(session, self.trial_id, len(curve), getattr(curve[-1], column))

    def _put(self, session: Session, attributes: Mapping[str, Any]) -> None:
        if not tables.put_as_owner(session, self.trial_id, attributes, token=self.token):
            raise LeaseLost

    @retry_while_away
    def finish(self, outcome: Outcome) -> TrialRecord:
        """Stores how the trial ended, removes its checkpoint, and returns its record.

        Raises:
            LeaseLost: the lease was lost to another worker.
        """
        details = dict(outcome.details)
        if outcome.reason is not None:
            details["reason"] = outcome.reason
        names = self.study_spec.search.objectives if outcome.values else ()
        values = [float(outcome.values[name]) for name in names]

        def write(session: Session) -> None:
            tables.put(session, self.trial_id, details)
            tables.end(session, self.trial_id, TRIAL_STATES[outcome.state], values)

        record = self._change_state(write, after=outcome.state)
        if self.storage.artifacts is not None:
            self.storage.artifacts.remove(self.checkpoint_key)
        return record

    @retry_while_away
    def hand_back(self) -> TrialRecord:
        """Puts the running trial back in the queue; it keeps its number, parameters and seed.

        Raises:
            LeaseLost: the lease was lost to another worker.
        """
        entry = _history_entry(self._read(), HandoffReason.HANDED_BACK)
        history = [*self.attributes.get("history", ()), entry]

        def write(session: Session) -> None:
            tables.put(session, self.trial_id, {"history": history})
            self.storage.backend.set_trial_state_values(self.trial_id, TrialState.WAITING)

        return self._change_state(write, after=State.WAITING)

    @retry_while_away
    def take_back(self) -> TrialRecord:
        """Puts the trial back in the queue as its worker lost it, because its training hangs.

        Fails it after too many losses in a row, see :func:`recover`.

        Raises:
            LeaseLost: the lease was lost to another worker.
        """
        own = RunningTrial(trial_id=self.trial_id, origin={"claim": self.token}, beat=None)
        has_failed = recover(self.storage, self.study_spec, own, {}) is not None
        if has_failed and self.storage.artifacts is not None:
            self.storage.artifacts.remove(self.checkpoint_key)
        record = self._read()
        if record.attributes["origin"]["claim"] != self.token:
            raise LeaseLost
        return record

    def _change_state(self, write: Callable[[Session], None], *, after: State) -> TrialRecord:
        """Changes the trial's state once; a repeated call returns the record of the first."""
        lost = None
        try:
            with hold_lease(self.storage, self.trial_id, token=self.token) as session:
                write(session)
        except LeaseLost as exc:
            lost = exc
        # Read outside the transaction, with the times and values that the database stored.
        record = self._read()
        is_ours = record.attributes["origin"]["claim"] == self.token
        # The first attempt may have been committed before the connection was lost.
        if lost is not None and not (is_ours and record.state is after):
            raise lost
        return record

    def _read(self) -> TrialRecord:
        return read(self.storage.backend.get_trial(self.trial_id), self.study_spec)


def _history_entry(record: TrialRecord, ended: HandoffReason) -> dict[str, Any]:
    """Returns the entry in a trial's history for a start that was handed back now, or was lost.

    A lost start ended at its last heartbeat, if it sent any. The times carry their time zone,
    because a reader may be in another one.
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


def stale_trials(storage: Storage, counts: StateCounts | Overview) -> list[RunningTrial]:
    """Returns the running trials whose workers are gone or silent."""
    storage.outage.compare(counts.now)
    # After an outage no heartbeat is fresh, until every live worker has sent one again.
    now = counts.now if not storage.outage.is_recent() else None

    def is_stale(trial: RunningTrial) -> bool:
        process = trial.origin.get("process")
        if process is None or process_is_gone(process):
            return True
        return trial.beat is not None and now is not None and now - trial.beat > STALE_SECONDS

    return [trial for trial in counts.running if is_stale(trial)]


def recover(
    storage: Storage, spec: StudySpec, trial: RunningTrial, signals: Mapping[int, int]
) -> int | None:
    """Takes a trial from its worker and hands it back; fails it after too many losses in a row.

    Does nothing if another worker was faster. Returns the trial's number if it failed. It failed
    as killed if ``signals`` holds the pid of its last worker, a process of this host, with the
    signal that ended it; else as lost.
    """
    record = read(storage.backend.get_trial(trial.trial_id), spec)
    last = _history_entry(record, HandoffReason.LOST)
    number = signals.get(last["pid"]) if last["host"] == process_identity()["host"] else None
    if number is not None:
        last["signal"] = number
    history = [*record.attributes.get("history", ()), last]
    fails = lost_in_vain(history)
    attributes: dict[str, Any] = {"history": history}
    if fails:
        kind = "lost" if number is None else "killed"
        how = "" if number is None else f", the last by signal {number}"
        reason = f"{kind}: {LOSSES} workers in a row were lost with it{how}, no epoch gained"
        attributes |= {"reason": reason, "failure": {"kind": kind}}
    # Writes only if nobody recovered, ended or handed back the trial since it was counted.
    token = trial.origin.get("claim")
    with (
        contextlib.suppress(LeaseLost),
        hold_lease(storage, trial.trial_id, token=token) as session,
    ):
        tables.put(session, trial.trial_id, attributes)
        if fails:
            tables.end(session, trial.trial_id, TrialState.FAIL, ())
        else:
            storage.backend.set_trial_state_values(trial.trial_id, TrialState.WAITING)
        return record.number if fails else None
    return None
