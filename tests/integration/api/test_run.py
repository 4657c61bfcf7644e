"""Searching and looking from Python: the same words, nothing printed, nothing ended."""

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import hpsearch
from hpsearch.core.trial import State
from hpsearch.errors import HpsearchError, SpecError, StorageError, StudyError
from hpsearch.search.worker.watchdog import Watchdog
from hpsearch.search.worker.work_loop import StopSignal

SPACE = {"n_blocks": 1, "base_width": {"low": 4, "high": 8}, "batch_size": 32}

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def spec(digits_npz):
    data = {"dataset": str(digits_npz)}
    return hpsearch.build_spec(
        {"name": "small", "data": data, "train": {"epochs": 1}, "space": SPACE}
    )


@pytest.fixture(scope="module")
def database(spec, tmp_path_factory):
    """The database of a finished study of three trials."""
    path = str(tmp_path_factory.mktemp("api") / "small.db")
    hpsearch.run(spec, trials=3, storage=path, threads=1, device="cpu").close()
    return path


def test_a_search_prints_nothing_reports_its_trials_and_returns_the_study(spec, tmp_path, capfd):
    heard, notes = [], []

    with hpsearch.run(
        spec,
        trials=2,
        study="heard",
        objectives="accuracy, params",
        storage=f"{tmp_path}/heard.db",
        threads=1,
        device="cpu",
        notify=notes.append,
        ended=heard.append,
    ) as study:
        assert (study.name, study.ending) == ("heard", "done")
        assert study.objectives == ("accuracy", "params")
        assert [record.number for record in heard] == [0, 1]
        assert [r.params for r in study.trials()] == [r.params for r in heard]
        assert study.spec.space == spec.space
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("objectives", ["params", "val_loss"])
def test_a_search_of_costs_alone_is_warned_of_when_it_is_made(spec, tmp_path, objectives):
    notes = []
    for _ in range(2):
        hpsearch.run(
            spec,
            trials=1,
            objectives=objectives,
            storage=f"{tmp_path}/cheap.db",
            threads=1,
            device="cpu",
            notify=notes.append,
        ).close()

    assert notes[0].startswith("160 training images at batch 32 are 5 steps in 1 epoch: raise")
    told = "objective params: the cheapest net wins, whatever it has learnt; add accuracy"
    assert notes[1:] == [told] * (objectives == "params")


def test_an_opened_study_has_its_trials_front_and_knee(database, monkeypatch):
    with hpsearch.open_study("small", storage=database) as study:
        summary, front, knee = study.summary(), study.front(), study.knee()
        assert study.ending is None
        assert (summary.target, summary.complete + summary.pruned) == (3, 3)
        assert len(study.trials()) == 3
        assert [r.number for r in front] == [
            r.number for r in sorted(front, key=lambda r: r.values["train_seconds"])
        ]
        assert knee in front
    monkeypatch.setenv("HPSEARCH_STORAGE", database)
    with hpsearch.open_study() as newest:
        assert newest.name == "small"


