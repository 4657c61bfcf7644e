"""What is known of one trial: its state, its curve and its record."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from hpsearch.core.objectives import OBJECTIVES


class State(enum.Enum):
    """Where a trial stands."""

    WAITING = "waiting"  # queued, or handed back by a worker that stopped
    RUNNING = "running"  # claimed by a worker
    COMPLETE = "complete"  # trained to the end; counts toward the budget
    PRUNED = "pruned"  # stopped early as hopeless or diverged; counts toward the budget
    FAILED = "failed"  # broke; refunded

    @property
    def counts(self) -> bool:
        """Whether a trial in this state uses up one of the study's trials."""
        return self in (State.COMPLETE, State.PRUNED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """The measurements of one pass over the training images.

    ``epoch`` counts from 1. Losses are mean cross-entropies in nats per image: ``train_loss``
    over the augmented batches with label smoothing, ``val_loss`` without it. Accuracies are
    fractions in [0, 1]. What is of validation is NaN where no image was held out.
    ``train_seconds`` is the estimate, as of this epoch, of what the whole training costs in
    seconds of pure training steps; ``wall_seconds`` is what this epoch took by the clock,
    validation included.
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
    """How a trial ended: its state, its values by objective, and why if it was not completed."""

    state: State
    values: Mapping[str, float] = field(default_factory=dict)
    reason: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRecord:
    """All that a study keeps of one trial.

    ``values`` holds the objectives of a complete trial and is empty otherwise. ``cost`` holds
    ``params``, ``flops``, ``latency_ms`` and, once the first epoch has ended, ``train_seconds``.
    ``attributes`` holds the rest as it is stored (host, device, versions, why it was pruned, …).
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


def reached(record: TrialRecord) -> dict[str, float]:
    """Returns every measurement the trial has come to: its costs, accuracy and loss, and values.

    Of a trial that was stopped, those of its last epoch.

    >>> reached(TrialRecord(number=0, state=State.FAILED, cost={"params": 12.0}))
    {'params': 12.0}
    """
    known = dict(record.cost)
    if record.curve:
        fields = {o.name: o.epoch_field for o in OBJECTIVES.values() if o.epoch_field}
        known |= {name: getattr(record.curve[-1], key) for name, key in fields.items()}
    return known | dict(record.values)


def depth(record: TrialRecord) -> int | None:
    """Returns the number of conv blocks; None where it is not known, or the net has none.

    >>> depth(TrialRecord(number=0, state=State.WAITING, params={"n_blocks": 3}))
    3
    """
    if "n_blocks" in record.params:
        return int(record.params["n_blocks"])
    widths = record.attributes.get("spec", {}).get("model", {}).get("widths")
    return len(widths) if widths else None


LOSSES = 3  # workers that a trial may lose without gaining an epoch


def lost_in_vain(history: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a trial has lost its worker three times since it last gained an epoch.

    Such a trial may be what kills them. ``history`` holds one entry per start that did not end
    the trial: how it ``ended``, and the ``epochs`` that were trained by then.

    >>> lost_in_vain([{"ended": "worker lost", "epochs": 0}] * 3)
    True
    >>> lost_in_vain([{"ended": "worker lost", "epochs": n} for n in (2, 2, 2)])
    False
    """
    in_vain, reached = 0, 0
    for entry in history:
        if entry["epochs"] > reached:
            in_vain, reached = 0, entry["epochs"]
        elif entry["ended"] == "worker lost":
            in_vain += 1
    return in_vain >= LOSSES
