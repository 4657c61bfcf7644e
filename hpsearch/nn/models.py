"""Models built from specs, built-in or by a factory of the user, and their costs.

The contract of ``[model] factory = "mypackage.nets:build"``::

    def build(params: Mapping[str, bool | int | float | str],
              input_shape: tuple[int, int, int], classes: int) -> torch.nn.Module

``params`` holds the trial's values of all dimensions except those of the training; ``input_shape``
is (C, H, W). The model maps images (N, C, H, W) float32, with mean 0 and standard deviation 1 per
channel and channels-last in memory, to logits (N, classes). torch is seeded before each call, so
the same trial starts with the same weights.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from hpsearch.core.dimensions import Value
from hpsearch.core.spec import FactorySpec, ModelSpec, NetSpec
from hpsearch.errors import DataError
from hpsearch.nn.runtime.device import leave_uncompiled
from hpsearch.nn.user_code import import_function

KEY = "model.factory"
Builder = Callable[[Mapping[str, Value], tuple[int, int, int], int], nn.Module]


def build_custom(
    spec: FactorySpec,
    input_shape: tuple[int, int, int],
    classes: int,
    *,
    builder: Builder | None = None,
) -> nn.Module:
    """Returns the model that ``builder`` (None: the spec's factory) builds.

    Raises:
        SpecError: the factory cannot be imported.
        TypeError: it returned no module, one without trainable parameters, or one whose state holds
            anything but tensors.
    """
    build = builder or import_function(KEY, spec.factory)
    # A copy, because a factory may pop what it has read.
    net: Any = build(dict(spec.params), input_shape, classes)
    if not isinstance(net, nn.Module):
        raise TypeError(f"returned {type(net).__name__}, expected a torch.nn.Module")
    if not any(parameter.requires_grad for parameter in net.parameters()):
        raise TypeError("returned a net without a trainable parameter, expected at least one")
    # safetensors stores tensors only; found now, not after the training.
    for name, value in net.state_dict().items():
        if not isinstance(value, torch.Tensor):
            raise TypeError(f"returned a net whose state holds {name!r}, expected tensors only")
    return net


MIN_SIDE = 8  # pixels


class Block(nn.Module):
    """Convolution, batch norm, max-pool (if the image is large enough), ReLU.

    The pool precedes the ReLU: the two commute, and the ReLU then has a quarter of the values.
    One step of 64-128-128-128 took 147 instead of 217 ms, of 16 took 8.5 instead of 10.3 (batch
    64, 28×28, channels-last, float32, one thread of an AMD EPYC Milan, torch 2.14.1).
    """

    def __init__(
        self, channels: int, width: int, *, kernel_size: int, batch_norm: bool, pools: bool
    ) -> None:
        super().__init__()
        padding = kernel_size // 2  # keeps height and width
        # batch norm subtracts the mean, and a bias with it
        self.conv = nn.Conv2d(channels, width, kernel_size, padding=padding, bias=not batch_norm)
        self.norm = nn.BatchNorm2d(width) if batch_norm else nn.Identity()
        self.pools = pools

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, channels, H, W) to (N, width, H or H // 2, W or W // 2)."""
        x = self.norm(self.conv(x))
        if self.pools:
            x = F.max_pool2d(x, 2)  # (N, width, H // 2, W // 2)
        return F.relu(x, inplace=True)


class Classifier(nn.Module):
    """Blocks, then flattening or global average pooling, dropout and a linear layer."""

    def __init__(self, blocks: Sequence[Block], linear: nn.Linear, *, gap: bool, dropout: float):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.dropout = nn.Dropout(dropout)
        self.linear = linear
        self.gap = gap

    def forward(self, images: Tensor) -> Tensor:
        """Maps normalised images (N, C, H, W) to logits (N, classes)."""
        x = images
        for block in self.blocks:
            x = block(x)
        x = x.mean((2, 3)) if self.gap else x.flatten(1)  # (N, features)
        logits: Tensor = self.linear(self.dropout(x))
        return logits


def build(
    spec: NetSpec, input_shape: tuple[int, int, int], classes: int, *, seed: int | None = None
) -> nn.Module:
    """Returns the net that the spec describes, freshly initialised, on the CPU.

    A block pools only if the shorter side is at least 4 pixels, so that every depth is possible
    with every image size.

    A custom model is built by its factory. ``input_shape`` is (C, H, W) of one image, each side at
    least 8 pixels. ``seed`` fixes the initial weights without changing torch's global random state;
    None draws from that state.

    Raises:
        DataError: the images are smaller than 8×8.
    """
    _, height, width = input_shape
    if min(height, width) < MIN_SIDE:
        raise DataError(
            f"images: found {height}×{width} pixels, expected at least {MIN_SIDE}×{MIN_SIDE};"
            " enlarge them, or set data.image_size for a folder of images"
        )
    with contextlib.ExitStack() as stack:
        if seed is not None:
            stack.enter_context(torch.random.fork_rng(devices=[]))  # restores the state
            torch.default_generator.manual_seed(seed)
        if isinstance(spec, FactorySpec):
            return build_custom(spec, input_shape, classes)
        return _classifier(spec, input_shape, classes)


def _classifier(spec: ModelSpec, input_shape: tuple[int, int, int], classes: int) -> Classifier:
    channels, height, width = input_shape
    blocks = []
    for features in spec.widths:
        # pooling a smaller image would leave less than 2 pixels a side
        pools = min(height, width) >= 4
        blocks.append(
            Block(
                channels,
                features,
                kernel_size=spec.kernel_size,
                batch_norm=spec.batch_norm,
                pools=pools,
            )
        )
        channels = features
        if pools:
            height, width = height // 2, width // 2
    gap = spec.head == "gap"
    linear = nn.Linear(channels if gap else channels * height * width, classes)
    return Classifier(blocks, linear, gap=gap, dropout=spec.dropout)


_WARM_UPS = 2  # in addition to the pass that counts operations
_MIN_RUNS, _MAX_RUNS = 5, 31
_BUDGET_SECONDS = 0.01


def measure_costs(
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
    # Zeros suffice: neither kernels nor counts depend on the values of pixels.
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


def count_costs(spec: NetSpec, input_shape: tuple[int, int, int], classes: int) -> dict[str, float]:
    """Returns ``params`` and ``flops`` of a net of any size, without allocating its weights.

    A custom model is allocated, on the CPU: its factory may use the values of tensors.
    """
    # Tensors on "meta" have shapes and no memory, so the largest net of a space costs nothing.
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
    # A GPU returns at once and computes later: the clock stops when it is done.
    if image.device.type == "cuda":
        torch.cuda.synchronize(image.device)  # the current device may be another GPU
    elif image.device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter() - begin
