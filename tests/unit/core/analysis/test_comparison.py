"""Several searches side by side, by numbers worked out by hand."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from hpsearch.core.analysis.comparison import ComparedSearch, compare, first_worth, worth
from hpsearch.core.analysis.study_analysis import as_plain
from hpsearch.core.trial import State
from hpsearch.view.report.comparison_tables import small_print, verdict
from hpsearch.view.terminal.study_tables import comparison_table
from tests.unit.trials import trial
from tests.unit.view.terminal.test_trial_tables import shown

TWO = ("accuracy", "train_seconds")
BOUNDS = {"accuracy": (0.0, 1.0), "train_seconds": (1.0, 100.0)}


def entrant(study, *records, **known):
    return ComparedSearch(study=study, records=records, epochs=4, **{"bounds": BOUNDS, **known})


def fast():
    """Half of the accuracy in 1 s, all of it in 10 s, and dominated trials for 20 s."""
    return entrant("fast", trial(0, 0.5, 1.0), trial(1, 1.0, 10.0), trial(2, 0.4, 20.0))


def slow():
    """A front of 0.5 x 0.5 after 10 s, and of 0.75 x 0.5 after 20 s."""
    return entrant("slow", trial(0, 0.5, 10.0), trial(1, 0.75, 10.0))


def test_hypervolumes_are_those_of_equal_training_and_of_equal_trials():
    found = compare([slow(), fast()], objectives=TWO)
    second, first = found.studies

    assert (found.seconds, found.trials) == (20.0, 2)
    assert [one.study for one in found.studies] == ["slow", "fast"]
    assert (first.seconds, first.trials, second.seconds, second.trials) == (31.0, 3, 20.0, 2)
    # 0.5 of accuracy over all of log cost, and 1 over half of it: 0.5 + 0.25
    assert first.hypervolume == first.at_seconds == first.at_trials == pytest.approx(0.75)
    assert second.hypervolume == second.at_seconds == second.at_trials == pytest.approx(0.375)
    assert (found.ranking, found.level) == (("fast", "slow"), ("fast",))


def test_a_study_that_ran_longer_is_held_to_what_the_other_spent():
    long = entrant("long", trial(0, 0.5, 10.0), trial(1, 0.6, 10.0), trial(2, 1.0, 1.0))
    short = entrant("short", trial(0, 0.75, 10.0))

    found = compare([long, short], objectives=TWO)

    assert (found.seconds, found.trials) == (10.0, 1)
    assert found.ranking == ("short", "long")
    assert [one.at_seconds for one in found.studies] == pytest.approx([0.25, 0.375])
    assert found.studies[0].hypervolume == pytest.approx(1.0)


def test_when_it_was_nearly_there_and_when_the_leader_had_what_the_other_had():
    found = compare([slow(), fast()], objectives=TWO)
    second, first = found.studies

    assert (first.nearly.number, first.nearly.seconds) == (1, 11.0)
    assert second.nearly is None
    assert (second.overtaken.number, second.overtaken.seconds) == (0, 1.0)


def test_those_within_a_hundredth_of_the_leader_are_level_with_it():
    close = entrant("close", trial(0, 0.745, 10.0), trial(1, 0.1, 10.0))
    far = entrant("far", trial(0, 0.74, 10.0), trial(1, 0.1, 10.0))

    found = compare([far, close, slow()], objectives=TWO)

    assert found.ranking == ("slow", "close", "far")
    assert found.level == ("slow", "close")


def test_the_joint_front_shows_which_trials_are_beaten():
    found = compare([slow(), fast()], objectives=TWO)
    second, first = found.studies

    assert found.joint_front == 2
    assert [pick.number for pick in first.front.trials] == [0, 1]
    assert (first.front.unbeaten, first.front.beaten_by) == ((0, 1), {"slow": 0})
    assert [pick.number for pick in second.front.trials] == [1]
    assert (second.front.unbeaten, second.front.beaten_by) == ((), {"fast": 1})
    assert (first.front.best.number, first.front.knee.number) == (1, 1)


def test_equal_trials_are_on_the_joint_front_of_both_and_count_once():
    one, two = entrant("one", trial(0, 0.5, 10.0)), entrant("two", trial(5, 0.5, 10.0))

    found = compare([one, two], objectives=TWO)

    assert [study.front.unbeaten for study in found.studies] == [(0,), (5,)]
    assert found.joint_front == 1
    assert found.level == ("one", "two")


def test_the_bounds_hold_those_of_all():
    wide = {"accuracy": (0.0, 1.0), "train_seconds": (0.1, 10.0)}
    two = entrant("two", trial(0, 0.5, 10.0), bounds=wide)

    found = compare([entrant("one", trial(0, 0.5, 10.0)), two], objectives=TWO)

    assert found.bounds == {"accuracy": (0.0, 1.0), "train_seconds": (0.1, 100.0)}
    assert [one.hypervolume for one in found.studies] == pytest.approx([0.5 / 3, 0.5 / 3])


def test_where_seconds_do_not_compare_equal_trials_decide():
    slower = entrant("slower", trial(0, 0.75, 10.0), trial(1, 0.5, 1.0))

    found = compare([slow(), slower], objectives=TWO, same_clock=False)

    assert (found.seconds, found.trials) == (None, 2)
    assert found.ranking == ("slower", "slow")
    assert [one.at_seconds for one in found.studies] == [None, None]
    assert [one.at_equal for one in found.studies] == pytest.approx([0.375, 0.625])
    assert "After 2 trials each, slower" in verdict(found)[0]
    assert verdict(found)[1] == "The hypervolume that slow has there, slower reached after 1 trial."


def test_stopped_and_failed_trials_cost_what_they_trained():
    records = (
        trial(0, 0.9, 8.0, state=State.PRUNED, epochs=1),
        trial(1, 0.9, 8.0, state=State.FAILED),
        trial(2, 0.5, 10.0),
        trial(3, 0.9, 8.0, state=State.RUNNING),
    )

    found = compare([entrant("one", *records), slow()], objectives=TWO)

    one = found.studies[0]
    assert (one.trials, one.seconds) == (2, 12.0)
    assert (one.counts["pruned"], one.counts["failed"]) == (1, 1)


@pytest.mark.parametrize(
    ("images", "is_sure", "words"),
    [(10_000, True, ": significant"), (100, False, "not significant"), (None, None, "slow.")],
)
def test_the_lead_in_accuracy_is_held_against_its_noise(images, is_sure, words):
    one = entrant("one", trial(0, 0.8, 10.0), val_images=images)
    two = entrant("slow", trial(0, 0.75, 10.0), val_images=20_000)

    found = compare([two, one], objectives=TWO)

    assert (found.accuracy.study, found.accuracy.over) == ("one", "slow")
    assert found.accuracy.gain == pytest.approx(0.05)
    assert found.accuracy.is_sure is is_sure
    assert (found.val_images, words in verdict(found)[-1]) == (images, True)


def test_one_objective_and_costs_alone_can_be_compared_too():
    best = {"params": (10.0, 1000.0)}
    known = {"objectives": ("params",)}
    one = entrant("one", trial(0, 0.5, 1.0, **known), bounds=best)
    two = entrant("two", trial(0, 0.5, 0.1, **known), bounds=best)

    found = compare([one, two], objectives=("params",))

    assert [study.hypervolume for study in found.studies] == pytest.approx([0.5, 1.0])
    assert (found.quality, found.accuracy, found.studies[0].front.best) == (None, None, None)
    # two's only trial had ended after 0.1 s, none of one's
    assert verdict(found)[0].endswith("two (1.0000) is ahead of one (nothing yet) in hypervolume.")
    assert "knee" not in shown(comparison_table(found))


def test_a_search_without_trials_had_nothing():
    assert worth([], seconds=3.0) == 0.0
    assert first_worth([], 0.5) is None


def test_it_is_shown_in_a_table_and_in_words():
    found = compare([slow(), fast()], objectives=TWO)
    changed = {
        "search.sampler": ("random", "tpe"),
        "train.flip": (False, True),
        "space.n_blocks": ({"low": 1, "high": 5, "log": False, "step": 2}, None),
        "space.head": ({"choices": ["gap", "flatten"]}, "gap"),
        "data.val_fraction": (0.1501, 0.1502),
    }

    told = shown(comparison_table(replace(found, differences=changed)), width=60)

    table, words, small = told.split("\n\n")
    lines = [line.split("  ") for line in table.splitlines()]
    cells = {line[0] or line[1]: [c.strip() for c in line[1:] if c.strip()] for line in lines}
    assert cells["search.sampler"] == ["random", "tpe"]
    assert cells["train.flip"] == ["false", "true"]
    assert cells["space.n_blocks"] == ["1 to 5 by 2", "-"]
    assert cells["space.head"] == ["gap, flatten", "gap"]
    assert cells["data.val_fraction"] == ["0.1501", "0.1502"]
    assert cells["training"] == ["20.0 s", "31.0 s"]
    assert cells["hypervolume"] == ["0.3750", "0.7500"]
    assert cells["knee: train_seconds"] == ["10.0 s", "10.0 s"]
    assert all(len(line) <= 60 for line in told.splitlines())
    assert " ".join(words.split()) == (
        "After 20.0 s of training each, fast (0.7500) is ahead of slow (0.3750) in hypervolume."
        " The hypervolume that slow has there, fast reached after 1.00 s. The joint front of all"
        " trials holds 2 trials: 0 of slow and 2 of fast. The best accuracy is that of fast, 25.0"
        " points above the best of slow."
    )
    assert "Each study is a single search" in small
    assert "(train_seconds 1.00 s to 1 min 40 s)" in " ".join(small.split())


def test_several_are_shown_in_the_order_of_their_hypervolume():
    found = compare(
        [
            slow(),
            fast(),
            entrant("the third", trial(0, 0.5, 10.0), trial(1, 0.0, 10.0)),
            entrant("twin", *fast().records),
        ],
        objectives=TWO,
    )

    standing, passed, joint, accuracy = verdict(found)
    assert standing == (
        "After 20.0 s of training each, fast (0.7500) and twin (0.7500) are level: less than 1 %"
        " apart in hypervolume, ahead of slow (0.3750) and the third (0.2500)."
    )
    assert passed == "The hypervolume that slow has there, fast reached after 1.00 s."
    assert joint == (
        "The joint front of all trials holds 2 trials, equal ones counted once: 0 of slow, 2 of"
        " fast, 0 of the third and 2 of twin."
    )
    assert accuracy == "The best accuracies of fast and twin are the same."


@pytest.mark.parametrize(("width", "blocks"), [(40, 6), (60, 3), (100, 1)])
def test_numbers_are_never_folded_whatever_the_width(width, blocks):
    many = [
        entrant(f"emnist-balanced-{n}", trial(0, 0.5 + n / 20, 10.0), trial(1, 0.1, 50.0))
        for n in range(6)
    ]

    told = shown(comparison_table(compare(many, objectives=TWO)), width=width)

    lines = [line for line in told.splitlines() if line.startswith("training")]
    assert len(lines) == blocks
    assert [line.count("1 min 00 s") for line in lines] == [6 // blocks] * blocks
    assert all(len(line) <= width for line in told.splitlines())


def test_repeated_searches_show_the_effect_of_chance():
    found = replace(compare([slow(), fast()], objectives=TWO), repeats=(("slow", "fast"),))

    assert (
        "slow and fast are repeats of the same search, so the difference between 0.3750 and 0.7500"
        " is chance."
    ) in verdict(found)
    assert len(small_print(found)) == 1
    assert "single search" not in small_print(found)[0]
    equal = compare([slow(), entrant("twin", *slow().records)], objectives=TWO)
    told = verdict(replace(equal, repeats=(("slow", "twin"),)))
    assert "slow and twin are repeats of the same search, with the same result." in told


def test_all_of_it_becomes_json():
    plain = json.loads(json.dumps(as_plain(compare([slow(), fast()], objectives=TWO))))

    assert plain["studies"][1]["front"]["beaten_by"] == {"slow": 0}
    assert plain["studies"][0]["nearly"] is None
    assert plain["level"] == ["fast"]
