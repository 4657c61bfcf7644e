"""Whose a running trial is: the worker that started it last, for as long as it shows life."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from sqlalchemy import text as sql
from sqlalchemy.orm import Session

from hpsearch.core.analysis.timeline import HandoffReason
from hpsearch.core.trial import TrialRecord
from hpsearch.search.storage.counts import RunningTrial
from hpsearch.search.storage.storage import Storage
from hpsearch.search.study.process import is_gone

STALE_SECONDS = 60.0  # without a sign of life, until a trial is taken from its worker


class LeaseLost(Exception):  # noqa: N818 (an event, not an error)
    """The trial is no longer this worker's: it was slow, and another has the trial now."""


@contextlib.contextmanager
def hold_lease(storage: Storage, trial_id: int, *, mark: str | None) -> Iterator[Session]:
    """One transaction, the session's, on a running trial that is still that claim's.

    Its mark is told from any other's, unlike ids, which SQLite gives out anew after a deletion.

    Raises:
        GivenAway: it is not.
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
