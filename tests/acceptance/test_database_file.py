"""The SQLite file of a search: whole at the end of each command, watched while one runs."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.acceptance.conftest import Result, assert_one_line


@contextmanager
def looking_at(database: Path):
    """A program that has the file open and idles, as a dashboard does."""
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("SELECT count(*) FROM trials").fetchone()
        yield connection


def assert_whole(database: Path, looking: sqlite3.Connection) -> None:
    """A copy of the file alone, as of ``cp``, holds all that others see through its log."""
    copy = Path(shutil.copy(database, database.with_suffix(".copy")))
    with closing(sqlite3.connect(copy)) as copied:
        assert list(copied.iterdump()) == list(looking.iterdump())


def test_after_every_command_a_copy_of_the_file_alone_holds_everything(copied, cli):
    study = cli("status", "--json").json["study"]
    number = cli("front", "--json").json[0]["number"]
    with looking_at(copied.database) as looking:
        for command in (
            ("enqueue", study, "--set", "learning_rate=0.01"),
            ("run", copied.study_file, "--trials", 4, "--threads", 1),
            ("confirm", study, "--trial", number, "--seeds", 1),
            ("submit", copied.study_file, "--study", "second", "--trials", 1),
            ("stop", "second"),
            ("submit", copied.study_file, "--study", "second", "--trials", 1),
            ("worker", "--study", "second", "--threads", 1),
            ("run", copied.study_file, "--epochs", 9),  # refused: the study has two
            ("train", "--study", study, "--trial", number, "--epochs", 1, "-o", "model"),
            ("report", study),
            ("delete", "second", "--yes"),
        ):
            result = cli(*command)
            assert result.code == (2 if "--epochs" in command and "run" in command else 0), result
            assert_whole(copied.database, looking)


@pytest.mark.parametrize(
    ("number", "workers"), [(signal.SIGINT, 1), (signal.SIGTERM, 1), (signal.SIGINT, 2)]
)
def test_after_a_signal_too(slow_study, shell, number, workers):
    shell.hold()
    process = shell.start("run", slow_study, "--threads", 1, "--workers", workers)
    shell.wait_for_training(process)
    database = shell.folder / "hpsearch.db"
    with looking_at(database) as looking:
        process.send_signal(number)
        assert shell.wait(process).code == 130
        assert_whole(database, looking)


@pytest.mark.parametrize(
    ("command", "lose"),
    [
        (("run", "slow.toml", "--workers", 1), "move"),
        (("run", "slow.toml", "--workers", 2), "replace"),
        (("worker", "--forever", "--allow-code"), "remove"),
    ],
)
def test_a_file_that_is_lost_ends_the_command_with_one_line(slow_study, shell, command, lose):
    shell.hold()
    process = shell.start(*command, "--threads", 1)
    shell.wait_for_training(process)
    database, aside = shell.folder / "hpsearch.db", shell.folder / "aside.db"
    if lose == "replace":
        with closing(sqlite3.connect(database)) as old, closing(sqlite3.connect(aside)) as new:
            old.backup(new)
        aside.rename(database)
        before = database.read_bytes()
    else:
        database.rename(aside)
    if lose == "remove":
        aside.unlink()
    shell.let_go()
    result = shell.wait(process)

    assert (result.code, result.out) == (2, ""), result
    said = [line for line in result.err.splitlines() if "no longer the file" in line]
    assert said == result.err.splitlines()[-1:], result.err
    assert said[0].startswith("hpsearch: sqlite:///hpsearch.db is no longer the file that this run")
    assert "Traceback" not in result.err
    if lose == "replace":
        assert database.read_bytes() == before
    else:
        assert not database.exists()


def without_override() -> None:
    """Lets even root be refused by a file's permissions; before a process starts."""
    ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)  # PR_CAPBSET_DROP, CAP_DAC_OVERRIDE


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's capabilities")
@pytest.mark.parametrize("command", ["confirm", "worker", "run"])
def test_a_database_that_cannot_be_written_is_refused_before_any_training(copied, command):
    """One line on stderr: a training would have logged another one before it."""
    with closing(sqlite3.connect(copied.database)) as connection, connection:
        connection.execute("UPDATE trials SET state = 'FAIL' WHERE number = 2")  # there is work
    copied.database.chmod(0o444)
    options = {"run": [copied.study_file], "confirm": [], "worker": ["--device", "cpu"]}[command]
    process = subprocess.run(
        [sys.executable, "-m", "hpsearch", command, *options],
        cwd=copied.folder,
        preexec_fn=without_override,
        capture_output=True,
        text=True,
    )
    result = Result(code=process.returncode, out=process.stdout, err=process.stderr)
    assert_one_line(result, "sqlite:///hpsearch.db", "cannot be written", "fix its permissions")


@pytest.mark.parametrize("target", ["missing/page.html", "folder"])
def test_an_output_that_cannot_be_written_is_refused_before_the_work(copied, cli, target):
    (copied.folder / "folder").mkdir()
    study = cli("status", "--json").json["study"]
    before = sorted(os.listdir(copied.folder))

    def work(*_arguments, **_keywords):
        raise AssertionError("it began the work")

    for command, job in (
        (("report", study), "hpsearch.search.jobs.analyse.analyse_study"),
        (("compare", study, study), "hpsearch.search.jobs.analyse.compare"),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(job, work)
            result = cli(*command, "-o", target)
        assert_one_line(result, f"cannot write {target}", "name another with -o")
    assert sorted(os.listdir(copied.folder)) == before
