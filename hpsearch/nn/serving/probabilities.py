"""From images to the probabilities of their classes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hpsearch.nn.data.tensors import Scaler
from hpsearch.nn.training.loop import images_at_once


@torch.inference_mode()
def probabilities(
    model: nn.Module,
    images: Tensor,
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    device: torch.device,
) -> Tensor:
    """Returns the probability of each class for each image, (N, classes) float32 on the processor.

    In float32 whatever the model was trained in; dropout is off, and batch norm uses the statistics
    of the training.

    Args:
        model: on the device.
        images: (N, C, H, W) uint8, channels-last, N at least 1, anywhere.
        mean: per channel, of images scaled to [0, 1].
        std: likewise.
        device: where to compute.
    """
    model.eval()
    _, _, height, width = images.shape
    scaler = Scaler(mean, std, width=width, device=device)
    size = images_at_once(device, height * width)
    rows = [
        model(scaler(images[start : start + size].to(device))).float().softmax(dim=1).cpu()
        for start in range(0, len(images), size)
    ]
    return torch.cat(rows)  # (N, classes)
