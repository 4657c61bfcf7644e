"""Choosing the trial to train for use."""

import pytest

from hpsearch.core.analysis.recommendation import TrialSelection, select_trial
from hpsearch.core.trial import Epoch, State, TrialRecord
from hpsearch.errors import SpecError, StudyError

OBJECTIVES = ("accuracy", "train_seconds")


def trial(number, accuracy, seconds, *, params=1000, state=State.COMPLETE, reason=None):
    complete = state is State.COMPLETE
    return TrialRecord(
        number=number,
        state=state,
        values={"accuracy": accuracy, "train_seconds": seconds} if complete else {},
        cost={"params": params, "train_seconds": seconds},
        curve=(
            Epoch(
                epoch=1,
                train_loss=0.5,
                train_accuracy=0.9,
                val_loss=1 - accuracy,
                val_accuracy=accuracy,
                train_seconds=seconds,
                wall_seconds=seconds,
            ),
        ),
        reason=reason,
    )


TRIALS = [
    trial(0, 0.80, 1.0, params=500),
    trial(1, 0.95, 2.0, params=900),
    trial(2, 0.97, 20.0, params=9000),
    trial(3, 0.60, 0.5, state=State.PRUNED, reason="hopeless at epoch 2"),
    trial(4, 0.0, 0.0, state=State.FAILED),
    trial(5, 0.95, 2.5, params=200),
]


@pytest.mark.parametrize("way", ["within_seconds", "within_params"])
@pytest.mark.parametrize("limit", [float("nan"), float("inf"), -1.0, -float("inf")])
def test_a_limit_that_is_none_is_refused(way, limit):
    option = "--" + way.replace("_", "-")

    with pytest.raises(SpecError, match=f"^{option}: found {limit}, expected a finite number of"):
        TrialSelection(**{way: limit})


@pytest.mark.parametrize(
    ("ways", "number"),
    [
        ({"trial": 0}, 0),
        ({"knee": True}, 1),
        ({"best": "accuracy"}, 2),
        ({"best": "train_seconds"}, 0),
        ({"best": "params"}, 5),  # not an objective of the study, but measured
        ({"best": "val_loss"}, 2),
        ({"within_seconds": 2.5}, 1),  # as accurate as trial 5, and faster
        ({"within_seconds": 100}, 2),
        ({"within_params": 600}, 5),
        ({"within_params": 500}, 5),
    ],
)
def test_each_way_finds_its_trial(ways, number):
    assert select_trial(TRIALS, OBJECTIVES, TrialSelection(**ways)).number == number


@pytest.mark.parametrize(
    ("ways", "told"),
    [
        ({"trial": 6}, r"found no trial 6, the study has trials 0 to 5; see `hpsearch front`"),
        ({"trial": -1}, r"found no trial -1"),
        ({"trial": 3}, r"trial 3 is pruned \(hopeless at epoch 2\), expected a complete one"),
        ({"trial": 4}, r"trial 4 is failed, expected a complete one"),
        ({"best": "latency_ms"}, r"no complete trial whose latency_ms is known"),
        (
            {"within_seconds": 0.5},
            r"--within-seconds: found no complete trial with train_seconds of 0.5 or less;"
            r" the least is 1, of trial 0; raise the limit",
        ),
        ({"within_params": 1}, r"--within-params: .* the least is 200, of trial 5"),
    ],
)
def test_trials_that_cannot_be_chosen_are_refused(ways, told):
    with pytest.raises(StudyError, match=told):
        select_trial(TRIALS, OBJECTIVES, TrialSelection(**ways))


@pytest.mark.parametrize("records", [[], TRIALS[3:5]])
@pytest.mark.parametrize("ways", [{"knee": True}, {"best": "accuracy"}, {"within_params": 9}])
def test_a_study_without_a_complete_trial_has_nothing_to_choose(records, ways):
    with pytest.raises(StudyError, match=f"found {len(records)} trials and none complete"):
        select_trial(records, OBJECTIVES, TrialSelection(**ways))


def test_an_empty_study_has_no_numbered_trial():
    with pytest.raises(StudyError, match="found no trial 0, the study has no trials yet"):
        select_trial([], OBJECTIVES, TrialSelection(trial=0))


def test_two_ways_are_one_too_many():
    with pytest.raises(SpecError, match="--trial and --knee cannot be combined"):
        TrialSelection(trial=0, knee=True)


def test_no_way_at_all_is_refused_with_the_ways():
    with pytest.raises(SpecError, match=r"expected one of --trial N, --knee"):
        select_trial(TRIALS, OBJECTIVES, TrialSelection())


def test_an_unknown_objective_is_refused_with_the_known_ones():
    with pytest.raises(SpecError, match="--best: found 'acuracy'; did you mean 'accuracy'"):
        TrialSelection(best="acuracy")
