"""A pool of real processes that stand in for workers: how it handles their exits and output."""

import sys

import pytest
import torch

from hpsearch.errors import StudyError
from hpsearch.search.storage.records import StudyStatus
from hpsearch.search.worker import launch, pool
from hpsearch.search.worker.pool import Pool
from hpsearch.search.worker.work_loop import Observer, StopSignal
from hpsearch.util.messages import messages_to
from tests.integration.studies import make_spec, make_study, origin, search


@pytest.fixture
def run(sqlite):
    """Runs a Python code in several processes; returns the messages."""

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


def test_workers_that_die_without_progress_end_the_run_with_their_last_line(run, monkeypatch):
    monkeypatch.setattr(pool, "_MAX_ATTEMPTS", 1)
    message = r"workers died 2 times without .* the last one exited with code 3: it is broken;"
    with pytest.raises(StudyError, match=message):
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
    reason = "was killed by signal 9, often a sign of too little memory"
    assert sum(reason in note for note in notes) == 12


def test_the_output_of_workers_is_logged_once(run):
    notes = run("import sys; print('a checkpoint is lost', file=sys.stderr)", workers=3)
    assert len(notes) == 1
    assert notes[0].endswith(": a checkpoint is lost")


def test_a_worker_that_is_interrupted_does_not_count_as_dead(run, tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "_MAX_ATTEMPTS", 0)
    ended_once = (
        "import pathlib, sys\n"
        f"here = pathlib.Path({str(tmp_path)!r}, 'ended')\n"
        "if not here.exists():\n"
        "    here.touch()\n"
        "    sys.exit(130)\n"
    )
    (note,) = run(ended_once, workers=1)
    assert note.startswith("worker 0 was interrupted; restarting it in")


def test_the_output_of_a_worker_is_read_once_however_long_it_is(tmp_path):
    """User code may print a line per step, for days."""
    log = tmp_path / "worker.log"
    worker = pool._Worker(number=0, command=(), log=log)
    assert (worker.new_lines(), worker.last_line()) == ([], "no output")
    log.write_bytes(b"one\n\ntwo\nhal")
    assert worker.new_lines() == ["one", "two"]
    with log.open("ab") as more:
        more.write("f \u2026\n".encode()[:-2])  # a character cut in two
    assert worker.new_lines() == []
    with log.open("ab") as more:
        more.write(b"\xa6\nhpsearch: the end\n")
    assert worker.new_lines() == ["half \u2026", "hpsearch: the end"]
    assert worker.new_lines() == []
    assert worker.last_line() == "the end"
    with log.open("ab") as more:
        more.write(b"a step\n" * 2_000_000)  # 14 MB
    assert len(worker.new_lines()) == 2_000_000
    assert worker.offset == log.stat().st_size  # from where it reads on
    assert (worker.new_lines(), worker.last_line()) == ([], "a step")


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
