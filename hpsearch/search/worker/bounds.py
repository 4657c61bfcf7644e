"""The extremes of a search space: its cheapest and most expensive trials, and their costs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import torch

from hpsearch.core.dimensions import (
    BUILT_IN,
    CHEAPEST_OPTIMIZER,
    COSTLIEST_OPTIMIZER,
    ChoiceDim,
    Dim,
    Value,
)
from hpsearch.core.objectives import OBJECTIVES
from hpsearch.core.space import draw
from hpsearch.core.spec import StudySpec, TrialSpec, resolve
from hpsearch.errors import SpecError
from hpsearch.nn.data.tensors import Tensors
from hpsearch.nn.models import build, count_costs, measure_costs
from hpsearch.nn.runtime.device import free_memory, is_out_of_memory
from hpsearch.nn.training.custom_loop import train
from hpsearch.nn.training.failures import translate_failures
from hpsearch.nn.training.loop import Diverged

Bounds = dict[str, tuple[float, float]]

_CHEAP: Mapping[str, Value] = {
    "head": "gap",
    "optimizer": CHEAPEST_OPTIMIZER,
    "batch_norm": False,
}
_EXPENSIVE: Mapping[str, Value] = {
    "head": "flatten",
    "optimizer": COSTLIEST_OPTIMIZER,
    "batch_norm": True,
}


def objective_bounds(spec: StudySpec, images: Tensors, device: torch.device) -> Bounds:
    """Returns each objective's range over the space, so that the hypervolume never decreases.

    Accuracy ranges from chance to 1, loss from 0 to that of guessing; costs from half those of the
    cheapest trial to twice those of the most expensive one, both measured on a few training steps.
    """
    classes = images.classes
    bounds: Bounds = {"accuracy": (1 / classes, 1.0), "val_loss": (0.0, math.log(classes))}
    if any(OBJECTIVES[name].is_cost for name in spec.search.objectives):
        cheapest, most_expensive = extreme_trials(spec)
        high = None
        try:
            high = _cost(most_expensive, images, device, steps=8)  # first: it warms everything up
        except Exception as exc:
            if not is_out_of_memory(exc.__cause__ or exc):
                raise
        if high is None:
            free_memory(device)  # outside the handler, whose traceback holds the tensors
        low = _cost(cheapest, images, device, steps=32)
        if high is None:  # scale the cost of the cheapest trial by the number of operations
            counted = count_costs(most_expensive.model, images.input_shape, images.classes)
            flops = counted["flops"]
            high = {**{name: low[name] * flops / low["flops"] for name in low}, **counted}
        for name in low:
            ends = sorted((low[name], high[name]))
            bounds[name] = (ends[0] / 2, ends[1] * 2)
    return {name: bounds[name] for name in spec.search.objectives}


def extreme_trials(spec: StudySpec) -> tuple[TrialSpec, TrialSpec]:
    """Returns the trials that are expected to be the cheapest and the most expensive of a space."""
    cheapest = _extreme_trial(spec, cheap=True, large_batch=True)
    return cheapest, _extreme_trial(spec, cheap=False, large_batch=False)


def most_memory_trial(spec: StudySpec) -> TrialSpec:
    """Returns the trial that needs most memory: the most expensive net with the largest batches."""
    return _extreme_trial(spec, cheap=False, large_batch=True)


def _extreme_trial(spec: StudySpec, *, cheap: bool, large_batch: bool) -> TrialSpec:
    """The trial at the cheap or the expensive end of every dimension but the batch size.

    Low numbers are cheap. Choices of custom dimensions that are not numbers are assumed to be
    ordered by cost.
    """

    def end(name: str, dim: Dim) -> Value:
        is_cheap = not large_batch if name == "batch_size" else cheap
        if not isinstance(dim, ChoiceDim):
            return dim.low if is_cheap else dim.high
        choices = dim.choices
        if all(type(choice) in (int, float) for choice in choices):
            return min(choices) if is_cheap else max(choices)
        if name not in BUILT_IN:
            return choices[0 if is_cheap else -1]
        wanted = (_CHEAP if is_cheap else _EXPENSIVE).get(name)
        return wanted if wanted is not None and wanted in choices else choices[0]

    return resolve(spec, number=0, params=draw(spec.space, end))


def _cost(
    trial: TrialSpec, images: Tensors, device: torch.device, *, steps: int
) -> dict[str, float]:
    """Measures a trial's costs; estimates its seconds from a few steps on the first images."""
    with translate_failures(trial):
        model = build(trial.model, images.input_shape, images.classes, seed=trial.seed)
        cost = measure_costs(model, images.input_shape, device=device)
    total = len(images.train_labels)
    batch = min(trial.train.batch_size, total)
    kept = min(total, batch * steps)
    # The time does not depend on the rate; a tiny one keeps the losses finite.
    recipe = dataclasses.replace(trial.train, epochs=1, learning_rate=1e-8)
    model = build(trial.model, images.input_shape, images.classes, seed=trial.seed)
    try:
        with translate_failures(trial, in_training=True):
            (epoch,) = train(model, images.few(kept), recipe, device=device)
    except Diverged as exc:  # only a custom training: the built-in one is stable at this rate
        raise SpecError(
            f"{exc} in the first steps of an extreme trial of the space, expected finite losses;"
            " narrow the space"
        ) from exc
    full = (total // batch) * trial.train.epochs
    return {**cost, "train_seconds": epoch.train_seconds * full / (kept // batch)}
