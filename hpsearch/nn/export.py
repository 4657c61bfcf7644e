"""A trained model as a folder of safetensors and JSON, and back; nothing in it is ever run.

A net of the person's own is code that the folder only names: it runs when the caller names it too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from hpsearch.core.own import plain as plain_value
from hpsearch.core.space import KNOWN, MAX_BLOCKS
from hpsearch.core.spec import FactorySpec, ModelSpec, NetSpec
from hpsearch.errors import DataError, ModelError
from hpsearch.nn import factory as own
from hpsearch.nn.code import find, look_in, told
from hpsearch.nn.device import pick_device
from hpsearch.nn.draft import Kind
from hpsearch.nn.images import as_images, read_all
from hpsearch.nn.model import MIN_SIDE, build
from hpsearch.nn.predict import probabilities

FORMAT = "hpsearch-model"
VERSION = 1  # of the folder: raise it when an older hpsearch could misread what is written
CONFIG, WEIGHTS, ONNX = "config.json", "model.safetensors", "model.onnx"
_OTHERS = ("metrics.json", "confusion.csv", "confusion.png", "confused.png", "README.md")
MODEL_FOLDER = Kind(
    name="model folder",
    marks=frozenset((CONFIG, WEIGHTS)),
    files=frozenset((CONFIG, WEIGHTS, ONNX, *_OTHERS)),
)
_RESIZE = (
    "upright by its EXIF tag, scaled bilinearly to cover the size, cropped to its middle,"
    " converted to as many channels"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """All that a model's weights need to be used, and where they come from.

    ``input_shape`` is (C, H, W); ``mean`` and ``std`` are per channel, of images scaled to [0, 1].
    ``provenance`` is what JSON can hold. ``onnx`` says what ``model.onnx`` takes and returns; it
    is empty where there is none.
    """

    model: NetSpec
    input_shape: tuple[int, int, int]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    onnx: Mapping[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of an image, in pixels."""
        return self.input_shape[1:]

    @property
    def channels(self) -> int:
        """1 (gray), 3 (RGB) or 4 (RGBA)."""
        return self.input_shape[0]


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
    text = json.dumps(_plain(config), indent=2, ensure_ascii=False)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")


def _plain(config: ModelConfig) -> dict[str, Any]:
    height, width = config.size
    return {
        "format": FORMAT,
        "version": VERSION,
        "model": asdict(config.model),
        "input_shape": list(config.input_shape),
        "classes": list(config.classes),
        "mean": list(config.mean),
        "std": list(config.std),
        "preprocessing": {
            "size": [height, width],
            "channels": config.channels,
            "resize": _RESIZE,
            "scale": "(value / 255 - mean) / std, per channel",
        },
        "onnx": dict(config.onnx) or None,
        "provenance": dict(config.provenance),
    }


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
    if not folder.is_dir():
        raise ModelError(
            f"{folder}: found no such folder, expected one that `hpsearch train -o` wrote; check"
            " the path"
        )
    config = read_config(folder)
    net = _read_weights(folder / WEIGHTS, config, _blueprint(folder / CONFIG, config, factory))
    picked = pick_device(device)
    net = net.to(picked).to(memory_format=torch.channels_last).eval()
    return LoadedModel(config=config, net=net, device=picked)


def read_config(folder: Path) -> ModelConfig:
    """Returns what a model folder's ``config.json`` says.

    Raises:
        ModelError: it is missing, damaged or of a newer version.
    """
    path = folder / CONFIG
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        _refuse(path, "is missing")
    except (OSError, ValueError) as exc:
        _refuse(path, f"cannot be read ({exc})")
    if not isinstance(plain, dict) or plain.get("format") != FORMAT:
        _refuse(path, f"found no format {FORMAT!r} in it")
    version = plain.get("version")
    if isinstance(version, int) and version > VERSION:
        raise ModelError(
            f"{path}: found format version {version}, expected at most {VERSION}; upgrade hpsearch"
        )
    try:
        return _parsed(plain)
    except (KeyError, TypeError, ValueError) as exc:
        what = f"found no {exc}" if isinstance(exc, KeyError) else str(exc)
        _refuse(path, what)


def _refuse(path: Path, what: str) -> NoReturn:
    raise ModelError(
        f"{path}: {what}; expected a whole model folder, copy it again or train the model again"
    ) from None


