"""Predicts the class of images with a trained model."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from hpsearch.core.plural import plural
from hpsearch.errors import DataError
from hpsearch.nn.data.tensors import Scaler
from hpsearch.nn.serving.inputs import as_images, gather, read_all
from hpsearch.nn.serving.model_config import ModelConfig
from hpsearch.nn.training.loop import images_at_once

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """A model's predictions for N images: ``probabilities`` (N, K) float32 of the K ``names``."""

    probabilities: npt.NDArray[np.float32]
    names: tuple[str, ...]

    @property
    def indices(self) -> npt.NDArray[np.int64]:
        """The most probable class of each image, (N,), as an index into ``names``."""
        return np.asarray(self.probabilities.argmax(axis=1), np.int64)

    @property
    def classes(self) -> list[str]:
        """The name of the most probable class of each image."""
        return [self.names[index] for index in self.indices]

    @property
    def confidences(self) -> npt.NDArray[np.float32]:
        """The probability of the most probable class of each image, (N,)."""
        return np.asarray(self.probabilities.max(axis=1))

    def top(self, image: int, count: int) -> list[tuple[str, float]]:
        """Returns an image's ``count`` most probable classes and their probabilities, in order."""
        row = self.probabilities[image]
        return [(self.names[i], float(row[i])) for i in np.argsort(-row, kind="stable")[:count]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A trained model, ready to predict; :func:`hpsearch.load_model` returns one."""

    config: ModelConfig
    net: nn.Module
    device: torch.device

    def predict(self, images: npt.NDArray[np.uint8] | Sequence[str | Path]) -> Predictions:
        """Returns the probability of each class for each image.

        Args:
            images: uint8 N×H×W, N×H×W×C or N×C×H×W, or the paths of image files. Images of another
                size or mode are converted as the model card describes.

        Raises:
            DataError: there are no images, they have the wrong number of channels or type, or a
                file is not an image; the message names it.
        """
        config = self.config
        if isinstance(images, (str, Path)):
            images = [images]
        if isinstance(images, np.ndarray):
            pixels = as_images(images, size=config.size, channels=config.channels, what="images")
        else:
            pixels = read_all(images, size=config.size, channels=config.channels)
        if not len(pixels):
            raise DataError("images: found none, expected at least 1; pass some")
        rows = probabilities(
            self.net,
            torch.from_numpy(pixels).permute(0, 3, 1, 2),  # (N, C, H, W), channels-last
            mean=config.mean,
            std=config.std,
            device=self.device,
        )
        return Predictions(probabilities=rows.numpy(), names=config.classes)


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

    Computes in float32, whatever type the training used, without dropout and with the batch-norm
    statistics of the training. The model is on ``device``; ``images`` (N, C, H, W) uint8,
    channels-last, N at least 1, on any; ``mean`` and ``std`` are per channel, of images scaled to
    [0, 1].
    """
    model.eval()
    _, _, height, width = images.shape
    scaler = Scaler(mean, std, width=width, device=device)
    size = images_at_once(device, height * width)
    # In batches: all images at once would not fit into the memory of the device.
    rows = [
        model(scaler(images[start : start + size].to(device))).float().softmax(dim=1).cpu()
        for start in range(0, len(images), size)
    ]
    return torch.cat(rows)  # (N, classes)


def classify(
    model: LoadedModel, paths: Sequence[str | Path], *, top: int = 1
) -> list[dict[str, Any]]:
    """Returns ``file``, ``class`` and ``probability`` of each image, as JSON can hold them.

    Logs each file that cannot be read and skips it.

    Args:
        model: from :func:`hpsearch.nn.serving.model_folder.load_model`.
        paths: files, folders with their subfolders, and ``.npz`` files, whose images are named
            ``path[index]``.
        top: with more than 1, each image also gets this many classes in ``top``, the most probable
            first.

    Raises:
        DataError: no image could be read.
    """
    config, rows, unreadable = model.config, [], 0

    def refuse(line: str) -> None:
        nonlocal unreadable
        unreadable += 1
        _log.info(line)

    for batch in gather(paths, size=config.size, channels=config.channels, refuse=refuse):
        predictions = model.predict(batch.pixels)
        best = zip(batch.names, predictions.classes, predictions.confidences.tolist(), strict=True)
        for image, (name, label, probability) in enumerate(best):
            row: dict[str, Any] = {"file": name, "class": label, "probability": probability}
            if top > 1:
                ranked = predictions.top(image, top)
                row["top"] = [{"class": c, "probability": p} for c, p in ranked]
            rows.append(row)
    if not rows:
        raise DataError("found no readable image, expected at least 1; pass other paths")
    if unreadable:
        _log.info("skipped %s that could not be read", plural(unreadable, "file", thousands=","))
    return rows
