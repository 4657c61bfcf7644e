"""The end of a run: one analysis for the report and for the screen."""

from __future__ import annotations

import inspect
import io
import sys
from collections import Counter

from rich.console import Console

from hpsearch.core.analysis import pareto, recommendation, study_analysis
from hpsearch.search.jobs.analyse import analyse_study
from hpsearch.search.study.study import Study
from hpsearch.view.terminal.study_tables import ending_view, write_report
from tests.integration.studies import make_spec, make_study, search

COUNTED = (
    pareto.front,
    pareto.knee,
    recommendation.recommend,
    study_analysis.analyse,
    Study.records,
)


def test_report_and_summary_share_one_analysis(sqlite, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = make_study(sqlite, make_spec(trials=12, sampler="random"))
    search(study)
    names = {inspect.unwrap(each).__code__: each.__name__ for each in COUNTED}
    calls = Counter()

    def count(frame, event, _):
        if event == "call" and frame.f_code in names:
            calls[names[frame.f_code]] += 1

    sys.setprofile(count)
    try:
        analysis = analyse_study(study)
        path = write_report(analysis, storage_options=())
        view = ending_view(analysis, "done", storage_options=(), again=(), report=path)
    finally:
        sys.setprofile(None)

    assert calls == {"front": 1, "knee": 1, "recommend": 1, "analyse": 1, "records": 1}
    console = Console(file=io.StringIO(), width=200)
    console.print(view)
    printed = console.file.getvalue()
    assert "study s: done, 12 of 12 trials" in printed
    assert str(analysis.answer.knee.number) in printed
    assert path.read_text(encoding="utf-8").count("◀ knee") == 1


def test_a_study_without_a_trial_has_no_report(sqlite, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    analysis = analyse_study(make_study(sqlite, make_spec(trials=12)))

    assert write_report(analysis, storage_options=()) is None
    assert not list(tmp_path.glob("report-*"))
    console = Console(file=io.StringIO(), width=200)
    console.print(ending_view(analysis, "stopped", storage_options=(), again=()))
    printed = console.file.getvalue()
    assert "No trial is complete, so there is no front yet." in printed
    assert "# continue" in printed
    assert "hpsearch train" not in printed
