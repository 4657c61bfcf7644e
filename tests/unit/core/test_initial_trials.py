"""Where a search begins: small to large, trained by the known recipe, inside the space."""

import pytest

from hpsearch.core.dimensions import ChoiceDim, FloatDim, IntDim
from hpsearch.core.initial_trials import INITIAL_TRIALS, initial_trial
from hpsearch.core.space import default_space, dims

DEFAULT = default_space("geometric")


def openings(space, images=None):
    return [initial_trial(space, number, images) for number in range(INITIAL_TRIALS)]


def test_the_first_trials_climb_from_the_cheap_end_to_the_dear_one():
    started = openings(DEFAULT)
    assert [o["n_blocks"] for o in started] == [1, 2, 3, 4, 5]
    assert [o["base_width"] for o in started] == [4, 6, 8, 11, 16]
    assert [o["kernel_size"] for o in started] == [3, 3, 3, 5, 5]
    assert [o["batch_norm"] for o in started] == [False, False, True, True, True]
    assert {o["optimizer"] for o in started} == {"adamw"}


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"n_blocks": 3},
        {"n_blocks": ChoiceDim(choices=(4, 2))},
        {"optimizer": ChoiceDim(choices=("sgd", "rmsprop"))},
        {"learning_rate": FloatDim(low=1e-4, high=1e-3, log=True)},
        {"dropout": FloatDim(low=0.25, high=0.6, step=0.1)},
        {"batch_size": ChoiceDim(choices=(32, 100))},
        {"base_width": IntDim(low=8, high=30, step=8)},
        {"batch_norm": False, "head": "gap"},
    ],
)
def test_whatever_is_settled_lies_in_the_space(change):
    space = {**DEFAULT, **change}
    drawn = dims(space)
    for settled in openings(space):
        assert set(settled) <= set(drawn)
        for name, value in settled.items():
            assert drawn[name].contains(value), name


def test_the_nearest_value_is_chosen_and_a_distant_one_is_left_open():
    space = {
        **DEFAULT,
        "batch_size": ChoiceDim(choices=(32, 100)),
        "optimizer": ChoiceDim(choices=("sgd", "rmsprop")),
        "learning_rate": FloatDim(low=1e-4, high=1e-3, log=True),
    }
    settled = initial_trial(space, 0)
    assert settled["batch_size"] == 100
    assert settled["learning_rate"] == 1e-3
    assert "optimizer" not in settled


def test_per_block_widths_are_left_open():
    assert not any(
        name.startswith("width") for name in initial_trial(default_space("per-block"), 4)
    )


@pytest.mark.parametrize(
    ("batch_size", "images", "expected"),
    [
        (DEFAULT["batch_size"], 3500, 128),  # mnist5k: as without the number
        (DEFAULT["batch_size"], 100_000, 128),
        (DEFAULT["batch_size"], 2000, 64),
        (ChoiceDim(choices=(64, 8, 16)), 400, 16),
        (ChoiceDim(choices=(64, 8, 16)), 84, 8),  # the smallest there is
        (IntDim(low=4, high=512), 1000, 50),
        (IntDim(low=8, high=512, step=8), 1000, 48),
        (IntDim(low=32, high=512, log=True), 84, 32),
    ],
)
def test_small_data_begins_with_batches_that_leave_an_epoch_twenty_steps(
    batch_size, images, expected
):
    space = {**DEFAULT, "batch_size": batch_size}
    assert {o["batch_size"] for o in openings(space, images)} == {expected}


def test_with_many_images_the_opening_is_what_it_is_without_their_number():
    assert openings(DEFAULT, 3500) == openings(DEFAULT)
