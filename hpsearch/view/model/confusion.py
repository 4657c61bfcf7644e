"""The confusion matrix as a table and a picture, and examples of the most confused classes."""

from __future__ import annotations

import csv
import io
import logging
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from hpsearch.core.analysis.metrics import Scores
from hpsearch.errors import plural

# matplotlib warns, already while it is imported, of a home that cannot be written.
logging.getLogger("matplotlib").setLevel(logging.ERROR)
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.font_manager import findfont, get_font  # noqa: E402

_FONT = "DejaVu Sans"  # ships with matplotlib and knows most alphabets
_DPI = 100
_INK, _PALE, _PAPER = "#202024", "#787880", "white"
_RIGHT, _WRONG = (23, 92, 150), (190, 70, 20)  # RGB; the diagonal is also known by its position
_SIDE = 1100  # pixels that the cells of a large matrix share
_CELLS = (3, 46)  # pixels of a cell, at least and at most
_NUMBERS = 20  # pixels that a cell needs for its number
_LABELS = 11  # pixels that a row needs for its label
_LETTERS = 18  # of a class name
_EXAMPLES = 8  # of a pair
_THUMB, _GAPS = 72, (10, 6)  # pixels: an example; the space below and beside it

Pixels = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.int64]


def matrix_csv(scores: Scores) -> str:
    """Returns the confusion matrix as CSV: a row per true class, a column per predicted one."""
    names = [each.name for each in scores.classes]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["true", *names])
    writer.writerows([name, *row] for name, row in zip(names, scores.matrix.tolist(), strict=True))
    return file.getvalue()


def matrix_picture(scores: Scores, *, title: str) -> bytes:
    """Returns the confusion matrix as a PNG picture, true classes down, predicted ones across.

    The darkness of a cell is the square root of its share of its row, so that rare mistakes show.
    A cell shows its number if there is room.
    """
    names = _labels(scores)
    cell = min(_CELLS[1], max(_CELLS[0], _SIDE // len(names)))
    side = cell * len(names) / _DPI
    figure = Figure(figsize=(side, side), dpi=_DPI)
    axes = figure.add_axes((0, 0, 1, 1))
    shares = np.sqrt(scores.matrix / np.maximum(scores.matrix.sum(axis=1, keepdims=True), 1))
    full = np.where(np.eye(len(names), dtype=bool)[..., None], _RIGHT, _WRONG)
    axes.imshow((255 - (255 - full) * shares[..., None]).round().astype(np.uint8))
    every = math.ceil(_LABELS / cell)
    ticks, letters = range(0, len(names), every), _letters(min(15, max(9, cell - 2)))
    axes.set_xticks(ticks, names[::every], rotation=90, **letters)
    axes.set_yticks(ticks, names[::every], **letters)
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    axes.xaxis.set_label_position("top")
    axes.set_xlabel("predicted", **_letters(13, _PALE), loc="left")
    axes.set_ylabel("true", **_letters(13, _PALE), loc="top")
    axes.set_title(title, **_letters(16), loc="left")
    axes.spines[:].set_color(_PALE)
    if cell >= _NUMBERS:
        size = min(14, max(8, int(cell * 1.2 / max(2, len(str(scores.matrix.max()))))))
        for row, column in np.argwhere(scores.matrix > 0).tolist():
            ink = _PAPER if shares[row, column] > 0.6 else _INK
            middle = {**_letters(size, ink), "ha": "center", "va": "center"}
            axes.text(column, row, str(scores.matrix[row, column]), **middle)
    return _png(figure)


def confused_picture(scores: Scores, images: Pixels, labels: Indices, predicted: Indices) -> bytes:
    """Returns a PNG sheet of the most confused pairs, a row each: true → predicted, with examples.

    Args:
        scores: name the pairs.
        images: (N, H, W, C) uint8.
        labels: (N,), the true classes.
        predicted: (N,).
    """
    if not scores.confused:
        figure = Figure(dpi=_DPI)
        text = f"none of {scores.n:,} test images was taken for another class"
        figure.text(0, 0, text, **_letters(15))
        return _png(figure)
    names = [each.name for each in scores.classes]
    shown = dict(zip(names, _labels(scores), strict=True))
    rows, columns = len(scores.confused), min(_EXAMPLES, max(p.count for p in scores.confused))
    below, beside = _GAPS
    size = columns * (_THUMB + beside) - beside, rows * (_THUMB + below) - below
    figure = Figure(figsize=(size[0] / _DPI, size[1] / _DPI), dpi=_DPI)
    figure.subplots_adjust(0, 0, 1, 1, wspace=beside / _THUMB, hspace=below / _THUMB)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for cells, pair in zip(grid, scores.confused, strict=True):
        mistaken = (labels == names.index(pair.true)) & (predicted == names.index(pair.predicted))
        for axes, index in zip(cells, np.flatnonzero(mistaken).tolist(), strict=False):
            image = images[index, ..., 0 if images.shape[3] == 1 else slice(3)]
            # The pixels of a small image stay squares.
            how = "nearest" if max(image.shape) < _THUMB else "auto"
            axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation=how)
        words = {"transform": cells[0].transAxes, "ha": "right"}
        text = f"{shown[pair.true]} → {shown[pair.predicted]}"
        cells[0].text(-0.2, 0.55, text, **_letters(15), **words)
        count = plural(pair.count, "image")
        cells[0].text(-0.2, 0.2, count, **_letters(13, _PALE), **words)
    return _png(figure)


def _letters(pixels: int, color: str = _INK) -> dict[str, Any]:
    """Returns properties of a text: a class name is never a formula, whatever it contains."""
    style = {"fontsize": pixels * 72 / _DPI, "color": color, "fontfamily": _FONT}
    return {**style, "parse_math": False, "usetex": False}


def _labels(scores: Scores) -> list[str]:
    """The class names as the pictures show them: short, and in letters that the font has.

    Any other name is replaced by its row in confusion.csv, so that no two look alike.
    """
    font = get_font(findfont(_FONT))
    labels = []
    for row, each in enumerate(scores.classes, 1):
        name = each.name
        is_legible = name.isprintable() and all(font.get_char_index(ord(c)) for c in name)
        if len(name) > _LETTERS:  # its middle is left out: names often share their beginnings
            name = f"{name[: _LETTERS // 2 - 1]}..{name[1 - _LETTERS // 2 :]}"
        labels.append(name if is_legible and name.strip() else f"row {row}")
    return labels


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", facecolor=_PAPER, bbox_inches="tight", pad_inches=16 / _DPI)
    return file.getvalue()
