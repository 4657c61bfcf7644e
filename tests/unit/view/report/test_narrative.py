"""The report in words, in tables and as Markdown: from numbers, for any study there may be."""

from __future__ import annotations

import base64
import dataclasses
import doctest
import gzip
import itertools
import json
import os
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from plotly.offline import get_plotlyjs

from hpsearch.core.analysis.history import HandoffReason, Span
from hpsearch.core.analysis.study_analysis import Importance
from hpsearch.core.trial import State
from hpsearch.errors import HpsearchError
from hpsearch.view.document import Code
from hpsearch.view.report import report, theme
from hpsearch.view.report.figures import curves, depth, hypervolume, importance
from hpsearch.view.report.figures import timeline as timeline_figure
from hpsearch.view.report.front import front_figure
from hpsearch.view.report.report import default_path, mark, page, render, sections, write
from hpsearch.view.report.theme import FAINTER, SHOWN_TRIALS
from tests.unit.core.analysis.test_study_analysis import TWO, findings_of, verdict
from tests.unit.trials import trial

STUDY = [
    trial(0, 0.80, 1.0, blocks=1),
    trial(1, 0.95, 2.0, blocks=2),
    trial(2, 0.96, 4.0, blocks=3),
    trial(3, 0.99, 16.0, blocks=3, optimizer="sgd"),
    trial(4, 0.70, 3.0, blocks=1, state=State.PRUNED, epochs=1),
    trial(5, 0.0, 3.0, state=State.FAILED),
]
SECTIONS = [
    "answer",
    "front",
    "winners",
    "depth",
    "optimizers",
    "curves",
    "importance",
    "hypervolume",
    "timeline",
    "savings",
    "environment",
]


def words_of(key, findings, storage_options=()):
    (section,) = [s for s in sections(findings, storage_options=storage_options) if s.key == key]
    return " ".join([section.title, *section.words, *section.captions, *section.notes])


@pytest.mark.parametrize("module", [theme, report])
def test_the_examples_hold(module):
    assert doctest.testmod(module).failed == 0


def test_the_answer_is_given_with_its_doubts():
    told = words_of("answer", findings_of(STUDY))

    assert told.startswith("Trial 1 is the best trade-off: 95.0 % accuracy and 2.00 s of training.")
    assert "a net of 2 conv blocks, trained by adam at rate 0.01." in told
    assert "on 750 validation images, which leaves a 95 % interval of 93.2–96.3 %." in told
    assert (
        "The next more expensive trial, 2, costs 2 times as much (4.00 s) and is 1.0 points more"
        " accurate; the difference is not significant (95 % interval −1.1 to +3.2 points)." in told
    )
    assert "The best trial, 3, costs 8 times as much (16.0 s) and is 4.0 points" in told
    assert "The next cheaper trial, 0, costs 0.5 times as much (1.00 s) and is 15.0" in told
    assert "5 of 100 trials: 4 complete, 1 stopped early, 1 failed." in told
    assert "The most frequent failure (1 of 1): bug: it broke." in told


def test_a_search_that_learned_nothing_says_so_first():
    poor = [trial(0, 0.11, 1.0), trial(1, 0.105, 0.5)]
    told = words_of("answer", findings_of(poor, data={"val": 100}, chance=0.1))
    assert told.startswith(
        "No trial is significantly better than guessing. The best accuracy is 11.0 % (95 % interval"
        " 6.3–18.6 %), and guessing gives 10.0 %. More epochs or smaller batches"
    )
    assert "best trade-off" not in told


def test_the_headline_praises_no_trial_that_the_rest_casts_doubt_on():
    two = [trial(0, 0.980, 1.0), trial(1, 0.981, 10.0)]
    told = words_of("answer", findings_of(two))
    assert told.startswith("Trial 1 is the most accurate: 98.1 % accuracy and 10.0 s of training.")
    assert "trial, 0, costs 0.1 times as much (1.00 s) and is 0.1 points less accurate" in told
    assert "So trial 0 may be the better trade-off." in told

    level = [trial(0, 0.5, 1.0), trial(1, 0.9, 2.0), trial(2, 0.901, 2.01), trial(3, 0.91, 9.0)]
    assert "costs about as much (2.0" in words_of("answer", findings_of(level))

    close = [trial(0, 0.50, 1.0), trial(1, 0.88, 2.0), trial(2, 0.98, 4.0), trial(3, 0.982, 80.0)]
    told = words_of("answer", findings_of(close, data={"val": 40}))
    assert told.startswith("Trial 2 is the knee of the front: 98.0 % accuracy and 4.00 s")
    assert "So trial 1 may be the better trade-off." in told


