"""A pool of real processes that stand in for workers: how their ends and their words are taken."""

import sys

import pytest
import torch

from hpsearch.errors import StudyError
from hpsearch.search.study.status import StudyStatus
from hpsearch.search.worker import launch, pool
from hpsearch.search.worker.observer import Observer
from hpsearch.search.worker.pool import Pool
from hpsearch.search.worker.work_loop import StopSignal
from hpsearch.util.messages import messages_to
from tests.integration.studies import make_spec, make_study, origin, search


@pytest.fixture
def run(sqlite):
    """Runs so many processes of a Python code; returns how the pool ended and what was noted."""

    def run_pool(code, *, workers):
        notes = []
        commands = [[sys.executable, "-c", code, str(number)] for number in range(workers)]
        study = make_study(sqlite)
        with (
            messages_to(notes.append),
            Pool(study=study, commands=commands, environment={}, watcher=Observer()) as several,
        ):
            several.run(StopSignal())
        return notes

    return run_pool


def test_workers_that_die_in_vain_end_the_run_with_their_last_words(run, monkeypatch):
    monkeypatch.setattr(pool, "_VAIN_LOOKS", 1)
    told = r"workers died 2 times and no epoch .* the last one died with code 3: it is broken;"
    with pytest.raises(StudyError, match=told):
        run("import sys; print('it is broken', file=sys.stderr); sys.exit(3)", workers=1)


def test_many_deaths_at_once_count_once(run, tmp_path):
    dies_once = (
        "import os, pathlib, sys\n"
        f"here = pathlib.Path({str(tmp_path)!r}, sys.argv[1])\n"
        "if not here.exists():\n"
        "    here.touch()\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    notes = run(dies_once, workers=12)
    assert sum("died by signal 9, as in a system short of memory" in note for note in notes) == 12


def test_what_workers_say_is_passed_on_once(run):
    notes = run("import sys; print('a checkpoint is lost', file=sys.stderr)", workers=3)
    assert len(notes) == 1
    assert notes[0].endswith(": a checkpoint is lost")


def test_a_worker_that_a_person_ends_has_not_died_in_vain(run, tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "_VAIN_LOOKS", 0)
    ended_once = (
        "import pathlib, sys\n"
        f"here = pathlib.Path({str(tmp_path)!r}, 'ended')\n"
        "if not here.exists():\n"
        "    here.touch()\n"
        "    sys.exit(130)\n"
    )
    (note,) = run(ended_once, workers=1)
    assert note.startswith("worker 0 was asked to end; another starts in")


def test_what_a_worker_says_is_read_once_however_much_it_is(tmp_path):
    """Code of a person's own may print a line per step, for days."""
    log = tmp_path / "worker.log"
    worker = pool._Worker(number=0, command=(), log=log)
    assert (worker.news(), worker.last_words()) == ([], "it said nothing")
    log.write_bytes(b"one\n\ntwo\nhal")
    assert worker.news() == ["one", "two"]
    with log.open("ab") as more:
        more.write("f \u2026\n".encode()[:-2])  # a character cut in two
    assert worker.news() == []
    with log.open("ab") as more:
        more.write(b"\xa6\nhpsearch: the end\n")
    assert worker.news() == ["half \u2026", "hpsearch: the end"]
    assert worker.news() == []
    assert worker.last_words() == "the end"
    with log.open("ab") as more:
        more.write(b"a step\n" * 2_000_000)  # 14 MB
    assert len(worker.news()) == 2_000_000
    assert worker.heard == log.stat().st_size  # from where it reads on
    assert (worker.news(), worker.last_words()) == ([], "a step")


@pytest.mark.parametrize(("counted", "started"), [(0, 3), (8, 2), (10, 1)])
def test_no_more_workers_are_started_than_trials_are_left(sqlite, monkeypatch, counted, started):
    study = make_study(sqlite, make_spec(trials=10, workers=3))
    search(study, at_most=counted)
    prepared = launch.PreparedStudy(
        study=study,
        images=None,
        device=torch.device("cpu"),
        origin=origin(),
        devices=["cpu", "cpu", "cpu"],
    )
    pools = []

    def run(self, stop):
        pools.append(self.commands)
        return StudyStatus.DONE

    monkeypatch.setattr(Pool, "run", run)
    place = launch.WorkerOptions(storage=str(sqlite.url.database))
    launch.run(prepared, place, stop=StopSignal(), watcher=Observer())
    (commands,) = pools
    assert len(commands) == started
    assert all("--study" in command and "--threads" in command for command in commands)
