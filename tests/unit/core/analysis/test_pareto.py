"""Fronts, knees and hypervolumes typed by hand, and checked against a count of random points."""

import random
from dataclasses import replace

import pytest

from hpsearch.core.analysis.pareto import (
    ParetoFront,
    dominates,
    front,
    front_as_plain,
    hypervolume,
    knee,
    nondominated,
)
from hpsearch.core.analysis.pruning_stats import counts, savings, study_hypervolume
from hpsearch.core.objectives import merit
from hpsearch.core.trial import Epoch, State, TrialRecord

NAN = float("nan")
TWO = ("accuracy", "train_seconds")


def record(number, accuracy=None, seconds=None, state=State.COMPLETE, epochs=0, ended=None):
    curve = tuple(
        Epoch(
            epoch=e + 1,
            train_loss=1.0,
            train_accuracy=0.5,
            val_loss=1.0,
            val_accuracy=0.5,
            train_seconds=8.0,
            wall_seconds=1.0,
        )
        for e in range(epochs)
    )
    values = {} if accuracy is None else {"accuracy": accuracy, "train_seconds": seconds}
    return TrialRecord(number=number, state=state, values=values, curve=curve, ended=ended)


def test_a_point_does_not_dominate_its_equal():
    assert not dominates((1, 2), (1, 2))
    assert dominates((1, 3), (1, 2))
    assert not dominates((1, 3), (2, 2))


def test_nondominated_keeps_one_of_equals_and_leaves_nan_out():
    points = [(0.5, 0.5), (0.5, 0.5), (NAN, 9.0), (0.4, 0.6), (0.3, 0.3)]
    assert nondominated(points) == [0, 3]
    assert nondominated([]) == []


def test_nondominated_agrees_with_the_definition_on_random_points():
    draw = random.Random(0)
    points = [tuple(draw.randrange(6) for _ in range(3)) for _ in range(200)]
    unique = {p for p in points if not any(dominates(q, p) for q in points)}
    assert {points[i] for i in nondominated(points)} == unique


@pytest.mark.parametrize(
    ("points", "volume"),
    [
        ([], 0.0),
        ([(0.7,)], 0.7),
        ([(0.5, 0.5)], 0.25),
        ([(1.0, 0.5), (0.5, 1.0), (0.4, 0.4)], 0.75),
        ([(1.0, 1.0, 0.5), (0.5, 0.5, 1.0)], 0.5 + 0.125),
        ([(-1.0, 1.0)], 0.0),
    ],
)
def test_hypervolume_of_typed_points(points, volume):
    assert hypervolume(points) == pytest.approx(volume)


def test_hypervolume_in_four_dimensions_agrees_with_counting():
    draw = random.Random(3)
    points = [tuple(draw.random() for _ in range(4)) for _ in range(8)]
    samples = [tuple(draw.random() for _ in range(4)) for _ in range(40_000)]
    inside = sum(
        any(all(x <= y for x, y in zip(s, p, strict=True)) for p in points) for s in samples
    )
    assert hypervolume(points) == pytest.approx(inside / len(samples), abs=0.01)


def test_the_knee_lies_farthest_beyond_the_line_between_the_ends():
    assert knee([(0.0, 1.0), (0.3, 0.9), (0.9, 0.6), (1.0, 0.0)]) == 2


def test_the_knee_of_two_points_or_of_a_hollow_front_is_the_most_accurate():
    assert knee([(0.2, 1.0), (0.9, 0.1)]) == 1
    assert knee([(0.0, 1.0), (0.3, 0.3), (1.0, 0.0)]) == 2


def test_the_knee_of_three_objectives_lies_farthest_from_the_plane():
    ends = [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)]
    assert knee([*ends, (0.5, 0.5, 0.5), (0.4, 0.4, 0.3)]) == 3


def test_the_front_is_sorted_by_cost_and_knows_its_knee():
    records = [
        record(0, 0.99, 100.0),
        record(1, 0.60, 1.0),
        record(2, 0.97, 3.0),
        record(3, 0.50, 2.0),
        record(4, state=State.PRUNED),
        record(5, 0.97, 3.0),
    ]
    found = front(records, ["accuracy", "train_seconds"])
    assert [r.number for r in found.trials] == [1, 2, 0]
    assert (found.knee, found.knee_trial.number) == (2, 2)
    assert found.numbers == {0, 1, 2}
    assert [row["knee"] for row in front_as_plain(found)] == [False, True, False]


