"""A server that goes away: workers are cut off, are silent through no fault, or give up."""

import os
import signal
import threading
import time

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from hpsearch.core.trial import State
from hpsearch.errors import StorageError
from hpsearch.search.storage import retry
from hpsearch.search.storage import storage as storages
from hpsearch.search.storage.records import StudyStatus
from hpsearch.search.storage.retry import Outage
from hpsearch.search.storage.storage import open_storage
from hpsearch.search.study.catalog import open_study
from hpsearch.search.worker import work_loop
from hpsearch.search.worker.watchdog import listening
from hpsearch.search.worker.work_loop import StopSignal, heartbeats
from tests.integration import studies
from tests.integration.conftest import fresh_database
from tests.integration.search.study.test_leases import ELSEWHERE, fall_silent
from tests.servers import halt, own_server, restart, start


@pytest.fixture(scope="module")
def server():
    """A PostgreSQL server of these tests' own."""
    with own_server() as started:
        yield started


def test_a_worker_asleep_in_a_transaction_is_cut_off_and_goes_on(postgres, monkeypatch):
    """As a worker that is stopped while it holds the lock, which the server frees after a while."""
    storage = open_storage(fresh_database(postgres, f"sleepy_{time.time_ns()}"), create=True)
    study = studies.make_study(storage)
    slept = []

    def sleep_once(trial):
        if not slept:
            session = storage.sessions()
            limit = "SELECT set_config('idle_in_transaction_session_timeout', '100ms', true)"
            session.execute(text(limit))
            time.sleep(0.5)
            slept.append(trial)
        return made(trial)

    made = storage.backend.create_new_trial
    monkeypatch.setattr(storage.backend, "create_new_trial", sleep_once)
    lease = study.acquire(studies.origin())
    assert len(slept) == 1
    assert [record.number for record in study.records()] == [lease.number]
    storage.close()


def test_a_claim_that_is_cut_off_after_its_count_counts_again(postgres, monkeypatch):
    """Optuna makes a trial up to five times; by the second the lock is another worker's."""
    url = fresh_database(postgres, f"cut_{time.time_ns()}")
    first, second = open_storage(url, create=True), open_storage(url, create=True)
    study = studies.make_study(first, studies.make_spec(trials=1))
    claims = []

    def cut_off_once(study_id):
        if not claims:
            ours = first.sessions().execute(text("SELECT pg_backend_pid()")).scalar_one()
            with second.engine.begin() as connection:
                connection.execute(text(f"SELECT pg_terminate_backend({ours}, 10000)"))
            claims.append(open_study(second).acquire(studies.origin()))
        return made(study_id)

    made = first.backend.create_new_trial
    monkeypatch.setattr(first.backend, "create_new_trial", cut_off_once)
    assert study.acquire(studies.origin()) is StudyStatus.BUSY
    assert [record.number for record in study.records()] == [claims[0].number]
    first.close()
    second.close()


def test_a_trial_is_one_whichever_answer_of_the_server_was_lost(storage, monkeypatch):
    """After each commit in turn the connection is lost: whether it was made is unknown."""
    spec = studies.make_spec(trials=100, sampler="random", pruner="none")
    study = studies.make_study(storage, spec)
    commit, commits, lost = storages._Session.commit, [], [0]

    def commit_and_be_cut_off(session):
        commit(session)
        if not session.joined:
            commits.append(session)
            if len(commits) == lost[-1]:
                raise OperationalError("COMMIT", {}, RuntimeError("lost, or locked"))

    def run_a_trial():
        commits.clear()
        lease = study.acquire(studies.origin())
        lease.hand_back()
        lease = study.acquire(studies.origin())
        lease.finish(studies.simulate(study, lease))
        return len(commits)

    monkeypatch.setattr(storages._Session, "commit", commit_and_be_cut_off)
    monkeypatch.setattr(Outage, "wait", lambda *_: None)
    made = run_a_trial()
    for place in range(1, made + 1):
        lost.append(place)
        assert run_a_trial() >= place
    assert [record.number for record in study.records()] == list(range(made + 1))
    assert {record.state for record in study.records()} == {State.COMPLETE}
    assert all(len(record.curve) == studies.EPOCHS for record in study.records())


class TestSilenceOfAll:
    """After a server was away for longer than a worker may be silent."""

    def test_a_worker_that_only_sent_heartbeats_takes_no_worker_for_gone(self, server):
        storage = open_storage(
            fresh_database(server.get_uri(), f"study_{time.time_ns()}"), create=True
        )
        study = studies.make_study(storage, studies.make_spec(trials=2))
        ours, others = study.acquire(studies.origin()), study.acquire(ELSEWHERE)
        fall_silent(study, others)
        storage.outage.back_at = None
        with heartbeats(ours, seconds=0.05):  # in the middle of a long epoch
            restart(server)
            time.sleep(0.3)
        ours.finish(studies.simulate(study, ours))
        assert study.acquire(studies.origin()) is StudyStatus.BUSY
        storage.close()

    def test_a_worker_that_starts_just_after_takes_no_worker_for_gone(self, server):
        url = fresh_database(server.get_uri(), f"study_{time.time_ns()}")
        storage = open_storage(url, create=True)
        study = studies.make_study(storage, studies.make_spec(trials=1))
        fall_silent(study, study.acquire(ELSEWHERE))
        storage.close()
        restart(server)
        opened = open_storage(url, create=True)
        assert studies.make_study(opened, study.spec).acquire(studies.origin()) is StudyStatus.BUSY
        opened.close()


class TestGivingUp:
    """Ctrl-C while a server is waited for."""

    @pytest.fixture
    def away(self, server, monkeypatch):
        """Opens a study on a server that is away for much longer than a test waits."""
        opened = []

        def open_away(gives_up):
            url = fresh_database(server.get_uri(), f"study_{time.time_ns()}")
            opened.append(open_storage(url, create=True, gives_up=gives_up))
            study = studies.make_study(opened[0])
            halt(server)
            return study

        monkeypatch.setattr(retry, "AWAY_SECONDS", 30.0)
        yield open_away
        start(server)
        opened[0].close()

    @pytest.fixture
    def stop(self):
        """Hears a Ctrl-C that is typed in half a second."""
        stop = StopSignal(raises=False)
        self.typed = threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT))
        with listening(stop):
            yield stop
            self.typed.join()

    def test_it_is_heard_while_nothing_else_is(self, away, stop):
        study = away(stop.is_signalled)
        self.typed.start()
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            study.records()
        assert time.monotonic() - began < 15

    def test_a_worker_grants_the_server_a_while_to_hand_its_trial_back(
        self, away, stop, monkeypatch
    ):
        monkeypatch.setattr(work_loop, "FINISH_SECONDS", 2.0)
        study = away(stop.gives_up)
        self.typed.start()
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            study.records()
        assert 2 < time.monotonic() - began < 15

    def test_time_that_is_up_is_no_such_hurry(self, away, monkeypatch):
        monkeypatch.setattr(retry, "AWAY_SECONDS", 1.0)
        monkeypatch.setattr(work_loop, "FINISH_SECONDS", 0.0)
        stop = StopSignal(raises=False)
        stop.start_clock(0.0)
        assert stop()
        study = away(stop.gives_up)
        with pytest.raises(StorageError, match="lost postgresql://"):
            study.records()
