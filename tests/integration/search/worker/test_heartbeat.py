"""The file that a worker touches as a sign of life, for a container's health check."""

import os
import time
from contextlib import closing

import psycopg
import pytest
from sqlalchemy import text

from hpsearch.search.storage.records import StudyStatus
from hpsearch.search.storage.storage import open_storage
from hpsearch.search.worker.work_loop import ALIVE, StopSignal, heartbeats, touch_alive_file, work
from tests.integration.conftest import fresh_database
from tests.integration.studies import EPOCHS, curve_of, make_spec, make_study, origin

PATIENCE_SECONDS = 600


@pytest.fixture
def alive(tmp_path, monkeypatch):
    """The file to touch, which is not there yet."""
    monkeypatch.setenv(ALIVE, str(tmp_path / "alive"))
    return tmp_path / "alive"


@pytest.fixture
def study(sqlite):
    """A study of one trial."""
    return make_study(sqlite, make_spec("quick", trials=1))


def test_a_running_trial_shows_life_again_and_again(study, alive):
    """Keeps the promise "Workers send a heartbeat every 10 s" of docs/workers.md."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    with heartbeats(study.acquire(origin()), seconds=0.01):
        for _ in range(2):
            while not alive.exists():
                assert time.monotonic() < deadline
                time.sleep(0.01)
            alive.unlink()


def test_a_sign_of_life_that_the_database_did_not_take_is_none(study, alive, caplog):
    lease = study.acquire(origin())
    with study.storage.engine.begin() as connection:
        connection.execute(text("ALTER TABLE trial_user_attributes RENAME TO gone"))
    deadline = time.monotonic() + PATIENCE_SECONDS
    with heartbeats(lease, seconds=0.01):
        while "no heartbeat of trial" not in caplog.text:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert not alive.exists()


def test_a_heartbeat_says_for_how_long_a_training_has_stood_still(study):
    idle, lease = [75.4], study.acquire(origin())
    deadline = time.monotonic() + PATIENCE_SECONDS

    def stored():
        return study.record(0).attributes.get("idle")

    with heartbeats(lease, idle=lambda: idle[0], seconds=0.01):
        for seconds, expected in ((75.4, 75), (59.9, 0)):
            idle[0] = seconds
            while stored() != expected:
                assert time.monotonic() < deadline
                time.sleep(0.01)


def test_a_heartbeat_of_a_training_that_makes_steps_writes_the_time_alone(study, alive):
    deadline = time.monotonic() + PATIENCE_SECONDS
    with heartbeats(study.acquire(origin()), idle=lambda: 59.9, seconds=0.01):
        while not alive.exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert "idle" not in study.record(0).attributes


def test_a_worker_that_waits_for_work_shows_life(study, alive):
    study.acquire(origin())  # the only one, so others wait
    stop = StopSignal()
    stop.start_clock(0.01)
    assert (
        work(study, pytest.fail, origin=origin(), observer=None, stop=stop) is StudyStatus.TIMED_OUT
    )
    assert alive.exists()


def test_no_file_is_touched_without_a_path_or_permission(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(ALIVE, raising=False)
    touch_alive_file()
    monkeypatch.setenv(ALIVE, "")
    touch_alive_file()
    monkeypatch.setenv(ALIVE, "no/such/folder")
    touch_alive_file()
    assert os.listdir() == []


def test_a_worker_has_two_connections(postgres):
    """Keeps the promise "Each worker keeps two connections …" of docs/workers.md."""
    url = fresh_database(postgres, "connections")
    counted = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'connections'"
    with (
        closing(open_storage(url, create=True)) as storage,
        psycopg.connect(postgres, autocommit=True) as other,
    ):
        lease = make_study(storage, make_spec(trials=1)).acquire(origin())
        seen = []
        with heartbeats(lease, seconds=0.01):
            for epochs in range(1, EPOCHS + 1):
                lease.write_epoch(curve_of(lease)[:epochs])
                seen.append(other.execute(counted).fetchone()[0])
            # The training's thread keeps its connection busy, so the heartbeat needs another.
            with storage.transaction() as session:
                session.execute(text("SELECT 1"))
                until = time.monotonic() + PATIENCE_SECONDS
                while seen[-1] < 2 and time.monotonic() < until:
                    time.sleep(0.02)
                    seen.append(other.execute(counted).fetchone()[0])
    assert max(seen) == 2
