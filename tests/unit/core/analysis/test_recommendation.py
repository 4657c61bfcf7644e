"""The answer as numbers: the knee, its neighbours, and the noise."""

from __future__ import annotations

import math

import pytest

from hpsearch.core.analysis.pareto import front
from hpsearch.core.analysis.recommendation import recommend as recommend_of
from hpsearch.core.analysis.statistics import gain, wilson
from hpsearch.core.trial import State
from tests.unit.trials import trial

TWO = ("accuracy", "train_seconds")


def recommend(records, *, objectives, **known):
    return recommend_of(front(records, objectives), objectives=objectives, **known)


@pytest.mark.parametrize(
    ("share", "n", "expected"),
    [
        (0.0, 10, (0.0, 0.2775)),  # Wilson's interval has a width where the binomial's has none
        (0.5, 10, (0.2366, 0.7634)),
        (0.9, 100, (0.8256, 0.9448)),
        (1.0, 750, (0.9949, 1.0)),
        (81 / 263, 263, (0.2553, 0.3662)),  # this and the rest from Newcombe 1998, table I
        (15 / 148, 148, (0.0624, 0.1605)),
        (0.0, 20, (0.0, 0.1611)),
        (1 / 29, 29, (0.0061, 0.1718)),
        (1.0, 20, (1 - 0.1611, 1.0)),
    ],
)
def test_the_interval_of_a_counted_share(share, n, expected):
    assert wilson(share, n) == pytest.approx(expected, abs=5e-5)


def test_an_interval_of_no_cases_is_refused():
    with pytest.raises(ValueError, match="found n = 0, expected 1 or more cases"):
        wilson(0.5, 0)


def test_a_gain_has_newcombes_interval():
    # Newcombe 1998, "Interval estimation for the difference between independent proportions",
    # method 10: 56/70 against 48/80 is 0.0524 to 0.3339, from these limits.
    low, high = wilson(56 / 70, 70), wilson(48 / 80, 80)
    assert 0.2 - math.hypot(0.8 - low[0], high[1] - 0.6) == pytest.approx(0.0524, abs=5e-5)
    assert 0.2 + math.hypot(low[1] - 0.8, 0.6 - high[0]) == pytest.approx(0.3339, abs=5e-5)
    assert gain(0.9, 0.8, 100) == pytest.approx((0.0003, 0.1987), abs=1e-3)


FRONT = [
    trial(0, 0.80, 1.0),
    trial(1, 0.95, 2.0),  # the knee
    trial(2, 0.96, 4.0),
    trial(3, 0.99, 16.0),
    trial(4, 0.70, 3.0),  # dominated
    trial(5, 0.99, 0.5, state=State.PRUNED, epochs=1),
    trial(6, 0.0, 1.0, state=State.FAILED),
]


def test_the_knee_has_the_uncertainty_of_its_accuracy():
    told = recommend(FRONT, objectives=TWO, val_images=750)

    assert (told.front_size, told.quality, told.cost) == (4, "accuracy", "train_seconds")
    assert told.knee.number == 1
    assert told.knee.measured["accuracy"] == 0.95
    assert told.knee.measured["train_seconds"] == 2.0
    assert told.knee.params["optimizer"] == "adam"
    assert (told.knee.low, told.knee.high) == pytest.approx(wilson(0.95, 750))


def test_the_next_costlier_trial_has_ratio_gain_and_doubt():
    told = recommend(FRONT, objectives=TWO, val_images=750)

    assert told.following.to.number == 2
    assert told.following.ratio == 2.0
    assert told.following.gain == pytest.approx(0.01)
    assert told.following.low < 0 < told.following.high
    assert told.following.is_sure is False


def test_the_first_costlier_trial_that_is_better_for_certain_is_found():
    told = recommend(FRONT, objectives=TWO, val_images=750)

    assert told.sure.to.number == told.best.to.number == 3
    assert told.sure.ratio == 8.0
    assert told.sure.low > 0
    assert told.sure.is_sure


def test_the_next_cheaper_trial_has_the_loss():
    told = recommend(FRONT, objectives=TWO, val_images=750)

    assert told.cheaper.to.number == 0
    assert told.cheaper.ratio == 0.5
    assert told.cheaper.gain == pytest.approx(-0.15)
    assert told.cheaper.is_sure


