"""Training: a generator of epochs, with optimizer and schedule, that its consumer can stop."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hpsearch.core.spec import TrainSpec, derive_seed
from hpsearch.core.trial import Epoch, Interrupted
from hpsearch.nn.data.tensors import Batches, Scaler, Tensors
from hpsearch.nn.runtime.device import autocast_dtype, bare_step, leave_uncompiled
from hpsearch.nn.training.step_timer import StepTimer

leave_uncompiled(torch.optim.Optimizer)

# The shape of a one-cycle, as in torch's OneCycleLR.
_RISE = 0.3  # the share of the steps in which the rate rises
_FIRST = 1 / 25  # of the highest rate
_LAST = _FIRST / 1e4


def make_optimizer(
    model: nn.Module, spec: TrainSpec, *, device: torch.device
) -> torch.optim.Optimizer:
    """Returns the spec's optimizer over the model's parameters, in the device's fastest form.

    Fused on CPU and CUDA; RMSprop has no fused form and works on lists. SGD with momentum uses
    Nesterov's.
    """
    fused: dict[str, Any] = {"fused": True} if device.type in ("cpu", "cuda") else {}
    optimizers: Mapping[str, tuple[Callable[..., torch.optim.Optimizer], dict[str, Any]]] = {
        "sgd": (
            torch.optim.SGD,
            {"momentum": spec.momentum, "nesterov": spec.momentum > 0, **fused},
        ),
        "adam": (torch.optim.Adam, fused),
        "adamw": (torch.optim.AdamW, fused),
        "rmsprop": (torch.optim.RMSprop, {"momentum": spec.momentum, "foreach": True}),
    }
    make, options = optimizers[spec.optimizer]
    # Replaced before the first step; Optimizer wants a rate when it is made.
    rate = learning_rate(spec, 0, steps=1)
    return make(model.parameters(), lr=rate, weight_decay=spec.weight_decay, **options)


def learning_rate(spec: TrainSpec, step: int, *, steps: int) -> float:
    """Returns the learning rate of step ``step``, counted from 0, of ``steps``.

    ``constant`` keeps the spec's rate. ``cosine`` falls from it to 0 at the step after the last.
    ``one-cycle`` rises from 1/25 of it to it over the first 30 % of the steps, and falls to 4e-6
    of it (Smith & Topin 2017, arXiv 1708.07120).
    """
    if spec.schedule == "cosine":
        return _between(spec.learning_rate, 0.0, step / steps)
    if spec.schedule == "one-cycle":
        # As torch's OneCycleLR counts: the peak is the last step of the rise, not the one after it.
        peak = _RISE * steps - 1
        first, highest = _FIRST * spec.learning_rate, spec.learning_rate
        if step < peak:
            return _between(first, highest, step / peak)
        share = (step - peak) / (steps - 1 - peak)
        return _between(highest, _LAST * highest, share)
    return spec.learning_rate


def _between(start: float, end: float, share: float) -> float:
    """Returns the value at that share of the way from start to end along half a cosine."""
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Sets the learning rate of the optimizer's next step."""
    for group in optimizer.param_groups:
        group["lr"] = rate


class Diverged(Exception):  # noqa: N818 (an outcome, not an error)
    """A loss became infinite or NaN in epoch ``epoch``, counted from 1."""

    def __init__(self, *, epoch: int, loss: str, value: float) -> None:
        super().__init__(f"{loss} became {value} in epoch {epoch}")
        self.epoch = epoch


@dataclass(slots=True, kw_only=True)
class Progress:
    """The state of a training that, with the model's weights, is enough to resume it.

    :func:`epochs` updates it at the end of each epoch, before yielding. ``optimizer`` is the
    optimizer's ``state_dict`` and shares its tensors: save it before requesting the next epoch.
    """

    epoch: int = 0
    optimizer: Mapping[str, Any] | None = None
    step_seconds: tuple[float, ...] = ()


def epochs(
    model: nn.Module,
    data: Tensors,
    spec: TrainSpec,
    *,
    device: torch.device,
    stop: Callable[[], bool] = lambda: False,
    progress: Progress | None = None,
) -> Iterator[Epoch]:
    """Trains the model and yields each epoch's measurements as it ends.

    The order of the images, their augmentation and dropout depend on ``spec.seed`` and the epoch
    alone: the same spec, weights and thread count give the same curve, bit for bit on the CPU,
    whatever else draws random numbers and however often the training is resumed.

    Without validation images, validation loss and accuracy are NaN.

    Args:
        model: from :func:`hpsearch.nn.models.build`; moved to the device and trained in place.
        data: the images, on the device.
        spec: the training.
        device: where to train.
        stop: called before every step and every batch of the validation.
        progress: the state to resume from, the weights being in the model already; updated after
            each epoch.

    Raises:
        Diverged: a training or validation loss is not finite.
        Interrupted: ``stop()`` was true.
    """
    progress = progress or Progress()
    # channels-last is the memory format in which convolutions run fastest
    model = model.to(device).to(memory_format=torch.channels_last)
    optimizer = make_optimizer(model, spec, device=device)
    if progress.optimizer is not None:
        # After the model is on the device, to which the moments are moved with their parameters.
        optimizer.load_state_dict(dict(progress.optimizer))
    batches = Batches(data, spec)
    timer = StepTimer(device, step_seconds=progress.step_seconds)
    for epoch in range(progress.epoch + 1, spec.epochs + 1):
        started = time.perf_counter()
        # train on every image once; a seed per epoch makes dropout independent of earlier epochs
        with seeded(derive_seed(spec.seed, epoch, "dropout"), device):
            train_loss, train_accuracy = _train_epoch(
                model, optimizer, batches, spec, epoch=epoch, timer=timer, stop=stop, device=device
            )
        # measure on the validation images, which the training never uses
        val_loss, val_accuracy = evaluate(
            model, data.val_images, data.val_labels, mean=data.mean, std=data.std, stop=stop
        )
        if len(data.val_labels):
            _check_finite(val_loss, epoch=epoch, loss="validation loss")
        # update the state of a checkpoint, before the consumer sees the epoch and may stop
        progress.epoch, progress.optimizer = epoch, optimizer.state_dict()
        train_seconds = timer.estimate(batches.steps * spec.epochs)
        progress.step_seconds = tuple(timer.step_seconds)
        yield Epoch(
            epoch=epoch,
            train_loss=train_loss,
            train_accuracy=train_accuracy,
            val_loss=val_loss,
            val_accuracy=val_accuracy,
            train_seconds=train_seconds,
            wall_seconds=time.perf_counter() - started,
        )


