"""A model as an ONNX file, preprocessing included, and the proof that it computes the same."""

from __future__ import annotations

import contextlib
import copy
import logging
import warnings
from collections.abc import Iterator
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
from hpsearch.nn.serving.model_folder import LoadedModel

TOLERANCE = 1e-3  # of a probability
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_INPUT, _OUTPUT = "images", "probabilities"
_AT_ONCE = 256  # images


def check_installed() -> None:
    """Checks that what writing and checking an ONNX file needs is there.

    Raises:
        ModelError: a package is missing.
    """
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise ModelError(
            f"--onnx needs {', '.join(missing)}, which is not installed;"
            " pip install 'hpsearch[onnx]'"
        )


def describe(model: LoadedModel) -> dict[str, Any]:
    """Returns what the ONNX file of the model takes and returns, as JSON can hold it."""
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
        "output": {
            "name": _OUTPUT,
            "type": "float32",
            "shape": ["batch", len(config.classes)],
        },
    }


def write_onnx(path: Path, model: LoadedModel, images: npt.NDArray[np.uint8]) -> float:
    """Writes the model as an ONNX file, after it has told every image as the model itself does.

    Args:
        path: the file.
        model: the model.
        images: (N, H, W, C) uint8, real ones, N at least 1.

    Returns:
        The largest difference of a probability.

    Raises:
        ModelError: the model cannot be exported, the most probable class differs on an image, or
            a probability by more than :data:`TOLERANCE`; no file is written then.
    """
    cpu = torch.device("cpu")  # where torch computes in full float32; a GPU may round to TF32
    model = replace(model, net=copy.deepcopy(model.net).to(cpu), device=cpu)
    content = _exported(model)
    found, expected = _run(content, images), model.predict(images).probabilities
    apart = float(np.abs(found - expected).max())
    other = np.flatnonzero(found.argmax(1) != expected.argmax(1))
    if len(other) or not apart <= TOLERANCE:
        raise ModelError(
            f"the ONNX file tells {len(other)} of {len(images)} test images otherwise than torch,"
            f" probabilities differ by up to {apart:.2g}, expected none and {TOLERANCE:g}; it was"
            " not written, the rest of the model folder was"
        )
    path.write_bytes(content)
    return apart


class _WholeModel(nn.Module):
    """Maps images (N, H, W, C) uint8 to probabilities (N, K) float32."""

    def __init__(self, model: LoadedModel) -> None:
        super().__init__()
        config = model.config
        std = torch.tensor(config.std).clamp(min=1e-6)
        self.factor: Tensor
        self.offset: Tensor
        self.register_buffer("factor", 1 / (255 * std))
        self.register_buffer("offset", -torch.tensor(config.mean) / std)
        self.net = model.net

    def forward(self, images: Tensor) -> Tensor:
        scaled = images.to(torch.float32) * self.factor + self.offset  # (N, H, W, C)
        logits: Tensor = self.net(scaled.permute(0, 3, 1, 2))
        return logits.softmax(dim=1)


def _exported(model: LoadedModel) -> bytes:
    height, width = model.config.size
    example = torch.zeros(2, height, width, model.config.channels, dtype=torch.uint8)
    with _silent(), _told_failures():
        program = torch.onnx.export(
            _WholeModel(model).eval(),
            (example,),
            dynamo=True,
            input_names=[_INPUT],
            output_names=[_OUTPUT],
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
            verbose=False,
        )
    assert program is not None
    return bytes(program.model_proto.SerializeToString())


@contextlib.contextmanager
def _told_failures() -> Iterator[None]:
    """Says in one line that the exporter failed, so that the trained model is kept without it."""
    try:
        yield
    except torch.onnx.OnnxExporterError as exc:
        raise ModelError(
            f"the ONNX file could not be made ({reason(exc)}); it was not written, the rest of the"
            " model folder was; try other versions of torch, onnx and onnxscript"
        ) from exc


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keeps what the exporter tells its developers from the person."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


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
