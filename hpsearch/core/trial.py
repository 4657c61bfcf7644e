"""One trial: its state, its learning curve and its record."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from hpsearch.core.objectives import OBJECTIVES


class State(enum.Enum):
    """The state of a trial."""

    WAITING = "waiting"  # queued, or handed back by a worker that stopped
    RUNNING = "running"  # claimed by a worker
    COMPLETE = "complete"  # trained to the end; counts toward the budget
    PRUNED = "pruned"  # stopped early, or diverged; counts toward the budget
    FAILED = "failed"  # ended by an error; does not count
    IMPORTED = "imported"  # ended in Optuna without a training by hpsearch; does not count

    @property
    def counts(self) -> bool:
        """Whether a trial in this state uses up one of the study's trials."""
        return self in (State.COMPLETE, State.PRUNED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """The measurements of one pass over the training images.

    ``epoch`` counts from 1. Losses are mean cross-entropies in nats per image: ``train_loss``
    over the augmented batches with label smoothing, ``val_loss`` without it. Accuracies are
    fractions in [0, 1]. Without validation images, ``val_loss`` and ``val_accuracy`` are NaN.
    ``train_seconds`` is this epoch's estimate of the duration of the whole training, in seconds of
    training steps alone; ``wall_seconds`` is the duration of this epoch, validation included.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    train_seconds: float
    wall_seconds: float


Curve = tuple[Epoch, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a trial ended: its state, its values by objective, and why if it is not complete."""

    state: State
    values: Mapping[str, float] = field(default_factory=dict)
    reason: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRecord:
    """Everything that a study stores about one trial.

    ``values`` holds the objectives of a complete trial and is empty otherwise. ``cost`` holds
    ``params``, ``flops``, ``latency_ms`` and, after the first epoch, ``train_seconds``.
    ``attributes`` holds the other stored attributes (host, device, versions, pruning verdict, …).
    """

    number: int
    state: State
    params: Mapping[str, Any] = field(default_factory=dict)
    values: Mapping[str, float] = field(default_factory=dict)
    curve: Curve = ()
    cost: Mapping[str, float] = field(default_factory=dict)
    seed: int | None = None
    control: bool = False
    reason: str | None = None
    started: datetime | None = None
    ended: datetime | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)


def end_order(record: TrialRecord) -> tuple[int, datetime, int]:
    """Returns a sort key: the order in which trials ended, by the counts stored with each end.

    A clock may be set back. Trials of earlier versions, which stored no counts, come first, in the
    order of their times.

    >>> late, early = (
    ...     TrialRecord(number=i, state=State.COMPLETE, attributes={"before": before})
    ...     for i, before in enumerate([{"counted": 3, "failed": 1}, {"counted": 2, "failed": 1}]))
    >>> [record.number for record in sorted([late, early], key=end_order)]
    [1, 0]
    """
    before = record.attributes.get("before", {"counted": -1})
    return before["counted"] + before.get("failed", 0), record.ended or datetime.max, record.number


def reached(record: TrialRecord) -> dict[str, float]:
    """Returns every measurement of the trial: its costs, accuracy, loss and values.

    Accuracy, loss and seconds are those of the trial's last epoch.

    >>> reached(TrialRecord(number=0, state=State.FAILED, cost={"params": 12.0}))
    {'params': 12.0}
    """
    # later updates take precedence: final values over the last epoch's, those over early costs
    known = dict(record.cost)
    if record.curve:
        fields = {o.name: o.epoch_field for o in OBJECTIVES.values() if o.epoch_field}
        known |= {name: getattr(record.curve[-1], key) for name, key in fields.items()}
    return known | dict(record.values)


def depth(record: TrialRecord) -> int | None:
    """Returns the number of conv blocks; None if it is unknown, or the net has none.

    >>> depth(TrialRecord(number=0, state=State.WAITING, params={"n_blocks": 3}))
    3
    """
    if "n_blocks" in record.params:
        return int(record.params["n_blocks"])
    widths = record.attributes.get("spec", {}).get("model", {}).get("widths")
    return len(widths) if widths else None


LOSSES = 3  # lost workers, without a new epoch, after which a trial fails


def lost_in_vain(history: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a trial has lost ``LOSSES`` workers since it last gained an epoch.

    Such a trial may itself crash its workers. ``history`` holds one entry per start that did not
    end the trial: how it ``ended``, and the number of ``epochs`` trained until then.

    >>> lost_in_vain([{"ended": "worker lost", "epochs": 0}] * 3)
    True
    >>> lost_in_vain([{"ended": "worker lost", "epochs": n} for n in (2, 2, 2)])
    False
    """
    in_vain, reached = 0, 0
    for entry in history:
        # An epoch gained proves that the trial itself does not crash its workers: count from there.
        if entry["epochs"] > reached:
            in_vain, reached = 0, entry["epochs"]
        elif entry["ended"] == "worker lost":
            in_vain += 1
    return in_vain >= LOSSES


class Interrupted(Exception):  # noqa: N818 (an event, not an error)
    """The training was asked to stop and did so within one step; nothing broke."""
