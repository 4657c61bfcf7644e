"""Following a study that others run, from looks at its database."""

from __future__ import annotations

import time

from hpsearch.core.trial import State, TrialRecord
from hpsearch.search.study.status import StudyStatus
from hpsearch.search.study.study import Study
from hpsearch.search.worker.observer import Observer

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
    watcher.note(f"study {study.name!r} is watched until it is done")
    while True:
        standing = study.status()
        records = follower.look()  # after it, so that the last end is told
        silent = study.silent()
        if silent > told and silent == sum(r.state is State.RUNNING for r in records):
            watcher.note(f"no worker shows life; who comes next takes up what is running: {silent}")
        told = silent
        if standing not in (None, StudyStatus.BUSY):
            return standing
        time.sleep(_LOOK_SECONDS)


def _has_ended(record: TrialRecord) -> bool:
    return record.state.counts or record.state is State.FAILED
