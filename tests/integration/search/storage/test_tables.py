"""What hpsearch writes into Optuna's tables itself, held against what Optuna writes."""

import threading
import uuid
from datetime import datetime, timedelta

import optuna
import pytest
import sqlalchemy
from optuna.trial import TrialState

from hpsearch.core.space import draw
from hpsearch.core.trial import Outcome, State
from hpsearch.errors import StorageError
from hpsearch.search import samplers
from hpsearch.search.storage import tables
from hpsearch.search.storage.records import StudyStatus
from hpsearch.search.storage.storage import open_storage
from tests.integration import studies
from tests.integration.conftest import fresh_database
from tests.integration.search.study.test_leases import ELSEWHERE, fall_silent

ATTRIBUTES = {"curve": {"epoch": [1, 2], "val_loss": [0.5, 0.25]}, "reason": "Grüße, 'x'"}
ORIGIN = {"claim": "0123456789abcdef0123456789abcdef", "starts": 1}


@pytest.fixture
def study(storage):
    return studies.make_study(storage, studies.make_spec(trials=9))


def running(study):
    """A trial of Optuna's own that a lease of ours has."""
    trial = study.handle.ask()
    trial.set_user_attr("origin", ORIGIN)
    return trial


def told(study, trial_id):
    """A trial as Optuna reads it, without the fields that differ between any two trials."""
    frozen = study.storage.backend.get_trial(trial_id)
    assert frozen.datetime_start <= frozen.datetime_complete
    own = ("number", "_trial_id", "datetime_start", "datetime_complete")
    return {key: value for key, value in vars(frozen).items() if key.lstrip("_") not in own} | {
        "values": frozen.values,
        "_trial_id": None,
    }


def test_optuna_reads_a_trial_as_if_it_had_written_it(study):
    theirs, ours = running(study), running(study)
    drawn = [
        ("learning_rate", 0.01, optuna.distributions.FloatDistribution(1e-4, 1.0, log=True)),
        ("n_blocks", 3.0, optuna.distributions.IntDistribution(1, 5)),
        ("optimizer", 1.0, optuna.distributions.CategoricalDistribution(("sgd", "adam"))),
    ]
    backend = study.storage.backend
    for key, value in ATTRIBUTES.items():
        theirs.set_user_attr(key, value)
    for name, value, kind in drawn:
        backend.set_trial_param(theirs._trial_id, name, value, kind)
    backend.set_trial_intermediate_value(theirs._trial_id, 1, 0.5)
    study.handle.tell(theirs, [0.5, 1.0])

    with study.storage.transaction() as session:
        tables.put(session, ours._trial_id, ATTRIBUTES)
        tables.put_params(session, ours._trial_id, drawn)
        tables.put_step(session, ours._trial_id, 1, 0.5)
        tables.put_step(session, ours._trial_id, 1, 0.75)  # the first stays
        tables.end(session, ours._trial_id, TrialState.COMPLETE, [0.5, 1.0], ordered=False)

    assert told(study, ours._trial_id) == told(study, theirs._trial_id)


def test_only_an_owner_overwrites_its_rows(study):
    trial_id, token = running(study)._trial_id, ORIGIN["claim"]
    stranger = token[::-1]
    with study.storage.transaction() as session:
        assert tables.put_as_owner(session, trial_id, {"a": 1, "b": 2}, token=token)
    with study.storage.transaction() as session:
        assert tables.put_as_owner(session, trial_id, {"a": 3}, token=token)
        assert not tables.put_as_owner(session, trial_id, {"a": 4}, token=stranger)
        assert not tables.beat(session, trial_id, token=stranger)
    kept = study.storage.backend.get_trial(trial_id).user_attrs
    assert kept == {"origin": ORIGIN, "a": 3, "b": 2}


def test_a_sign_of_life_is_by_the_databases_clock(study):
    trial_id, before = running(study)._trial_id, studies.database_time(study)
    with study.storage.transaction() as session:
        assert tables.beat(session, trial_id, token=ORIGIN["claim"])
    beat = study.storage.backend.get_trial(trial_id).user_attrs["beat"]
    assert before - 1 <= beat <= studies.database_time(study) + 1  # one clock has whole seconds


@pytest.fixture
def served(postgres):
    """A study on a server, which workers of several hosts share."""
    url = fresh_database(postgres, f"clocks_{uuid.uuid4().hex[:8]}")
    storage = open_storage(url, create=True)
    storage.outage.back_at = None  # the server may have started a moment ago
    yield studies.make_study(storage, studies.make_spec(pruner="none", max_failures=5))
    storage.close()


