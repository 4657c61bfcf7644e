"""The first trials of a search: nets from cheap to expensive, trained by a known recipe."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from hpsearch.core.dimensions import (
    OPTIMIZERS,
    RECIPE_OPTIMIZER,
    ChoiceDim,
    Dim,
    FloatDim,
    IntDim,
    Value,
)
from hpsearch.core.space import Space, dims
from hpsearch.errors import plural

STEPS_PER_EPOCH = 20  # at least, in the first trials
MIN_STEPS = 100  # a training with fewer steps hardly learns anything


def limit_batch_size(batch_size: Dim, images: int) -> Dim:
    """Returns the batch sizes with ``STEPS_PER_EPOCH`` steps an epoch; if none, the smallest one.

    ``images`` is the number of training images.

    >>> limit_batch_size(ChoiceDim(choices=(64, 128, 256)), 3500).choices
    (64, 128)
    >>> limit_batch_size(ChoiceDim(choices=(64, 128, 256)), 84).choices
    (64,)
    """
    most, smallest = images // STEPS_PER_EPOCH, _smallest(batch_size)
    if isinstance(batch_size, ChoiceDim):
        fitting = [choice for choice in batch_size.choices if int(choice) <= most]
        return ChoiceDim(choices=tuple(fitting or [smallest]))
    return replace(batch_size, high=max(smallest, min(int(batch_size.high), most)))


def few_steps_warning(space: Space, *, epochs: int, images: int) -> str | None:
    """Returns a warning if a training has too few steps even with the smallest batch size.

    >>> few_steps_warning({"batch_size": 128}, epochs=12, images=84)
    '84 training images at batch 128 are 12 steps in 12 epochs: raise train.epochs or give \
space.batch_size smaller values'
    >>> few_steps_warning({"batch_size": ChoiceDim(choices=(8, 128))}, epochs=12, images=84)
    """
    if "batch_size" not in space:  # a custom training function decides on its own batches
        return None
    smallest = _smallest(space["batch_size"])
    steps = max(1, images // smallest) * epochs
    if steps >= MIN_STEPS:
        return None
    return (
        f"{images:,} training images at batch {smallest} are {steps} steps in"
        f" {plural(epochs, 'epoch')}: raise train.epochs or give space.batch_size smaller values"
    )


def _smallest(batch_size: Dim | Value) -> int:
    if isinstance(batch_size, ChoiceDim):
        return min(int(choice) for choice in batch_size.choices)
    return int(batch_size.low if isinstance(batch_size, (FloatDim, IntDim)) else batch_size)


INITIAL_TRIALS = 5

# Trains nets of every size well in few epochs: 89 % of the test images of 47 classes of EMNIST
# after 12 epochs (tests/benchmarks/bench_recipe.py).
RECIPE: Mapping[str, Value] = {
    "head": "flatten",
    "dropout": 0.1,
    "optimizer": RECIPE_OPTIMIZER,
    **OPTIMIZERS[RECIPE_OPTIMIZER].rates,
    "batch_size": 128,
    "schedule": "one-cycle",
}
_SIZES = ("n_blocks", "base_width", "kernel_size")


def initial_trial(space: Space, number: int, images: int | None = None) -> dict[str, Value]:
    """Returns the preset values of trial ``number``, one of the first ``INITIAL_TRIALS``.

    Depth, width and kernel size grow together from one end of the space to the other; the training
    is the recipe's, moved to the nearest values in the space. The sampler draws the rest. So the
    whole length of the front exists from the start, and pruning has strong trials to compare with.
    (Similar, for the cheap end alone: FLAML's low-cost start, Wu et al. 2021, arXiv 2005.01571.)
    With few training images the batches are smaller than the recipe's, to take enough steps per
    epoch.

    >>> from hpsearch.core.space import default_space
    >>> first, last = (initial_trial(default_space("geometric"), number) for number in (0, 4))
    >>> [(start["n_blocks"], start["base_width"]) for start in (first, last)]
    [(1, 4), (5, 16)]
    >>> first["optimizer"], first["learning_rate"]
    ('adamw', 0.006)
    """
    share = number / (INITIAL_TRIALS - 1)
    recipe = {**RECIPE, "batch_norm": share >= 0.5}  # helps deep nets only, but slows every net
    preset: dict[str, Value] = {}
    for name, dim in dims(space).items():
        # the nearest batch size that still takes enough steps
        if name == "batch_size" and images is not None:
            dim = limit_batch_size(dim, images)
        if name in _SIZES:
            preset[name] = _at_share(dim, share)
        elif name in recipe and (value := _nearest(dim, recipe[name])) is not None:
            preset[name] = value
    return preset


def _at_share(dim: Dim, share: float) -> Value:
    """Returns the value at that share of the way from the dimension's low end to its high end."""
    if isinstance(dim, ChoiceDim):
        return sorted(dim.choices)[round(share * (len(dim.choices) - 1))]
    if dim.log:
        return _clip(dim, dim.low * (dim.high / dim.low) ** share)
    return _clip(dim, dim.low + (dim.high - dim.low) * share)


def _nearest(dim: Dim, value: Value) -> Value | None:
    """Returns the dimension's value nearest to that one; None if a choice has no near value."""
    if not isinstance(dim, ChoiceDim):
        return _clip(dim, float(value))
    if value in dim.choices or isinstance(value, (bool, str)):
        return value if value in dim.choices else None
    return min(dim.choices, key=lambda choice: abs(math.log(float(choice) / float(value))))


def _clip(dim: FloatDim | IntDim, value: float) -> Value:
    """Returns the value moved into the range and onto its steps."""
    value = min(max(value, dim.low), dim.high)
    step = dim.step or (1 if isinstance(dim, IntDim) else None)
    if step is not None:
        value = dim.low + step * min(
            round((value - dim.low) / step), math.floor((dim.high - dim.low) / step + 1e-9)
        )
    return int(value) if isinstance(dim, IntDim) else value
