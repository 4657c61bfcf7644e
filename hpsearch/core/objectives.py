"""What can be optimised, in which direction, and in which unit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """One thing to optimise.

    ``is_cost``: known before or early in training, so that a trial can be compared with the
    trials that cost no more. ``is_timed``: depends on the machine it was measured on.
    """

    name: str
    unit: str
    maximize: bool = False
    is_cost: bool = False
    is_timed: bool = False

    @property
    def label(self) -> str:
        """The name with its unit, as axes show it.

        >>> OBJECTIVES["train_seconds"].label
        'train_seconds (s)'
        """
        return f"{self.name} ({self.unit})" if self.unit else self.name

    @property
    def is_fixed(self) -> bool:
        """Whether it is the net's alone, so that another training cannot change it."""
        return self.is_cost and not self.is_timed


OBJECTIVES: Mapping[str, Objective] = {
    objective.name: objective
    for objective in (
        Objective(name="accuracy", unit="fraction", maximize=True),
        Objective(name="val_loss", unit="nats"),
        Objective(name="train_seconds", unit="s", is_cost=True, is_timed=True),
        Objective(name="latency_ms", unit="ms", is_cost=True, is_timed=True),
        Objective(name="params", unit="", is_cost=True),
        Objective(name="flops", unit="", is_cost=True),
    )
}


def costs(objectives: Sequence[str]) -> tuple[str, ...]:
    """Returns those of the objectives that are costs, in their order.

    >>> costs(["accuracy", "train_seconds"])
    ('train_seconds',)
    """
    return tuple(name for name in objectives if OBJECTIVES[name].is_cost)


def costs_alone(objectives: Sequence[str]) -> str | None:
    """Returns what to say where no objective tells how good a net is.

    >>> costs_alone(["train_seconds", "params"])
    'objectives train_seconds, params: the cheapest net wins, whatever it has learnt; add accuracy'
    >>> costs_alone(["val_loss", "params"])
    """
    if len(costs(objectives)) < len(objectives):
        return None
    named = f"objective{'s' * (len(objectives) != 1)} {', '.join(objectives)}"
    return f"{named}: the cheapest net wins, whatever it has learnt; add accuracy"


def utility(name: str, value: float) -> float:
    """Returns the value such that larger is better, costs by their logarithm.

    >>> utility("accuracy", 0.9), utility("params", 1.0), utility("val_loss", 0.5)
    (0.9, -0.0, -0.5)
    """
    objective = OBJECTIVES[name]
    if objective.is_cost:
        value = math.log(max(value, 1e-12))
    return value if objective.maximize else -value


def merit(
    values: Mapping[str, float], bounds: Mapping[str, tuple[float, float]]
) -> tuple[float, ...]:
    """Scales each bounded objective to [0, 1], 1 being best.

    Accuracy and loss are scaled linearly, costs by their logarithm; what lies outside its bounds
    is clipped to them.

    >>> merit({"accuracy": 0.5, "params": 100.0},
    ...       {"accuracy": (0.0, 1.0), "params": (1.0, 10000.0)})
    (0.5, 0.5)
    """
    return tuple(_share(name, values[name], bounds[name]) for name in bounds)


def _share(name: str, value: float, bounds: tuple[float, float]) -> float:
    ends = [utility(name, bound) for bound in bounds]
    if min(ends) == max(ends):
        return 1.0
    share = (utility(name, value) - min(ends)) / (max(ends) - min(ends))
    return min(1.0, max(0.0, share))
