"""The images that a person names, with the class that a model takes each for."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hpsearch.errors import DataError
from hpsearch.nn.serving.inputs import gather
from hpsearch.nn.serving.model_folder import LoadedModel

_log = logging.getLogger(__name__)


def classify(
    model: LoadedModel,
    paths: Sequence[str | Path],
    *,
    top: int = 1,
) -> list[dict[str, Any]]:
    """Returns ``file``, ``class`` and ``probability`` of each image, as JSON can hold them.

    Files that cannot be read are logged, a line each, and skipped.

    Args:
        model: from :func:`hpsearch.nn.serving.model_folder.load_model`.
        paths: files, folders with all below them, and ``.npz`` files, whose images are named
            ``path[index]``.
        top: of how many classes to tell; several come as ``top`` too, the most probable first.

    Raises:
        DataError: not one image could be read.
    """
    config, rows = model.config, []
    refused: list[str] = []

    def refuse(line: str) -> None:
        refused.append(line)
        _log.info(line)

    size, channels = config.size, config.channels
    for batch in gather(paths, size=size, channels=channels, refuse=refuse):
        told = model.predict(batch.pixels)
        best = zip(batch.names, told.classes, told.confidences.tolist(), strict=True)
        rows += [{"file": name, "class": c, "probability": p} for name, c, p in best]
        if top > 1:
            for place, row in enumerate(rows[-len(batch.names) :]):
                row["top"] = [{"class": c, "probability": p} for c, p in told.top(place, top)]
    if not rows:
        raise DataError("found no image that can be read, expected at least 1; name others")
    if refused:
        _log.info(_left_out(len(refused)))
    return rows


def _left_out(count: int) -> str:
    files, are = ("file", "is") if count == 1 else ("files", "are")
    return f"{count:,} {files} could not be read and {are} left out"
