"""Scores on typed probabilities, expected numbers worked out by hand."""

import math

import numpy as np
import pytest

from hpsearch.core.analysis.metrics import (
    Confused,
    as_plain,
    by_class,
    calibration_error,
    confused_pairs,
    confusion,
    cross_entropy,
    score,
)
from hpsearch.core.analysis.statistics import mean_and_deviation, wilson

NAMES = ("cat", "dog", "owl")
PROBABILITIES = np.array(
    [
        [0.8, 0.1, 0.1],  # cat, right
        [0.2, 0.7, 0.1],  # cat, taken for dog
        [0.1, 0.6, 0.3],  # dog, right
        [0.5, 0.4, 0.1],  # dog, taken for cat
        [0.3, 0.6, 0.1],  # dog, right
    ]
)
LABELS = np.array([0, 0, 1, 1, 1])
MATRIX = [[1, 1, 0], [1, 2, 0], [0, 0, 0]]


def test_the_matrix_counts_true_down_and_predicted_across():
    assert confusion(LABELS, PROBABILITIES.argmax(1), classes=3).tolist() == MATRIX


def test_a_whole_score_agrees_with_its_parts():
    scores = score(PROBABILITIES, LABELS, classes=NAMES)

    assert (scores.n, scores.accuracy) == (5, 0.6)
    assert scores.interval == wilson(3 / 5, 5)
    assert scores.matrix.tolist() == MATRIX
    expected = -(math.log(0.8) + math.log(0.2) + 2 * math.log(0.6) + math.log(0.4)) / 5
    assert scores.loss == pytest.approx(expected)
    assert [each.support for each in scores.classes] == [2, 3, 0]


def test_class_scores_leave_out_what_has_no_share():
    cat, dog, owl = by_class(np.array(MATRIX), NAMES)

    assert (cat.recall, cat.accuracy, cat.precision) == (0.5, 0.5, 0.5)
    assert dog.recall == dog.precision == pytest.approx(2 / 3)
    assert (owl.support, owl.recall, owl.precision) == (0, None, None)


def test_calibration_compares_each_bin_with_its_accuracy():
    # 0.8 right; 0.7 wrong; 0.6, 0.6 right; 0.5 wrong: four bins of fifteen
    expected = (0.2 + 0.7 + 0.8 + 0.5) / 5
    assert calibration_error(PROBABILITIES, LABELS) == pytest.approx(expected)
    one_bin = abs(3 - (0.8 + 0.7 + 0.6 + 0.5 + 0.6)) / 5
    assert calibration_error(PROBABILITIES, LABELS, bins=1) == pytest.approx(one_bin)


def test_certain_and_right_is_perfectly_calibrated_and_costs_nothing():
    sure = np.eye(3, dtype=np.float32)

    assert calibration_error(sure, np.arange(3)) == 0
    assert cross_entropy(sure, np.arange(3)) == 0


def test_certain_and_wrong_costs_much_but_not_all():
    sure = np.eye(3, dtype=np.float32)

    assert cross_entropy(sure, np.array([1, 2, 0])) == pytest.approx(87.34, abs=0.01)


def test_pairs_are_listed_the_most_confused_first():
    matrix = np.array([[9, 2, 0], [5, 9, 2], [0, 1, 9]])

    assert confused_pairs(matrix, NAMES, most=3) == (
        Confused(true="dog", predicted="cat", count=5),
        Confused(true="cat", predicted="dog", count=2),
        Confused(true="dog", predicted="owl", count=2),
    )
    assert confused_pairs(np.eye(3, dtype=np.int64), NAMES, most=3) == ()


def test_several_seeds_have_a_mean_and_a_deviation():
    told = mean_and_deviation([0.9, 0.92, 0.94])

    assert (told.mean, told.deviation) == (pytest.approx(0.92), pytest.approx(0.02))
    assert mean_and_deviation([0.9]).deviation is None


def test_plain_scores_are_what_json_can_hold():
    plain = as_plain(score(PROBABILITIES, LABELS, classes=NAMES))

    assert plain["test_accuracy"] == 0.6
    assert plain["n"] == 5
    assert plain["classes"][2] == {
        "name": "owl",
        "support": 0,
        "accuracy": None,
        "precision": None,
        "recall": None,
    }
    assert plain["confused"][0] == {"true": "cat", "predicted": "dog", "count": 1}
