"""How a worker reports its trials, and how a process follows the trials of other workers."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hpsearch.core.trial import Epoch, State, TrialRecord
from hpsearch.search.study.status import StudyStatus
from hpsearch.search.study.study import Study

_log = logging.getLogger(__name__)


class Observer:
    """Receives a worker's trials; does nothing itself. Views derive from it."""

    def started(self, number: int, params: Mapping[str, Any], cost: Mapping[str, float]) -> None:
        """Called when a trial starts training; all its costs but the seconds are known."""

    def trained(self, number: int, epoch: Epoch) -> None:
        """Called at the end of an epoch."""

    def ended(self, record: TrialRecord) -> None:
        """Called when a trial is complete, pruned, failed or handed back (waiting)."""

    def sync(self, records: Sequence[TrialRecord]) -> None:
        """Called with the current trials of the study, those of other workers included."""


class EndedTrials(Observer):
    """Passes each ended trial to a function."""

    def __init__(self, call: Callable[[TrialRecord], None]) -> None:
        self._call = call

    def ended(self, record: TrialRecord) -> None:
        """Passes the trial on."""
        self._call(record)


_POLL_SECONDS = 1.0


class Follower:
    """Reports the trials that other processes run to an observer."""

    def __init__(self, study: Study, watcher: Observer) -> None:
        self._study, self._watcher = study, watcher
        self._ended = {r.number for r in study.records() if _has_ended(r)}

    def poll(self) -> list[TrialRecord]:
        """Reports the trials that ended since the last call; returns the current records."""
        records = self._study.records()
        for record in records:
            if _has_ended(record) and record.number not in self._ended:
                self._ended.add(record.number)
                self._watcher.ended(record)
        self._watcher.sync(records)
        return records


def follow(study: Study, watcher: Observer) -> StudyStatus:
    """Follows the study until it gives no more trials to workers; returns why."""
    follower, stale_before = Follower(study, watcher), 0
    # Without a terminal, the next line may be an hour away: only trials that end are shown there.
    _log.info("watching study %r until it is done (Ctrl-C to leave)", study.name)
    while True:
        status = study.status()
        records = follower.poll()  # after the status, so that the last trial is reported too
        stale = study.silent()
        is_all = stale == sum(record.state is State.RUNNING for record in records)
        if stale > stale_before and is_all:
            _log.info(
                "no worker sends heartbeats; the next one to start resumes the running trials (%s)",
                stale,
            )
        stale_before = stale
        if status not in (None, StudyStatus.BUSY):
            return status
        time.sleep(_POLL_SECONDS)


def _has_ended(record: TrialRecord) -> bool:
    return record.state.counts or record.state is State.FAILED