def test_the_sections_come_in_their_order():
    assert [section.key for section in sections(findings_of(STUDY), storage_options=())] == SECTIONS


def test_the_front_is_a_table_with_the_command_that_trains_each_for_use():
    storage_options = ["--storage", "my file.db"]
    made = sections(findings_of(STUDY, name="my study"), storage_options=storage_options)
    (table,) = next(s for s in made if s.key == "winners").tables

    assert [row[0] for row in table.rows] == ["0", "1 ◀ knee", "2", "3"]
    assert table.marked == 1
    assert table.header[1:4] == ("training time", "validation accuracy", "95 % interval")
    assert table.rows[1][1:4] == ("2.00 s", "95.0 %", "93.2–96.3 %")
    command = "hpsearch train --trial 1 --study 'my study' --storage 'my file.db' -o model-1"
    assert table.rows[1][-1] == Code(text=command)


def test_the_front_says_which_of_its_trials_learned_little():
    assert "less than half" not in words_of("winners", findings_of(STUDY))
    told = words_of("winners", findings_of([*STUDY, trial(6, 0.1, 0.5)]))
    assert "Trial 6 has less than half of the best accuracy, and is on the front because" in told


def test_depth_says_after_which_more_stops_paying_and_how_that_was_decided():
    told = words_of("depth", findings_of(STUDY))

    assert "By the best trials, accuracy improves up to the deepest nets" in told
    assert "3 blocks (99.00 %)" in told
    assert "by the 95 % interval of the difference" in told
    level = [trial(0, 0.95, 1.0, blocks=1), trial(1, 0.951, 2.0, blocks=2)]
    told = words_of("depth", findings_of(level))
    assert "By the best trials, more than 1 block is not significantly better: 95.0 % with" in told


def test_whether_the_search_was_long_enough_is_answered():
    many = [trial(n, 0.90, 10.0) for n in range(20)]
    told = words_of("hypervolume", findings_of(many))
    assert (
        "Was it enough? The hypervolume is 0.4500 of 1; 99 % of it was reached after 1 of 20"
        in told
    )
    assert "The last 5 trials added nothing better: more are not likely to help." in told

    told = words_of("hypervolume", findings_of([*many, trial(20, 0.902, 10.0)]))
    assert (
        "The last 5 trials added 1 of the front's 1 trial and 0.0010 of hypervolume (0.2 %):"
        in told
    )
    assert "more are likely to help a little." in told
    told = words_of("hypervolume", findings_of([*many, trial(20, 0.95, 5.0)]))
    assert "): more are likely to help." in told
    assert "Too few trials have ended to say" in words_of("hypervolume", findings_of(STUDY))

    one = [trial(n, 0.9 + (n == 7) / 100, 1.0, objectives=("accuracy",)) for n in range(20)]
    told = words_of("hypervolume", findings_of(one, objectives=("accuracy",)))
    assert "The best trial was found after 8 of 20 trials and 8.00 s of 20.0 s" in told
    assert "The last 5 trials added nothing better: more are not likely to help." in told
    assert "The hypervolume is" not in told


def test_the_lowest_gap_is_named_where_all_are_below_0():
    records = [
        trial(n, 0.9, 1.0 + n, optimizer=name, loss=0.2, train_loss=lost)
        for n, (name, lost) in enumerate([("adam", 0.5), ("sgd", 0.3)] * 3)
    ]
    told = words_of("optimizers", findings_of(records))
    assert "The median gap of adam is the lowest (−0.300 nats)." in told


