"""The notes and figures that the dashboard shows of a study beside its trials."""

from __future__ import annotations

import json

import pytest

from hpsearch.core.trial import State
from hpsearch.view.dashboard.annotations import (
    FIGURE_BYTES,
    NOTHING,
    Annotations,
    annotate,
    of_study,
    of_trial,
)
from tests.unit.core.analysis.test_study_analysis import TWO, findings_of
from tests.unit.trials import trial

PLOT = "dashboard:plot_data:"


def numbered(number: int, accuracy: float, seconds: float, **rest):
    return trial(number, accuracy, seconds, trial_id=100 + number, **rest)


def annotated(records, *, objectives=TWO, storage_options=()):
    found = findings_of(records, objectives=objectives)
    return annotate(found, study_id=5, storage_options=storage_options)


def figures(made: Annotations):
    return {k.split(":")[2]: v for k, v in made.attributes.items() if k.startswith(PLOT)}


def test_a_study_without_trials_is_described_and_has_no_figures():
    made = annotated([])
    assert made.notes["dashboard:"].startswith("## There is no answer yet")
    assert (made.attributes, made.files) == ({}, {})


def test_only_failed_and_stopped_trials_leave_no_front():
    made = annotated(
        [
            numbered(0, 0.5, 1.0, state=State.PRUNED, epochs=1),
            numbered(1, 0.0, 1.0, state=State.FAILED),
        ]
    )
    assert set(made.notes) == {"dashboard:"}
    assert "1 stopped early, 1 failed" in made.notes["dashboard:"]
    assert "hpsearch-curves" in figures(made)


@pytest.mark.parametrize("objectives", [("accuracy",), (*TWO, "params")])
def test_one_and_three_objectives_are_described(objectives):
    records = [numbered(n, 0.5 + 0.1 * n, 1.0 + n, objectives=objectives) for n in range(4)]
    made = annotated(records, objectives=objectives)
    best = "the best trial" if len(objectives) == 1 else "the knee"
    assert any(f"is {best}" in note for note in made.notes.values())
    assert set(figures(made)) >= {"hpsearch-curves", "hpsearch-hypervolume"}


def test_the_commands_name_the_storage_and_quote_what_a_shell_would_read():
    storage_options = ["--storage", "my file.db"]
    made = annotated([numbered(0, 0.9, 1.0)], storage_options=storage_options)
    assert "--storage 'my file.db' -o model-0\n" in made.notes["dashboard:"]
    assert "--storage 'my file.db' -o model-0\n" in made.notes["dashboard:100:"]


def test_no_figure_is_larger_than_a_page_can_ask_for_often():
    records = [numbered(n, 0.3 + n / 500, 1.0 + n, epochs=60) for n in range(120)]
    made = annotated(records)
    sizes = {name: len(text) for name, text in figures(made).items()}
    assert max(sizes.values()) <= FIGURE_BYTES
    assert sizes["hpsearch-curves"] > FIGURE_BYTES / 3  # thinned, not emptied
    curves = json.loads(figures(made)["hpsearch-curves"])
    assert {"complete", "front"} <= {trace["name"] for trace in curves["data"]}
    table = [line for line in made.notes["dashboard:"].splitlines() if line.startswith("| ")]
    assert len(table) <= 23
    assert "of 120 trials of the front, evenly chosen" in made.notes["dashboard:"]


@pytest.mark.parametrize(
    ("theirs", "shown"),
    [
        ({}, "ours"),
        ({"dashboard:note_ver": 1, "dashboard:note_str:0": "mine"}, "mine"),
        ({"dashboard:note_ver": 2}, None),  # emptied
        ({"dashboard:note_ver": 0}, "ours"),  # as a renamed study has it
        ({"dashboard:note_ver": 0, "dashboard:note_str:0": "mine"}, "mine"),
    ],
)
def test_a_users_note_comes_first(theirs, shown):
    made = Annotations(notes={"dashboard:": "ours"}, attributes={"x": 1})
    over = made.over(theirs)
    assert (over.get("dashboard:note_str:0"), over["x"]) == (shown, 1)
    held = made.over(theirs, texts=False)
    assert held.get("dashboard:note_str:0") == theirs.get("dashboard:note_str:0")
    assert held.get("dashboard:note_ver") == over.get("dashboard:note_ver")


def test_nothing_adds_nothing():
    assert NOTHING.over({"a": 1}) == {"a": 1}


def test_attributes_of_others_are_shown_as_they_are():
    assert of_study({"mine": [1, 2]}) == {"mine": [1, 2]}
    assert of_trial({"mine": 3, "reason": "stopped", "long": "x" * 300}) == {
        "mine": 3,
        "reason": "stopped",
    }
