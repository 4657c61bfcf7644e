"""A trial's training: the built-in one, or one of the person's own.

The contract of ``[train] function = "mypackage.loops:train"``::

    def train(model: torch.nn.Module, data: Tensors, spec: TrainSpec, *,
              params: Mapping[str, bool | int | float | str], device: torch.device,
              stop: Callable[[], bool], progress: Progress) -> Iterator[hpsearch.Epoch]

It trains ``model``, which is on the device, and yields ``spec.epochs`` epochs, numbered from 1,
each as it ends. ``params`` holds all the trial's values. Where ``data.val_labels`` is empty,
validation loss and accuracy are NaN. ``stop()`` is to be asked between steps: when it is true,
return.

``progress`` is for going on after an interruption: begin after ``progress.epoch``, with the
optimizer's state from ``progress.optimizer`` (None at the beginning; the weights are in the model
already), and set both before each ``yield``. A function that leaves it alone starts over instead.
torch is seeded before each epoch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from hpsearch.core.spec import TrainSpec, derive_seed
from hpsearch.core.trial import Epoch
from hpsearch.nn.data.tensors import Tensors
from hpsearch.nn.training.interrupt import Interrupted
from hpsearch.nn.training.loop import Diverged, Progress, epochs, seeded
from hpsearch.nn.user_code import find

KEY = "train.function"


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
        SpecError: there is no such function.
        TypeError: the function yielded something else than epochs.
        ValueError: an epoch is not as it must be.
    """
    if spec.function is None:
        return epochs(model, data, spec, device=device, stop=stop, progress=progress)
    going_on = progress or Progress()
    return _own(model, data, spec, device=device, stop=stop, progress=going_on)


def _own(
    model: nn.Module,
    data: Tensors,
    spec: TrainSpec,
    *,
    device: torch.device,
    stop: Callable[[], bool],
    progress: Progress,
) -> Iterator[Epoch]:
    assert spec.function is not None
    function = find(KEY, spec.function)
    model = model.to(device).to(memory_format=torch.channels_last)
    first = progress.epoch + 1
    made: Any = function(
        model,
        data,
        spec,
        params=dict(spec.params),
        device=device,
        stop=stop,
        progress=progress,
    )
    if not hasattr(made, "__iter__"):
        raise TypeError(f"returned {type(made).__name__}, expected an iterator of hpsearch.Epoch")
    going = iter(made)
    for number in range(first, spec.epochs + 1):
        with seeded(derive_seed(spec.seed, number, "dropout"), device):
            epoch = next(going, None)
        if epoch is None and stop():
            raise Interrupted
        yield _checked(epoch, number, spec.epochs, validated=len(data.val_labels) > 0)


def _checked(epoch: Any, number: int, epochs: int, *, validated: bool) -> Epoch:
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
