"""A trained model as a folder of safetensors and JSON, and back; nothing in it is ever run.

A net of the person's own is code that the folder only names: it runs when the caller names it too.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from hpsearch.core.spec import FactorySpec
from hpsearch.errors import DataError, ModelError
from hpsearch.nn.data.tensors import Scaler
from hpsearch.nn.models import custom as own
from hpsearch.nn.models.cnn import build
from hpsearch.nn.runtime.device import pick_device
from hpsearch.nn.serving.inputs import as_images, read_all
from hpsearch.nn.serving.model_config import CONFIG, ModelConfig, read_config, refuse, write_config
from hpsearch.nn.training.loop import images_at_once
from hpsearch.nn.user_code import add_import_path, import_function, user_code_errors
from hpsearch.util.atomic import FolderKind


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


WEIGHTS, ONNX = "model.safetensors", "model.onnx"
_OTHERS = ("metrics.json", "confusion.csv", "confusion.png", "confused.png", "README.md")
MODEL_FOLDER = FolderKind(
    name="model folder",
    marks=frozenset((CONFIG, WEIGHTS)),
    files=frozenset((CONFIG, WEIGHTS, ONNX, *_OTHERS)),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """What a model makes of N images: ``probabilities`` (N, K) float32 of the K ``names``."""

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
        """Returns an image's ``count`` most probable classes, those first, with probabilities."""
        row = self.probabilities[image]
        return [(self.names[i], float(row[i])) for i in np.argsort(-row, kind="stable")[:count]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A trained model, ready to predict. Made by :func:`load_model`."""

    config: ModelConfig
    net: nn.Module
    device: torch.device

    def predict(self, images: npt.NDArray[np.uint8] | Sequence[str | Path]) -> Predictions:
        """Returns the probability of each class for each image.

        Args:
            images: uint8 N×H×W, N×H×W×C or N×C×H×W, or the paths of image files. Images of another
                size or mode are made to fit as the model's card says.

        Raises:
            DataError: there are no images, they have another number of channels or another type,
                or a file is no image; the message names it.
        """
        config = self.config
        if isinstance(images, (str, Path)):
            images = [images]
        if isinstance(images, np.ndarray):
            pixels = as_images(images, size=config.size, channels=config.channels, what="images")
        else:
            pixels = read_all(images, size=config.size, channels=config.channels)
        if not len(pixels):
            raise DataError("images: found none, expected at least 1; give some")
        rows = probabilities(
            self.net,
            torch.from_numpy(pixels).permute(0, 3, 1, 2),  # (N, C, H, W), channels-last
            mean=config.mean,
            std=config.std,
            device=self.device,
        )
        return Predictions(probabilities=rows.numpy(), names=config.classes)


def write_model(folder: Path, net: nn.Module, config: ModelConfig) -> None:
    """Writes the weights and what they need into a folder."""
    # Cloned: a net of the person's own may share weights, which safetensors refuses.
    weights = {
        n: value.detach().cpu().contiguous().clone() for n, value in net.state_dict().items()
    }
    (folder / WEIGHTS).write_bytes(save(weights))
    write_config(folder, config)


def load_model(
    folder: str | Path, *, device: str = "auto", factory: str | own.Builder | None = None
) -> LoadedModel:
    """Loads a model that ``hpsearch train`` wrote; reads JSON and safetensors, runs nothing.

    Args:
        folder: the model folder.
        device: where to predict: auto, cpu, cuda, cuda:1 or mps.
        factory: allows a net of one's own to be built: the name that the folder gives, which is
            then imported, or the function itself. Without it no such code is run.

    Raises:
        ModelError: the folder is missing, damaged or of a newer version, or its net is built by
            another factory than the one that was named.
        SpecError: the factory cannot be imported, or fails.
        DeviceError: this machine has no such device.
    """
    folder = Path(folder).expanduser()
    if not os.path.isdir(folder):  # which answers for names too long to be asked for
        found = "a file" if os.path.exists(folder) else "no such folder"
        raise ModelError(
            f"{str(folder)[:200]}: found {found}, expected a folder that `hpsearch train -o`"
            " wrote; check the path"
        )
    config = read_config(folder)
    net = _read_weights(folder / WEIGHTS, _blueprint(folder / CONFIG, config, factory))
    picked = pick_device(device)
    net = net.to(picked).to(memory_format=torch.channels_last).eval()
    return LoadedModel(config=config, net=net, device=picked)


def _blueprint(path: Path, config: ModelConfig, factory: str | own.Builder | None) -> nn.Module:
    """The net, its weights yet to come."""
    spec = config.model
    name = spec.factory if isinstance(spec, FactorySpec) else None
    if isinstance(factory, str) and factory != name:
        found = f"a net built by {name!r}" if name else "a built-in net"
        advice = f"pass --factory {name} (in Python: factory={name!r})" if name else "leave it out"
        raise ModelError(f"{path}: found {found}, expected factory {factory!r}; {advice}")
    if not isinstance(spec, FactorySpec):
        with torch.device("meta"):  # takes no memory, whatever the file claims
            return build(spec, config.input_shape, len(config.classes))
    if factory is None:
        raise ModelError(
            f"{path}: found a net built by {name!r}, which is code that loading does not run"
            f" unasked; if you trust it, allow it with --factory {name} (in Python:"
            f" factory={name!r})"
        )
    add_import_path(None)
    builder = import_function(own.KEY, factory) if isinstance(factory, str) else factory
    with user_code_errors(own.KEY, spec.factory):
        return own.assemble(spec, config.input_shape, len(config.classes), builder=builder)


def _read_weights(path: Path, net: nn.Module) -> nn.Module:
    try:
        weights = load_file(path)
    except FileNotFoundError:
        refuse(path, "is missing")
    except (SafetensorError, OSError, ValueError) as exc:
        refuse(path, f"cannot be read ({exc})")
    expected, found = _shapes(net.state_dict()), _shapes(weights)
    for name in expected | found:
        if expected.get(name) != found.get(name):
            what, wanted = found.get(name, "nothing"), expected.get(name, "nothing")
            refuse(path, f"found {what} for {name!r} where {CONFIG} says {wanted}")
        if not weights[name].isfinite().all():
            refuse(path, f"found values in {name!r} that are no numbers")
    net.load_state_dict(weights, assign=True)
    return net


def _shapes(weights: Mapping[str, torch.Tensor]) -> dict[str, str]:
    return {name: f"{list(w.shape)} {w.dtype}".replace("torch.", "") for name, w in weights.items()}
