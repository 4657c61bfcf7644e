"""What a net costs, known before it is trained: parameters, operations and latency."""

from __future__ import annotations

import statistics
import time

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from hpsearch.core.spec import ModelSpec
from hpsearch.nn.model import build

_WARM_UPS = 3
_RUNS = (5, 31)  # at least, at most
_BUDGET_SECONDS = 0.01


def measure(
    model_spec: ModelSpec,
    input_shape: tuple[int, int, int],
    classes: int,
    *,
    device: torch.device,
) -> dict[str, float]:
    """Returns ``params``, ``flops`` and ``latency_ms`` of the net.

    ``flops`` are the floating-point operations of one image's forward pass, a multiplication and
    an addition counted as two; ``latency_ms`` is the median time of one image's forward pass on
    the device, in float32, warmed up.
    """
    model = build(model_spec, input_shape, classes, seed=0).eval()
    latency_ms = time_latency_ms(model, input_shape, device=device)
    return {**count(model_spec, input_shape, classes), "latency_ms": latency_ms}


def count(
    model_spec: ModelSpec, input_shape: tuple[int, int, int], classes: int
) -> dict[str, float]:
    """Returns ``params`` and ``flops`` of the net, without making it."""
    with torch.device("meta"):
        blueprint = build(model_spec, input_shape, classes).eval()
    return {
        "params": sum(parameter.numel() for parameter in blueprint.parameters()),
        "flops": count_flops(blueprint, input_shape),
    }


def count_flops(blueprint: nn.Module, input_shape: tuple[int, int, int]) -> int:
    """Returns the operations of one image's forward pass through a net on the meta device."""
    with FlopCounterMode(display=False) as counter:
        blueprint(torch.empty(1, *input_shape, device="meta"))
    return int(counter.get_total_flops())


@torch.inference_mode()
def time_latency_ms(
    model: nn.Module, input_shape: tuple[int, int, int], *, device: torch.device
) -> float:
    """Returns the median time of one image's forward pass in milliseconds.

    At least 5 and at most 31 runs, as many as fit into 10 ms, after 3 to warm up.
    """
    layout = torch.channels_last
    model = model.to(device).to(memory_format=layout)
    image = torch.zeros(1, *input_shape, device=device).contiguous(memory_format=layout)
    for _ in range(_WARM_UPS):
        _timed(model, image)
    seconds: list[float] = []
    while len(seconds) < _RUNS[0] or (len(seconds) < _RUNS[1] and sum(seconds) < _BUDGET_SECONDS):
        seconds.append(_timed(model, image))
    return statistics.median(seconds) * 1e3


def _timed(model: nn.Module, image: Tensor) -> float:
    begin = time.perf_counter()
    model(image)
    if image.device.type != "cpu":
        getattr(torch, image.device.type).synchronize()
    return time.perf_counter() - begin


__all__ = ["count", "count_flops", "measure", "time_latency_ms"]