@pytest.mark.parametrize(("workers", "whose"), [(1, "its"), (2, "their")])
def test_time_in_trials_is_that_of_one_or_of_many(workers, whose):
    records = [trial(n, 0.9, 1.0, worker=n % workers) for n in range(4)]
    assert f"% of {whose} time in trials." in words_of("timeline", findings_of(records))


def test_stopping_is_audited_in_words():
    doomed = trial(7, 0.5, 1.5, control=True, loss=0.3, would_prune=verdict(0.4))
    told = words_of("savings", findings_of([*STUDY, doomed]))

    assert "The search saved 12 % of the epochs (21 of 24 trained), about 2.25 s" in told
    assert "1 control trial that the rule would have stopped ran to the end: 0 ended on" in told
    assert "on the front and 1 with a lower loss than the rule had forecast as possible." in told
    assert "wrong in 1 of 1 (100 %, 95 % interval 21 % to 100 %): trial 7." in told


def importances():
    shares = {"n_blocks": 0.7, "learning_rate": 0.2, "head": 0.1}
    return [Importance(target=name, trials=40, shares=shares) for name in ("accuracy", "front")]


def test_importance_is_shown_for_each_target():
    found = dataclasses.replace(findings_of(STUDY), importance=tuple(importances()))
    told = words_of("importance", found)

    assert "For validation accuracy: n_blocks (70 %), learning_rate (20 %), head (10 %)." in told
    assert "For being on the front: n_blocks" in told
    assert "This is weak evidence: each ranking rests on its best 4 trials." in told
    assert "Too few trials are complete" in words_of("importance", findings_of(STUDY))
    many = [dataclasses.replace(one, trials=91) for one in importances()]
    told = words_of("importance", dataclasses.replace(found, importance=tuple(many)))
    assert "weak evidence" not in told  # 10 trials


EVERY_STUDY = {
    "empty": findings_of([], data={}),
    "waiting": findings_of([trial(0, 0.9, 1.0, state=State.WAITING)]),
    "one": findings_of(STUDY[:1]),
    "one running": findings_of([trial(0, 0.9, 1.0, state=State.RUNNING)]),
    "only failed": findings_of([trial(n, 0.0, 1.0, state=State.FAILED) for n in range(3)]),
    "only pruned": findings_of([trial(0, 0.5, 1.0, state=State.PRUNED, epochs=2)]),
    "one objective": findings_of(
        [trial(n, 0.5 + n / 10, 1.0, objectives=("accuracy",)) for n in range(3)],
        objectives=("accuracy",),
    ),
    "three objectives": findings_of(
        [trial(n, 0.5 + n / 10, 1.0 + n, objectives=(*TWO, "params")) for n in range(4)],
        objectives=(*TWO, "params"),
    ),
    "loss alone": findings_of(
        [trial(n, 0.5, 1.0, loss=1.0 - n / 9, objectives=("val_loss",)) for n in range(3)],
        objectives=("val_loss",),
    ),
    "costs alone": findings_of(
        [trial(n, 0.5, 1.0 + n, objectives=("train_seconds", "flops")) for n in range(3)],
        objectives=("train_seconds", "flops"),
    ),
    "diverged": findings_of([trial(0, 0.1, 1.0, loss=float("nan")), *STUDY[1:]]),
}


@pytest.mark.parametrize("kind", ["html", "md", "json"])
@pytest.mark.parametrize("name", EVERY_STUDY)
def test_every_study_has_a_sensible_report(name, kind):
    told = render(EVERY_STUDY[name], kind)

    assert EVERY_STUDY[name].study in told
    scripts = r'<script(?: type="text/plain"[^>]*)?>.*?</script>'  # Plotly, and what draws with it
    body = re.sub(scripts, "", told, flags=re.DOTALL)
    for accident in ("None", "NaN", "nan ", "Traceback", "object at 0x"):
        assert accident not in body


def test_a_study_without_a_complete_trial_says_so_and_why():
    told = words_of("answer", EVERY_STUDY["only failed"])

    assert told.startswith("There is no answer yet: no trial is complete.")
    assert "The most frequent failure (3 of 3): bug: it broke." in told
    assert [s.key for s in sections(EVERY_STUDY["empty"], storage_options=())] == [
        "answer",
        "environment",
    ]


