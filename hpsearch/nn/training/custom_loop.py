"""A trial's training: the built-in one, or a custom training function.

The contract of ``[train] function = "mypackage.loops:train"``::

    def train(model: torch.nn.Module, data: Tensors, spec: TrainSpec, *,
              params: Mapping[str, bool | int | float | str], device: torch.device,
              stop: Callable[[], bool], progress: Progress) -> Iterator[hpsearch.Epoch]

The function trains ``model``, which is on the device, and yields ``spec.epochs`` epochs, numbered
from 1, each as it ends. ``params`` holds all the trial's values. If ``data.val_labels`` is empty,
validation loss and accuracy are NaN. Call ``stop()`` between steps, and return when it is true.

``progress`` is for resuming an interrupted training: start after ``progress.epoch``, with the
optimizer's state from ``progress.optimizer`` (None at first; the weights are already in the model),
and set both before each ``yield``. A function that ignores it starts over instead. torch is seeded
before each epoch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from hpsearch.core.spec import TrainSpec, derive_seed
from hpsearch.core.trial import Epoch, Interrupted
from hpsearch.nn.data.tensors import Tensors
from hpsearch.nn.training.loop import Diverged, Progress, epochs, seeded
from hpsearch.nn.user_code import import_function


def train(
    model: nn.Module,
    data: Tensors,
    spec: TrainSpec,
    *,
    device: torch.device,
    stop: Callable[[], bool] = lambda: False,
    progress: Progress | None = None,
) -> Iterator[Epoch]:
    """Trains the model as the spec says; see :func:`hpsearch.nn.training.loop.epochs`.

    Raises:
        SpecError: the custom training function cannot be imported.
        TypeError: it yielded something other than epochs.
        ValueError: an epoch is missing, misnumbered or has an illegal value.
    """
    progress = progress or Progress()
    if spec.function is None:
        yield from epochs(model, data, spec, device=device, stop=stop, progress=progress)
        return
    function = import_function("train.function", spec.function)
    model = model.to(device).to(memory_format=torch.channels_last)
    first = progress.epoch + 1  # before the call: the function updates it
    more = {"params": dict(spec.params), "device": device, "stop": stop, "progress": progress}
    returned: Any = function(model, data, spec, **more)
    if not hasattr(returned, "__iter__"):
        raise TypeError(
            f"returned {type(returned).__name__}, expected an iterator of hpsearch.Epoch"
        )
    iterator = iter(returned)
    for number in range(first, spec.epochs + 1):
        # Each epoch has its own seed, so that a resumed training draws the same numbers.
        with seeded(derive_seed(spec.seed, number, "dropout"), device):
            epoch = next(iterator, None)
        # a function that returns early was asked to, or has a fault
        if epoch is None and stop():
            raise Interrupted
        yield _checked(epoch, number, spec.epochs, validated=len(data.val_labels) > 0)


def _checked(epoch: Any, number: int, epochs: int, *, validated: bool) -> Epoch:
    """Returns the epoch if the custom training function may yield it as number ``number``."""
    if epoch is None:
        raise ValueError(f"ended before epoch {number} of {epochs}, expected all of them")
    if not isinstance(epoch, Epoch):
        raise TypeError(f"yielded {type(epoch).__name__}, expected hpsearch.Epoch")
    if epoch.epoch != number:
        raise ValueError(f"yielded epoch {epoch.epoch}, expected epoch {number}")
    losses = {"training loss": epoch.train_loss, "validation loss": epoch.val_loss}
    for loss, value in losses.items():
        if not math.isfinite(value) and (validated or loss == "training loss"):
            raise Diverged(epoch=number, loss=loss, value=value)
    if validated and not 0 <= epoch.val_accuracy <= 1:
        raise ValueError(f"yielded val_accuracy {epoch.val_accuracy}, expected 0 to 1")
    if not 0 < epoch.train_seconds < math.inf:
        raise ValueError(f"yielded train_seconds {epoch.train_seconds}, expected more than 0")
    return epoch