def test_the_report_is_written_where_it_is_wanted(database, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with hpsearch.open_study(storage=database) as study:
        page, numbers = study.report(), study.report("told.json")
        with pytest.raises(HpsearchError, match="found 'pdf'"):
            study.report(kind="pdf")
        with pytest.raises(HpsearchError, match="cannot write"):
            study.report(tmp_path / "nowhere" / "page.html")

    assert (page.name, numbers.name) == ("report-small.html", "told.json")
    assert f"--storage {database}" in page.read_text()
    assert len(json.loads(numbers.read_text())["trials"]) == 3
    assert {path.name for path in tmp_path.iterdir()} == {"report-small.html", "told.json"}


def test_the_same_call_resumes_and_a_larger_total_goes_on(spec, tmp_path):
    options = {"storage": f"{tmp_path}/resumed.db", "threads": 1, "device": "cpu"}
    hpsearch.run(spec, trials=1, **options).close()

    with hpsearch.run(spec, trials=2, **options) as study:
        first = study.trials()[0]
    with hpsearch.run(spec, trials=2, **options) as study:
        assert study.trials()[0] == first
        assert len(study.trials()) == 2


def test_a_search_can_run_beside_the_main_thread(spec, tmp_path):
    done = []

    def search():
        options = {"storage": f"{tmp_path}/thread.db", "threads": 1, "device": "cpu"}
        with hpsearch.run(spec, trials=1, timeout="10m", **options) as study:
            done.append(study.ending)

    thread = threading.Thread(target=search)
    thread.start()
    thread.join()

    assert done == ["done"]


def test_a_mistake_is_an_hpsearch_error_and_nothing_is_made(spec, tmp_path):
    missing, here = str(tmp_path / "missing.db"), str(tmp_path / "here.db")

    with pytest.raises(SpecError, match="did you mean 'tpe'"):
        hpsearch.run(spec, sampler="tpo", storage=here)
    with pytest.raises(SpecError, match=r"study file .* does not exist"):
        hpsearch.run(tmp_path / "no.toml", storage=here)
    with pytest.raises(HpsearchError, match="no-such-data"):
        hpsearch.run(spec, dataset="no-such-data", storage=here)
    with pytest.raises(StorageError):
        hpsearch.open_study(storage=missing)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def copy(database, tmp_path):
    """A database of the test's own with that study."""
    return str(shutil.copy(database, tmp_path / "copy.db"))


def test_a_front_is_trained_again_and_nothing_twice(copy, capfd):
    heard, options = [], {"storage": copy, "threads": 1, "device": "cpu"}
    with hpsearch.open_study("small", storage=copy) as study:
        front = [record.number for record in study.front()]

    one = hpsearch.confirm("small", seeds=1, repeated=heard.append, **options)
    two = hpsearch.confirm(trials=front[:1], seeds=2, repeated=heard.append, **options)

    assert [trial.number for trial in one] == front
    assert [(repeat.trial, repeat.place) for repeat in heard] == [
        *((number, 0) for number in front),
        (front[0], 1),
    ]
    assert [(trial.number, trial.repeats) for trial in two] == [(front[0], 2)]
    seen = tuple(repeat.values["accuracy"] for repeat in heard if repeat.trial == front[0])
    assert two[0].spreads["accuracy"].values == seen
    assert capfd.readouterr() == ("", "")


def test_searches_are_compared(spec, copy, capfd):
    options = {"storage": copy, "threads": 1, "device": "cpu"}
    hpsearch.run(spec, trials=2, study="other", sampler="random", **options).close()

    found = hpsearch.compare(["small", "other"], storage=copy)

    assert [one.study for one in found.studies] == ["small", "other"]
    assert (found.trials, sorted(found.ranking)) == (2, ["other", "small"])
    assert found.differences == {"search.sampler": ("tpe", "random")}
    assert capfd.readouterr() == ("", "")


def test_studies_that_cannot_be_confirmed_or_compared_are_refused(copy):
    with pytest.raises(SpecError, match="seeds: found 0, expected a whole number, 1 or more"):
        hpsearch.confirm(seeds=0, storage=copy)
    with pytest.raises(StudyError, match="found no trial 9"):
        hpsearch.confirm(trials=[9], storage=copy)
    with pytest.raises(SpecError, match="studies: found 'small', expected names; pass a list"):
        hpsearch.compare("small", storage=copy)
    with pytest.raises(StudyError, match="found no study, expected two or more"):
        hpsearch.compare([], storage=copy)
    with pytest.raises(StorageError, match="no database at"):
        hpsearch.compare(["small", "other"], storage=f"{copy}.not")


def test_an_unknown_study_is_refused(database):
    with pytest.raises(StudyError, match="did you mean 'small'") as caught:
        hpsearch.open_study("smal", storage=database)
    opened = Path("/proc/self/fd")
    assert database not in map(os.path.realpath, opened.iterdir() if opened.exists() else ())
    assert caught.traceback  # which would have kept it open


def test_a_search_without_trials_left_in_time_is_timed_out(spec, tmp_path):
    options = {"storage": f"{tmp_path}/late.db", "threads": 1, "device": "cpu"}

    with hpsearch.run(spec, trials=50, timeout=0.001, **options) as study:
        assert study.ending == "timed out"
        assert not any(record.state is State.RUNNING for record in study.trials())
        assert study.knee() is None or study.front()


def test_a_second_ctrl_c_ends_no_foreign_process():
    stop = StopSignal(raises=False, exits=False)
    Watchdog(stop=stop).receive(2, None)

    with pytest.raises(KeyboardInterrupt):
        Watchdog(stop=stop).receive(2, None)
    assert stop.signals == [2]


def test_none_of_it_needs_the_command_line():
    code = "import hpsearch, sys; hpsearch.run, hpsearch.open_study, hpsearch.load_study_file"
    process = subprocess.run(
        [sys.executable, "-c", f"{code}; print(sorted({{'typer', 'torch'}} & set(sys.modules)))"],
        capture_output=True,
        text=True,
    )

    assert process.stdout.strip() == "[]", process.stderr
