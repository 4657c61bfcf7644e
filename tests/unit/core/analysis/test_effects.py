"""What depth and the optimizer did, as numbers."""

from __future__ import annotations

import pytest

from hpsearch.core.analysis.effects import (
    depth_effect,
    optimizer_effect,
    overfitting_gap,
    quartiles,
)
from hpsearch.core.trial import State, TrialRecord
from tests.unit.trials import trial


def depths(table, *, first=0):
    """Trials by depth: {blocks: [accuracies]}."""
    pairs = [(blocks, accuracy) for blocks, list_ in table.items() for accuracy in list_]
    return [
        trial(first + n, accuracy, float(blocks), blocks=blocks)
        for n, (blocks, accuracy) in enumerate(pairs)
    ]


def test_a_spread_has_the_quartiles_of_the_finite_values():
    found = quartiles([4.0, 1.0, float("nan"), 3.0, 2.0, 5.0, float("inf")])

    assert (found.n, found.low, found.high) == (5, 1.0, 5.0)
    assert (found.quarter, found.median, found.three_quarters) == (2.0, 3.0, 4.0)
    assert quartiles([float("nan")]) is None


def test_each_depth_has_its_counts_spreads_and_best_trial():
    records = [
        *depths({1: [0.7, 0.8, 0.6], 2: [0.9]}),
        trial(4, 0.5, 2.0, blocks=2, state=State.PRUNED, epochs=1),
        trial(5, 0.9, 3.0, blocks=2, loss=0.4),  # as accurate as trial 3, later
        trial(6, 0.0, 1.0, blocks=3, state=State.FAILED),
        trial(7, 0.0, 1.0, blocks=3, state=State.RUNNING),
    ]

    one, two = depth_effect(records, val_images=100).groups

    assert (one.key, one.complete, one.pruned, one.best) == (1, 3, 0, 1)
    assert (one.accuracy.median, one.accuracy.high) == (0.7, 0.8)
    assert one.train_seconds.median == 1.0
    assert one.val_loss.median == pytest.approx(0.3)
    assert (two.key, two.complete, two.pruned, two.best) == (2, 2, 1, 3)
    assert two.train_seconds.median == 2.5


def test_the_smallest_depth_within_the_noise_of_all_deeper_ones_is_enough():
    effect = depth_effect(depths({1: [0.80], 2: [0.94], 3: [0.95], 4: [0.945]}), val_images=750)

    assert effect.by_best.n_blocks == 2
    assert (effect.by_best.here, effect.by_best.deeper) == (0.94, 0.95)
    assert 0.01 <= effect.by_best.noise < 0.03
    assert effect.by_median is None  # fewer than three trials at each depth


def test_where_every_block_pays_nothing_deeper_is_named():
    effect = depth_effect(depths({1: [0.6], 2: [0.8], 3: [0.95]}), val_images=750)

    assert effect.by_best.n_blocks == 3
    assert (effect.by_best.deeper, effect.by_best.noise) == (None, None)


def test_medians_are_compared_by_their_own_spread():
    table = {1: [0.50, 0.51, 0.52, 0.53], 2: [0.80, 0.82, 0.84, 0.86], 3: [0.81, 0.83, 0.84, 0.87]}

    effect = depth_effect(depths(table), val_images=None)

    assert effect.by_best is None  # the noise of an accuracy is not known
    assert effect.by_median.n_blocks == 2
    assert effect.by_median.here == pytest.approx(0.83)
    assert effect.by_median.deeper == pytest.approx(0.835)
    assert effect.by_median.noise > 0.005


def test_a_much_better_deeper_median_outweighs_a_near_one_between():
    table = {1: [0.80, 0.81, 0.82], 2: [0.80, 0.81, 0.82], 3: [0.90, 0.91, 0.92]}

    assert depth_effect(depths(table), val_images=None).by_median.n_blocks == 3


@pytest.mark.parametrize("table", [{}, {3: [0.9, 0.8, 0.7]}])
def test_one_depth_alone_is_never_enough(table):
    effect = depth_effect(depths(table), val_images=750)

    assert (effect.by_best, effect.by_median) == (None, None)
    assert [group.key for group in effect.groups] == list(table)


def test_depth_comes_from_the_resolved_net_where_it_was_not_drawn():
    spec = {"model": {"widths": [8, 16, 24]}}
    record = TrialRecord(number=0, state=State.PRUNED, attributes={"spec": spec})

    assert depth_effect([record], val_images=750).groups[0].key == 3


def test_the_gap_is_validation_minus_training_loss_at_the_end():
    assert overfitting_gap(trial(0, 0.9, 1.0, loss=0.5, train_loss=0.2)) == pytest.approx(0.3)
    assert overfitting_gap(TrialRecord(number=0, state=State.COMPLETE)) is None


def test_optimizers_are_compared_by_accuracy_and_gap():
    def of(optimizer, accuracies, train_loss, first):
        return [
            trial(first + n, a, 1.0, optimizer=optimizer, loss=0.5, train_loss=train_loss)
            for n, a in enumerate(accuracies)
        ]

    effect = optimizer_effect(
        [
            *of("sgd", [0.80, 0.81, 0.82], 0.45, 0),
            *of("adam", [0.90, 0.91, 0.92], 0.1, 3),
            *of("rmsprop", [0.99], 0.5, 6),  # too few to lead
        ]
    )

    assert [group.key for group in effect.groups] == ["adam", "rmsprop", "sgd"]
    assert (effect.leader, effect.is_sure, effect.tightest) == ("adam", True, "sgd")
    assert effect.groups[0].gap.median == pytest.approx(0.4)
    assert effect.groups[2].gap.median == pytest.approx(0.05)


def test_one_optimizer_leads_no_other():
    effect = optimizer_effect([trial(n, 0.9, 1.0) for n in range(4)])

    assert len(effect.groups) == 1
    assert (effect.leader, effect.is_sure, effect.tightest) == (None, None, None)
