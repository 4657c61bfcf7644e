"""Checkpoints as bytes: weights, optimizer and curve; loading one runs no code."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from hpsearch.core.trial import Curve, Epoch
from hpsearch.nn.training.loop import Progress


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
        "curve": [asdict(epoch) for epoch in curve],
    }
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def unpack(packed: bytes, *, device: torch.device) -> Checkpoint | None:
    """Returns the checkpoint from :func:`pack`, tensors on the device; None if it is damaged."""
    try:
        # weights_only: a file from a shared bucket must not run code when it is loaded
        content = torch.load(io.BytesIO(packed), map_location=device, weights_only=True)
        progress = Progress(
            epoch=content["epoch"],
            optimizer=content["optimizer"],
            step_seconds=tuple(content["step_seconds"].tolist()),
        )
        curve = tuple(Epoch(**epoch) for epoch in content["curve"])
        return Checkpoint(
            owner=content["owner"], weights=content["weights"], progress=progress, curve=curve
        )
    except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError):
        return None
