"""A look at the person's own code before anything is made: does it build and train at all?"""

from __future__ import annotations

import contextlib
from dataclasses import replace

import torch

from hpsearch.core.spec import FactorySpec, TrialSpec
from hpsearch.nn.data.tensors import Scaler, Tensors
from hpsearch.nn.models import custom
from hpsearch.nn.models.cnn import build
from hpsearch.nn.runtime.device import free_memory, is_out_of_memory
from hpsearch.nn.training import custom_loop
from hpsearch.nn.training.loop import Diverged
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
