"""Optimizers and learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from hpsearch.core.spec import TrainSpec
from hpsearch.nn.runtime.device import leave_uncompiled

leave_uncompiled(torch.optim.Optimizer)

_RISE = 0.3  # the share of a one-cycle in which the rate rises, as in torch's OneCycleLR
_FIRST = 1 / 25  # of the highest rate
_LAST = _FIRST / 1e4


def make_optimizer(
    model: nn.Module, spec: TrainSpec, *, device: torch.device
) -> torch.optim.Optimizer:
    """Returns the spec's optimizer over the model's parameters, in its fastest form there.

    Fused where the device has it; RMSprop has no fused form and works on lists. SGD with momentum
    is Nesterov's. ``weight_decay`` is decoupled for AdamW and an L2 penalty for the others.
    """
    fused: dict[str, Any] = {"fused": True} if device.type in ("cpu", "cuda") else {}
    known: Mapping[str, tuple[Callable[..., torch.optim.Optimizer], dict[str, Any]]] = {
        "sgd": (
            torch.optim.SGD,
            {"momentum": spec.momentum, "nesterov": spec.momentum > 0, **fused},
        ),
        "adam": (torch.optim.Adam, fused),
        "adamw": (torch.optim.AdamW, fused),
        "rmsprop": (torch.optim.RMSprop, {"momentum": spec.momentum, "foreach": True}),
    }
    make, options = known[spec.optimizer]
    rate = learning_rate(spec, 0, steps=1)
    return make(model.parameters(), lr=rate, weight_decay=spec.weight_decay, **options)


def learning_rate(spec: TrainSpec, step: int, *, steps: int) -> float:
    """Returns the learning rate of step ``step``, counted from 0, of ``steps``.

    ``constant`` keeps the spec's rate; ``cosine`` falls from it toward 0, which would be the rate
    of the step after the last; ``one-cycle`` rises to it from 1/25 over the first 30 % of the
    steps and falls to 4e-6 of it (Smith & Topin 2017, arXiv 1708.07120).
    """
    if spec.schedule == "cosine":
        return _between(spec.learning_rate, 0.0, step / steps)
    if spec.schedule == "one-cycle":
        peak = _RISE * steps - 1
        first, highest = _FIRST * spec.learning_rate, spec.learning_rate
        if step < peak:
            return _between(first, highest, step / peak)
        share = (step - peak) / (steps - 1 - peak)
        return _between(highest, _LAST * highest, share)
    return spec.learning_rate


def _between(start: float, end: float, share: float) -> float:
    """Moves from start to end along half a cosine."""
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Makes the optimizer's next step use that rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate
