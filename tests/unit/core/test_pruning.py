"""The rules on curves typed by hand."""

import math
import random

import pytest

from hpsearch.core.analysis.pareto import hypervolume
from hpsearch.core.pruning import PRUNERS, Peer, Rule, quantile, should_prune

NAN = float("nan")


def peer(number, losses, cost=(1.0,), finished=True):
    return Peer(number=number, losses=tuple(losses), cost=tuple(cost), finished=finished)


def five(cost=(1.0,), final=0.4):
    """Five finished trials that halve their loss from epoch 1 (of 3) to the end."""
    return [peer(n, (2 * final, 1.2 * final, final), cost) for n in range(5)]


def rule(name, **settings):
    return Rule(pruner=name, **settings)


def test_forecast_stops_a_trial_that_even_at_the_best_past_ratio_ends_worse():
    verdict = should_prune([0.9], [2.0], five(), rule("forecast"), epochs=3)
    assert verdict.value == pytest.approx(0.45)  # 0.9 × 0.5
    assert (verdict.limit, verdict.epoch, verdict.beaten_by) == (0.4, 1, 0)


def test_forecast_keeps_a_trial_that_may_still_win():
    assert should_prune([0.79], [2.0], five(), rule("forecast"), epochs=3) is None


def test_forecast_keeps_a_tie():
    assert should_prune([0.8], [2.0], five(), rule("forecast"), epochs=3) is None


def test_the_risk_quantile_says_how_much_improvement_is_still_hoped_for():
    peers = [*five()[:4], peer(4, (4.0, 1.0, 0.4))]  # one improved tenfold
    assert should_prune([1.2], [2.0], peers, rule("forecast", risk=0.0), epochs=3) is None
    assert should_prune([1.2], [2.0], peers, rule("forecast", risk=0.5), epochs=3) is not None


@pytest.mark.parametrize("name", sorted(set(PRUNERS) - {"none"}))
def test_nothing_is_stopped_before_five_have_finished(name):
    peers = [*five()[:4], peer(9, (0.1, 0.1), finished=False)]
    assert should_prune([99.0], [2.0], peers, rule(name), epochs=3) is None
    assert should_prune([99.0], [2.0], five(), rule(name), epochs=3) is not None


@pytest.mark.parametrize("name", sorted(set(PRUNERS) - {"median"}))
def test_a_trial_strictly_cheaper_than_every_finished_one_is_never_stopped(name):
    cheap_but_running = peer(9, (0.1, 0.1, 0.1), (0.5,), finished=False)
    peers = [*five(cost=(1.0,)), cheap_but_running]
    assert should_prune([99.0], [0.9], peers, rule(name), epochs=3) is None


@pytest.mark.parametrize("name", sorted(PRUNERS))
def test_the_last_epoch_and_no_epoch_stop_nothing(name):
    assert should_prune([9.0, 9.0, 9.0], [2.0], five(), rule(name), epochs=3) is None
    assert should_prune([], [2.0], five(), rule(name), epochs=3) is None


def test_with_two_costs_a_peer_is_no_higher_in_each():
    peers = five(cost=(1.0, 10.0))
    assert should_prune([9.0], [2.0, 5.0], peers, rule("forecast"), epochs=3) is None
    assert should_prune([9.0], [2.0, 10.0], peers, rule("forecast"), epochs=3) is not None


def test_without_a_cost_every_finished_trial_is_a_peer():
    assert should_prune([9.0], [], five(cost=()), rule("forecast"), epochs=3) is not None


@pytest.mark.parametrize("bad", [0.0, NAN, math.inf])
def test_a_ratio_with_a_zero_nan_or_infinite_loss_is_left_out(bad):
    peers = [*five(), peer(5, (bad, 1.0, 0.4))]
    assert should_prune([0.9], [2.0], peers, rule("forecast"), epochs=3).value == pytest.approx(
        0.45
    )


def test_a_finished_trial_with_a_nan_loss_beats_no_trial():
    peers = [*five(), peer(5, (0.1, 0.1, NAN))]
    assert should_prune([0.7], [2.0], peers, rule("forecast"), epochs=3) is None


