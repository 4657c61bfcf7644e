"""The costs of a net that are known before training: parameters, operations and latency."""

from __future__ import annotations

import statistics
import time

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from hpsearch.core.spec import FactorySpec, NetSpec
from hpsearch.nn.models.cnn import build
from hpsearch.nn.runtime.device import leave_uncompiled

_WARM_UPS = 2  # in addition to the pass that counts operations
_MIN_RUNS, _MAX_RUNS = 5, 31
_BUDGET_SECONDS = 0.01


def measure(
    model: nn.Module, input_shape: tuple[int, int, int], *, device: torch.device
) -> dict[str, float]:
    """Returns ``params``, ``flops`` and ``latency_ms`` of the net; moves it to the device.

    ``flops`` are the floating-point operations of one image's forward pass, a multiplication and
    an addition counted as two. ``latency_ms`` is the median time of one image's forward pass on
    the device, in float32 and warmed up, over 5 to 31 runs within 10 ms. The weights and torch's
    random state do not change.
    """
    layout = torch.channels_last
    was_training = model.training
    model = model.to(device).to(memory_format=layout).eval()
    image = torch.zeros(1, *input_shape, device=device).contiguous(memory_format=layout)
    with torch.inference_mode():
        counted = _count(model, image)
        # the first passes allocate memory and choose kernels
        for _ in range(_WARM_UPS):
            _timed(model, image)
        runs: list[float] = []
        while len(runs) < _MIN_RUNS or (len(runs) < _MAX_RUNS and sum(runs) < _BUDGET_SECONDS):
            runs.append(_timed(model, image))
    model.train(was_training)
    # the median ignores passes that were preempted
    return {**counted, "latency_ms": statistics.median(runs) * 1e3}


def count(spec: NetSpec, input_shape: tuple[int, int, int], classes: int) -> dict[str, float]:
    """Returns ``params`` and ``flops`` of a net of any size, without allocating its weights.

    A custom model is allocated, on the CPU: its factory may use the values of tensors.
    """
    device = "cpu" if isinstance(spec, FactorySpec) else "meta"
    with torch.device(device), torch.inference_mode():
        model = build(spec, input_shape, classes).eval()
        return _count(model, torch.empty(1, *input_shape))


def _count(model: nn.Module, image: Tensor) -> dict[str, float]:
    with FlopCounterMode(display=False) as counter:
        leave_uncompiled(type(counter.mode))
        model(image)
    params = sum(parameter.numel() for parameter in model.parameters())
    return {"params": params, "flops": int(counter.get_total_flops())}


def _timed(model: nn.Module, image: Tensor) -> float:
    begin = time.perf_counter()
    model(image)
    if image.device.type == "cuda":
        torch.cuda.synchronize(image.device)  # the current device may be another GPU
    elif image.device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter() - begin
