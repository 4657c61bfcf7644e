"""Convolutional nets built from specs: blocks, then the head."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hpsearch.core.spec import FactorySpec, ModelSpec, NetSpec
from hpsearch.errors import DataError
from hpsearch.nn.models import custom

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
            return custom.assemble(spec, input_shape, classes)
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
