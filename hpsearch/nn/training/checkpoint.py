"""Checkpoints as bytes: weights, optimizer and curve under a digest; loading one runs no code."""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from hpsearch.core.trial import Curve, Epoch
from hpsearch.nn.training.loop import Progress

_FORMAT = b"hpsearch checkpoint 2\n"
# What torch and the code below raise for content that another program or version has written.
_FOREIGN = (
    RuntimeError,
    pickle.UnpicklingError,
    EOFError,
    LookupError,
    AttributeError,
    TypeError,
    ValueError,
    ArithmeticError,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The state that a training resumes from; ``owner`` identifies the trial it belongs to."""

    owner: str
    weights: Mapping[str, Any]
    progress: Progress
    curve: Curve


def pack(model: nn.Module, progress: Progress, curve: Curve, *, owner: str) -> bytes:
    """Returns the checkpoint of a training after its last epoch, with its ``owner``."""
    content = {
        "owner": owner,
        "weights": model.state_dict(),
        "epoch": progress.epoch,
        "optimizer": progress.optimizer,
        "step_seconds": torch.tensor(progress.step_seconds, dtype=torch.float64),
        "curve": [_plain(epoch) for epoch in curve],
    }
    file = io.BytesIO()
    torch.save(content, file)
    return sealed(file.getvalue())


def _plain(epoch: Epoch) -> dict[str, float]:
    # A custom training may yield NumPy's floats, which weights_only refuses to load.
    measured = {name: float(value) for name, value in asdict(epoch).items()}
    return {**measured, "epoch": epoch.epoch}


def sealed(content: bytes) -> bytes:
    """Returns the content after a line that names the format, and the content's SHA-256."""
    return _seal(content) + content


def _seal(content: bytes) -> bytes:
    return _FORMAT + hashlib.sha256(content).digest()


def _unsealed(packed: bytes) -> bytes | None:
    """Returns the content that :func:`sealed` got; None if a single bit has changed since."""
    start = len(_seal(b""))
    content = packed[start:]
    return content if packed[:start] == _seal(content) else None


def unpack(packed: bytes, *, device: torch.device) -> Checkpoint | None:
    """Returns the checkpoint from :func:`pack`, tensors on the device.

    Returns None if it is damaged, or was written by another version.
    """
    content = _unsealed(packed)
    if content is None:
        return None
    try:
        # weights_only: a file from a shared bucket must not run code when it is loaded
        found = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
        progress = Progress(
            epoch=found["epoch"],
            optimizer=found["optimizer"],
            step_seconds=tuple(found["step_seconds"].tolist()),
        )
        curve = tuple(Epoch(**epoch) for epoch in found["curve"])
        return Checkpoint(
            owner=found["owner"], weights=found["weights"], progress=progress, curve=curve
        )
    except _FOREIGN:
        return None


def fits(weights: Mapping[str, Any], model: nn.Module) -> bool:
    """Whether the model has exactly these weights, in these shapes.

    Asked before they are loaded: ``load_state_dict`` copies those that fit before it raises.
    """
    own = model.state_dict()
    shapes = [{k: getattr(v, "shape", None) for k, v in each.items()} for each in (own, weights)]
    return shapes[0] == shapes[1]
