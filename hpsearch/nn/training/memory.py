"""How much of a GPU's memory a worker of a search takes."""

from __future__ import annotations

import contextlib
import itertools

import torch

from hpsearch.core.spec import TrialSpec
from hpsearch.nn.data.tensors import Tensors
from hpsearch.nn.models.cnn import build
from hpsearch.nn.runtime.device import free_memory, is_out_of_memory
from hpsearch.nn.training.custom_loop import train
from hpsearch.nn.training.interrupt import Interrupted
from hpsearch.nn.training.loop import Diverged, evaluate, images_at_once

# The second step is the first that holds activations and the optimizer's state at once.
_STEPS = 3
_CONTEXT_BYTES = 2**29  # about what CUDA itself keeps for each process


def worker_memory(trial: TrialSpec, images: Tensors, *, device: torch.device) -> int:
    """Returns the bytes of a GPU that a process takes which trains that trial.

    They are what a few steps of it make the allocator reserve, the images included, and a context
    of CUDA's. A trial that does not fit takes the whole GPU.

    Args:
        trial: the one that needs most of those that the process is going to train.
        images: on the device.
        device: a CUDA device.
    """
    free_memory(device)
    torch.cuda.reset_peak_memory_stats(device)
    try:
        exercise(trial, images, device=device)
    except Exception as exc:
        if not is_out_of_memory(exc):
            raise
        taken = torch.cuda.get_device_properties(device).total_memory
    else:
        taken = torch.cuda.max_memory_reserved(device) + _CONTEXT_BYTES
    free_memory(device)
    return taken


def exercise(trial: TrialSpec, images: Tensors, *, device: torch.device) -> None:
    """Trains the trial for a few steps, then validates on one batch: all that takes memory."""
    model = build(trial.model, images.input_shape, images.classes, seed=trial.seed)
    asked = itertools.count()
    going = train(model, images, trial.train, device=device, stop=lambda: next(asked) >= _STEPS)
    with contextlib.suppress(Interrupted, Diverged):
        for _ in itertools.islice(going, _STEPS):  # one's own training may not ask whether to stop
            pass
    _, _, height, width = images.val_images.shape
    size = images_at_once(device, height * width)
    few = images.val_images[:size], images.val_labels[:size]
    evaluate(model, *few, mean=images.mean, std=images.std)