def test_the_knee_is_found_on_log_cost():
    records = [record(0, 0.5, 1.0), record(1, 0.8, 10.0), record(2, 1.0, 1000.0)]
    assert front(records, ["accuracy", "train_seconds"]).knee == 1  # 0.6 + 2/3 > 1
    records[1] = record(1, 0.7, 100.0)
    assert front(records, ["accuracy", "train_seconds"]).knee == 2  # below the line on a log scale


# One that learned next to nothing at the cheap end: 23.5 % where the others have 96 to 99 %.
JUNK = [(0.235, 0.94), (0.961, 1.22), (0.963, 1.6), (0.971, 2.4), (0.981, 4.25), (0.989, 9.2)]
JUNK.append((0.99, 10.0))


def test_a_trial_that_learned_next_to_nothing_does_not_take_the_knee_along():
    records = [record(n, *point) for n, point in enumerate(JUNK)]
    found = front(records, TWO)
    assert [r.number for r in found.trials] == [0, 1, 2, 3, 4, 5, 6]  # it stays on the front
    assert found.knee == 4 == front(records[1:], TWO).knee

    flops = [replace(r, values={**r.values, "flops": 2.0 + r.number}) for r in records]
    assert front(flops, (*TWO, "flops")).knee == front(flops[1:], (*TWO, "flops")).knee != 0


def test_of_losses_and_costs_no_trial_is_left_out_of_the_search_for_the_knee():
    values = [{"val_loss": 2.0, "params": 1.0}, {"val_loss": 0.1, "params": 10.0}]
    values.append({"val_loss": 0.01, "params": 1000.0})
    records = [replace(record(n), values=of) for n, of in enumerate(values)]
    assert front(records, ["val_loss", "params"]).knee == 1  # beyond the line from 2.0 to 0.01


def test_one_objective_has_its_best_as_the_knee_and_the_front():
    records = [record(n, accuracy, 1.0) for n, accuracy in enumerate([0.1, 0.9, 0.5])]
    found = front(records, ["accuracy"])
    assert ([r.number for r in found.trials], found.knee) == ([1], 1)


def test_without_a_complete_trial_the_front_is_empty():
    assert front([record(0, state=State.FAILED)], ["accuracy"]) == ParetoFront()


def test_merit_clips_to_its_bounds():
    bounds = {"accuracy": (0.1, 1.0), "train_seconds": (1.0, 100.0), "val_loss": (0.0, 2.0)}
    worst = merit({"accuracy": 0.0, "train_seconds": 1e6, "val_loss": 9.0}, bounds)
    best = merit({"accuracy": 1.0, "train_seconds": 0.0, "val_loss": 0.0}, bounds)
    assert (worst, best) == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    middle = merit({"accuracy": 0.55, "train_seconds": 10.0, "val_loss": 1.0}, bounds)
    assert middle == pytest.approx((0.5, 0.5, 0.5))


def test_a_study_hypervolume_never_falls_as_trials_arrive():
    draw = random.Random(5)
    records = [record(n, draw.random(), 10 ** draw.uniform(-1, 4)) for n in range(50)]
    bounds = {"accuracy": (0.1, 1.0), "train_seconds": (1.0, 100.0)}
    volumes = [study_hypervolume(records[:n], bounds) for n in range(51)]
    assert volumes == sorted(volumes)
    assert 0 < volumes[-1] <= 1


def test_savings_count_what_pruned_trials_did_not_train():
    records = [
        record(0, 0.9, 1.0, epochs=8),
        record(1, state=State.PRUNED, epochs=2),
        record(2, state=State.FAILED, epochs=5),
        record(3, state=State.PRUNED),
    ]
    saved = savings(records, epochs=8)
    assert (saved.epochs_trained, saved.epochs_full) == (10, 24)
    assert saved.seconds_saved == pytest.approx(6.0)  # 8 s × 6/8
    assert counts(records)["pruned"] == 2
    assert savings([], epochs=8).share == 0.0
