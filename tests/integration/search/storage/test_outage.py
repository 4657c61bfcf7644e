"""A server that goes away: workers are cut off, are silent through no fault, or give up."""

import os
import signal
import threading
import time

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg as PGDialect
from sqlalchemy.exc import DBAPIError, OperationalError

from hpsearch.core.trial import State
from hpsearch.errors import StorageError
from hpsearch.search.storage import postgres as pg
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
from tests.proxy import proxy
from tests.servers import PATIENCE_SECONDS, halt, own_server, restart, start

TRIALS = 12
CUTTING = threading.Barrier(4)


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
    """After each commit in turn the connection is lost: whether it was made is unknown.

    Keeps the promise "A request that is repeated …" of docs/workers.md.
    """
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
    # Each worker found its own trial again, which no worker has lost.
    assert {record.attributes["origin"]["starts"] for record in study.records()} == {2}
    for record in study.records():
        assert [passage["ended"] for passage in record.attributes["history"]] == ["handed back"]


def _search_through(url):
    storage = open_storage(url, create=True)
    study = studies.make_study(storage, studies.make_spec(trials=TRIALS, pruner="none"))
    CUTTING.wait()  # a command that cannot open its database ends at once
    while (ended := studies.search(study)) is StudyStatus.BUSY:
        time.sleep(0.05)
    assert ended is StudyStatus.DONE
    storage.close()