def test_one_objective_has_a_best_trial_and_three_have_a_figure_for_every_two():
    assert words_of("answer", EVERY_STUDY["one objective"]).startswith(
        "Trial 2 is the best, with 70.0 % accuracy."
    )
    made = {s.key: s for s in sections(EVERY_STUDY["three objectives"], storage_options=())}
    assert [drawing.key for drawing in made["front"].drawings] == [
        "front-train_seconds-params",
        "front-train_seconds-accuracy",
        "front-params-accuracy",
    ]


def test_what_people_name_cannot_break_the_page():
    evil = "</script><img src=x onerror=alert(1)>|`#"
    data = {"val": 750, "shape": [1, 8, 8], "classes": [evil, "b"], "content": "c", "split": "s"}
    data |= {"train": 10, "test": 10}
    found = findings_of(STUDY, name=evil, data=data)

    html = render(found, "html", storage_options=["--storage", evil])

    assert "<img" not in html
    assert html.count("</script>") == 3
    assert html.count("&lt;img src=x onerror=alert(1)&gt;") >= 4
    markdown = render(found, "md")
    assert "\\<img" in markdown
    rows = [line for line in markdown.splitlines() if line.startswith("| ")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows if "hpsearch train" in row} == {8}


def test_code_within_words_is_code_in_each_format_whatever_else_they_hold():
    broken = dataclasses.replace(
        STUDY[5], reason="bug: <b>_x_</b> | `<i>_y_ 5 s</i>` and a ` alone"
    )
    found = findings_of([*STUDY[:5], broken])

    html, told = render(found, "html"), render(found, "md")

    assert "<code>hpsearch confirm</code> retrains the front" in html
    assert "&lt;b&gt;_x_&lt;/b&gt; | <code>&lt;i&gt;_y_ 5 s&lt;/i&gt;</code> and a ` alone" in html
    assert "`hpsearch confirm` retrains the front" in told
    assert r"\<b\>\_x\_\</b\> \| `<i>_y_ 5 s</i>` and a \` alone" in told


def test_a_text_to_copy_is_copied_unchanged():
    html = render(findings_of(STUDY, name="in 5 s"), "html")

    assert "--study &#39;in 5 s&#39; " in html
    assert "name = &#34;in 5 s&#34;" in html


def test_the_page_embeds_the_plotly_that_is_installed_the_same_bytes_every_time():
    html = render(findings_of(STUDY), "html")

    packed = base64.b64decode(re.search(r' id="plotly">(.*?)</script>', html)[1])
    assert gzip.decompress(packed).decode() == get_plotlyjs()
    assert packed[4:8] == bytes(4)  # where gzip notes the time


@pytest.mark.parametrize("name", EVERY_STUDY)
def test_markdown_speaks_of_no_figure(name):
    told = render(EVERY_STUDY[name], "md")

    for word in ("figure", "click", "Each point", "bright", "drawn", "curve is flat", "Rings"):
        assert word not in told
    for title, after in itertools.pairwise(line for line in told.splitlines() if line):
        assert not (title.startswith("#") and after.startswith("#"))


def test_the_page_needs_nothing_from_elsewhere():
    html = render(findings_of(STUDY), "html")
    ours = re.sub(r"<script>.*?</script>", "", html, flags=re.DOTALL)

    assert "default-src 'none'" in html
    assert not re.search(r"""(?:src|href)=["'](?!data:)""", ours)
    assert not re.search(r"https?://", ours)
    assert len(html) < 2_000_000


def test_numbers_stay_with_their_units():
    html = page(
        sections(findings_of(STUDY), storage_options=()), subject="study s", about="", mark="m"
    )

    assert "95.0\u00a0% accuracy and 2.00\u00a0s of" in html


def test_json_holds_all_the_numbers():
    told = json.loads(render(findings_of(STUDY), "json"))

    assert told["answer"]["knee"]["number"] == 1
    assert [point["number"] for point in told["front"]] == [0, 1, 2, 3]
    assert len(told["trials"]) == 5
    assert told["savings"]["share"] == pytest.approx(3 / 20)
    assert (told["audit"]["wronged"], told["audit"]["share"]) == ([], None)
    assert len(told["trials"][0]["curve"]) == 4
    assert told["environment"]["spec"]["search"]["objectives"] == list(TWO)
    assert told["environment"]["study_file"].startswith('name = "mnist5k"\n')


