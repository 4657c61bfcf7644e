"""The tables show their numbers within the width of the terminal."""

from __future__ import annotations

import doctest
import io
import re
import time
from datetime import UTC, datetime

import pytest
from rich.console import Console, RenderableType

from hpsearch.core.analysis.pruning_stats import Savings, StudySummary
from hpsearch.core.trial import Epoch, State, TrialRecord
from hpsearch.view import format
from hpsearch.view.format import describe, format_seconds, format_value
from hpsearch.view.terminal.study_tables import status_lines, study_list
from hpsearch.view.terminal.trial_tables import (
    end_summary,
    front_table,
    short_front,
    titled_front,
    trial_details,
)

OBJECTIVES = ("accuracy", "train_seconds")


def shown(renderable: RenderableType, *, width: int = 100, encoding: str = "utf-8") -> str:
    """What arrives at a stream of that encoding, without a terminal's colours."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="\n")
    Console(file=stream, width=width).print(renderable, soft_wrap=True)
    stream.seek(0)
    return stream.read()


def record(number: int, accuracy: float, seconds: float, *widths: int, **params: object):
    drawn = {f"width_{i}": width for i, width in enumerate(widths, start=1)}
    defaults = {"kernel_size": 3, "head": "gap", "optimizer": "adamw", "learning_rate": 0.0031}
    return TrialRecord(
        number=number,
        state=State.COMPLETE,
        params={"n_blocks": len(widths), **drawn, **defaults, "schedule": "cosine", **params},
        values={"accuracy": accuracy, "train_seconds": seconds},
    )


FRONT = [record(3, 0.912, 1.2, 16), record(9, 0.976, 4.312, 24, 48, 96), record(5, 0.981, 130, 64)]


def epoch(number: int, *, loss: float = 0.5) -> Epoch:
    return Epoch(
        epoch=number,
        train_loss=1.0,
        train_accuracy=0.7,
        val_loss=loss,
        val_accuracy=0.8,
        train_seconds=4.3,
        wall_seconds=1.0,
    )


def test_the_examples_in_the_words_hold():
    assert doctest.testmod(format).failed == 0


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("accuracy", 0.0, "0.0 %"),
        ("accuracy", 0.9899, "99.0 %"),
        ("accuracy", 0.9999, "99.99 %"),
        ("accuracy", 1.0, "100.0 %"),
        ("val_loss", 0.31249, "0.312 nats"),
        ("train_seconds", 59.99, "1 min 00 s"),
        ("train_seconds", 3600, "1 h 00 min"),
        ("latency_ms", 0.0042, "0.0042 ms"),
        ("latency_ms", 1500, "1.50 s"),
        ("params", 12, "12"),
        ("flops", 999_999_999, "1 G"),
        ("flops", 12, "12"),
        ("accuracy", float("nan"), "nan"),
        ("train_seconds", float("inf"), "inf"),
    ],
)
def test_a_value_is_shown_with_its_unit(name, value, expected):
    assert format_value(name, value) == expected


@pytest.mark.parametrize(("images", "expected"), [(18, "99.3 %"), (10_000, "99.31 %")])
def test_an_accuracy_has_the_decimals_that_its_images_carry(images, expected):
    assert format_value("accuracy", 0.99312, images=images) == expected


def test_seconds_never_read_60():
    told = [format_seconds(s / 100) for s in range(5_900, 12_100)]
    assert not any("60" in format for format in told)


def test_widths_come_from_the_resolved_trial_before_the_drawn_numbers():
    params = {"n_blocks": 4, "base_width": 16, "growth": 2.0}
    drawn = TrialRecord(number=0, state=State.RUNNING, params=params)
    assert describe(drawn) == "4 blocks from 16 ×2"
    spec = {"model": {"widths": [32, 64, 64, 64]}}
    resolved = TrialRecord(number=0, state=State.RUNNING, params=params, attributes={"spec": spec})
    assert describe(resolved) == "4 blocks 32-64×3"


def test_the_front_is_one_line_a_trial_at_100_columns_with_the_knee_in_words():
    lines = shown(front_table(FRONT, objectives=OBJECTIVES, knee=9)).splitlines()
    assert len(lines) == 2 + 3
    assert max(map(len, lines)) <= 100
    assert lines[0].split()[:3] == ["trial", "accuracy", "train_seconds"]
    assert "97.6 %" in lines[3]
    assert "4.31 s" in lines[3]
    assert "3: 24-48-96 k3 gap" in lines[3]
    assert ["◀ knee" in line for line in lines] == [False, False, False, True, False]
    assert "2 min 10 s" in lines[4]


def test_trials_of_the_front_that_learned_little_are_marked():
    said = "has less than half of the best accuracy, and is on the front because nothing else is"
    assert "Trial 59" not in shown(front_table(FRONT, objectives=OBJECTIVES, knee=9))

    poor = [record(59, 0.1, 0.73, 8), *FRONT]
    told = shown(front_table(poor, objectives=OBJECTIVES, knee=9))
    assert " ".join(told.split()).endswith(f"Trial 59 {said} as cheap.")

    poor.insert(1, record(14, 0.3, 0.74, 8))
    told = shown(front_table(poor, objectives=OBJECTIVES, knee=9), width=70)
    assert "Trials 59 and 14 have less than half of the best accuracy" in " ".join(told.split())
    assert max(map(len, told.splitlines())) <= 70


def test_the_front_and_a_trial_name_their_study():
    front = shown(titled_front(FRONT, study="birds", objectives=OBJECTIVES, knee=9))
    trial = shown(trial_details(FRONT[0], study="birds", objectives=OBJECTIVES))

    assert front.startswith("study birds\n\ntrial ")
    assert "◀ knee" in front
    assert trial.split()[:2] == ["study", "birds"]


@pytest.mark.parametrize("width", [60, 80])
def test_a_narrow_front_wraps_its_configuration_and_keeps_its_numbers(width):
    lines = shown(front_table(FRONT, objectives=OBJECTIVES, knee=9), width=width).splitlines()
    assert max(map(len, lines)) <= width
    told = " ".join(lines)
    for words in ("97.6 %", "4.31 s", "2 min 10 s", "◀ knee", "3.1e-03", "24-48-96"):
        assert words in told


def test_a_stream_without_the_characters_gets_plain_ones():
    told = shown(front_table(FRONT, objectives=OBJECTIVES, knee=9), encoding="ascii")
    assert "< knee" in told


def test_a_short_front_keeps_its_ends_and_its_knee():
    trials = [record(i, 0.5 + i / 100, 1.0 + i, 16) for i in range(20)]
    lines = shown(short_front(trials, objectives=OBJECTIVES, knee=7, rows=4)).splitlines()
    numbers = [int(line.split()[0]) for line in lines[2:]]
    assert len(numbers) == 4
    assert {0, 7, 19} <= set(numbers)
    only = shown(short_front(trials, objectives=OBJECTIVES, knee=7, rows=1)).splitlines()
    assert [line.split()[0] for line in only[2:]] == ["7"]


def test_a_short_front_has_one_line_a_trial_however_narrow():
    lines = shown(short_front(FRONT, objectives=OBJECTIVES, knee=9, rows=9), width=60).splitlines()
    assert len(lines) == 2 + 3
    assert max(map(len, lines)) <= 60
    assert "…" in lines[3]


def test_the_end_shows_front_worth_savings_and_unbroken_commands():
    command = (
        "hpsearch report --storage postgresql://me:***@db.example.org:5432/a-long-database-name"
    )
    end = end_summary(
        FRONT,
        objectives=OBJECTIVES,
        knee=9,
        hypervolume=0.81234,
        saved=Savings(epochs_trained=470, epochs_full=800, seconds_saved=192.0),
        commands=[command, "hpsearch train 9"],
    )
    told = shown(end, width=60)
    assert "hypervolume  0.8123 of 1" in told
    assert "saved 41 % of the epochs" in told
    assert "3 min 12 s" in " ".join(told.split())
    assert f"\n  {command}\n  hpsearch train 9\n" in told


def test_one_objective_has_a_best_trial_and_neither_knee_nor_hypervolume():
    end = end_summary(
        FRONT[:1],
        objectives=("accuracy",),
        knee=3,
        hypervolume=0.81234,
        saved=Savings(epochs_trained=470, epochs_full=800, seconds_saved=192.0),
        commands=[],
    )
    told = shown(end)
    assert re.search(r"91\.2 % +◀ best", told)
    assert "knee" not in told
    assert "hypervolume" not in told


def test_the_end_of_a_run_without_a_complete_trial_says_so():
    nothing = Savings(epochs_trained=0, epochs_full=0, seconds_saved=0.0)
    told = shown(
        end_summary(
            [], objectives=OBJECTIVES, knee=None, hypervolume=None, saved=nothing, commands=[]
        )
    )
    assert told.splitlines()[0] == "No trial is complete, so there is no front yet."
    assert "stopped nothing early" in told
    assert "hypervolume" not in told


def test_a_pruned_trial_shows_the_reason_and_the_pruner():
    pruned = TrialRecord(
        number=12,
        state=State.PRUNED,
        params={"n_blocks": 1, "width_1": 16},
        curve=(epoch(1, loss=0.9), epoch(2, loss=0.6)),
        cost={"params": 147087.0, "train_seconds": 4.3},
        seed=42,
        reason="no hope [left]",
        started=datetime(2026, 1, 2, 3, 4, 5),
        ended=datetime(2026, 1, 2, 3, 6, 15),
        attributes={
            "origin": {
                "process": {"host": "box", "pid": 77},
                "threads": 2,
                "versions": {"torch": "2.14.1"},
            },
            "pruning": {
                "pruner": "forecast",
                "epoch": 2,
                "value": 0.41234,
                "limit": 0.3,
                "beaten_by": 4,
            },
        },
    )
    told = shown(trial_details(pruned, study="birds", objectives=OBJECTIVES))
    assert "pruned after epoch 2: no hope [left]" in told
    for words in ("147,087", "77 on box", "torch 2.14.1", "took 2 min 10 s", "seed"):
        assert words in told
    assert "█▁  0.900 → 0.600" in told
    assert len([line for line in told.splitlines() if "80.0 %" in line]) == 2


def test_a_failed_trial_shows_its_traceback_unchanged():
    trace = 'Traceback (most recent call last):\n  File "x.py", line 3, in [y]\nOSError: [b]no'
    failed = TrialRecord(
        number=1,
        state=State.FAILED,
        reason="OSError: [b]no",
        attributes={"failure": {"kind": "other", "traceback": trace + "\n"}},
    )
    told = shown(trial_details(failed, study="birds", objectives=OBJECTIVES), width=60)
    assert "failed: OSError: [b]no" in told
    assert told.rstrip().endswith(trace)


def test_a_long_curve_is_thinned_and_says_so():
    curve = tuple(epoch(i) for i in range(1, 101))
    long = TrialRecord(number=1, state=State.COMPLETE, curve=curve)
    told = shown(trial_details(long, study="birds", objectives=OBJECTIVES))
    assert "24 of 100 epochs; --json has all" in told
    assert len([line for line in told.splitlines() if "80.0 %" in line]) == 24


def summary(**changes: object) -> StudySummary:
    usual = {
        "study": "emnist-balanced",
        "storage": "postgresql://me:***@db/hpsearch",
        "objectives": OBJECTIVES,
        "target": 100,
        "complete": 45,
        "pruned": 17,
        "failed": 2,
        "running": 1,
        "waiting": 3,
        "front_size": 7,
        "hypervolume": 0.81234,
        "created": None,
    }
    return StudySummary(**{**usual, **changes})


def test_the_list_has_a_row_for_each_study_and_fits_80_columns():
    dated = summary(study="q[uick]", created=datetime(2026, 1, 2, 3, 4))
    told = shown(study_list([summary(), dated]), width=80)
    assert max(map(len, told.splitlines())) <= 80
    assert "emnist-balanced  62/100        1      7       0.8123" in told
    assert "q[uick]" in told
    assert "2026-01-02" in told


@pytest.mark.parametrize("nothing", [{"complete": 0}, {"objectives": ("accuracy",)}])
def test_a_hypervolume_without_meaning_is_a_dash(nothing):
    told = summary(**nothing, hypervolume=0.0)
    assert re.search(r"^hypervolume +- *$", shown(status_lines(told)), re.MULTILINE)
    assert re.search(r"7 +- ", shown(study_list([told])))


def test_a_study_was_made_at_a_time_of_here(monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        late = summary(created=datetime(2026, 1, 2, 20, 4, tzinfo=UTC))
        assert "2026-01-03 05:04" in shown(status_lines(late))
        assert "2026-01-03" in shown(study_list([late]))
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_list_puts_objectives_below_one_another_before_it_folds_a_name():
    long = summary(study="my-flowers-2nd-try")
    beside, below, folded = (shown(study_list([long]), width=w) for w in (110, 80, 70))

    assert "my-flowers-2nd-try  62/100" in beside
    assert "accuracy, train_seconds" in beside
    assert "my-flowers-2nd-try  62/100" in below
    assert [line.split()[-1] for line in below.splitlines()[3:]] == ["train_seconds"]
    assert max(map(len, folded.splitlines())) <= 70
    for words in ("62/100", "0.8123", "accuracy,", "train_seconds"):
        assert words in folded


def test_an_empty_list_says_how_to_start():
    assert shown(study_list([])) == "No study yet; start one with: hpsearch run --trials 100\n"


def test_the_status_shows_the_progress_of_the_study():
    told = shown(status_lines(summary()))
    for words in (
        "postgresql://me:***@db/hpsearch",
        "62 of 100: 45 complete, 17 pruned",
        "1 running, 3 waiting, 2 failed (not counted)",
        "7 trials",
        "0.8123",
    ):
        assert words in told
