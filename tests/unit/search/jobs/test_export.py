"""Trials and curves as columns."""

from datetime import UTC, datetime

from hpsearch.core.trial import Epoch, State, TrialRecord
from hpsearch.search.jobs.export import curve_columns, trial_columns

EPOCH = Epoch(
    epoch=1,
    train_loss=0.5,
    train_accuracy=0.8,
    val_loss=0.6,
    val_accuracy=0.7,
    train_seconds=2.0,
    wall_seconds=0.5,
)
TRIALS = [
    TrialRecord(
        number=0,
        state=State.COMPLETE,
        values={"accuracy": 0.7, "train_seconds": 2.0},
        cost={"params": 10, "train_seconds": 2.0},
        params={"optimizer": "sgd", "n_blocks": 2, "momentum": 0.9},
        curve=(EPOCH,),
        seed=3,
        started=datetime(2026, 1, 2, 3, 4),
        attributes={"spec": {"model": {"widths": [8, 16]}}, "origin": {"threads": 2}},
    ),
    TrialRecord(number=1, state=State.WAITING, params={"optimizer": "adam", "n_blocks": 1}),
]


def test_every_trial_is_a_row_with_what_it_has():
    columns = trial_columns(TRIALS, ("accuracy", "train_seconds"))

    assert {len(column) for column in columns.values()} == {2}
    assert columns["number"] == [0, 1]
    assert columns["state"] == ["complete", "waiting"]
    assert columns["front"] == columns["knee"] == [True, False]
    assert columns["values_accuracy"] == [0.7, None]
    assert columns["cost_params"] == [10, None]
    assert columns["params_momentum"] == [0.9, None]
    assert columns["widths"] == ["8-16", None]
    assert columns["threads"] == [2, None]
    assert columns["started"] == [TRIALS[0].started.astimezone(), None]
    assert columns["started"][0].tzinfo is UTC
    drawn = [name for name in columns if name.startswith("params_")]
    assert drawn == ["params_n_blocks", "params_optimizer", "params_momentum"]


def test_every_epoch_is_a_row():
    columns = curve_columns(TRIALS)

    assert columns["number"] == [0]
    assert (columns["epoch"], columns["val_accuracy"]) == ([1], [0.7])


def test_an_empty_study_has_its_columns_and_no_rows():
    assert trial_columns([], ("accuracy",))["values_accuracy"] == []
    assert curve_columns([])["val_loss"] == []