def test_an_unknown_format_names_those_there_are():
    with pytest.raises(HpsearchError, match=r"--format: found 'htm'; did you mean 'html'\?"):
        render(findings_of(STUDY), "htm")


def test_a_report_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "r.html"
    write("one", path)
    write("two", path)

    assert path.read_text() == "two"
    assert list(tmp_path.iterdir()) == [path]
    for bad in (tmp_path / "no" / "r.html", tmp_path, Path("/dev/null")):
        with pytest.raises(HpsearchError, match=r"cannot write .*; name another with -o"):
            write("three", bad)
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_to_a_report_is_followed(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "r.html")

    write("one", tmp_path / "link")

    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "r.html").read_text() == "one"


NAMES = ["a b", "a/b", "a:b", "a-b", "A-B", ".", "..", "../..", "", "-", ".a", "a.", "x" * 300]
NAMES += ["é" * 300, "数" * 101, "x" * 299 + "y", "Größe", "report", "con", "a\nb"]


def test_study_names_of_any_kind_make_different_file_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = {name: default_path(name, None) for name in NAMES}
    for path in paths.values():
        path.touch()

    assert len(list(tmp_path.iterdir())) == len(NAMES)
    assert str(paths["a-b"]) == "report-a-b.html"
    assert str(paths["Größe"]) == "report-Größe.html"
    assert re.fullmatch(r"report-a-b-[0-9a-f]{8}\.html", str(paths["a/b"]))
    assert all(len(os.fsencode(path)) < 130 for path in paths.values())


def test_a_file_that_is_not_the_studys_report_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monday, tuesday = (datetime(2030, 1, day, tzinfo=UTC) for day in (7, 8))
    first = default_path("s", monday)
    write(f"<!-- {mark(('s', monday))} -->", first)

    assert str(first) == str(default_path("s", monday)) == "report-s.html"
    second = default_path("s", tuesday)  # of the same name in another database
    assert re.fullmatch(r"report-s-[0-9a-f]{8}\.html", str(second))
    first.write_text("precious")
    assert default_path("s", tuesday) == second
    first.unlink()
    (tmp_path / "precious").write_text("precious")
    for target in ("precious", "missing"):
        first.symlink_to(target)
        assert default_path("s", monday) != first
        first.unlink()


@pytest.mark.parametrize("kind", ["html", "md", "json"])
def test_another_studys_report_is_not_overwritten(tmp_path, kind):
    path = tmp_path / f"r.{kind}"
    write(render(findings_of(STUDY, name="one"), kind), path)
    kept = path.read_bytes()
    message = "found a report of another study, expected a new file or a report of the same"

    with pytest.raises(HpsearchError, match=message):
        write(render(findings_of(STUDY, name="two"), kind), path)
    with pytest.raises(HpsearchError, match=message):
        write(f"<!-- {mark(('one', None), ('two', None))} -->", path)  # a comparison
    assert path.read_bytes() == kept

    write(render(findings_of(STUDY, name="one"), kind), path)  # the same study's
    path.write_text("notes")
    write(render(findings_of(STUDY, name="two"), kind), path)  # no report, and named by the user


def named(figure):
    return {trace.name: trace for trace in figure.data}


def test_the_front_figure_shows_the_front_with_its_bars_and_the_others_faint():
    figure = front_figure(findings_of(STUDY).trials, x="train_seconds", y="accuracy")
    traces = named(figure)

    assert list(traces["front"].x) == [1.0, 2.0, 4.0, 16.0]
    assert traces["front"].error_y.arrayminus[1] == pytest.approx(0.95 - 0.9320, abs=5e-4)
    assert list(traces["knee"].x) == [2.0]
    assert list(traces["stopped early"].y) == [0.70]
    assert traces["front"].hovertext[1] == (
        "trial 1<br>validation accuracy 95.0 %<br>training time 2.00 s<br>2 blocks<br>adam 1.0e-02"
    )
    assert figure.layout.xaxis.type == "log"
    assert list(figure.layout.xaxis.tickvals) == [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0]


