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

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from hpsearch.core.spec import TrainSpec, TrialSpec, derive_seed
from hpsearch.core.trial import Epoch, Interrupted
from hpsearch.nn.data.tensors import Scaler, Tensors
from hpsearch.nn.models import build
from hpsearch.nn.runtime.device import free_memory, is_out_of_memory
from hpsearch.nn.training.loop import Diverged, Progress, epochs, evaluate, images_at_once, seeded
from hpsearch.nn.user_code import import_function, user_code_errors, user_functions


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


def smoke_test(trial: TrialSpec, images: Tensors, *, device: torch.device) -> None:
    """Builds the trial's net and trains it on one batch, if either is user code.

    Divergence and exhausted memory are no errors here: they end single trials.

    Raises:
        SpecError: the user code cannot be imported, fails, or returns an illegal value.
    """
    if not user_functions(trial):
        return
    try:
        # a function of its own, so that its net is gone when memory is freed
        _train_one_batch(trial, images, device=device)
    except Exception as exc:
        if not is_out_of_memory(exc.__cause__ or exc):
            raise
    free_memory(device)


def _train_one_batch(trial: TrialSpec, images: Tensors, *, device: torch.device) -> None:
    functions = list(user_functions(trial).items())
    # Errors up to the first logits are those of the model; afterwards those of the training.
    with user_code_errors(*functions[0]):
        net = build(trial.model, images.input_shape, images.classes, seed=trial.seed)
        net = net.to(device).to(memory_format=torch.channels_last)
        _check_logits(net.eval(), images, device=device)
        net.train()
    size = max(2, min(trial.train.batch_size, len(images.train_labels)))
    one_epoch = replace(trial.train, epochs=1)
    with user_code_errors(*functions[-1]), contextlib.suppress(Diverged):
        list(train(net, images.few(size), one_epoch, device=device))


@torch.inference_mode()
def _check_logits(net: torch.nn.Module, images: Tensors, *, device: torch.device) -> None:
    two = images.train_images[:2]
    scaler = Scaler(images.mean, images.std, width=two.shape[3], device=device)
    logits = net(scaler(two))
    expected = (len(two), images.classes)
    if not isinstance(logits, torch.Tensor) or not logits.is_floating_point():
        raise TypeError(f"its net returned {type(logits).__name__}, expected float logits")
    if tuple(logits.shape) != expected:
        shape = "×".join(map(str, logits.shape))
        raise ValueError(
            f"its net returned {shape} for {len(two)} images of {images.classes} classes, expected"
            f" logits of {expected[0]}×{expected[1]}"
        )


_STEPS = 3  # the second is the first that holds activations and the optimizer's state at once
_CONTEXT_BYTES = 2**29  # about the size of a process's CUDA context


def worker_memory(trial: TrialSpec, images: Tensors, *, device: torch.device) -> int:
    """Returns the bytes of GPU memory that a worker process needs to train the trial.

    Measured as the memory that the allocator reserves in a few steps, the images included, plus a
    CUDA context; pass the trial with the largest need. One that does not fit needs the whole GPU.
    """
    free_memory(device)
    torch.cuda.reset_peak_memory_stats(device)
    try:
        train_few_steps(trial, images, device=device)
    except Exception as exc:
        if not is_out_of_memory(exc):
            raise
        needed = torch.cuda.get_device_properties(device).total_memory
    else:
        needed = torch.cuda.max_memory_reserved(device) + _CONTEXT_BYTES
    free_memory(device)
    return needed


def train_few_steps(trial: TrialSpec, images: Tensors, *, device: torch.device) -> None:
    """Trains the trial for a few steps, then validates one batch: the peaks of memory use."""
    model = build(trial.model, images.input_shape, images.classes, seed=trial.seed)
    calls = itertools.count()

    def stop() -> bool:  # also called before the batches of a validation, which do not count
        return model.training and next(calls) >= _STEPS

    epochs = train(model, images, trial.train, device=device, stop=stop)
    with contextlib.suppress(Interrupted, Diverged):
        for _ in itertools.islice(epochs, _STEPS):  # custom training functions may ignore stop
            pass
    _, _, height, width = images.val_images.shape
    size = images_at_once(device, height * width)
    batch = images.val_images[:size], images.val_labels[:size]
    evaluate(model, *batch, mean=images.mean, std=images.std)
