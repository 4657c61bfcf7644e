"""The command line, as a process and in this process, and a finished study to look at."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest

from hpsearch.cli.main import main
from tests.acceptance.browser import Browser, browsing
from tests.acceptance.holding import HELD, TINY_SPACE

PATIENCE_SECONDS = 600  # how long a process may take to get anywhere on a busy machine

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

SLOW = (
    """
[data]
dataset = "{npz}"

[train]
epochs = 10
function = "held:train"

[search]
trials = 2
"""
    + TINY_SPACE
)


Found = TypeVar("Found")


@dataclass(frozen=True, kw_only=True)
class Result:
    """The result of a command: its exit code, stdout and stderr."""

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

    def hear(self, process: subprocess.Popen[str]) -> str:
        """Waits until the process says something on stderr; returns its line, empty at the end."""
        assert process.stderr is not None
        ready, _, _ = select.select([process.stderr], [], [], PATIENCE_SECONDS)
        assert ready, "it says nothing"
        return process.stderr.readline()

    def hold(self, *, after: int = 2) -> None:
        """Has the trainings of studies that name ``held:train`` wait after so many epochs."""
        (self.folder / f"hold-{after}").touch()

    def let_go(self) -> None:
        """Lets them go on."""
        for file in self.folder.glob("hold-*"):
            file.unlink()

    def wait_until(
        self, find: Callable[[], Found], *, process: subprocess.Popen[str] | None = None
    ) -> Found:
        """Waits until something is found, while the process runs that is to bring it about."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (found := find()):
            ended = process is not None and process.poll() is not None
            assert not ended, process.communicate()
            assert time.monotonic() < deadline, "it did not come to that"
            time.sleep(0.02)
        return found

    def wait_for_training(self, process: subprocess.Popen[str]) -> int:
        """Waits until the process is in the middle of a training; returns the trial's number.

        Only while trainings are held is it certain to be there still when something is done to it.
        """
        database = self.folder / "hpsearch.db"
        return self.wait_until(lambda: _in_training(database), process=process)[0]

    def close(self) -> None:
        """Ends the processes that still run."""
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.communicate()


def assert_one_line(result: Result, *words: str) -> None:
    """The complaint is one line on stderr that holds the words; stdout holds nothing."""
    assert result.code == 2, result
    assert result.out == ""
    assert len(result.err.splitlines()) == 1, result.err
    assert result.err.startswith("hpsearch: ")
    assert "Traceback" not in result.err
    for word in words:
        assert word in result.err


def sites_in(said: str) -> list[str]:
    """The sites that dashboards say that they are at; they listen by then."""
    ports = re.findall(r"at http://(?:127\.0\.0\.1|0\.0\.0\.0):(\d+)/dashboard", said)
    return [f"http://127.0.0.1:{port}" for port in ports]


def _in_training(database: Path) -> list[int]:
    """The numbers of the running trials that have trained for at least one epoch."""
    query = """
        SELECT trials.number FROM trials JOIN trial_user_attributes AS attribute
        ON attribute.trial_id = trials.trial_id
        WHERE trials.state = 'RUNNING' AND attribute.key = 'curve'
        AND attribute.value_json LIKE '{"epoch"%'
    """
    try:
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            return [int(number) for (number,) in connection.execute(query)]
    except sqlite3.OperationalError:  # not there yet
        return []


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
    monkeypatch.setattr(sys, "path", [*sys.path])  # a run looks for custom code

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
    """A study of three trials that has run to its end, and the output of the command."""

    folder: Path
    study_file: Path
    database: Path
    result: Result


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser for all pages of a test module."""
    with browsing() as started:
        yield started


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
    copy_database(finished.database, tmp_path / "hpsearch.db")
    return Finished(
        folder=tmp_path,
        study_file=Path(shutil.copy(finished.study_file, tmp_path)),
        database=tmp_path / "hpsearch.db",
        result=finished.result,
    )


def copy_database(source: Path, target: Path) -> None:
    """Copies an SQLite file, with what is still in its write-ahead log."""
    with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(target)) as new:
        old.backup(new)


@pytest.fixture(scope="session")
def begun(tmp_path_factory: pytest.TempPathFactory, digits_npz: Path) -> Path:
    """The folder of a study of two trials that can be held, of which none is begun."""
    folder = tmp_path_factory.mktemp("begun")
    study_file, database = folder / "slow.toml", folder / "hpsearch.db"
    study_file.write_text(SLOW.format(npz=digits_npz))
    (folder / "held.py").write_text(HELD)
    options = ("--threads", "1", "--timeout", "0.000001s", "--storage", str(database))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path])
        with pytest.raises(SystemExit, match=r"^0$"):
            main(["run", str(study_file), *options])
    return folder


@pytest.fixture
def slow_study(begun: Path, tmp_path: Path) -> Path:
    """The file of that study, in the test's folder, beside its database and its training."""
    copy_database(begun / "hpsearch.db", tmp_path / "hpsearch.db")
    shutil.copy(begun / "held.py", tmp_path)
    return Path(shutil.copy(begun / "slow.toml", tmp_path))