def test_a_network_that_cuts_connections_loses_no_worker(postgres, monkeypatch):
    """Each worker's own attempts, of which some were stored and not answered, are its own."""
    url = fresh_database(postgres, f"cuts_{time.time_ns()}")
    monkeypatch.setattr(retry, "_LONGEST_PAUSE", 0.5)
    with proxy(url) as network:
        threads = [threading.Thread(target=_search_through, args=(network.url,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        CUTTING.wait()
        network.cut_share = 0.01  # of the messages: every third or fourth request
        for thread in threads:
            thread.join(PATIENCE_SECONDS)
        assert network.cuts > 10
    storage = open_storage(url, create=False)
    records = open_study(storage).records()
    assert [(r.number, r.state) for r in records] == [(n, State.COMPLETE) for n in range(TRIALS)]
    assert not any(record.attributes.get("history") for record in records)
    storage.close()


class TestSilence:
    """A network that keeps its connections and forwards nothing."""

    @pytest.fixture
    def network(self, postgres, monkeypatch):
        """A proxy before an empty database of the server; silence is an outage after a second."""
        monkeypatch.setattr(pg, "ANSWER_SECONDS", 1.0)
        with proxy(fresh_database(postgres, f"silent_{time.time_ns()}")) as opened:
            yield opened

    def test_a_statement_ends_and_is_repeated_when_the_network_is_back(self, network, caplog):
        storage = open_storage(network.url, create=True)
        study = studies.make_study(storage)
        network.hang()
        back = threading.Timer(3, network.flow)
        back.start()
        lease = study.acquire(studies.origin())
        assert not network.is_hanging
        assert "away (the server sent no answer for 1 s); retrying" in caplog.text
        assert [record.number for record in study.records()] == [lease.number]
        back.join()
        storage.close()

    def test_it_ends_in_two_minutes_wherever_it_begins(self, network, monkeypatch):
        """Here in a second, after so many bytes of the answers to one command.

        Keeps the promise "A server that accepts connections …" of docs/workers.md.
        """
        monkeypatch.setattr(retry, "AWAY_SECONDS", 1.0)
        storage = open_storage(network.url, create=True)
        studies.make_study(storage)
        storage.close()
        for place in (0, 400, 3_000, 6_000):
            network.hang_after_bytes = place
            with pytest.raises(StorageError, match=r"no answer|timeout expired"):
                self._look_for_ever(f"{network.url}?connect_timeout=2")
            assert network.is_hanging
            network.drop()
            network.flow()

    def _look_for_ever(self, url, *, gives_up=lambda: False):
        storage = open_storage(url, create=False, gives_up=gives_up)
        try:
            while True:
                open_study(storage).records()
        finally:
            storage.close()

    @pytest.mark.parametrize("place", [0, 3_000, 9_000], ids=["connecting", "opening", "asking"])
    def test_giving_up_needs_no_answer(self, network, monkeypatch, place):
        monkeypatch.setattr(pg, "ANSWER_SECONDS", PATIENCE_SECONDS)
        storage = open_storage(network.url, create=True)
        studies.make_study(storage)
        storage.close()
        network.hang_after_bytes = place
        with pytest.raises(KeyboardInterrupt):
            self._look_for_ever(
                f"{network.url}?connect_timeout={PATIENCE_SECONDS}",
                gives_up=lambda: network.is_hanging,
            )

    def test_a_heartbeat_of_a_run_that_gives_up_only_fails(self, network):
        storage = open_storage(network.url, create=True, gives_up=lambda: network.is_hanging)
        lease = studies.make_study(storage).acquire(studies.origin())
        failed = []

        def beat():
            try:
                lease.beat()
            except OperationalError as exc:
                failed.append(exc)

        network.hang()
        thread = threading.Thread(target=beat)
        thread.start()
        thread.join(PATIENCE_SECONDS)
        assert "no answer" in str(failed)
        network.drop()
        network.flow()
        storage.close()


class TestLimits:
    """What the server ends by itself."""

    def test_they_hold_for_each_transaction_and_not_for_the_next_user_of_its_connection(
        self, postgres
    ):
        """Keeps the promise "Every transaction limits itself …" of docs/workers.md."""
        storage = open_storage(postgres, create=True)
        names = ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout")

        def limits(connection):
            return [connection.exec_driver_sql(f"SHOW {name}").scalar() for name in names]

        with storage.transaction() as session:
            assert limits(session.connection()) == ["20s", "2min", "1min"]
        with storage.engine.connect() as connection:  # as Optuna reads trials
            assert limits(connection) == ["20s", "2min", "1min"]
            connection.rollback()
            driver = connection.connection.driver_connection
            assert [driver.execute(f"SHOW {name}").fetchone()[0] for name in names] == ["0"] * 3
        storage.close()

    def test_a_lock_is_waited_for_longer_than_the_server_waits(self, postgres, monkeypatch):
        monkeypatch.setitem(pg._LIMITS, "lock_timeout", "100ms")
        url = fresh_database(postgres, f"locked_{time.time_ns()}")
        first, second = open_storage(url, create=True), open_storage(url, create=True)
        taken = []

        def take():
            with second.lock():
                taken.append(second)

        with first.lock():
            waiting = threading.Thread(target=take)
            waiting.start()
            waiting.join(0.5)
            assert not taken
        waiting.join(PATIENCE_SECONDS)
        assert taken
        monkeypatch.setattr(storages, "LOCK_SECONDS", 0.2)
        with first.lock(), pytest.raises(StorageError, match="lock that another process holds"):
            take()
        first.close()
        second.close()


def test_a_server_that_is_read_only_for_a_while_is_waited_for(postgres, caplog):
    """As the standby of a cluster, until it has taken the place of the server that failed."""
    url = fresh_database(postgres, f"failover_{time.time_ns()}")
    name = url.partition("?")[0].rpartition("/")[2]
    storage = open_storage(url, create=True)
    study = studies.make_study(storage)

    def set_read_only(value):
        with psycopg.connect(postgres, autocommit=True) as server:
            server.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = {value}")

    set_read_only("on")
    storage.close()  # a failover ends all connections
    promoted = threading.Timer(1, set_read_only, ["off"])
    promoted.start()
    lease = study.acquire(studies.origin())
    promoted.join()
    assert "in a read-only transaction); retrying" in caplog.text
    assert [record.number for record in study.records()] == [lease.number]
    storage.close()


@pytest.mark.parametrize(
    ("code", "passes"),
    [
        ("57P01", True),  # shut down by its administrator
        ("57P02", True),  # restarted after a crash
        ("57P03", True),  # is starting up, shutting down, or in recovery
        ("25006", True),  # a standby
        ("08006", True),
        ("53300", True),  # too many connections
        ("55P03", True),
        ("42P01", False),  # no such table
        ("42501", False),  # no permission
        ("23505", False),
    ],
)
def test_which_answers_of_a_server_mean_that_it_comes_back(code, passes):
    answer = psycopg.errors.lookup(code)("the server's words")
    error = DBAPIError.instance("SELECT 1", {}, answer, psycopg.Error, dialect=PGDialect())
    assert retry.may_pass(error, is_sqlite=False) is passes


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
        """Keeps the promise "Ctrl-C ends any wait for the database …" of docs/workers.md."""
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
