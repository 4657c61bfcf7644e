"""Scores of a classifier on labelled images, from its predicted probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hpsearch.core.analysis.statistics import wilson

BINS = 15  # of the calibration error (Guo et al. 2017, arXiv 1706.04599)
PAIRS = 10  # the most confused ones, which are listed

Matrix = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassScore:
    """The scores of one class.

    ``support`` counts its images. ``accuracy``, the same as ``recall``, is the share of them that
    was predicted correctly; ``precision`` is the share of the images predicted as this class that
    belong to it. None if there are no such images.
    """

    name: str
    support: int
    accuracy: float | None
    precision: float | None
    recall: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Confused:
    """How many images of the class ``true`` were predicted as ``predicted``."""

    true: str
    predicted: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """A classifier's scores on ``n`` images.

    ``accuracy`` is in [0, 1], ``interval`` its 95 % Wilson interval, ``loss`` the mean
    cross-entropy in nats, ``calibration_error`` the expected one in [0, 1] over 15 bins.
    ``matrix`` (classes, classes) counts images, true classes down, predicted ones across.
    """

    n: int
    accuracy: float
    interval: tuple[float, float]
    loss: float
    calibration_error: float
    classes: tuple[ClassScore, ...]
    confused: tuple[Confused, ...]
    matrix: Matrix


def score(
    probabilities: npt.NDArray[np.floating[Any]],
    labels: npt.NDArray[np.int64],
    *,
    classes: Sequence[str],
) -> Scores:
    """Returns the scores of the probabilities that a classifier gave to labelled images.

    Args:
        probabilities: (N, K), each row summing to 1; N at least 1.
        labels: (N,) in [0, K).
        classes: the K names.

    >>> score(np.array([[0.9, 0.1], [0.4, 0.6]]), np.array([0, 0]), classes=["a", "b"]).accuracy
    0.5
    """
    predicted = probabilities.argmax(axis=1)
    matrix = confusion(labels, predicted, classes=len(classes))
    right, n = int(np.trace(matrix)), len(labels)
    return Scores(
        n=n,
        accuracy=right / n,
        interval=wilson(right / n, n),
        loss=cross_entropy(probabilities, labels),
        calibration_error=calibration_error(probabilities, labels),
        classes=by_class(matrix, classes),
        confused=confused_pairs(matrix, classes, most=PAIRS),
        matrix=matrix,
    )


def confusion(
    labels: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64], *, classes: int
) -> Matrix:
    """Returns how many images of each class (down) were predicted as each class (across).

    >>> confusion(np.array([0, 0, 1]), np.array([0, 1, 1]), classes=2).tolist()
    [[1, 1], [0, 1]]
    """
    # A pair (true, predicted) is one number in base K: counted in one pass over the images.
    flat = np.bincount(labels * classes + predicted, minlength=classes * classes)
    return flat.reshape(classes, classes).astype(np.int64)


def by_class(matrix: Matrix, classes: Sequence[str]) -> tuple[ClassScore, ...]:
    """Returns each class's scores, in the classes' order."""
    columns = (matrix.diagonal(), matrix.sum(axis=1), matrix.sum(axis=0))
    return tuple(
        ClassScore(
            name=name,
            support=int(support),
            accuracy=float(right / support) if support else None,
            precision=float(right / predicted) if predicted else None,
            recall=float(right / support) if support else None,
        )
        for name, right, support, predicted in zip(classes, *columns, strict=True)
    )


def confused_pairs(matrix: Matrix, classes: Sequence[str], *, most: int) -> tuple[Confused, ...]:
    """Returns the most often confused pairs of true and predicted class, the most frequent first.

    >>> confused_pairs(np.array([[5, 1, 0], [2, 3, 0], [0, 0, 4]]), "abc", most=9)[0]
    Confused(true='b', predicted='a', count=2)
    """
    # argwhere lists pairs by row, and sorting is stable: equal counts stay in the order of classes.
    pairs = [
        Confused(true=classes[i], predicted=classes[j], count=int(matrix[i, j]))
        for i, j in np.argwhere(matrix > 0).tolist()
        if i != j
    ]
    return tuple(sorted(pairs, key=lambda pair: -pair.count)[:most])


def cross_entropy(
    probabilities: npt.NDArray[np.floating[Any]], labels: npt.NDArray[np.int64]
) -> float:
    """Returns the mean of -log of the probability given to the true class, in nats.

    A probability of 0 counts as float32's smallest normal number, 87.3 nats.
    """
    # A saturated softmax yields an exact 0, whose logarithm would make the mean infinite.
    given = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(np.maximum(given, np.finfo(np.float32).tiny)).mean())


def calibration_error(
    probabilities: npt.NDArray[np.floating[Any]],
    labels: npt.NDArray[np.int64],
    *,
    bins: int = BINS,
) -> float:
    """Returns the expected calibration error: |confidence - accuracy|, averaged over the images.

    The images are sorted by the probability of their predicted class into bins of equal width;
    each bin's accuracy is compared with its mean confidence.

    >>> sure, half = [1.0, 0.0], [0.5, 0.5]
    >>> calibration_error(np.array([sure, sure, half, half]), np.array([0, 1, 0, 1]))
    0.25
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == labels
    # Bins are open below: a confidence on an edge belongs to the bin that ends there.
    bin_of = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    # The sum over a bin of (right - confidence) is its gap times its number of images.
    gaps = np.bincount(bin_of, weights=right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))


def as_plain(scores: Scores) -> dict[str, Any]:
    """Returns the scores for JSON, without the matrix, which is stored as a separate file."""
    return {
        "test_accuracy": scores.accuracy,
        "test_accuracy_interval_95": list(scores.interval),
        "n": scores.n,
        "test_loss": scores.loss,
        "calibration_error": scores.calibration_error,
        "classes": [asdict(each) for each in scores.classes],
        "confused": [asdict(pair) for pair in scores.confused],
    }
