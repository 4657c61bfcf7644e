"""A look at the person's own code before anything is made: does it build and train at all?"""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import replace

import torch

from hpsearch.core.spec import FactorySpec, TrialSpec
from hpsearch.nn.data.tensors import Scaler, Tensors
from hpsearch.nn.models import custom
from hpsearch.nn.models.cnn import build
from hpsearch.nn.runtime.device import free_memory, is_out_of_memory
from hpsearch.nn.training import custom_loop
from hpsearch.nn.training.custom_loop import train
from hpsearch.nn.training.interrupt import Interrupted
from hpsearch.nn.training.loop import Diverged, evaluate, images_at_once
from hpsearch.nn.user_code import told


def smoke_test(trial: TrialSpec, images: Tensors, *, device: torch.device) -> None:
    """Builds the trial's net and trains it on one batch, if either is the person's own doing.

    Whether it diverges, or fits in memory, is not looked at: trials may do as they like there.

    Raises:
        SpecError: the code cannot be imported, fails, or returns what it must not.
    """
    own = {custom_loop.KEY: trial.train.function}
    if isinstance(trial.model, FactorySpec):
        own = {custom.KEY: trial.model.factory, **own}
    named = [(key, name) for key, name in own.items() if name is not None]
    if not named:
        return
    try:
        _rehearse(trial, images, named, device=device)
    except Exception as exc:
        if not is_out_of_memory(exc.__cause__ or exc):
            raise
    free_memory(device)


def _rehearse(
    trial: TrialSpec, images: Tensors, named: list[tuple[str, str]], *, device: torch.device
) -> None:
    with told(*named[0]):
        net = build(trial.model, images.input_shape, images.classes, seed=trial.seed)
        net = net.to(device).to(memory_format=torch.channels_last)
        _check_logits(net.eval(), images, device=device)
        net.train()
    size = max(2, min(trial.train.batch_size, len(images.train_labels)))
    few = replace(
        images,
        train_images=images.train_images[:size],
        train_labels=images.train_labels[:size],
        val_images=images.val_images[:1],
        val_labels=images.val_labels[:1],
    )
    once = replace(trial.train, epochs=1)
    with told(*named[-1]), contextlib.suppress(Diverged):
        list(custom_loop.train(net, few, once, device=device))


@torch.inference_mode()
def _check_logits(net: torch.nn.Module, images: Tensors, *, device: torch.device) -> None:
    two = images.train_images[:2]
    scaler = Scaler(images.mean, images.std, width=two.shape[3], device=device)
    logits = net(scaler(two))
    expected = (len(two), images.classes)
    if not isinstance(logits, torch.Tensor) or not logits.is_floating_point():
        raise TypeError(f"its net returned {type(logits).__name__}, expected float logits")
    if tuple(logits.shape) != expected:
        found = "×".join(map(str, logits.shape))
        raise ValueError(
            f"its net returned {found} for {len(two)} images of {images.classes} classes, expected"
            f" logits of {expected[0]}×{expected[1]}"
        )


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