def _parsed(plain: Mapping[str, Any]) -> ModelConfig:
    channels, height, width = _whole(plain, "input_shape", low=1, high=4096, count=3)
    _expect(channels in (1, 3, 4), "input_shape", plain["input_shape"])
    _expect(min(height, width) >= MIN_SIDE, "input_shape", plain["input_shape"])
    classes = plain["classes"]
    named = isinstance(classes, list) and all(isinstance(name, str) for name in classes)
    _expect(named and len(classes) >= 2, "classes", classes)
    _expect(plain.get("version") == VERSION, "version", plain.get("version"))
    return ModelConfig(
        model=_model_spec(plain["model"]),
        input_shape=(channels, height, width),
        classes=tuple(classes),
        mean=_numbers(plain, "mean", count=channels),
        std=_numbers(plain, "std", count=channels),
        provenance=plain.get("provenance") or {},
        onnx=plain.get("onnx") or {},
    )


def _expect(ok: bool, key: str, found: object) -> None:
    if not ok:
        raise ValueError(f"found {key} {str(found)[:80]}")


def _whole(plain: Mapping[str, Any], key: str, *, low: int, high: int, count: int) -> list[int]:
    values = plain[key]
    ok = isinstance(values, list) and (count == len(values) or not count)
    ok = ok and all(type(value) is int and low <= value <= high for value in values)
    _expect(ok, key, values)
    return list(values)


def _numbers(plain: Mapping[str, Any], key: str, *, count: int) -> tuple[float, ...]:
    values = plain[key]
    ok = isinstance(values, list) and len(values) == count
    ok = ok and all(isinstance(v, (int, float)) and math.isfinite(v) for v in values)
    _expect(ok, key, values)
    return tuple(float(value) for value in values)


def _blueprint(path: Path, config: ModelConfig, factory: str | own.Builder | None) -> nn.Module:
    """The net, its weights yet to come."""
    spec = config.model
    name = spec.factory if isinstance(spec, FactorySpec) else None
    if isinstance(factory, str) and factory != name:
        found = f"a net built by {name!r}" if name else "a built-in net"
        raise ModelError(f"{path}: found {found}, expected factory {factory!r}; leave it out")
    if not isinstance(spec, FactorySpec):
        with torch.device("meta"):  # takes no memory, whatever the file claims
            return build(spec, config.input_shape, len(config.classes))
    if factory is None:
        raise ModelError(
            f"{path}: found a net built by {name!r}, which is code that loading does not run"
            f" unasked; if you trust it, allow it with --factory {name} (in Python:"
            f" factory={name!r})"
        )
    look_in(None)
    builder = find(own.KEY, factory) if isinstance(factory, str) else factory
    with told(own.KEY, spec.factory):
        return own.assemble(spec, config.input_shape, len(config.classes), builder=builder)


def _model_spec(plain: Any) -> NetSpec:
    if isinstance(plain, dict) and set(plain) == {"factory", "params"}:
        name, params = plain["factory"], plain["params"]
        _expect(isinstance(name, str) and isinstance(params, dict), "model", plain)
        return FactorySpec(factory=name, params={k: plain_value(v) for k, v in params.items()})
    names = {each.name for each in fields(ModelSpec)}
    _expect(isinstance(plain, dict) and set(plain) == names, "model", plain)
    widths = _whole(plain, "widths", low=1, high=4096, count=0)
    _expect(1 <= len(widths) <= MAX_BLOCKS, "model.widths", widths)
    rest = {name: KNOWN[name].check(plain[name]) for name in names - {"widths"}}
    return ModelSpec(widths=tuple(widths), **rest)  # type: ignore[arg-type]


def _read_weights(path: Path, config: ModelConfig, net: nn.Module) -> nn.Module:
    try:
        weights = load_file(path)
    except FileNotFoundError:
        _refuse(path, "is missing")
    except (SafetensorError, OSError, ValueError) as exc:
        _refuse(path, f"cannot be read ({exc})")
    expected, found = _shapes(net.state_dict()), _shapes(weights)
    for name in expected | found:
        if expected.get(name) != found.get(name):
            what, wanted = found.get(name, "nothing"), expected.get(name, "nothing")
            _refuse(path, f"found {what} for {name!r} where {CONFIG} says {wanted}")
    net.load_state_dict(weights, assign=True)
    return net


def _shapes(weights: Mapping[str, torch.Tensor]) -> dict[str, str]:
    return {name: f"{list(w.shape)} {w.dtype}".replace("torch.", "") for name, w in weights.items()}


__all__ = [
    "MODEL_FOLDER",
    "LoadedModel",
    "ModelConfig",
    "Predictions",
    "load_model",
    "read_config",
    "write_model",
]