def _train_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Batches,
    spec: TrainSpec,
    *,
    epoch: int,
    timer: StepTimer,
    stop: Callable[[], bool],
    device: torch.device,
) -> tuple[float, float]:
    """Takes the steps of one epoch; returns mean loss and accuracy over its batches."""
    model.train()
    take_step = bare_step(optimizer)
    # sums stay on the device, as reading a value there makes the CPU wait for it
    loss_sum = torch.zeros((), device=device)
    correct = torch.zeros((), device=device, dtype=torch.int64)
    # shuffle the images, and draw each one's shift, rotation and flip
    shuffled = batches.shuffle(epoch)
    for step in range(batches.steps):
        if stop():
            raise Interrupted
        timer.start()
        # set the learning rate, which follows the schedule over the steps of all epochs
        steps_before = (epoch - 1) * batches.steps + step
        rate = learning_rate(spec, steps_before, steps=batches.steps * spec.epochs)
        set_learning_rate(optimizer, rate)
        # gather a batch of augmented images; predict in bfloat16 if the device is fast at it
        images, labels = shuffled.batch(step)
        with _autocast(device):
            logits = model(images)
        # compute the loss in float32, whose small differences bfloat16 would lose
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=spec.label_smoothing)
        # compute gradients and update the weights
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        take_step()
        loss_sum += loss.detach()
        correct += (logits.detach().argmax(1) == labels).sum()
        timer.stop()
        # on the CPU, end a diverging epoch at once; on a GPU this would wait for every step
        if device.type == "cpu":
            _check_finite(loss_sum.item(), epoch=epoch, loss="training loss")
    mean_loss = loss_sum.item() / batches.steps
    _check_finite(mean_loss, epoch=epoch, loss="training loss")
    return mean_loss, correct.item() / (batches.steps * batches.size)


# The images and pixels of a batch without training. On a CPU, 512 images took nearly twice as long
# as 128, as their activations no longer fit the cache (28×28, one thread of an AMD EPYC Milan).
_IMAGES_AT_ONCE = {"cpu": 128, "cuda": 2048, "mps": 1024}
_PIXELS_AT_ONCE = 2**21


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    stop: Callable[[], bool] = lambda: False,
) -> tuple[float, float]:
    """Returns the mean cross-entropy (nats) and the accuracy (0–1) of the model on the images.

    Both are NaN without images. ``images`` (N, C, H, W) uint8, channels-last, ``labels`` (N,) int64
    and the model are on one device; ``mean`` and ``std`` are per channel, of images scaled to
    [0, 1]. ``stop`` is called before every batch.

    Raises:
        Interrupted: ``stop()`` was true.
    """
    if not len(labels):
        return math.nan, math.nan
    device = images.device
    model.eval()
    scaler = Scaler(mean, std, width=images.shape[3], device=device)
    loss_sum = torch.zeros((), device=device)
    correct = torch.zeros((), device=device, dtype=torch.int64)
    size = images_at_once(device, images.shape[2] * images.shape[3])
    for start in range(0, len(labels), size):
        if stop():
            raise Interrupted
        truth = labels[start : start + size]
        with _autocast(device):
            logits = model(scaler(images[start : start + size]))
        # The sum over batches, divided once at the end: the last batch may be smaller.
        loss_sum += F.cross_entropy(logits.float(), truth, reduction="sum")
        correct += (logits.argmax(1) == truth).sum()
    return loss_sum.item() / len(labels), correct.item() / len(labels)


def images_at_once(device: torch.device, pixels: int) -> int:
    """Returns the batch size without training, for images of that many pixels."""
    return max(1, min(_IMAGES_AT_ONCE[device.type], _PIXELS_AT_ONCE // pixels))


def _autocast(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    dtype = autocast_dtype(device)
    return torch.autocast(device.type, dtype=dtype) if dtype else contextlib.nullcontext()


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seeds torch's global generators inside the context and restores their state after it."""
    # fork_rng would save the state of every GPU, and create a context on each.
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.default_generator.manual_seed(seed)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        elif device.type == "mps":
            torch.mps.manual_seed(seed)
        yield


def _check_finite(value: float, *, epoch: int, loss: str) -> None:
    if not math.isfinite(value):
        raise Diverged(epoch=epoch, loss=loss, value=value)