def test_a_much_cheaper_trial_that_may_be_as_good_is_the_knees_rival():
    close = [trial(0, 0.80, 1.0), trial(1, 0.95, 2.0), trial(2, 0.96, 3.0), trial(3, 0.985, 6.0)]
    close += [trial(4, 0.986, 60.0), trial(5, 0.987, 600.0)]
    told = recommend(close, objectives=TWO, val_images=750)
    assert (told.knee.number, told.rival, told.is_bargain) == (3, None, True)  # they are worse

    told = recommend(close, objectives=TWO, val_images=50)
    assert (told.knee.number, told.cheaper.to.number, told.rival.to.number) == (3, 2, 1)
    assert not told.is_bargain
    assert not told.is_end


def test_the_knee_of_two_trials_or_of_a_hollow_front_is_only_an_end():
    hollow = [trial(0, 0.80, 1.0), trial(1, 0.81, 50.0), trial(2, 0.99, 100.0)]
    for records in (hollow, hollow[::2]):
        told = recommend(records, objectives=TWO, val_images=None)
        assert (told.knee.number, told.is_end, told.is_bargain) == (2, True, False)
    assert recommend(FRONT, objectives=TWO, val_images=750).is_bargain


def test_without_the_number_of_images_nothing_is_said_of_noise():
    told = recommend(FRONT, objectives=TWO, val_images=None)

    assert (told.knee.low, told.knee.high) == (None, None)
    assert told.following.is_sure is None
    assert told.sure is None


@pytest.mark.parametrize("records", [[], FRONT[5:]])
def test_without_a_complete_trial_there_is_no_answer(records):
    told = recommend(records, objectives=TWO, val_images=750)

    assert (told.knee, told.front_size, told.following) == (None, 0, None)


def test_one_complete_trial_is_its_own_answer():
    told = recommend(FRONT[:1], objectives=TWO, val_images=750)

    assert told.knee.number == 0
    assert (told.following, told.sure, told.best, told.cheaper) == (None, None, None, None)


def test_one_objective_has_a_best_trial_and_no_price():
    records = [trial(n, a, 1.0, objectives=("accuracy",)) for n, a in enumerate((0.8, 0.9))]

    told = recommend(records, objectives=("accuracy",), val_images=100)

    assert (told.knee.number, told.cost, told.following) == (1, None, None)


def test_loss_as_quality_gains_downwards_and_knows_no_noise():
    objectives = ("val_loss", "params")
    records = [
        trial(n, 0.5, s, loss=loss, objectives=objectives)
        for n, (loss, s) in enumerate([(0.9, 1.0), (0.2, 2.0), (0.1, 8.0)])
    ]

    told = recommend(records, objectives=objectives, val_images=750)

    assert told.knee.number == 1
    assert told.following.gain == pytest.approx(0.1)
    assert told.following.ratio == 4.0
    assert told.following.is_sure is None


def test_with_three_objectives_the_first_cost_is_the_price():
    objectives = ("accuracy", "train_seconds", "params")

    told = recommend(
        [
            trial(
                r.number, r.curve[-1].val_accuracy, r.cost["train_seconds"], objectives=objectives
            )
            for r in FRONT[:4]
        ],
        objectives=objectives,
        val_images=750,
    )

    assert told.knee.number == 1
    assert (told.following.to.number, told.following.ratio) == (2, 2.0)


def test_costs_alone_have_a_knee_and_no_gain():
    objectives = ("train_seconds", "params")

    told = recommend(
        [trial(0, 0.5, 1.0, objectives=objectives)], objectives=objectives, val_images=9
    )

    assert (told.knee.number, told.quality, told.following) == (0, None, None)


def test_a_front_within_the_noise_of_guessing_is_distinguished_from_one_above_it():
    few = [trial(0, 0.35, 1.0), trial(1, 0.33, 0.5)]
    told = recommend(few, objectives=TWO, val_images=120, chance=1 / 3)
    assert told.is_guessing
    assert told.top.number == 0
    assert not recommend(few, objectives=TWO, val_images=12_000, chance=1 / 3).is_guessing
    assert not recommend(few, objectives=TWO, val_images=None, chance=1 / 3).is_guessing
    assert not recommend(few, objectives=TWO, val_images=120).is_guessing
    assert not recommend([], objectives=TWO, val_images=120, chance=1 / 3).is_guessing
