"""What a net costs, known before it is trained: parameters, operations and latency."""

from __future__ import annotations

import statistics
import time

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from hpsearch.core.spec import FactorySpec, NetSpec
from hpsearch.nn.models.cnn import build
from hpsearch.nn.runtime.device import leave_uncompiled

_WARM_UPS = 2  # beside the pass that counts operations
_RUNS = (5, 31)  # at least, at most
_BUDGET_SECONDS = 0.01


def measure(
    model: nn.Module, input_shape: tuple[int, int, int], *, device: torch.device
) -> dict[str, float]:
    """Returns ``params``, ``flops`` and ``latency_ms`` of the net; moves it to the device.

    ``flops`` are the floating-point operations of one image's forward pass, a multiplication and
    an addition counted as two; ``latency_ms`` is the median time of one image's forward pass on
    the device, in float32, warmed up: of at least 5 and at most 31 runs, as many as fit into
    10 ms. The weights and torch's random state stay as they are.
    """
    layout = torch.channels_last
    was_training = model.training
    model = model.to(device).to(memory_format=layout).eval()
    image = torch.zeros(1, *input_shape, device=device).contiguous(memory_format=layout)
    with torch.inference_mode():
        counted = _count(model, image)
        latency_ms = _latency_ms(model, image)
    model.train(was_training)
    return {**counted, "latency_ms": latency_ms}


def count(spec: NetSpec, input_shape: tuple[int, int, int], classes: int) -> dict[str, float]:
    """Returns ``params`` and ``flops`` of a net without making it, however large it is.

    A net of the person's own is made, on the processor: its builder may look at values.
    """
    where = "cpu" if isinstance(spec, FactorySpec) else "meta"
    with torch.device(where), torch.inference_mode():
        blueprint = build(spec, input_shape, classes).eval()
        return _count(blueprint, torch.empty(1, *input_shape))


def _count(model: nn.Module, image: Tensor) -> dict[str, float]:
    with FlopCounterMode(display=False) as counter:
        leave_uncompiled(type(counter.mode))
        model(image)
    params = sum(parameter.numel() for parameter in model.parameters())
    return {"params": params, "flops": int(counter.get_total_flops())}


def _latency_ms(model: nn.Module, image: Tensor) -> float:
    for _ in range(_WARM_UPS):
        _timed(model, image)
    seconds: list[float] = []
    while len(seconds) < _RUNS[0] or (len(seconds) < _RUNS[1] and sum(seconds) < _BUDGET_SECONDS):
        seconds.append(_timed(model, image))
    return statistics.median(seconds) * 1e3


def _timed(model: nn.Module, image: Tensor) -> float:
    begin = time.perf_counter()
    model(image)
    if image.device.type == "cuda":
        torch.cuda.synchronize(image.device)  # by name: the current one may be another GPU
    elif image.device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter() - begin
