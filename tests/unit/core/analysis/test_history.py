"""The area that grows point by point is that of the whole front computed each time."""

import itertools
import random
import time

import pytest

from hpsearch.core.analysis.history import hypervolume_history
from hpsearch.core.analysis.pareto import Staircase, dominates, front, hypervolume, nondominated
from hpsearch.core.analysis.pruning_stats import study_hypervolume
from tests.unit.trials import trial

BOUNDS = {"accuracy": (0.1, 1.0), "train_seconds": (1.0, 100.0)}


def area(points):
    """The area below the points, strip by strip, each as high as the best point beyond it."""
    edges = sorted({0.0, *(max(0.0, x) for x, _ in points)})
    return sum(
        (right - left) * max(0.0, *(y for x, y in points if x >= right), 0.0)
        for left, right in itertools.pairwise(edges)
    )


def drawn(seed):
    """Up to 60 points: scattered, on a front, on a coarse grid with ties and twins, or below 0."""
    draw = random.Random(seed)
    across = [draw.random() for _ in range(draw.randrange(1, 60))]
    if seed % 4 == 0:
        return [(x, draw.random()) for x in across]
    if seed % 4 == 1:
        return [(x, 1 - x * x) for x in across]
    if seed % 4 == 2:
        return [(draw.randrange(6) / 5, draw.randrange(6) / 5) for _ in across]
    return [(2 * x - 1, draw.random() * 1.5 - 0.5) for x in across]


@pytest.mark.parametrize("seed", range(80))
def test_it_is_the_area_of_the_whole_front_after_every_point(seed):
    points, steps = drawn(seed), Staircase()

    for n, point in enumerate(points, start=1):
        before = steps.area
        added = steps.add(point)
        assert added >= 0.0
        assert steps.area == before + added  # so it never falls
        assert steps.area == pytest.approx(area(points[:n]), abs=1e-12)
    assert hypervolume(points) == pytest.approx(steps.area, abs=1e-12)


@pytest.mark.parametrize("seed", range(40))
def test_the_front_of_two_coordinates_is_what_the_definition_says(seed):
    points = drawn(seed)

    chosen = nondominated(points)

    assert {points[i] for i in chosen} == {
        p for p in points if not any(dominates(q, p) for q in points)
    }
    assert chosen == sorted({points.index(points[i]) for i in chosen})


def test_a_point_that_adds_nothing_changes_nothing():
    steps = Staircase([(0.5, 0.5), (1.0, 0.25)])
    nothing = [(0.5, 0.5), (0.4, 0.5), (1.0, 0.1), (0.0, 9.0), (9.0, -1.0)]
    nan = float("nan")

    assert [steps.add(p) for p in [*nothing, (nan, 1.0), (1.0, nan)]] == [0.0] * 7
    assert steps.area == 0.375
    assert Staircase().area == 0.0


@pytest.mark.parametrize("objectives", [("accuracy",), tuple(BOUNDS), (*BOUNDS, "params")])
def test_what_the_front_is_worth_after_each_trial_is_its_hypervolume(objectives):
    draw = random.Random(len(objectives))
    bounds = {**BOUNDS, "params": (10.0, 1e5)}
    bounds = {name: bounds[name] for name in objectives}
    records = [
        trial(n, draw.random(), draw.choice((0.5, 2.0, 9.0, 200.0)), objectives=objectives)
        for n in range(40)
    ]

    found = hypervolume_history(records, bounds=bounds, epochs=4)

    for n, now in enumerate(found, start=1):
        whole = study_hypervolume(records[:n], bounds)
        assert now.hypervolume == pytest.approx(whole, abs=1e-12)


def test_thousands_of_trials_that_each_improve_the_front_are_done_in_no_time():
    """Computed from scratch after each, these would take an hour; the time is the processor's."""
    n = 3_000
    records = [trial(i, 0.2 + 0.7 * i / n, 1.0 + 90.0 * i / n) for i in range(n)]
    began = time.process_time()

    found = hypervolume_history(records, bounds=BOUNDS, epochs=4)
    found_front = front(records, tuple(BOUNDS))

    assert time.process_time() - began < 2.0
    assert len(found_front.trials) == n
    assert found[-1].hypervolume == pytest.approx(study_hypervolume(records, BOUNDS), abs=1e-12)
