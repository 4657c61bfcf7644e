"""Trained models as folders of safetensors and JSON, and their predictions.

A custom model is code that the folder only names: it runs only if the caller names it too.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from hpsearch.core.spec import FactorySpec
from hpsearch.errors import DataError, ModelError, plural
from hpsearch.nn import models as own
from hpsearch.nn.data.arrays import reason
from hpsearch.nn.data.tensors import Scaler
from hpsearch.nn.models import build
from hpsearch.nn.runtime.device import pick_device
from hpsearch.nn.serving.inputs import as_images, gather, read_all
from hpsearch.nn.serving.model_config import CONFIG, ModelConfig, read_config, refuse, write_config
from hpsearch.nn.training.loop import images_at_once
from hpsearch.nn.user_code import add_import_path, import_function, user_code_errors
from hpsearch.util.atomic import FolderKind, read_regular

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
        model: from :func:`hpsearch.nn.serving.predict.load_model`.
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
        # A single file is the whole request: its fault ends the command.
        if len(paths) == 1 and not os.path.isdir(paths[0]):
            raise DataError(line)
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


WEIGHTS, ONNX = "model.safetensors", "model.onnx"
_OTHERS = ("metrics.json", "confusion.csv", "confusion.png", "confused.png", "README.md")
MODEL_FOLDER = FolderKind(
    name="model folder",
    marks=frozenset((CONFIG, WEIGHTS)),
    files=frozenset((CONFIG, WEIGHTS, ONNX, *_OTHERS)),
)


def write_model(folder: Path, net: nn.Module, config: ModelConfig) -> None:
    """Writes the weights and ``config.json`` into a folder."""
    # Cloned: layers of a custom model may share weights, which safetensors refuses.
    weights = {
        name: value.detach().cpu().contiguous().clone() for name, value in net.state_dict().items()
    }
    content = save(weights)
    (folder / WEIGHTS).write_bytes(content)
    write_config(folder, replace(config, weights_sha256=_digest(content)))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def load_model(
    folder: str | Path, *, device: str = "auto", factory: str | own.Builder | None = None
) -> LoadedModel:
    """Loads a model that ``hpsearch train`` wrote: reads JSON and safetensors, runs no code.

    Args:
        folder: the model folder.
        device: where to predict: auto, cpu, cuda, cuda:1 or mps.
        factory: allows a custom model to be built: the name in the model folder, which is then
            imported, or the function itself. Without it no custom code runs.

    Raises:
        ModelError: the folder is missing, damaged or of a newer version, or its model is built by
            another factory.
        SpecError: the factory cannot be imported, or fails.
        DeviceError: this machine has no such device.
    """
    folder = Path(os.path.expanduser(folder))
    if not os.path.isdir(folder):  # unlike Path.is_dir, False for names that are too long
        what = "a file" if os.path.exists(folder) else "no such folder"
        raise ModelError(
            f"{str(folder)[:200]}: found {what}, expected a folder that `hpsearch train -o`"
            " wrote; check the path"
        )
    config = read_config(folder)
    # the weights are checked against the net that the config describes
    net = _build(folder / CONFIG, config, factory)
    _read_weights(folder / WEIGHTS, net, digest=config.weights_sha256)
    picked = pick_device(device)
    net = net.to(picked).to(memory_format=torch.channels_last).eval()
    return LoadedModel(config=config, net=net, device=picked)


def _build(path: Path, config: ModelConfig, factory: str | own.Builder | None) -> nn.Module:
    """Returns the model with arbitrary weights."""
    spec = config.model
    name = spec.factory if isinstance(spec, FactorySpec) else None
    if isinstance(factory, str) and factory != name:
        what = f"a model built by {name!r}" if name else "a built-in model"
        advice = f"pass --factory {name} (in Python: factory={name!r})" if name else "omit it"
        raise ModelError(f"{path}: found {what}, expected factory {factory!r}; {advice}")
    if not isinstance(spec, FactorySpec):
        with torch.device("meta"):  # no memory is allocated, whatever widths the file claims
            return build(spec, config.input_shape, len(config.classes))
    if factory is None:
        raise ModelError(
            f"{path}: found a model built by {name!r}, which is code that loading does not run by"
            f" default; if you trust it, allow it with --factory {name} (in Python:"
            f" factory={name!r})"
        )
    add_import_path(None)
    builder = import_function(own.KEY, factory) if isinstance(factory, str) else factory
    with user_code_errors(own.KEY, spec.factory):
        return own.build_custom(spec, config.input_shape, len(config.classes), builder=builder)


def _read_weights(path: Path, net: nn.Module, *, digest: str | None) -> None:
    """Loads the weights after comparing names, shapes and types with the model's.

    ``digest`` is the hash that the file must have; None accepts any.
    """
    named = net.state_dict()
    # The model limits the size that is read: its tensors, and a header that describes each.
    most = sum(w.nbytes for w in named.values()) + 2**20 + 1024 * len(named)
    try:
        content = read_regular(path, most=most)
        weights = load(content)
    except FileNotFoundError:
        refuse(path, "is missing")
    except OSError as exc:
        refuse(path, f"cannot be read ({exc.strerror})")
    # safetensors and torch raise whatever the damage leads to: KeyError, RuntimeError, …
    except Exception as exc:
        refuse(path, f"cannot be read ({reason(exc)})")
    expected, present = _shapes(named), _shapes(weights)
    for name in expected | present:
        if expected.get(name) != present.get(name):
            what, wanted = present.get(name, "nothing"), expected.get(name, "nothing")
            refuse(path, f"found {what} for {name!r} where {CONFIG} says {wanted}")
        if not weights[name].isfinite().all():
            refuse(path, f"found NaN or infinity in {name!r}")
    if digest not in (None, _digest(content)):
        refuse(path, f"found other weights than those that {CONFIG} describes by weights_sha256")
    net.load_state_dict(weights, assign=True)


def _shapes(weights: Mapping[str, torch.Tensor]) -> dict[str, str]:
    return {name: f"{list(w.shape)} {w.dtype}".replace("torch.", "") for name, w in weights.items()}
