"""The names of checkpoints, and those that nobody goes on from any more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from hpsearch.core.trial import State, TrialRecord
from hpsearch.search.storage.artifacts import Artifacts


def checkpoint_key(created: datetime, number: int) -> str:
    """Returns the name under which the checkpoint of a study's trial lies among the artifacts.

    By when the study was made: another database may keep its own in the same place, and an id is
    given out anew.

    >>> checkpoint_key(datetime(2030, 1, 2, 3, 4, 5, 678), 9)
    'study-20300102T030405.000678-trial-9.pt'
    """
    return f"{checkpoint_prefix(created)}{number}.pt"


def checkpoint_prefix(created: datetime) -> str:
    """Returns what the names of all of a study's checkpoints begin with."""
    return f"study-{created:%Y%m%dT%H%M%S.%f}-trial-"


def remove_orphaned(
    artifacts: Artifacts, created: datetime, records: Callable[[], Sequence[TrialRecord]]
) -> None:
    """Removes the checkpoints of trials that have ended; ``records`` are asked if there are any.

    A worker may be killed between a trial's end and the removal, or write one after its trial has
    ended elsewhere.
    """
    kept = set(artifacts.keys(checkpoint_prefix(created)))
    if not kept:
        return
    going_on = (State.RUNNING, State.WAITING)
    ended = (checkpoint_key(created, r.number) for r in records() if r.state not in going_on)
    for key in kept.intersection(ended):
        artifacts.remove(key)
