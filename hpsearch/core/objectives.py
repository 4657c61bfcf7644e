"""The objectives: what can be optimised, in which direction and unit, and how each is described."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum


class Quantity(Enum):
    """The kind of number that an objective is, which decides how its values are formatted."""

    SHARE = "share"  # 0-1
    NATS = "nats"
    SECONDS = "seconds"
    MILLISECONDS = "milliseconds"
    COUNT = "count"
    OPERATIONS = "operations"


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """An objective, with all that other modules need to know of it.

    ``unit`` is part of the label that the database keeps. ``title`` is the title of an axis,
    ``phrase`` a value within a sentence and ``superlative`` describes the best trial.
    ``epoch_field`` is the field of an epoch that holds its value so far, if there is one.
    ``is_cost``: known before or early in training, so that a trial can be compared with the
    trials that cost no more. ``is_timed``: depends on the machine it was measured on.
    """

    name: str
    unit: str
    quantity: Quantity
    title: str
    phrase: str
    superlative: str
    epoch_field: str | None = None
    maximize: bool = False
    is_cost: bool = False
    is_timed: bool = False

    @property
    def label(self) -> str:
        """The name with its unit, as optuna-dashboard shows it.

        >>> OBJECTIVES["train_seconds"].label
        'train_seconds (s)'
        """
        return f"{self.name} ({self.unit})" if self.unit else self.name

    @property
    def is_fixed(self) -> bool:
        """Whether it depends on the net alone, so that another training cannot change it."""
        return self.is_cost and not self.is_timed


OBJECTIVES: Mapping[str, Objective] = {
    objective.name: objective
    for objective in (
        Objective(
            name="accuracy",
            unit="fraction",
            quantity=Quantity.SHARE,
            title="validation accuracy",
            phrase="{} accuracy",
            superlative="is the most accurate",
            epoch_field="val_accuracy",
            maximize=True,
        ),
        Objective(
            name="val_loss",
            unit="nats",
            quantity=Quantity.NATS,
            title="validation loss (nats)",
            phrase="a validation loss of {}",
            superlative="has the lowest loss",
            epoch_field="val_loss",
        ),
        Objective(
            name="train_seconds",
            unit="s",
            quantity=Quantity.SECONDS,
            title="training time (s)",
            phrase="{} of training",
            superlative="is the fastest to train",
            epoch_field="train_seconds",
            is_cost=True,
            is_timed=True,
        ),
        Objective(
            name="latency_ms",
            unit="ms",
            quantity=Quantity.MILLISECONDS,
            title="time per image (ms)",
            phrase="{} an image",
            superlative="is the fastest",
            is_cost=True,
            is_timed=True,
        ),
        Objective(
            name="params",
            unit="",
            quantity=Quantity.COUNT,
            title="parameters",
            phrase="{} parameters",
            superlative="has the fewest parameters",
            is_cost=True,
        ),
        Objective(
            name="flops",
            unit="",
            quantity=Quantity.OPERATIONS,
            title="operations per image (FLOPs)",
            phrase="{} operations an image",
            superlative="has the fewest operations",
            is_cost=True,
        ),
    )
}


def costs(objectives: Sequence[str]) -> tuple[str, ...]:
    """Returns those of the objectives that are costs, in their order.

    >>> costs(["accuracy", "train_seconds"])
    ('train_seconds',)
    """
    return tuple(name for name in objectives if OBJECTIVES[name].is_cost)


def first_quality(objectives: Sequence[str]) -> str | None:
    """Returns the first of the objectives that is not a cost; None if all are costs."""
    return next((name for name in objectives if not OBJECTIVES[name].is_cost), None)


def costs_first(objectives: Sequence[str]) -> list[str]:
    """Returns the objectives, costs first.

    >>> costs_first(["accuracy", "train_seconds"])
    ['train_seconds', 'accuracy']
    """
    return sorted(objectives, key=lambda name: not OBJECTIVES[name].is_cost)


def costs_alone(objectives: Sequence[str]) -> str | None:
    """Returns a warning if all objectives are costs, so that none measures quality.

    >>> costs_alone(["train_seconds", "params"])
    'objectives train_seconds, params: the cheapest net wins, whatever it has learnt; add accuracy'
    >>> costs_alone(["val_loss", "params"])
    """
    if first_quality(objectives) is not None:
        return None
    named = f"objective{'s' * (len(objectives) != 1)} {', '.join(objectives)}"
    return f"{named}: the cheapest net wins, whatever it has learnt; add accuracy"


def utility(name: str, value: float) -> float:
    """Returns the value such that larger is better, costs by their logarithm.

    >>> utility("accuracy", 0.9), utility("params", 1.0), utility("val_loss", 0.5)
    (0.9, -0.0, -0.5)
    """
    objective = OBJECTIVES[name]
    # Twice the cost weighs the same anywhere on the scale.
    if objective.is_cost:
        value = math.log(max(value, 1e-12))
    return value if objective.maximize else -value


def merit(
    values: Mapping[str, float], bounds: Mapping[str, tuple[float, float]]
) -> tuple[float, ...]:
    """Scales each bounded objective to [0, 1], 1 being best.

    Accuracy and loss are scaled linearly, costs by their logarithm; values outside the bounds are
    clipped to them.

    >>> merit({"accuracy": 0.5, "params": 100.0},
    ...       {"accuracy": (0.0, 1.0), "params": (1.0, 10000.0)})
    (0.5, 0.5)
    """
    scaled = []
    for name in bounds:
        worst, best = _ends(name, *bounds[name])
        # Bounds of no width cannot separate trials.
        share = (utility(name, values[name]) - worst) / (best - worst) if worst != best else 1.0
        # Clipped, because a value beyond the bounds must not make the volume exceed 1.
        scaled.append(min(1.0, max(0.0, share)))
    return tuple(scaled)


@functools.cache  # asked for each trial of a study
def _ends(name: str, low: float, high: float) -> tuple[float, float]:
    """Returns the utilities of an objective's bounds, worst first."""
    ends = utility(name, low), utility(name, high)
    return min(ends), max(ends)
