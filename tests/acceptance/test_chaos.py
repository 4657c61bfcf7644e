"""Fifty trials under fire: workers killed and stopped in mid-trial, a server and a network gone.

``HPSEARCH_CHAOS_CUT`` is for how many seconds the network is cut (default 5).
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from hpsearch.core.trial import Epoch, State, TrialRecord
from hpsearch.errors import HpsearchError
from hpsearch.search.storage.storage import open_storage
from hpsearch.search.study.catalog import open_study
from hpsearch.search.study.study import Study
from tests.acceptance.conftest import PATIENCE_SECONDS
from tests.acceptance.holding import HELD, TINY_SPACE
from tests.killing import kill_while
from tests.proxy import proxy
from tests.servers import own_server, restart

TRIALS, EPOCHS, KILLS = 50, 30, 8
APART = 5  # trials that are completed from one kill to the next, at whatever pace
CUT_SECONDS = float(os.environ.get("HPSEARCH_CHAOS_CUT", "5"))
# A stopped worker's trial is taken sooner in a short test. Each worker imports this training.
IMPATIENT = (
    ""
    if CUT_SECONDS > 60
    else """
from hpsearch.search.storage import retry
from hpsearch.search.study import leases

leases.STALE_SECONDS, retry._SETTLE_SECONDS = 25.0, 12.5  # a heartbeat comes every 10 s
"""
)
BEFORE, AFTER, IN = "before its first epoch", "after a checkpoint", "in training"

CHAOS = (
    """
[data]
dataset = "{npz}"

[train]
epochs = {epochs}
function = "held:train"

[search]
trials = {trials}
sampler = "random"
"""
    + TINY_SPACE
)


@dataclass(kw_only=True)
class Marksman:
    """Kills workers that are in a trial, and records which and where."""

    study: Study
    artifacts: Path
    hits: list[tuple[int, int]] = field(default_factory=list)  # trial number, pid
    stopped: tuple[int, int] | None = None  # trial number, pid
    kept: dict[int, Epoch] = field(default_factory=dict)  # first epochs that checkpoints held

    def hit_one(self, wanted: str) -> bool:
        """Kills a worker before its trial's first epoch, after a checkpoint, or any; whether.

        A server may have got more from it by then than it has answered; that was no hit.
        """
        for record in self.study.records():
            pid = record.attributes.get("origin", {}).get("process", {}).get("pid")
            if record.state is not State.RUNNING or not pid or not self._is_it(record, wanted):
                continue
            if self.stopped is not None and pid == self.stopped[1]:
                continue
            if not kill_while(pid, partial(self._still, record.number, pid, wanted)):
                continue
            epochs = self._epochs_at_death(record.number, pid)
            if epochs is not None and (epochs == 0) == (wanted == BEFORE):
                if wanted == AFTER:
                    self.kept[record.number] = record.curve[0]
                self.hits.append((record.number, pid))
                return True
        return False

    def stop_one(self) -> bool:
        """Stops a worker that holds its trial before the first epoch, outside transactions."""
        for record in self.study.records():
            pid = record.attributes.get("origin", {}).get("process", {}).get("pid")
            if record.state is State.RUNNING and pid and record.cost:
                os.kill(pid, signal.SIGSTOP)
                self.stopped = record.number, pid
                return True
        return False

    def let_stopped_go(self) -> bool:
        """Lets the stopped worker go on, once another one has its trial; whether."""
        assert self.stopped is not None
        number, pid = self.stopped
        history = self.study.record(number).attributes.get("history", [])
        if not any(p["pid"] == pid and p["ended"] == "worker lost" for p in history):
            return False
        os.kill(pid, signal.SIGCONT)  # it believes that the trial is its own
        self.hits.append(self.stopped)
        return True

    def _epochs_at_death(self, number: int, pid: int) -> int | None:
        """The epochs that the trial had when its worker died; None if it had ended."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            record = self.study.record(number)
            for passage in record.attributes.get("history", []):
                if passage["pid"] == pid:
                    return int(passage["epochs"])
            if record.state is State.COMPLETE:
                return None
            assert time.monotonic() < deadline, "a dead worker's trial is not taken from it"
            time.sleep(0.02)

    def _still(self, number: int, pid: int, wanted: str) -> bool:
        record = self.study.record(number)
        if record.state is not State.RUNNING or not self._is_it(record, wanted):
            return False
        return bool(record.attributes["origin"]["process"]["pid"] == pid)

    def _is_it(self, record: TrialRecord, wanted: str) -> bool:
        if wanted == BEFORE:
            return not record.curve
        if wanted == AFTER:
            path = self.artifacts / self.study.checkpoint_key(record.number)
            with suppress(FileNotFoundError):
                return bool(record.curve) and path.stat().st_size > 0
            return False
        return bool(record.curve)


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_every_trial_is_run_to_its_end_exactly_once(kind, shell, tmp_path, digits_npz, monkeypatch):
    """Keeps the promise "Even if workers crash …" of README.

    Keeps the promise "Even if workers crash …" of docs/workers.md.
    Keeps the promise "(A test kills eight workers …" of docs/workers.md.
    """
    study_file = tmp_path / "chaos.toml"
    study_file.write_text(CHAOS.format(npz=digits_npz, trials=TRIALS, epochs=EPOCHS))
    (tmp_path / "held.py").write_text(HELD + IMPATIENT)
    shell.hold(after=0)
    monkeypatch.setenv("HPSEARCH_ARTIFACTS", str(tmp_path / "shared"))
    with _database(kind, tmp_path) as (url, server, network):
        monkeypatch.setenv("HPSEARCH_STORAGE", url if network is None else network.url)
        process = shell.start("run", study_file, "--workers", 4, "--threads", 1)
        study = _opened(url, process)
        marksman = Marksman(study=study, artifacts=tmp_path / "shared")
        shell.wait_until(marksman.stop_one, process=process)
        _shoot(marksman, [BEFORE], shell, process)
        shell.let_go()
        _shoot(marksman, [AFTER, IN], shell, process)
        if server is not None:
            restart(server)
        _shoot(marksman, [IN], shell, process)
        if network is not None:
            network.refuse()
            time.sleep(CUT_SECONDS)
            network.flow()
        _shoot(marksman, [IN] * (KILLS - 5), shell, process)
        shell.wait_until(marksman.let_stopped_go, process=process)
        _end(shell.wait(process), TRIALS)
        _run_last_trial(marksman, study_file, shell)
        _assert_whole(study, marksman.hits)
        for number, epoch in marksman.kept.items():  # trained again it would take another time
            assert study.record(number).curve[0] == epoch
        assert marksman.kept
        study.storage.close()
    assert list((tmp_path / "shared").iterdir()) == []


