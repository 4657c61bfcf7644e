"""A single training outside a search, where what breaks it ends the command in one line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hpsearch.core.spec import FactorySpec, TrialSpec
from hpsearch.core.trial import Epoch
from hpsearch.errors import DeviceError, HpsearchError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from hpsearch.nn.data.tensors import Tensors

_Own = tuple[str, str]  # the person's own code: its key in a study file, and what it says there


def build_net(trial: TrialSpec, images: Tensors) -> nn.Module:
    """Returns the trial's net, freshly initialised on the processor.

    Raises:
        HpsearchError: memory is full, or a factory of the person's own failed.
    """
    from hpsearch.nn.models.cnn import build

    with translate_failures(custom_factory(trial)):
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
        HpsearchError: memory is full, or code of the person's own failed.
    """
    from hpsearch.nn.training.custom_loop import train

    function = trial.train.function
    own = ("train.function", function) if function is not None else custom_factory(trial)
    with translate_failures(own):
        yield from train(net, images, trial.train, device=device, stop=stop)


def custom_factory(trial: TrialSpec) -> _Own | None:
    """Returns the person's own factory of the trial's net, if it has one, to be blamed."""
    net = trial.model
    return ("model.factory", net.factory) if isinstance(net, FactorySpec) else None


def failing_user_code(trial: TrialSpec, exc: BaseException) -> tuple[str, str] | None:
    """Returns which function of the person's own broke the trial, and where; None if none did.

    The place reads `` (nets.py, line 3)``; it is empty where what the function returned was unfit.
    """
    from hpsearch.nn.models import custom
    from hpsearch.nn.training import custom_loop
    from hpsearch.nn.user_code import place, went_through

    function, net = trial.train.function, custom_factory(trial)
    if function is not None and went_through(custom_loop.__name__, exc):
        return function, place(function, exc)
    if net is not None:
        where = place(net[1], exc)
        if where or went_through(custom.__name__, exc):
            return net[1], where
    return None


@contextmanager
def translate_failures(own: _Own | None) -> Iterator[None]:
    """Says in one line that memory was full, or that the ``own`` code failed.

    What else is raised is a bug of ours, and is raised as it is.
    """
    from hpsearch.nn.runtime.device import is_out_of_memory
    from hpsearch.nn.training.interrupt import Interrupted
    from hpsearch.nn.training.loop import Diverged
    from hpsearch.nn.user_code import blamed

    try:
        yield
    except (Interrupted, Diverged, HpsearchError):
        raise
    except (Exception, SystemExit) as exc:
        if is_out_of_memory(exc):
            raise DeviceError(
                "found too little memory for this net and batch size; close what else runs, or"
                " train a smaller one"
            ) from exc
        if own is None:
            raise
        raise blamed(*own, exc) from exc
