"""Exports a model with its preprocessing as an ONNX file, after comparing the predictions."""

from __future__ import annotations

import copy
import logging
import warnings
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from hpsearch.errors import ModelError
from hpsearch.nn.data.arrays import reason
from hpsearch.nn.serving.predict import LoadedModel

TOLERANCE = 1e-3  # largest accepted difference of a probability
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_INPUT, _OUTPUT = "images", "probabilities"
_AT_ONCE = 256  # images


def check_installed() -> None:
    """Checks that the packages for writing and checking an ONNX file are installed.

    Raises:
        ModelError: a package is missing.
    """
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise ModelError(
            f"--onnx: found no package {', '.join(missing)}, expected it to be installed; run:"
            " pip install 'hpsearch[onnx]'"
        )


def describe(model: LoadedModel) -> dict[str, Any]:
    """Returns a description of the ONNX file's input and output, as JSON can hold it."""
    config = model.config
    height, width = config.size
    return {
        "file": "model.onnx",
        "input": {
            "name": _INPUT,
            "type": "uint8",
            "shape": ["batch", height, width, config.channels],
            "layout": "N×H×W×C, values from 0 to 255; scaling is in the graph, resizing is not",
        },
        "output": {"name": _OUTPUT, "type": "float32", "shape": ["batch", len(config.classes)]},
    }


def write_onnx(path: Path, model: LoadedModel, images: npt.NDArray[np.uint8]) -> float:
    """Writes the model as an ONNX file if its predictions match torch's on every image.

    ``images`` is (N, H, W, C) uint8, real images, N at least 1. Returns the largest difference of a
    probability.

    Raises:
        ModelError: the model cannot be exported, the most probable class differs on an image, or
            a probability by more than :data:`TOLERANCE`; no file is written then.
    """
    cpu = torch.device("cpu")  # computes in full float32; a GPU may round to TF32
    model = replace(model, net=copy.deepcopy(model.net).to(cpu), device=cpu)
    content = _exported(model)
    actual, expected = _run(content, images), model.predict(images).probabilities  # (N, K)
    difference = float(np.abs(actual - expected).max())
    mismatches = np.flatnonzero(actual.argmax(1) != expected.argmax(1))
    if len(mismatches) or not difference <= TOLERANCE:  # also true of NaN
        raise ModelError(
            f"the ONNX file's predictions differ from torch's on {len(mismatches)} of"
            f" {len(images)} test images, probabilities by up to {difference:.2g}, expected none"
            f" and {TOLERANCE:g}; model.onnx was not written, the rest of the model folder was"
        )
    path.write_bytes(content)
    return difference


class _WholeModel(nn.Module):
    """Maps images (N, H, W, C) uint8 to probabilities (N, K) float32."""

    def __init__(self, model: LoadedModel) -> None:
        super().__init__()
        config = model.config
        std = torch.tensor(config.std).clamp(min=1e-6)  # as Scaler does
        self.factor: Tensor
        self.offset: Tensor
        self.register_buffer("factor", 1 / (255 * std))
        self.register_buffer("offset", -torch.tensor(config.mean) / std)
        self.net = model.net

    def forward(self, images: Tensor) -> Tensor:
        scaled = images.to(torch.float32) * self.factor + self.offset  # (N, H, W, C)
        logits: Tensor = self.net(scaled.permute(0, 3, 1, 2))  # (N, K)
        return logits.softmax(dim=1)


def _exported(model: LoadedModel) -> bytes:
    height, width = model.config.size
    example = torch.zeros(2, height, width, model.config.channels, dtype=torch.uint8)
    # the exporter's warnings and log lines are meant for its developers
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                _WholeModel(model).eval(),
                (example,),
                dynamo=True,
                input_names=[_INPUT],
                output_names=[_OUTPUT],
                dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as exc:
        raise ModelError(
            f"the ONNX export failed ({reason(exc)}), expected a model that torch can export;"
            " model.onnx was not written, the rest of the model folder was; try other versions of"
            " torch, onnx and onnxscript"
        ) from exc
    finally:
        logging.disable(before)
    assert program is not None
    return bytes(program.model_proto.SerializeToString())


def _run(content: bytes, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    rows = [
        session.run([_OUTPUT], {_INPUT: images[start : start + _AT_ONCE]})[0]
        for start in range(0, len(images), _AT_ONCE)
    ]
    return np.concatenate(rows)
