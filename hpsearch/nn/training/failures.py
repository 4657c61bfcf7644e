"""A single training outside a search, with failures as one-line errors for the user."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hpsearch.core.spec import TrialSpec
from hpsearch.core.trial import Epoch
from hpsearch.errors import DeviceError, HpsearchError
from hpsearch.nn.user_code import user_code_error, user_functions

if TYPE_CHECKING:
    import torch
    from torch import nn

    from hpsearch.nn.data.tensors import Tensors


def build_net(trial: TrialSpec, images: Tensors) -> nn.Module:
    """Returns the trial's net, freshly initialised, on the CPU.

    Raises:
        HpsearchError: memory is full, or a custom factory failed.
    """
    from hpsearch.nn.models import build

    with translate_failures(trial):
        return build(trial.model, images.input_shape, images.classes, seed=trial.seed)


def epochs_of(
    trial: TrialSpec,
    net: nn.Module,
    images: Tensors,
    device: torch.device,
    *,
    stop: Callable[[], bool],
) -> Iterator[Epoch]:
    """Trains the net in place and yields each epoch as it ends.

    Raises:
        Diverged: a loss is not finite.
        Interrupted: ``stop()`` was true.
        HpsearchError: memory is full, or user code failed.
    """
    from hpsearch.nn.training.custom_loop import train

    with translate_failures(trial, in_training=True):
        yield from train(net, images, trial.train, device=device, stop=stop)


@contextmanager
def translate_failures(trial: TrialSpec, *, in_training: bool = False) -> Iterator[None]:
    """Turns exhausted memory and exceptions of the trial's user code into one-line errors.

    An exception is blamed on the custom factory, or, ``in_training``, on the custom training
    function if there is one. Without user code, other exceptions are bugs and pass unchanged.

    Raises:
        DeviceError: memory is full.
        SpecError: user code failed.
    """
    from hpsearch.core.trial import Interrupted
    from hpsearch.nn.runtime.device import is_out_of_memory
    from hpsearch.nn.training.loop import Diverged

    try:
        yield
    except (Interrupted, Diverged, HpsearchError):
        raise
    except (Exception, SystemExit) as exc:
        # first, as user code may exhaust memory without being at fault
        if is_out_of_memory(exc):
            raise DeviceError(
                "found too little memory for this net and batch size; close other programs, or"
                " train a smaller net"
            ) from exc
        functions = user_functions(trial)
        if not in_training:
            functions.pop("train.function", None)
        if not functions:
            raise
        key, name = functions.popitem()  # the last to run
        raise user_code_error(key, name, exc) from exc
