"""Configurations set by hand, alone and over a trial's."""

import pytest

from hpsearch.core.overrides import apply_overrides, default_configuration, parse_overrides
from hpsearch.core.space import default_space
from hpsearch.core.spec import ShapeSpec, StudySpec, resolve
from hpsearch.errors import SpecError

SPEC = StudySpec(name="s", space=default_space("geometric"))
BY_BLOCK = StudySpec(
    name="s", model=ShapeSpec(widths="per-block"), space=default_space("per-block")
)
TRAINING = {
    "kernel_size": 5,
    "batch_norm": False,
    "head": "gap",
    "dropout": 0.25,
    "optimizer": "adam",
    "learning_rate": 0.004,
    "weight_decay": 0.001,
    "batch_size": 64,
    "schedule": "cosine",
}
GEOMETRIC = {"n_blocks": 2, "base_width": 12, "growth": 1.5, **TRAINING}
BLOCKS = {"n_blocks": 2, "width_1": 8, "width_2": 40, **TRAINING}


def resolved(spec, params):
    return resolve(spec, number=0, params=params)


def hand(*settings):
    return resolved(*default_configuration(SPEC, parse_overrides(settings)))


def over(spec, params, *settings):
    return resolved(*apply_overrides(spec, params, parse_overrides(settings)))


def test_nothing_set_is_the_known_recipe():
    trial = hand()

    assert trial.model.widths == (16, 32, 64)
    assert (trial.model.kernel_size, trial.model.batch_norm) == (3, True)
    assert (trial.train.optimizer, trial.train.learning_rate) == ("adamw", 6e-3)
    assert (trial.train.schedule, trial.train.batch_size) == ("one-cycle", 128)
    assert (trial.train.epochs, trial.train.shift) == (8, 1)


@pytest.mark.parametrize(
    ("settings", "widths"),
    [
        (["n_blocks=1"], (16,)),
        (["base_width=32"], (32, 64, 128)),
        (["n_blocks=2", "base_width=100", "growth=1.5"], (100, 152)),
        (["width_1=32", "width_2=7"], (32, 7)),
        (["width=24", "n_blocks=4"], (24, 24, 24, 24)),
        (["width=24", "width_2=48", "n_blocks=3"], (24, 48, 24)),
    ],
)
def test_widths_can_be_set_in_either_way(settings, widths):
    assert hand(*settings).model.widths == widths


@pytest.mark.parametrize(
    ("optimizer", "rate", "decay", "momentum"),
    [("sgd", 0.1, 5e-4, 0.9), ("adam", 6e-3, 1e-5, 0.0), ("rmsprop", 6e-3, 1e-5, 0.0)],
)
def test_every_optimizer_has_a_rate_and_a_decay_that_suit_it(optimizer, rate, decay, momentum):
    train = hand(f"optimizer={optimizer}").train

    assert (train.learning_rate, train.weight_decay) == (rate, decay)
    assert train.momentum == momentum


def test_settings_over_a_trial_change_nothing_else():
    before, after = over(SPEC, GEOMETRIC), over(SPEC, GEOMETRIC, "learning_rate=0.5", "shift=0")

    assert (after.train.learning_rate, after.train.shift) == (0.5, 0)  # outside the space
    assert after.model == before.model == resolved(SPEC, GEOMETRIC).model
    assert after.train.optimizer == "adam"
    assert after.train.weight_decay == 0.001


@pytest.mark.parametrize(
    ("spec", "params", "settings", "widths"),
    [
        (SPEC, GEOMETRIC, ["n_blocks=3"], (12, 16, 28)),
        (SPEC, GEOMETRIC, ["width_2=50"], (12, 50)),
        (SPEC, GEOMETRIC, ["base_width=40", "n_blocks=3"], (40, 60, 64)),  # the study's cap
        (BY_BLOCK, BLOCKS, [], (8, 40)),
        (BY_BLOCK, BLOCKS, ["n_blocks=4"], (8, 40, 40, 40)),
        (BY_BLOCK, BLOCKS, ["n_blocks=1"], (8,)),
        (BY_BLOCK, BLOCKS, ["base_width=20"], (20, 40)),
        (BY_BLOCK, BLOCKS, ["growth=3"], (8, 24)),
    ],
)
def test_a_trials_widths_can_be_changed_in_part(spec, params, settings, widths):
    assert over(spec, params, *settings).model.widths == widths


def test_a_trial_turned_to_sgd_gets_momentum():
    assert over(SPEC, GEOMETRIC, "optimizer=sgd").train.momentum == 0.9


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["n_blocks"], "--set: found 'n_blocks', expected NAME=VALUE"),
        (["n_block=3"], "--set n_block: found an unknown name; did you mean 'n_blocks'"),
        (["lr=0.1"], "--set lr: found an unknown name; did you mean 'learning_rate'"),
        (["n_blocks=3", "n_blocks=2"], "--set n_blocks: found it twice"),
        (["n_blocks=three"], "--set n_blocks: found 'three', expected a number"),
        (["n_blocks=13"], "--set n_blocks: found 13, expected 1 to 12"),
        (["optimizer=adamax"], "--set optimizer: found 'adamax', expected one of sgd, adam"),
        (["batch_norm=2"], "--set batch_norm: found '2', expected one of false, true"),
        (["shift=1.5"], "--set shift: found '1.5', expected a whole number"),
        (["shift=99"], "--set shift: found 99, expected 0 to 64 pixels"),
        (["rotate=nan"], "--set rotate: found nan, expected 0 to 180 degrees"),
        (["flip=maybe"], "--set flip: found 'maybe', expected true or false"),
        (["label_smoothing=x"], "--set label_smoothing: found 'x', expected a number"),
        (["momentum=0.5"], "--set momentum: has no effect with the other values; add --set opt"),
        (["width_3=9", "n_blocks=2"], "--set width_3: .* add --set n_blocks=3"),
        (["width_1=9", "growth=2"], "--set: found width_1 and growth, expected widths by block"),
    ],
)
def test_settings_that_cannot_be_set_are_refused(settings, told):
    with pytest.raises(SpecError, match=told):
        hand(*settings)
