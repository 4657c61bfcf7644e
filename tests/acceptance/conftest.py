"""The command line, as a process and in this process, and a finished study to look at."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from hpsearch.cli import main

PATIENCE_SECONDS = 60  # how long a process may take to get anywhere on a busy machine

SMALL = """
[data]
dataset = "{npz}"

[train]
epochs = 2

[search]
trials = 3

[space]
n_blocks = {{ low = 1, high = 2 }}
base_width = {{ low = 4, high = 8 }}
optimizer = "adam"
learning_rate = {{ low = 0.003, high = 0.03, log = true }}
batch_size = 16
"""

SLOW = """
[data]
dataset = "{npz}"

[train]
epochs = 40

[search]
trials = 2

[pruning]
pruner = "none"

[space]
n_blocks = 1
base_width = {{ low = 4, high = 8 }}
batch_size = 32
"""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a command left: its exit code, and what it said where."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What stdout holds, which must be JSON and nothing else."""
        return json.loads(self.out)


@dataclass(kw_only=True)
class Shell:
    """A folder to type commands in; the processes started in it end with the test."""

    folder: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, *arguments: object, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[str]:
        """Starts ``hpsearch`` as a process, without a terminal."""
        process = subprocess.Popen(
            [sys.executable, "-m", "hpsearch", *map(str, arguments)],
            cwd=self.folder,
            env=os.environ | {"COLUMNS": "120"},
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        self.started.append(process)
        return process

    def wait(self, process: subprocess.Popen[str]) -> Result:
        """Waits until the process has ended."""
        out, err = process.communicate(timeout=PATIENCE_SECONDS)
        return Result(code=process.returncode, out=out, err=err)

    def run(self, *arguments: object) -> Result:
        """Runs ``hpsearch`` as a process to its end."""
        return self.wait(self.start(*arguments))

    def wait_for_training(self, process: subprocess.Popen[str], database: Path) -> int:
        """Waits until the process is in the middle of a training; returns the trial's number."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline and process.poll() is None:
            number = _in_training(database)
            if number is not None:
                return number
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        raise AssertionError(f"no trial began to train: {process.communicate()}")

    def close(self) -> None:
        """Ends the processes that still run."""
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.communicate()


def _in_training(database: Path) -> int | None:
    """The running trial that has trained for at least one epoch, if there is one."""
    query = """
        SELECT trials.number FROM trials JOIN trial_user_attributes AS attribute
        ON attribute.trial_id = trials.trial_id
        WHERE trials.state = 'RUNNING' AND attribute.key = 'curve'
        AND attribute.value_json LIKE '{"epoch"%'
    """
    try:
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            row = connection.execute(query).fetchone()
    except sqlite3.OperationalError:  # not there yet
        return None
    return None if row is None else int(row[0])


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    """A shell in an empty folder."""
    shell = Shell(folder=tmp_path)
    yield shell
    shell.close()


Cli = Callable[..., Result]


@pytest.fixture
def cli(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Cli]:
    """Runs ``hpsearch`` in this process, in the test's folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("GOMP_SPINCOUNT", "0")
    for name in ("OMP_WAIT_POLICY", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "KMP_BLOCKTIME"):
        monkeypatch.setenv(name, os.environ.get(name, "1"))  # a run sets them: put back at the end
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")

    def call(*arguments: object) -> Result:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return Result(code=int(exit_.value.code or 0), out=out, err=err)

    yield call
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0))))


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A study of three trials that has run to its end, and what the command printed."""

    folder: Path
    study_file: Path
    database: Path
    result: Result


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, digits_npz: Path) -> Finished:
    """A finished study, to be read only: run once for all tests, as a process."""
    folder = tmp_path_factory.mktemp("finished")
    study_file, database = folder / "small.toml", folder / "hpsearch.db"
    study_file.write_text(SMALL.format(npz=digits_npz))
    shell = Shell(folder=folder)
    try:
        result = shell.run("run", study_file, "--threads", 1)
    finally:
        shell.close()
    return Finished(folder=folder, study_file=study_file, database=database, result=result)


@pytest.fixture
def copied(finished: Finished, tmp_path: Path) -> Finished:
    """A copy of the finished study, to be changed, in the test's folder."""
    _copy_database(finished.database, tmp_path / "hpsearch.db")
    return Finished(
        folder=tmp_path,
        study_file=Path(shutil.copy(finished.study_file, tmp_path)),
        database=tmp_path / "hpsearch.db",
        result=finished.result,
    )


def _copy_database(source: Path, target: Path) -> None:
    with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(target)) as new:
        old.backup(new)


@pytest.fixture(scope="session")
def begun(tmp_path_factory: pytest.TempPathFactory, digits_npz: Path) -> Path:
    """The folder of a study of two trials of a second or two each, of which none is finished."""
    folder = tmp_path_factory.mktemp("begun")
    study_file, database = folder / "slow.toml", folder / "hpsearch.db"
    study_file.write_text(SLOW.format(npz=digits_npz))
    options = ("--threads", "1", "--timeout", "0.001s", "--storage", str(database))
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["run", str(study_file), *options])
    return folder


@pytest.fixture
def slow_study(begun: Path, tmp_path: Path) -> Path:
    """The file of that study, in the test's folder, beside its database."""
    _copy_database(begun / "hpsearch.db", tmp_path / "hpsearch.db")
    return Path(shutil.copy(begun / "slow.toml", tmp_path))
