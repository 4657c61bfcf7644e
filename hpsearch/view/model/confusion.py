"""What a model mistakes for what: the confusion matrix as a table and a picture, with examples."""

from __future__ import annotations

import csv
import functools
import io
import math
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from hpsearch.core.analysis.metrics import Scores
from hpsearch.core.plural import plural

_INK, _PALE, _PAPER = (32, 32, 36), (120, 120, 128), (255, 255, 255)
_RIGHT, _WRONG = (23, 92, 150), (190, 70, 20)  # told apart by their place too: the diagonal
_SIDE = 1100  # pixels that the cells of a large matrix share
_CELLS = (3, 46)  # pixels, at least and at most
_NUMBERS = 20  # pixels a cell must have for its number
_LABELS = 11  # pixels a row must have for its label
_LETTERS = 18  # of a class's name
_EXAMPLES = 8  # of a pair
_THUMB = 72  # pixels

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

    A cell is the darker the larger its share of its row (by the square root, so that rare mistakes
    show); it bears its number where there is room.
    """
    names = _labels(scores)
    cell = min(_CELLS[1], max(_CELLS[0], _SIDE // len(names)))
    letters = _font(min(15, max(9, cell - 2)))
    every = math.ceil(_LABELS / cell)
    margin = 12 + max(_width(letters, name) for name in names)
    left, top, side = margin + 30, margin + 62, cell * len(names)
    width = max(left + side + 16, _width(_font(16), title) + 24)
    picture = Image.new("RGB", (width, top + side + 16), _PAPER)
    pen = ImageDraw.Draw(picture)
    pen.text((12, 10), title, fill=_INK, font=_font(16))
    pen.text((left, 36), "predicted", fill=_PALE, font=_font(13))
    _write_up(picture, "true", at=(10, top), font=_font(13), ink=_PALE)
    for place, name in enumerate(names):
        if place % every == 0:
            middle = place * cell + cell // 2
            pen.text((left - 6, top + middle), name, fill=_INK, font=letters, anchor="rm")
            half = (int(letters.size) + 4) // 2
            _write_up(picture, name, at=(left + middle - half, top - 6), font=letters, ink=_INK)
    _draw_cells(pen, scores, at=(left, top), cell=cell)
    pen.rectangle((left, top, left + side, top + side), outline=_PALE)
    return _png(picture)


def _draw_cells(
    pen: ImageDraw.ImageDraw, scores: Scores, *, at: tuple[int, int], cell: int
) -> None:
    matrix = scores.matrix
    shares = np.sqrt(matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1))
    longest = len(str(matrix.max()))
    numbers = _font(min(14, max(8, int(cell * 1.2 / max(2, longest)))))
    for row, column in np.argwhere(matrix > 0).tolist():
        x, y = at[0] + column * cell, at[1] + row * cell
        share = float(shares[row, column])
        pen.rectangle((x, y, x + cell - 1, y + cell - 1), fill=_shade(share, row == column))
        if cell >= _NUMBERS:
            ink = _PAPER if share > 0.6 else _INK
            middle = (x + cell // 2, y + cell // 2)
            pen.text(middle, str(matrix[row, column]), fill=ink, font=numbers, anchor="mm")


def _shade(share: float, is_right: bool) -> tuple[int, int, int]:
    full = _RIGHT if is_right else _WRONG
    red, green, blue = (round(p + (f - p) * share) for p, f in zip(_PAPER, full, strict=True))
    return red, green, blue


def confused_picture(scores: Scores, images: Pixels, labels: Indices, predicted: Indices) -> bytes:
    """Returns a PNG sheet of the most confused pairs, a row each: true → predicted, with examples.

    Args:
        scores: name the pairs.
        images: (N, H, W, C) uint8.
        labels: (N,), the true classes.
        predicted: (N,).
    """
    names = [each.name for each in scores.classes]
    labelled = dict(zip(names, _labels(scores), strict=True))
    font = _font(15)
    if not scores.confused:
        picture = Image.new("RGB", (420, 60), _PAPER)
        text = f"none of {scores.n:,} test images was taken for another class"
        ImageDraw.Draw(picture).text((12, 20), text, fill=_INK, font=font)
        return _png(picture)
    told = [(labelled[pair.true], labelled[pair.predicted]) for pair in scores.confused]
    widths = [_width(font, "".join(two)) for two in told]
    left, row = 24 + 44 + max(120, *widths), _THUMB + 10
    most = min(_EXAMPLES, max(pair.count for pair in scores.confused))
    size = (left + most * (_THUMB + 6) + 10, len(scores.confused) * row + 12)
    picture = Image.new("RGB", size, _PAPER)
    pen = ImageDraw.Draw(picture)
    for place, pair in enumerate(scores.confused):
        y = 10 + place * row
        _write_pair(pen, *told[place], pair.count, at=(12, y + 16), font=font)
        mistaken = (labels == names.index(pair.true)) & (predicted == names.index(pair.predicted))
        for column, index in enumerate(np.flatnonzero(mistaken)[:_EXAMPLES].tolist()):
            picture.paste(_thumb(images[index]), (left + column * (_THUMB + 6), y))
    return _png(picture)


def _write_pair(
    pen: ImageDraw.ImageDraw,
    true: str,
    predicted: str,
    count: int,
    *,
    at: tuple[int, int],
    font: ImageFont.FreeTypeFont,
) -> None:
    """Writes ``4 → 9`` and below it how often; the arrow is drawn, since the font has none."""
    x, y = at
    pen.text((x, y), true, fill=_INK, font=font)
    tail = x + _width(font, true) + 8
    tip, middle = tail + 22, y + 10
    pen.line((tail, middle, tip, middle), fill=_WRONG, width=2)
    pen.polygon(((tip + 4, middle), (tip - 4, middle - 5), (tip - 4, middle + 5)), fill=_WRONG)
    pen.text((tip + 12, y), predicted, fill=_INK, font=font)
    pen.text((x, y + 24), plural(count, "image"), fill=_PALE, font=_font(13))


def _thumb(image: Pixels) -> Image.Image:
    """The image as large as fits, its pixels kept square where it is enlarged."""
    plain = Image.fromarray(np.ascontiguousarray(image[..., 0] if image.shape[2] == 1 else image))
    scale = _THUMB / max(plain.size)
    size = (max(1, round(plain.width * scale)), max(1, round(plain.height * scale)))
    method = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BILINEAR
    return plain.convert("RGB").resize(size, method)


def _write_up(
    picture: Image.Image,
    text: str,
    *,
    at: tuple[int, int],
    font: ImageFont.FreeTypeFont,
    ink: tuple[int, int, int],
) -> None:
    """Writes the text upward, its beginning at the place."""
    height = int(font.size) + 4
    strip = Image.new("L", (_width(font, text) + 2, height), 0)
    ImageDraw.Draw(strip).text((0, height // 2), text, fill=255, font=font, anchor="lm")
    turned = strip.rotate(90, expand=True)
    picture.paste(Image.new("RGB", turned.size, ink), (at[0], at[1] - turned.height), turned)


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans where it is to be had, which knows most alphabets; else the font of Pillow.

    It comes with matplotlib, which mlxtend needs; Pillow's own knows plain Latin letters alone.
    """
    matplotlib = find_spec("matplotlib")
    for folder in (matplotlib and matplotlib.submodule_search_locations) or ():
        path = Path(folder) / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
        if path.is_file():
            return ImageFont.truetype(str(path), size)
    font = ImageFont.load_default(size=size)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font


def _width(font: ImageFont.FreeTypeFont, text: str) -> int:
    return math.ceil(font.getlength(text))


def _labels(scores: Scores) -> list[str]:
    """The classes' names as the pictures bear them, short and in letters that the font has.

    A name in other letters is told by its row in confusion.csv, so that no two look alike.
    """
    names = [each.name for each in scores.classes]
    return [
        _short(name) if _is_legible(name) else f"row {row}" for row, name in enumerate(names, 1)
    ]


def _is_legible(name: str) -> bool:
    font = _font(13)
    missing = bytes(font.getmask("\uffff"))
    known = name.isprintable() and all(bytes(font.getmask(c)) != missing for c in name)
    return known and bool(name.strip())


def _short(name: str) -> str:
    """The name with its middle left out where it is long: names often share their beginnings."""
    half = _LETTERS // 2 - 1
    return name if len(name) <= _LETTERS else f"{name[:half]}..{name[-half:]}"


def _png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return file.getvalue()
