"""What a worker tells whoever watches it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from hpsearch.core.trial import Epoch, TrialRecord


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