@contextmanager
def _database(kind, folder):
    """An empty database: its URL, its server, and the network in front of that."""
    if kind == "sqlite":
        yield f"sqlite:///{folder}/chaos.db", None, None
        return
    with own_server() as server, proxy(server.get_uri()) as network:
        yield server.get_uri(), server, network


def _run_last_trial(marksman, study_file, shell):
    """Runs one trial more, whose worker is killed when no other trial is left to run."""
    shell.hold(after=1)
    options = ("--trials", TRIALS + 1, "--workers", 4, "--threads", 1)
    process = shell.start("run", study_file, *options)
    shell.wait_until(lambda: marksman.hit_one(IN), process=process)
    shell.let_go()
    _end(shell.wait(process), TRIALS + 1)


def _end(result, total):
    assert result.code == 0, result.err
    assert f"{total} of {total} trials" in result.out


def _shoot(marksman, aims, shell, process):
    study = marksman.study
    for aim in aims:
        due = len(marksman.hits) * APART
        shell.wait_until(lambda due=due: study.summary().complete >= due, process=process)
        shell.wait_until(lambda aim=aim: marksman.hit_one(aim), process=process)


def _opened(url, process) -> Study:
    while process.poll() is None:
        with suppress(HpsearchError):  # not there yet
            storage = open_storage(url, create=False)
            try:
                return open_study(storage)
            except HpsearchError:
                storage.close()
        time.sleep(0.2)
    raise AssertionError(process.communicate())


def _assert_whole(study: Study, hits) -> None:
    records = study.records()
    assert [r.number for r in records] == list(range(len(records)))
    complete = [r for r in records if r.state is State.COMPLETE]
    assert len(complete) == TRIALS + 1
    # A trial that lost three workers before its first epoch is failed for it, and refunded.
    kinds = {r.attributes["failure"]["kind"] for r in records if r not in complete}
    assert kinds <= {"lost", "killed"}
    assert len({str(sorted(r.params.items())) for r in records}) == len(records)
    for record in complete:
        assert [epoch.epoch for epoch in record.curve] == list(range(1, EPOCHS + 1))
    assert len(hits) == KILLS + 1  # and the one that was stopped
    for number, pid in hits:
        history = records[number].attributes["history"]
        assert pid in [passage["pid"] for passage in history]
        assert records[number].attributes["origin"]["starts"] > 1
    gained = [p["epochs"] for r in records for p in r.attributes.get("history", [])]
    assert 0 in gained
    assert max(gained) > 0
