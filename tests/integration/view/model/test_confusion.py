"""The pictures of a model's mistakes, for few classes and for many."""

import csv
import io

import numpy as np
import pytest
from PIL import Image

from hpsearch.core.analysis.metrics import score
from hpsearch.view.model import confusion
from hpsearch.view.model.confusion import confused_picture, matrix_csv, matrix_picture


def scored(names, *, right=0.8, n=600):
    """Scores of a made-up classifier, with the true and the predicted classes."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, len(names), n)
    wrong = (labels + rng.integers(1, len(names), n)) % len(names)
    predicted = np.where(rng.random(n) < right, labels, wrong)
    given = np.full((n, len(names)), 0.1 / len(names))
    given[np.arange(n), predicted] += 0.9
    return score(given, labels, classes=names), labels, predicted


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


DIGITS = tuple("0123456789")
EMNIST = tuple("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt")


@pytest.mark.parametrize(
    ("names", "smallest", "largest"),
    [
        (DIGITS, 480, 700),
        (EMNIST, 1000, 1300),
        (("Straßenbahn", "a very long name of a class", "猫"), 150, 700),
        (tuple(f"class {i}" for i in range(400)), 1200, 1500),
    ],
)
def test_a_matrix_is_drawn_in_a_size_that_can_be_looked_at(names, smallest, largest):
    drawn = pixels(matrix_picture(scored(names)[0], title="80 % right"))

    height, width, _ = drawn.shape
    assert smallest <= height <= largest
    assert smallest <= width <= largest
    blue = (drawn[..., 2] - drawn[..., 0] > 60).sum()  # the diagonal
    assert blue > 20 * len(names) if len(names) < 100 else blue > len(names)


def test_every_cell_of_47_classes_bears_its_number():
    scores, _, _ = scored(EMNIST, n=18_800)
    plain = pixels(matrix_picture(scores, title=""))
    white = (plain > 230).all(axis=2)

    # White digits on the dark diagonal: in each of its cells some pixels.
    cell, side = 1100 // 47, 1100 // 47 * 47
    top, left = plain.shape[0] - 16 - side, plain.shape[1] - 16 - side
    for place in range(47):
        y, x = top + place * cell, left + place * cell
        assert white[y + 2 : y + cell - 2, x + 2 : x + cell - 2].any(), EMNIST[place]


def test_the_table_names_its_rows_and_columns():
    scores, labels, predicted = scored(("a,b", "c"))
    rows = list(csv.reader(io.StringIO(matrix_csv(scores))))

    assert rows[0] == ["true", "a,b", "c"]
    assert [row[0] for row in rows[1:]] == ["a,b", "c"]
    assert int(rows[1][2]) == ((labels == 0) & (predicted == 1)).sum()


@pytest.mark.parametrize("shape", [(8, 8, 1), (40, 60, 3), (300, 200, 4)])
def test_the_sheet_shows_the_images_that_were_mistaken(shape):
    scores, labels, predicted = scored(DIGITS)
    images = np.zeros((len(labels), *shape), np.uint8)
    images[..., -1] = 255  # opaque, where that is the alpha channel
    first = scores.confused[0]
    mistaken = (labels == int(first.true)) & (predicted == int(first.predicted))
    images[mistaken] = 200 if shape[2] == 1 else [255, 0, 255, 255][: shape[2]]

    drawn = pixels(confused_picture(scores, images, labels, predicted))

    color = [200, 200, 200] if shape[2] == 1 else [255, 0, 255]
    found = (drawn == color).all(axis=2)
    rows = found.sum(axis=1)
    assert found.sum() >= first.count * 72 * 48 * 0.9
    assert rows[: 16 + 72 + 5].sum() == rows.sum()  # in the first row alone


def test_a_model_without_a_mistake_has_a_sheet_that_says_so():
    scores, labels, predicted = scored(DIGITS, right=2.0)
    images = np.zeros((len(labels), 8, 8, 1), np.uint8)

    drawn = pixels(confused_picture(scores, images, labels, predicted))
    assert 400 < drawn.shape[1] < 500
    assert (drawn < 100).any()


def test_no_two_classes_look_alike_in_the_pictures():
    names = (
        "日本",
        "中国",
        "a\nb",
        "",
        "ß",
        "airplane of the type 747",
        "airplane of the type 787",
    )
    scores, labels, predicted = scored(names, right=0.2)

    labelled = confusion._labels(scores)

    assert labelled[:5] == ["row 1", "row 2", "row 3", "row 4", "ß"]
    assert labelled[5:] == ["airplane..type 747", "airplane..type 787"]
    assert pixels(matrix_picture(scores, title="")).size
    images = np.zeros((len(labels), 8, 8, 1), np.uint8)
    assert pixels(confused_picture(scores, images, labels, predicted)).size
