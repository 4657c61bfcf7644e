"""``hpsearch report``: the command, the report of a run, and the page in a real browser."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import sys
import tomllib
from contextlib import closing
from pathlib import Path

import pytest

from hpsearch.config import build_spec
from hpsearch.search.jobs.analyse import analyse_study
from hpsearch.search.storage.storage import open_storage
from hpsearch.search.study.catalog import open_study
from hpsearch.view.report.report import as_numbers, render, sections
from hpsearch.view.terminal.study_tables import write_report
from tests.acceptance.browser import Browser
from tests.acceptance.conftest import assert_one_line
from tests.integration.studies import make_spec, make_study, search

DRAWN = "document.documentElement.dataset.drawn == 'all'"


def test_the_command_writes_a_page_named_after_the_study(finished, cli, tmp_path):
    result = cli("report", "--storage", finished.database)

    page = (tmp_path / "report-small.html").read_text(encoding="utf-8")
    assert (result.code, result.out, result.err) == (0, "", "wrote report-small.html\n")
    assert page.startswith("<!doctype html>")
    for point in cli("front", "--json", "--storage", finished.database).json:
        command = f"hpsearch train --trial {point['number']} --study small"
        assert f"{command} --storage {finished.database}" in page
    assert [path.name for path in tmp_path.iterdir()] == ["report-small.html"]


def test_json_goes_to_stdout_and_agrees_with_the_front(finished, cli):
    where = ("--storage", finished.database)
    told = cli("report", "--format", "json", *where).json
    front = cli("front", "--json", *where).json

    assert [point["number"] for point in told["front"]] == [point["number"] for point in front]
    knee = next(point["number"] for point in front if point["knee"])
    assert told["answer"]["knee"]["number"] == knee
    assert told["hypervolume"] == cli("status", "--json", *where).json["hypervolume"]
    assert told["environment"]["data"]["val"] == told["answer"]["val_images"] == 40
    assert [len(trial["curve"]) for trial in told["trials"]] == [2, 2, 2]
    written = build_spec(tomllib.loads(told["environment"]["study_file"]))
    assert written.search.trials == 3


def test_markdown_goes_to_stdout_or_to_a_file(finished, cli, tmp_path):
    where = ("--storage", finished.database)
    told = cli("report", "--format", "md", *where)
    to_file = cli("report", "--format", "md", "-o", "r.md", *where)

    assert told.code == to_file.code == 0
    assert "# Trial " in told.out
    assert "## How deep?" in told.out
    assert to_file.out == ""
    kept = (tmp_path / "r.md").read_text(encoding="utf-8")
    assert kept.splitlines()[5:] == told.out.splitlines()[5:-1]  # but for the minute


def test_the_name_of_the_file_decides_the_format_unless_it_is_given(finished, cli, tmp_path):
    where = ("--storage", finished.database)
    for name in ("r.md", "r.json", "r.HTM", "r"):
        assert cli("report", "-o", name, *where).err == f"wrote {name}\n"
    cli("report", "-o", "said.html", "--format", "md", *where)

    begins = {path.name: path.read_text(encoding="utf-8")[:2] for path in tmp_path.iterdir()}
    assert begins == {"r.md": "# ", "r.json": "{\n", "r.HTM": "<!", "r": "<!", "said.html": "# "}


def test_no_study_overwrites_the_report_of_another(cli, tmp_path, monkeypatch):
    """Before, `a b` and `a/b`, and studies of one name in two databases, shared a file."""
    monkeypatch.chdir(tmp_path)
    studies = [(f"{base}.db", name) for base in ("one", "two") for name in ("a b", "a/b", "same")]
    for base in ("one.db", "two.db"):
        with closing(open_storage(base, create=True)) as storage:
            for name in [name for at, name in studies if at == base]:
                search(make_study(storage, make_spec(name, trials=3, objectives=("accuracy",))))

    def write_all():
        told = {}
        for base, name in studies:
            result = cli("report", "--study", name, "--storage", base)
            *left, line = result.err.splitlines()
            assert (result.code, line[:6]) == (0, "wrote ")
            told[base, name] = line.removeprefix("wrote ")
            unchanged = "report-same.html is not a report of this study, so it is left unchanged"
            assert left == ([unchanged] if (base, name) == ("two.db", "same") else [])
        return told

    first = write_all()
    assert len({path.name for path in tmp_path.glob("*.html")}) == len(set(first.values())) == 6
    assert first["one.db", "same"] == "report-same.html"
    assert write_all() == first
    for (base, name), path in first.items():
        page = Path(path).read_text(encoding="utf-8")
        assert f"study {name} · hpsearch report" in page
        assert f"--storage {base}" in page
    with closing(open_storage("two.db", create=False)) as storage:  # as a run does at its end
        found = analyse_study(open_study(storage, "same"))
        assert str(write_report(found, storage_options=())) == first["two.db", "same"]

    kept = Path("report-same.html").read_bytes()
    for command in ("report a/b", "compare a/b same"):
        line = [*command.split(), "--storage", "two.db", "-o", "report-same.html"]
        wanted = "report-same.html: found a report of another study, expected a new file or"
        result = cli(*line)
        assert_one_line(result, wanted, "remove it, or name another with -o")
    assert Path("report-same.html").read_bytes() == kept


def test_a_dash_is_stdout(finished, cli, tmp_path):
    told = cli("report", "-o", "-", "--format", "json", "--storage", finished.database)
    page = cli("report", "-o", "-", "--storage", finished.database)

    assert told.json["study"] == "small"
    assert page.out.startswith("<!doctype html>")
    assert told.err == page.err == ""
    assert list(tmp_path.iterdir()) == []


def test_what_a_report_cannot_do_is_one_line(finished, cli, tmp_path):
    where = ("--storage", finished.database)

    assert_one_line(cli("report", "-o", tmp_path, *where), "cannot write", "it is a folder")
    assert_one_line(cli("report", "--study", "smal", *where), "did you mean 'small'?")
    assert_one_line(cli("report", "--storage", "none.db"), "none.db")
    assert list(tmp_path.iterdir()) == []


def test_a_run_leaves_its_report_and_says_where(finished):
    page = (finished.folder / "report-small.html").read_text(encoding="utf-8")

    assert "report-small.html  # the report: open it in a browser" in finished.result.out
    assert re.search(r"hpsearch train --trial ([012]) --study small -o model-\1</code>", page)


def test_a_run_without_a_trial_leaves_no_report(begun, slow_study, cli, tmp_path):
    result = cli("run", slow_study, "--threads", 1, "--timeout", "0.000001s")

    assert result.code == 0
    assert "report" not in result.out
    assert not list(tmp_path.glob("report-*"))


def test_where_the_report_cannot_be_written_a_run_says_so_and_succeeds(copied, cli, tmp_path):
    (tmp_path / "report-small.html").mkdir()

    result = cli("run", copied.study_file, "--threads", 1)

    assert result.code == 0
    assert "no report: cannot write report-small.html (it is a folder)" in result.err
    assert "done, 3 of 3 trials" in result.out


def test_a_study_without_a_finished_trial_has_a_report_too(slow_study, cli):
    told = cli("report", "--format", "md")

    assert told.code == 0
    assert told.out.startswith("# There is no answer yet: no trial is complete.\n")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory):
    """A study of 60 trials that were not trained, with pruned ones among them."""
    storage = open_storage(str(tmp_path_factory.mktemp("report") / "s.db"), create=True)
    made = make_study(storage, make_spec("sixty", trials=60, pruner="percentile", sampler="random"))
    search(made)
    yield made
    storage.close()


def opened(browser: Browser, path: Path, **how: object) -> Browser:
    browser.open(path.as_uri(), **how)
    browser.wait(DRAWN)
    return browser


def test_the_page_shows_what_the_study_holds(browser, study, tmp_path):
    found = analyse_study(study)
    told = as_numbers(found)
    page = tmp_path / "r.html"
    page.write_text(render(found, "html"), encoding="utf-8")

    opened(browser, page)

    shown = browser.ask("document.body.innerText").replace("\u00a0", " ")
    knee = told["answer"]["knee"]
    assert f"Trial {knee['number']} is the " in shown
    assert f"{100 * knee['measured']['accuracy']:.1f} % accuracy" in shown
    for point in told["front"]:
        assert f"hpsearch train --trial {point['number']} --study sixty" in shown
    figures = browser.ask("document.querySelectorAll('.figure').length")
    drawn = browser.ask("document.querySelectorAll('.figure.js-plotly-plot svg.main-svg').length")
    assert figures == sum(len(section.drawings) for section in sections(found, storage_options=()))
    assert figures == 13  # importance among them
    assert drawn >= figures
    xs = browser.ask("document.querySelector('.figure').data.find(t => t.name == 'front').x")
    assert xs == pytest.approx([p["values"]["train_seconds"] for p in told["front"]])
    assert browser.ask("document.querySelectorAll('.figure .scatterlayer path.point').length") > 40
    assert browser.complaints() == []


def test_hovering_a_trial_of_the_front_shows_its_configuration(browser, study, tmp_path):
    found = analyse_study(study)
    page = tmp_path / "r.html"
    page.write_text(render(found, "html"), encoding="utf-8")
    opened(browser, page)
    plot = "document.querySelector('.figure')"
    browser.ask(f"{plot}.scrollIntoView()")
    curve = browser.ask(f"{plot}.data.findIndex(t => t.name == 'front')")

    browser.ask(f"Plotly.Fx.hover({plot}, [{{curveNumber: {curve}, pointNumber: 0}}])")

    browser.wait(f"{plot}.querySelector('.hovertext')")
    hover = browser.ask(f"{plot}.querySelector('.hovertext').textContent")
    cheapest = found.front[0].record
    assert f"trial {cheapest.number}" in hover
    assert cheapest.params["optimizer"] in hover


def test_the_page_fits_a_phone_and_turns_dark(browser, study, tmp_path):
    page = tmp_path / "r.html"
    page.write_text(render(analyse_study(study), "html"), encoding="utf-8")
    colour = "getComputedStyle(document.querySelector('.figure .xtick text')).fill"

    opened(browser, page, width=390)
    assert browser.ask("document.documentElement.scrollWidth") == 390
    assert browser.ask("document.querySelector('.figure svg').getBoundingClientRect().width") <= 390
    light = browser.ask(colour)

    opened(browser, page, width=390, dark=True)
    assert browser.ask("getComputedStyle(document.body).backgroundColor") == "rgb(18, 22, 28)"
    assert browser.ask(colour) != light
    assert browser.complaints() == []


def test_a_browser_that_cannot_unpack_the_figures_shows_what_they_are_about(
    browser, study, tmp_path
):
    page = tmp_path / "r.html"
    page.write_text(render(analyse_study(study), "html"), encoding="utf-8")
    old = {"source": "delete window.DecompressionStream"}
    script = browser.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", old)
    try:
        browser.open(page.as_uri())
        browser.wait("document.documentElement.dataset.drawn == 'none'")
    finally:
        browser.driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)

    shown = browser.ask("document.body.innerText")
    assert "This browser cannot unpack the figures" in shown
    assert "accuracy against train_seconds of all trials" in shown
    assert browser.ask("document.querySelectorAll('svg').length") == 0
    assert browser.complaints() == []


@pytest.mark.parametrize(
    ("objectives", "trials", "figures"),
    [
        (("accuracy", "train_seconds"), 0, 0),
        (("accuracy", "train_seconds"), 1, 10),
        (("accuracy",), 6, 10),
        (("accuracy", "train_seconds", "params"), 6, 12),
    ],
)
def test_every_kind_of_study_is_drawn_without_complaint(
    browser, tmp_path, objectives, trials, figures
):
    storage = open_storage(str(tmp_path / "s.db"), create=True)
    made = make_study(storage, make_spec("s", trials=6, sampler="random", objectives=objectives))
    search(made, at_most=trials)
    page = tmp_path / "r.html"
    page.write_text(render(analyse_study(made), "html"), encoding="utf-8")
    storage.close()

    browser.open(page.as_uri())
    if figures:
        browser.wait(DRAWN)

    assert browser.ask("document.querySelectorAll('svg.main-svg').length > 0") == bool(figures)
    assert browser.ask("document.querySelectorAll('.figure').length") == figures
    assert browser.complaints() == []


def test_a_damaged_record_is_not_hidden_by_the_report(copied, cli):
    """Only failed trials: the page counts them and names the most frequent reason."""
    with closing(sqlite3.connect(copied.database)) as connection, connection:
        connection.execute("UPDATE trials SET state = 'FAIL'")
        rows = connection.execute("SELECT trial_id FROM trials").fetchall()
        for (trial,) in rows:
            connection.execute(
                "INSERT INTO trial_user_attributes (trial_id, key, value_json) VALUES (?, ?, ?)",
                (trial, "reason", json.dumps("bug: ValueError: <b>broken</b>")),
            )

    assert cli("report").code == 0

    page = (copied.folder / "report-small.html").read_text(encoding="utf-8")
    assert "There is no answer yet" in page
    assert "(3 of 3): bug: ValueError: &lt;b&gt;broken&lt;/b&gt;" in page


@pytest.mark.skipif(sys.platform == "win32", reason="needs permissions")
def test_a_tilde_in_an_output_is_the_home_directory(finished, cli, tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for command in (("report", "-o", "~/r.md"), ("export", "-o", "~/t")):
        assert cli(*command, "--storage", finished.database).code == 0
    assert {path.name for path in home.iterdir()} >= {"r.md", "t"}
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_a_page_has_the_permissions_of_the_umask(finished, cli, tmp_path):
    before = os.umask(0o027)
    try:
        cli("report", "--storage", finished.database)
    finally:
        os.umask(before)

    assert (tmp_path / "report-small.html").stat().st_mode & 0o777 == 0o640
