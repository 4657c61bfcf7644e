"""The page of a comparison: its words are those of the table, its figures draw the results."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from hpsearch.core.analysis.comparison import compare
from hpsearch.view.report import theme
from hpsearch.view.report.comparison_page import comparison_page, courses, fronts
from tests.unit.core.analysis.test_comparison import BOUNDS, TWO, entrant, fast, slow
from tests.unit.trials import trial

FOUND = compare([slow(), fast()], objectives=TWO)


def test_the_fronts_are_drawn_over_one_another_beaten_trials_hollow():
    figure = fronts(FOUND, x="train_seconds", y="accuracy")

    behind, ahead = figure.data
    assert [behind.name, ahead.name] == ["slow", "fast"]
    assert (list(behind.x), list(behind.y)) == ([10.0], [0.75])
    assert (list(ahead.x), list(ahead.y)) == ([1.0, 10.0], [0.5, 1.0])
    assert list(behind.marker.symbol) == ["circle-open"]
    assert list(ahead.marker.symbol) == ["diamond", "diamond"]
    assert behind.hovertext[0].startswith("slow, trial 1, dominated<br>")
    assert behind.line.color != ahead.line.color
    # from the worst knee, 75 %, to the best, 100 %, and as much again below
    assert figure.layout.yaxis.range == pytest.approx((0.5 - 0.02, 1.0 + 0.02))


def test_the_courses_are_drawn_with_a_line_at_what_all_have_spent():
    by_seconds, by_trials = courses(FOUND, "seconds"), courses(FOUND, "trials")

    behind, ahead = by_seconds.data
    assert (list(behind.x), list(ahead.x)) == ([10.0, 20.0], [1.0, 11.0, 31.0])
    assert list(ahead.y) == pytest.approx([0.5, 0.75, 0.75])
    assert by_seconds.layout.shapes[0].x0 == 20.0
    assert list(by_trials.data[1].x) == [1, 2, 3]
    assert by_trials.layout.shapes[0].x0 == 2


def test_many_studies_have_distinct_colours_that_the_dark_knows():
    many = [entrant(f"s{n}", trial(0, 0.5, 10.0), trial(1, 0.9, 10.0 + n)) for n in range(8)]
    found = compare(many, objectives=TWO)
    figures = [fronts(found, x="train_seconds", y="accuracy"), courses(found)]

    assert {c for f in figures for c in re.findall(r"#[0-9a-f]{6}", f.to_json())} <= set(theme.DARK)
    for figure in figures:
        assert len({(trace.line.color, trace.line.dash) for trace in figure.data}) == 8


def test_the_page_shows_the_answer_the_fronts_and_the_numbers():
    page = comparison_page(replace(FOUND, caveats=("<b>so & so</b>",)))
    assert "<header><p>hpsearch · studies " in page

    headline = re.search(r"<h1>(.*?)</h1>", page)[1].replace("\xa0", " ")
    assert headline.startswith("After 20.0 s of training each, fast (0.7500) is ahead of slow")
    assert "&lt;b&gt;so &amp; so&lt;/b&gt;" in page
    assert re.findall(r'class="figure" id="([\w-]+)"', page) == [
        "fronts-train_seconds-accuracy",
        "courses-seconds",
        "courses-trials",
    ]
    assert "hypervolume: after 2 trials each" in page
    assert "; <code>hpsearch status</code> uses those of each study." in page
    assert "`" not in re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)


def test_one_objective_has_no_trade_off_and_other_clocks_no_course_in_seconds():
    known = {"bounds": {"accuracy": (0.0, 1.0)}}
    one = entrant("one", trial(0, 0.5, 1.0, objectives=("accuracy",)), **known)
    two = entrant("two", trial(0, 0.6, 1.0, objectives=("accuracy",)), **known)

    page = comparison_page(compare([one, two], objectives=("accuracy",), same_clock=False))

    assert re.findall(r'class="figure" id="([\w-]+)"', page) == ["courses-trials"]


def test_three_objectives_are_drawn_two_at_a_time_without_a_line_that_would_zigzag():
    three = (*TWO, "params")
    known = {"bounds": {**BOUNDS, "params": (10.0, 1e5)}}
    trials = [trial(0, 0.5, 10.0, objectives=three), trial(1, 0.9, 5.0, objectives=three)]
    cheap = replace(trials[0], values={**trials[0].values, "params": 20.0, "accuracy": 0.95})
    found = compare(
        [entrant("one", *trials, **known), entrant("two", cheap, trials[1], **known)],
        objectives=three,
    )

    page = comparison_page(found)

    assert len(re.findall(r'class="figure" id="fronts-', page)) == 3
    assert fronts(found, x="params", y="accuracy").data[1].mode == "markers"
