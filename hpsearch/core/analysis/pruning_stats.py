"""Counts of a study, its hypervolume, and what pruning saved and may have cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from hpsearch.core.analysis.pareto import ParetoFront, hypervolume
from hpsearch.core.analysis.statistics import wilson
from hpsearch.core.objectives import merit
from hpsearch.core.trial import State, TrialRecord

Bounds = Mapping[str, tuple[float, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Savings:
    """What pruning saved.

    The complete and pruned trials trained ``epochs_trained`` of ``epochs_full`` epochs; the pruned
    ones would have trained ``seconds_saved`` longer (training steps alone, estimated).
    """

    epochs_trained: int
    epochs_full: int
    seconds_saved: float

    @property
    def share(self) -> float:
        """The share of all epochs that was saved, in [0, 1]."""
        return 1 - self.epochs_trained / self.epochs_full if self.epochs_full else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What pruning may have cost, estimated from the control trials, which are never pruned.

    ``pruned`` counts the pruned trials, ``control`` the complete control trials. ``judged`` holds
    the numbers of the control trials that the rule would have pruned; of these, ``on_front`` ended
    on the front and ``beat_forecast`` ended with a lower loss than the rule forecast as possible
    (other rules make no forecast).
    """

    pruned: int
    control: int
    judged: tuple[int, ...]
    on_front: tuple[int, ...]
    beat_forecast: tuple[int, ...]

    @property
    def wronged(self) -> tuple[int, ...]:
        """The control trials that were worth finishing: on the front or better than forecast."""
        return tuple(sorted({*self.on_front, *self.beat_forecast}))

    @property
    def share(self) -> tuple[float, float, float] | None:
        """The share of ``wronged`` in ``judged``, with its 95 % interval; None without any."""
        if not self.judged:
            return None
        share = len(self.wronged) / len(self.judged)
        return (share, *wilson(share, len(self.judged)))


@dataclass(frozen=True, slots=True, kw_only=True)
class StudySummary:
    """A study in a line. ``storage`` hides the password; ``hypervolume`` is in [0, 1].

    ``silent`` counts the running trials whose workers send no heartbeat, ``imported`` those that
    hpsearch did not train.
    """

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
    silent: int = 0
    imported: int = 0


def counts(records: Sequence[TrialRecord]) -> dict[str, int]:
    """Returns how many trials are in each state, by the state's name.

    >>> counts([])
    {'waiting': 0, 'running': 0, 'complete': 0, 'pruned': 0, 'failed': 0, \
'imported': 0}
    """
    return {state.value: sum(r.state is state for r in records) for state in State}


def study_hypervolume(records: Sequence[TrialRecord], bounds: Bounds) -> float:
    """Returns the share of the bounded objective space that the complete trials dominate.

    In [0, 1]. It never falls as trials are added, because the bounds are fixed with the study.
    """
    complete = [r for r in records if r.state is State.COMPLETE and set(bounds) <= set(r.values)]
    return hypervolume([merit(r.values, bounds) for r in complete])


def savings(records: Sequence[TrialRecord], *, epochs: int) -> Savings:
    """Returns what pruning saved among the trials that count toward the budget."""
    counted = [r for r in records if r.state.counts]
    pruned = [r for r in counted if r.state is State.PRUNED and r.curve]
    # train_seconds estimates the whole training, of which the missing epochs are the rest.
    seconds = sum(r.curve[-1].train_seconds * (1 - len(r.curve) / epochs) for r in pruned)
    return Savings(
        epochs_trained=sum(len(r.curve) for r in counted),
        epochs_full=epochs * len(counted),
        seconds_saved=seconds,
    )


def audit(records: Sequence[TrialRecord], front: ParetoFront) -> Audit:
    """Returns what pruning may have cost."""
    control = [r for r in records if r.control and r.state is State.COMPLETE]
    # The verdict that the rule would have given is kept with the trial.
    # The other control trials were never in danger and say nothing about the rule.
    judged = [r for r in control if "would_prune" in r.attributes]
    return Audit(
        pruned=sum(r.state is State.PRUNED for r in records),
        control=len(control),
        judged=tuple(r.number for r in judged),
        on_front=tuple(r.number for r in judged if r.number in front.numbers),
        beat_forecast=tuple(
            r.number
            for r in judged
            if (verdict := r.attributes["would_prune"])["pruner"] == "forecast"
            and r.curve
            and r.curve[-1].val_loss < float(verdict["value"])
        ),
    )
