"""The corners of a space: its cheapest and its dearest trial, and what they cost."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import torch

from hpsearch.core.dimensions import BUILT_IN, ChoiceDim, Dim, Value
from hpsearch.core.objectives import OBJECTIVES
from hpsearch.core.space import draw
from hpsearch.core.spec import StudySpec, TrialSpec, resolve
from hpsearch.errors import SpecError
from hpsearch.nn.data.tensors import Tensors
from hpsearch.nn.models.cnn import build
from hpsearch.nn.models.cost import count, measure
from hpsearch.nn.runtime.device import free_memory, is_out_of_memory
from hpsearch.nn.training.custom_loop import train
from hpsearch.nn.training.loop import Diverged

Bounds = dict[str, tuple[float, float]]


def objective_bounds(spec: StudySpec, images: Tensors, device: torch.device) -> Bounds:
    """Returns each objective's range over the space, for a hypervolume that never falls.

    Accuracy runs from chance to 1, loss from 0 to that of guessing; costs from half of what the
    cheapest corner of the space takes to twice what the dearest takes, both measured on a few
    training steps.
    """
    classes = images.classes
    bounds: Bounds = {"accuracy": (1 / classes, 1.0), "val_loss": (0.0, math.log(classes))}
    if any(OBJECTIVES[name].is_cost for name in spec.search.objectives):
        cheap, dear = extreme_trials(spec)
        high = _affordable_cost(dear, images, device)  # first: it warms everything up
        low = _corner_cost(cheap, images, device, steps=32)
        high = high or _extrapolated(dear, low, images)
        for name in low:
            ends = sorted((low[name], high[name]))
            bounds[name] = (ends[0] / 2, ends[1] * 2)
    return {name: bounds[name] for name in spec.search.objectives}


def extreme_trials(spec: StudySpec) -> tuple[TrialSpec, TrialSpec]:
    """Returns the cheapest and the dearest trial of the space, as far as can be told before."""
    return _corner(spec, cheap=True, large=True), _corner(spec, cheap=False, large=False)


def most_memory_trial(spec: StudySpec) -> TrialSpec:
    """Returns the trial that needs most memory: the dearest net, trained on the largest batches."""
    return _corner(spec, cheap=False, large=True)


def _corner(spec: StudySpec, *, cheap: bool, large: bool) -> TrialSpec:
    """The trial of the cheap or the dear end of every dimension, with large or small batches."""

    def end(name: str, dim: Dim) -> Value:
        return _end(name, dim, cheap=not large if name == "batch_size" else cheap)

    return resolve(spec, number=0, params=draw(spec.space, end))


def _corner_cost(
    trial: TrialSpec, images: Tensors, device: torch.device, *, steps: int
) -> dict[str, float]:
    model = build(trial.model, images.input_shape, images.classes, seed=trial.seed)
    cost = measure(model, images.input_shape, device=device)
    return {**cost, "train_seconds": _probe_seconds(trial, images, device, steps=steps)}


def _affordable_cost(
    trial: TrialSpec, images: Tensors, device: torch.device
) -> dict[str, float] | None:
    """The corner's cost; None if it does not fit in memory."""
    try:
        return _corner_cost(trial, images, device, steps=8)
    except Exception as exc:
        if not is_out_of_memory(exc):
            raise
    free_memory(device)
    return None


def _extrapolated(trial: TrialSpec, low: Mapping[str, float], images: Tensors) -> dict[str, float]:
    """A corner's cost from that of another, by the ratio of their operations."""
    counted = count(trial.model, images.input_shape, images.classes)
    return {**{name: low[name] * counted["flops"] / low["flops"] for name in low}, **counted}


def _probe_seconds(trial: TrialSpec, images: Tensors, device: torch.device, *, steps: int) -> float:
    """Estimates a full training's seconds from a few steps on the first images."""
    total = len(images.train_labels)
    batch = min(trial.train.batch_size, total)
    kept = min(total, batch * steps)
    few = dataclasses.replace(
        images,
        train_images=images.train_images[:kept],
        train_labels=images.train_labels[:kept],
        val_images=images.val_images[:1],
        val_labels=images.val_labels[:1],
    )
    recipe = dataclasses.replace(trial.train, epochs=1, learning_rate=1e-8)
    model = build(trial.model, images.input_shape, images.classes, seed=trial.seed)
    try:
        (epoch,) = train(model, few, recipe, device=device)
    except Diverged as exc:  # never the built-in one, at that rate
        raise SpecError(
            f"{exc} of the first steps at an end of the space, expected finite losses there; narrow"
            " the space"
        ) from exc
    full = (total // batch) * trial.train.epochs
    return epoch.train_seconds * full / (kept // batch)


_CHEAP: Mapping[str, Value] = {"head": "gap", "optimizer": "sgd", "batch_norm": False}
_DEAR: Mapping[str, Value] = {"head": "flatten", "optimizer": "adamw", "batch_norm": True}


def _end(name: str, dim: Dim, *, cheap: bool) -> Value:
    """The cheap or the dear end of a dimension; a low number is the cheap one.

    Choices of a person's own that are no numbers are taken to go from cheap to dear.
    """
    if isinstance(dim, ChoiceDim) and not all(type(c) in (int, float) for c in dim.choices):
        if name not in BUILT_IN:
            return dim.choices[0 if cheap else -1]
        wanted = (_CHEAP if cheap else _DEAR).get(name)
        return wanted if wanted is not None and wanted in dim.choices else dim.choices[0]
    low, high = (
        (min(dim.choices), max(dim.choices)) if isinstance(dim, ChoiceDim) else (dim.low, dim.high)
    )
    return low if cheap else high
