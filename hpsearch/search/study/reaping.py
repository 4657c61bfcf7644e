"""Trials whose workers are gone: handed back, or failed if they may be what kills them."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from optuna.trial import TrialState

from hpsearch.core.analysis.timeline import HandoffReason
from hpsearch.core.spec import StudySpec
from hpsearch.core.trial import LOSSES, lost_in_vain
from hpsearch.search.storage import tables
from hpsearch.search.storage.counts import RunningTrial, StateCounts
from hpsearch.search.storage.records import read
from hpsearch.search.storage.storage import Storage
from hpsearch.search.study.leases import LeaseLost, history_entry, hold_lease, is_stale
from hpsearch.search.study.process import identity


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
