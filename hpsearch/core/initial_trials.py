"""Where a search begins: the first trials, from the cheapest net to the dearest, trained well."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from hpsearch.core.plural import plural
from hpsearch.core.space import ChoiceDim, Dim, FloatDim, IntDim, Space, Value, dims

AN_EPOCH = 20  # steps that an epoch should have
A_TRAINING = 100  # steps with fewer of which a net has hardly learnt


def affordable(batch_size: Dim, images: int) -> Dim:
    """Returns the batch sizes that leave each epoch ``AN_EPOCH`` steps; else the smallest alone.

    Args:
        batch_size: the space's dimension.
        images: how many there are to train on.

    >>> affordable(ChoiceDim(choices=(64, 128, 256)), 3500).choices
    (64, 128)
    >>> affordable(ChoiceDim(choices=(64, 128, 256)), 84).choices
    (64,)
    """
    most, smallest = images // AN_EPOCH, _smallest(batch_size)
    if isinstance(batch_size, ChoiceDim):
        fitting = [choice for choice in batch_size.choices if int(choice) <= most]
        return ChoiceDim(choices=tuple(fitting or [smallest]))
    return replace(batch_size, high=max(smallest, min(int(batch_size.high), most)))


def few_steps_warning(space: Space, *, epochs: int, images: int) -> str | None:
    """Returns what to say where even the smallest batches leave a training hardly any steps.

    >>> few_steps_warning({"batch_size": 128}, epochs=12, images=84)
    '84 training images at batch 128 are 12 steps in 12 epochs: raise train.epochs or give \
space.batch_size smaller values'
    >>> few_steps_warning({"batch_size": ChoiceDim(choices=(8, 128))}, epochs=12, images=84)
    """
    if "batch_size" not in space:  # the training is the person's own, and so are its batches
        return None
    batch_size = space["batch_size"]
    smallest = (
        _smallest(batch_size)
        if isinstance(batch_size, (ChoiceDim, FloatDim, IntDim))
        else int(batch_size)
    )
    steps = max(1, images // smallest) * epochs
    if steps >= A_TRAINING:
        return None
    return (
        f"{images:,} training images at batch {smallest} are {steps} steps in"
        f" {plural(epochs, 'epoch')}: raise train.epochs or give space.batch_size smaller values"
    )


def _smallest(batch_size: Dim) -> int:
    if isinstance(batch_size, ChoiceDim):
        return min(int(choice) for choice in batch_size.choices)
    return int(batch_size.low)


OPENING = 5  # trials

# Trains nets of every size well in few epochs: 89 % of the test images of 47 classes of EMNIST
# after 12 epochs (tests/benchmarks/bench_recipe.py).
RECIPE: Mapping[str, Value] = {
    "head": "flatten",
    "dropout": 0.1,
    "optimizer": "adamw",
    "learning_rate": 6e-3,
    "weight_decay": 0.02,
    "batch_size": 128,
    "schedule": "one-cycle",
}
_SIZES = ("n_blocks", "base_width", "kernel_size")


def initial_trial(space: Space, number: int, images: int | None = None) -> dict[str, Value]:
    """Returns what trial ``number``, one of the first ``OPENING``, has settled before any draw.

    Depth, width and kernel climb together from one end of the space to the other, and how the net
    is trained is the known recipe's nearest in the space; what is left open is drawn. So the
    front's whole length is there from the start, and stopping has strong trials to compare with.
    (The same idea, for the cheap end alone: FLAML's low-cost start, Wu et al. 2021,
    arXiv 2005.01571.) Where there are few images the batches are smaller than the recipe's: one
    step an epoch would teach a net nothing.

    Args:
        space: what is searched.
        number: the trial.
        images: how many there are to train on, where that is known.

    >>> from hpsearch.core.space import default_space
    >>> first, last = (initial_trial(default_space("geometric"), number) for number in (0, 4))
    >>> [(start["n_blocks"], start["base_width"]) for start in (first, last)]
    [(1, 4), (5, 16)]
    >>> first["optimizer"], first["learning_rate"]
    ('adamw', 0.006)
    """
    share = number / (OPENING - 1)
    recipe = {**RECIPE, "batch_norm": share >= 0.5}  # it pays in deep nets, and costs in all
    settled: dict[str, Value] = {}
    for name, dim in dims(space).items():
        if name == "batch_size" and images is not None:
            dim = affordable(dim, images)
        if name in _SIZES:
            settled[name] = _at(dim, share)
        elif name in recipe and (value := _nearest(dim, recipe[name])) is not None:
            settled[name] = value
    return settled


def _at(dim: Dim, share: float) -> Value:
    """The value at that share of the way from the dimension's low end to its high one."""
    if isinstance(dim, ChoiceDim):
        return sorted(dim.choices)[round(share * (len(dim.choices) - 1))]
    if dim.log:
        return _inside(dim, dim.low * (dim.high / dim.low) ** share)
    return _inside(dim, dim.low + (dim.high - dim.low) * share)


def _nearest(dim: Dim, value: Value) -> Value | None:
    """The dimension's value nearest to that one; None where nothing is near."""
    if not isinstance(dim, ChoiceDim):
        return _inside(dim, float(value))
    if value in dim.choices or isinstance(value, (bool, str)):
        return value if value in dim.choices else None
    return min(dim.choices, key=lambda choice: abs(math.log(float(choice) / float(value))))


def _inside(dim: Dim, value: float) -> Value:
    """The value moved onto the range and its steps."""
    assert not isinstance(dim, ChoiceDim)
    value = min(max(value, dim.low), dim.high)
    step = dim.step or (1 if isinstance(dim, IntDim) else None)
    if step is not None:
        value = dim.low + step * min(
            round((value - dim.low) / step), math.floor((dim.high - dim.low) / step + 1e-9)
        )
    return int(value) if isinstance(dim, IntDim) else value
