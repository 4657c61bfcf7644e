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

# The shape of a one-cycle, as in torch's OneCycleLR.
_RISE = 0.3  # the share of the steps in which the rate rises
_FIRST = 1 / 25  # of the highest rate
_LAST = _FIRST / 1e4


def make_optimizer(
    model: nn.Module, spec: TrainSpec, *, device: torch.device
) -> torch.optim.Optimizer:
    """Returns the spec's optimizer over the model's parameters, in the device's fastest form.

    Fused on CPU and CUDA; RMSprop has no fused form and works on lists. SGD with momentum uses
    Nesterov's.
    """
    fused: dict[str, Any] = {"fused": True} if device.type in ("cpu", "cuda") else {}
    optimizers: Mapping[str, tuple[Callable[..., torch.optim.Optimizer], dict[str, Any]]] = {
        "sgd": (
            torch.optim.SGD,
            {"momentum": spec.momentum, "nesterov": spec.momentum > 0, **fused},
        ),
        "adam": (torch.optim.Adam, fused),
        "adamw": (torch.optim.AdamW, fused),
        "rmsprop": (torch.optim.RMSprop, {"momentum": spec.momentum, "foreach": True}),
    }
    make, options = optimizers[spec.optimizer]
    rate = learning_rate(spec, 0, steps=1)
    return make(model.parameters(), lr=rate, weight_decay=spec.weight_decay, **options)


def learning_rate(spec: TrainSpec, step: int, *, steps: int) -> float:
    """Returns the learning rate of step ``step``, counted from 0, of ``steps``.

    ``constant`` keeps the spec's rate. ``cosine`` falls from it to 0 at the step after the last.
    ``one-cycle`` rises from 1/25 of it to it over the first 30 % of the steps, and falls to 4e-6
    of it (Smith & Topin 2017, arXiv 1708.07120).
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
    """Returns the value at that share of the way from start to end along half a cosine."""
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Sets the learning rate of the optimizer's next step."""
    for group in optimizer.param_groups:
        group["lr"] = rate
