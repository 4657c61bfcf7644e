"""What trials come to that were trained again, from repeats typed by hand."""

from __future__ import annotations

import doctest
import io

import pytest
from rich.console import Console

from hpsearch.core.analysis import statistics
from hpsearch.core.analysis.statistics import Repeat, replications
from hpsearch.view import format
from hpsearch.view.document import UNKNOWN
from hpsearch.view.report.front import front_figure
from hpsearch.view.terminal.model_output import confirmed_table
from tests.unit.core.analysis.test_study_analysis import TWO, findings_of
from tests.unit.trials import trial
from tests.unit.view.report.test_narrative import words_of

STUDY = [
    trial(0, 0.80, 1.0),
    trial(1, 0.95, 2.0),
    trial(2, 0.96, 4.0),
    trial(3, 0.99, 16.0),
]


def repeats(number, *results, **more):
    return [
        Repeat(
            trial=number,
            place=place,
            seed=place,
            values={"accuracy": accuracy, "train_seconds": seconds, "params": 100.0},
            **more,
        )
        for place, (accuracy, seconds) in enumerate(results)
    ]


AGAIN = [
    *repeats(3, (0.98, 15.0), (0.96, 17.0)),
    *repeats(2, (0.93, 4.0), (0.91, 4.2)),
    *repeats(1, (0.94, 2.0), (0.96, 2.2)),
    *repeats(0, (0.85, 1.0), (0.83, 1.0)),
]


@pytest.mark.parametrize("module", [statistics, format])
def test_the_examples_hold(module):
    assert doctest.testmod(module).failed == 0


def test_means_and_deviations_are_those_of_the_repeats_and_the_front_is_theirs():
    found = replications(STUDY, AGAIN, TWO)

    assert [one.number for one in found] == [0, 1, 2, 3]  # the cheapest first
    second = found[1]
    assert second.spreads["accuracy"].mean == pytest.approx(0.95)
    assert second.spreads["accuracy"].deviation == pytest.approx(0.0141421, abs=1e-6)
    assert second.spreads["train_seconds"].mean == pytest.approx(2.1)
    assert [one.flattered for one in found] == pytest.approx([-0.04, 0.0, 0.04, 0.02])
    assert [one.is_front for one in found] == [True, True, False, True]  # 2 costs more than 1
    assert [one.number for one in found if one.is_knee] == [1]


def test_a_training_that_diverged_counts_and_gives_no_value():
    lost = Repeat(trial=1, place=2, seed=2, values={}, reason="diverged: NaN")
    found = {one.number: one for one in replications(STUDY, [*AGAIN, lost], TWO)}
    assert (found[1].repeats, found[1].diverged) == (3, 1)
    assert found[1].spreads["accuracy"].mean == pytest.approx(0.95)

    (alone,) = replications(STUDY, [lost], TWO)
    assert (alone.repeats, alone.diverged, alone.spreads) == (1, 1, {})
    assert (alone.flattered, alone.is_front, alone.is_knee) == (None, False, False)


def test_times_of_other_hardware_are_left_out_and_its_accuracies_are_not():
    there = repeats(1, (0.90, 9.0), elsewhere=True)
    (alone,) = replications(STUDY, there, TWO)
    assert set(alone.spreads) == {"accuracy", "params"}
    assert not alone.is_front  # its time is not known
    both = replications(STUDY, [*repeats(1, (0.94, 2.0)), *there], TWO)[0]
    assert both.spreads["accuracy"].mean == pytest.approx(0.92)
    assert both.spreads["train_seconds"].values == (2.0,)


def test_the_answer_says_what_training_again_showed():
    told = words_of("answer", findings_of(STUDY, confirmed=replications(STUDY, AGAIN, TWO)))

    assert (
        "Retrained with 2 fresh seeds, trial 1 reached 95.0 % ± 1.4 % and 2.10 s ± 0.14 s." in told
    )
    assert "On average, the accuracy of 4 retrained trials of the front is 0.5 points" in told
    assert "0.5 points lower than in the search." in told
    assert "By the means of the retrained trials, trial 2 is no longer on the front." in told
    assert "Retrained" not in words_of("answer", findings_of(STUDY))


def test_another_knee_and_a_knee_that_diverges_are_reported():
    slow = [r for r in AGAIN if r.trial != 1] + repeats(1, (0.70, 2.0), (0.72, 2.0))
    told = words_of("answer", findings_of(STUDY, confirmed=replications(STUDY, slow, TWO)))
    assert "By the means of the retrained trials, the knee is trial 2." in told

    lost = [Repeat(trial=1, place=0, seed=0, values={}, reason="diverged: NaN")]
    told = words_of("answer", findings_of(STUDY, confirmed=replications(STUDY, lost, TWO)))
    assert "Retrained with 1 fresh seed, trial 1 diverged." in told


def test_the_figure_has_the_means_with_bars_and_room_for_them():
    found = findings_of(STUDY, confirmed=replications(STUDY, AGAIN, TWO))
    drawn = front_figure(found.trials, x="train_seconds", y="accuracy", confirmed=found.confirmed)
    (rings,) = [trace for trace in drawn.data if trace.name == "retrained"]

    assert list(rings.x) == pytest.approx([1.0, 2.1, 4.1, 16.0])
    assert list(rings.y) == pytest.approx([0.84, 0.95, 0.92, 0.97])
    assert rings.error_y.array[1] == pytest.approx(0.0141421, abs=1e-6)
    assert rings.error_x.array[3] == pytest.approx(1.4142136, abs=1e-6)
    assert "trial 1, retrained with 2 fresh seeds" in rings.hovertext[1]
    low, high = drawn.layout.yaxis.range
    assert low < min(rings.y)
    assert high > max(rings.y)
    bare = front_figure(found.trials, x="train_seconds", y="accuracy")
    assert "retrained" not in [trace.name for trace in bare.data]


def test_the_best_of_one_objective_is_marked_as_such():
    one = [trial(n, 0.8 + n / 10, 1.0, objectives=("accuracy",)) for n in range(2)]
    found = replications(one, repeats(1, (0.9, 1.0)), ("accuracy",))
    console = Console(file=io.StringIO(), width=100)
    console.print(confirmed_table(found, one, objectives=("accuracy",)))
    assert "◀ best" in console.file.getvalue()


def test_the_table_of_the_front_says_what_each_came_to():
    from hpsearch.view.report.front import winners

    found = findings_of(STUDY, confirmed=replications(STUDY, AGAIN[2:], TWO))
    (table,) = winners(found, []).tables
    column = table.header.index("retrained")
    cells = {row[0].split()[0]: row[column] for row in table.rows}

    assert cells["1"] == "2.10 s ± 0.14 s, 95.0 % ± 1.4 %, 2 seeds"
    assert cells["2"] == "4.10 s ± 0.14 s, 92.0 % ± 1.4 %, 2 seeds, dominated"
    assert cells["3"] == UNKNOWN