def test_failures_in_a_row_are_ordered_by_the_servers_clock(served, monkeypatch):
    class Ahead(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + timedelta(minutes=10)

    with monkeypatch.context() as host:
        host.setattr(tables, "datetime", Ahead)
        host.setattr("optuna.storages._rdb.storage.datetime", Ahead)
        studies.search(served, at_most=1)
        served.acquire(studies.origin()).hand_back()
        taken_up = served.acquire(studies.origin())
    failed = Outcome(state=State.FAILED, reason="bug: x")
    taken_up.finish(failed)
    for _ in range(4):
        served.acquire(studies.origin()).finish(failed)
    assert served.acquire(studies.origin()) is StudyStatus.FAILING
    now = datetime.fromtimestamp(studies.database_time(served))
    for record in served.records():
        assert now - timedelta(minutes=5) < record.started <= record.ended <= now


def test_a_trial_that_is_given_up_ends_by_the_servers_clock(served, monkeypatch):
    for _ in range(3):
        fall_silent(served, served.acquire(ELSEWHERE))
    monkeypatch.setattr("optuna.storages._rdb.storage.datetime", None)  # asks no host
    served.reap()
    lost = served.record(0)
    now = datetime.fromtimestamp(studies.database_time(served))
    assert (lost.state, lost.started <= lost.ended <= now) == (State.FAILED, True)


@pytest.mark.parametrize("taken", ["origin", "state"])
def test_a_trial_that_is_given_away_while_its_worker_waits_to_write_is_lost_to_it(study, taken):
    """On PostgreSQL the waiting statement would go by the trial as it was when it began."""
    trial_id, wrote = running(study)._trial_id, []

    def late():
        with study.storage.transaction() as session:
            wrote.append(tables.put_as_owner(session, trial_id, {"a": 1}, token=ORIGIN["claim"]))
        study.storage.sessions.remove()

    worker = threading.Thread(target=late)
    with study.storage.transaction(trial=trial_id) as session:
        if taken == "state":
            study.storage.backend.set_trial_state_values(trial_id, TrialState.WAITING)
        else:
            tables.put(session, trial_id, {"origin": {"claim": "another's"}})
        session.flush()
        worker.start()
        worker.join(0.5)
        assert worker.is_alive()
    worker.join(600)
    assert wrote == [False]
    assert "a" not in study.storage.backend.get_trial(trial_id).user_attrs


@pytest.mark.parametrize("name", ["tpe", "nsga2", "random", "qmc"])
def test_values_are_drawn_as_optunas_own_trial_draws_them(sqlite, name):
    """Not gp: its proposals differ from call to call with one seed (optuna 5.0)."""
    spec = studies.make_spec(trials=20, sampler=name, pruner="none")
    study = studies.make_study(sqlite, spec)
    studies.search(study)
    number = len(study.records())

    def drawing():
        study.handle.sampler = samplers.make_sampler(spec, number, cell=None, alone=True)
        return study.handle.ask()

    trial = drawing()
    ours, writes = samplers.sample(
        study.handle, study.storage.backend.get_trial(trial._trial_id), spec
    )
    study.handle.sampler = samplers.make_sampler(spec, number, cell=None, alone=True)
    theirs = draw(spec.space, lambda key, dim: trial._suggest(key, samplers.distribution(dim)))

    assert ours == theirs
    stored = study.storage.backend.get_trial(trial._trial_id)
    assert [write[0] for write in writes] == list(stored.params)


def test_tables_that_another_optuna_made_are_refused_and_missing_ones_are_made(storage_url):
    """They are checked by Optuna itself unless they are all there, and of its version."""
    opened = open_storage(storage_url, create=True)
    studies.make_study(opened)
    with opened.engine.begin() as connection:
        connection.execute(sqlalchemy.text("DROP TABLE trial_heartbeats"))
    opened.close()

    again = open_storage(storage_url, create=False)
    assert "trial_heartbeats" in sqlalchemy.inspect(again.engine).get_table_names()
    with again.engine.begin() as connection:
        connection.execute(sqlalchemy.text("UPDATE alembic_version SET version_num = 'v9.0.0.a'"))
    again.close()

    with pytest.raises(StorageError, match=r"optuna version .* is no longer compatible"):
        open_storage(storage_url, create=False)
