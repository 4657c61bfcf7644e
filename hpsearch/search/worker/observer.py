"""What a worker tells whoever watches it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from hpsearch.core.trial import Epoch, State, TrialRecord
from hpsearch.search.study.status import StudyStatus
from hpsearch.search.study.study import Study


class Observer(Protocol):
    """Hears of each trial as it goes; the live view and the plain log are observers."""

    def started(self, number: int, params: Mapping[str, Any], cost: Mapping[str, float]) -> None:
        """A trial starts training; its configuration and its costs but for seconds are known."""

    def trained(self, number: int, epoch: Epoch) -> None:
        """An epoch of the trial has ended."""

    def ended(self, record: TrialRecord) -> None:
        """The trial is complete, pruned or failed, or was handed back (waiting)."""

    def sync(self, records: Sequence[TrialRecord]) -> None:
        """These are the study's trials now, those of other workers included."""

    def note(self, text: str) -> None:
        """One line that the person should read."""


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