def test_the_view_leaves_out_trials_that_learned_little():
    junk = trial(9, 0.1, 0.5)
    range_of = [
        front_figure(
            findings_of(records).trials, x="train_seconds", y="accuracy"
        ).layout.yaxis.range
        for records in ([*STUDY[:4], junk], STUDY[:4])
    ]

    assert range_of[0][0] > 0.4
    assert range_of[0][1] == range_of[1][1]


def test_a_front_of_three_objectives_is_no_staircase_in_two_of_them():
    objectives = (*TWO, "params")
    values = [(0.8, 1.0, 900.0), (0.7, 2.0, 100.0), (0.9, 3.0, 500.0)]
    found = findings_of(
        [
            dataclasses.replace(
                trial(n, accuracy, seconds),
                values={"accuracy": accuracy, "train_seconds": seconds, "params": params},
                cost={"train_seconds": seconds, "params": params},
            )
            for n, (accuracy, seconds, params) in enumerate(values)
        ],
        objectives=objectives,
    )

    traces = named(front_figure(found.trials, x="train_seconds", y="accuracy"))
    assert (traces["front"].mode, len(traces["front"].x)) == ("markers", 3)
    figure = front_figure(found.trials, x="train_seconds", y="params")
    assert (figure.layout.xaxis.type, figure.layout.yaxis.type) == ("log", "log")
    assert figure.layout.yaxis.range is None
    two = named(front_figure(findings_of(STUDY).trials, x="train_seconds", y="accuracy"))
    assert two["front"].mode == "lines+markers"


def test_of_thousands_of_trials_the_whole_front_and_some_others_are_drawn():
    many = [trial(n, 0.5 + 1e-5 * (n % 7), 2.0 + n, epochs=1) for n in range(4000)]
    found = findings_of([*STUDY[:4], *(t for t in many if t.number > 3)])

    traces = named(front_figure(found.trials, x="train_seconds", y="accuracy"))
    assert len(traces["front"].x) == len(found.front)
    assert len(traces["complete"].x) == SHOWN_TRIALS
    assert "1,500 of 3,996 trials are drawn" in words_of("front", found)


def test_curves_end_where_a_trial_was_stopped():
    traces = named(curves(findings_of(STUDY).trials))

    assert list(traces["stopped early"].x) == [1, None]
    assert list(traces["where it was stopped"].y) == [0.70]
    assert list(traces["front"].x) == [1, 2, 3, 4, None] * 4


def test_depth_timeline_hypervolume_and_importance_draw_what_they_are_given():
    found = findings_of(STUDY)

    traces = named(depth(found.depth.groups, "accuracy"))
    assert list(traces["best"].y) == [0.80, 0.95, 0.99]
    assert list(traces["median"].x) == ["1<br>n = 1", "2<br>n = 1", "3<br>n = 2"]
    assert "best" not in named(depth(found.depth.groups, "train_seconds"))
    (line,) = hypervolume(found.attainment, "seconds").data
    assert list(line.x) == [1.0, 3.0, 7.0, 23.0, 23.75]
    lost = Span(
        number=7, worker="here, process 3", started=0.0, ended=6.0, state=HandoffReason.LOST
    )
    bars = named(timeline_figure([*found.timeline, lost]))
    assert list(bars["worker lost"].hovertext) == ["trial 7, worker lost: 6.0 s"]
    assert bars["worker lost"].marker.color == FAINTER
    assert set(named(timeline_figure(found.timeline))) == {"complete", "stopped early", "failed"}
    (bars,) = importance(importances()[0]).data
    assert (list(bars.y)[-1], list(bars.x)[-1]) == ("n_blocks", 0.7)


def test_figures_have_no_colour_that_the_dark_does_not_know():
    found = findings_of(STUDY)
    drawings = [d for s in sections(found, storage_options=()) for d in s.drawings]
    used = {c for d in drawings for c in re.findall(r"#[0-9a-f]{6}", d.draw().to_json())}

    assert used <= set(theme.DARK)
    assert not set(theme.DARK) & set(theme.DARK.values())
