"""How many steps a training takes on so many images: batch sizes that leave enough of them."""

from __future__ import annotations

from dataclasses import replace

from hpsearch.core.plural import plural
from hpsearch.core.space import ChoiceDim, Dim, FloatDim, IntDim, Space

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
