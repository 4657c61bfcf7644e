"""What a worker tells whoever watches it."""

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
    """Follows a worker's trials; does nothing itself. Views derive from it."""

    def started(self, number: int, params: Mapping[str, Any], cost: Mapping[str, float]) -> None:
        """Called when a trial starts training; its costs except the seconds are known."""

    def trained(self, number: int, epoch: Epoch) -> None:
        """Called at the end of an epoch."""

    def ended(self, record: TrialRecord) -> None:
        """Called when a trial is complete, pruned, failed or handed back (waiting)."""

    def sync(self, records: Sequence[TrialRecord]) -> None:
        """Called with the study's trials as they are now, those of other workers included."""


class EndedTrials(Observer):
    """Passes each ended trial to a function."""

    def __init__(self, call: Callable[[TrialRecord], None]) -> None:
        self._call = call

    def ended(self, record: TrialRecord) -> None:
        """Passes the trial on."""
        self._call(record)


_LOOK_SECONDS = 1.0


class Follower:
    """Tells a watcher of the trials that others run."""

    def __init__(self, study: Study, watcher: Observer) -> None:
        self._study, self._watcher = study, watcher
        self._ended = {r.number for r in study.records() if _has_ended(r)}

    def look(self) -> list[TrialRecord]:
        """Tells of the trials that ended since the last look, and returns all as they are now."""
        records = self._study.records()
        for record in records:
            if _has_ended(record) and record.number not in self._ended:
                self._ended.add(record.number)
                self._watcher.ended(record)
        self._watcher.sync(records)
        return records


def follow(study: Study, watcher: Observer) -> StudyStatus:
    """Follows the study until it gives no more trials to workers; returns why."""
    follower, told = Follower(study, watcher), 0
    # What ends from here on is told: without a terminal, nothing may be for an hour.
    _log.info("study %r is watched until it is done", study.name)
    while True:
        standing = study.status()
        records = follower.look()  # after it, so that the last end is told
        silent = study.silent()
        if silent > told and silent == sum(r.state is State.RUNNING for r in records):
            _log.info("no worker shows life; who comes next takes up what is running: %s", silent)
        told = silent
        if standing not in (None, StudyStatus.BUSY):
            return standing
        time.sleep(_LOOK_SECONDS)


def _has_ended(record: TrialRecord) -> bool:
    return record.state.counts or record.state is State.FAILED
