"""What a study tells: its counts, its front's worth, and what stopping trials early saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from hpsearch.core.objectives import merit
from hpsearch.core.pareto import hypervolume
from hpsearch.core.trial import State, TrialRecord

Bounds = Mapping[str, tuple[float, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Savings:
    """What stopping trials early saved.

    ``epochs_trained`` of ``epochs_full`` were trained by the trials that count; the pruned ones
    would have trained ``seconds_saved`` longer (training steps alone, by their own estimates).
    """

    epochs_trained: int
    epochs_full: int
    seconds_saved: float

    @property
    def share(self) -> float:
        """The share of all epochs that was not trained, in [0, 1]."""
        return 1 - self.epochs_trained / self.epochs_full if self.epochs_full else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StudySummary:
    """A study in a line. ``storage`` is masked; ``hypervolume`` is in [0, 1]."""

    study: str
    storage: str
    objectives: tuple[str, ...]
    target: int
    complete: int
    pruned: int
    failed: int
    running: int
    waiting: int
    front_size: int
    hypervolume: float
    created: datetime | None


def as_plain(summary: StudySummary) -> dict[str, Any]:
    """Returns the summary as JSON can hold it."""
    created = summary.created.isoformat() if summary.created else None
    return {**asdict(summary), "objectives": list(summary.objectives), "created": created}


def counts(records: Sequence[TrialRecord]) -> dict[str, int]:
    """Returns how many trials are in each state, by the state's name.

    >>> counts([])
    {'waiting': 0, 'running': 0, 'complete': 0, 'pruned': 0, 'failed': 0}
    """
    return {state.value: sum(r.state is state for r in records) for state in State}


def study_hypervolume(records: Sequence[TrialRecord], bounds: Bounds) -> float:
    """Returns the share of the bounded objective space that the complete trials dominate.

    In [0, 1]; it never falls as trials arrive, since the bounds are fixed with the study.
    """
    complete = [r for r in records if r.state is State.COMPLETE and set(bounds) <= set(r.values)]
    return hypervolume([merit(r.values, bounds) for r in complete])


def savings(records: Sequence[TrialRecord], *, epochs: int) -> Savings:
    """Returns what pruning saved, over the trials that count toward the budget."""
    counted = [r for r in records if r.state.counts]
    pruned = [r for r in counted if r.state is State.PRUNED and r.curve]
    seconds = sum(r.curve[-1].train_seconds * (1 - len(r.curve) / epochs) for r in pruned)
    return Savings(
        epochs_trained=sum(len(r.curve) for r in counted),
        epochs_full=epochs * len(counted),
        seconds_saved=seconds,
    )
