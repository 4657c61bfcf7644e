"""A trained model as a folder of safetensors and JSON: written, and loaded without running code.

A custom model is code that the folder only names: it runs only if the caller names it too.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from hpsearch.core.spec import FactorySpec
from hpsearch.errors import ModelError
from hpsearch.nn.models import custom as own
from hpsearch.nn.models.cnn import build
from hpsearch.nn.runtime.device import pick_device
from hpsearch.nn.serving.model_config import CONFIG, ModelConfig, read_config, refuse, write_config
from hpsearch.nn.serving.predict import LoadedModel
from hpsearch.nn.user_code import add_import_path, import_function, user_code_errors
from hpsearch.util.atomic import FolderKind

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
    (folder / WEIGHTS).write_bytes(save(weights))
    write_config(folder, config)


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
    folder = Path(folder).expanduser()
    if not os.path.isdir(folder):  # unlike Path.is_dir, False for names that are too long
        what = "a file" if os.path.exists(folder) else "no such folder"
        raise ModelError(
            f"{str(folder)[:200]}: found {what}, expected a folder that `hpsearch train -o`"
            " wrote; check the path"
        )
    config = read_config(folder)
    # the weights are checked against the net that the config describes
    net = _build(folder / CONFIG, config, factory)
    _read_weights(folder / WEIGHTS, net)
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
        return own.assemble(spec, config.input_shape, len(config.classes), builder=builder)


def _read_weights(path: Path, net: nn.Module) -> None:
    """Loads the weights after comparing names, shapes and types with the model's."""
    try:
        weights = load_file(path)
    except FileNotFoundError:
        refuse(path, "is missing")
    except (SafetensorError, OSError, ValueError) as exc:
        refuse(path, f"cannot be read ({exc})")
    expected, present = _shapes(net.state_dict()), _shapes(weights)
    for name in expected | present:
        if expected.get(name) != present.get(name):
            what, wanted = present.get(name, "nothing"), expected.get(name, "nothing")
            refuse(path, f"found {what} for {name!r} where {CONFIG} says {wanted}")
        if not weights[name].isfinite().all():
            refuse(path, f"found NaN or infinity in {name!r}")
    net.load_state_dict(weights, assign=True)


def _shapes(weights: Mapping[str, torch.Tensor]) -> dict[str, str]:
    return {name: f"{list(w.shape)} {w.dtype}".replace("torch.", "") for name, w in weights.items()}
