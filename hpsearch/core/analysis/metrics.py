"""How well a classifier does on images it never saw: numbers from its probabilities."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Z = 1.959963984540054  # the 97.5 % quantile of the normal distribution


def wilson(share: float, n: int) -> tuple[float, float]:
    """Returns the 95 % interval of a share that was counted on n cases (Wilson 1927).

    It stays inside [0, 1] and has a width at 0 and 1 too.

    >>> [round(bound, 3) for bound in wilson(0.9, 100)]
    [0.826, 0.945]
    >>> wilson(0.0, 5)[0], wilson(1.0, 5)[1]
    (0.0, 1.0)
    """
    if n < 1:
        raise ValueError(f"found n = {n}, expected 1 or more cases")
    z2 = Z * Z
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    # Rounding alone would keep the ends of no cases and of all cases off 0 and 1.
    low = max(0.0, middle - half) if share > 0 else 0.0
    return low, min(1.0, middle + half) if share < 1 else 1.0


def gain(better: float, worse: float, n: int) -> tuple[float, float]:
    """Returns the 95 % interval of better - worse, each counted on n cases (Newcombe 1998).

    As if the cases were not the same. Two nets err on much the same images, so that the true
    interval is narrower: what this one calls beyond the noise is.

    >>> [round(bound, 3) for bound in gain(0.95, 0.90, 750)]
    [0.023, 0.077]
    """
    low_better, high_better = wilson(better, n)
    low_worse, high_worse = wilson(worse, n)
    difference = better - worse
    return (
        difference - math.hypot(better - low_better, high_worse - worse),
        difference + math.hypot(high_better - better, worse - low_worse),
    )


BINS = 15  # of the calibration error (Guo et al. 2017, arXiv 1706.04599)
PAIRS = 10  # the most confused ones that are told

Matrix = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassScore:
    """One class: of its images, and of what was taken for it, the share that was right.

    ``support`` counts its images. ``accuracy`` is the share of them told right, which is the
    class's ``recall``; ``precision`` is the share of the images told to be of the class that are.
    None where there is nothing to take a share of.
    """

    name: str
    support: int
    accuracy: float | None
    precision: float | None
    recall: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Confused:
    """How many images of the class ``true`` were taken for ``predicted``."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanAndDeviation:
    """Several results of the same thing: their mean and, of two or more, their deviation."""

    values: tuple[float, ...]
    mean: float
    deviation: float | None


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
    """Returns how many images of each class (down) were taken for each class (across).

    >>> confusion(np.array([0, 0, 1]), np.array([0, 1, 1]), classes=2).tolist()
    [[1, 1], [0, 1]]
    """
    flat = np.bincount(labels * classes + predicted, minlength=classes * classes)
    return flat.reshape(classes, classes).astype(np.int64)


def by_class(matrix: Matrix, classes: Sequence[str]) -> tuple[ClassScore, ...]:
    """Returns each class's scores, in the classes' order."""
    told = []
    for name, right, support, taken in zip(
        classes, matrix.diagonal(), matrix.sum(axis=1), matrix.sum(axis=0), strict=True
    ):
        recall = float(right / support) if support else None
        precision = float(right / taken) if taken else None
        told.append(
            ClassScore(
                name=name,
                support=int(support),
                accuracy=recall,
                precision=precision,
                recall=recall,
            )
        )
    return tuple(told)


def confused_pairs(matrix: Matrix, classes: Sequence[str], *, most: int) -> tuple[Confused, ...]:
    """Returns the pairs of true and predicted class that were mistaken most often, those first.

    >>> confused_pairs(np.array([[5, 1, 0], [2, 3, 0], [0, 0, 4]]), "abc", most=9)[0]
    Confused(true='b', predicted='a', count=2)
    """
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
    given = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(np.maximum(given, np.finfo(np.float32).tiny)).mean())


def calibration_error(
    probabilities: npt.NDArray[np.floating[Any]],
    labels: npt.NDArray[np.int64],
    *,
    bins: int = BINS,
) -> float:
    """Returns by how much confidence and accuracy differ, averaged over the images.

    The images are sorted by the probability of their predicted class into bins of equal width;
    each bin's accuracy is compared with its mean confidence.

    >>> sure, half = [1.0, 0.0], [0.5, 0.5]
    >>> calibration_error(np.array([sure, sure, half, half]), np.array([0, 1, 0, 1]))
    0.25
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == labels
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(place, weights=right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))


def mean_and_deviation(values: Sequence[float]) -> MeanAndDeviation:
    """Returns mean and sample deviation.

    >>> two = mean_and_deviation([0.5, 0.7])
    >>> two.mean, round(two.deviation, 4), mean_and_deviation([0.5]).deviation
    (0.6, 0.1414, None)
    """
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return MeanAndDeviation(
        values=tuple(values), mean=statistics.fmean(values), deviation=deviation
    )


def as_plain(scores: Scores) -> dict[str, Any]:
    """Returns the scores as JSON can hold them; the matrix is a file of its own."""
    return {
        "test_accuracy": scores.accuracy,
        "test_accuracy_interval_95": list(scores.interval),
        "n": scores.n,
        "test_loss": scores.loss,
        "calibration_error": scores.calibration_error,
        "classes": [asdict(each) for each in scores.classes],
        "confused": [asdict(pair) for pair in scores.confused],
    }
