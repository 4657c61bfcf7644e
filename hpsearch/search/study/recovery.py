"""Recovery of stale trials: those whose workers died or fell silent go to the next worker."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from optuna.trial import TrialState

from hpsearch.core.analysis.timeline import HandoffReason
from hpsearch.core.spec import StudySpec
from hpsearch.core.trial import LOSSES, lost_in_vain
from hpsearch.search.storage import tables
from hpsearch.search.storage.records import read
from hpsearch.search.storage.storage import Storage
from hpsearch.search.storage.tables import RunningTrial, StateCounts
from hpsearch.search.study.leases import LeaseLost, history_entry, hold_lease
from hpsearch.search.study.process import identity, is_gone

STALE_SECONDS = 60.0  # without a heartbeat, until a trial is taken from its worker


def stale_trials(
    storage: Storage, counts: StateCounts, *, token: str | None = None
) -> list[RunningTrial]:
    """Returns the running trials whose workers are gone or silent.

    ``token`` adds the trial of that lease, which its worker is about to acquire again.
    """
    storage.outage.compare(counts.now)
    # After an outage no heartbeat is fresh, until every live worker has sent one again.
    now = counts.now if not storage.outage.is_recent() else None
    return [trial for trial in counts.running if _is_stale(trial, now, token=token)]


def _is_stale(trial: RunningTrial, now: float | None, *, token: str | None) -> bool:
    """``now`` is by the database's clock; None: a missing heartbeat means nothing now."""
    process = trial.origin.get("process")
    if process is None or is_gone(process):
        return True
    if token is not None and trial.origin.get("claim") == token:
        return True
    return trial.beat is not None and now is not None and now - trial.beat > STALE_SECONDS


def recover(
    storage: Storage, spec: StudySpec, trial: RunningTrial, signals: Mapping[int, int]
) -> int | None:
    """Takes a trial from its worker and hands it back; fails it after too many losses in a row.

    Does nothing if another worker was faster. Returns the trial's number if it failed. It failed
    as killed if ``signals`` holds the pid of its last worker, a process of this host, with the
    signal that ended it; else as lost.
    """
    record = read(storage.backend.get_trial(trial.trial_id), spec)
    last = history_entry(record, HandoffReason.LOST)
    number = signals.get(last["pid"]) if last["host"] == identity()["host"] else None
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