def test_margin_shrinks_as_training_goes_on():
    peers = five()
    assert should_prune([0.95], [2.0], peers, rule("margin", margin=0.3), epochs=3) is None
    assert should_prune([0.97], [2.0], peers, rule("margin", margin=0.3), epochs=3) is not None
    assert should_prune([1.0, 0.54], [2.0], peers, rule("margin", margin=0.3), epochs=3) is not None


def test_median_looks_at_loss_alone():
    assert should_prune([0.81], [0.001], five(), rule("median"), epochs=3) is not None
    assert should_prune([0.79], [0.001], five(), rule("median"), epochs=3) is None


def test_percentile_asks_for_the_best_quarter_of_the_no_costlier():
    peers = [peer(n, (loss, loss, loss)) for n, loss in enumerate([0.1, 0.2, 0.3, 0.4, 0.5])]
    assert should_prune([0.21], [2.0], peers, rule("percentile"), epochs=3).limit == 0.2
    assert should_prune([0.19], [2.0], peers, rule("percentile"), epochs=3) is None


def test_asha_lets_one_in_three_go_on_and_only_at_its_rungs():
    peers = [peer(n, (loss,) * 9) for n, loss in enumerate([0.1, 0.2, 0.3, 0.4, 0.5])]
    asha = rule("asha", reduction=3)
    assert should_prune([0.15], [2.0], peers, asha, epochs=9) is None  # second of six
    assert should_prune([0.25], [2.0], peers, asha, epochs=9).limit == 0.2
    assert should_prune([0.9, 0.9], [2.0], peers, asha, epochs=9) is None
    assert should_prune([0.9, 0.9, 0.9], [2.0], peers, asha, epochs=9) is not None
    assert should_prune([0.9, 0.9], [2.0], peers, rule("asha", rungs=(2,)), epochs=9) is not None


def test_none_stops_nothing():
    assert should_prune([99.0], [2.0], five(), rule("none"), epochs=3) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pruner": "forcast"}, "did you mean 'forecast'"),
        ({"risk": 1.5}, "pruning.risk: found 1.5, expected 0 to 1"),
        ({"reduction": 1}, "expected 2 or more"),
        ({"rungs": (0,)}, "expected epochs from 1 on"),
        ({"min_finished": 0}, "expected 1 or more"),
    ],
)
def test_a_rule_refuses_illegal_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        Rule(**settings)


def test_quantile_is_linear_between_values():
    assert quantile([1.0, 2.0, 3.0, 4.0], 0.5) == 2.5
    assert quantile([7.0], 0.05) == 7.0


def curves(n=60, epochs=9, seed=1):
    """Nets of five sizes: larger ones cost more and lose less; half of each size train badly."""
    draw = random.Random(seed)
    for number in range(n):
        size = draw.randrange(5)
        bad = draw.random() < 0.5
        final = (0.8 - 0.15 * size) * draw.uniform(0.95, 1.05) * (1.8 if bad else 1.0)
        losses = [final * (1 + 2.0 * (1 - e / epochs) ** 2) for e in range(1, epochs + 1)]
        yield peer(number, losses, (float(2**size) * draw.uniform(0.9, 1.1),))


def replay(name, trials, epochs=9):
    """Feeds recorded curves through a rule; returns hypervolume (loss, log cost) and the epochs."""
    seen, spent = [], 0
    for trial in trials:
        ran = epochs
        for epoch in range(1, epochs):
            if should_prune(trial.losses[:epoch], trial.cost, seen, rule(name), epochs=epochs):
                ran = epoch
                break
        spent += ran
        seen.append(peer(trial.number, trial.losses[:ran], trial.cost, finished=ran == epochs))
    points = [
        (1 - p.losses[-1] / 2, 1 - math.log(p.cost[0] / 0.5) / math.log(64))
        for p in seen
        if p.finished
    ]
    return hypervolume(points), spent, seen


def test_in_a_replay_median_loses_the_cheap_end_and_forecast_keeps_it():
    trials = list(curves())
    full, all_epochs, _ = replay("none", trials)
    median_kept, _, by_median = replay("median", trials)
    forecast_kept, forecast_spent, by_forecast = replay("forecast", trials)

    def cheapest_good(seen):
        return min(p.cost[0] for p in seen if p.finished and p.number >= 10)

    assert median_kept < 0.95 * full
    assert forecast_kept > 0.98 * full
    assert forecast_spent < 0.75 * all_epochs
    assert cheapest_good(by_median) > 1.5 * cheapest_good(by_forecast)
