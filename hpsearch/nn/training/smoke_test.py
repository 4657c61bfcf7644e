"""Trainings of a few steps before a search: does user code work, and how much memory is needed?"""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import replace

import torch

from hpsearch.core.spec import TrialSpec
from hpsearch.core.trial import Interrupted
from hpsearch.nn.data.tensors import Scaler, Tensors
from hpsearch.nn.models.cnn import build
from hpsearch.nn.runtime.device import free_memory, is_out_of_memory
from hpsearch.nn.training.custom_loop import train
from hpsearch.nn.training.loop import Diverged, evaluate, images_at_once
from hpsearch.nn.user_code import user_code_errors, user_functions


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
    epochs = train(model, images, trial.train, device=device, stop=lambda: next(calls) >= _STEPS)
    with contextlib.suppress(Interrupted, Diverged):
        for _ in itertools.islice(epochs, _STEPS):  # custom training functions may ignore stop
            pass
    _, _, height, width = images.val_images.shape
    size = images_at_once(device, height * width)
    batch = images.val_images[:size], images.val_labels[:size]
    evaluate(model, *batch, mean=images.mean, std=images.std)
